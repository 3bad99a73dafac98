//! `verify`: reads everything that is stored, and exits 0 only if all of it is well.

mod advice;

use super::stanza_create::all_or_error;
use crate::args::Output;
use crate::host::cores;
use crate::output;
use crate::repositories::open_all;
use crate::runtime::{block_on, terminated};
use crate::settings::VerifyRequest;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::RepoKey;
use pgconvoy_repository::verify::{
    RepoVerification, StanzaVerification, VerifyOptions, VerifyProgress, to_json, to_text, verify,
};
use serde_json::Value;
use std::process::ExitCode;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

pub fn run(request: &VerifyRequest) -> Result<ExitCode, Failure> {
    let verified = block_on(async {
        let cancel = CancellationToken::new();
        tokio::select! {
            verified = verified(request, cancel.clone()) => verified,
            failure = terminated() => {
                cancel.cancel();
                Err(failure)
            }
        }
    })??;
    match request.output {
        Output::Json => output::json(&verified.to_json())?,
        Output::Text => output::text(&to_text(std::slice::from_ref(&verified.stanza)))?,
    };
    verified.verdict().map(|()| ExitCode::SUCCESS)
}

/// What could be concluded, and the repositories about which nothing could.
pub struct Verified {
    stanza: StanzaVerification,
    unreadable: Vec<(RepoKey, Failure)>,
    /// Repositories that were to be read.
    total: usize,
}

impl Verified {
    pub fn to_json(&self) -> Value {
        to_json(std::slice::from_ref(&self.stanza))
    }

    /// How the command ends.
    pub fn verdict(&self) -> Result<(), Failure> {
        let damage: Vec<String> = self
            .stanza
            .repositories
            .iter()
            .filter(|repository| self.unreadable.iter().all(|(key, _)| *key != repository.key))
            .flat_map(RepoVerification::errors)
            .map(|finding| format!("repo {}: {}: {}", finding.repository, finding.object, finding.reason))
            .collect();
        let Some((first, rest)) = damage.split_first() else {
            let failures = self.unreadable.iter().cloned();
            let failures = failures.map(|(key, failure)| failure.context(format!("repo {key}"))).collect();
            return all_or_error(self.total, failures);
        };
        rest.iter().for_each(|error| tracing::error!("{error}"));
        let message = match rest.len() {
            0 => first.clone(),
            more => format!("{first} (and {more} more)"),
        };
        let advice = advice::advice(&self.stanza.conclusions(), self.total);
        Err(advice.into_iter().fold(Failure::new(ErrorCode::Checksum, message), Failure::hint))
    }
}

/// Reads it all, until it is told to stop.
pub async fn verified(request: &VerifyRequest, cancel: CancellationToken) -> Result<Verified, Failure> {
    let options = VerifyOptions { set: request.set, process_max: request.options.slots(cores()), cancel };
    let mut repositories = Vec::new();
    let mut unreadable = Vec::new();
    let mut without = Vec::new();
    let mut without_set = None;
    for (key, opened) in open_all(&request.repos, &request.options).await? {
        let verified = match opened {
            Ok(repository) => verify(repository, &request.stanza, &options, Arc::new(note)).await,
            Err(failure) => Err(failure),
        };
        match verified {
            Ok(verified) => repositories.push(verified),
            Err(failure) if failure.code == ErrorCode::Term => return Err(failure),
            Err(failure) if failure.code == ErrorCode::BackupSetInvalid => {
                without.push(key);
                without_set = Some(failure);
            }
            Err(failure) => {
                repositories.push(RepoVerification::failed(key, &format!("repo {key}"), &failure));
                unreadable.push((key, failure));
            }
        }
    }
    match without_set {
        Some(failure) if repositories.is_empty() => Err(failure),
        _ => {
            let stanza = StanzaVerification { name: request.stanza.to_string(), repositories, without };
            Ok(Verified { stanza, unreadable, total: request.repos.len() })
        }
    }
}

fn note(progress: VerifyProgress) {
    tracing::debug!(
        "{}: {} of {}, {} bytes read",
        progress.what,
        progress.done,
        progress.total,
        progress.bytes
    );
}
