//! The state of one connection that its two ends share.
//!
//! Invariants
//! 1. Each end learns of the connection's end by its own means: it closed, the peer's close arrived, or the line was
//!    silent for too long. The first reason that an end learns is the one it keeps.

use super::faults::{Direction, Faults, Line};
use crate::connection::IDLE_TIMEOUT;
use crate::error::{CloseKind, CloseReason, TransportError};
use crate::identity::PeerIdentity;
use tokio::sync::watch;
use tokio::time::Instant;

/// One of the two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The one that connected.
    Near,
    Far,
}

impl Side {
    pub(super) fn other(self) -> Side {
        match self {
            Side::Near => Side::Far,
            Side::Far => Side::Near,
        }
    }

    /// Which way this side's bytes go.
    pub(super) fn sends(self) -> Direction {
        match self {
            Side::Near => Direction::Outbound,
            Side::Far => Direction::Inbound,
        }
    }

    pub(super) fn receives(self) -> Direction {
        self.other().sends()
    }
}

#[derive(Debug, Clone)]
struct Ended {
    reason: CloseReason,
    at: Instant,
}

struct End {
    identity: PeerIdentity,
    ended: watch::Sender<Option<Ended>>,
}

pub(super) struct Wire {
    near: End,
    far: End,
    faults: Faults,
    outages_at_start: u64,
}

impl Wire {
    pub(super) fn new(near: PeerIdentity, far: PeerIdentity, faults: Faults) -> Wire {
        let end = |identity| End { identity, ended: watch::Sender::new(None) };
        let outages_at_start = faults.outages();
        Wire { near: end(near), far: end(far), faults, outages_at_start }
    }

    pub(super) fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Who this side speaks to.
    pub(super) fn peer_of(&self, side: Side) -> &PeerIdentity {
        &self.end(side.other()).identity
    }

    fn end(&self, side: Side) -> &End {
        match side {
            Side::Near => &self.near,
            Side::Far => &self.far,
        }
    }

    /// Ends the connection for this side; the other one learns of it over the line.
    pub(super) fn close(&self, side: Side, reason: CloseReason) {
        self.end(side).ended.send_if_modified(|ended| {
            let is_first = ended.is_none();
            ended.get_or_insert_with(|| Ended { reason, at: Instant::now() });
            is_first
        });
    }

    /// Resolves when the connection is over for this side.
    pub(super) async fn ended(&self, side: Side) -> CloseReason {
        let mut own = self.end(side).ended.subscribe();
        let mut other = self.end(side.other()).ended.subscribe();
        let mut inbound = self.faults.line(side.receives()).subscribe();
        let mut outbound = self.faults.line(side.sends()).subscribe();
        loop {
            if let Some(ended) = own.borrow_and_update().as_ref() {
                return ended.reason.clone();
            }
            let said = other.borrow_and_update().clone();
            let next = self.next_end(said, *inbound.borrow_and_update(), *outbound.borrow_and_update());
            if let Some((at, reason)) = &next
                && *at <= Instant::now()
            {
                self.close(side, reason.clone());
                continue;
            }
            let due = next.map(|(at, _)| at);
            // The senders of these channels live in `self`, so each of them wakes with a change.
            tokio::select! {
                _ = own.changed() => {}
                _ = other.changed() => {}
                _ = inbound.changed() => {}
                _ = outbound.changed() => {}
                () = sleep_until(due) => {}
            }
        }
    }

    /// When and why the connection will be over for the side that `inbound` leads to, as things stand.
    fn next_end(&self, said: Option<Ended>, inbound: Line, outbound: Line) -> Option<(Instant, CloseReason)> {
        let lost = |text: &str| CloseReason::new(CloseKind::Lost, text);
        if self.faults.outages() > self.outages_at_start {
            return Some((Instant::now(), lost("the network was out")));
        }
        let silence = inbound.cut_since.into_iter().chain(outbound.cut_since).min();
        let silence = silence.map(|since| (since + IDLE_TIMEOUT, lost("nothing was heard of the peer")));
        // Who has lost the other says nothing to it.
        let said = said.filter(|said| inbound.cut_since.is_none() && said.reason.kind() != CloseKind::Lost);
        let said = said.map(|said| (said.at + inbound.delay, said.reason));
        [said, silence].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// Does `work`, unless the connection ends first.
    pub(super) async fn unless_ended<T>(
        &self,
        side: Side,
        work: impl Future<Output = T>,
    ) -> Result<T, TransportError> {
        tokio::select! {
            biased;
            reason = self.ended(side) => Err(TransportError::Closed(reason)),
            done = work => Ok(done),
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
