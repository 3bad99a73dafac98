#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::time::{advance, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

/// A service that gives out numbers.
#[derive(Default)]
struct Service {
    asked: AtomicU32,
    is_broken: std::sync::atomic::AtomicBool,
    hangs: std::sync::atomic::AtomicBool,
    takes: Duration,
    life: Option<Duration>,
}

impl Service {
    async fn give(&self) -> Result<Given<u32>, String> {
        let number = self.asked.fetch_add(1, Ordering::SeqCst);
        // On the paused clock; the timeout is the renewer's.
        sleep(if self.hangs.load(Ordering::SeqCst) { 1000 * SECOND } else { self.takes }).await;
        match self.is_broken.load(Ordering::SeqCst) {
            true => Err(format!("no {number}")),
            false => Ok(Given { value: number, life: self.life }),
        }
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }
}

fn living(seconds: u32) -> Service {
    Service { life: Some(seconds * SECOND), ..Service::default() }
}

#[tokio::test(start_paused = true)]
async fn it_is_kept_and_renewed_before_its_end() {
    for (life, margin) in [(3600, 300), (400, 100)] {
        let (service, renewed) = (living(life), Renewed::default());
        assert_eq!(renewed.current(service.give()).await, Ok(0));
        advance((life - margin - 1) * SECOND).await;
        assert_eq!(renewed.current(service.give()).await, Ok(0), "of {life} s");
        advance(SECOND).await;
        assert_eq!(renewed.current(service.give()).await, Ok(1), "of {life} s");
    }
    let (service, renewed) = (Service::default(), Renewed::default());
    for _ in 0..3 {
        assert_eq!(renewed.current(service.give()).await, Ok(0), "for good");
        advance(1_000_000 * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn many_that_want_one_at_once_ask_once_and_share_a_failure() {
    for is_broken in [false, true] {
        let service = Service { takes: SECOND, ..living(3600) };
        service.is_broken.store(is_broken, Ordering::SeqCst);
        let shared = Arc::new((service, Renewed::default()));
        let mut askers = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let shared = Arc::clone(&shared);
            askers.spawn(async move { shared.1.current(shared.0.give()).await });
        }
        let outcomes = askers.join_all().await;
        assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "{outcomes:?}");
        assert_eq!((outcomes[0].is_err(), shared.0.asked()), (is_broken, 1));
        let again = shared.1.current(shared.0.give()).await;
        assert_eq!(
            (again.is_err(), shared.0.asked()),
            (is_broken, 1 + u32::from(is_broken)),
            "and no longer"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn who_finds_one_that_holds_waits_for_no_renewal() {
    let (service, renewed) = (living(400), Renewed::default());
    renewed.current(service.give()).await.unwrap();
    advance(350 * SECOND).await;
    service.hangs.store(true, Ordering::SeqCst);
    let renewing = renewed.current(service.give());
    let others = async {
        for _ in 0..5 {
            let got = timeout(SECOND, renewed.current(service.give())).await;
            assert_eq!(got.expect("nobody waits"), Ok(0));
        }
    };
    // It is given up, as a request would be.
    let (given_up, ()) = tokio::join!(timeout(5 * SECOND, renewing), others);
    assert!(given_up.is_err());
    assert_eq!(service.asked(), 2);
    let next = timeout(SECOND, renewed.current(service.give())).await;
    assert_eq!(next.expect("nor does the next one, for a while"), Ok(0));
    assert_eq!(service.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_is_repeated_after_a_while_and_the_old_one_used_to_its_end() {
    let (service, renewed) = (living(400), Renewed::default());
    renewed.current(service.give()).await.unwrap();
    service.is_broken.store(true, Ordering::SeqCst);
    advance(300 * SECOND).await;
    for _ in 0..100 {
        assert_eq!(renewed.current(service.give()).await, Ok(0));
        advance(SECOND).await;
    }
    // Each ten seconds of the last hundred.
    assert_eq!(service.asked(), 1 + 10);
    assert_eq!(renewed.current(service.give()).await, Err("no 11".to_owned()));
    service.is_broken.store(false, Ordering::SeqCst);
    assert_eq!(renewed.current(service.give()).await, Ok(12), "who has none asks at once");
}

#[tokio::test(start_paused = true)]
async fn only_the_one_that_was_refused_is_forgotten() {
    let (service, renewed) = (living(3600), Renewed::default());
    let refused = renewed.current(service.give()).await.unwrap();
    assert!(renewed.forget(|kept| *kept == refused));
    assert!(!renewed.forget(|kept| *kept == refused), "there is none");
    assert_eq!(renewed.current(service.give()).await, Ok(1));
    assert!(!renewed.forget(|kept| *kept == refused), "it is another");
    assert_eq!(renewed.current(service.give()).await, Ok(1));
}
