//! One report out of what is known of each repository. Pure: values in, a value out.

use super::Shelf;
use crate::workshop::{PlaceFacts, Places};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::RepoKey;
use pgconvoy_core::units::Timestamp;
use pgconvoy_repository::info::{InfoReport, RepositoryInfo, StanzaInfo, Status, StatusCode};
use std::collections::BTreeMap;

/// A question that takes longer is told as silence.
const SILENT_AFTER_MS: i64 = 30_000;
/// So long the others wait for an answer, to be told together.
const TOGETHER_WITHIN_MS: i64 = 10_000;

#[derive(Debug, Clone)]
pub struct Report {
    /// As `info` tells it, by the repositories that were read.
    pub info: InfoReport,
    /// All that are configured.
    pub repositories: Vec<RepositoryReport>,
}

#[derive(Debug, Clone)]
pub struct RepositoryReport {
    pub facts: PlaceFacts,
    pub standing: Standing,
    /// When what is told of it was asked for.
    pub as_of: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nobody looked yet.
    Unknown,
    Well,
    /// It answers that it cannot, or could not be asked.
    Failed(String),
    /// It has not answered since then.
    Silent(Timestamp),
}

impl Standing {
    fn of(shelf: &Shelf, now: Timestamp) -> Standing {
        match (&shelf.seen, shelf.asked) {
            (_, Some(asked)) if now.0 - asked.0 > SILENT_AFTER_MS => Standing::Silent(asked),
            (None, _) => Standing::Unknown,
            (Some(seen), _) => match &seen.stanzas {
                Ok(_) => Standing::Well,
                Err(failure) => Standing::Failed(failure.message.clone()),
            },
        }
    }

    /// What is to be said of each stanza there, if it is not what was read.
    fn status(&self) -> Option<Status> {
        match self {
            Standing::Unknown | Standing::Well => None,
            Standing::Failed(message) => {
                Some(Status::other(&Failure::new(ErrorCode::RepoInvalid, message.clone())))
            }
            Standing::Silent(since) => {
                let message = format!("it has not answered since {since}");
                Some(Status::other(&Failure::new(ErrorCode::HostConnect, message)))
            }
        }
    }
}

/// A repository's own stanzas. One whose stanzas cannot be listed has a single one, which stands for its failure.
pub(super) fn of_one(report: InfoReport) -> Result<Vec<StanzaInfo>, Failure> {
    let is_failure = |stanza: &StanzaInfo| stanza.name.parse::<pgconvoy_core::ids::StanzaName>().is_err();
    match report.stanzas.iter().find(|stanza| is_failure(stanza)) {
        Some(failed) => Err(Failure::new(ErrorCode::RepoInvalid, failed.status().message)),
        None => Ok(report.stanzas),
    }
}

pub(super) fn merge(places: &Places, shelves: &BTreeMap<RepoKey, Shelf>, now: Timestamp) -> Report {
    let nothing = Shelf::default();
    let mut stanzas: BTreeMap<String, Vec<RepositoryInfo>> =
        places.stanzas.keys().map(|name| (name.to_string(), Vec::new())).collect();
    let is_awaited = |shelf: &Shelf| shelf.asked.is_some_and(|asked| now.0 - asked.0 < TOGETHER_WITHIN_MS);
    let is_settling = shelves.values().any(is_awaited);
    let mut repositories = Vec::new();
    for facts in &places.repositories {
        let shelf = shelves.get(&facts.key).unwrap_or(&nothing);
        let standing = Standing::of(shelf, now);
        let seen = shelf.before.as_ref().filter(|_| is_settling).or(shelf.seen.as_ref());
        for stanza in seen.iter().filter_map(|seen| seen.stanzas.as_ref().ok()).flat_map(|found| found.iter())
        {
            let here = stanza.repositories.iter().cloned().map(|info| RepositoryInfo {
                status: standing.status().unwrap_or_else(|| info.status.clone()),
                ..info
            });
            stanzas.entry(stanza.name.clone()).or_default().extend(here);
        }
        if standing != Standing::Unknown {
            let missing = || standing.status().unwrap_or_else(|| Status::of(StatusCode::MissingStanzaPath));
            for (name, _) in places.stanzas.iter().filter(|(_, keys)| keys.contains(&facts.key)) {
                let known = stanzas.entry(name.to_string()).or_default();
                if known.iter().all(|info| info.key != facts.key) {
                    known.push(nothing_in(facts.key, missing()));
                }
            }
        }
        repositories.push(RepositoryReport {
            facts: facts.clone(),
            standing,
            as_of: seen.map(|seen| seen.at),
        });
    }
    let stanza = |(name, repositories)| StanzaInfo { name, repositories, is_backup_running: false };
    Report { info: InfoReport { stanzas: stanzas.into_iter().map(stanza).collect() }, repositories }
}

fn nothing_in(key: RepoKey, status: Status) -> RepositoryInfo {
    RepositoryInfo {
        key,
        cipher: None,
        status,
        clusters: Vec::new(),
        archives: Vec::new(),
        backups: Vec::new(),
        pitr: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
    use super::super::Seen;
    use super::*;
    use pgconvoy_repository::RepositorySet;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::time::Instant;

    fn places(repositories: &[u16]) -> Places {
        let facts = |key: &u16| PlaceFacts {
            key: RepoKey(*key),
            kind: "posix".to_owned(),
            description: format!("posix:/r{key}"),
            layout: "packed".to_owned(),
            is_required: true,
        };
        let keys = repositories.iter().map(|key| RepoKey(*key)).collect();
        Places {
            repositories: repositories.iter().map(facts).collect(),
            stanzas: BTreeMap::from([("main".parse().unwrap(), keys)]),
            set: Arc::new(RepositorySet::default()),
        }
    }

    fn shelf(stanzas: Result<Vec<StanzaInfo>, Failure>, asked: Option<i64>) -> Shelf {
        let seen = Seen {
            at: Timestamp(5),
            begun: Instant::now(),
            took: Duration::ZERO,
            stanzas: stanzas.map(Arc::new),
        };
        Shelf { seen: Some(seen), before: None, asked: asked.map(Timestamp) }
    }

    fn stanza(name: &str, key: u16) -> StanzaInfo {
        let repositories = vec![nothing_in(RepoKey(key), Status::of(StatusCode::Ok))];
        StanzaInfo { name: name.to_owned(), repositories, is_backup_running: false }
    }

    /// `name: key code ..` for each stanza.
    fn shown(report: &Report) -> Vec<String> {
        let of = |stanza: &StanzaInfo| {
            let codes = stanza.repositories.iter();
            let codes: Vec<String> =
                codes.map(|info| format!("{} {}", info.key, info.status.code.number())).collect();
            format!("{}: {}", stanza.name, codes.join(", "))
        };
        report.info.stanzas.iter().map(of).collect()
    }

    #[tokio::test]
    async fn stanzas_of_several_repositories_are_told_together_and_gaps_are_named() {
        let found = shelf(Ok(vec![stanza("main", 1), stanza("old", 1)]), None);
        let shelves = BTreeMap::from([(RepoKey(1), found), (RepoKey(2), shelf(Ok(Vec::new()), None))]);
        let report = merge(&places(&[1, 2, 3]), &shelves, Timestamp(9));
        assert_eq!(
            shown(&report),
            ["main: 1 0, 2 1", "old: 1 0"],
            "nobody has looked into the third one yet"
        );
        assert_eq!(report.repositories[2].standing, Standing::Unknown);
        assert_eq!((report.repositories[0].as_of, report.repositories[2].as_of), (Some(Timestamp(5)), None));
    }

    #[tokio::test]
    async fn what_is_new_in_one_repository_waits_a_while_for_the_others() {
        let before = shelf(Ok(Vec::new()), None).seen;
        let quick = Shelf { before, ..shelf(Ok(vec![stanza("main", 1)]), None) };
        let slow = shelf(Ok(Vec::new()), Some(1_000));
        let mut shelves = BTreeMap::from([(RepoKey(1), quick), (RepoKey(2), slow)]);
        let at = |shelves: &BTreeMap<RepoKey, Shelf>, now| {
            shown(&merge(&places(&[1, 2]), shelves, Timestamp(now)))
        };
        assert_eq!(at(&shelves, 2_000), ["main: 1 1, 2 1"]);
        assert_eq!(at(&shelves, 12_000), ["main: 1 0, 2 1"], "one that hangs holds nobody up");
        shelves.insert(RepoKey(2), shelf(Ok(vec![stanza("main", 2)]), None));
        assert_eq!(at(&shelves, 3_000), ["main: 1 0, 2 0"]);
    }

    #[tokio::test]
    async fn a_repository_that_fails_or_hangs_is_told_as_such_and_keeps_what_was_known() {
        let failure = Failure::new(ErrorCode::PathMissing, "there is no directory");
        let asked_long_ago = shelf(Ok(vec![stanza("main", 2)]), Some(1));
        let shelves = BTreeMap::from([(RepoKey(1), shelf(Err(failure), None)), (RepoKey(2), asked_long_ago)]);
        let report = merge(&places(&[1, 2]), &shelves, Timestamp(SILENT_AFTER_MS + 2));
        assert_eq!(shown(&report), ["main: 1 99, 2 99"]);
        assert_eq!(report.repositories[0].standing, Standing::Failed("there is no directory".to_owned()));
        assert_eq!(report.repositories[1].standing, Standing::Silent(Timestamp(1)));
        let soon = merge(&places(&[1, 2]), &shelves, Timestamp(100));
        assert_eq!(shown(&soon), ["main: 1 99, 2 0"], "it is being read, and that takes its time");
    }
}
