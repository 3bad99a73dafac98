//! Pages that do not match their checksums: told in any case, and published unless that was forbidden.

use super::*;
use crate::config::PageErrors;

/// Two pages of one file are bad, and one of another, in the order in which nobody would tell them.
fn run(page_errors: PageErrors) -> World {
    let spec = BackupSpec { page_errors, ..spec() };
    let (machine, queue) = BackupMachine::start(spec, worker(), vec![worker()], Recovered::default());
    let mut world = World { machine, queue, ..World::new() };
    world.settle();
    while let Some(order) = (!world.orders.is_empty()).then(|| world.orders.remove(0)) {
        let mut receipt = world.receipt(&order);
        for (asked, part) in order.parts.iter().zip(&mut receipt.parts) {
            let PartReceipt::Present { bad_pages, .. } = part else { continue };
            let first = u32::try_from(asked.offset / 8192).unwrap();
            match asked.path.as_str() {
                "base/1/100" if first > 5000 => bad_pages.extend([first, first + 2]),
                "base/1/101" => bad_pages.push(0),
                _ => {}
            }
        }
        world.report(ReportBody::UnitDone(receipt));
        world.report(ReportBody::Ready { units: 1 });
        world.settle();
    }
    world
}

fn expected() -> Vec<(String, u32)> {
    let in_file = |file: &str, block| (file.to_owned(), block);
    vec![in_file("base/1/100", 5976), in_file("base/1/100", 5978), in_file("base/1/101", 0)]
}

#[test]
fn a_backup_with_bad_pages_is_published_with_a_record_of_them() {
    let world = run(PageErrors::Warn);
    let outcome = world.outcome();
    assert_eq!((outcome.status, &outcome.bad_pages), (Status::Ok, &expected()));
    let contents = &world.published[0].1;
    let recorded: Vec<_> = contents
        .records()
        .filter_map(|record| match record {
            Record::File(file) if !file.bad_pages.is_empty() => Some((file.path.to_string(), file.bad_pages)),
            _ => None,
        })
        .collect();
    assert_eq!(recorded, [("base/1/100".to_owned(), vec![5976, 5978]), ("base/1/101".to_owned(), vec![0])]);
    assert_eq!(contents.record(&[], 0, None).pages.errors, 3);
}

#[test]
fn where_bad_pages_are_forbidden_all_of_them_are_named_and_nothing_is_published() {
    let world = run(PageErrors::Fail);
    let outcome = world.outcome();
    let failure = outcome.verdict().unwrap_err();
    assert_eq!((failure.code, failure.code.number()), (ErrorCode::Checksum, 26));
    let told = "3 pages in 2 files do not match their checksums: base/1/100 (5976, 5978), base/1/101 (0)";
    assert_eq!(failure.message, told);
    assert_eq!((outcome.status, &outcome.bad_pages), (Status::Error, &expected()));
    assert!(world.published.is_empty());
}
