//! One job: how far it is, the map of its units, who works on it, what each repository has of it, what may be done to it.
//!
//! [`JobPageView::of`] makes values of what is known, and is pure; `markup` makes a page of them. What a job's end leaves is told from the
//! result that the command would have printed.

mod markup;

pub(super) use markup::{content, parts};

use super::fleet_page::JobRow;
use super::frame::{Sign, Tone};
use super::map::Counts;
use super::watching::Look;
use super::words;
use crate::jobs::JobView;
use crate::registry::{WorkerState, WorkerView};
use crate::unit_map::{DONE, UnitMap};
use crate::workshop::PlaceFacts;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::job::{JobKind, JobState};
use pgconvoy_core::machine::backup::Phase;
use pgconvoy_core::record::JobRecord;
use pgconvoy_core::units::Timestamp;
use serde_json::Value;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct JobPageView {
    pub(super) row: JobRow,
    /// The word of the state, as buttons go by it.
    pub(super) state: &'static str,
    pub(super) is_over: bool,
    /// Only backups have units on a map, and can be paused.
    pub(super) is_backup: bool,
    pub(super) phase: Option<&'static str>,
    /// Name and value, as they were given.
    pub(super) options: Vec<(String, Vec<String>)>,
    /// Name, and when.
    pub(super) times: Vec<(&'static str, String)>,
    pub(super) counts: Counts,
    pub(super) retried: u64,
    pub(super) workers: Vec<WorkerPart>,
    pub(super) repositories: Vec<RepositoryPart>,
    pub(super) failure: Option<Failure>,
    /// What it came to: name and figure.
    pub(super) result: Vec<(&'static str, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WorkerPart {
    pub(super) name: String,
    pub(super) sign: Option<Sign>,
    pub(super) keeps_session: bool,
    pub(super) in_hand: Option<u64>,
    pub(super) units: u64,
    pub(super) bytes: String,
    pub(super) rate: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RepositoryPart {
    pub(super) key: String,
    pub(super) place: String,
    pub(super) sign: Sign,
    pub(super) stored: String,
    pub(super) rate: Option<String>,
    pub(super) trouble: Option<String>,
}

/// What the page is made of.
pub(super) struct Known<'a> {
    pub(super) view: &'a JobView,
    pub(super) look: Option<&'a Look>,
    pub(super) workers: &'a [(WorkerView, u32)],
    pub(super) places: &'a [PlaceFacts],
}

impl JobPageView {
    pub(super) fn of(known: &Known<'_>, now: Timestamp) -> JobPageView {
        let record = &known.view.record;
        let result = result_of(record);
        let counts = match known.look {
            Some(look) => Counts::of(&look.map.states),
            None => last_map(record, None).map_or(Counts::default(), |states| Counts::of(&states)),
        };
        let progress = known.view.progress.as_ref();
        let retried = progress.map(|progress| u64::from(progress.units_retried));
        JobPageView {
            row: JobRow::of(known.view, now),
            state: record.state.name(),
            is_over: record.state.is_over(),
            is_backup: record.kind == JobKind::Backup,
            phase: progress.filter(|_| record.state.is_under_way()).map(|progress| phase_of(progress.phase)),
            options: options(record),
            times: times(record),
            counts,
            retried: retried.or_else(|| result["units"]["retried"].as_u64()).unwrap_or(0),
            workers: workers(known, &result),
            repositories: repositories(known, &result),
            failure: record.failure.clone(),
            result: figures(&result),
        }
    }

    /// As a tab shows it, where there is room for little.
    pub(super) fn title(&self) -> String {
        let JobRow { kind, stanza, sign, bytes, .. } = &self.row;
        let is_under_way = bytes.1 > 0 && sign.tone != Tone::Good;
        let figure = is_under_way.then(|| format!("{}% ", words::percent(bytes.0, bytes.1)));
        format!("{}{kind} of {stanza}: {}", figure.unwrap_or_default(), sign.word)
    }

    /// What is read aloud when it changes.
    pub(super) fn said(&self) -> String {
        let lost =
            self.workers.iter().filter(|part| part.sign.as_ref().is_some_and(|sign| sign.word == "lost"));
        let lost: Vec<&str> = lost.map(|part| part.name.as_str()).collect();
        let job = format!("{} of {} is {}", self.row.kind, self.row.stanza, self.row.sign.word);
        if lost.is_empty() { format!("{job}.") } else { format!("{job}; lost: {}.", lost.join(", ")) }
    }
}

/// The command's own result; null while there is none.
fn result_of(record: &JobRecord) -> Value {
    record.result.as_deref().and_then(|result| serde_json::from_str(result).ok()).unwrap_or_default()
}

/// How the map of a job that is over stands: all is done, if it ended well. `known`: how many units were seen.
pub(super) fn last_map(record: &JobRecord, known: Option<usize>) -> Option<Vec<u8>> {
    if !matches!(record.state, JobState::Done | JobState::Partial) || record.kind != JobKind::Backup {
        return None;
    }
    let told = result_of(record)["units"]["total"].as_u64().and_then(|total| usize::try_from(total).ok());
    told.or(known).map(|total| vec![DONE; total])
}

const fn phase_of(phase: Phase) -> &'static str {
    match phase {
        Phase::Opening => "opening repositories",
        Phase::Starting => "starting the backup in PostgreSQL",
        Phase::Scanning => "scanning the data directory",
        Phase::Clearing => "clearing what others left",
        Phase::Announcing => "writing the plan",
        Phase::Recalling => "reading back what was accepted",
        Phase::Copying => "copying",
        Phase::Stopping => "ending the backup in PostgreSQL",
        Phase::Awaiting => "waiting for WAL",
        Phase::CopyingWal => "copying WAL",
        Phase::Publishing => "publishing",
        Phase::GivingUp => "giving up",
        Phase::Over => "over",
    }
}

fn options(record: &JobRecord) -> Vec<(String, Vec<String>)> {
    record.options.0.iter().map(|(name, values)| (name.clone(), values.clone())).collect()
}

fn times(record: &JobRecord) -> Vec<(&'static str, String)> {
    let all = [("Submitted", Some(record.created)), ("Began", record.started), ("Ended", record.finished)];
    all.into_iter().filter_map(|(name, time)| Some((name, words::clock(time?)))).collect()
}

fn figures(result: &Value) -> Vec<(&'static str, String)> {
    let bytes = |key: &str| result["bytes"][key].as_u64().map(words::bytes);
    let errors = result["pages"]["errors"].as_array().map(|errors| words::count(errors.len() as u64));
    let all = [
        ("Type", result["type"].as_str().map(str::to_owned)),
        ("Rests on", result["prior"].as_str().map(str::to_owned)),
        ("Database", bytes("database")),
        ("Read", bytes("read")),
        ("Changed", bytes("changed")),
        ("Pages checked", result["pages"]["checked"].as_u64().map(words::count)),
        ("Bad pages", errors),
        ("Units resumed", result["units"]["resumed"].as_u64().filter(|units| *units > 0).map(words::count)),
    ];
    all.into_iter().filter_map(|(name, figure)| Some((name, figure?))).collect()
}

fn workers(known: &Known<'_>, result: &Value) -> Vec<WorkerPart> {
    let record = &known.view.record;
    let Some(look) = known.look.filter(|_| result.is_null()) else { return workers_of_result(result) };
    let source = record.begun.as_ref().map(|begun| &begun.source);
    let UnitMap { held, workers: parts, .. } = &look.map;
    let serves = |view: &WorkerView| view.sources.iter().any(|source| source.stanza == record.stanza);
    let did = |view: &WorkerView| parts.iter().find(|part| part.worker == view.name);
    let taking_part = known
        .workers
        .iter()
        .map(|(view, _)| view)
        .filter(|view| serves(view) || did(view).is_some() || source == Some(&view.name));
    let part = |view: &WorkerView| {
        let tone = match view.state {
            WorkerState::Up => Tone::Good,
            WorkerState::Draining => Tone::Warn,
            WorkerState::Lost => Tone::Bad,
        };
        let rate = look.worker_rates.get(&view.name).copied().unwrap_or(0);
        WorkerPart {
            name: view.name.to_string(),
            sign: Some(Sign::new(tone, view.state.name())),
            keeps_session: source == Some(&view.name),
            in_hand: Some(held.iter().filter(|unit| unit.worker == view.name).count() as u64),
            units: did(view).map_or(0, |part| u64::from(part.units)),
            bytes: words::bytes(did(view).map_or(0, |part| part.bytes)),
            rate: (view.state != WorkerState::Lost).then(|| words::rate(rate)),
        }
    };
    taking_part.map(part).collect()
}

fn workers_of_result(result: &Value) -> Vec<WorkerPart> {
    let parts = result["workers"].as_array().into_iter().flatten();
    let part = |part: &Value| WorkerPart {
        name: part["name"].as_str().unwrap_or_default().to_owned(),
        sign: None,
        keeps_session: false,
        in_hand: None,
        units: part["units"].as_u64().unwrap_or(0),
        bytes: words::bytes(part["bytes"].as_u64().unwrap_or(0)),
        rate: None,
    };
    parts.map(part).collect()
}

fn repositories(known: &Known<'_>, result: &Value) -> Vec<RepositoryPart> {
    let place = |key: &str| {
        let facts = known.places.iter().find(|facts| facts.key.to_string() == key);
        facts.map(|facts| facts.description.clone()).unwrap_or_default()
    };
    if let Some(look) = known.look.filter(|_| result.is_null()) {
        let part = |part: &crate::unit_map::RepositoryPart| {
            let key = part.repository.to_string();
            let rate = look.repository_rates.get(&part.repository).copied().unwrap_or(0);
            let sign = match part.failure {
                None => Sign::new(Tone::Good, "takes part"),
                Some(_) => Sign::new(Tone::Bad, "dropped"),
            };
            RepositoryPart {
                place: place(&key),
                key,
                sign,
                stored: words::bytes(part.stored),
                rate: part.failure.is_none().then(|| words::rate(rate)),
                trouble: part.failure.clone(),
            }
        };
        return look.map.repositories.iter().map(part).collect();
    }
    let parts = result["repos"].as_array().into_iter().flatten();
    let part = |part: &Value| {
        let key = part["key"].as_u64().map(|key| key.to_string()).unwrap_or_default();
        let has_it = part["status"] == "ok";
        RepositoryPart {
            place: place(&key),
            key,
            sign: if has_it { Sign::new(Tone::Good, "has it") } else { Sign::new(Tone::Bad, "lacks it") },
            stored: words::bytes(part["bytes-stored"].as_u64().unwrap_or(0)),
            rate: None,
            trouble: part["error"]["message"].as_str().map(str::to_owned),
        }
    };
    parts.map(part).collect()
}

#[cfg(test)]
mod tests;
