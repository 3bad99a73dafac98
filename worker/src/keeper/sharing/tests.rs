#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use super::*;
use crate::job::testing::{FarEnd, PATIENCE, Site, stanza, worker};
use crate::keeper::KeeperHandle;
use async_trait::async_trait;
use pgconvoy_core::format::BlockHash;
use pgconvoy_core::job::{JobKind, JobOptions};
use pgconvoy_core::wire::{AssistOrder, CopyOrder, ErrandEnd, ErrandOrder, OrderBody};
use std::sync::Mutex;
use tokio::sync::Semaphore;

/// Ends a restore when it is allowed to, and keeps what mates were cancelled.
struct Parts {
    may_end: Semaphore,
    cancelled: Mutex<Vec<Identity>>,
}

#[async_trait]
impl Errands for Parts {
    async fn run(&self, _: ErrandOrder, _: CancellationToken) -> Result<ErrandEnd, Failure> {
        panic!("nobody ordered that")
    }

    async fn lead(
        &self,
        _: ErrandOrder,
        desk: Arc<Desk>,
        _: CancellationToken,
    ) -> Result<ErrandEnd, Failure> {
        desk.say(ShareReport::Admitted { mate: worker(), staging: Identity::default() });
        self.may_end.acquire().await.unwrap().forget();
        Ok(end())
    }

    async fn copy(&self, _: CopyOrder, _: Arc<Desk>, _: CancellationToken) -> Result<(), Failure> {
        panic!("nobody ordered that")
    }

    async fn assist(
        &self,
        order: AssistOrder,
        _: Arc<Desk>,
        cancel: CancellationToken,
    ) -> Result<(), Failure> {
        cancel.cancelled().await;
        self.cancelled.lock().unwrap().push(order.staging);
        Err(Failure::new(ErrorCode::Term, "cancelled"))
    }
}

fn parts() -> Arc<Parts> {
    Arc::new(Parts { may_end: Semaphore::new(0), cancelled: Mutex::default() })
}

fn end() -> ErrandEnd {
    ErrandEnd { result: Some("{}".into()), failure: None }
}

fn errand() -> ErrandOrder {
    ErrandOrder { kind: JobKind::Restore, stanza: stanza(), options: JobOptions::default() }
}

fn staging(number: u8) -> Identity {
    Identity::from_random_bytes([number; 16])
}

fn assist(number: u8) -> OrderBody {
    OrderBody::Restore(ShareOrder::Assist(Box::new(AssistOrder {
        errand: errand(),
        label: "20261122-103000F".parse().unwrap(),
        backup: Identity::default(),
        digest: BlockHash([0; 16]),
        share_size: 1,
        staging: staging(number),
    })))
}

async fn lead(keeper: &KeeperHandle) {
    keeper.order(OrderBody::Restore(ShareOrder::Lead(Box::new(errand())))).await;
}

async fn next(far: &mut FarEnd) -> ShareReport {
    match far.next().await {
        ReportBody::Restore(report) => report,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_is_begun_once_and_its_end_is_remembered() {
    let (site, parts) = (Site::new().await, parts());
    let (keeper, mut far) = site.keeper_with(Some(parts.clone()));
    lead(&keeper).await;
    lead(&keeper).await;
    assert!(matches!(next(&mut far).await, ShareReport::Admitted { .. }));
    assert!(keeper.has_errand(), "a worker that drains waits for it");
    parts.may_end.add_permits(2);
    assert_eq!(next(&mut far).await, ShareReport::Ended(Ok(end())));
    lead(&keeper).await;
    assert_eq!(next(&mut far).await, ShareReport::Ended(Ok(end())));
    assert_eq!(parts.may_end.available_permits(), 1, "it was begun twice");
    keeper.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_staging_place_ends_what_was_done_for_the_one_before() {
    let (site, parts) = (Site::new().await, parts());
    let (keeper, mut far) = site.keeper_with(Some(parts.clone()));
    keeper.order(assist(1)).await;
    keeper.order(assist(1)).await;
    keeper.order(assist(2)).await;
    let failed = next(&mut far).await;
    assert!(
        matches!(failed, ShareReport::AssistFailed { staging: of, .. } if of == staging(1)),
        "{failed:?}"
    );
    assert_eq!(*parts.cancelled.lock().unwrap(), [staging(1)]);
    assert!(!keeper.has_errand(), "others can do what a mate does");
    tokio::time::timeout(PATIENCE, keeper.end()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_does_no_errands_says_so() {
    let site = Site::new().await;
    let (keeper, mut far) = site.keeper();
    lead(&keeper).await;
    let ended = next(&mut far).await;
    assert!(
        matches!(&ended, ShareReport::Ended(Err(failure)) if failure.code == ErrorCode::NotSupported),
        "{ended:?}"
    );
    keeper.order(assist(1)).await;
    assert!(matches!(next(&mut far).await, ShareReport::AssistFailed { .. }));
    keeper.end().await;
}
