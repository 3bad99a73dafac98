//! Recovery after a restore: how far it goes, what PostgreSQL is told, and which backup it can begin with.

mod choice;
mod files;
mod target;

pub use choice::{Misfit, NeededTimeline, Timelines, misfit, needed_timeline};
pub use files::{
    RECOVERY_SIGNAL, RecoveryFiles, STANDBY_SIGNAL, recovery_files, restore_command, rewrite_auto_conf,
};
pub use target::{RecoveryTarget, TARGET_TYPES, TargetAction, TargetTime, TargetTimeline};

use crate::failure::{Classify, ErrorCode};
use crate::pg::{PgVersion, ReplayEnd};
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryOptions {
    pub target: RecoveryTarget,
    pub action: Option<TargetAction>,
    /// It ends just before the target, not just after it.
    pub exclusive: bool,
    /// `None`: PostgreSQL's default, by version and target.
    pub timeline: Option<TargetTimeline>,
    /// Settings of the user's, which are stronger than ours.
    pub more: BTreeMap<String, String>,
    /// The restored cluster archives nothing.
    pub archive_off: bool,
    pub restore_command: String,
}

/// How the names of all settings begin that say where recovery ends, and on which timeline.
const TARGET_SETTINGS: &str = "recovery_target";

/// How far replay goes at the most, as far as that is sure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// Not beyond the WAL that the backup needs.
    pub ends_with_backup: bool,
    pub end: ReplayEnd,
    /// `None`: any that PostgreSQL may find.
    pub timeline: Option<TargetTimeline>,
}

impl Reach {
    pub fn has_end(&self) -> bool {
        self.ends_with_backup || self.end != ReplayEnd::Open
    }
}

impl RecoveryOptions {
    pub fn new(target: RecoveryTarget, restore_command: String) -> RecoveryOptions {
        RecoveryOptions {
            target,
            action: None,
            exclusive: false,
            timeline: None,
            more: BTreeMap::new(),
            archive_off: false,
            restore_command,
        }
    }

    /// How far replay goes at the most.
    pub fn reach(&self) -> Reach {
        // Settings of the user's replace ours, and say anything.
        if self.more.keys().any(|name| name.starts_with(TARGET_SETTINGS)) {
            return Reach { ends_with_backup: false, end: ReplayEnd::Open, timeline: None };
        }
        let ends_with_backup = self.target == RecoveryTarget::Immediate;
        Reach { ends_with_backup, end: self.target.replay_end(), timeline: self.timeline }
    }

    /// Options that contradict each other, whatever the version.
    pub fn check(&self) -> Result<(), RecoveryError> {
        let refused = |option| Err(RecoveryError::OptionUnwanted { option, kind: self.target.name() });
        if self.action.is_some() && !self.target.has_end() {
            return refused("target-action");
        }
        if self.exclusive && !self.target.may_be_exclusive() {
            return refused("target-exclusive");
        }
        if self.timeline.is_some()
            && (!self.target.uses_archive() || self.target == RecoveryTarget::Immediate)
        {
            return refused("target-timeline");
        }
        if !self.more.is_empty() && !self.target.uses_archive() {
            return refused("recovery-option");
        }
        match self.more.keys().find(|name| !is_setting_name(name)) {
            Some(name) => Err(RecoveryError::BadSetting(name.clone())),
            None => Ok(()),
        }
    }
}

fn is_setting_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryError {
    #[error("'{0}' is not a recovery type")]
    UnknownKind(String),
    #[error("'{0}' is not a target action")]
    UnknownAction(String),
    #[error("'{0}' is not a timeline")]
    UnknownTimeline(String),
    #[error("--type={0} requires option: --target")]
    TargetMissing(String),
    #[error("option '--target' not valid with --type={0}")]
    TargetUnwanted(String),
    #[error("'{text}' is not allowed for '--target' option with --type={kind}: {reason}")]
    BadTarget { kind: String, text: String, reason: &'static str },
    #[error("option '--{option}' not valid with --type={kind}")]
    OptionUnwanted { option: &'static str, kind: &'static str },
    #[error("'{0}' is not the name of a setting of PostgreSQL's")]
    BadSetting(String),
    #[error("--archive-mode=off is not possible with PostgreSQL {0}")]
    ArchiveModeTooOld(PgVersion),
    #[error("standby_mode is no setting of PostgreSQL {0}")]
    StandbyModeTooNew(PgVersion),
}

impl Classify for RecoveryError {
    fn code(&self) -> ErrorCode {
        match self {
            RecoveryError::TargetMissing(_) => ErrorCode::OptionRequired,
            RecoveryError::TargetUnwanted(_)
            | RecoveryError::OptionUnwanted { .. }
            | RecoveryError::ArchiveModeTooOld(_)
            | RecoveryError::StandbyModeTooNew(_) => ErrorCode::OptionInvalid,
            _ => ErrorCode::OptionInvalidValue,
        }
    }

    fn hints(&self) -> Vec<String> {
        vec![match self {
            RecoveryError::UnknownKind(_) => format!("use one of {}", TARGET_TYPES.join(", ")),
            RecoveryError::UnknownAction(_) => "use pause, promote or shutdown".into(),
            RecoveryError::UnknownTimeline(_) => "use latest, current, or a number such as 3 or 0x3".into(),
            RecoveryError::TargetMissing(_) => "say how far to recover, as in --target=...".into(),
            RecoveryError::TargetUnwanted(_) => "--target goes with --type=lsn, name, time or xid".into(),
            RecoveryError::BadTarget { .. } => "pgconvoy help restore target shows the forms".into(),
            RecoveryError::OptionUnwanted { option: "target-action", .. } => {
                "it goes with --type=immediate, lsn, name, time or xid".into()
            }
            RecoveryError::OptionUnwanted { option: "target-exclusive", .. } => {
                "it goes with --type=lsn, time or xid".into()
            }
            RecoveryError::OptionUnwanted { .. } => "leave it out".into(),
            RecoveryError::BadSetting(_) => "names have small letters, digits and underscores".into(),
            RecoveryError::ArchiveModeTooOld(_) => {
                "set archive_mode in its postgresql.conf before it is started".into()
            }
            RecoveryError::StandbyModeTooNew(_) => "use --type=standby".into(),
        }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_users_own_leave_nothing_sure_of_where_replay_ends() {
        let mut options = RecoveryOptions::new(RecoveryTarget::Xid((1 << 32) + 7), String::new());
        options.timeline = Some(TargetTimeline::Current);
        let sure = Reach {
            ends_with_backup: false,
            end: ReplayEnd::Transaction(7),
            timeline: Some(TargetTimeline::Current),
        };
        options.more.insert("primary_conninfo".into(), "host=db1".into());
        assert_eq!(options.reach(), sure);
        let unsure = Reach { ends_with_backup: false, end: ReplayEnd::Open, timeline: None };
        for name in ["recovery_target_lsn", "recovery_target_timeline", "recovery_target"] {
            let mut overruled = options.clone();
            overruled.more.insert(name.into(), "1/0".into());
            assert_eq!(overruled.reach(), unsure, "{name}");
        }
        let mut immediate = RecoveryOptions::new(RecoveryTarget::Immediate, String::new());
        assert!(immediate.reach().ends_with_backup);
        immediate.more.insert("recovery_target".into(), String::new());
        assert_eq!(immediate.reach(), unsure);
    }

    #[test]
    fn options_that_contradict_the_target_are_refused() {
        let plain = |target| RecoveryOptions::new(target, String::new());
        let with_action = |target| RecoveryOptions { action: Some(TargetAction::Pause), ..plain(target) };
        assert!(with_action(RecoveryTarget::Immediate).check().is_ok());
        let refused = Err(RecoveryError::OptionUnwanted { option: "target-action", kind: "default" });
        assert_eq!(with_action(RecoveryTarget::Default).check(), refused);
        let exclusive = |target| RecoveryOptions { exclusive: true, ..plain(target) }.check();
        assert!(
            exclusive(RecoveryTarget::Xid(1)).is_ok() && exclusive(RecoveryTarget::Name("a".into())).is_err()
        );
        let timeline =
            |target| RecoveryOptions { timeline: Some(TargetTimeline::Latest), ..plain(target) }.check();
        assert!(timeline(RecoveryTarget::Standby).is_ok() && timeline(RecoveryTarget::Immediate).is_err());
        let mut odd = plain(RecoveryTarget::Default);
        odd.more.insert("x' = 'y".into(), String::new());
        assert_eq!(odd.check(), Err(RecoveryError::BadSetting("x' = 'y".into())));
    }
}
