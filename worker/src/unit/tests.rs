#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod archived;
mod compression;
mod files;
mod known;
mod pages;
mod served;

use super::*;
use crate::job::Tablespaces;
use crate::job::testing::{ONE, PATIENCE, STALL, Site, TWO, order, part};
use pgconvoy_core::failure::Retry;
use pgconvoy_core::ids::{Oid, RepoKey};
use pgconvoy_postgres::catalog::Tablespace;
use pgconvoy_storage::bandwidth::Bandwidth;
use pgconvoy_storage::decorate::fault::{Effect, Kind, Operation, Rule};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Larger than all that waits in a queue, so that a store that takes nothing is felt.
const PAGES: usize = 1024;

async fn run(context: &Arc<JobContext>, order: UnitOrder) -> Result<Receipt, UnitFailure> {
    let context = context.clone();
    let running =
        tokio::task::spawn_blocking(move || Slot::new(0, &context).unwrap().run(&context, Arc::new(order)));
    let sent = tokio::time::timeout(PATIENCE, running).await.expect("the unit hangs").unwrap()?;
    tokio::time::timeout(PATIENCE, sent.settle()).await.expect("the stores hang")
}

fn stored(receipt: &Receipt) -> Vec<RepoKey> {
    receipt.stored.iter().map(|pack| pack.repository).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_stalls_is_paid_for_once() {
    for operation in [Operation::Begin, Operation::Write, Operation::Finish] {
        let site = Site::new().await;
        let context = site.context(STALL).await;
        let relation = site.relation("16384", PAGES);
        site.faults(TWO).add(Rule::always(operation, Effect::Stall));
        let first = run(&context, order(1, &[ONE, TWO], std::slice::from_ref(&relation))).await.unwrap();
        assert_eq!(stored(&first), [ONE], "{operation:?}");

        // It would do by now, which shows that it is not tried.
        site.faults(TWO).clear();
        let second = run(&context, order(2, &[ONE, TWO], &[relation])).await.unwrap();
        assert_eq!(stored(&second), [ONE]);
        assert_eq!(second.failed, first.failed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_waits_for_a_repository_hears_that_another_unit_gave_it_up() {
    let site = Site::new().await;
    let context = site.context(10 * PATIENCE).await;
    let relation = site.relation("16384", PAGES);
    let rule = site.faults(TWO).add(Rule::always(Operation::Begin, Effect::Stall));
    let (receipt, ()) = tokio::join!(run(&context, order(1, &[ONE, TWO], &[relation])), async {
        let began = Instant::now();
        while site.faults(TWO).strikes(rule) == 0 {
            assert!(began.elapsed() < PATIENCE);
            // The timeout is PATIENCE.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        context.given_up.add(TWO, Failure::new(ErrorCode::FileWrite, "stalled elsewhere"));
    });
    let receipt = receipt.unwrap();
    assert_eq!(stored(&receipt), [ONE]);
    assert_eq!(receipt.failed[0].failure.message, "stalled elsewhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_tries_a_repository_that_was_given_up_when_it_has_no_other() {
    let site = Site::new().await;
    let context = site.context(STALL).await;
    let relation = site.relation("16384", PAGES);
    context.given_up.add(TWO, Failure::new(ErrorCode::FileWrite, "stalled"));
    let receipt = run(&context, order(1, &[TWO], &[relation])).await.unwrap();
    assert_eq!(stored(&receipt), [TWO]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_whose_call_fails_once_is_not_given_up() {
    let site = Site::new().await;
    let context = site.context(PATIENCE).await;
    let relation = site.relation("16384", PAGES);
    site.faults(TWO).add(Rule::once(Operation::Write, Effect::Fail(Kind::Unavailable)));
    let first = run(&context, order(1, &[ONE, TWO], std::slice::from_ref(&relation))).await.unwrap();
    assert_eq!(stored(&first), [ONE]);
    let second = run(&context, order(2, &[ONE, TWO], &[relation])).await.unwrap();
    assert_eq!(stored(&second), [ONE, TWO]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_takes_each_piece_just_in_time_counts_as_stalled_in_the_end() {
    let site = Site::new().await;
    let stall = 5 * STALL / 2;
    let context = site.context(stall).await;
    // Sixteen frames, less those in the queue, at more than half a timeout each: more than four timeouts.
    let relation = site.relation("16384", 16 * 128);
    site.faults(TWO).add(Rule::always(Operation::Write, Effect::Delay(stall * 3 / 5)));
    let receipt = run(&context, order(1, &[ONE, TWO], &[relation])).await.unwrap();
    assert_eq!(stored(&receipt), [ONE]);
    assert_eq!(receipt.failed[0].failure.message, "repo 2 kept a unit waiting for 2 s in all");
    assert!(context.given_up.skips(TWO, &[ONE, TWO]).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_ends_soon_after_its_job() {
    let site = Site::new().await;
    let context = site.context(10 * PATIENCE).await;
    let relation = site.relation("16384", PAGES);
    let rule = site.faults(ONE).add(Rule::always(Operation::Begin, Effect::Stall));
    let (failure, ()) = tokio::join!(run(&context, order(1, &[ONE], &[relation])), async {
        let began = Instant::now();
        while site.faults(ONE).strikes(rule) == 0 {
            assert!(began.elapsed() < PATIENCE);
            // The timeout is PATIENCE.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        context.ended.cancel();
    });
    assert_eq!(failure.unwrap_err().failure.code, ErrorCode::Term);
}

/// A tablespace with one relation, and a unit for it.
async fn with_tablespace(
    site: &Site,
    is_listed: bool,
    asked: Arc<AtomicUsize>,
) -> (Arc<JobContext>, UnitPart) {
    let location = site.home.path().join("fast");
    let inside = location.join(crate::job::testing::VERSION.tablespace_directory());
    std::fs::create_dir_all(&inside).unwrap();
    std::os::unix::fs::symlink(&location, site.pg().join("pg_tblspc/16400")).unwrap();
    let listed = vec![Tablespace { oid: Oid(16400), name: "fast".into(), location: location.clone() }];
    let now = if is_listed { listed.clone() } else { Vec::new() };
    let ask = move || {
        asked.fetch_add(1, Ordering::Relaxed);
        Ok(now.clone())
    };
    let context = site.context_with(STALL, &listed, Tablespaces::asking(Arc::new(ask))).await;
    std::fs::remove_dir(&inside).unwrap();
    let version = crate::job::testing::VERSION.tablespace_directory();
    (context, part(&format!("pg_tblspc/16400/{version}/5/16500"), 8192))
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_dropped_tablespace_have_vanished_and_it_is_asked_for_once() {
    let (site, asked) = (Site::new().await, Arc::default());
    let (context, gone) = with_tablespace(&site, false, Arc::clone(&asked)).await;
    let receipt = run(&context, order(1, &[ONE], &[gone.clone(), gone])).await.unwrap();
    assert_eq!(receipt.parts, [PartReceipt::Vanished, PartReceipt::Vanished]);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_lost_tablespace_end_the_unit() {
    let (site, asked) = (Site::new().await, Arc::default());
    let (context, gone) = with_tablespace(&site, true, asked).await;
    let failure = run(&context, order(1, &[ONE], &[gone])).await.unwrap_err().failure;
    assert_eq!(failure.code, ErrorCode::PathMissing, "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_says_where_the_time_of_its_unit_went() {
    let site = Site::new().await;
    let relation = site.relation("16384", PAGES);
    let bytes = u64::try_from(PAGES).unwrap() * 8192;
    let mut context = site.context(PATIENCE).await;
    // Twice as many bytes as a second brings.
    Arc::get_mut(&mut context).unwrap().bandwidth = Some(Arc::new(Bandwidth::new(bytes / 2)));
    let receipt = run(&context, order(1, &[ONE, TWO], &[relation])).await.unwrap();
    let spent = receipt.spent;
    assert!(spent.bandwidth_us > 1_000_000, "{spent:?}");
    assert!(spent.read_us > 0 && spent.compute_us > 0, "{spent:?}");
    assert_eq!(spent.upload_us.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [ONE, TWO]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_takes_its_time_is_told_by_its_number() {
    let site = Site::new().await;
    let context = site.context(PATIENCE).await;
    let relation = site.relation("16384", PAGES);
    let slow = Effect::Delay(Duration::from_millis(300));
    site.faults(TWO).add(Rule::always(Operation::Write, slow));
    let spent = run(&context, order(1, &[ONE, TWO], &[relation])).await.unwrap().spent;
    let of = |key: RepoKey| spent.upload_us.iter().find(|(of, _)| *of == key).unwrap().1;
    assert!(of(TWO) > 300_000 && of(TWO) > of(ONE), "{spent:?}");
}
