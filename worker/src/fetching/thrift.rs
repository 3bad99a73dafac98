//! Whether bytes are to come from a source as lz4: only where that was measured to be quicker.
//!
//! lz4 costs the database's host more than it saves there, so it is asked for only where slots wait for bytes three quarters of their
//! time, and kept only if they then come much faster: a source whose disk or processors are what is slow would become slower still.

use std::time::Duration;

/// An attempt of fewer bytes says more about its beginning than about the way.
const BYTES_MIN: u64 = 4 << 20;
/// How much faster lz4 must be, in hundredths. Chunks are sent as lz4 that shrink to half of themselves, so that a way on which
/// nothing else is slow carries much more; the processors of a database are not for sale for less.
const PAYS_FROM_PERCENT: u64 = 140;
/// Attempts in a row that must starve before lz4 is tried: the first ones also wait for a connection to find its speed.
const STARVED_MIN: u32 = 3;
/// So often the way that seems slower is tried again, since what else goes over a network changes.
const SECOND_LOOK: u32 = 16;

/// What one attempt showed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Passage {
    pub(super) is_squeezed: bool,
    /// Of files.
    pub(super) bytes: u64,
    /// From its beginning to its last bytes.
    pub(super) took: Duration,
    /// Of that: the slot had nothing to compute on.
    pub(super) waited: Duration,
}

impl Passage {
    fn rate(&self) -> u64 {
        let nanos = self.took.as_nanos().max(1);
        u64::try_from(u128::from(self.bytes) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
    }

    fn is_starved(&self) -> bool {
        self.waited > self.took / 4 * 3
    }
}

/// What is known of the way from a source, of all attempts over one connection.
#[derive(Debug, Default)]
pub(super) struct Thrift {
    /// Plain attempts in a row.
    starved: u32,
    /// Bytes of files a second, last and before.
    plain: Option<u64>,
    squeezed: Option<u64>,
    begun: u32,
}

impl Thrift {
    /// Whether the next attempt asks for lz4.
    pub(super) fn squeezes(&mut self) -> bool {
        if self.starved < STARVED_MIN {
            return false;
        }
        self.begun = self.begun.wrapping_add(1);
        let pays = match (self.plain, self.squeezed) {
            (Some(plain), Some(squeezed)) => {
                squeezed.saturating_mul(100) > plain.saturating_mul(PAYS_FROM_PERCENT)
            }
            _ => true,
        };
        pays != self.begun.is_multiple_of(SECOND_LOOK)
    }

    pub(super) fn learn(&mut self, passage: Passage) {
        if passage.bytes < BYTES_MIN {
            return;
        }
        let known = if passage.is_squeezed {
            &mut self.squeezed
        } else {
            self.starved = if passage.is_starved() { self.starved.saturating_add(1) } else { 0 };
            &mut self.plain
        };
        let rate = passage.rate();
        *known = Some(known.map_or(rate, |before| u64::midpoint(before, rate)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passage(is_squeezed: bool, seconds: u64, waited: u64) -> Passage {
        let (took, waited) = (Duration::from_secs(seconds), Duration::from_secs(waited));
        Passage { is_squeezed, bytes: 100 << 20, took, waited }
    }

    /// Attempts one after the other, each of which takes so many seconds, and how many of them asked for lz4.
    fn asks(thrift: &mut Thrift, count: u32, plain: (u64, u64), squeezed: (u64, u64)) -> u32 {
        let ask = |_| {
            let is_squeezed = thrift.squeezes();
            let (took, waited) = if is_squeezed { squeezed } else { plain };
            thrift.learn(passage(is_squeezed, took, waited));
            u32::from(is_squeezed)
        };
        (0..count).map(ask).sum()
    }

    #[test]
    fn a_way_that_carries_all_that_is_computed_on_carries_it_as_it_is() {
        assert_eq!(asks(&mut Thrift::default(), 100, (10, 7), (1, 0)), 0);
    }

    #[test]
    fn a_narrow_way_is_asked_for_lz4_but_for_a_second_look_now_and_then() {
        assert_eq!(asks(&mut Thrift::default(), 100, (10, 8), (4, 1)), 100 - STARVED_MIN - 6);
    }

    #[test]
    fn a_source_that_is_itself_slow_is_not_asked_to_do_more() {
        let tried = asks(&mut Thrift::default(), 100, (10, 8), (11, 9));
        assert!((1..=7).contains(&tried), "{tried}");
    }

    #[test]
    fn a_way_that_widens_is_believed_at_the_next_look() {
        let mut thrift = Thrift::default();
        asks(&mut thrift, 20, (10, 8), (4, 1));
        let after = asks(&mut thrift, 100, (3, 0), (4, 1));
        assert!(after <= SECOND_LOOK, "{after}");
    }

    #[test]
    fn small_attempts_say_nothing() {
        let mut thrift = Thrift::default();
        thrift.learn(Passage { bytes: BYTES_MIN - 1, ..passage(false, 10, 10) });
        assert!(!thrift.squeezes());
    }
}
