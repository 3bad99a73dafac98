//! Cuts a restore into shares: whole files that one worker brings back, so that several can work on one target.
//!
//! Invariants
//! 1. Every part of every file is in one share, or in what is the main worker's own.
//! 2. The same plan and size give the same shares on every host: workers name them by number only.
//! 3. pg_control is the main worker's own, and so is a file that is a link's whole content: beside it there may be no room
//!    on the same filesystem to stage it in.

use super::restore::{PackPart, PackWork, RestorePlan};
use crate::format::{BlockHash, HashSecret, encode_named};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// The size is doubled until there are no more: a coordinator keeps some bytes for each.
pub const SHARES_MAX: usize = 20_000;
/// What is told of a share, at most a number per file, fits into a message.
pub const SHARE_FILES_MAX: usize = 10_000;

/// Files that are restored together, by their places in the plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Share {
    pub files: Vec<u32>,
    pub bytes: u64,
}

impl Share {
    fn add(&mut self, file: u32, bytes: u64) {
        self.files.push(file);
        self.bytes += bytes;
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shares {
    /// What nobody but the main worker writes.
    pub own: Share,
    /// Largest first.
    pub shared: Vec<Share>,
    parts: PartIndex,
}

/// Where in the plan's packs the parts of each file are.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PartIndex {
    /// One more than there are files: where each one's places begin.
    starts: Vec<usize>,
    /// Pack, and part in it.
    places: Vec<(u32, u32)>,
}

impl PartIndex {
    fn new(plan: &RestorePlan) -> PartIndex {
        let mut starts = Vec::with_capacity(plan.files.len() + 1);
        let mut end = 0;
        for file in &plan.files {
            starts.push(end);
            end += file.parts as usize;
        }
        starts.push(end);
        let mut next = starts.clone();
        let mut places = vec![(0, 0); end];
        for (pack, work) in (0..).zip(&plan.packs) {
            for (part, planned) in (0..).zip(&work.parts) {
                let place = &mut next[planned.file as usize];
                places[*place] = (pack, part);
                *place += 1;
            }
        }
        PartIndex { starts, places }
    }

    fn of(&self, file: u32) -> &[(u32, u32)] {
        let file = file as usize;
        &self.places[self.starts[file]..self.starts[file + 1]]
    }
}

impl Shares {
    /// Files of the size or more are shares of their own; smaller ones go together, those of one pack if they can.
    pub fn cut(plan: &RestorePlan, size_bytes: u64) -> Shares {
        let parts = PartIndex::new(plan);
        let own = own_files(plan);
        let mut size = size_bytes.max(1);
        let mut shared = cut_once(plan, &parts, &own, size);
        while shared.len() > SHARES_MAX && size < u64::MAX / 2 {
            size *= 2;
            shared = cut_once(plan, &parts, &own, size);
        }
        let mut own_share = Share::default();
        own.iter().for_each(|file| own_share.add(*file, bytes_of(plan, &parts, *file)));
        Shares { own: own_share, shared, parts }
    }

    /// What to take from which packs for a share.
    pub fn packs(&self, plan: &RestorePlan, share: &Share) -> Vec<PackWork> {
        let mut wanted: BTreeMap<u32, Vec<PackPart>> = BTreeMap::new();
        for (pack, part) in share.files.iter().flat_map(|file| self.parts.of(*file)) {
            wanted.entry(*pack).or_default().push(plan.packs[*pack as usize].parts[*part as usize]);
        }
        let work = wanted.into_iter().map(|(pack, mut parts)| {
            parts.sort_unstable();
            let bytes = parts.iter().map(|part| part.length).sum();
            PackWork { pack: plan.packs[pack as usize].pack, bytes, parts }
        });
        work.collect()
    }
}

fn own_files(plan: &RestorePlan) -> BTreeSet<u32> {
    let links: BTreeSet<&str> = plan.links.iter().map(|link| link.path.as_str()).collect();
    let is_own = |index: usize| index == plan.control || links.contains(plan.files[index].path.as_str());
    (0..).zip(0..plan.files.len()).filter(|(_, index)| is_own(*index)).map(|(number, _)| number).collect()
}

fn bytes_of(plan: &RestorePlan, parts: &PartIndex, file: u32) -> u64 {
    let lengths = parts.of(file).iter();
    lengths.map(|(pack, part)| plan.packs[*pack as usize].parts[*part as usize].length).sum()
}

fn cut_once(plan: &RestorePlan, parts: &PartIndex, own: &BTreeSet<u32>, size: u64) -> Vec<Share> {
    let mut shares = Vec::new();
    let mut group = Share::default();
    for (number, pack) in (0..).zip(&plan.packs) {
        if group.bytes + pack.bytes > size {
            close(&mut group, &mut shares);
        }
        for (place, file) in (0..).zip(pack.parts.iter().map(|part| part.file)) {
            // A file of several parts goes by the first.
            if parts.of(file).first() != Some(&(number, place)) || own.contains(&file) {
                continue;
            }
            let bytes = bytes_of(plan, parts, file);
            if bytes >= size {
                shares.push(Share { files: vec![file], bytes });
                continue;
            }
            group.add(file, bytes);
            if group.bytes >= size || group.files.len() >= SHARE_FILES_MAX {
                close(&mut group, &mut shares);
            }
        }
    }
    close(&mut group, &mut shares);
    shares.sort_by_key(|share| std::cmp::Reverse(share.bytes));
    shares
}

fn close(group: &mut Share, shares: &mut Vec<Share>) {
    if !group.files.is_empty() {
        shares.push(std::mem::take(group));
    }
}

/// Of everything that a plan says about files, where they go and where they come from. Workers whose digests are equal
/// mean the same by a share's number.
pub fn digest(plan: &RestorePlan, directory: &str, size_bytes: u64, secret: &HashSecret) -> BlockHash {
    let mut digest = Digest { secret, so_far: BlockHash([0; 16]), waiting: Vec::new() };
    digest.add(&(directory, size_bytes, plan.bytes));
    for link in &plan.links {
        digest.add(&(&link.path, &link.destination, link.ownership));
    }
    for directory in &plan.directories {
        digest.add(&(&directory.path, directory.ownership));
    }
    for file in &plan.files {
        digest.add(&(&file.path, file.size, file.modified, file.ownership, file.checksum));
    }
    for work in &plan.packs {
        let pack = &work.pack;
        digest.add(&(pack.label, pack.plan, pack.unit, pack.attempt));
        for part in &work.parts {
            digest.add(&(part.place, part.file, part.offset, part.length));
        }
    }
    digest.end()
}

/// A chain of hashes, so that no more than a piece is kept.
struct Digest<'a> {
    secret: &'a HashSecret,
    so_far: BlockHash,
    waiting: Vec<u8>,
}

impl Digest<'_> {
    const PIECE_BYTES: usize = 64 << 10;

    fn add<T: Serialize>(&mut self, value: &T) {
        self.waiting.extend_from_slice(&encode_named(value));
        if self.waiting.len() >= Self::PIECE_BYTES {
            self.fold();
        }
    }

    fn fold(&mut self) {
        self.waiting.extend_from_slice(&self.so_far.0);
        self.so_far = self.secret.hash(&self.waiting);
        self.waiting.clear();
    }

    fn end(mut self) -> BlockHash {
        self.fold();
        self.so_far
    }
}

#[cfg(test)]
mod tests;
