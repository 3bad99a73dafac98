//! What stays of a plan: enough to know whose packs these are, and what they rest on.

use super::{BackupKind, BackupLabel};
use crate::ids::{Identity, PlanNumber};
use crate::units::Timestamp;
use serde::{Deserialize, Serialize};

/// Which process on which host writes a backup. On the same host a lock file tells whether it lives; elsewhere its
/// heartbeats do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Writer {
    pub host: String,
    /// Tells hosts of the same name apart, a host from itself before a restart, and containers of one host from each other.
    pub boot: String,
    pub process: u32,
}

impl Writer {
    /// Whether this writer cannot be alive any more, as far as its own host can tell: same kernel, same process numbers, and
    /// no process of that number. Anything else must be watched for heartbeats.
    pub fn is_proved_dead(&self, ours: &Writer, process_runs: impl FnOnce(u32) -> bool) -> bool {
        self.host == ours.host && self.boot == ours.boot && !process_runs(self.process)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PlanBody {
    pub label: BackupLabel,
    pub backup: Identity,
    pub kind: BackupKind,
    pub number: PlanNumber,
    pub writer: Writer,
    pub written: Timestamp,
    /// Every label that any block map of this plan's packs may refer to.
    pub references: Vec<BackupLabel>,
    pub unit_size: u64,
    pub units: u32,
    pub files: u64,
    pub bytes: u64,
}

impl PlanBody {
    /// What is told of the same attempt in two repositories: when it was written, and what it rests on, are each one's own.
    pub fn is_same_plan(&self, other: &PlanBody) -> bool {
        (self.label, self.number, self.backup) == (other.label, other.number, other.backup)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HeartbeatBody {
    pub writer: Writer,
    pub sequence: u64,
}

/// A backup that another repository has published is being copied under its label. Written before anything else of the copy: a
/// label that has it belongs to the next copy of that backup, however dead the one that wrote it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CopyBody {
    pub label: BackupLabel,
    pub backup: Identity,
    /// The repository that it comes from.
    pub source: Identity,
    pub writer: Writer,
    pub begun: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_that_this_very_host_does_not_have_is_proved_dead() {
        let writer = |host: &str, boot: &str| Writer { host: host.into(), boot: boot.into(), process: 7 };
        let ours = Writer { process: 8, ..writer("a", "1") };
        assert!(writer("a", "1").is_proved_dead(&ours, |_| false));
        assert!(!writer("a", "1").is_proved_dead(&ours, |_| true));
        assert!(!writer("a", "2").is_proved_dead(&ours, |_| false), "a twin of the same name");
        assert!(!writer("b", "1").is_proved_dead(&ours, |_| false));
    }
}
