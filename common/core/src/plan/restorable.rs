//! From which repositories a backup can be restored: from each by itself, and from all together, as a restore takes from another
//! repository, block by block, what one cannot give.
//!
//! Facts are what the check of each repository found. What one has lost is told in blocks of the ranges that the manifest names: how these lie in
//! frames and borrowed packs is each repository's own affair, what they are is not.
//!
//! Invariants
//! 1. `Yes` is said only if a restore succeeds in whatever order it asks the repositories, `No` only if it fails in every order.
//!    Between them, and wherever something could not be read or contradicts itself without being unreadable, it is `Unknown`.
//! 2. Memory: for each damaged pack of a backup at most [`LOST_MAX`] runs of blocks, twice.

use crate::format::layout::PackName;
use crate::ids::{Identity, RepoKey};
use crate::pg::WalSegmentName;
use std::collections::BTreeMap;
use std::ops::Range;

/// Runs of blocks that are told one by one for a pack: beyond that, any block of it may be lost.
const LOST_MAX: usize = 1024;

/// Blocks of one range of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct LostBlocks {
    place: u32,
    begin: u32,
    end: u32,
}

/// Which blocks of a pack, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Lost {
    All,
    Blocks(Vec<LostBlocks>),
}

impl Lost {
    const NONE: Lost = Lost::Blocks(Vec::new());

    fn is_none(&self) -> bool {
        *self == Lost::NONE
    }

    /// What is lost in both.
    fn and(&self, other: &Lost) -> Lost {
        let (ours, theirs) = match (self, other) {
            (Lost::All, one) | (one, Lost::All) => return one.clone(),
            (Lost::Blocks(ours), Lost::Blocks(theirs)) => (ours, theirs),
        };
        let (mut one, mut other) = (0, 0);
        let mut both = Vec::new();
        while let (Some(a), Some(b)) = (ours.get(one), theirs.get(other)) {
            let (begin, end) = (a.begin.max(b.begin), a.end.min(b.end));
            if a.place == b.place && begin < end {
                both.push(LostBlocks { place: a.place, begin, end });
            }
            if (a.place, a.end) < (b.place, b.end) { one += 1 } else { other += 1 }
        }
        Lost::Blocks(both)
    }

    /// False: there is no room for it. Blocks come in order.
    fn add(&mut self, place: u32, blocks: Range<u32>) -> bool {
        let Lost::Blocks(lost) = self else { return true };
        let has_room = lost.len() < LOST_MAX;
        match lost.last_mut() {
            Some(last) if last.place == place && last.end == blocks.start => last.end = blocks.end,
            _ if has_room => lost.push(LostBlocks { place, begin: blocks.start, end: blocks.end }),
            _ => return false,
        }
        true
    }
}

/// What a repository cannot give of a pack that a backup needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackLoss {
    /// Whoever asks for them does not get them.
    certain: Lost,
    /// Some who ask for them do not get them.
    possible: Lost,
}

impl PackLoss {
    pub const NONE: PackLoss = PackLoss { certain: Lost::NONE, possible: Lost::NONE };
    /// It is not there, or its footer cannot be read.
    pub const ALL: PackLoss = PackLoss { certain: Lost::All, possible: Lost::All };
    /// It could not be read to its end.
    pub const UNKNOWN: PackLoss = PackLoss { certain: Lost::NONE, possible: Lost::All };

    pub fn is_none(&self) -> bool {
        self.possible.is_none()
    }

    /// In order of place and block, each block once.
    pub fn add_certain(&mut self, place: u32, blocks: Range<u32>) {
        // Where there is no room, less is certain, and that is no lie.
        self.certain.add(place, blocks);
    }

    /// As [`PackLoss::add_certain`], and all that is certain is possible too.
    pub fn add_possible(&mut self, place: u32, blocks: Range<u32>) {
        if !self.possible.add(place, blocks) {
            self.possible = Lost::All;
        }
    }

    /// Any block may be lost, for those who want others along.
    pub fn endanger_all(&mut self) {
        self.possible = Lost::All;
    }
}

/// What a restore makes of a repository's manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manifest {
    /// As its catalogue entry says; equal numbers name the same ranges with the same checksums.
    Whole(u64),
    /// It cannot be read: a restore takes another repository's.
    Refused,
    /// It, or something it refers to, can be read and is not what it should be: a restore might believe it.
    Doubtful,
}

/// A segment as its footer tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub size: u64,
    pub sha1: [u8; 20],
    /// All of it was read, and is what the footer says.
    pub is_good: bool,
}

/// WAL from a backup's start to its stop.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WalHeld {
    pub needed: u64,
    /// Those whose footers could be read.
    pub segments: BTreeMap<WalSegmentName, Segment>,
    /// Some could not be read, for want of an answer.
    pub is_unread: bool,
}

/// A published backup as the check of one repository found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    pub backup: Identity,
    /// It can be restored from there alone, and recovered with the WAL that is there.
    pub is_whole: bool,
    pub manifest: Manifest,
    /// Packs that lack something. `None`: nobody knows what it needs there, or whether the repository can be opened again.
    pub losses: Option<BTreeMap<PackName, PackLoss>>,
    pub wal: WalHeld,
}

impl Holding {
    /// As long as nothing of it was read.
    pub fn of(backup: Identity) -> Holding {
        Holding {
            backup,
            is_whole: false,
            manifest: Manifest::Doubtful,
            losses: None,
            wal: WalHeld::default(),
        }
    }

    /// What was read is good, and may not be there for a restore, which cannot open the repository perhaps.
    pub fn is_not_to_be_relied_on(&mut self) {
        self.is_whole = false;
        self.losses = None;
        self.wal.is_unread = true;
        self.wal.segments.values_mut().for_each(|segment| segment.is_good = false);
    }
}

/// One repository, asked for one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    Published(Holding),
    /// No restore finds the backup there.
    Without,
    /// It did not answer.
    Unread,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Together {
    Yes,
    No,
    Unknown,
}

impl Together {
    /// `No` is stronger than doubt, and both are stronger than `Yes`.
    fn and(self, other: Together) -> Together {
        match (self, other) {
            (Together::No, _) | (_, Together::No) => Together::No,
            (Together::Unknown, _) | (_, Together::Unknown) => Together::Unknown,
            _ => Together::Yes,
        }
    }

    fn no_if(is_certain: bool) -> Together {
        if is_certain { Together::No } else { Together::Unknown }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restorable {
    /// Each by itself.
    pub alone: Vec<RepoKey>,
    /// By a restore that may ask all of them.
    pub together: Together,
}

/// `seen` in the order in which a restore asks.
pub fn restorable(seen: &[(RepoKey, &Seen)]) -> Restorable {
    let published = seen.iter().filter_map(|(key, seen)| match seen {
        Seen::Published(holding) => Some((*key, holding)),
        _ => None,
    });
    let published: Vec<(RepoKey, &Holding)> = published.collect();
    let alone = published.iter().filter(|(_, holding)| holding.is_whole).map(|(key, _)| *key).collect();
    // Which of several backups under one label is meant, the first repository decides.
    let first = published.first().map(|(_, holding)| holding.backup);
    let holdings: Vec<&Holding> =
        published.iter().map(|(_, holding)| *holding).filter(|one| Some(one.backup) == first).collect();
    Restorable { alone, together: together(seen, &holdings) }
}

fn together(seen: &[(RepoKey, &Seen)], holdings: &[&Holding]) -> Together {
    let is_all_read = seen.iter().all(|(_, seen)| **seen != Seen::Unread);
    let mut manifests = holdings.iter().map(|one| one.manifest).filter(|one| *one != Manifest::Refused);
    match manifests.next() {
        None => return Together::no_if(is_all_read),
        Some(Manifest::Doubtful) => return Together::Unknown,
        Some(first) if manifests.any(|one| one != first) => return Together::Unknown,
        Some(_) => {}
    }
    // A repository that has another backup under the label may have WAL of this one.
    let is_held_by_all = seen.len() == holdings.len();
    files(holdings, is_all_read).and(wal(holdings, is_held_by_all))
}

fn files(holdings: &[&Holding], is_all_read: bool) -> Together {
    let known: Vec<_> = holdings.iter().filter_map(|one| one.losses.as_ref()).collect();
    let Some((first, others)) = known.split_first() else { return Together::Unknown };
    let is_certain = is_all_read && known.len() == holdings.len();
    let mut result = Together::Yes;
    for (pack, loss) in first.iter() {
        let losses: Option<Vec<&PackLoss>> = others.iter().map(|losses| losses.get(pack)).collect();
        let Some(losses) = losses else { continue };
        let common = |of: fn(&PackLoss) -> &Lost| {
            losses.iter().fold(of(loss).clone(), |common, loss| common.and(of(loss)))
        };
        if !common(|loss| &loss.possible).is_none() {
            let is_lost = !common(|loss| &loss.certain).is_none();
            result = result.and(Together::no_if(is_certain && is_lost));
        }
    }
    result
}

/// `archive-get` takes each segment from a repository that has it whole, and refuses one of which two tell different contents.
fn wal(holdings: &[&Holding], is_held_by_all: bool) -> Together {
    let needed = holdings.iter().map(|one| one.wal.needed).max().unwrap_or_default();
    let mut contents: BTreeMap<WalSegmentName, Segment> = BTreeMap::new();
    for (name, segment) in holdings.iter().flat_map(|one| &one.wal.segments) {
        let known = contents.entry(*name).or_insert(*segment);
        if (known.size, known.sha1) != (segment.size, segment.sha1) {
            return Together::Unknown;
        }
        known.is_good |= segment.is_good;
    }
    let good = contents.values().filter(|segment| segment.is_good).count() as u64;
    let is_certain = is_held_by_all && holdings.iter().all(|one| !one.wal.is_unread);
    if good >= needed { Together::Yes } else { Together::no_if(is_certain) }
}

#[cfg(test)]
mod tests;
