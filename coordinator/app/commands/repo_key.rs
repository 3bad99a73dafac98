//! `repo-key`: keys of repositories.

use crate::args::RepoKeyCommand;
use crate::output;
use pgconvoy_core::failure::Failure;
use pgconvoy_repository::keys::create_key_file;
use std::io::{Write, stderr};
use std::path::Path;
use std::process::ExitCode;

pub fn run(command: &RepoKeyCommand) -> Result<ExitCode, Failure> {
    match command {
        RepoKeyCommand::Create { file } => create(file),
    }
}

fn create(file: &Path) -> Result<ExitCode, Failure> {
    let fingerprint = create_key_file(file)?;
    // What cannot be said is no reason to fail: the key is there.
    let _ = writeln!(
        stderr().lock(),
        "HINT: losing this file is losing the backups: keep a copy of '{}' where neither the database nor its backups are",
        file.display()
    );
    output::text(&format!("{fingerprint}\n"))
}
