//! Jobs as the lease store keeps them: what was asked for, what it is bound to, what came of it.
//!
//! A record is what a leader needs to begin a job or to go on with it, and what stays of it afterwards. Progress is not in it:
//! that is computed from accepted units.

use crate::failure::Failure;
use crate::ids::{StanzaName, WorkerName};
use crate::job::{JobKind, JobOptions, JobState};
use crate::machine::backup::{Announced, BackupSpec};
use crate::units::Timestamp;
use crate::wire::JobId;
use serde::{Deserialize, Serialize};

/// What a job that began is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Begun {
    pub spec: BackupSpec,
    /// The worker that keeps the backup's session.
    pub source: WorkerName,
    pub announced: Option<Announced>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct JobRecord {
    pub id: JobId,
    pub kind: JobKind,
    pub stanza: StanzaName,
    pub options: JobOptions,
    /// Higher ones first; 0 unless somebody says otherwise.
    pub priority: i32,
    pub state: JobState,
    pub submitted_by: String,
    pub created: Timestamp,
    pub started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
    pub begun: Option<Begun>,
    /// Whose restore it is, once it began: no other worker may begin it anew.
    #[serde(default)]
    pub main_worker: Option<WorkerName>,
    pub failure: Option<Failure>,
    /// The command's own result, as JSON.
    pub result: Option<String>,
}

/// Who did what, for the audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct AuditRecord {
    pub at: Timestamp,
    pub who: String,
    pub role: String,
    pub what: String,
    /// The job, worker, token or certificate that it was done to.
    pub object: String,
    pub outcome: AuditOutcome,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuditOutcome {
    /// It is being done, or its coordinator died over it.
    Asked,
    Done,
    Refused,
}

impl AuditOutcome {
    pub const fn name(self) -> &'static str {
        match self {
            AuditOutcome::Asked => "asked",
            AuditOutcome::Done => "done",
            AuditOutcome::Refused => "refused",
        }
    }
}
