//! What to think of backups that others have begun in a repository and not decided: remains of a dead one, or a rival.
//!
//! Hosts without a common lease store meet only in the repository. Each writes its plan, then looks for others, so of two
//! that begin at once at least one sees the other. The earlier label has the right of way; whoever is later withdraws by a
//! void record. The earlier one cannot know that it was seen, so it goes on only when the rival is gone.
//!
//! Invariant: of two backups that share a repository at most one goes on. Both may withdraw; none is lost by it.

use crate::format::BackupLabel;
use crate::format::plan::{PlanBody, Writer};
use crate::plan::leftover::Leftover;

/// A label that has objects but no published entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    pub label: BackupLabel,
    /// Already given up, perhaps not wholly swept.
    pub is_void: bool,
    /// The newest one; `None` if it cannot be read.
    pub plan: Option<PlanBody>,
    /// Who put the newest heartbeat: after a change of leader not who wrote the plan.
    pub beating: Option<Writer>,
    /// Its manifest is there: only whoever wrote that can publish it.
    pub has_manifest: bool,
}

impl Begun {
    /// What this very process has begun is over: it holds the stanza's lock for one backup at a time.
    fn is_proved_dead(&self, ours: &Writer, process_runs: impl Fn(u32) -> bool) -> bool {
        let is_over = |writer: &Writer| writer == ours || writer.is_proved_dead(ours, &process_runs);
        self.writer().is_some_and(is_over)
    }

    /// What a new backup can go on with, once its writer is dead.
    pub fn leftover(&self) -> Option<Leftover> {
        let plan = self.plan.as_ref().filter(|_| !self.is_void && !self.has_manifest)?;
        Some(Leftover::from(plan))
    }

    /// Who works at it, or did last.
    pub fn writer(&self) -> Option<&Writer> {
        self.beating.as_ref().or(self.plan.as_ref().map(|plan| &plan.writer))
    }
}

/// What to do about what an earlier backup left, before a new one begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remains {
    /// Given up already: its objects can go.
    Sweep,
    /// Its writer is dead: give it up, then sweep.
    GiveUp,
    /// Its writer may live: watch for heartbeats, and give it up if none comes.
    Watch,
}

pub fn judge_remains(begun: &Begun, ours: &Writer, process_runs: impl Fn(u32) -> bool) -> Remains {
    if begun.is_void {
        Remains::Sweep
    } else if begun.is_proved_dead(ours, process_runs) {
        Remains::GiveUp
    } else {
        Remains::Watch
    }
}

/// Whether a backup whose plan is written may begin to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contest {
    /// Nobody else is there.
    Clear,
    /// A later one is, which withdraws as soon as it looks.
    Wait(Begun),
    /// This one withdraws.
    Withdraw(Begun),
}

/// `begun` is what is undecided in the repository now, our own label included or not.
pub fn contest(
    own: BackupLabel,
    begun: &[Begun],
    ours: &Writer,
    process_runs: impl Fn(u32) -> bool,
    is_out_of_patience: bool,
) -> Contest {
    let is_rival =
        |begun: &&Begun| begun.label != own && !begun.is_void && !begun.is_proved_dead(ours, &process_runs);
    let Some(first) = begun.iter().filter(is_rival).min_by_key(|begun| begun.label) else {
        return Contest::Clear;
    };
    if first.label < own || is_out_of_patience {
        Contest::Withdraw(first.clone())
    } else {
        Contest::Wait(first.clone())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
    use super::*;
    use crate::format::BackupKind;
    use crate::ids::{Identity, PlanNumber};
    use crate::units::Timestamp;

    fn label(second: u8) -> BackupLabel {
        format!("20261122-1030{second:02}F").parse().unwrap()
    }

    fn writer(host: &str) -> Writer {
        Writer { host: host.into(), boot: "b".into(), process: 7 }
    }

    fn begun(second: u8, host: &str) -> Begun {
        by(second, writer(host))
    }

    fn by(second: u8, writer: Writer) -> Begun {
        let label = label(second);
        let plan = PlanBody {
            label,
            backup: Identity::default(),
            kind: BackupKind::Full,
            number: PlanNumber(1),
            writer,
            written: Timestamp(0),
            references: Vec::new(),
            unit_size: 0,
            units: 0,
            files: 0,
            bytes: 0,
        };
        Begun { label, is_void: false, plan: Some(plan), beating: None, has_manifest: false }
    }

    fn verdict(own: u8, others: &[Begun], is_out_of_patience: bool) -> Contest {
        contest(label(own), others, &writer("here"), |_| false, is_out_of_patience)
    }

    #[test]
    fn alone_or_among_dead_and_void_ones_the_way_is_clear() {
        let void = Begun { is_void: true, ..begun(1, "there") };
        let mine = begun(2, "here");
        assert_eq!(verdict(2, &[void, mine, begun(3, "here")], false), Contest::Clear);
    }

    #[test]
    fn the_later_of_two_withdraws_and_the_earlier_one_waits_for_that() {
        let (early, late) = (begun(1, "there"), begun(3, "there"));
        assert_eq!(verdict(2, std::slice::from_ref(&early), false), Contest::Withdraw(early.clone()));
        assert_eq!(verdict(2, std::slice::from_ref(&late), false), Contest::Wait(late.clone()));
        assert_eq!(verdict(2, &[late, early.clone()], false), Contest::Withdraw(early));
    }

    #[test]
    fn a_rival_that_stays_makes_the_earlier_one_withdraw_too() {
        let late = begun(3, "there");
        assert_eq!(verdict(2, std::slice::from_ref(&late), true), Contest::Withdraw(late));
    }

    #[test]
    fn one_whose_plan_cannot_be_read_counts_as_alive() {
        let unread = Begun { plan: None, ..begun(1, "there") };
        assert_eq!(verdict(2, std::slice::from_ref(&unread), false), Contest::Withdraw(unread.clone()));
        assert_eq!(judge_remains(&unread, &writer("here"), |_| false), Remains::Watch);
    }

    #[test]
    fn a_backup_whose_first_coordinator_died_lives_as_long_as_the_one_that_leads_it_now() {
        let died_here = by(1, Writer { process: 8, ..writer("here") });
        assert_eq!(judge_remains(&died_here, &writer("here"), |_| false), Remains::GiveUp);
        let led_elsewhere = Begun { beating: Some(writer("there")), ..died_here };
        assert_eq!(judge_remains(&led_elsewhere, &writer("here"), |_| false), Remains::Watch);
        assert_eq!(verdict(2, std::slice::from_ref(&led_elsewhere), false), Contest::Withdraw(led_elsewhere));
    }

    #[test]
    fn remains_of_a_dead_writer_are_given_up_and_void_ones_are_swept() {
        let remains = |begun: &Begun, runs| judge_remains(begun, &writer("here"), |_| runs);
        let other_process = by(1, Writer { process: 8, ..writer("here") });
        assert_eq!(remains(&other_process, true), Remains::Watch);
        assert_eq!(remains(&other_process, false), Remains::GiveUp);
        assert_eq!(remains(&begun(1, "here"), true), Remains::GiveUp, "of an earlier backup of this process");
        assert_eq!(remains(&begun(1, "there"), false), Remains::Watch);
        assert_eq!(remains(&Begun { is_void: true, ..begun(1, "there") }, true), Remains::Sweep);
    }
}
