//! What one manifest says of the packs it refers to, kept small: a cluster may have millions of files.
//!
//! A range is kept as a fingerprint of all that the pack's footer must repeat. It finds damage and mistakes; that nobody
//! forged both is the business of the tags.

use super::{Finding, Job};
use crate::error::RepositoryError;
use crate::manifest::ManifestReader;
use pgconvoy_core::format::layout::PackName;
use pgconvoy_core::format::manifest::{FileRecord, ManifestHead, Record, file_checksum};
use pgconvoy_core::format::pack::PackRange;
use pgconvoy_core::format::{BlockHash, HashSecret};
use pgconvoy_core::ids::PlanNumber;
use std::collections::{BTreeMap, BTreeSet};
use xxhash_rust::xxh3::Xxh3Default;

/// A range that a pack must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ExpectedRange {
    /// Index into [`Expected::packs`].
    pub(crate) pack: u32,
    pub(crate) place: u32,
    fingerprint: u64,
    /// Where the checksum of a range goes that is not alone in its file.
    pub(crate) slot: Option<u32>,
}

/// A file of several ranges: its checksum is known once all of theirs are.
#[derive(Debug)]
struct SplitFile {
    path: String,
    checksum: BlockHash,
    slots: std::ops::Range<usize>,
}

#[derive(Debug, Default)]
pub(crate) struct Expected {
    pub(crate) packs: Vec<PackName>,
    /// In order of pack and place.
    pub(crate) ranges: Vec<ExpectedRange>,
    /// Plans that wrote packs of the backup itself.
    pub(crate) plans: BTreeSet<PlanNumber>,
    numbers: BTreeMap<PackName, u32>,
    split: Vec<SplitFile>,
    checksums: Vec<Option<BlockHash>>,
    last_path: Option<String>,
    records: u64,
    files: u64,
    bytes: u64,
}

/// Only a range that is alone in its file has the file's checksum.
fn fingerprint(path: &str, offset: u64, length: u64, checksum: Option<BlockHash>) -> u64 {
    let mut hasher = Xxh3Default::new();
    hasher.update(&offset.to_be_bytes());
    hasher.update(&length.to_be_bytes());
    hasher.update(&checksum.map_or([0; 16], |checksum| checksum.0));
    hasher.update(path.as_bytes());
    hasher.digest()
}

impl ExpectedRange {
    pub(crate) fn fits(&self, range: &PackRange) -> bool {
        let checksum = self.slot.is_none().then_some(range.checksum);
        fingerprint(&range.path, range.offset, range.length, checksum) == self.fingerprint
    }
}

impl Expected {
    /// Reads a manifest to its end.
    pub(crate) fn read(
        job: &Job,
        manifest: &mut ManifestReader,
        secret: &HashSecret,
    ) -> Result<(Expected, Vec<String>), RepositoryError> {
        let mut expected = Expected::default();
        let mut flaws = Vec::new();
        let head = manifest.head().clone();
        while let Some(records) = job.wait(manifest.next_records(&job.repository))? {
            records.iter().for_each(|record| expected.add(record, &head, secret, &mut flaws));
            if job.cancel.is_cancelled() {
                return Err(RepositoryError::Interrupted { what: "verify" });
            }
        }
        for (what, told, found) in [
            ("records", head.records, expected.records),
            ("files", head.files, expected.files),
            ("bytes of files", head.bytes, expected.bytes),
        ] {
            if told != found {
                flaws.push(format!("it has {found} {what}, and its head says {told}"));
            }
        }
        expected.ranges.sort_unstable();
        Ok((expected, flaws))
    }

    fn add(&mut self, record: &Record, head: &ManifestHead, secret: &HashSecret, flaws: &mut Vec<String>) {
        let path = record.path().as_str();
        // The content of a link to a file comes under the link's own path.
        let is_later = |last: &String| path.split('/').ge(last.split('/'));
        if !self.last_path.as_ref().is_none_or(is_later) {
            flaws.push(format!("{path} is out of order"));
        }
        self.last_path = Some(path.to_owned());
        self.records += 1;
        if let Record::File(file) = record {
            self.files += 1;
            self.bytes = self.bytes.saturating_add(file.size);
            self.add_file(file, head, secret, flaws);
        }
    }

    fn add_file(
        &mut self,
        file: &FileRecord,
        head: &ManifestHead,
        secret: &HashSecret,
        flaws: &mut Vec<String>,
    ) {
        let path = file.path.as_str();
        if file.ranges.is_empty() && file.checksum != file_checksum(secret, &[]) {
            flaws.push(format!("{path} is empty, and its checksum is of something"));
        }
        let is_split = file.ranges.len() > 1;
        let first_slot = self.checksums.len();
        for range in &file.ranges {
            let pack = head.pack_of(range).expect("next_records validated the record against the head");
            if range.label == 0 {
                self.plans.insert(range.plan);
            }
            let slot = is_split.then(|| {
                self.checksums.push(None);
                u32::try_from(self.checksums.len() - 1)
                    .expect("units bound the number of ranges of split files")
            });
            let checksum = (!is_split).then_some(file.checksum);
            let fingerprint = fingerprint(path, range.offset, range.length, checksum);
            let pack = self.number(pack);
            self.ranges.push(ExpectedRange { pack, place: range.place, fingerprint, slot });
        }
        if is_split {
            let slots = first_slot..self.checksums.len();
            self.split.push(SplitFile { path: path.to_owned(), checksum: file.checksum, slots });
        }
    }

    fn number(&mut self, pack: PackName) -> u32 {
        *self.numbers.entry(pack).or_insert_with(|| {
            self.packs.push(pack);
            u32::try_from(self.packs.len() - 1).expect("a backup has thousands of packs, not billions")
        })
    }

    /// Equal for manifests that name the same ranges, with the same checksums, in the same packs.
    pub(super) fn digest(&self) -> u64 {
        let mut hasher = Xxh3Default::new();
        self.packs.iter().for_each(|pack| hasher.update(format!("{} {pack} ", pack.label).as_bytes()));
        for range in &self.ranges {
            hasher.update(&range.pack.to_be_bytes());
            hasher.update(&range.place.to_be_bytes());
            hasher.update(&range.fingerprint.to_be_bytes());
        }
        for file in &self.split {
            hasher.update(file.path.as_bytes());
            hasher.update(&file.checksum.0);
        }
        hasher.digest()
    }

    /// The ranges that one of the packs must hold.
    pub(crate) fn of_pack(&self, number: usize) -> &[ExpectedRange] {
        let number = u32::try_from(number).expect("it is an index into packs");
        let begin = self.ranges.partition_point(|range| range.pack < number);
        let end = self.ranges.partition_point(|range| range.pack <= number);
        &self.ranges[begin..end]
    }

    pub(crate) fn set_checksum(&mut self, slot: u32, checksum: BlockHash) {
        self.checksums[slot as usize] = Some(checksum);
    }

    /// Files whose ranges are all good and yet are not what the manifest says.
    pub(crate) fn check_split_files(&self, job: &Job, manifest: &str, secret: &HashSecret) -> Vec<Finding> {
        let wrong = |file: &&SplitFile| {
            let checksums: Option<Vec<BlockHash>> =
                self.checksums[file.slots.clone()].iter().copied().collect();
            checksums.is_some_and(|checksums| file_checksum(secret, &checksums) != file.checksum)
        };
        let tell = |file: &SplitFile| {
            let reason = format!("the checksum of {} is not that of its ranges", file.path);
            job.finding(manifest, &reason)
        };
        self.split.iter().filter(wrong).map(tell).collect()
    }
}
