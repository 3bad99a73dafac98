//! The fleet at a glance: stanzas, what runs, workers, repositories, what ended.
//!
//! [`FleetView::of`] makes values of what is known, and is pure; [`content`] makes markup of them.

mod markup;

pub(super) use markup::{content, parts};

use super::frame::{Sign, Tone};
use super::words;
use crate::jobs::JobView;
use crate::registry::{WorkerState, WorkerView};
use crate::survey::{Report, RepositoryReport, Standing};
use pgconvoy_core::job::{JobKind, JobState};
use pgconvoy_core::record::JobRecord;
use pgconvoy_core::units::Timestamp;
use pgconvoy_core::wire::ServerSeen;
use pgconvoy_repository::info::{BackupInfo, RepositoryInfo, StanzaInfo, StatusCode};
use std::collections::BTreeMap;

/// Jobs that are over which are shown.
const PAST_MAX: usize = 12;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct FleetView {
    pub(super) tiles: Vec<Tile>,
    pub(super) stanzas: Vec<StanzaRow>,
    pub(super) jobs: Vec<JobRow>,
    pub(super) past: Vec<JobRow>,
    pub(super) workers: Vec<WorkerRow>,
    pub(super) repositories: Vec<RepositoryRow>,
}

/// One figure that says whether all is well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tile {
    pub(super) name: &'static str,
    pub(super) figure: String,
    pub(super) sign: Sign,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct StanzaRow {
    pub(super) name: String,
    pub(super) sign: Sign,
    pub(super) last: Option<LastBackup>,
    /// How long ago the last moment was that can be recovered.
    pub(super) recoverable: Option<String>,
    pub(super) repositories: Vec<(String, Sign)>,
    pub(super) running: Option<JobRow>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LastBackup {
    pub(super) age: String,
    pub(super) at: String,
    pub(super) kind: &'static str,
    pub(super) label: String,
    pub(super) size: String,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct JobRow {
    pub(super) id: String,
    pub(super) kind: &'static str,
    pub(super) stanza: String,
    pub(super) sign: Sign,
    pub(super) label: Option<String>,
    pub(super) by: String,
    /// When it ended, or began, or was submitted.
    pub(super) when: String,
    pub(super) took: Option<String>,
    pub(super) units: (u64, u64),
    pub(super) bytes: (u64, u64),
    pub(super) rate: Option<String>,
    pub(super) eta: Option<String>,
    pub(super) limiting: Option<String>,
    pub(super) error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WorkerRow {
    pub(super) name: String,
    pub(super) sign: Sign,
    pub(super) busy: u64,
    pub(super) slots: u64,
    /// Stanza, and what its server is there.
    pub(super) serves: Vec<(String, &'static str)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RepositoryRow {
    pub(super) key: String,
    pub(super) place: String,
    pub(super) sign: Sign,
    pub(super) is_required: bool,
    pub(super) backups: u64,
    /// How old what is told of it is.
    pub(super) read: Option<String>,
    pub(super) trouble: Option<String>,
}

impl FleetView {
    pub(super) fn of(
        report: &Report,
        jobs: &[JobView],
        workers: &[(WorkerView, u32)],
        now: Timestamp,
    ) -> FleetView {
        let mut live: Vec<&JobView> = jobs.iter().filter(|view| !view.record.state.is_over()).collect();
        live.sort_by_key(|view| (view.record.state == JobState::Queued, view.record.created));
        let mut past: Vec<&JobView> = jobs.iter().filter(|view| view.record.state.is_over()).collect();
        past.sort_by_key(|view| std::cmp::Reverse((view.record.finished, view.record.created)));
        let last_ends = last_ends(&past);
        let row = |view: &&JobView| JobRow::of(view, now);
        let stanza = |stanza: &StanzaInfo| {
            let running = live.iter().find(|view| {
                view.record.stanza.as_str() == stanza.name
                    && view.record.kind == JobKind::Backup
                    && view.record.state.is_under_way()
            });
            StanzaRow::of(stanza, running.copied(), last_ends.get(stanza.name.as_str()).copied(), now)
        };
        let mut view = FleetView {
            tiles: Vec::new(),
            stanzas: report.info.stanzas.iter().map(stanza).collect(),
            jobs: live.iter().map(row).collect(),
            past: past.iter().take(PAST_MAX).map(row).collect(),
            workers: workers.iter().map(WorkerRow::of).collect(),
            repositories: report.repositories.iter().map(|place| repository(place, report, now)).collect(),
        };
        let rate = live.iter().map(|view| view.rate).sum();
        view.tiles = tiles(&view, rate);
        view.tiles.insert(1, oldest(report, now));
        view
    }
}

/// How the last backup of each stanza ended.
fn last_ends<'a>(past: &[&'a JobView]) -> BTreeMap<&'a str, &'a JobRecord> {
    let mut ends = BTreeMap::new();
    for record in past.iter().map(|view| &view.record).filter(|record| record.kind == JobKind::Backup) {
        ends.entry(record.stanza.as_str()).or_insert(record);
    }
    ends
}

/// Of the stanza that was not backed up for longest.
fn oldest(report: &Report, now: Timestamp) -> Tile {
    let read = report.info.stanzas.iter().filter(|stanza| !stanza.repositories.is_empty());
    let last = read.map(|stanza| (stanza.backups().last().map(|(_, backup)| backup.record.stopped), stanza));
    let (figure, sign) = match last.min_by_key(|(stopped, _)| *stopped) {
        None => ("–".to_owned(), Sign::new(Tone::Idle, "nothing read yet")),
        Some((None, stanza)) => ("none".to_owned(), Sign::new(Tone::Warn, stanza.name.clone())),
        Some((Some(stopped), stanza)) => {
            (words::age(stopped, now), Sign::new(Tone::Idle, stanza.name.clone()))
        }
    };
    Tile { name: "Oldest last backup", figure, sign }
}

fn tiles(view: &FleetView, rate: u64) -> Vec<Tile> {
    let (busy, slots) = view.workers.iter().fold((0, 0), |sum, row| (sum.0 + row.busy, sum.1 + row.slots));
    let running = view.jobs.iter().filter(|row| row.sign.tone == Tone::Work).count();
    let running_sign = match running {
        0 => Sign::new(Tone::Idle, "nothing runs"),
        _ => Sign::new(Tone::Work, words::rate(rate)),
    };
    vec![
        of_all("Stanzas", view.stanzas.iter().map(|row| &row.sign), "all well"),
        Tile { name: "Running", figure: words::count(running as u64), sign: running_sign },
        of_all("Workers", view.workers.iter().map(|row| &row.sign), &format!("{busy} of {slots} slots busy")),
        of_all("Repositories", view.repositories.iter().map(|row| &row.sign), "all readable"),
    ]
}

/// How many are as they should be; if not all, what the worst of the others is.
fn of_all<'a>(name: &'static str, signs: impl Iterator<Item = &'a Sign> + Clone, all_well: &str) -> Tile {
    let (well, all) = (signs.clone().filter(|sign| sign.tone <= Tone::Work).count(), signs.clone().count());
    let worst = signs.filter(|sign| matches!(sign.tone, Tone::Warn | Tone::Bad)).max_by_key(|sign| sign.tone);
    let sign = match worst {
        Some(worst) => worst.clone(),
        None if well < all => Sign::new(Tone::Idle, "not all are known yet"),
        None => Sign::new(Tone::Good, all_well),
    };
    Tile { name, figure: format!("{well} of {all}"), sign }
}

impl StanzaRow {
    fn of(
        stanza: &StanzaInfo,
        running: Option<&JobView>,
        last_end: Option<&JobRecord>,
        now: Timestamp,
    ) -> StanzaRow {
        let last = stanza.backups().last().map(|(_, backup)| LastBackup::of(backup, now));
        let until =
            stanza.repositories.iter().flat_map(|info| &info.pitr).filter_map(|range| range.until).max();
        StanzaRow {
            name: stanza.name.clone(),
            sign: stanza_sign(stanza, running, last_end),
            last,
            recoverable: until.map(|until| words::age(until, now)),
            repositories: stanza.repositories.iter().map(of_repository).collect(),
            running: running.map(|view| JobRow::of(view, now)),
        }
    }
}

/// What the worst of it is: an operator looks at this word first.
fn stanza_sign(stanza: &StanzaInfo, running: Option<&JobView>, last_end: Option<&JobRecord>) -> Sign {
    if let Some(view) = running {
        return match view.record.state {
            JobState::Paused => Sign::new(Tone::Warn, "backup paused"),
            _ => Sign::new(Tone::Work, "backing up"),
        };
    }
    if stanza.repositories.is_empty() {
        return Sign::new(Tone::Idle, "not read yet");
    }
    let last_backup = stanza.backups().last().map(|(_, backup)| backup.record.stopped);
    let has_failed = last_end.is_some_and(|end| {
        end.state == JobState::Failed && last_backup.is_none_or(|stopped| Some(stopped) < end.finished)
    });
    if has_failed {
        return Sign::new(Tone::Bad, "last backup failed");
    }
    match stanza.status() {
        status if status.code == StatusCode::Ok => Sign::new(Tone::Good, "ok"),
        status if status.code == StatusCode::NoBackups => Sign::new(Tone::Warn, "no backup yet"),
        status if status.code == StatusCode::Mixed => Sign::new(Tone::Warn, "repositories differ"),
        status if status.code == StatusCode::Other => Sign::new(Tone::Bad, "cannot be read"),
        status => Sign::new(Tone::Bad, status.message),
    }
}

fn of_repository(info: &RepositoryInfo) -> (String, Sign) {
    let sign = match info.status.code {
        StatusCode::Ok => Sign::new(Tone::Good, format!("{} kept", words::count(info.backups.len() as u64))),
        StatusCode::NoBackups => Sign::new(Tone::Warn, "no backup"),
        StatusCode::Other => Sign::new(Tone::Bad, "cannot be read"),
        _ => Sign::new(Tone::Bad, info.status.message.clone()),
    };
    (info.key.to_string(), sign)
}

impl LastBackup {
    fn of(backup: &BackupInfo, now: Timestamp) -> LastBackup {
        let record = &backup.record;
        LastBackup {
            age: words::age(record.stopped, now),
            at: words::clock(record.stopped),
            kind: record.kind.name(),
            label: record.label.to_string(),
            size: words::bytes(record.sizes.database),
        }
    }
}

/// A job's state, for people.
fn job_sign(record: &JobRecord) -> Sign {
    let tone = match record.state {
        JobState::Queued => Tone::Idle,
        JobState::Running => Tone::Work,
        JobState::Paused | JobState::Draining | JobState::Partial => Tone::Warn,
        JobState::Done => Tone::Good,
        JobState::Failed => Tone::Bad,
        JobState::Cancelled => Tone::Idle,
    };
    let word = match record.state {
        JobState::Draining => "ending",
        state => state.name(),
    };
    Sign::new(tone, word)
}

impl JobRow {
    pub(super) fn of(view: &JobView, now: Timestamp) -> JobRow {
        let JobView { record, progress, rate, eta } = view;
        let announced = record.begun.as_ref().and_then(|begun| begun.announced.as_ref());
        let label =
            progress.as_ref().and_then(|progress| progress.label).or(announced.map(|known| known.label));
        let is_moving = record.state == JobState::Running;
        let when = record.finished.or(record.started).unwrap_or(record.created);
        let until = record.finished.unwrap_or(now);
        let progress = progress.as_ref();
        let limiting = progress.filter(|_| is_moving).and_then(|progress| progress.limiting_stage);
        JobRow {
            id: record.id.to_string(),
            kind: record.kind.name(),
            stanza: record.stanza.to_string(),
            sign: job_sign(record),
            label: label.map(|label| label.to_string()),
            by: record.submitted_by.clone(),
            when: words::age(when, now),
            took: record.started.map(|started| words::span(words::since(started, until))),
            units: progress.map_or((0, 0), |told| (told.units_done.into(), told.units_total.into())),
            bytes: progress.map_or((0, 0), |told| (told.bytes_done, told.bytes_total)),
            rate: is_moving.then(|| words::rate(*rate)),
            eta: eta.filter(|_| is_moving).map(words::span),
            limiting: limiting.map(|stage| stage.to_string()),
            error: record.failure.as_ref().map(|failure| failure.message.clone()),
        }
    }
}

impl WorkerRow {
    fn of((view, busy): &(WorkerView, u32)) -> WorkerRow {
        let tone = match view.state {
            WorkerState::Up => Tone::Good,
            WorkerState::Draining => Tone::Warn,
            WorkerState::Lost => Tone::Bad,
        };
        let serves = view.sources.iter().map(|source| {
            let server = match source.server {
                ServerSeen::Primary(_) => "primary",
                ServerSeen::Standby(_) => "standby",
                ServerSeen::Unknown => "not asked yet",
                ServerSeen::Down(_) => "server down",
            };
            (source.stanza.to_string(), server)
        });
        let is_lost = view.state == WorkerState::Lost;
        WorkerRow {
            name: view.name.to_string(),
            sign: Sign::new(tone, view.state.name()),
            busy: u64::from(*busy),
            slots: if is_lost { 0 } else { u64::from(view.slots) },
            serves: serves.collect(),
        }
    }
}

fn repository(place: &RepositoryReport, report: &Report, now: Timestamp) -> RepositoryRow {
    let (sign, trouble) = match &place.standing {
        Standing::Unknown => (Sign::new(Tone::Idle, "not read yet"), None),
        Standing::Well => (Sign::new(Tone::Good, "ok"), None),
        Standing::Failed(message) => (Sign::new(Tone::Bad, "cannot be read"), Some(message.clone())),
        Standing::Silent(since) => {
            (Sign::new(Tone::Bad, "silent"), Some(format!("asked {}", words::age(*since, now))))
        }
    };
    let here = report.info.stanzas.iter().flat_map(|stanza| &stanza.repositories);
    let backups = here.filter(|info| info.key == place.facts.key).map(|info| info.backups.len() as u64);
    RepositoryRow {
        key: place.facts.key.to_string(),
        place: place.facts.description.clone(),
        sign,
        is_required: place.facts.is_required,
        backups: backups.sum(),
        read: place.as_of.map(|at| words::age(at, now)),
        trouble,
    }
}

#[cfg(test)]
mod tests;
