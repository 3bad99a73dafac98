//! The properties of a split, on arbitrary inventories.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::pg::Fork;
use crate::plan::inventory::{EntryKind, ScannedEntry};
use crate::plan::render::render_backup_plan;
use crate::units::{KIB, MIB};
use proptest::prelude::*;

const MAIN: FileClass = FileClass::Relation { fork: Fork::Main, segment: 0 };

fn inventory(files: &[(FileClass, u64)]) -> Inventory {
    let mut inventory = Inventory::default();
    for (number, (class, size)) in files.iter().enumerate() {
        inventory
            .push(ScannedEntry {
                path: format!("f{number:06}").parse().unwrap(),
                kind: EntryKind::File { size: *size, class: *class },
                mode: 0o600,
                user: None,
                group: None,
                modified: 0,
            })
            .unwrap();
    }
    inventory
}

fn any_class() -> impl Strategy<Value = FileClass> {
    prop_oneof![
        8 => Just(MAIN),
        2 => Just(FileClass::Slru),
        1 => Just(FileClass::Other),
        1 => Just(FileClass::Relation { fork: Fork::Vm, segment: 0 }),
        1 => Just(FileClass::FilenodeMap),
    ]
}

fn any_files() -> impl Strategy<Value = Vec<(FileClass, u64)>> {
    let size = prop_oneof![3 => 0u64..200 * KIB, 2 => 0u64..70 * MIB, 1 => Just(0), 1 => (0u64..200).prop_map(|n| n * 8 * KIB)];
    prop::collection::vec((any_class(), size), 0..60)
}

proptest! {
    #[test]
    fn ranges_cover_every_byte_exactly_once(files in any_files(), unit_size in 8 * KIB..40 * MIB, page in 0u32..3, priors in 0usize..4) {
        let inventory = inventory(&files);
        let page_size = 8192 << page;
        let options = SplitOptions { priors, ..SplitOptions::new(unit_size, page_size) };
        let plan = plan_backup(&inventory, &Unchanged::default(), options);
        let mut ranges: Vec<Vec<(u64, u64)>> = vec![Vec::new(); files.len()];
        for unit in &plan.units {
            match &unit.work {
                Work::Range { file, offset, length } => {
                    let own = u64::from(block_size(inventory.file(*file).size, page_size));
                    let block = if priors > 0 { BLOCK_SIZE_MAX } else { own };
                    prop_assert_eq!(offset % block, 0);
                    prop_assert!(inventory.file(*file).class.splittable());
                    prop_assert!(*length > 0);
                    ranges[file.0 as usize].push((*offset, *length));
                }
                Work::Files(list) => for file in list {
                    ranges[file.0 as usize].push((0, inventory.file(*file).size));
                },
            }
        }
        for (number, (class, size)) in files.iter().enumerate() {
            ranges[number].sort_unstable();
            let mut end = 0;
            for (offset, length) in &ranges[number] {
                prop_assert_eq!(*offset, end);
                end += length;
            }
            prop_assert_eq!(end, *size);
            prop_assert_eq!(ranges[number].is_empty(), *size == 0 && class.wal_protected());
        }
    }

    #[test]
    fn no_unit_is_above_its_limit_unless_a_file_must_stay_whole(files in any_files(), unit_size in 64 * KIB..40 * MIB) {
        let inventory = inventory(&files);
        let plan = plan_backup(&inventory, &Unchanged::default(), SplitOptions::new(unit_size, 8192));
        for unit in &plan.units {
            let whole = matches!(&unit.work, Work::Files(list) if list.len() == 1 && !inventory.file(list[0]).class.splittable());
            prop_assert!(unit.bytes <= plan.unit_size || whole, "{unit:?}");
        }
    }

    #[test]
    fn nothing_is_split_where_files_stay_whole_and_every_file_is_in_one_unit(files in any_files(), unit_size in 64 * KIB..40 * MIB) {
        let inventory = inventory(&files);
        let options = SplitOptions { whole_files: true, ..SplitOptions::new(unit_size, 8192) };
        let plan = plan_backup(&inventory, &Unchanged::default(), options);
        let mut seen = vec![0; files.len()];
        for unit in &plan.units {
            let Work::Files(list) = &unit.work else { panic!("{unit:?} is a part of a file") };
            prop_assert!(unit.bytes <= plan.unit_size || list.len() == 1, "{unit:?}");
            list.iter().for_each(|file| seen[file.0 as usize] += 1);
        }
        for (times, (class, size)) in seen.iter().zip(&files) {
            prop_assert_eq!(*times, usize::from(*size > 0 || !class.wal_protected()));
        }
    }

    #[test]
    fn the_same_inventory_gives_the_same_plan_largest_first(files in any_files(), unit_size in 8 * KIB..40 * MIB) {
        let plan = plan_backup(&inventory(&files), &Unchanged::default(), SplitOptions::new(unit_size, 8192));
        prop_assert_eq!(&plan, &plan_backup(&inventory(&files), &Unchanged::default(), SplitOptions::new(unit_size, 8192)));
        prop_assert!(plan.units.is_sorted_by_key(|unit| (unit.last, std::cmp::Reverse(unit.bytes))));
    }

    #[test]
    fn the_unit_size_doubles_until_the_units_are_few_enough(files in any_files(), units_max in 1usize..20) {
        let inventory = inventory(&files);
        let options = SplitOptions { units_max, ..SplitOptions::new(64 * KIB, 8192) };
        let plan = plan_backup(&inventory, &Unchanged::default(), options);
        prop_assert!(plan.units.len() <= units_max || plan.unit_size >= inventory.bytes());
        if plan.unit_size > options.unit_size {
            let half = SplitOptions { unit_size: plan.unit_size / 2, ..options };
            prop_assert!(split(&inventory, &Unchanged::default(), half).len() > units_max);
        }
    }
}

#[test]
fn a_plan_reads_as_text() {
    let files = [
        (MAIN, 70 * MIB),
        (FileClass::Control, 8 * KIB),
        (MAIN, 8 * KIB),
        (MAIN, 0),
        (FileClass::Other, 0),
        (FileClass::Other, 100),
        (FileClass::Other, 40 * MIB),
    ];
    let inventory = inventory(&files);
    let plan = plan_backup(&inventory, &Unchanged::default(), SplitOptions::new(32 * MIB, 8192));
    assert_eq!(
        render_backup_plan(&plan, &inventory),
        "\
unit size 32MiB, 7 units, 110.0MiB
     0     40MiB  primary  f000006
     1   23.3MiB  any      f000000 0+24477696
     2   23.3MiB  any      f000000 24477696+24477696
     3   23.3MiB  any      f000000 48955392+24444928
     4      8KiB  any      f000002
     5      100B  primary  f000004 and 1 more
     6      8KiB  last     f000001
"
    );
}
