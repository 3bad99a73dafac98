//! `man`: a man page in roff, of the program or of one command.

use super::help;
use crate::args::ManArgs;
use crate::output;
use pgconvoy_core::failure::{ErrorCode, Failure};
use std::process::ExitCode;

pub fn run(args: &ManArgs) -> Result<ExitCode, Failure> {
    let (command, _) = help::find(&args.topic)?;
    let mut page = Vec::new();
    clap_mangen::Man::new(command)
        .render(&mut page)
        .map_err(|error| Failure::new(ErrorCode::Assert, format!("cannot render the man page: {error}")))?;
    output::bytes(&page)
}
