//! A backup makes itself known in a repository: plan, heartbeats, and a look for others that do the same.
//!
//! What is to be thought of them is decided in core (`contest`); here it is carried out.
//!
//! Failure story: a process that dies in here leaves a plan without packs, which the next backup gives up like any other.

use crate::actors::backup::now;
use crate::prepare::process_runs;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::format::plan::{HeartbeatBody, PlanBody};
use pgconvoy_core::ids::{RepoKey, StanzaName};
use pgconvoy_core::machine::backup::contest::{Contest, contest};
use pgconvoy_repository::{Repository, RepositoryError, RepositorySet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often a running backup shows other hosts that it lives.
pub(crate) const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);
/// How long the earlier of two backups waits for the later one to withdraw: time for a plan, a listing and a void record
/// in a slow store.
const CONTEST_PATIENCE: Duration = Duration::from_secs(30);
const CONTEST_POLL: Duration = Duration::from_millis(250);

/// Returns when the plan is written and nobody else backs up the stanza there. The heartbeat beats until `stop`.
pub(crate) async fn announce(
    set: &RepositorySet,
    repository: RepoKey,
    stanza: &StanzaName,
    plan: PlanBody,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let opened = set.open(repository).await?;
    opened.write_plan(stanza, &plan).await?;
    // From here on somebody else could wonder whether its writer lives.
    let beating = beat(opened.clone(), stanza.clone(), plan.clone());
    tokio::spawn(async move { stop.run_until_cancelled(beating).await });
    if opened.is_void(stanza, plan.label).await? {
        // Of an unfinished label that this backup goes on with, somebody else has not seen that.
        return Err(opened.busy(plan.label, None).into());
    }
    Ok(settle_with_rivals(&opened, stanza, &plan).await?)
}

async fn settle_with_rivals(
    repository: &Repository,
    stanza: &StanzaName,
    plan: &PlanBody,
) -> Result<(), RepositoryError> {
    let begin = Instant::now();
    loop {
        let begun = repository.undecided(stanza).await?;
        let is_out_of_patience = begin.elapsed() >= CONTEST_PATIENCE;
        match contest(plan.label, &begun, &plan.writer, process_runs, is_out_of_patience) {
            Contest::Clear => return Ok(()),
            Contest::Wait(rival) => {
                tracing::debug!("backup {} waits for {} to withdraw", plan.label, rival.label);
                tokio::time::sleep(CONTEST_POLL).await;
            }
            Contest::Withdraw(rival) => {
                let reason = format!("backup {} was begun at the same time", rival.label);
                let record = Repository::void_record(plan.label, &reason, &plan.writer, now());
                repository.give_up(stanza, record).await?;
                return Err(repository.busy(rival.label, rival.writer()));
            }
        }
    }
}

async fn beat(repository: Arc<Repository>, stanza: StanzaName, plan: PlanBody) {
    let mut interval = tokio::time::interval(HEARTBEAT_INTERVAL);
    // Beyond those of an earlier leader of the same backup: watchers look at the newest name.
    let intervals_so_far = now().0.max(0) / i64::try_from(HEARTBEAT_INTERVAL.as_millis()).unwrap_or(i64::MAX);
    let mut sequence = u64::try_from(intervals_so_far).unwrap_or_default();
    loop {
        interval.tick().await;
        let heartbeat = HeartbeatBody { writer: plan.writer.clone(), sequence };
        if let Err(error) = repository.beat(&stanza, plan.label, plan.number, &heartbeat).await {
            // One that is missing is no proof of death; the packs will tell whether the repository is gone.
            tracing::debug!("a heartbeat of {} was not written: {error}", plan.label);
        }
        sequence += 1;
    }
}
