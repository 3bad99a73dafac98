//! From where a job's bytes are read: the server of its session, standbys, and workers that compute for others.

use crate::ids::{SystemId, WorkerName};
use crate::pg::{Lsn, PgVersion, TimelineId};
use crate::ticket::{Ticket, TicketSecret};
use serde::{Deserialize, Serialize};

/// Who else than workers on the session's own host may take part, and on what terms.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// `None`: no standby is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standbys: Option<StandbyTerms>,
    /// Where no server runs: what pg_control must be, so that nothing is read but copies of one directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offline_control: Option<u32>,
    /// `None`: who reads computes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offload: Option<ClusterTerms>,
}

impl Reading {
    /// Nobody else takes part.
    pub fn is_default(&self) -> bool {
        *self == Reading::default()
    }
}

/// What a standby must be before any of its files is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandbyTerms {
    pub system_id: SystemId,
    pub timeline: TimelineId,
    /// Replayed: the record of the checkpoint that began the backup, or of a later one.
    pub checkpoint: Lsn,
    /// Flushed: its own restart point is from here, or later.
    pub start: Lsn,
}

/// What there is to know of a cluster for who sees nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterTerms {
    pub version: PgVersion,
    pub page_size: u32,
    pub relation_segment_blocks: u32,
    pub check_pages: bool,
}

/// What a worker is to a job. It says so once it is prepared, before it asks for units, and again in its hello.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// It reads the data directory of the session's server.
    Primary { serves: Option<Serving> },
    /// It reads that of a standby.
    Standby { incarnation: Incarnation, serves: Option<Serving> },
    /// It reads what sources serve.
    Compute,
}

impl Standing {
    pub fn serves(&self) -> Option<&Serving> {
        match self {
            Standing::Primary { serves } | Standing::Standby { serves, .. } => serves.as_ref(),
            Standing::Compute => None,
        }
    }
}

/// One start of a standby, as it was proved fit. While it is the same, it was never promoted and its files were its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Incarnation {
    /// Of the postmaster, in microseconds since 1970.
    pub started_us: i64,
    pub timeline: TimelineId,
}

/// Which standby's bytes were read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FromStandby {
    /// Who sees it.
    pub worker: WorkerName,
    pub incarnation: Incarnation,
}

/// Where a source hands out ranges of a job's files, and what tickets for it are made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    pub address: String,
    pub secret: TicketSecret,
}

/// Where the worker of a unit gets its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteSource {
    /// Whose certificate is to be found there.
    pub worker: WorkerName,
    pub address: String,
    pub ticket: Ticket,
    /// What the bytes come from, if that is a standby.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby: Option<Incarnation>,
}

/// Whether a standby is still what receipts say that it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfirmOrder {
    pub round: u32,
    pub incarnation: Incarnation,
    pub terms: StandbyTerms,
}
