//! `repo-get`: one object, opened.

use crate::output::stdout_writer;
use crate::repositories::repository_set;
use crate::runtime::block_on;
use crate::settings::RepoGetRequest;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_repository::browse::{BrowseError, Content, get};
use std::io::Write;
use std::process::ExitCode;

/// With `--ignore-missing` an object that is not there is no error, but this.
const MISSING: u8 = 1;

pub fn run(request: &RepoGetRequest) -> Result<ExitCode, Failure> {
    block_on(async {
        let set = repository_set(std::slice::from_ref(&request.repo), &request.options)?;
        let repository = set.open(request.repo.key).await?;
        let content = if request.raw { Content::Raw } else { Content::Decoded };
        let mut out = stdout_writer();
        match get(&repository, &request.path, content, &mut out).await {
            Err(BrowseError::Missing { .. }) if request.ignore_missing => return Ok(ExitCode::from(MISSING)),
            other => other?,
        }
        out.flush().map_err(|error| {
            Failure::new(ErrorCode::FileWrite, format!("cannot write to stdout: {error}"))
        })?;
        Ok(ExitCode::SUCCESS)
    })?
}
