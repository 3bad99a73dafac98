//! What a pack's footer says: the receipt of the unit, with the block map of each of its ranges (`FORMAT.md` section 4).

use super::{BackupLabel, BlockHash, FormatError, FrameEntry, HashSecret};
use crate::ids::{Attempt, Identity, KeyGeneration, PlanNumber, UnitId, WorkerName};
use serde::{Deserialize, Serialize};

/// `[blocks, pack, frame, skip]`: that many blocks lie one after another in one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRun(pub u32, pub u32, pub u32, pub u32);

impl BlockRun {
    pub const fn blocks(&self) -> u32 {
        self.0
    }

    /// 0 is the pack that holds the footer, k is `foreign[k - 1]`.
    pub const fn pack(&self) -> u32 {
        self.1
    }

    pub const fn frame(&self) -> u32 {
        self.2
    }

    /// Bytes of the frame's raw content before the first block.
    pub const fn skip(&self) -> u32 {
        self.3
    }
}

/// One range of one file, as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PackRange {
    /// Relative to the data directory.
    pub path: String,
    pub offset: u64,
    /// Bytes that were there, from `offset`.
    pub length: u64,
    pub block_size: u32,
    /// 16 bytes per block.
    #[serde(with = "serde_bytes")]
    pub hashes: Vec<u8>,
    pub runs: Vec<BlockRun>,
    pub checksum: BlockHash,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bad_pages: Vec<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "serde_bytes")]
    pub sha1: Option<Vec<u8>>,
}

impl PackRange {
    pub fn blocks(&self) -> u64 {
        self.length.div_ceil(u64::from(self.block_size.max(1)))
    }

    /// Bytes that the pack itself holds; the rest lies in packs that it refers to.
    pub fn own_bytes(&self) -> u64 {
        let mut at = 0;
        let own = self.runs.iter().map(|run| {
            let begin = at;
            at = self.length.min(begin + u64::from(run.blocks()) * u64::from(self.block_size));
            if run.pack() == 0 { at - begin } else { 0 }
        });
        own.sum()
    }

    /// Hash of block `number` of this range.
    pub fn hash(&self, number: usize) -> Option<BlockHash> {
        let bytes = self.hashes.get(number * 16..number * 16 + 16)?;
        Some(BlockHash(bytes.try_into().expect("a slice of 16 is an array of 16")))
    }

    /// Checks all that can be checked without data: a reader may then index without fear.
    pub fn validate(
        &self,
        frames: &[FrameEntry],
        foreign: &[ForeignPack],
        secret: &HashSecret,
    ) -> Result<(), FormatError> {
        let inconsistent = |reason: String| FormatError::Inconsistent {
            what: "block map",
            reason: format!("{}: {reason}", self.path),
        };
        if self.block_size == 0 {
            return Err(inconsistent("its block size is zero".into()));
        }
        let blocks = self.blocks();
        if blocks.checked_mul(16) != Some(self.hashes.len() as u64) {
            return Err(inconsistent(format!(
                "it has {} bytes of hashes for {blocks} blocks",
                self.hashes.len()
            )));
        }
        if secret.hash(&self.hashes) != self.checksum {
            return Err(inconsistent("its checksum is not that of its block hashes".into()));
        }
        let mut covered = 0u64;
        for run in &self.runs {
            let raw_bytes = if run.pack() == 0 {
                frames.get(run.frame() as usize).map(FrameEntry::raw_bytes)
            } else {
                foreign
                    .get(run.pack() as usize - 1)
                    .and_then(|pack| pack.frames.get(run.frame() as usize))
                    .map(|frame| frame.3)
            };
            let raw_bytes =
                raw_bytes.ok_or_else(|| inconsistent("it points to a frame that is not listed".into()))?;
            let end_of_run = (covered + u64::from(run.blocks()))
                .saturating_mul(u64::from(self.block_size))
                .min(self.length);
            let bytes = end_of_run.saturating_sub(covered.saturating_mul(u64::from(self.block_size)));
            if run.blocks() == 0 || bytes == 0 || u64::from(run.skip()) + bytes > u64::from(raw_bytes) {
                return Err(inconsistent("it points beyond the end of a frame".into()));
            }
            covered += u64::from(run.blocks());
        }
        if covered != blocks {
            return Err(inconsistent(format!("it places {covered} of {blocks} blocks")));
        }
        Ok(())
    }
}

/// `[number, offset, stored length, raw length, codec]` of a frame in another pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignFrame(pub u32, pub u64, pub u32, pub u32, pub u8);

/// A pack that blocks of this one refer to, with all that is needed to fetch and open its frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ForeignPack {
    pub label: BackupLabel,
    pub plan: PlanNumber,
    pub unit: UnitId,
    pub attempt: Attempt,
    pub generation: KeyGeneration,
    #[serde(with = "serde_bytes")]
    pub salt: Vec<u8>,
    pub frames: Vec<ForeignFrame>,
}

/// The body of a pack's footer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PackBody {
    pub backup: Identity,
    pub label: BackupLabel,
    pub plan: PlanNumber,
    pub unit: UnitId,
    pub attempt: Attempt,
    pub worker: WorkerName,
    pub slot: u16,
    pub ranges: Vec<PackRange>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub foreign: Vec<ForeignPack>,
    /// Files of the unit that were gone when it was read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vanished: Vec<String>,
    /// Bytes of its ranges that were not read, since WAL summaries said that the prior has them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped: u64,
    /// Its ranges are whole files that lie as such beside it (`FORMAT.md` section 4a): they have no runs here, and the pack no frames.
    #[serde(default, skip_serializing_if = "is_false")]
    pub plain: bool,
}

fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

fn is_false(value: &bool) -> bool {
    !*value
}
