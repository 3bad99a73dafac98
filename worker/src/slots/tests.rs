#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use super::*;
use crate::job::testing::{ONE, PATIENCE, STALL, Site, order, reporter};
use pgconvoy_core::wire::{PartReceipt, StoredPack};
use pgconvoy_storage::decorate::fault::{Effect, Operation, Rule};

async fn task(site: &Site, unit: u32, reporter: &Reporter) -> Task {
    let relation = site.relation(&unit.to_string(), 1);
    let order = Arc::new(order(unit, &[ONE], &[relation]));
    assert!(reporter.outbox().hold(reporter.job(), &order));
    Task { context: site.context(STALL).await, order, reporter: reporter.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_is_reported_and_another_one_asked_for() {
    let site = Site::new().await;
    let (reporter, mut far) = reporter();
    let pool = SlotPool::start(1, &Handle::current());
    pool.submit(task(&site, 1, &reporter).await);
    assert!(matches!(far.next().await, ReportBody::UnitDone(receipt) if receipt.unit.0 == 1));
    assert_eq!(far.next().await, ReportBody::Ready { units: 1 });
}

#[tokio::test(flavor = "multi_thread")]
async fn units_of_a_job_that_is_over_are_dropped_without_a_word() {
    let site = Site::new().await;
    let (reporter, mut far) = reporter();
    let pool = SlotPool::start(1, &Handle::current());
    let ended = task(&site, 1, &reporter).await;
    ended.context.ended.cancel();
    pool.submit(ended);
    pool.submit(task(&site, 2, &reporter).await);
    assert!(matches!(far.next().await, ReportBody::UnitDone(receipt) if receipt.unit.0 == 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_waits_for_a_store_is_free_when_the_job_ends() {
    let site = Site::new().await;
    let (reporter, mut far) = reporter();
    let pool = SlotPool::start(1, &Handle::current());
    let rule = site.faults(ONE).add(Rule::once(Operation::Begin, Effect::Stall));
    let mut stuck = task(&site, 1, &reporter).await;
    stuck.context = site.context(10 * PATIENCE).await;
    stuck.order = Arc::new(order(1, &[ONE], &[site.relation("1", 1024)]));
    let ended = stuck.context.ended.clone();
    pool.submit(stuck);
    let began = std::time::Instant::now();
    while site.faults(ONE).strikes(rule) == 0 {
        assert!(began.elapsed() < PATIENCE);
        // The timeout is PATIENCE.
        tokio::time::sleep(STALL / 10).await;
    }
    ended.cancel();
    pool.submit(task(&site, 2, &reporter).await);
    assert!(matches!(far.next().await, ReportBody::UnitDone(receipt) if receipt.unit.0 == 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_too_large_to_be_sent_becomes_a_small_failure() {
    let site = Site::new().await;
    let (reporter, mut far) = reporter();
    let task = task(&site, 1, &reporter).await;
    let all_bad = PartReceipt::Present {
        place: Some(0),
        length: 8192,
        checksum: task.context.secret.hash(&[]),
        pages_checked: 1 << 20,
        bad_pages: (0..1 << 20).collect(),
    };
    let receipt = Receipt {
        unit: task.order.unit,
        attempt: task.order.attempt,
        token: task.order.token,
        slot: 0,
        parts: vec![all_bad],
        read: 8192,
        changed: 0,
        skipped: 0,
        wrong_summary: None,
        stored: vec![StoredPack { repository: ONE, bytes: 1 }],
        failed: Vec::new(),
        spent: Default::default(),
        standby: None,
    };
    report(Ok(receipt), &task).await.unwrap();
    let ReportBody::UnitFailed(failure) = far.next().await else { panic!("no failure was reported") };
    assert_eq!((failure.unit, failure.token), (task.order.unit, task.order.token));
    assert_eq!(failure.failure.code, ErrorCode::Protocol);
    assert_eq!(far.next().await, ReportBody::Ready { units: 1 });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_was_given_back_is_not_begun() {
    let site = Site::new().await;
    let (reporter, mut far) = reporter();
    let pool = SlotPool::start(1, &Handle::current());
    let given_back = task(&site, 1, &reporter).await;
    assert_eq!(reporter.outbox().give_back(reporter.job(), &[given_back.order.unit]).len(), 1);
    pool.submit(given_back);
    pool.submit(task(&site, 2, &reporter).await);
    assert!(matches!(far.next().await, ReportBody::UnitDone(receipt) if receipt.unit.0 == 2));
}
