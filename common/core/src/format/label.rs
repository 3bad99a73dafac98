//! Backup labels: `20261122-103000F`, `20261122-103000F_20261123-103000D` or `..I`, in UTC.
//!
//! Invariant: a new label sorts after every label of the stanza in every repository, even if the clock went back;
//! both as text and by the time of its last part.

use crate::ids::IdError;
use crate::units::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupKind {
    Full,
    Diff,
    Incr,
}

impl BackupKind {
    pub const fn name(self) -> &'static str {
        match self {
            BackupKind::Full => "full",
            BackupKind::Diff => "diff",
            BackupKind::Incr => "incr",
        }
    }

    const fn letter(self) -> char {
        match self {
            BackupKind::Full => 'F',
            BackupKind::Diff => 'D',
            BackupKind::Incr => 'I',
        }
    }
}

impl fmt::Display for BackupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Seconds since 1970, printed as `YYYYMMDD-HHMMSS`. Fifteen characters as long as the year has four digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct LabelTime(i64);

const LABEL_TIME: &str = "%Y%m%d-%H%M%S";
const LABEL_TIME_CHARS: usize = 15;

impl LabelTime {
    fn parse(text: &str) -> Option<LabelTime> {
        let plain = text.len() == LABEL_TIME_CHARS
            && text
                .bytes()
                .enumerate()
                .all(|(at, byte)| if at == 8 { byte == b'-' } else { byte.is_ascii_digit() });
        if !plain {
            return None;
        }
        let moment = jiff::civil::DateTime::strptime(LABEL_TIME, text).ok()?;
        let zoned = moment.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
        let time = LabelTime(zoned.timestamp().as_second());
        (time.to_string() == text).then_some(time)
    }
}

impl fmt::Display for LabelTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Timestamp::from_seconds(self.0).to_utc().strftime(LABEL_TIME))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupLabel {
    full: LabelTime,
    child: Option<(LabelTime, BackupKind)>,
}

impl BackupLabel {
    pub const fn kind(&self) -> BackupKind {
        match self.child {
            None => BackupKind::Full,
            Some((_, kind)) => kind,
        }
    }

    /// The full backup that this one rests on; itself, if it is one.
    pub const fn full(&self) -> BackupLabel {
        BackupLabel { full: self.full, child: None }
    }

    pub const fn is_full(&self) -> bool {
        self.child.is_none()
    }

    /// When it was made, in seconds since 1970: labels are in this order, whatever they rest on.
    pub const fn made(&self) -> i64 {
        self.own_time().0
    }

    const fn own_time(&self) -> LabelTime {
        match self.child {
            None => self.full,
            Some((time, _)) => time,
        }
    }

    /// The label of a new backup. `existing` are all labels of the stanza in all repositories: published, void, unfinished.
    pub fn next(
        kind: BackupKind,
        prior: Option<BackupLabel>,
        now: Timestamp,
        existing: impl IntoIterator<Item = BackupLabel>,
    ) -> BackupLabel {
        let newest = existing.into_iter().map(|label| label.own_time().0).max();
        let time = LabelTime(newest.map_or(now.seconds(), |newest| now.seconds().max(newest + 1)));
        match prior {
            Some(prior) if kind != BackupKind::Full => {
                BackupLabel { full: prior.full, child: Some((time, kind)) }
            }
            _ => BackupLabel { full: time, child: None },
        }
    }
}

impl fmt::Display for BackupLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}F", self.full)?;
        match self.child {
            None => Ok(()),
            Some((time, kind)) => write!(f, "_{time}{}", kind.letter()),
        }
    }
}

impl fmt::Debug for BackupLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for BackupLabel {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let error = || IdError {
            what: "backup label",
            text: text.to_owned(),
            reason: "it is not of the form YYYYMMDD-HHMMSSF or YYYYMMDD-HHMMSSF_YYYYMMDD-HHMMSSD (or I)",
        };
        let (full, child) = match text.split_once('_') {
            None => (text, None),
            Some((full, child)) => (full, Some(child)),
        };
        let full = full.strip_suffix('F').and_then(LabelTime::parse).ok_or_else(error)?;
        let child = match child {
            None => None,
            Some(child) => {
                let (kind, time) = [BackupKind::Diff, BackupKind::Incr]
                    .into_iter()
                    .find_map(|kind| child.strip_suffix(kind.letter()).map(|time| (kind, time)))
                    .ok_or_else(error)?;
                Some((LabelTime::parse(time).ok_or_else(error)?, kind))
            }
        };
        Ok(BackupLabel { full, child })
    }
}

impl TryFrom<String> for BackupLabel {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<BackupLabel> for String {
    fn from(label: BackupLabel) -> String {
        label.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn labels_read_and_print_alike_and_others_are_refused() {
        for text in
            ["20261122-103000F", "20261122-103000F_20261123-103000D", "20261122-103000F_20261123-103000I"]
        {
            assert_eq!(text.parse::<BackupLabel>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "20261122-103000",
            "20261322-103000F",
            "20261122-103000D",
            "20261122-103000F_",
            "2026112-1030000F",
            "20261122-103000F_20261123-103000F",
            "20261122-240000F",
            "../../etc/passwdF",
        ] {
            assert!(text.parse::<BackupLabel>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_label_moves_on_when_the_clock_went_back() {
        let newest: BackupLabel = "20261122-103000F_20261123-103000I".parse().unwrap();
        let next = BackupLabel::next(BackupKind::Full, None, Timestamp(0), [newest]);
        assert_eq!(next.to_string(), "20261123-103001F");
    }

    fn any_label() -> impl Strategy<Value = BackupLabel> {
        (0i64..4_000_000_000, prop::option::of((0i64..4_000_000_000, any::<bool>()))).prop_map(
            |(full, child)| BackupLabel {
                full: LabelTime(full),
                child: child.map(|(time, diff)| {
                    (
                        LabelTime(full + time % 1_000_000),
                        if diff { BackupKind::Diff } else { BackupKind::Incr },
                    )
                }),
            },
        )
    }

    proptest! {
        #[test]
        fn a_new_label_is_later_than_all_others(labels in prop::collection::vec(any_label(), 0..20), now in 0i64..4_000_000_000) {
            let next = BackupLabel::next(BackupKind::Full, None, Timestamp::from_seconds(now), labels.iter().copied());
            for label in &labels {
                prop_assert!(next.own_time() > label.own_time());
                prop_assert!(next.to_string() > label.full().to_string());
            }
            if let Some(prior) = labels.iter().max() {
                let child = BackupLabel::next(BackupKind::Incr, Some(*prior), Timestamp::from_seconds(now), labels.iter().copied());
                prop_assert!(child.own_time() > prior.own_time());
                prop_assert_eq!(child.full(), prior.full());
            }
        }

        #[test]
        fn any_label_survives_its_text(label in any_label()) {
            prop_assert_eq!(label.to_string().parse::<BackupLabel>().unwrap(), label);
        }

        #[test]
        fn labels_sort_like_their_text(a in any_label(), b in any_label()) {
            if a.full != b.full {
                prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
            }
        }
    }
}
