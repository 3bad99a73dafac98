//! What a coordinator, the main worker of a restore and one of its mates say.

use super::{errand, errand_end, failure, label};
use pgconvoy_core::format::BlockHash;
use pgconvoy_core::ids::{Identity, ShareId, WorkerName};
use pgconvoy_core::wire::{
    AssistOrder, Leading, OrderBody, ReportBody, ShareOrder, ShareReport, StagedShare,
};

const SHARE: ShareId = ShareId(3);
const SHARE_SIZE: u64 = 33_554_432;

fn mate() -> WorkerName {
    "db2".parse().unwrap()
}

fn run() -> Identity {
    Identity::from_random_bytes([6; 16])
}

fn staging() -> Identity {
    Identity::from_random_bytes([7; 16])
}

fn backup() -> Identity {
    Identity::from_random_bytes([5; 16])
}

fn staged() -> StagedShare {
    StagedShare::new(SHARE, vec![0xdead_beef])
}

pub(super) fn orders() -> Vec<(&'static str, OrderBody)> {
    let assist = AssistOrder {
        errand: errand(),
        label: label(),
        backup: backup(),
        digest: BlockHash([8; 16]),
        share_size: SHARE_SIZE,
        staging: staging(),
    };
    let orders = vec![
        ("lead", ShareOrder::Lead(Box::new(errand()))),
        ("admit", ShareOrder::Admit { mate: mate() }),
        ("assist", ShareOrder::Assist(Box::new(assist))),
        ("take", ShareOrder::Take { within: run(), shares: vec![ShareId(0), SHARE] }),
        ("adopt", ShareOrder::Adopt { mate: mate(), staging: staging(), staged: staged() }),
        ("dismiss", ShareOrder::Dismiss { mate: mate(), because: Some(failure()) }),
    ];
    orders.into_iter().map(|(name, order)| (name, OrderBody::Restore(order))).collect()
}

pub(super) fn reports() -> Vec<(&'static str, ReportBody)> {
    let leading = Leading {
        run: run(),
        label: label(),
        backup: backup(),
        digest: BlockHash([8; 16]),
        share_size: SHARE_SIZE,
        slots: 4,
        shares: vec![1_073_741_824, SHARE_SIZE, 8_192, 1],
        done: vec![(mate(), vec![ShareId(1)])],
        taken: vec![ShareId(0), ShareId(2)],
        mates: vec![(mate(), staging())],
    };
    let adopted =
        ShareReport::Adopted { mate: mate(), staging: staging(), share: SHARE, result: Err(failure()) };
    let reports = vec![
        ("leading", ShareReport::Leading(Box::new(leading))),
        ("admitted", ShareReport::Admitted { mate: mate(), staging: staging() }),
        ("assisting", ShareReport::Assisting { staging: staging(), slots: 4, taken: vec![SHARE] }),
        ("written", ShareReport::Written { run: run(), share: ShareId(0) }),
        ("staged", ShareReport::Staged { staging: staging(), staged: staged() }),
        ("adopted", adopted),
        ("assist-failed", ShareReport::AssistFailed { staging: staging(), failure: failure() }),
        ("restore-ended", ShareReport::Ended(Ok(errand_end()))),
    ];
    reports.into_iter().map(|(name, report)| (name, ReportBody::Restore(report))).collect()
}
