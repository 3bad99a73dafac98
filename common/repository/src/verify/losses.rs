//! What a backup loses by the damage of packs: those of its blocks that lie in bad frames, of its own packs and of those they borrow from.
//!
//! It follows `worker/src/restore/pack.rs`, which takes what one repository cannot give from the next.

use super::Checked;
use super::backup::{KnownPack, KnownPacks};
use super::expected::{Expected, ExpectedRange};
use super::pack::PackCheck;
use pgconvoy_core::format::layout::PackName;
use pgconvoy_core::plan::restorable::PackLoss;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bad frames that are remembered, of all packs of a repository: some MiB. What packs lack that were found beyond that, nobody knows.
const BAD_FRAMES_MAX: usize = 1 << 16;

/// Keeps a repository that is rotten through and through from filling the memory.
#[derive(Debug, Default)]
pub(crate) struct Remembered(AtomicUsize);

impl Remembered {
    /// Whether there is room for the bad frames of one more pack. A pack that has none needs none.
    pub(super) fn takes(&self, frames: usize) -> bool {
        frames == 0 || self.0.fetch_add(frames, Ordering::Relaxed).saturating_add(frames) <= BAD_FRAMES_MAX
    }
}

/// What of a pack can be given to nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Damage {
    /// By number; none if it is whole.
    Frames(BTreeMap<u32, BadFrame>),
    /// It is not there, or its footer cannot be read.
    All,
    /// It did not come to its end, or contradicts what it borrows from.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BadFrame {
    /// It cannot be opened.
    Closed,
    /// The blocks that begin there in its content do not match their hashes.
    Blocks(BTreeSet<usize>),
}

impl Default for Damage {
    fn default() -> Self {
        Damage::Frames(BTreeMap::new())
    }
}

/// By pack that the manifest names, for those that lack something.
pub(super) fn losses(
    check: &PackCheck<'_>,
    expected: &Expected,
    known: &KnownPacks,
) -> Checked<BTreeMap<PackName, PackLoss>> {
    let suspects = expected.packs.iter().enumerate().filter(|(_, name)| !is_whole(name, known));
    let suspects: Vec<(usize, PackName)> = suspects.map(|(number, name)| (number, *name)).collect();
    let told = check.job.each("damaged packs", &suspects, |(number, name)| {
        Ok(Some(loss(check, *name, expected.of_pack(*number), known)))
    })?;
    let named = told.into_iter().map(|(at, loss)| (suspects[at].1, loss));
    Ok(named.filter(|(_, loss)| !loss.is_none()).collect())
}

/// With all that it borrows from.
fn is_whole(name: &PackName, known: &KnownPacks) -> bool {
    let is_sound = |pack: &KnownPack| pack.damage == Damage::default();
    let lends = |lender: &PackName| known.get(lender).is_some_and(is_sound);
    known.get(name).is_some_and(|pack| is_sound(pack) && pack.foreign.iter().all(lends))
}

fn loss(check: &PackCheck<'_>, name: PackName, ranges: &[ExpectedRange], known: &KnownPacks) -> PackLoss {
    let Some(pack) = known.get(&name) else { return PackLoss::UNKNOWN };
    match pack.damage {
        Damage::All => return PackLoss::ALL,
        Damage::Unknown => return PackLoss::UNKNOWN,
        Damage::Frames(_) => {}
    }
    let Ok(reader) = check.open(name, None) else { return PackLoss::UNKNOWN };
    let mut loss = PackLoss::NONE;
    for place in ranges.iter().map(|range| range.place) {
        // One that is not there is told of as what it is: a contradiction.
        let Some(range) = reader.body.ranges.get(place as usize) else { continue };
        let mut end = 0;
        for run in &range.runs {
            let blocks = end..end + run.blocks();
            end = blocks.end;
            let (damage, frame) = match (run.pack() as usize).checked_sub(1) {
                None => (Some(&pack.damage), run.frame()),
                Some(lender) => {
                    let foreign = &reader.body.foreign[lender];
                    let damage = pack.foreign.get(lender).and_then(|name| known.get(name));
                    (damage.map(|pack| &pack.damage), foreign.frames[run.frame() as usize].0)
                }
            };
            let begins = (0..).map(|block| run.skip() as usize + block * range.block_size as usize);
            add(&mut loss, damage.unwrap_or(&Damage::Unknown), frame, place, blocks, begins);
        }
    }
    loss
}

/// `begins` says where in the frame each of the blocks does.
fn add(
    loss: &mut PackLoss,
    damage: &Damage,
    frame: u32,
    place: u32,
    blocks: Range<u32>,
    begins: impl Iterator<Item = usize>,
) {
    match damage {
        Damage::Frames(bad) => match bad.get(&frame) {
            None => {}
            Some(BadFrame::Closed) => {
                loss.add_certain(place, blocks.clone());
                loss.add_possible(place, blocks);
            }
            // A restore takes blocks that lie one after another in a frame all, or none.
            Some(BadFrame::Blocks(bad)) => {
                for (block, begin) in blocks.clone().zip(begins) {
                    if bad.contains(&begin) {
                        loss.add_certain(place, block..block + 1);
                    }
                }
                loss.add_possible(place, blocks);
            }
        },
        // Where one lender cannot be opened, a restore takes nothing of what borrows from it.
        Damage::All => {
            loss.add_certain(place, blocks);
            loss.endanger_all();
        }
        Damage::Unknown => loss.endanger_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_frames_are_remembered_up_to_a_limit_and_sound_packs_stay_sound_beyond_it() {
        let remembered = Remembered::default();
        assert!(remembered.takes(BAD_FRAMES_MAX - 1));
        assert!(remembered.takes(1));
        assert!(!remembered.takes(1));
        assert!(remembered.takes(0));
    }
}
