//! Whether recovery can begin with a backup and arrive at its target: not past it, and by a way that the timelines allow.
//!
//! Source: PostgreSQL looks for the latest timeline by asking for one history file after the other from the backup's own
//! timeline on (`findNewestTimeLine` in `access/transam/timeline.c`), and refuses a target timeline that left the backup's
//! before the backup was consistent (`xlogrecovery.c`).

use super::{RecoveryOptions, RecoveryTarget, TargetTimeline};
use crate::format::catalogue::BackupRecord;
use crate::pg::{Lsn, TimelineHistory, TimelineId};
use std::collections::BTreeMap;
use std::fmt;

/// Histories of timelines, as far as they are in the archive. Timeline 1 has none and needs none.
#[derive(Debug, Clone, Default)]
pub struct Timelines(pub BTreeMap<TimelineId, TimelineHistory>);

/// What must be known of the archive's timelines before a backup can be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeededTimeline {
    /// Nothing: recovery stays on the backup's own.
    Own,
    /// All that follow the backup's, one by one until one is missing.
    AllAfter(TimelineId),
    This(TimelineId),
}

/// Why a backup cannot be the beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misfit {
    /// It was consistent at or after the target.
    TooLate { reached: String },
    /// The target timeline has no history in the archive.
    UnknownTimeline(TimelineId),
    /// The way to the target timeline left the backup's own before the backup was consistent, or never passes it.
    OtherBranch { target: TimelineId, fork: Option<Lsn> },
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Misfit::TooLate { reached } => write!(f, "it ends at {reached}, which is not before the target"),
            Misfit::UnknownTimeline(timeline) => {
                write!(f, "timeline {timeline} has no history file in the archive")
            }
            Misfit::OtherBranch { target, fork: Some(fork) } => {
                write!(f, "timeline {target} left its timeline at {fork}, before the backup ended")
            }
            Misfit::OtherBranch { target, fork: None } => {
                write!(f, "its timeline is no ancestor of timeline {target}")
            }
        }
    }
}

pub fn needed_timeline(record: &BackupRecord, options: &RecoveryOptions) -> NeededTimeline {
    if !options.target.uses_archive() || options.target == RecoveryTarget::Immediate || !record.online {
        return NeededTimeline::Own;
    }
    let default = match record.version.uses_recovery_conf() && options.target != RecoveryTarget::Standby {
        true => TargetTimeline::Current,
        false => TargetTimeline::Latest,
    };
    match options.timeline.unwrap_or(default) {
        TargetTimeline::Current => NeededTimeline::Own,
        TargetTimeline::Latest => NeededTimeline::AllAfter(record.timeline),
        TargetTimeline::Number(timeline) if timeline == record.timeline => NeededTimeline::Own,
        TargetTimeline::Number(timeline) => NeededTimeline::This(timeline),
    }
}

/// What keeps the backup from being the beginning; `None`: it fits.
pub fn misfit(record: &BackupRecord, options: &RecoveryOptions, timelines: &Timelines) -> Option<Misfit> {
    too_late(record, &options.target).or_else(|| off_the_way(record, options, timelines))
}

fn too_late(record: &BackupRecord, target: &RecoveryTarget) -> Option<Misfit> {
    let reached = match target {
        // Its last transaction may have ended in the very moment that the backup did.
        RecoveryTarget::Time(time) if record.stopped >= time.moment => record.stopped.to_string(),
        RecoveryTarget::Lsn(lsn) => record.lsn_stop.filter(|stop| stop > lsn)?.to_string(),
        _ => return None,
    };
    Some(Misfit::TooLate { reached })
}

fn off_the_way(record: &BackupRecord, options: &RecoveryOptions, timelines: &Timelines) -> Option<Misfit> {
    let target = match needed_timeline(record, options) {
        NeededTimeline::Own => return None,
        NeededTimeline::This(timeline) => timeline,
        NeededTimeline::AllAfter(own) => timelines.newest_after(own).filter(|newest| *newest != own)?,
    };
    let Some(history) = timelines.0.get(&target) else { return Some(Misfit::UnknownTimeline(target)) };
    let stop = record.lsn_stop?;
    (!history.contains(record.timeline, stop))
        .then(|| Misfit::OtherBranch { target, fork: history.fork_point(record.timeline) })
}

impl Timelines {
    /// As PostgreSQL finds it: the last before the first that is missing.
    fn newest_after(&self, own: TimelineId) -> Option<TimelineId> {
        let numbers = own.0.checked_add(1)?..;
        Some(numbers.map(TimelineId).take_while(|next| self.0.contains_key(next)).last().unwrap_or(own))
    }
}

#[cfg(test)]
mod tests;
