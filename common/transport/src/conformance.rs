//! What every transport does, as tests: `transport_conformance!` makes one test of each case.
//!
//! A case talks over two ends of a fresh connection and needs nothing else. Cases that show that something does *not*
//! happen wait [`QUIET`]; all others wait as long as it takes, up to [`STEP_TIMEOUT`].

#![allow(clippy::unwrap_used, reason = "this is test code: a failed unwrap fails the test")]

mod bulk;
mod control;
mod ending;
pub mod proxy;
pub mod raw;

pub use bulk::*;
pub use control::*;
pub use ending::*;

use crate::connection::Connection;
use crate::identity::PeerIdentity;
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// One step of a case: far more than a busy machine needs, far less than a person waits.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long something must not happen before we believe that it will not.
pub const QUIET: Duration = Duration::from_millis(300);

/// A network may hold a window's bytes on either side before the sender has to wait.
pub const BUFFERS_PER_CONNECTION: usize = 2;

/// Makes connections for the cases.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// Who the two ends are: the one that connects, the one that listens.
    fn identities(&self) -> (PeerIdentity, PeerIdentity);

    /// A fresh connection, as its two ends hold it.
    async fn connect(&self) -> (Connection, Connection);
}

/// Makes a test of every case: `transport_conformance!([#[tokio::test]], MyFixture::new());`
#[macro_export]
macro_rules! transport_conformance {
    (@each [$($attribute:tt)+], $fixture:expr,) => {};
    (@each [$($attribute:tt)+], $fixture:expr, $case:ident $($rest:ident)*) => {
        $($attribute)+
        async fn $case() {
            $crate::conformance::$case(&$fixture).await;
        }
        $crate::transport_conformance!(@each [$($attribute)+], $fixture, $($rest)*);
    };
    ([$($attribute:tt)+], $fixture:expr) => {
        $crate::transport_conformance!(@each [$($attribute)+], $fixture,
            each_end_knows_the_other
            frames_arrive_whole_and_in_order_both_ways
            frames_of_many_senders_keep_the_order_of_each
            a_frame_that_is_too_large_is_refused_at_the_sender_and_nothing_else_happens
            a_sender_waits_for_a_peer_that_does_not_read
            recv_can_be_cancelled_without_losing_a_frame
            a_cancelled_send_sends_all_or_nothing
            control_passes_while_bulk_is_stuck
            a_stream_carries_bytes_in_order_to_its_end
            a_stream_answers_on_its_other_half
            a_writer_waits_for_a_reader_that_does_not_read
            a_stream_dropped_without_finish_never_looks_complete
            a_stream_that_was_reset_never_looks_complete
            a_reader_that_goes_away_stops_the_writer
            a_read_can_be_cancelled_without_losing_bytes
            many_streams_run_side_by_side_and_the_ones_too_many_wait
            a_close_reaches_the_peer_with_its_reason
            the_first_reason_of_a_close_counts
            a_close_wakes_whoever_waits_on_this_side
            a_close_ends_the_streams
            dropping_the_receiver_ends_the_connection
            dropping_the_senders_ends_nothing
            finish_ends_one_direction_only
        );
    };
}

/// Waits for a step of a case.
async fn within<T>(step: impl Future<Output = T>) -> T {
    tokio::time::timeout(STEP_TIMEOUT, step).await.expect("a step of the case took longer than its timeout")
}

/// Whether something stays undone for [`QUIET`].
async fn stays_undone<T>(step: impl Future<Output = T>) -> bool {
    tokio::time::timeout(QUIET, step).await.is_err()
}

/// Waits until a count stands still for [`QUIET`], and answers where.
async fn until_stuck(count: &AtomicUsize) -> usize {
    within(async {
        loop {
            let before = count.load(Ordering::SeqCst);
            tokio::time::sleep(QUIET).await;
            if before == count.load(Ordering::SeqCst) {
                return before;
            }
        }
    })
    .await
}

/// A break of varying length, by its number. A reader races its wait with one to cancel it: mostly at once, now and then
/// late enough for delayed bytes to arrive.
async fn short_break(number: usize) {
    if number.is_multiple_of(16) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    } else {
        tokio::task::yield_now().await;
    }
}

/// Bytes that tell where they are from: a shifted or repeated part does not compare equal.
fn pattern(from: usize, length: usize) -> Bytes {
    (from..from + length)
        .map(|at| {
            let [low, high, ..] = (at / 251).to_le_bytes();
            low.wrapping_mul(31).wrapping_add(high).wrapping_add(at.to_le_bytes()[0])
        })
        .collect()
}

async fn read_frame(connection: &mut Connection) -> Bytes {
    within(connection.recv()).await.unwrap().expect("the peer has not finished")
}
