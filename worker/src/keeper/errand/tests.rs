#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use crate::desk::Desk;
use crate::errand::Errands;
use crate::job::testing::{Site, stanza};
use async_trait::async_trait;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::job::{JobKind, JobOptions};
use pgconvoy_core::wire::{AssistOrder, CopyOrder, ErrandEnd, ErrandOrder, OrderBody, ReportBody};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Finds more than a frame can hold.
struct Talkative;

#[async_trait]
impl Errands for Talkative {
    async fn run(&self, order: ErrandOrder, _: CancellationToken) -> Result<ErrandEnd, Failure> {
        let told = "a pack is damaged; ".repeat(100_000);
        match order.kind {
            JobKind::Verify => Err(Failure::new(ErrorCode::Checksum, told)),
            _ => Ok(ErrandEnd {
                result: Some(told.clone()),
                failure: Some(Failure::new(ErrorCode::Command, told)),
            }),
        }
    }

    async fn lead(&self, _: ErrandOrder, _: Arc<Desk>, _: CancellationToken) -> Result<ErrandEnd, Failure> {
        panic!("nobody ordered that")
    }

    async fn copy(&self, _: CopyOrder, _: Arc<Desk>, _: CancellationToken) -> Result<(), Failure> {
        panic!("nobody ordered that")
    }

    async fn assist(&self, _: AssistOrder, _: Arc<Desk>, _: CancellationToken) -> Result<(), Failure> {
        panic!("nobody ordered that")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_no_frame_can_hold_is_reported_in_short_also_when_it_is_asked_for_again() {
    for (kind, code) in [(JobKind::RepoSync, ErrorCode::Command), (JobKind::Verify, ErrorCode::Checksum)] {
        let site = Site::new().await;
        let (keeper, mut far) = site.keeper_with(Some(Arc::new(Talkative)));
        let order = ErrandOrder { kind, stanza: stanza(), options: JobOptions::default() };
        for _ in 0..2 {
            keeper.order(OrderBody::Errand(Box::new(order.clone()))).await;
            let ReportBody::ErrandEnded(end) = far.next().await else {
                panic!("something else was reported")
            };
            let failure = end.map_or_else(|failure| failure, |end| end.failure.unwrap());
            assert_eq!(failure.code, code);
            assert!(failure.message.starts_with("a pack is damaged; ") && failure.message.len() < 5000);
        }
        keeper.end().await;
    }
}
