//! Looks at everything that a backup and its WAL will need, and says of each thing what was found.
//!
//! One thing that is wrong hides no other: a repository is looked at though the server is gone, and the next repository though
//! the first one is.

use crate::keeper::SourceConfig;
use crate::stanza::{compare, identify};
use pgconvoy_core::failure::{Context, ErrorCode, Failure};
use pgconvoy_core::format::catalogue::CatalogueBody;
use pgconvoy_core::format::cluster::ClusterBody;
use pgconvoy_core::format::layout;
use pgconvoy_core::ids::{RepoKey, StanzaName};
use pgconvoy_core::pg::{ControlFile, WalSegmentName};
use pgconvoy_core::units::ByteCount;
use pgconvoy_postgres::connect::Client;
use pgconvoy_postgres::preflight::{ArchiveExpectation, check_settings};
use pgconvoy_repository::create_only::prove_guarding;
use pgconvoy_repository::{Repository, RepositorySet};
use pgconvoy_storage::{LockProof, ObjectKey};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// How soon a forced segment is looked for again.
const WAL_POLL: Duration = Duration::from_millis(100);
/// Clocks of a server and this host may differ by this much without anybody noticing.
const SKEW_NOTED: Duration = Duration::from_secs(2);
/// By this much, times of backups and targets of recovery mean nothing any more.
const SKEW_MAX: Duration = Duration::from_secs(60);
/// A repository with less room than this part of it is nearly full.
const FREE_PART_MIN: u64 = 20;

/// What is looked at.
pub struct Check<'a> {
    pub set: &'a RepositorySet,
    pub repositories: &'a [RepoKey],
    pub stanza: &'a StanzaName,
    pub source: &'a SourceConfig,
    pub archive_check: bool,
    pub archive_mode_check: bool,
    pub archive_timeout: Duration,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// One of `cluster`, `archiving`, `clock`, and for a repository `repository`, `lock`, `space`, `wal`.
    pub what: &'static str,
    pub repository: Option<RepoKey>,
    pub verdict: Verdict,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Well(String),
    /// It works, and should be known.
    Odd(String),
    Wrong(Failure),
}

/// Findings as they are made.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    /// Notes what is well or odd, or wrong; hands on what was found.
    fn add<T>(
        &mut self,
        what: &'static str,
        repository: Option<RepoKey>,
        found: Result<(Verdict, T), Failure>,
    ) -> Option<T> {
        let (verdict, value) = match found {
            Ok((verdict, value)) => (verdict, Some(value)),
            Err(failure) => (Verdict::Wrong(failure), None),
        };
        self.0.push(Finding { what, repository, verdict });
        value
    }
}

type Opened = (RepoKey, Arc<Repository>, ClusterBody);

impl Check<'_> {
    /// The cluster first, then each repository, then the way between them: a WAL segment that is forced must arrive in each.
    pub async fn run(&self) -> Vec<Finding> {
        let mut findings = Findings::default();
        let control = findings.add("cluster", None, self.cluster().await);
        let mut client = None;
        if control.is_some() {
            let connected = Client::connect(&self.source.connect).await.map_err(Failure::from);
            client = match connected {
                Ok(client) => {
                    let archives = findings.add("archiving", None, self.archiving(&client)).is_some();
                    findings.add("clock", None, clock(&client).await);
                    Some(client).filter(|_| archives && self.archive_check)
                }
                Err(failure) => findings.add("archiving", None, Err(failure)),
            };
        }
        let mut opened: Vec<Opened> = Vec::new();
        for key in self.repositories {
            let found = self.repository(*key, control.as_ref()).await.context(format!("repo {key}"));
            if let Some((repository, cluster)) = findings.add("repository", Some(*key), found) {
                match lock(&repository).await.context(format!("repo {key}")) {
                    Ok(None) => {}
                    Ok(Some(verdict)) => drop(findings.add("lock", Some(*key), Ok((verdict, ())))),
                    Err(failure) => drop(findings.add::<()>("lock", Some(*key), Err(failure))),
                }
                let space = self.space(&repository).await.context(format!("repo {key}"));
                findings.add("space", Some(*key), space.map(|verdict| (verdict, ())));
                opened.push((*key, repository, cluster));
            }
        }
        if let Some(client) = client.filter(|_| !opened.is_empty()) {
            self.way_of_wal(&client, opened, &mut findings).await;
        }
        findings.0
    }

    async fn cluster(&self) -> Result<(Verdict, ControlFile), Failure> {
        let control = identify(self.source, true, false).await?;
        let (version, system, directory) =
            (control.version, control.system_id, self.source.directory.display());
        Ok((
            Verdict::Well(format!("PostgreSQL {version} with system identifier {system} in {directory}")),
            control,
        ))
    }

    fn archiving(&self, client: &Client) -> Result<(Verdict, ()), Failure> {
        let settings = client.settings();
        let expectation =
            ArchiveExpectation { check: self.archive_check, refuse_always: self.archive_mode_check };
        let warnings: Vec<String> =
            check_settings(settings, expectation)?.iter().map(ToString::to_string).collect();
        let verdict = match (warnings.is_empty(), self.archive_check) {
            (false, _) => Verdict::Odd(warnings.join("; ")),
            (true, true) => Verdict::Well(format!("archive_command is '{}'", settings.archive_command)),
            (true, false) => Verdict::Odd("not looked at, as was wished".into()),
        };
        Ok((verdict, ()))
    }

    async fn repository(
        &self,
        key: RepoKey,
        control: Option<&ControlFile>,
    ) -> Result<(Verdict, (Arc<Repository>, ClusterBody)), Failure> {
        let repository = self.set.open(key).await?;
        let cluster = repository.cluster(self.stanza).await?;
        if let Some(control) = control {
            compare(&repository, self.stanza, &cluster, control)?;
        }
        let scratch: ObjectKey = layout::trial(self.stanza).parse().map_err(|error| {
            Failure::new(ErrorCode::Assert, format!("a scratch key is not valid: {error}"))
        })?;
        let told = format!("{} opens with its key and takes objects once", repository.describe());
        let verdict = match prove_guarding(repository.storage(), &scratch).await?.remark() {
            None => Verdict::Well(told),
            Some(remark) => Verdict::Odd(format!("{told}; {remark}")),
        };
        Ok((verdict, (repository, cluster)))
    }

    /// Room for one more backup like the last one is what is hoped for.
    async fn space(&self, repository: &Repository) -> Result<Verdict, Failure> {
        let Some(space) = repository.storage().space().await? else {
            return Ok(Verdict::Well("without a known limit".into()));
        };
        let free = ByteCount(space.free);
        let needed = self.last_backup(repository).await?;
        if space.free == 0 {
            let message = "there is no room left";
            return Err(Failure::new(ErrorCode::FileWrite, message)
                .hint("make room, or the next WAL segment is lost time"));
        }
        Ok(match needed {
            Some(needed) if needed > space.free => {
                Verdict::Odd(format!("{free} free; the last backup took {}", ByteCount(needed)))
            }
            _ if space.free < space.total / FREE_PART_MIN => {
                Verdict::Odd(format!("{free} free of {}", ByteCount(space.total)))
            }
            _ => Verdict::Well(format!("{free} free")),
        })
    }

    /// What it takes in the repository.
    async fn last_backup(&self, repository: &Repository) -> Result<Option<u64>, Failure> {
        for label in repository.catalogue_labels(self.stanza).await?.into_iter().rev() {
            if let Some(CatalogueBody::Published(record)) =
                repository.catalogue_entry(self.stanza, label).await?
            {
                return Ok(Some(record.sizes.stored));
            }
        }
        Ok(None)
    }

    async fn way_of_wal(&self, client: &Client, opened: Vec<Opened>, findings: &mut Findings) {
        let segment = match client.force_switch().await {
            Ok(segment) => segment,
            Err(error) => {
                let failure = Failure::from(error);
                for (key, ..) in opened {
                    findings.add::<()>("wal", Some(key), Err(failure.clone()));
                }
                return;
            }
        };
        for (key, repository, cluster) in opened {
            let arrived = self.await_segment(key, &repository, &cluster, segment).await;
            let told = arrived.map(|after| {
                (Verdict::Well(format!("segment {segment} arrived within {:.1} s", after.as_secs_f64())), ())
            });
            findings.add("wal", Some(key), told);
        }
    }

    async fn await_segment(
        &self,
        key: RepoKey,
        repository: &Repository,
        cluster: &ClusterBody,
        segment: WalSegmentName,
    ) -> Result<Duration, Failure> {
        let begin = Instant::now();
        loop {
            let missing = repository.missing_wal(self.stanza, cluster.archive_id(), &[segment]).await;
            if missing.context(format!("repo {key}"))?.is_empty() {
                return Ok(begin.elapsed());
            }
            if begin.elapsed() >= self.archive_timeout {
                return Err(Failure::new(
                    ErrorCode::ArchiveTimeout,
                    format!(
                        "WAL segment {segment} did not reach repo {key} within {} s",
                        self.archive_timeout.as_secs()
                    ),
                )
                .hint("is archive_command failing? See the server's log")
                .hint("--archive-timeout sets how long to wait"));
            }
            tokio::time::sleep(WAL_POLL).await;
        }
    }
}

/// `None`: no lock is asked for.
async fn lock(repository: &Repository) -> Result<Option<Verdict>, Failure> {
    Ok(match repository.storage().prove_lock().await? {
        LockProof::NotAsked => None,
        LockProof::Kept(words) => Some(Verdict::Well(words)),
        LockProof::Untold(reason) => Some(Verdict::Odd(format!("the store does not tell: {reason}"))),
    })
}

/// The server's clock against this host's, as far as the time of asking lets it be told.
async fn clock(client: &Client) -> Result<(Verdict, ()), Failure> {
    let before = SystemTime::now();
    let server = client.database_clock().await?;
    let after = SystemTime::now();
    let since_1970 = |moment: SystemTime| moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let server = Duration::from_micros(u64::try_from(server.microseconds()).unwrap_or_default());
    let skew = skew(server, since_1970(before), since_1970(after));
    Ok((judge_clock(skew)?, ()))
}

/// The least by which the clocks differ.
fn skew(server: Duration, before: Duration, after: Duration) -> Duration {
    before.saturating_sub(server).max(server.saturating_sub(after))
}

fn judge_clock(skew: Duration) -> Result<Verdict, Failure> {
    let seconds = skew.as_secs_f64();
    if skew >= SKEW_MAX {
        let message = format!("the server's clock and this host's differ by {seconds:.0} s");
        return Err(Failure::new(ErrorCode::Clock, message)
            .hint("is a time service running on both hosts? timedatectl shows it"));
    }
    Ok(match skew < SKEW_NOTED {
        true => Verdict::Well("the server's and this host's agree".into()),
        false => Verdict::Odd(format!("the server's clock and this host's differ by {seconds:.1} s")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn clocks_that_differ_by_less_than_the_time_of_asking_agree() {
        assert_eq!(skew(at(100), at(99), at(101)), Duration::ZERO);
        assert_eq!(skew(at(100), at(103), at(104)), at(3));
        assert_eq!(skew(at(110), at(99), at(101)), at(9));
    }

    #[test]
    fn a_clock_that_is_far_off_is_an_error_and_one_that_is_a_little_off_is_said() {
        assert!(matches!(judge_clock(at(0)), Ok(Verdict::Well(_))));
        assert!(matches!(judge_clock(at(2)), Ok(Verdict::Odd(_))));
        let failure = judge_clock(at(60)).expect_err("a minute is too much");
        assert_eq!(failure.code, ErrorCode::Clock);
    }
}
