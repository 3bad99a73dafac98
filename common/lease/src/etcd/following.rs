//! A watch that outlives its connection: it goes on after the last revision that it told, at any member.
//!
//! Invariants
//! 1. A watch exists at a member, and begins after a revision that a quorum confirmed, before [`open`] answers.
//! 2. The changes of one revision arrive in one message (the watch does not ask for fragments), so `next` never points
//!    into the middle of one.
//! 3. `next` moves past what was told, or past what a member says it has nothing of (a progress notification). A quiet
//!    prefix therefore survives compactions that it has nothing to do with.
//! 4. When the revisions from `next` on are compacted, changes may be lost: the watch ends with `Lagged`. It also does
//!    when it was away for so long that what it missed does not fit into one message.
//!
//! Failure story: a broken stream is opened again, with growing waits, for as long as somebody reads; the reader notices
//! nothing but the delay. A refusal (a permission that was taken away) ends the watch with that error.

use super::backoff::Backoff;
use super::members::{Members, READ, Services};
use super::transaction::nonsense;
use super::verdict::Verdict;
use super::wire;
use crate::error::LeaseError;
use crate::keys::Prefix;
use crate::store::Revision;
use crate::watch::{Feed, WatchFeed};
use etcd_client::{Error, WatchOptions, WatchResponse, WatchStream};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tonic::Code;

/// A watch that exists at a member.
pub(super) struct Opened {
    stream: WatchStream,
    /// The first revision that is not told yet.
    next: Revision,
}

/// Opens a watch from `next` on, or from now on.
pub(super) async fn open(
    members: &Members,
    prefix: &Prefix,
    next: Option<Revision>,
) -> Result<Opened, Verdict> {
    members.call(READ, |services| establish(services, prefix, next)).await
}

async fn establish(services: Services, prefix: &Prefix, next: Option<Revision>) -> Result<Opened, Error> {
    let (mut kv, mut watch) = (services.kv, services.watch);
    // Confirmed by a quorum: a member that lags would begin in its own past, and tell what is no news. It also tells
    // whether this member is of any use, and renews the token, which a stream does not.
    let present = kv.get(prefix.as_str(), None).await?;
    let present = wire::revision_of(present.header()).map_err(strange)?;
    let next = next.unwrap_or(Revision(present.0 + 1));
    let from = i64::try_from(next.0).map_err(|_| Error::WatchError("a revision out of range".to_owned()))?;
    let options = WatchOptions::new().with_prefix().with_start_revision(from).with_progress_notify();
    let mut stream = watch.watch(prefix.as_str(), Some(options)).await?;
    match stream.message().await? {
        Some(first) if first.canceled() => Err(Error::WatchError(first.cancel_reason().to_owned())),
        Some(first) if first.created() => Ok(Opened { stream, next }),
        _ => Err(Error::WatchError("the watch was not confirmed".to_owned())),
    }
}

fn strange(error: LeaseError) -> Error {
    Error::WatchError(error.to_string())
}

/// What one message means for the watch.
enum Step {
    On,
    /// Nobody reads any more, or the reader was told why this is the end.
    Ended,
    /// The member has given the watch up.
    Broken(String),
}

/// Tells the reader what happens until it goes away, the store closes, or changes are lost.
pub(super) async fn follow(
    members: Arc<Members>,
    prefix: Prefix,
    mut opened: Opened,
    feed: WatchFeed,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::default();
    loop {
        let step = tokio::select! {
            () = stop.cancelled() => return,
            () = feed.closed() => return,
            message = opened.stream.message() => match message {
                Ok(Some(response)) => tell(&response, &mut opened.next, &prefix, &feed),
                Ok(None) => Step::Broken("the stream has ended".to_owned()),
                Err(Error::GRpcStatus(status)) if status.code() == Code::OutOfRange => lag(&prefix, &feed),
                Err(error) => Step::Broken(error.to_string()),
            },
        };
        match step {
            Step::On => backoff.reset(),
            Step::Ended => return,
            Step::Broken(reason) => {
                tracing::debug!(%prefix, %reason, "a watch is opened again");
                let again = tokio::select! {
                    () = stop.cancelled() => return,
                    () = feed.closed() => return,
                    again = reopen(&members, &prefix, opened.next, &mut backoff) => again,
                };
                match again {
                    Ok(again) => opened = again,
                    Err(refusal) => return feed.fail(refusal),
                }
            }
        }
    }
}

/// Tries until the watch exists again or is refused.
async fn reopen(
    members: &Members,
    prefix: &Prefix,
    next: Revision,
    backoff: &mut Backoff,
) -> Result<Opened, LeaseError> {
    loop {
        tokio::time::sleep(backoff.next()).await;
        match open(members, prefix, Some(next)).await {
            Ok(opened) => return Ok(opened),
            Err(Verdict::NotDone(reason) | Verdict::Unknown(reason)) => {
                tracing::warn!(%prefix, %reason, "a watch is still broken");
            }
            Err(refusal) => return Err(refusal.error()),
        }
    }
}

/// Listing again is quicker, or the only way.
fn lag(prefix: &Prefix, feed: &WatchFeed) -> Step {
    feed.fail(LeaseError::Lagged { prefix: prefix.to_string() });
    Step::Ended
}

fn tell(response: &WatchResponse, next: &mut Revision, prefix: &Prefix, feed: &WatchFeed) -> Step {
    if response.canceled() {
        if response.compact_revision() == 0 {
            return Step::Broken(response.cancel_reason().to_owned());
        }
        return lag(prefix, feed);
    }
    let begin = *next;
    for event in response.events() {
        let change = match wire::change(event) {
            Ok(change) => change,
            Err(error) => {
                feed.fail(error);
                return Step::Ended;
            }
        };
        if change.revision() < begin {
            continue;
        }
        if feed.offer(&change) == Feed::Ended {
            return Step::Ended;
        }
        *next = Revision(change.revision().0 + 1).max(*next);
    }
    if response.events().is_empty() {
        match wire::revision_of(response.header()) {
            Ok(present) => *next = Revision(present.0 + 1).max(*next),
            Err(_) => return Step::Broken(nonsense("a notification without revision").to_string()),
        }
    }
    Step::On
}
