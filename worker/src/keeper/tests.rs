#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use super::*;
use crate::job::testing::{
    FarEnd, ONE, PATIENCE, STALL, Site, TWO, archive, compress, order, preflight, reporter, units,
};
use pgconvoy_storage::decorate::fault::{Effect, Kind, Operation, Rule};

const SEGMENT: &str = "000000010000000000000002";

/// The keeper of a stopped cluster, with its session open.
async fn offline(site: &Site, force: bool) -> (KeeperHandle, FarEnd) {
    let (keeper, mut far) = site.keeper();
    keeper.order(OrderBody::Preflight(preflight(force))).await;
    assert!(matches!(far.next().await, ReportBody::Preflighted(Ok(_))));
    keeper.order(OrderBody::OpenSession { label: "test".into() }).await;
    assert!(matches!(far.next().await, ReportBody::SessionOpened(Ok(_))));
    (keeper, far)
}

async fn prepared(site: &Site, force: bool) -> (KeeperHandle, FarEnd) {
    let (keeper, mut far) = offline(site, force).await;
    keeper.order(OrderBody::Prepare(Box::new(units(STALL)))).await;
    assert_eq!(far.next().await, ReportBody::Prepared(Ok(Vec::new())));
    assert_eq!(far.next().await, ReportBody::Standing(Standing::Primary { serves: None }));
    assert!(matches!(far.next().await, ReportBody::Ready { .. }));
    (keeper, far)
}

async fn close(keeper: &KeeperHandle, far: &mut FarEnd) -> Result<SessionEnd, Failure> {
    keeper.order(OrderBody::CloseSession { repositories: vec![ONE, TWO] }).await;
    match far.next().await {
        ReportBody::SessionClosed(answer) => answer,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_cluster_is_backed_up_from_preflight_to_the_end() {
    let site = Site::new().await;
    let (keeper, mut far) = prepared(&site, false).await;
    keeper.order(OrderBody::RunUnit(Box::new(order(1, &[ONE, TWO], &[site.relation("16384", 2)])))).await;
    assert!(matches!(far.next().await, ReportBody::UnitDone(receipt) if receipt.stored.len() == 2));
    assert_eq!(far.next().await, ReportBody::Ready { units: 1 });
    let nothing_returned = SessionEnd { stop: None, failed: Vec::new() };
    assert_eq!(close(&keeper, &mut far).await, Ok(nothing_returned.clone()));
    assert_eq!(close(&keeper, &mut far).await, Ok(nothing_returned));
    keeper.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postmaster_started_in_between_spoils_an_offline_backup_unless_forced() {
    for (force, expected) in [(false, Some(38)), (true, None)] {
        let site = Site::new().await;
        let (keeper, mut far) = prepared(&site, force).await;
        site.write("postmaster.pid", b"1\n");
        let answer = close(&keeper, &mut far).await;
        assert_eq!(answer.as_ref().err().map(|failure| failure.code.number()), expected, "{answer:?}");
        assert_eq!(close(&keeper, &mut far).await, answer, "a repeated order gets the same answer");
        keeper.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn force_backs_up_a_cluster_that_seems_to_run() {
    let site = Site::new().await;
    site.write("postmaster.pid", b"1\n");
    site.write_other_control();
    let (keeper, mut far) = prepared(&site, true).await;
    assert!(close(&keeper, &mut far).await.is_ok());
    keeper.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_cannot_be_opened_is_reported_before_the_first_unit() {
    let site = Site::new().await;
    site.faults(TWO).add(Rule::always(Operation::Any, Effect::Fail(Kind::Access)));
    let (keeper, mut far) = offline(&site, false).await;
    keeper.order(OrderBody::Prepare(Box::new(units(STALL)))).await;
    assert!(matches!(far.next().await, ReportBody::Prepared(Ok(failed)) if failed[0].repository == TWO));
    assert!(matches!(far.next().await, ReportBody::Standing(_)));
    assert!(matches!(far.next().await, ReportBody::Ready { .. }));
    keeper.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_without_a_context_is_reported_as_failed() {
    let site = Site::new().await;
    let (keeper, mut far) = site.keeper();
    keeper.order(OrderBody::RunUnit(Box::new(order(7, &[ONE], &[])))).await;
    assert!(matches!(far.next().await, ReportBody::UnitFailed(failure) if failure.unit.0 == 7));
    keeper.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_is_supplied_before_units_and_beside_other_orders() {
    let site = Site::new().await;
    site.write(&format!("pg_wal/{SEGMENT}"), &[9; 1 << 20]);
    // The first supply hangs until the test ends; neither the second nor the units wait for it.
    let (keeper, mut far) = offline(&site, false).await;
    site.repository(ONE).await;
    let hanging = site.faults(ONE).add(Rule::once(Operation::Any, Effect::Stall));
    let supply = |repository| {
        OrderBody::SupplyWal(SupplyOrder {
            repository,
            archive: archive(),
            segments: vec![SEGMENT.parse().unwrap()],
            compress: compress(),
            stall_timeout_ms: u64::try_from((10 * PATIENCE).as_millis()).unwrap(),
        })
    };
    keeper.order(supply(ONE)).await;
    keeper.order(supply(TWO)).await;
    assert_eq!(
        far.next().await,
        ReportBody::WalSupplied { repository: TWO, archiver_works: false, result: Ok(()) }
    );
    keeper.order(OrderBody::Prepare(Box::new(units(STALL)))).await;
    assert!(matches!(far.next().await, ReportBody::Prepared(Ok(_))));
    assert_eq!(site.faults(ONE).strikes(hanging), 1);
    keeper.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_ends_in_the_middle_of_an_order() {
    let site = Site::new().await;
    let (keeper, _far) = offline(&site, false).await;
    let rule = site.faults(ONE).add(Rule::always(Operation::Any, Effect::Stall));
    keeper.order(OrderBody::Prepare(Box::new(units(10 * PATIENCE)))).await;
    let began = std::time::Instant::now();
    while site.faults(ONE).strikes(rule) == 0 {
        assert!(began.elapsed() < PATIENCE);
        // The timeout is PATIENCE.
        tokio::time::sleep(STALL / 10).await;
    }
    tokio::time::timeout(PATIENCE, keeper.end()).await.expect("the keeper hangs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_that_panics_is_a_lost_session() {
    let (reporter, mut far) = reporter();
    supervise(tokio::spawn(async { panic!("a defect") }), reporter, Arc::default()).await;
    assert!(
        matches!(far.next().await, ReportBody::SessionLost(failure) if failure.code == ErrorCode::Assert)
    );
}

/// Everything that a scan reports, and its end.
async fn scan(keeper: &KeeperHandle, far: &mut FarEnd) -> (usize, pgconvoy_core::wire::ScanEnd) {
    keeper.order(OrderBody::Scan).await;
    let mut entries = 0;
    loop {
        match far.next().await {
            ReportBody::Scanned(page) => entries += page.len(),
            ReportBody::ScanEnded(end) => return (entries, end.unwrap()),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_took_over_gets_the_same_answers_without_anything_being_done_again() {
    let site = Site::new().await;
    site.relation("16384", 2);
    let (keeper, mut far) = offline(&site, false).await;
    assert!(keeper.has_session());
    let first = scan(&keeper, &mut far).await;
    site.relation("16385", 2);
    keeper.order(OrderBody::Preflight(preflight(false))).await;
    assert!(matches!(far.next().await, ReportBody::Preflighted(Ok(_))));
    keeper.order(OrderBody::OpenSession { label: "another".into() }).await;
    assert!(matches!(far.next().await, ReportBody::SessionOpened(Ok(_))));
    assert_eq!(scan(&keeper, &mut far).await, first, "the plan rests on what the first scan found");
    keeper.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_the_session_proves_its_directory_and_does_units() {
    let site = Site::new().await;
    let (keeper, mut far) = site.keeper();
    keeper.order(OrderBody::Prepare(Box::new(units(STALL)))).await;
    assert_eq!(far.next().await, ReportBody::Prepared(Ok(Vec::new())));
    assert!(matches!(far.next().await, ReportBody::Standing(_)));
    assert!(matches!(far.next().await, ReportBody::Ready { units: 2 }));
    assert!(keeper.is_prepared() && !keeper.has_session());
    let unit = order(1, &[ONE, TWO], &[site.relation("16384", 2)]);
    keeper.order(OrderBody::RunUnit(Box::new(unit.clone()))).await;
    keeper.order(OrderBody::RunUnit(Box::new(unit))).await;
    assert!(matches!(far.next().await, ReportBody::UnitDone(_)));
    assert_eq!(far.next().await, ReportBody::Ready { units: 1 });
    keeper.order(OrderBody::Prepare(Box::new(units(STALL)))).await;
    assert!(matches!(far.next().await, ReportBody::Prepared(_)), "the repeated order was no second unit");
    keeper.end().await;
}
