//! Which blocks of a part an earlier backup has, and where each repository has them.
//!
//! Maps are looked up by offset in the file: units have other borders in each backup. All repositories of a lane follow the same
//! backup, so its hashes are the same in all of them; where a block lies is each repository's own.

use super::outgoing::Outgoing;
use crate::job::{JobContext, PackMap};
use futures::future::try_join_all;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::BlockHash;
use pgconvoy_core::format::layout::PackName;
use pgconvoy_core::format::pack::PackRange;
use pgconvoy_core::ids::RepoKey;
use pgconvoy_core::wire::{PriorBackup, PriorRange, UnitPart};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where a block lies: in a frame of that pack, or of one that it refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    /// Index into the repository's maps.
    pub map: u32,
    /// As in the runs of that map.
    pub pack: u32,
    pub frame: u32,
    pub skip: u32,
}

/// A block as an earlier backup has it. Only the last one of a range may be shorter than the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    hash: BlockHash,
    length: u64,
}

/// Blocks of one part, from its offset on. Nothing is known by default.
#[derive(Debug, Default)]
pub(super) struct KnownBlocks {
    block_size: u32,
    blocks: Vec<Option<Block>>,
    spots: BTreeMap<RepoKey, Spots>,
}

#[derive(Debug, Default)]
pub(super) struct Spots {
    pub maps: Vec<Arc<PackMap>>,
    blocks: Vec<Option<Spot>>,
}

impl Spots {
    pub(super) fn of(&self, block: usize) -> Option<Spot> {
        self.blocks.get(block).copied().flatten()
    }
}

impl KnownBlocks {
    /// Blocks until the maps are there. What one of the lane cannot read is known in none of it, and stored again there. A
    /// repository that fails or stalls meanwhile takes no further part, and its blocks no further place.
    pub(super) fn find(
        context: &JobContext,
        part: &UnitPart,
        prior: usize,
        lane: &mut [Outgoing],
    ) -> KnownBlocks {
        let ranges: Vec<PriorRange> =
            part.prior.iter().filter(|range| usize::from(range.prior) == prior).copied().collect();
        let Some(backup) = context.units.priors.get(prior).filter(|_| !ranges.is_empty()) else {
            return KnownBlocks::default();
        };
        let mut known = KnownBlocks::default();
        for one in lane {
            let key = one.repository();
            let Some(maps) = one.ask(maps(context, key, backup, &ranges)) else { continue };
            let taken = maps.and_then(|maps| known.take(context, part, key, &ranges, maps));
            if let Err(failure) = taken {
                tracing::warn!(
                    "{} is stored again, its blocks in backup {} cannot be looked up in repo {key}: {failure}",
                    part.path,
                    backup.label
                );
                return KnownBlocks::default();
            }
        }
        known
    }

    /// The size that the file's blocks have, if it is known at all.
    pub(super) fn block_size(&self) -> Option<u32> {
        (!self.blocks.is_empty()).then_some(self.block_size)
    }

    fn block(&self, block: usize) -> Option<Block> {
        self.blocks.get(block).copied().flatten()
    }

    /// What stands for a block of that length which is not read: a hash is that of as many bytes as were there.
    pub(super) fn unread(&self, block: usize, length: u64) -> Option<BlockHash> {
        self.block(block).filter(|known| known.length == length).map(|known| known.hash)
    }

    pub(super) fn is(&self, block: usize, hash: BlockHash) -> bool {
        self.block(block).is_some_and(|known| known.hash == hash)
    }

    /// The pack in which that repository has exactly so many blocks, from the file's first to its last.
    pub(super) fn whole_in(&self, repository: RepoKey, blocks: u32) -> Option<PackName> {
        let spots = self.spots.get(&repository)?;
        let [map] = &spots.maps[..] else { return None };
        let all = spots.blocks.get(..blocks as usize)?;
        let is_own = |(at, spot): (usize, &Option<Spot>)| {
            spot.is_some_and(|spot| (spot.map, spot.pack) == (0, 0)) && self.block(at).is_some()
        };
        (spots.blocks.len() == blocks as usize && all.iter().enumerate().all(is_own)).then_some(map.name)
    }

    pub(super) fn spots(&self, repository: RepoKey) -> Option<&Spots> {
        self.spots.get(&repository)
    }

    fn take(
        &mut self,
        context: &JobContext,
        part: &UnitPart,
        key: RepoKey,
        ranges: &[PriorRange],
        maps: Vec<Arc<PackMap>>,
    ) -> Result<(), Failure> {
        let is_first = self.spots.is_empty();
        let mut spots = Spots::default();
        for (number, (wanted, map)) in (0..).zip(ranges.iter().zip(&maps)) {
            let range = range_of(map, part, wanted)?;
            if is_first && self.blocks.is_empty() {
                self.block_size = range.block_size;
            }
            if range.block_size != self.block_size || !part.offset.is_multiple_of(u64::from(self.block_size))
            {
                return Err(Failure::new(ErrorCode::RepoInvalid, "its blocks have several sizes"));
            }
            let bad = bad_blocks(context, range);
            for (at, spot) in blocks(range, number) {
                let offset = range.offset + at as u64 * u64::from(range.block_size);
                let Some(before) = offset.checked_sub(part.offset) else { continue };
                let block = usize::try_from(before / u64::from(range.block_size)).unwrap_or(usize::MAX);
                if offset >= end_of(part) || bad.contains(&at) {
                    continue;
                }
                self.place(&mut spots, block, spot, block_of(range, at), is_first);
            }
        }
        spots.maps = maps;
        self.spots.insert(key, spots);
        Ok(())
    }

    /// A block of which two repositories tell different hashes is known in none.
    fn place(&mut self, spots: &mut Spots, block: usize, spot: Spot, known: Option<Block>, is_first: bool) {
        if spots.blocks.len() <= block {
            spots.blocks.resize(block + 1, None);
        }
        spots.blocks[block] = Some(spot);
        if is_first {
            if self.blocks.len() <= block {
                self.blocks.resize(block + 1, None);
            }
            self.blocks[block] = known;
        } else if let Some(first) = self.blocks.get_mut(block).filter(|first| **first != known) {
            *first = None;
        }
    }
}

fn block_of(range: &PackRange, at: usize) -> Option<Block> {
    let size = u64::from(range.block_size);
    let length = range.length.checked_sub(at as u64 * size)?.min(size);
    Some(Block { hash: range.hash(at)?, length })
}

/// Nothing is planned beyond it, but a file without WAL protection is read to its end.
fn end_of(part: &UnitPart) -> u64 {
    if part.class.wal_protected() { part.offset + part.length } else { u64::MAX }
}

fn range_of<'a>(map: &'a PackMap, part: &UnitPart, wanted: &PriorRange) -> Result<&'a PackRange, Failure> {
    map.body
        .ranges
        .get(wanted.place as usize)
        .filter(|range| {
            range.path == part.path.as_str() && range.offset == wanted.offset && range.length == wanted.length
        })
        .ok_or_else(|| {
            let message = format!("pack {} does not hold {} at {}", map.name, part.path, wanted.offset);
            Failure::new(ErrorCode::RepoInvalid, message)
        })
}

/// Blocks of the range in which a page was bad.
fn bad_blocks(context: &JobContext, range: &PackRange) -> Vec<usize> {
    let page_size = u64::from(context.shape.page_size.bytes());
    let block = |page: &u32| {
        let offset = (u64::from(*page) * page_size).checked_sub(range.offset)?;
        usize::try_from(offset / u64::from(range.block_size)).ok()
    };
    range.bad_pages.iter().filter_map(block).collect()
}

/// Every block of a range, by its number in the range.
fn blocks(range: &PackRange, map: u32) -> impl Iterator<Item = (usize, Spot)> + '_ {
    let of_run = move |run: &pgconvoy_core::format::pack::BlockRun| {
        let (pack, frame, skip) = (run.pack(), run.frame(), run.skip());
        (0..run.blocks()).map(move |at| Spot { map, pack, frame, skip: skip + at * range.block_size })
    };
    range.runs.iter().flat_map(of_run).enumerate()
}

async fn maps(
    context: &JobContext,
    key: RepoKey,
    backup: &PriorBackup,
    ranges: &[PriorRange],
) -> Result<Vec<Arc<PackMap>>, Failure> {
    let repository = context
        .repositories
        .get(&key)
        .ok_or_else(|| Failure::new(ErrorCode::RepoInvalid, "it is not open on this worker"))?;
    let map = |range: &PriorRange| {
        let label = backup.references.get(range.label as usize).copied();
        let (plan, unit, attempt) = (range.plan, range.unit, range.attempt);
        async move {
            let label = label.ok_or_else(|| {
                Failure::new(ErrorCode::Assert, "a unit refers to a label that its job does not list")
            })?;
            let name = PackName { label, plan, unit, attempt };
            context.packs.get(repository, &context.units.stanza, name, &context.secret).await
        }
    };
    try_join_all(ranges.iter().map(map)).await
}
