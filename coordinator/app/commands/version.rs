//! `version`: which program this is, and under pgBackRest's name, which interface it speaks.

use crate::args::{VersionArgs, VersionOutput};
use crate::output;
use pgconvoy_core::failure::Failure;
use std::process::ExitCode;

/// The release whose commands, options and JSON are spoken.
const PGBACKREST_VERSION: &str = "2.58.0";

/// `program` is the name under which it was called.
pub fn run(program: &str, args: &VersionArgs) -> Result<ExitCode, Failure> {
    let (name, version) = match program {
        "pgbackrest" => ("pgBackRest", PGBACKREST_VERSION),
        _ => ("pgconvoy", env!("CARGO_PKG_VERSION")),
    };
    match args.output {
        VersionOutput::Text => output::text(&format!("{name} {version}\n")),
        VersionOutput::Num => output::text(&format!("{}\n", number(version))),
    }
}

/// As pgBackRest counts: a million for each major version, a thousand for each minor one.
fn number(version: &str) -> u32 {
    let parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or_default());
    parts.zip([1_000_000, 1_000, 1]).map(|(part, weight)| part * weight).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_version_orders_as_versions_do() {
        assert_eq!(number(PGBACKREST_VERSION), 2_058_000);
        assert_eq!(number("0.1.0"), 1_000);
        assert!(number("2.9.1") < number("2.10.0"));
    }
}
