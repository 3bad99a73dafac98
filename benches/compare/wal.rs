//! WAL segments of a real load, and pushing them one after another, as PostgreSQL's archiver does.

use crate::contender::Contender;
use crate::stage::Stage;
use crate::support::{Program, Result, files};
use pgconvoy_core::pg::WalSegmentName;
use std::path::{Path, PathBuf};

/// Segments with such names, oldest first. Names after the current one are of recycled files, which hold older WAL.
pub(crate) fn segments(pg_wal: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let mut found = files::walk(pg_wal)?;
    found.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.parse::<WalSegmentName>().is_ok() && wanted(&name)
    });
    Ok(found)
}

/// A shell that pushes each of them.
pub(crate) fn push(stage: &Stage, contender: Contender, segments: &[PathBuf]) -> Result<Program> {
    let words = stage.words(contender).join(" ");
    let mut script = String::from("set -e\n");
    for segment in segments {
        script.push_str(&format!("{words} archive-push {}\n", segment.display()));
    }
    Ok(Program::new("sh")?.arg("-s").stdin_text(&script)?.current_dir(stage.cluster().data()))
}
