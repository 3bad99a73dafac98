//! Repositories that rest on the same earlier backups and compress in the same way: what one of them needs, all of them need,
//! so it is compressed once.
//!
//! There is one lane as long as all repositories have the same history and the same codec and level; a repository that missed
//! backups, or has a codec of its own, has a lane of its own, from the same read.

use super::compressors::{Compressors, Way};
use super::files::FilePiece;
use super::foreign::ForeignTable;
use super::frames::{FramePacker, Place};
use super::known::KnownBlocks;
use super::outgoing::Outgoing;
use crate::job::JobContext;
use bytes::Bytes;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::BlockHash;
use pgconvoy_core::format::object::TAG_BYTES;
use pgconvoy_core::format::pack::{BlockRun, PackBody};
use pgconvoy_core::ids::RepoKey;
use pgconvoy_core::wire::{PriorBackup, UnitPart};
use std::ops::Range;
use std::sync::Arc;

/// Blocks of a part, one after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stretch {
    Own {
        blocks: u32,
        place: Place,
    },
    /// From that block of the part on, as that earlier backup has them.
    Known {
        blocks: u32,
        first: u32,
        by: usize,
    },
}

/// One repository's footer as it grows.
struct Footer {
    repository: RepoKey,
    /// Of each range that is stored, in order.
    runs: Vec<Vec<BlockRun>>,
    foreign: ForeignTable,
}

pub(super) struct Lane {
    /// Indices into the priors of the job.
    priors: Vec<usize>,
    way: Way,
    pub(super) packer: FramePacker,
    outgoing: Vec<Outgoing>,
    footers: Vec<Footer>,
    /// What each of them has of the part at hand.
    known: Vec<KnownBlocks>,
    stretches: Vec<Stretch>,
    /// Bytes that are stored, before they are compressed.
    pub(super) stored: u64,
}

impl Lane {
    /// Those with a prior come first: the newest of them tells how large the blocks of a file are.
    pub(super) fn all(
        context: &JobContext,
        compressors: &Compressors,
        outgoing: Vec<Outgoing>,
        mut buffer: impl FnMut() -> Vec<u8>,
    ) -> Vec<Lane> {
        let priors = &context.units.priors;
        let priors_of = |one: &Outgoing| -> Vec<usize> {
            let follows = |prior: &PriorBackup| prior.repositories.contains(&one.repository());
            (0..priors.len()).filter(|number| follows(&priors[*number])).collect()
        };
        let mut lanes: Vec<Lane> = Vec::new();
        for one in outgoing {
            let (priors, way) = (priors_of(&one), compressors.way_of(one.repository(), &context.units));
            let is_shared = |lane: &Lane| lane.priors == priors && lane.way == way;
            let at = lanes.iter().position(is_shared).unwrap_or_else(|| {
                lanes.push(Lane::new(priors, way, buffer()));
                lanes.len() - 1
            });
            lanes[at].footers.push(Footer {
                repository: one.repository(),
                runs: Vec::new(),
                foreign: ForeignTable::default(),
            });
            lanes[at].outgoing.push(one);
        }
        lanes.sort_by_key(|lane| lane.priors.first().copied().unwrap_or(usize::MAX));
        lanes
    }

    fn new(priors: Vec<usize>, way: Way, buffer: Vec<u8>) -> Lane {
        Lane {
            priors,
            way,
            packer: FramePacker::new(buffer),
            outgoing: Vec::new(),
            footers: Vec::new(),
            known: Vec::new(),
            stretches: Vec::new(),
            stored: 0,
        }
    }

    /// Looks up what is known of the part that comes now.
    pub(super) fn begin_part(&mut self, context: &JobContext, part: &UnitPart) {
        let outgoing = &mut self.outgoing;
        let find = |prior: &usize| KnownBlocks::find(context, part, *prior, outgoing);
        self.known = self.priors.iter().map(find).collect();
    }

    pub(super) fn block_size(&self) -> Option<u32> {
        self.known.iter().find_map(KnownBlocks::block_size)
    }

    /// Blocks of another size cannot be compared.
    pub(super) fn agree_on(&mut self, block_size: u32) {
        let differs = |known: &&mut KnownBlocks| known.block_size().is_some_and(|size| size != block_size);
        self.known.iter_mut().filter(differs).for_each(|known| *known = KnownBlocks::default());
    }

    /// What the newest prior says of a block of that length.
    pub(super) fn unread(&self, block: usize, length: u64) -> Option<BlockHash> {
        self.known.first().and_then(|known| known.unread(block, length))
    }

    /// Refers to the block instead of storing it, if an earlier backup has it.
    pub(super) fn refer(&mut self, block: usize, hash: BlockHash) -> bool {
        let Some(by) = self.known.iter().position(|known| known.is(block, hash)) else { return false };
        let first = u32::try_from(block).expect("a part has far fewer blocks");
        match self.stretches.last_mut() {
            Some(Stretch::Known { blocks, first: begin, by: before })
                if *before == by && *begin + *blocks == first =>
            {
                *blocks += 1;
            }
            _ => self.stretches.push(Stretch::Known { blocks: 1, first, by }),
        }
        true
    }

    /// Keeps a block that was read into the free space of this lane; answers with how far that has moved.
    pub(super) fn keep(&mut self, from: Range<usize>, block_size: usize) -> usize {
        self.stored += from.len() as u64;
        let (place, moved) = self.packer.keep(from);
        self.note(place, block_size);
        moved
    }

    /// Keeps a block that was read into another lane.
    pub(super) fn add(
        &mut self,
        block: &[u8],
        block_size: usize,
        compressors: &mut Compressors,
    ) -> Result<(), Failure> {
        self.stored += block.len() as u64;
        if !self.packer.has_room(block_size) {
            self.flush(compressors)?;
        }
        let place = self.packer.add(block);
        self.note(place, block_size);
        Ok(())
    }

    fn note(&mut self, place: Place, block_size: usize) {
        if let Some(Stretch::Own { blocks, place: begin }) = self.stretches.last_mut()
            && begin.frame == place.frame
            && begin.skip as usize + *blocks as usize * block_size == place.skip as usize
        {
            *blocks += 1;
            return;
        }
        self.stretches.push(Stretch::Own { blocks: 1, place });
    }

    /// Compresses what was gathered, once, and hands it to every repository of the lane.
    pub(super) fn flush(&mut self, compressors: &mut Compressors) -> Result<(), Failure> {
        let Some(raw) = self.packer.take_frame() else { return Ok(()) };
        if self.outgoing.iter().all(Outgoing::is_plain) {
            return Ok(());
        }
        let mut stored = Vec::with_capacity(raw.len() / 2 + TAG_BYTES);
        let codec = compressors.of(self.way).compress(raw, &mut stored)?;
        let raw_bytes = u32::try_from(raw.len()).expect("a frame is far below 4 GiB");
        // Sealing works in place: all but the last get a copy.
        if let Some((last, others)) = self.outgoing.split_last_mut() {
            for one in others {
                let mut copy = Vec::with_capacity(stored.len() + TAG_BYTES);
                copy.extend_from_slice(&stored);
                one.frame(codec, raw_bytes, copy);
            }
            last.frame(codec, raw_bytes, stored);
        }
        Ok(())
    }

    /// All blocks of the part were told. Where nothing is stored of it, no footer lists it.
    pub(super) fn end_part(&mut self, is_stored: bool) -> Result<(), Failure> {
        let stretches = std::mem::take(&mut self.stretches);
        self.end_files(&stretches);
        let both = self.footers.iter_mut().zip(&self.outgoing).filter(|_| is_stored);
        // A repository that has failed gets no footer, and may not have been asked where it has what.
        for (footer, _) in both.filter(|(_, one)| one.failure().is_none()) {
            let runs = runs(&stretches, &self.known, footer.repository, &mut footer.foreign);
            footer.runs.push(runs.ok_or_else(|| {
                Failure::new(ErrorCode::RepoInvalid, "the footer of an earlier pack contradicts itself")
                    .hint("verify names it; a full backup does not rest on it")
            })?);
        }
        Ok(())
    }

    /// Whether some repository of the lane keeps files as such: those are given every byte.
    pub(super) fn has_files(&self) -> bool {
        self.outgoing.iter().any(Outgoing::is_plain)
    }

    /// The next bytes of the file at hand.
    pub(super) fn file(&mut self, path: &Arc<str>, bytes: &Bytes) {
        for one in self.outgoing.iter_mut().filter(|one| one.is_plain()) {
            one.file(FilePiece::Bytes { path: path.clone(), bytes: bytes.clone() });
        }
    }

    /// A file that one earlier backup has from its first to its last block is that one's file.
    fn end_files(&mut self, stretches: &[Stretch]) {
        let all_known = match stretches {
            [Stretch::Known { blocks, first: 0, by }] => self.known.get(*by).map(|known| (*blocks, known)),
            _ => None,
        };
        for one in self.outgoing.iter_mut().filter(|one| one.is_plain()) {
            let same = all_known.and_then(|(blocks, known)| known.whole_in(one.repository(), blocks));
            one.file(FilePiece::End { same });
        }
    }

    /// Footers and ends; `body` has everything but what is each repository's own.
    pub(super) fn end(mut self, body: &PackBody, compressors: &mut Compressors) -> (Vec<Outgoing>, Vec<u8>) {
        for (one, footer) in self.outgoing.iter_mut().zip(self.footers) {
            let mut body = PackBody { foreign: footer.foreign.packs().to_vec(), ..body.clone() };
            if one.is_plain() {
                (body.plain, body.foreign) = (true, Vec::new());
            } else {
                body.ranges.iter_mut().zip(footer.runs).for_each(|(range, runs)| range.runs = runs);
            }
            one.end(&body, compressors.of(self.way));
        }
        (self.outgoing, self.packer.into_buffer())
    }

    pub(super) fn outgoing(&self) -> &[Outgoing] {
        &self.outgoing
    }
}

/// The stretches in one repository's terms. Neighbours in one frame are one run.
fn runs(
    stretches: &[Stretch],
    known: &[KnownBlocks],
    repository: RepoKey,
    foreign: &mut ForeignTable,
) -> Option<Vec<BlockRun>> {
    let mut runs: Vec<BlockRun> = Vec::new();
    for stretch in stretches {
        match *stretch {
            Stretch::Own { blocks, place } => runs.push(BlockRun(blocks, 0, place.frame, place.skip)),
            Stretch::Known { blocks, first, by } => {
                let known = known.get(by)?;
                let spots = known.spots(repository)?;
                for block in first..first + blocks {
                    let run = foreign.refer(spots, spots.of(block as usize)?)?;
                    match runs.last_mut().filter(|last| is_followed(last, &run, known.block_size())) {
                        Some(last) => last.0 += 1,
                        None => runs.push(run),
                    }
                }
            }
        }
    }
    Some(runs)
}

fn is_followed(run: &BlockRun, next: &BlockRun, block_size: Option<u32>) -> bool {
    let end = block_size.and_then(|size| run.blocks().checked_mul(size)?.checked_add(run.skip()));
    (run.pack(), run.frame()) == (next.pack(), next.frame()) && end == Some(next.skip())
}
