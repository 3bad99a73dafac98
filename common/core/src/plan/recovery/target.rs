//! How far PostgreSQL is to recover, as it is typed.

use super::RecoveryError;
use crate::pg::{Lsn, ReplayEnd, TimelineId};
use crate::units::Timestamp;
use std::str::FromStr;

/// The longest name that a restore point can have.
const NAME_BYTES_MAX: usize = 63;

/// How far PostgreSQL recovers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecoveryTarget {
    /// To the end of the archive.
    Default,
    /// Until the backup is consistent.
    Immediate,
    /// A position in the WAL.
    Lsn(Lsn),
    /// A restore point that somebody named.
    Name(String),
    Time(TargetTime),
    /// Until that transaction has ended.
    Xid(u64),
    /// For ever: it follows whatever the archive, or a primary, gets.
    Standby,
    /// Recovery settings and signal files stay as they are, in the target or in the backup.
    Preserve,
    /// No recovery settings at all: only what lies in pg_wal is replayed.
    None,
}

/// A moment, and the same in words that PostgreSQL cannot take for another one: in UTC, to the microsecond.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetTime {
    /// Rounded down.
    pub moment: Timestamp,
    pub text: String,
}

/// Targets by the name that `--type` has for them.
pub const TARGET_TYPES: [&str; 9] =
    ["default", "immediate", "lsn", "name", "time", "xid", "standby", "preserve", "none"];

impl RecoveryTarget {
    /// `kind` and `target` as typed. `moment` reads a time, which may need to know where it is read.
    pub fn parse(
        kind: &str,
        target: Option<&str>,
        moment: impl FnOnce(&str) -> Option<TargetTime>,
    ) -> Result<RecoveryTarget, RecoveryError> {
        let needed = || target.ok_or_else(|| RecoveryError::TargetMissing(kind.to_owned()));
        let bad = |reason: &'static str| {
            let text = target.unwrap_or_default().to_owned();
            RecoveryError::BadTarget { kind: kind.to_owned(), text, reason }
        };
        let without_target = |parsed| match target {
            None => Ok(parsed),
            Some(_) => Err(RecoveryError::TargetUnwanted(kind.to_owned())),
        };
        match kind {
            "default" => without_target(RecoveryTarget::Default),
            "immediate" => without_target(RecoveryTarget::Immediate),
            "standby" => without_target(RecoveryTarget::Standby),
            "preserve" => without_target(RecoveryTarget::Preserve),
            "none" => without_target(RecoveryTarget::None),
            "lsn" => {
                let lsn = needed()?.parse().map_err(|_| bad("write it as PostgreSQL does: 16/B374D848"))?;
                Ok(RecoveryTarget::Lsn(lsn))
            }
            "name" => match needed()? {
                name if name.is_empty() || name.len() > NAME_BYTES_MAX => {
                    Err(bad("the name of a restore point has 1 to 63 bytes"))
                }
                name => Ok(RecoveryTarget::Name(name.to_owned())),
            },
            "time" => {
                let reason =
                    "write YYYY-MM-DD HH:MM:SS, with a fraction and an offset such as +02 if there are any";
                moment(needed()?).map(RecoveryTarget::Time).ok_or_else(|| bad(reason))
            }
            "xid" => {
                Ok(RecoveryTarget::Xid(needed()?.parse().map_err(|_| bad("it is no transaction number"))?))
            }
            other => Err(RecoveryError::UnknownKind(other.to_owned())),
        }
    }

    pub const fn name(&self) -> &'static str {
        match self {
            RecoveryTarget::Default => "default",
            RecoveryTarget::Immediate => "immediate",
            RecoveryTarget::Lsn(_) => "lsn",
            RecoveryTarget::Name(_) => "name",
            RecoveryTarget::Time(_) => "time",
            RecoveryTarget::Xid(_) => "xid",
            RecoveryTarget::Standby => "standby",
            RecoveryTarget::Preserve => "preserve",
            RecoveryTarget::None => "none",
        }
    }

    /// It ends somewhere, and something is done there.
    pub const fn has_end(&self) -> bool {
        matches!(
            self,
            RecoveryTarget::Immediate
                | RecoveryTarget::Lsn(_)
                | RecoveryTarget::Name(_)
                | RecoveryTarget::Time(_)
                | RecoveryTarget::Xid(_)
        )
    }

    /// It may end just before or just after what it names.
    pub const fn may_be_exclusive(&self) -> bool {
        matches!(self, RecoveryTarget::Lsn(_) | RecoveryTarget::Time(_) | RecoveryTarget::Xid(_))
    }

    /// By what in the WAL PostgreSQL will know that it has arrived.
    pub(super) fn replay_end(&self) -> ReplayEnd {
        match self {
            RecoveryTarget::Lsn(lsn) => ReplayEnd::Lsn(*lsn),
            RecoveryTarget::Time(time) => ReplayEnd::Time(time.moment),
            RecoveryTarget::Name(name) => ReplayEnd::Name(name.clone()),
            // PostgreSQL takes what fits its own numbers, which begin anew after 32 bits.
            RecoveryTarget::Xid(number) => {
                let low = u32::try_from(number & u64::from(u32::MAX)).expect("it was cut to 32 bits");
                ReplayEnd::Transaction(low)
            }
            // The end of the backup is no record's own.
            RecoveryTarget::Immediate
            | RecoveryTarget::Default
            | RecoveryTarget::Standby
            | RecoveryTarget::Preserve
            | RecoveryTarget::None => ReplayEnd::Open,
        }
    }

    /// PostgreSQL is told to fetch WAL from the archive.
    pub const fn uses_archive(&self) -> bool {
        !matches!(self, RecoveryTarget::Preserve | RecoveryTarget::None)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetAction {
    Pause,
    Promote,
    Shutdown,
}

impl TargetAction {
    pub const fn name(self) -> &'static str {
        match self {
            TargetAction::Pause => "pause",
            TargetAction::Promote => "promote",
            TargetAction::Shutdown => "shutdown",
        }
    }
}

impl FromStr for TargetAction {
    type Err = RecoveryError;
    fn from_str(text: &str) -> Result<Self, RecoveryError> {
        [TargetAction::Pause, TargetAction::Promote, TargetAction::Shutdown]
            .into_iter()
            .find(|action| action.name() == text)
            .ok_or_else(|| RecoveryError::UnknownAction(text.to_owned()))
    }
}

/// The timeline at which recovery is to arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetTimeline {
    /// The newest that PostgreSQL finds in the archive.
    Latest,
    /// The one that the backup was made on.
    Current,
    Number(TimelineId),
}

impl FromStr for TargetTimeline {
    type Err = RecoveryError;

    /// As PostgreSQL reads it: a number may be hexadecimal with 0x.
    fn from_str(text: &str) -> Result<Self, RecoveryError> {
        let number = match text {
            "latest" => return Ok(TargetTimeline::Latest),
            "current" => return Ok(TargetTimeline::Current),
            _ => match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
                Some(digits) => u32::from_str_radix(digits, 16),
                None => text.parse(),
            },
        };
        match number {
            Ok(number) if number > 0 => Ok(TargetTimeline::Number(TimelineId(number))),
            _ => Err(RecoveryError::UnknownTimeline(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_noon(text: &str) -> Option<TargetTime> {
        (text == "noon").then(|| TargetTime { moment: Timestamp(12), text: "12:00+00".into() })
    }

    fn parse(kind: &str, target: Option<&str>) -> Result<RecoveryTarget, RecoveryError> {
        RecoveryTarget::parse(kind, target, at_noon)
    }

    #[test]
    fn every_type_is_read_and_says_its_name() {
        for kind in TARGET_TYPES {
            let target = match kind {
                "lsn" => Some("16/B374D848"),
                "name" => Some("before the upgrade"),
                "time" => Some("noon"),
                "xid" => Some("739"),
                _ => None,
            };
            let parsed = parse(kind, target).expect(kind);
            assert_eq!(parsed.name(), kind);
            let other = if target.is_some() { None } else { Some("x") };
            assert!(parse(kind, other).is_err(), "{kind} with {other:?}");
        }
        assert_eq!(parse("tomorrow", None), Err(RecoveryError::UnknownKind("tomorrow".into())));
    }

    #[test]
    fn a_target_that_postgresql_would_refuse_is_refused_before_anything_is_written() {
        let long = "x".repeat(64);
        for (kind, target) in
            [("lsn", "16B374D848"), ("name", ""), ("name", long.as_str()), ("time", "tea"), ("xid", "-1")]
        {
            assert!(
                matches!(parse(kind, Some(target)), Err(RecoveryError::BadTarget { .. })),
                "{kind} {target}"
            );
        }
    }

    #[test]
    fn a_timeline_is_a_word_or_a_number() {
        assert_eq!("latest".parse(), Ok(TargetTimeline::Latest));
        assert_eq!("current".parse(), Ok(TargetTimeline::Current));
        assert_eq!("7".parse(), Ok(TargetTimeline::Number(TimelineId(7))));
        assert_eq!("0x1f".parse(), Ok(TargetTimeline::Number(TimelineId(31))));
        for bad in ["0", "", "newest", "0x", "-1"] {
            assert!(bad.parse::<TargetTimeline>().is_err(), "{bad}");
        }
    }
}
