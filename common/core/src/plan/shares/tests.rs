//! The properties of a cut, on arbitrary plans.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::format::layout::PackName;
use crate::format::manifest::Ownership;
use crate::ids::{Attempt, PlanNumber, UnitId};
use crate::plan::restore::{CONTROL_PATH, PlannedFile, PlannedLink};
use proptest::prelude::*;

/// The parts of each file, as pack and length.
type Files = Vec<Vec<(u32, u64)>>;

fn plan(files: &Files) -> RestorePlan {
    let mut packs: BTreeMap<u32, Vec<PackPart>> = BTreeMap::new();
    let mut planned = Vec::new();
    for (number, parts) in (0..).zip(files) {
        let mut offset = 0;
        for (pack, length) in parts {
            let parts = packs.entry(*pack).or_default();
            let place = u32::try_from(parts.len()).unwrap();
            parts.push(PackPart { place, file: number, offset, length: *length });
            offset += length;
        }
        planned.push(PlannedFile {
            path: if number == 0 { CONTROL_PATH.into() } else { format!("base/1/{number}") }.parse().unwrap(),
            size: offset,
            modified: 7,
            ownership: Ownership { mode: 0o600, user: 0, group: 0 },
            parts: u32::try_from(parts.len()).unwrap(),
            checksum: BlockHash([0; 16]),
        });
    }
    let (label, plan, attempt) = ("20261122-103000F".parse().unwrap(), PlanNumber(1), Attempt(1));
    let packs = packs.into_iter().map(|(unit, parts)| PackWork {
        pack: PackName { label, plan, unit: UnitId(unit), attempt },
        bytes: parts.iter().map(|part| part.length).sum(),
        parts,
    });
    let mut packs: Vec<PackWork> = packs.collect();
    packs.sort_by_key(|work| std::cmp::Reverse(work.bytes));
    let bytes = packs.iter().map(|work| work.bytes).sum();
    let (directories, links) = (Vec::new(), Vec::new());
    RestorePlan { directories, links, files: planned, packs, control: 0, bytes }
}

fn secret() -> HashSecret {
    HashSecret::from_random_bytes([5; HashSecret::BYTES])
}

fn any_files() -> impl Strategy<Value = Files> {
    let parts = prop::collection::vec((0u32..12, 1u64..300), 0..4);
    prop::collection::vec(parts, 1..40)
}

proptest! {
    #[test]
    fn every_part_of_every_file_is_in_exactly_one_share(files in any_files(), size in 1u64..800) {
        let plan = plan(&files);
        let shares = Shares::cut(&plan, size);
        let all = shares.shared.iter().chain([&shares.own]);
        let mut parts: Vec<(PackName, PackPart)> = all
            .flat_map(|share| shares.packs(&plan, share))
            .flat_map(|work| work.parts.into_iter().map(move |part| (work.pack, part)))
            .collect();
        let mut planned: Vec<(PackName, PackPart)> = plan
            .packs
            .iter()
            .flat_map(|work| work.parts.iter().map(|part| (work.pack, *part)))
            .collect();
        parts.sort_unstable();
        planned.sort_unstable();
        prop_assert_eq!(parts, planned);
        let bytes: u64 = shares.shared.iter().map(|share| share.bytes).sum();
        prop_assert_eq!(bytes + shares.own.bytes, plan.bytes);
    }

    #[test]
    fn the_same_plan_is_cut_alike_and_no_group_of_small_files_is_twice_the_size(
        files in any_files(), size in 1u64..800,
    ) {
        let plan = plan(&files);
        let shares = Shares::cut(&plan, size);
        prop_assert_eq!(&shares, &Shares::cut(&plan.clone(), size));
        for share in &shares.shared {
            prop_assert!(share.files.len() == 1 || share.bytes < 2 * size, "{share:?}");
        }
        prop_assert!(shares.shared.is_sorted_by_key(|share| std::cmp::Reverse(share.bytes)));
    }

    #[test]
    fn whoever_differs_in_any_file_has_another_digest(files in any_files(), at in any::<prop::sample::Index>()) {
        let plan = plan(&files);
        let known = digest(&plan, "/data", 32, &secret());
        prop_assert_eq!(known, digest(&plan.clone(), "/data", 32, &secret()));
        prop_assert_ne!(known, digest(&plan, "/other", 32, &secret()));
        prop_assert_ne!(known, digest(&plan, "/data", 33, &secret()));
        let mut other = plan.clone();
        other.files[at.index(files.len())].size += 1;
        prop_assert_ne!(known, digest(&other, "/data", 32, &secret()));
    }
}

#[test]
fn a_large_file_is_alone_and_small_ones_of_one_pack_stay_together() {
    let files = vec![
        vec![(9, 8)],
        vec![(1, 100), (2, 100), (3, 50)],
        vec![(4, 30)],
        vec![(4, 30)],
        vec![(5, 20)],
        vec![(5, 25)],
        vec![],
    ];
    let shares = Shares::cut(&plan(&files), 64);
    let cut: Vec<(&[u32], u64)> =
        shares.shared.iter().map(|share| (share.files.as_slice(), share.bytes)).collect();
    assert_eq!(cut, [(&[1][..], 250), (&[2, 3], 60), (&[4, 5], 45)]);
    assert_eq!((shares.own.files.as_slice(), shares.own.bytes), (&[0][..], 8));
}

#[test]
fn a_link_to_a_single_file_is_the_main_workers_own_and_a_map_changes_the_digest() {
    let mut plan = plan(&vec![vec![(9, 8)], vec![(1, 10)], vec![(1, 10)]]);
    let before = digest(&plan, "/data", 32, &secret());
    let link = PlannedLink {
        path: plan.files[2].path.clone(),
        destination: "/elsewhere/file".into(),
        tablespace: None,
        ownership: plan.files[2].ownership,
    };
    plan.links.push(link);
    assert_ne!(before, digest(&plan, "/data", 32, &secret()));
    let shares = Shares::cut(&plan, 64);
    assert_eq!(shares.own.files, [0, 2]);
    assert_eq!(shares.shared.len(), 1);
}

#[test]
fn a_cluster_of_very_many_files_is_cut_into_larger_shares() {
    let mut files: Files = vec![vec![(0, 8)]];
    files.extend((0..50_000u32).map(|number| vec![(number / 10 + 1, 1)]));
    let shares = Shares::cut(&plan(&files), 1);
    assert!(shares.shared.len() <= SHARES_MAX && shares.shared.len() > SHARES_MAX / 4);
}
