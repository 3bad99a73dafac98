//! `stanza-create`: makes the stanza in every repository, and the repository too where there is none yet. Idempotent.

use crate::context::Context;
use crate::host::{now, source};
use crate::output;
use crate::repositories::repository_set;
use crate::runtime::block_on;
use crate::settings::StanzaCreateRequest;
use pgconvoy_core::config::CipherType;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::RepoKey;
use pgconvoy_worker::stanza::{Made, create, identify};
use std::process::ExitCode;

pub fn run(_context: &Context, request: &StanzaCreateRequest) -> Result<ExitCode, Failure> {
    let source = source(&request.stanza, request.options.db_timeout, "stanza-create")?;
    let set = repository_set(&request.repos, &request.options)?;
    let keys: Vec<RepoKey> = request.repos.iter().map(|repo| repo.key).collect();
    let results = block_on(async {
        let control = identify(&source, request.online, request.force).await?;
        create(&set, &keys, &request.stanza.name, &control, now()).await
    })??;
    let mut failures = Vec::new();
    for (key, result) in results {
        match result {
            Ok(made) => {
                let what = match made {
                    Made::WithRepository => "repository and stanza created",
                    Made::New => "stanza created",
                    Made::WasThere => "stanza is there already",
                };
                tracing::info!("repo {key}: {what}");
                let encrypted =
                    request.repos.iter().any(|repo| repo.key == key && repo.cipher != CipherType::None);
                if made == Made::WithRepository && encrypted {
                    tracing::warn!(
                        "repo {key} is encrypted: whoever loses its key loses its backups. Keep a copy elsewhere"
                    );
                }
            }
            Err(failure) => failures.push(failure),
        }
    }
    all_or_error(request.repos.len(), failures)?;
    output::text("")
}

/// The first, with what the others say besides: it may only follow from one of them.
fn joined(mut failures: Vec<Failure>) -> Failure {
    let mut first = failures.remove(0);
    for other in failures {
        if !first.message.contains(&other.message) {
            first.message.push_str(&format!("; [{}] {}", other.code, other.message));
            first.hints.extend(other.hints);
        }
    }
    first.hints.dedup();
    first
}

/// One failure among several repositories is 104, so that scripts can tell it from none at all.
pub fn all_or_error(total: usize, failures: Vec<Failure>) -> Result<(), Failure> {
    if failures.len() < 2 && (failures.is_empty() || total == 1) || failures.len() == total {
        return match failures.is_empty() {
            true => Ok(()),
            false => Err(joined(failures)),
        };
    }
    let messages: Vec<String> =
        failures.iter().map(|one| format!("[{}] {}", one.code, one.message)).collect();
    let mut failure = Failure::new(ErrorCode::Command, messages.join("; "));
    failure.hints = failures.into_iter().flat_map(|one| one.hints).collect();
    failure.hints.dedup();
    Err(failure)
}
