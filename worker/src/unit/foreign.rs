//! What a footer says of packs that its blocks lie in: each pack once, and of each the frames that are used.

use super::known::{Spot, Spots};
use crate::job::PackMap;
use pgconvoy_core::format::layout::PackName;
use pgconvoy_core::format::pack::{BlockRun, ForeignFrame, ForeignPack};
use std::collections::HashMap;

/// Of one pack that is being written to one repository.
#[derive(Debug, Default)]
pub(super) struct ForeignTable {
    packs: Vec<ForeignPack>,
    /// By pack and number of the frame.
    places: HashMap<(PackName, u32), (u32, u32)>,
}

impl ForeignTable {
    /// The block in terms of this footer; `None` if what told of it contradicts itself.
    pub(super) fn refer(&mut self, spots: &Spots, spot: Spot) -> Option<BlockRun> {
        let map = spots.maps.get(spot.map as usize)?;
        let (name, frame) = match spot.pack.checked_sub(1) {
            None => (map.name, map.frame(spot.frame)?),
            Some(foreign) => {
                let pack = map.body.foreign.get(foreign as usize)?;
                (name_of(pack), *pack.frames.get(spot.frame as usize)?)
            }
        };
        let (pack, frame) = match self.places.get(&(name, frame.0)) {
            Some(place) => *place,
            None => self.list(map, spot.pack, name, frame),
        };
        Some(BlockRun(1, pack + 1, frame, spot.skip))
    }

    fn list(&mut self, map: &PackMap, pack: u32, name: PackName, frame: ForeignFrame) -> (u32, u32) {
        let at = match self.packs.iter().position(|known| name_of(known) == name) {
            Some(at) => at,
            None => {
                self.packs.push(listed(map, pack, name));
                self.packs.len() - 1
            }
        };
        self.packs[at].frames.push(frame);
        let number = |value: usize| u32::try_from(value).expect("a footer lists far fewer");
        let place = (number(at), number(self.packs[at].frames.len() - 1));
        self.places.insert((name, frame.0), place);
        place
    }

    pub(super) fn packs(&self) -> &[ForeignPack] {
        &self.packs
    }
}

fn name_of(pack: &ForeignPack) -> PackName {
    PackName { label: pack.label, plan: pack.plan, unit: pack.unit, attempt: pack.attempt }
}

/// Without frames yet.
fn listed(map: &PackMap, pack: u32, name: PackName) -> ForeignPack {
    let (generation, salt) = match pack.checked_sub(1).and_then(|at| map.body.foreign.get(at as usize)) {
        Some(foreign) => (foreign.generation, foreign.salt.clone()),
        None => map.opening(),
    };
    ForeignPack {
        label: name.label,
        plan: name.plan,
        unit: name.unit,
        attempt: name.attempt,
        generation,
        salt,
        frames: Vec::new(),
    }
}
