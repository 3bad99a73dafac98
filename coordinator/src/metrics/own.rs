//! `pgconvoy_*`: what there is of this coordinator, its fleet and the repositories. Pure: values in, families out.

use super::text::Page;
use crate::jobs::JobView;
use crate::registry::{WorkerState, WorkerView};
use crate::survey::{Report, Standing};
use pgconvoy_core::ids::Epoch;
use pgconvoy_core::job::{JobKind, JobState};
use pgconvoy_core::units::Timestamp;
use std::collections::BTreeMap;

/// Of this coordinator by itself.
pub(super) struct Here {
    pub(super) name: String,
    pub(super) leads: bool,
    pub(super) streams: usize,
    pub(super) streams_max: usize,
}

pub(super) struct Fleet<'a> {
    pub(super) epoch: Epoch,
    pub(super) jobs: &'a [JobView],
    /// Each with the units that it has in hand.
    pub(super) workers: &'a [(WorkerView, u32)],
}

/// Exact up to 2^53, as far as Prometheus goes.
#[allow(clippy::cast_precision_loss, reason = "Prometheus has no other numbers")]
pub(super) fn number(value: u64) -> f64 {
    value as f64
}

fn count(value: usize) -> f64 {
    number(value as u64)
}

#[allow(clippy::cast_precision_loss, reason = "Prometheus has no other numbers")]
pub(super) fn seconds(time: Timestamp) -> f64 {
    time.0 as f64 / 1_000.0
}

pub(super) fn of_coordinator(page: &mut Page, here: &Here) {
    page.gauge("pgconvoy_build_info", "The version that runs.")
        .sample([("version", env!("CARGO_PKG_VERSION"))], 1.0);
    page.gauge("pgconvoy_coordinator_leader", "1 on the coordinator that leads the fleet.")
        .sample([("coordinator", &here.name)], f64::from(u8::from(here.leads)));
    page.gauge("pgconvoy_event_streams", "Streams of events that are open here.")
        .sample([], count(here.streams));
    page.gauge("pgconvoy_event_streams_max", "Beyond so many, streams are refused.")
        .sample([], count(here.streams_max));
}

pub(super) fn of_fleet(page: &mut Page, fleet: &Fleet<'_>) {
    page.gauge("pgconvoy_leader_epoch", "Which leadership this is: it grows with each change.")
        .sample([], number(fleet.epoch.0));
    let workers = page.gauge("pgconvoy_workers", "Workers by state.");
    for state in [WorkerState::Up, WorkerState::Draining, WorkerState::Lost] {
        let here = fleet.workers.iter().filter(|(view, _)| view.state == state).count();
        workers.sample([("state", state.name())], count(here));
    }
    let up = page.gauge("pgconvoy_worker_up", "1 for a worker that is up.");
    for (view, _) in fleet.workers {
        up.sample([("worker", view.name.as_str())], f64::from(u8::from(view.state == WorkerState::Up)));
    }
    let slots = page.gauge("pgconvoy_worker_slots", "Units that a worker does at a time.");
    for (view, _) in fleet.workers {
        slots.sample([("worker", view.name.as_str())], f64::from(view.slots));
    }
    let busy = page.gauge("pgconvoy_worker_busy", "Units that a worker has in hand.");
    for (view, units) in fleet.workers {
        busy.sample([("worker", view.name.as_str())], f64::from(*units));
    }
    of_jobs(page, fleet.jobs);
    of_running_jobs(page, fleet.jobs);
}

const UNDER_WAY: [JobState; 4] = [JobState::Queued, JobState::Running, JobState::Paused, JobState::Draining];

fn of_jobs(page: &mut Page, jobs: &[JobView]) {
    let by_state = page.gauge("pgconvoy_jobs", "Jobs that wait or run, by kind and state.");
    for kind in JobKind::ALL {
        for state in UNDER_WAY {
            let such = |view: &&JobView| view.record.kind == kind && view.record.state == state;
            by_state.sample(
                [("kind", kind.name()), ("state", state.name())],
                count(jobs.iter().filter(such).count()),
            );
        }
    }
    let mut last: BTreeMap<(&str, JobKind), &JobView> = BTreeMap::new();
    for view in jobs.iter().filter(|view| view.record.finished.is_some()) {
        let known = last.entry((view.record.stanza.as_str(), view.record.kind)).or_insert(view);
        if view.record.finished > known.record.finished {
            *known = view;
        }
    }
    let status = page.gauge("pgconvoy_job_last_success", "1 if the last job of that kind ended well.");
    for ((stanza, kind), view) in &last {
        let is_well = view.record.state == JobState::Done;
        status.sample([("stanza", stanza), ("kind", kind.name())], f64::from(u8::from(is_well)));
    }
    let ended =
        page.gauge("pgconvoy_job_last_end_timestamp_seconds", "When the last job of that kind ended.");
    for ((stanza, kind), view) in &last {
        if let Some(finished) = view.record.finished {
            ended.sample([("stanza", stanza), ("kind", kind.name())], seconds(finished));
        }
    }
}

/// Sums of the running jobs of one kind and stanza, of which there is one at most if they are backups.
#[derive(Default)]
struct Running {
    done: u64,
    leased: u64,
    pending: u64,
    retried: u64,
    doubled: u64,
    bytes_done: u64,
    bytes_total: u64,
    rate: u64,
    eta: Option<f64>,
}

fn of_running_jobs(page: &mut Page, jobs: &[JobView]) {
    let mut sums: BTreeMap<(&str, &'static str), Running> = BTreeMap::new();
    for view in jobs.iter().filter(|view| view.record.state.is_under_way()) {
        let Some(progress) = &view.progress else { continue };
        let sum = sums.entry((view.record.stanza.as_str(), view.record.kind.name())).or_default();
        sum.done += u64::from(progress.units_done);
        sum.leased += u64::from(progress.units_held);
        let taken = progress.units_done.saturating_add(progress.units_held);
        sum.pending += u64::from(progress.units_total.saturating_sub(taken));
        sum.retried += u64::from(progress.units_retried);
        sum.doubled += u64::from(progress.units_doubled);
        sum.bytes_done += progress.bytes_done;
        sum.bytes_total += progress.bytes_total;
        sum.rate += view.rate;
        sum.eta = view.eta.map(|eta| eta.as_secs_f64()).or(sum.eta);
    }
    let units = page.gauge("pgconvoy_job_units", "Units of running jobs, by state.");
    for ((stanza, kind), sum) in &sums {
        for (state, value) in [("pending", sum.pending), ("leased", sum.leased), ("done", sum.done)] {
            units.sample([("stanza", stanza), ("kind", kind), ("state", state)], number(value));
        }
    }
    let mut each = |name, help, value: fn(&Running) -> Option<f64>| {
        let family = page.gauge(name, help);
        for ((stanza, kind), sum) in &sums {
            if let Some(value) = value(sum) {
                family.sample([("stanza", stanza), ("kind", kind)], value);
            }
        }
    };
    each("pgconvoy_job_units_retried", "Units that were begun again.", |sum| Some(number(sum.retried)));
    each("pgconvoy_job_units_doubled", "Units that two workers were at, as the first one was slow.", |sum| {
        Some(number(sum.doubled))
    });
    each("pgconvoy_job_done_bytes", "Planned bytes of the units that are done.", |sum| {
        Some(number(sum.bytes_done))
    });
    each("pgconvoy_job_planned_bytes", "Planned bytes of all units.", |sum| Some(number(sum.bytes_total)));
    each("pgconvoy_job_rate_bytes", "Bytes a second, lately.", |sum| Some(number(sum.rate)));
    each("pgconvoy_job_eta_seconds", "Until all units are done, as things go.", |sum| sum.eta);
}

pub(super) fn of_repositories(page: &mut Page, report: &Report, now: Timestamp) {
    let up = page.gauge("pgconvoy_repository_up", "1 if the repository could be read.");
    for place in report.repositories.iter().filter(|place| place.standing != Standing::Unknown) {
        let is_well = place.standing == Standing::Well;
        up.sample([("repo_key", &place.facts.key.to_string())], f64::from(u8::from(is_well)));
    }
    let age = page.gauge("pgconvoy_repository_read_age_seconds", "How old what is told of a repository is.");
    for place in &report.repositories {
        if let Some(at) = place.as_of {
            age.sample([("repo_key", &place.facts.key.to_string())], (seconds(now) - seconds(at)).max(0.0));
        }
    }
    let mut each = |name, help, value: fn(&Newest, Timestamp) -> Option<f64>| {
        let family = page.gauge(name, help);
        for newest in newest(report) {
            if let Some(value) = value(&newest, now) {
                family.sample([("stanza", newest.stanza), ("repo_key", &newest.repository)], value);
            }
        }
    };
    each("pgconvoy_backup_last_end_timestamp_seconds", "When the newest backup was whole.", |newest, _| {
        newest.ended.map(seconds)
    });
    each("pgconvoy_backup_age_seconds", "Since the newest backup was whole.", |newest, now| {
        newest.ended.map(|ended| (seconds(now) - seconds(ended)).max(0.0))
    });
    each("pgconvoy_backup_last_page_errors", "Bad page checksums in the newest backup.", |newest, _| {
        newest.page_errors.map(number)
    });
    each(
        "pgconvoy_recoverable_until_timestamp_seconds",
        "The last moment that the archive allows to recover to, where that is known.",
        |newest, _| newest.until.map(seconds),
    );
}

/// A stanza in one repository.
struct Newest<'a> {
    stanza: &'a str,
    repository: String,
    ended: Option<Timestamp>,
    page_errors: Option<u64>,
    until: Option<Timestamp>,
}

fn newest(report: &Report) -> Vec<Newest<'_>> {
    let each = report.info.stanzas.iter().flat_map(|stanza| {
        stanza.repositories.iter().map(|repository| {
            let last = repository.backups.iter().map(|backup| &backup.record).max_by_key(|one| one.stopped);
            Newest {
                stanza: &stanza.name,
                repository: repository.key.to_string(),
                ended: last.map(|last| last.stopped),
                page_errors: last.map(|last| last.pages.errors),
                until: repository.pitr.iter().filter_map(|range| range.until).max(),
            }
        })
    });
    each.collect()
}
