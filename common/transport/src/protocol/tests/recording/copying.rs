//! What a coordinator, the main worker of a `repo-sync` and one of its mates say beside what is said of every shared job.

use super::{ARCHIVE, ATTEMPT, UNIT, label};
use pgconvoy_core::format::layout::PackName;
use pgconvoy_core::ids::{Identity, PlanNumber, ShareId, WorkerName};
use pgconvoy_core::job::{JobKind, JobOptions};
use pgconvoy_core::wire::{
    CopyObjects, CopyOrder, CopyPart, Copying, ErrandOrder, OrderBody, ReportBody, ShareOrder, ShareReport,
    StagedShare,
};

const FIRST: ShareId = ShareId(2_048);

fn mate() -> WorkerName {
    "db2".parse().unwrap()
}

fn staging() -> Identity {
    Identity::from_random_bytes([7; 16])
}

fn part(objects: CopyObjects) -> CopyPart {
    CopyPart {
        source: Identity::from_random_bytes([1; 16]),
        target: Identity::from_random_bytes([2; 16]),
        objects,
    }
}

fn packs() -> CopyPart {
    let pack = PackName { label: label(), plan: PlanNumber(1), unit: UNIT, attempt: ATTEMPT };
    part(CopyObjects::Packs {
        label: label(),
        backup: Identity::from_random_bytes([5; 16]),
        packs: vec![pack],
    })
}

fn wal() -> CopyPart {
    let files = vec!["000000010000000100000002".parse().unwrap(), "00000002.history".parse().unwrap()];
    part(CopyObjects::Wal { archive: ARCHIVE, files })
}

fn errand() -> ErrandOrder {
    let mut options = JobOptions::default();
    options.set("from", vec!["1".to_owned()]);
    options.set("to", vec!["2".to_owned()]);
    ErrandOrder { kind: JobKind::RepoSync, stanza: "main".parse().unwrap(), options }
}

pub(super) fn orders() -> Vec<(&'static str, OrderBody)> {
    let order = |part| CopyOrder { errand: errand(), staging: staging(), first: FIRST, part };
    let copy = |part| OrderBody::Restore(ShareOrder::Copy(Box::new(order(part))));
    vec![("copy-packs", copy(packs())), ("copy-wal", copy(wal()))]
}

pub(super) fn reports() -> Vec<(&'static str, ReportBody)> {
    let copying = Copying {
        run: Identity::from_random_bytes([6; 16]),
        slots: 4,
        first: FIRST,
        part: wal(),
        done: vec![(mate(), vec![FIRST])],
        taken: vec![ShareId(2_049)],
        mates: vec![(mate(), staging())],
        left_out: vec!["db3".parse().unwrap()],
    };
    let there = StagedShare { share: FIRST, crcs: Vec::new(), was_there: true };
    let reports = [
        ("copying", ShareReport::Copying(Box::new(copying))),
        ("found", ShareReport::Staged { staging: staging(), staged: there }),
    ];
    reports.into_iter().map(|(name, report)| (name, ReportBody::Restore(report))).collect()
}
