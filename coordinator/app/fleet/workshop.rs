//! What this program tells a coordinator of its fleet: what a job's options mean by the configuration, and with what it is done.

use crate::args::{Command, as_typed};
use crate::commands::backup;
use crate::context::{Context, Current};
use crate::repositories::repository_set;
use crate::settings::{BackupRequest, InfoRequest, RepoSyncRequest, RestoreRequest, VerifyRequest};
use pgconvoy_coordinator::shared::{WORKER_OPTION, named_workers};
use pgconvoy_coordinator::workshop::{PlaceFacts, Places, Tools, Workshop};
use pgconvoy_core::config::RepoConfig;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::{Epoch, RepoKey, StanzaName, WorkerName};
use pgconvoy_core::job::{JobKind, JobOptions};
use pgconvoy_core::machine::backup::{BackupSpec, Outcome};
use pgconvoy_core::record::JobRecord;
use pgconvoy_repository::RepositorySet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a backup waits for its source's worker to come back: a restart of its host, and a DBA who looks why.
const SOURCE_PATIENCE: Duration = Duration::from_secs(10 * 60);
const PATH_OPTION: &str = "pg-path";

/// The commands, by the configuration of a coordinator's host.
pub struct CommandWorkshop {
    current: Arc<Current>,
    /// Of which configuration they are.
    places: Mutex<Option<(Arc<Context>, Arc<Places>)>>,
}

impl CommandWorkshop {
    pub fn new(current: Arc<Current>) -> CommandWorkshop {
        CommandWorkshop { current, places: Mutex::default() }
    }

    fn backup(&self, stanza: &StanzaName, options: &JobOptions) -> Result<BackupRequest, Failure> {
        let (context, command) = of_job(&self.current.get(), JobKind::Backup, stanza, options)?;
        match command {
            Command::Backup(args) => BackupRequest::new(&context, &args),
            other => Err(not_that(&other)),
        }
    }

    fn verify(&self, stanza: &StanzaName, options: &JobOptions) -> Result<VerifyRequest, Failure> {
        let (context, command) = of_job(&self.current.get(), JobKind::Verify, stanza, options)?;
        match command {
            Command::Verify(args) => VerifyRequest::new(&context, &args),
            other => Err(not_that(&other)),
        }
    }

    fn sync(&self, stanza: &StanzaName, options: &JobOptions) -> Result<RepoSyncRequest, Failure> {
        let (context, command) = of_job(&self.current.get(), JobKind::RepoSync, stanza, options)?;
        match command {
            Command::RepoSync(args) => RepoSyncRequest::for_job(&context, &args),
            other => Err(not_that(&other)),
        }
    }
}

/// A job as if it had been typed here.
pub(super) fn of_job(
    context: &Context,
    kind: JobKind,
    stanza: &StanzaName,
    options: &JobOptions,
) -> Result<(Context, Command), Failure> {
    let typed = as_typed(kind, options)?;
    Ok((context.for_job(stanza, &typed), typed.command))
}

pub(super) fn not_that(command: &Command) -> Failure {
    Failure::new(ErrorCode::Assert, format!("command '{}' is no job of that kind", command.name()))
}

/// What a configuration names.
fn places_of(context: &Context) -> Result<Places, Failure> {
    let request = InfoRequest::of_all(context)?;
    let set = repository_set(&request.repos, &request.options)?;
    let facts = |repo: &RepoConfig| PlaceFacts {
        key: repo.key,
        kind: repo.kind.repo_type().to_string(),
        description: set.describe(repo.key),
        layout: repo.layout.to_string(),
        is_required: repo.required,
    };
    let stanzas = context.config.stanzas.values();
    Ok(Places {
        repositories: request.repos.iter().map(facts).collect(),
        stanzas: stanzas.map(|stanza| (stanza.name.clone(), stanza.repos.clone())).collect(),
        set,
    })
}

impl Workshop for CommandWorkshop {
    fn places(&self) -> Result<Arc<Places>, Failure> {
        let context = self.current.get();
        let mut known = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, places)) = known.as_ref()
            && Arc::ptr_eq(of, &context)
        {
            return Ok(places.clone());
        }
        let places = Arc::new(places_of(&context)?);
        *known = Some((context, places.clone()));
        Ok(places)
    }

    fn may_serve(&self, worker: &WorkerName, stanza: &StanzaName) -> Result<(), Failure> {
        let context = self.current.get();
        let configured = context.config.stanzas.get(stanza);
        let is_given = configured.is_some_and(|stanza| {
            stanza.pg.iter().any(|pg| pg.host.as_ref().is_none_or(|host| host == worker))
        });
        if is_given {
            return Ok(());
        }
        let message = format!(
            "worker {worker} offers data of stanza {stanza}, which the configuration here does not give to it"
        );
        Err(Failure::new(ErrorCode::Access, message).hint(format!(
            "add [[stanza.{stanza}.pg]] with host = \"{worker}\" to the coordinators' configuration"
        )))
    }

    fn check(
        &self,
        kind: JobKind,
        stanza: &StanzaName,
        options: &JobOptions,
    ) -> Result<Vec<RepoKey>, Failure> {
        match kind {
            JobKind::Backup => {
                let request = self.backup(stanza, options)?;
                Ok(request.repos.iter().map(|repo| repo.key).collect())
            }
            JobKind::Verify => self.verify(stanza, options).map(|_| Vec::new()),
            JobKind::RepoSync => {
                let request = self.sync(stanza, options)?;
                Ok(vec![request.from.key, request.to.key])
            }
            JobKind::Restore => check_restore(&self.current.get(), stanza, options).map(|()| Vec::new()),
        }
    }

    fn looked_at(
        &self,
        kind: JobKind,
        stanza: &StanzaName,
        options: &JobOptions,
    ) -> Result<Arc<RepositorySet>, Failure> {
        if kind == JobKind::RepoSync {
            let request = self.sync(stanza, options)?;
            return repository_set(&[request.from, request.to], &request.options);
        }
        let request = self.verify(stanza, options)?;
        repository_set(&request.repos, &request.options)
    }

    fn spec(&self, record: &JobRecord, epoch: Epoch) -> Result<BackupSpec, Failure> {
        let request = self.backup(&record.stanza, &record.options)?;
        Ok(BackupSpec {
            source_patience_ms: u64::try_from(SOURCE_PATIENCE.as_millis()).unwrap_or(u64::MAX),
            ..backup::spec(&request, record.id.0, epoch)
        })
    }

    fn tools(&self, stanza: &StanzaName, options: &JobOptions) -> Result<Tools, Failure> {
        let request = self.backup(stanza, options)?;
        Ok(Tools {
            repositories: repository_set(&request.all_repos, &request.options)?,
            archive_timeout: request.options.archive_timeout,
        })
    }

    fn result(&self, record: &JobRecord, outcome: &Outcome, took: Duration) -> Option<String> {
        outcome.label.map(|_| backup::as_json(&record.stanza, outcome, took).to_string())
    }
}

/// Where it goes is for the worker's configuration to say, unless the job does.
fn check_restore(context: &Context, stanza: &StanzaName, options: &JobOptions) -> Result<(), Failure> {
    if options.values(WORKER_OPTION).is_empty() {
        let failure =
            Failure::new(ErrorCode::OptionRequired, "a job that restores requires option: --worker");
        return Err(failure.hint("name the worker on whose host the data directory is to be"));
    }
    named_workers(options)?;
    let mut options = options.clone();
    if options.values(PATH_OPTION).is_empty() {
        options.set(PATH_OPTION, vec!["/".to_owned()]);
    }
    match of_job(context, JobKind::Restore, stanza, &options)? {
        (context, Command::Restore(args)) => RestoreRequest::new(&context, &args).map(|_| ()),
        (_, other) => Err(not_that(&other)),
    }
}

#[cfg(test)]
mod tests;
