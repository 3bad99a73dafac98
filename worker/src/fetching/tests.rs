#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use super::*;
use crate::job::testing::{ONE, PATIENCE, Site, order, part};
use crate::serving::testing::{COMPUTER, Source, Way, job};
use async_trait::async_trait;
use pgconvoy_transport::Role;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::time::timeout;

/// Counts how often it is dialled; nobody is there while it is told so.
struct Counting {
    way: Way,
    dials: AtomicUsize,
    nobody: AtomicUsize,
}

#[async_trait]
impl Dial for Counting {
    async fn dial(&self, address: &str) -> Result<Connection, TransportError> {
        self.dials.fetch_add(1, Ordering::Relaxed);
        if self.nobody.load(Ordering::Relaxed) > 0 {
            let reason = "nobody listens".to_owned();
            return Err(TransportError::Unreachable { address: address.to_owned(), reason });
        }
        self.way.dial(address).await
    }
}

struct Stage {
    dial: Arc<Counting>,
    sources: RemoteSources,
    remote: RemoteSource,
    ended: CancellationToken,
    _source: Source,
}

async fn stage() -> Stage {
    let site = Site::new().await;
    let source = Source::of(&site.context(PATIENCE).await);
    let way = source.way(COMPUTER, Role::Worker);
    let dial = Arc::new(Counting { way, dials: AtomicUsize::new(0), nobody: AtomicUsize::new(0) });
    let ended = CancellationToken::new();
    let sources = RemoteSources::new(Some(dial.clone()), job(), ended.clone());
    let remote = source.serves(order(1, &[ONE], &[part("base/5/1", 8192)])).source.unwrap();
    Stage { dial, sources, remote, ended, _source: source }
}

#[tokio::test]
async fn slots_share_a_connection_which_is_made_again_when_it_broke_and_ends_with_the_job() {
    let stage = stage().await;
    let open = || stage.sources.open(&stage.remote, PATIENCE);
    let (one, two) = tokio::join!(open(), open());
    let (one, two) = (one.unwrap().1, two.unwrap().1);
    assert!(Arc::ptr_eq(&one, &two));
    assert_eq!(stage.dial.dials.load(Ordering::Relaxed), 1);
    one.sender.close(CloseReason::new(CloseKind::Lost, ""));
    let (_, again) = open().await.unwrap();
    assert_eq!(stage.dial.dials.load(Ordering::Relaxed), 2);
    stage.ended.cancel();
    let reason = timeout(PATIENCE, again.sender.closed()).await.unwrap();
    assert_eq!(reason.kind(), CloseKind::Done);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_not_there_is_knocked_at_for_a_while_and_paid_for_together() {
    let stage = stage().await;
    stage.dial.nobody.store(1, Ordering::Relaxed);
    let begun = Instant::now();
    let open = || stage.sources.open(&stage.remote, 4 * REACH_PATIENCE);
    let (one, two) = tokio::join!(open(), open());
    let (one, two) = (one.map(drop).unwrap_err(), two.map(drop).unwrap_err());
    assert_eq!((one.code, one.retry), (ErrorCode::HostConnect, Retry::MayHelp), "{one}");
    assert_eq!(one, two);
    assert!(begun.elapsed() < REACH_PATIENCE + KNOCK_PAUSE, "{:?}", begun.elapsed());
    stage.dial.nobody.store(0, Ordering::Relaxed);
    tokio::time::sleep(FAILURE_HOLDS).await;
    assert!(open().await.is_ok());
}
