//! One pack: its footer against the manifest, its frames against its footer.

use super::expected::ExpectedRange;
use super::losses::{BadFrame, Damage};
use super::{Checked, Finding, Interrupted, Job};
use crate::codec::Decompressor;
use crate::error::RepositoryError;
use crate::pack::PackReader;
use pgconvoy_core::format::layout::PackName;
use pgconvoy_core::format::object::{FrameEntry, Protection};
use pgconvoy_core::format::pack::{ForeignPack, PackRange};
use pgconvoy_core::format::{BackupLabel, BlockHash, HashSecret};
use pgconvoy_core::ids::Identity;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Stored bytes fetched in one request; a frame is never larger.
const FETCH_BYTES: u64 = 4 << 20;

/// What all packs of one backup are checked with.
pub(crate) struct PackCheck<'a> {
    pub(crate) job: &'a Job,
    pub(crate) secret: &'a HashSecret,
    pub(crate) backups: BTreeMap<BackupLabel, Identity>,
    /// Labels that the backup says it rests on.
    pub(crate) references: &'a [BackupLabel],
}

pub(crate) struct PackTask<'a> {
    pub(crate) name: PackName,
    pub(crate) expected: &'a [ExpectedRange],
    /// False for a pack whose frames were checked with an earlier backup.
    pub(crate) reads_data: bool,
}

#[derive(Default)]
pub(crate) struct PackResult {
    /// What is wrong with the pack itself: the first flaw, and how many more frames have one.
    pub(crate) finding: Option<Finding>,
    pub(super) damage: Damage,
    /// What is wrong between this manifest and the pack.
    pub(crate) mismatch: Option<Finding>,
    pub(crate) foreign: Vec<PackName>,
    pub(crate) checksums: Vec<(u32, BlockHash)>,
}

enum Flaw {
    Error(RepositoryError),
    Reason(String),
    Interrupted,
}

impl Flaw {
    fn told(self, job: &Job, key: &str) -> Checked<Finding> {
        match self {
            Flaw::Error(error) => Ok(job.finding(key, &error)),
            Flaw::Reason(reason) => Ok(job.finding(key, &reason)),
            Flaw::Interrupted => Err(Interrupted),
        }
    }
}

impl From<RepositoryError> for Flaw {
    fn from(error: RepositoryError) -> Flaw {
        Flaw::Error(error)
    }
}

impl From<Interrupted> for Flaw {
    fn from(_: Interrupted) -> Flaw {
        Flaw::Interrupted
    }
}

pub(crate) fn check(check: &PackCheck<'_>, task: &PackTask<'_>) -> Checked<PackResult> {
    let job = check.job;
    let key = task.name.key(&job.stanza);
    // A pack that only others refer to may be of an attempt that was given up and gone on with: it has an identity of its own.
    let backup = check.backups.get(&task.name.label).filter(|_| !task.expected.is_empty());
    let pack = match check.open(task.name, backup.copied()) {
        Ok(pack) => pack,
        Err(error) => {
            let damage = if error.is_loss() { Damage::All } else { Damage::Unknown };
            return Ok(PackResult {
                finding: Some(job.finding(&key, &error)),
                damage,
                ..PackResult::default()
            });
        }
    };
    let mut result =
        PackResult { foreign: pack.body.foreign.iter().map(name_of).collect(), ..PackResult::default() };
    for expected in task.expected {
        match pack.body.ranges.get(expected.place as usize).filter(|range| expected.fits(range)) {
            Some(range) => result.checksums.extend(expected.slot.map(|slot| (slot, range.checksum))),
            None => {
                let reason = mismatch(&pack, expected.place);
                result.mismatch.get_or_insert_with(|| job.finding(&key, &reason));
            }
        }
    }
    if task.reads_data {
        (result.finding, result.damage) = data(check, &pack)?;
    }
    Ok(result)
}

impl PackCheck<'_> {
    pub(super) fn open(
        &self,
        name: PackName,
        backup: Option<Identity>,
    ) -> Result<PackReader, RepositoryError> {
        let job = self.job;
        job.wait(PackReader::open(&job.repository, &job.stanza, name, backup, self.secret))
    }
}

/// Reads past bad frames, so that all of them are known; not past a frame that does not come.
fn data(check: &PackCheck<'_>, pack: &PackReader) -> Checked<(Option<Finding>, Damage)> {
    let mut bad = BadFrames::default();
    let read = own_blocks(check, pack, &mut bad).and_then(|()| borrowed_blocks(check, pack, &mut bad));
    let BadFrames { frames, first } = bad;
    let more = frames.len().saturating_sub(1);
    let is_known = read.is_ok() && check.job.bad_frames.takes(frames.len());
    let damage = if is_known { Damage::Frames(frames) } else { Damage::Unknown };
    let flaw = match (first, read) {
        (_, Err(Flaw::Interrupted)) => return Err(Interrupted),
        (Some(first), _) | (None, Err(first)) => first,
        (None, Ok(())) => return Ok((None, damage)),
    };
    let mut finding = flaw.told(check.job, pack.object.name())?;
    if more > 0 {
        finding.reason += &format!(" (and {more} more of its {} frames)", pack.object.frames().len());
    }
    Ok((Some(finding), damage))
}

#[derive(Default)]
struct BadFrames {
    frames: BTreeMap<u32, BadFrame>,
    first: Option<Flaw>,
}

impl BadFrames {
    fn add(&mut self, frame: usize, bad: BadFrame, flaw: Flaw) {
        let frame = u32::try_from(frame).expect("a run names its frame in 32 bits");
        self.frames.insert(frame, bad);
        self.first.get_or_insert(flaw);
    }
}

pub(crate) fn name_of(foreign: &ForeignPack) -> PackName {
    PackName { label: foreign.label, plan: foreign.plan, unit: foreign.unit, attempt: foreign.attempt }
}

fn mismatch(pack: &PackReader, place: u32) -> String {
    match pack.body.ranges.get(place as usize) {
        Some(range) => {
            format!(
                "its range {place} ({} at {}) is not the one that the manifest refers to",
                range.path, range.offset
            )
        }
        None => format!("it has no range {place}, which the manifest refers to"),
    }
}

/// A run of blocks in a frame of this pack.
pub(crate) struct OwnRun<'a> {
    frame: usize,
    range: &'a PackRange,
    first_block: usize,
    blocks: usize,
    skip: usize,
}

impl OwnRun<'_> {
    /// The blocks whose bytes are not what their hashes say.
    fn bad<'r>(&'r self, raw: &'r [u8], secret: &'r HashSecret) -> impl Iterator<Item = usize> + 'r {
        (0..self.blocks).filter(move |index| {
            let number = self.first_block + index;
            let begin = self.begin(*index);
            let bytes = raw.get(begin..begin + block_length(self.range, number));
            bytes.map(|bytes| secret.hash(bytes)) != self.range.hash(number)
        })
    }

    /// Where in its frame a block of it begins.
    fn begin(&self, index: usize) -> usize {
        self.skip + index * self.range.block_size as usize
    }
}

/// The last block of a range may be short.
fn block_length(range: &PackRange, number: usize) -> usize {
    let left = range.length - number as u64 * u64::from(range.block_size);
    usize::try_from(left.min(u64::from(range.block_size))).expect("a block is smaller than its frame")
}

pub(crate) fn own_runs(pack: &PackReader) -> Vec<OwnRun<'_>> {
    let mut runs = Vec::new();
    for range in &pack.body.ranges {
        let mut first_block = 0;
        for run in &range.runs {
            let blocks = run.blocks() as usize;
            if run.pack() == 0 {
                let (frame, skip) = (run.frame() as usize, run.skip() as usize);
                runs.push(OwnRun { frame, range, first_block, blocks, skip });
            }
            first_block += blocks;
        }
    }
    runs.sort_by_key(|run| run.frame);
    runs
}

/// Opens every frame, whether blocks of this pack lie in it or not, and hashes every block.
fn own_blocks(check: &PackCheck<'_>, pack: &PackReader, bad: &mut BadFrames) -> Result<(), Flaw> {
    let job = check.job;
    let runs = own_runs(pack);
    let mut decompressor = Decompressor::new();
    let mut raw = Vec::new();
    for batch in batches(pack.object.frames()) {
        job.go_on()?;
        let fetched = job.wait(pack.object.fetch(&job.repository, batch.clone()))?;
        job.count(fetched.len() as u64);
        let mut stored = fetched.to_vec();
        let mut rest = stored.as_mut_slice();
        for frame in batch {
            let length = pack.object.frames()[frame].stored_bytes() as usize;
            let (bytes, after) = rest.split_at_mut(length);
            rest = after;
            if let Err(error) = pack.object.decode_frame(frame, bytes, &mut decompressor, &mut raw) {
                bad.add(frame, BadFrame::Closed, Flaw::Error(error));
            } else if let Some(reason) = flaw_of_frame(&runs, frame, &raw, check.secret) {
                let blocks = bad_blocks(&runs, frame, &raw, check.secret);
                bad.add(frame, BadFrame::Blocks(blocks), Flaw::Reason(reason));
            }
        }
    }
    Ok(())
}

/// The first block in a frame whose bytes are not what its hash says. `runs` are the pack's own.
pub(crate) fn flaw_of_frame(
    runs: &[OwnRun<'_>],
    frame: usize,
    raw: &[u8],
    secret: &HashSecret,
) -> Option<String> {
    runs_in(runs, frame).find_map(|run| {
        let index = run.bad(raw, secret).next()?;
        let at = run.range.offset + (run.first_block + index) as u64 * u64::from(run.range.block_size);
        Some(format!("the block of {} at {at} does not match its hash", run.range.path))
    })
}

/// Where in the frame those blocks begin whose bytes are not what their hashes say.
fn bad_blocks(runs: &[OwnRun<'_>], frame: usize, raw: &[u8], secret: &HashSecret) -> BTreeSet<usize> {
    let of_run = |run: &OwnRun<'_>| run.bad(raw, secret).map(|index| run.begin(index)).collect::<Vec<_>>();
    runs_in(runs, frame).flat_map(of_run).collect()
}

fn runs_in<'r, 'p>(runs: &'r [OwnRun<'p>], frame: usize) -> impl Iterator<Item = &'r OwnRun<'p>> {
    let begin = runs.partition_point(|run| run.frame < frame);
    runs[begin..].iter().take_while(move |run| run.frame == frame)
}

/// Runs of frames that are fetched together.
pub(crate) fn batches(frames: &[FrameEntry]) -> Vec<Range<usize>> {
    let mut batches = Vec::new();
    let (mut begin, mut bytes) = (0, 0);
    for (number, frame) in frames.iter().enumerate() {
        let stored = u64::from(frame.stored_bytes());
        if number > begin && bytes + stored > FETCH_BYTES {
            batches.push(begin..number);
            (begin, bytes) = (number, 0);
        }
        bytes += stored;
    }
    if begin < frames.len() {
        batches.push(begin..frames.len());
    }
    batches
}

/// Blocks that lie in packs of earlier backups: those packs must say the same of them.
fn borrowed_blocks(check: &PackCheck<'_>, pack: &PackReader, bad: &mut BadFrames) -> Result<(), Flaw> {
    for (foreign, number) in pack.body.foreign.iter().zip(1u32..) {
        check.job.go_on()?;
        let name = name_of(foreign);
        // A resumed backup borrows from its own earlier attempts.
        if name.label != pack.body.label && !check.references.contains(&name.label) {
            let reason = format!("it borrows from backup {}, which its backup does not list", name.label);
            return Err(Flaw::Reason(reason));
        }
        let lender = match check.open(name, None) {
            Ok(lender) => lender,
            Err(error) => {
                // What is lost with it, its own check tells.
                let reason = format!("it borrows from {}: {error}", name.key(&check.job.stanza));
                bad.first.get_or_insert(Flaw::Reason(reason));
                continue;
            }
        };
        let hashes = hashes_by_place(&lender);
        let is_known = |range: &PackRange| has_borrowed(range, number, foreign, &hashes);
        if !is_same_object(foreign, &lender) || !pack.body.ranges.iter().all(is_known) {
            let reason = format!("blocks that it borrows are not in {}", name.key(&check.job.stanza));
            return Err(Flaw::Reason(reason));
        }
    }
    Ok(())
}

/// Whether the reference tells header and frames as they are.
fn is_same_object(foreign: &ForeignPack, lender: &PackReader) -> bool {
    let is_sealed_so = match lender.object.protection() {
        Protection::None => foreign.salt.iter().all(|byte| *byte == 0),
        Protection::Aes256Gcm { generation, salt } => {
            *generation == foreign.generation && salt.as_slice() == foreign.salt
        }
    };
    is_sealed_so && has_frames(foreign, lender)
}

fn has_frames(foreign: &ForeignPack, lender: &PackReader) -> bool {
    foreign.frames.iter().all(|frame| {
        let number = frame.0 as usize;
        lender.object.frames().get(number).is_some_and(|entry| {
            lender.object.stored_range(number..number + 1).start == frame.1
                && (entry.stored_bytes(), entry.raw_bytes(), entry.codec()) == (frame.2, frame.3, frame.4)
        })
    })
}

/// Whether all blocks that `ranges` borrow from `foreign`, entry `number - 1` of theirs, lie in that pack as they say, whatever it is sealed with.
pub(crate) fn lends_all(
    ranges: &[PackRange],
    number: u32,
    foreign: &ForeignPack,
    lender: &PackReader,
) -> bool {
    let hashes = hashes_by_place(lender);
    has_frames(foreign, lender) && ranges.iter().all(|range| has_borrowed(range, number, foreign, &hashes))
}

/// Hashes of a pack's own blocks by frame and first byte.
fn hashes_by_place(pack: &PackReader) -> BTreeMap<(u32, usize), (usize, BlockHash)> {
    let mut hashes = BTreeMap::new();
    for run in own_runs(pack) {
        let frame = u32::try_from(run.frame).expect("a run names its frame in 32 bits");
        for index in 0..run.blocks {
            let number = run.first_block + index;
            let begin = run.skip + index * run.range.block_size as usize;
            if let Some(hash) = run.range.hash(number) {
                hashes.insert((frame, begin), (block_length(run.range, number), hash));
            }
        }
    }
    hashes
}

fn has_borrowed(
    range: &PackRange,
    pack: u32,
    foreign: &ForeignPack,
    hashes: &BTreeMap<(u32, usize), (usize, BlockHash)>,
) -> bool {
    let mut first_block = 0;
    for run in &range.runs {
        let blocks = run.blocks() as usize;
        if run.pack() == pack {
            let Some(frame) = foreign.frames.get(run.frame() as usize) else { return false };
            let is_there = |index: usize| {
                let number = first_block + index;
                let begin = run.skip() as usize + index * range.block_size as usize;
                hashes.get(&(frame.0, begin)).is_some_and(|(length, hash)| {
                    *length == block_length(range, number) && Some(*hash) == range.hash(number)
                })
            };
            if !(0..blocks).all(is_there) {
                return false;
            }
        }
        first_block += blocks;
    }
    true
}
