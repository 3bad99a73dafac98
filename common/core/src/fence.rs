//! How long a holder may act without hearing that it still may.
//!
//! The holder of a lease must give itself up before anybody else can be given what it holds. Whoever grants the lease counts
//! from the moment a keep-alive arrives, so the holder counts from the moment it sent the last one that was confirmed, which
//! was earlier. Moments are readings of one clock of the holder's own, which must go on while the host sleeps; nobody
//! compares clocks of two machines.
//!
//! Invariants
//! 1. From the TTL after the sending of the last confirmed keep-alive on, nothing remains.
//! 2. Lost is for good: a late confirmation revives nothing.

use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    /// When the last confirmed keep-alive was sent.
    sent: Duration,
    ttl: Duration,
    is_lost: bool,
}

impl Fence {
    pub fn new(sent: Duration, ttl: Duration) -> Self {
        Fence { sent, ttl, is_lost: false }
    }

    /// How long the holder may act without another confirmation.
    pub fn remaining(&mut self, now: Duration) -> Duration {
        let remaining = self.ttl.saturating_sub(now.saturating_sub(self.sent));
        self.is_lost |= remaining.is_zero();
        if self.is_lost { Duration::ZERO } else { remaining }
    }

    /// Takes note of a confirmation of what was sent then, unless the lease was given up while it was on its way.
    pub fn confirm(&mut self, sent: Duration, ttl: Duration, now: Duration) {
        if !self.remaining(now).is_zero() && sent >= self.sent {
            (self.sent, self.ttl) = (sent, ttl);
        }
    }

    pub fn lose(&mut self) {
        self.is_lost = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(15);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_counts_from_the_sending_of_what_was_confirmed() {
        let mut fence = Fence::new(at(100), TTL);
        fence.confirm(at(103), TTL, at(110));
        assert_eq!(fence.remaining(at(110)), at(8));
        assert_eq!(fence.remaining(at(118)), Duration::ZERO);
    }

    #[test]
    fn a_late_confirmation_revives_nothing() {
        let mut fence = Fence::new(at(100), TTL);
        fence.confirm(at(114), TTL, at(115));
        assert_eq!(fence.remaining(at(115)), Duration::ZERO);
        fence.confirm(at(116), TTL, at(116));
        assert_eq!(fence.remaining(at(116)), Duration::ZERO);
    }

    #[test]
    fn confirmations_that_overtake_each_other_take_nothing_back() {
        let mut fence = Fence::new(at(100), TTL);
        fence.confirm(at(106), TTL, at(107));
        fence.confirm(at(103), TTL, at(108));
        assert_eq!(fence.remaining(at(108)), at(13));
    }

    #[test]
    fn what_is_lost_stays_lost() {
        let mut fence = Fence::new(at(100), TTL);
        fence.lose();
        fence.confirm(at(101), TTL, at(101));
        assert_eq!(fence.remaining(at(101)), Duration::ZERO);
    }
}
