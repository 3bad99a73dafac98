//! `check`: configuration, cluster, every repository, and the way of WAL between them.

use super::stanza_create::all_or_error;
use crate::context::Context;
use crate::host::source;
use crate::output;
use crate::repositories::repository_set;
use crate::runtime::block_on;
use crate::settings::CheckRequest;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::ids::RepoKey;
use pgconvoy_worker::stanza::Check;
use std::process::ExitCode;

pub fn run(_context: &Context, requests: &[CheckRequest]) -> Result<ExitCode, Failure> {
    for request in requests {
        let source = source(&request.stanza, request.options.db_timeout, "check")?;
        let set = repository_set(&request.repos, request.options.io_timeout)?;
        let keys: Vec<RepoKey> = request.repos.iter().map(|repo| repo.key).collect();
        let check = Check {
            set: &set,
            repositories: &keys,
            stanza: &request.stanza.name,
            source: &source,
            archive_check: request.options.archive_check,
            archive_mode_check: request.options.archive_mode_check,
            archive_timeout: request.options.archive_timeout,
        };
        let results = block_on(check.run())??;
        let mut failures = Vec::new();
        for (key, result) in results {
            match result {
                Ok(()) => tracing::info!("stanza {}: repo {key} is in order", request.stanza.name),
                Err(failure) => failures.push(failure),
            }
        }
        all_or_error(keys.len(), failures)?;
    }
    output::text("")
}
