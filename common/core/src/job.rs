//! The words about jobs: what kinds there are, in what state one is, and with what options it was submitted.

use crate::ids::IdError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// What a job does. Named as its command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobKind {
    Backup,
    Verify,
    Restore,
    RepoSync,
}

impl JobKind {
    pub const ALL: [JobKind; 4] = [JobKind::Backup, JobKind::Verify, JobKind::Restore, JobKind::RepoSync];

    pub const fn name(self) -> &'static str {
        match self {
            JobKind::Backup => "backup",
            JobKind::Verify => "verify",
            JobKind::Restore => "restore",
            JobKind::RepoSync => "repo-sync",
        }
    }
}

impl fmt::Display for JobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for JobKind {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        JobKind::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| IdError {
            what: "kind of job",
            text: text.to_owned(),
            reason: "it is none of backup, verify, restore and repo-sync",
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    Queued,
    Running,
    Paused,
    /// It ends as soon as what is under way allows it.
    Draining,
    Done,
    /// Some repositories have what was asked for, and some have not.
    Partial,
    Failed,
    Cancelled,
}

impl JobState {
    pub const fn name(self) -> &'static str {
        match self {
            JobState::Queued => "queued",
            JobState::Running => "running",
            JobState::Paused => "paused",
            JobState::Draining => "draining",
            JobState::Done => "done",
            JobState::Partial => "partial",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
        }
    }

    pub const fn is_over(self) -> bool {
        matches!(self, JobState::Done | JobState::Partial | JobState::Failed | JobState::Cancelled)
    }

    /// Begun and not over.
    pub const fn is_under_way(self) -> bool {
        matches!(self, JobState::Running | JobState::Paused | JobState::Draining)
    }
}

/// As it was submitted: the command's options by their names, each with its values as they are typed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobOptions(pub BTreeMap<String, Vec<String>>);

impl JobOptions {
    pub fn set(&mut self, name: &str, values: Vec<String>) {
        self.0.insert(name.to_owned(), values);
    }

    pub fn values(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    pub fn value(&self, name: &str) -> Option<&str> {
        self.values(name).first().map(String::as_str)
    }

    pub fn is_on(&self, name: &str) -> bool {
        self.value(name) == Some("true")
    }
}
