//! What an attempt at the same backup left when it died: packs whose blocks need not be stored again.

use super::inventory::{FileIndex, Inventory};
use crate::format::BackupLabel;
use crate::format::manifest::RangeRecord;
use crate::format::plan::PlanBody;
use crate::ids::{PlanNumber, RepoKey};
use crate::pg::RelativePath;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// An unfinished backup in one repository, whose writer is dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    pub label: BackupLabel,
    /// Its newest plan.
    pub plan: PlanNumber,
    /// What its packs rest on.
    pub references: Vec<BackupLabel>,
}

impl From<&PlanBody> for Leftover {
    fn from(plan: &PlanBody) -> Leftover {
        Leftover { label: plan.label, plan: plan.number, references: plan.references.clone() }
    }
}

/// What one repository has, for the question which unfinished backup a new one goes on with.
#[derive(Debug, Clone, Default)]
pub struct Prospect {
    /// Undecided labels there, whose writers are dead.
    pub leftovers: Vec<Leftover>,
    /// Every label there.
    pub labels: Vec<BackupLabel>,
    /// What a new backup would rest on there.
    pub references: Vec<BackupLabel>,
}

/// The label that the new backup keeps, if it goes on with an unfinished one. `like` is the label that it would get else.
///
/// It must be of the same kind and the same full backup, rest on the same backups wherever it is, and be the newest label of
/// all. Where it is void or published nobody can publish it again, and one label is one backup everywhere: so it must be
/// undecided or absent in each repository of the job, and absent in all others.
pub fn adopted(
    like: BackupLabel,
    prospects: &BTreeMap<RepoKey, Prospect>,
    elsewhere: &[BackupLabel],
) -> Option<BackupLabel> {
    let newest = prospects
        .values()
        .flat_map(|prospect| &prospect.labels)
        .chain(elsewhere)
        .max_by_key(|label| label.made())?;
    let is_alike = newest.kind() == like.kind() && (newest.is_full() || newest.full() == like.full());
    let may_go_on = |prospect: &Prospect| {
        let left = prospect.leftovers.iter().find(|left| left.label == *newest);
        left.map_or(!prospect.labels.contains(newest), |left| left.references == prospect.references)
    };
    let is_left =
        prospects.values().any(|prospect| prospect.leftovers.iter().any(|left| left.label == *newest));
    let is_elsewhere = elsewhere.contains(newest);
    (is_alike && is_left && !is_elsewhere && prospects.values().all(may_go_on)).then_some(*newest)
}

/// Parts of a file: where each begins, and its end. None touches another.
#[derive(Debug, Default)]
struct Covered(BTreeMap<u64, u64>);

impl Covered {
    /// Whether there was anything in it that was not covered before.
    fn add(&mut self, mut begin: u64, mut end: u64) -> bool {
        if self.0.range(..=begin).next_back().is_some_and(|(_, known)| *known >= end) {
            return false;
        }
        while let Some((known, known_end)) = self.0.range(..=end).next_back().map(|(at, end)| (*at, *end))
            && known_end >= begin
        {
            self.0.remove(&known);
            (begin, end) = (begin.min(known), end.max(known_end));
        }
        self.0.insert(begin, end);
        true
    }
}

/// Ranges of those packs, of files that are there now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LeftRanges(Vec<(FileIndex, RangeRecord)>);

impl LeftRanges {
    pub fn add(&mut self, inventory: &Inventory, path: &RelativePath, range: RangeRecord) {
        if let Some(file) = inventory.find(path) {
            self.0.push((file, range));
        }
    }

    /// All have come. Of ranges of one file the newest attempt's come last: they count where others overlap them. One that
    /// newer ones cover is left out: their footers say where it has its blocks. So there are not more and more of them.
    pub fn close(&mut self) {
        let newest_first =
            |(file, range): &(FileIndex, RangeRecord)| (*file, Reverse((range.plan, range.attempt)));
        self.0.sort_by_key(newest_first);
        let (mut current, mut covered) = (None, Covered::default());
        self.0.retain(|(file, range)| {
            if current.replace(*file) != Some(*file) {
                covered = Covered::default();
            }
            covered.add(range.offset, range.end())
        });
        self.0.sort_by_key(|(file, range)| (*file, range.plan, range.attempt, range.offset));
        self.0.shrink_to_fit();
    }

    pub fn of(&self, file: FileIndex) -> impl Iterator<Item = &RangeRecord> {
        let begin = self.0.partition_point(|(known, _)| *known < file);
        self.0[begin..].iter().take_while(move |(known, _)| *known == file).map(|(_, range)| range)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const FULL: &str = "20261122-103000F";
    const LEFT: &str = "20261122-103000F_20261123-103000I";
    const NEXT: &str = "20261122-103000F_20261124-103000I";

    fn label(text: &str) -> BackupLabel {
        text.parse().unwrap()
    }

    fn left(text: &str) -> Prospect {
        let references = vec![label(FULL)];
        let leftover = Leftover { label: label(text), plan: PlanNumber(1), references: references.clone() };
        Prospect { leftovers: vec![leftover], labels: vec![label(FULL), label(text)], references }
    }

    fn without() -> Prospect {
        Prospect { leftovers: Vec::new(), labels: vec![label(FULL)], references: vec![label(FULL)] }
    }

    fn verdict(like: &str, prospects: &[Prospect], elsewhere: &[&str]) -> Option<BackupLabel> {
        let numbered = (1..).map(RepoKey).zip(prospects.iter().cloned()).collect();
        adopted(label(like), &numbered, &elsewhere.iter().map(|text| label(text)).collect::<Vec<_>>())
    }

    #[test]
    fn an_unfinished_backup_of_the_same_kind_is_gone_on_with_wherever_it_is_or_is_not() {
        assert_eq!(verdict(NEXT, &[left(LEFT)], &[]), Some(label(LEFT)));
        assert_eq!(verdict(NEXT, &[left(LEFT), without()], &[]), Some(label(LEFT)));
        assert_eq!(verdict(NEXT, &[without()], &[]), None);
    }

    #[test]
    fn another_kind_or_another_full_backup_begins_anew() {
        assert_eq!(verdict("20261122-103000F_20261124-103000D", &[left(LEFT)], &[]), None);
        assert_eq!(verdict("20261124-103000F", &[left(LEFT)], &[]), None);
        assert_eq!(verdict("20261121-103000F_20261124-103000I", &[left(LEFT)], &[]), None);
    }

    #[test]
    fn a_label_that_is_not_the_newest_of_all_is_not_taken_up() {
        assert_eq!(verdict(NEXT, &[left(LEFT)], &["20261123-103001F"]), None);
        assert_eq!(verdict(NEXT, &[left(LEFT)], &[FULL]), Some(label(LEFT)));
        assert_eq!(verdict(NEXT, &[left(LEFT)], &[LEFT]), None, "it may be another backup there");
    }

    #[test]
    fn what_is_decided_somewhere_or_rests_on_something_else_is_not_taken_up() {
        let decided = Prospect { leftovers: Vec::new(), ..left(LEFT) };
        assert_eq!(verdict(NEXT, &[left(LEFT), decided], &[]), None);
        let other = Prospect { references: vec![label("20261121-103000F")], ..left(LEFT) };
        assert_eq!(verdict(NEXT, &[other], &[]), None);
    }

    #[test]
    fn a_full_backup_goes_on_as_a_full_backup() {
        let full = |references: Vec<BackupLabel>| Prospect {
            leftovers: vec![Leftover { label: label(FULL), plan: PlanNumber(2), references }],
            labels: vec![label(FULL)],
            references: Vec::new(),
        };
        assert_eq!(verdict("20261124-103000F", &[full(Vec::new())], &[]), Some(label(FULL)));
        assert_eq!(verdict("20261124-103000F", &[full(vec![label(LEFT)])], &[]), None);
    }

    fn range(plan: u32, attempt: u32, offset: u64, length: u64) -> RangeRecord {
        RangeRecord {
            offset,
            length,
            label: 1,
            plan: PlanNumber(plan),
            unit: crate::ids::UnitId(0),
            attempt: crate::ids::Attempt(attempt),
            place: 0,
            worker: 0,
            slot: 0,
        }
    }

    #[test]
    fn of_ranges_that_overlap_the_newest_come_last_and_what_newer_ones_cover_is_left_out() {
        let (one, two) = (FileIndex(1), FileIndex(2));
        let mut ranges = LeftRanges(vec![
            (one, range(1, 9, 0, 100)),
            (two, range(1, 1, 0, 50)),
            (one, range(1, 9, 100, 100)),
            (one, range(2, 1, 0, 100)),
            (one, range(2, 2, 0, 100)),
            (one, range(1, 9, 200, 100)),
            (one, range(2, 1, 250, 100)),
        ]);
        ranges.close();
        let kept =
            |file| ranges.of(file).map(|range| (range.plan.0, range.attempt.0, range.offset)).collect();
        let (of_one, of_two): (Vec<_>, Vec<_>) = (kept(one), kept(two));
        assert_eq!(of_one, [(1, 9, 100), (1, 9, 200), (2, 1, 250), (2, 2, 0)]);
        assert_eq!(of_two, [(1, 1, 0)]);
    }
}
