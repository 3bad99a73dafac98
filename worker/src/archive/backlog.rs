//! Brings repositories the WAL that their siblings have and they have not.
//!
//! What is missing is found by comparing listings each time, from the newest directory back to where all agree; nothing is
//! remembered. The server's own files are not looked at: what is missing may have left pg_wal long ago.
//!
//! Invariants
//! 1. What cannot be listed is not taken for absent: such a repository takes no part.
//! 2. A file is checked against its SHA-1 before any of it is stored again.
//! 3. One call brings so many files at most; the next goes on from there.

use super::{ClusterIdentity, Doors};
use crate::keeper::blocking;
use futures::future::join_all;
use futures::stream::{self, StreamExt};
use pgconvoy_core::failure::{Context, ErrorCode, Failure};
use pgconvoy_core::ids::RepoKey;
use pgconvoy_core::pg::WalFileName;
use pgconvoy_core::plan::backlog::{Due, Held, in_order, lacking};
use pgconvoy_repository::wal::{PushManner, WalSource, WalTarget, push_wal_as};
use pgconvoy_repository::{Repository, RepositoryError};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::future::Future;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tokio::time::timeout;

/// Files that one call brings.
const BATCH_MAX: usize = 256;
/// Directories in a row in which nobody lacks anything end the search. Each holds 4 GiB of WAL.
const AGREEING_MAX: usize = 2;
/// `0000000100000003`; a timeline's history lies in a shorter one.
const LOG_DIRECTORY_DIGITS: usize = 16;

/// A repository that may lack something, or have what another lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sibling {
    pub key: RepoKey,
    /// Retention keeps all WAL since the oldest backup.
    pub keeps_all: bool,
}

pub(super) struct CatchUp<'a> {
    pub(super) doors: &'a Doors,
    pub(super) siblings: &'a [Sibling],
    pub(super) cluster: Option<ClusterIdentity>,
    pub(super) manner: PushManner,
    /// Files at once.
    pub(super) width: usize,
}

#[derive(Debug, Default)]
pub(super) struct CaughtUp {
    /// What was brought, and where to.
    pub(super) brought: Vec<(RepoKey, WalFileName)>,
    /// Repositories that could not be asked or could not take something.
    pub(super) failures: Vec<(RepoKey, Failure)>,
    /// Files for a later call.
    pub(super) left: usize,
}

struct Member {
    key: RepoKey,
    target: WalTarget,
    due: Due,
}

/// Who lacks a file, and who has it.
#[derive(Default)]
struct Lack {
    to: BTreeSet<RepoKey>,
    from: Vec<RepoKey>,
}

type Members = BTreeMap<RepoKey, Member>;

impl CatchUp<'_> {
    pub(super) async fn run(&self) -> CaughtUp {
        let mut told = CaughtUp::default();
        let mut members = Members::new();
        for (key, joined) in join_all(self.siblings.iter().map(|sibling| self.join(*sibling))).await {
            match joined {
                Ok(member) => drop(members.insert(key, member)),
                Err(failure) => self.fail(&mut told, key, failure),
            }
        }
        let lacks = self.survey(&mut members, &mut told).await;
        let Some(size) = members.values().next().map(|member| member.due.size) else { return told };
        let order = in_order(lacks.keys().copied(), size);
        told.left = order.len().saturating_sub(BATCH_MAX);
        let batch = order.iter().take(BATCH_MAX).map(|file| self.bring(&members, *file, &lacks[file]));
        let absent = told.failures.len();
        let mut bringing = stream::iter(batch).buffer_unordered(self.width.max(1));
        while let Some((file, results)) = bringing.next().await {
            for (key, result) in results {
                match result {
                    Ok(()) => told.brought.push((key, file)),
                    Err(failure) => self.fail(&mut told, key, failure),
                }
            }
            if told.failures.len() > absent {
                // Whoever failed would fail again for each of the rest; the next call finds out how it is.
                break;
            }
        }
        told
    }

    fn fail(&self, told: &mut CaughtUp, key: RepoKey, failure: Failure) {
        self.doors.forget(key);
        told.failures.push((key, failure));
    }

    async fn join(&self, sibling: Sibling) -> (RepoKey, Result<Member, Failure>) {
        let joining = async {
            let target = self.doors.target(sibling.key, self.cluster).await?;
            let due = due(&target, self.doors, sibling.keeps_all).await?;
            Ok(Member { key: sibling.key, target, due })
        };
        (sibling.key, self.in_time(joining).await)
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let limit = self.manner.stall;
        let silent = || {
            let message = format!("it did not answer within {} s", limit.as_secs());
            Failure::new(ErrorCode::HostConnect, message).retryable()
        };
        timeout(limit, work).await.unwrap_or_else(|_| Err(silent()))
    }

    /// Everything that somebody lacks. Members that cannot be listed leave.
    async fn survey(&self, members: &mut Members, told: &mut CaughtUp) -> BTreeMap<WalFileName, Lack> {
        let mut directories = BTreeSet::new();
        let listing = |member: &Member| {
            let (repository, archive) = member.target.clone();
            async move { Ok(repository.wal_directories(self.doors.stanza(), archive).await?) }
        };
        for found in self.each(members, told, listing).await.into_values() {
            directories.extend(found);
        }
        let (logs, timelines): (Vec<String>, Vec<String>) =
            directories.into_iter().partition(|directory| directory.len() == LOG_DIRECTORY_DIGITS);
        let mut lacks = BTreeMap::new();
        for directory in &timelines {
            self.compare(members, told, directory, &mut lacks).await;
        }
        let mut agreeing = 0;
        for directory in logs.iter().rev() {
            let agrees = self.compare(members, told, directory, &mut lacks).await;
            agreeing = if agrees { agreeing + 1 } else { 0 };
            if agreeing == AGREEING_MAX {
                break;
            }
        }
        lacks
    }

    /// What each member answers; one that does not leaves.
    async fn each<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        members: &mut Members,
        told: &mut CaughtUp,
        ask: impl Fn(&Member) -> F,
    ) -> BTreeMap<RepoKey, T> {
        let asking = members.values().map(|member| {
            let answer = self.in_time(ask(member));
            async move { (member.key, answer.await) }
        });
        let mut answers = BTreeMap::new();
        for (key, answer) in join_all(asking).await {
            match answer {
                Ok(answer) => drop(answers.insert(key, answer)),
                Err(failure) => self.fail(told, key, failure),
            }
        }
        members.retain(|key, _| answers.contains_key(key));
        answers
    }

    /// Whether nobody lacks anything of one directory.
    async fn compare(
        &self,
        members: &mut Members,
        told: &mut CaughtUp,
        directory: &str,
        lacks: &mut BTreeMap<WalFileName, Lack>,
    ) -> bool {
        let listing = |member: &Member| {
            let (repository, archive) = member.target.clone();
            async move { Ok(repository.wal_directory(self.doors.stanza(), archive, directory).await?) }
        };
        let held: BTreeMap<RepoKey, Vec<Held>> = self.each(members, told, listing).await;
        let all: Vec<Held> = held.values().flatten().copied().collect();
        let mut agrees = true;
        for (key, own) in &held {
            let own = own.iter().map(|held| held.file).collect();
            for file in lacking(&all, &own, &members[key].due) {
                agrees = false;
                lacks.entry(file).or_default().to.insert(*key);
            }
        }
        for (key, own) in held {
            for Held { file, .. } in own {
                if let Some(lack) = lacks.get_mut(&file) {
                    lack.from.push(key);
                }
            }
        }
        agrees
    }

    /// From the first that can deliver to all who lack it.
    async fn bring(
        &self,
        members: &Members,
        file: WalFileName,
        lack: &Lack,
    ) -> (WalFileName, Vec<(RepoKey, Result<(), Failure>)>) {
        for member in lack.from.iter().filter_map(|key| members.get(key)) {
            let fetched = match fetch(member, self.doors, file).await {
                Ok(Some(fetched)) => fetched,
                // Retention may have been faster.
                Ok(None) => continue,
                Err(failure) => {
                    tracing::warn!("repo {} cannot deliver {file} to its siblings: {failure}", member.key);
                    continue;
                }
            };
            let (keys, targets): (Vec<RepoKey>, Vec<WalTarget>) = lack
                .to
                .iter()
                .filter_map(|key| members.get(key))
                .map(|member| (member.key, member.target.clone()))
                .unzip();
            let stored = push_wal_as(&targets, self.doors.stanza(), &file, fetched, &self.manner).await;
            let results = match stored {
                Ok(results) => results.into_iter().map(|result| Ok(result.map(|_| ())?)).collect(),
                Err(error) => vec![Err(local(&error)); keys.len()],
            };
            let results = results.into_iter().map(|result: Result<(), Failure>| result.context(file));
            return (file, keys.into_iter().zip(results).collect());
        }
        (file, Vec::new())
    }
}

/// What a repository should have, by its own records.
async fn due((repository, archive): &WalTarget, doors: &Doors, keeps_all: bool) -> Result<Due, Failure> {
    let clusters = repository.clusters(doors.stanza()).await?;
    let cluster = clusters.into_iter().find(|cluster| cluster.archive_id() == *archive);
    let cluster = cluster.ok_or_else(|| RepositoryError::NoStanza {
        place: repository.describe(),
        stanza: doors.stanza().clone(),
    })?;
    let backups = repository.backups(doors.stanza()).await?;
    let records = backups.iter().filter_map(|(_, record)| record.as_ref().ok());
    let records = records.filter(|record| record.cluster == cluster.number);
    Ok(Due::new(cluster.created, cluster.wal_segment_size, records, keeps_all))
}

/// The whole file, checked, in a place of its own that goes with it.
async fn fetch(member: &Member, doors: &Doors, file: WalFileName) -> Result<Option<WalSource>, Failure> {
    let (repository, archive): (&Arc<Repository>, _) = (&member.target.0, member.target.1);
    let Some(reader) = repository.open_wal(doors.stanza(), archive, &file).await? else { return Ok(None) };
    let mut copy = blocking(|| tempfile::tempfile().map_err(|error| local(&error))).await?;
    let mut unwritten = None;
    let read = reader.read(repository, |piece| {
        copy.write_all(piece).map_err(|error| {
            unwritten = Some(error);
            RepositoryError::Interrupted { what: "copying a WAL file" }
        })
    });
    match (read.await, unwritten) {
        (_, Some(error)) => Err(local(&error)),
        (Err(error), None) => Err(error.into()),
        (Ok(()), None) => {
            let copy = Arc::new(copy);
            Ok(Some(Arc::new(move || Ok(Box::new(FromStart { file: copy.clone(), at: 0 }) as _))))
        }
    }
}

fn local(error: &io::Error) -> Failure {
    Failure::new(ErrorCode::FileWrite, format!("cannot keep a WAL file in the temporary directory: {error}"))
}

/// A reader with a place of its own in a file that others read too.
struct FromStart {
    file: Arc<File>,
    at: u64,
}

impl Read for FromStart {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
