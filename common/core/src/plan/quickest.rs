//! From which of several givers something is taken: from the one that will have given it first.
//!
//! Invariants
//! 1. A giver whose speed is unknown counts as quick as the quickest known one, so each is tried early and once.
//! 2. Among equals the first one is taken: callers list them by preference.

/// Somebody who can give bytes, and how busy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Giver {
    /// Bytes a second, lately; `None`: nothing was taken from there yet.
    pub rate: Option<f64>,
    /// Bytes that it is giving now.
    pub under_way: u64,
}

/// Index of the giver that will have given so many bytes first, if they are asked for at once.
pub fn quickest(givers: &[Giver], bytes: u64) -> Option<usize> {
    let known = givers.iter().filter_map(|giver| giver.rate).fold(0.0, f64::max);
    let presumed = if known > 0.0 { known } else { 1.0 };
    let seconds = |giver: &Giver| {
        let rate = giver.rate.filter(|rate| *rate > 0.0).unwrap_or(presumed);
        as_float(giver.under_way.saturating_add(bytes)) / rate
    };
    let costs = givers.iter().map(seconds).enumerate();
    // `min_by` keeps the first of equals.
    costs.min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(index, _)| index)
}

/// The newest rate of a giver, given what it was before and what was seen: lately counts a quarter.
pub fn learned_rate(before: Option<f64>, bytes: u64, seconds: f64) -> f64 {
    const WEIGHT: f64 = 0.25;
    // A clock may show no time at all for a short answer.
    let seen = as_float(bytes) / seconds.max(1e-6);
    before.map_or(seen, |before| before + WEIGHT * (seen - before))
}

#[allow(clippy::cast_precision_loss, reason = "a speed is an estimate")]
fn as_float(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn giver(rate: Option<f64>, under_way: u64) -> Giver {
        Giver { rate, under_way }
    }

    #[test]
    fn the_first_is_taken_while_nothing_is_known_and_then_the_other_is_tried() {
        assert_eq!(quickest(&[giver(None, 0), giver(None, 0)], MIB), Some(0));
        assert_eq!(quickest(&[giver(None, MIB), giver(None, 0)], MIB), Some(1));
        assert_eq!(quickest(&[giver(Some(10.0), MIB), giver(None, 0)], MIB), Some(1));
        assert_eq!(quickest(&[], MIB), None);
    }

    #[test]
    fn a_slow_one_gets_what_the_quick_one_would_not_have_given_earlier() {
        let slow = |under_way| giver(Some(1.0), under_way);
        let quick = |under_way| giver(Some(10.0), under_way);
        assert_eq!(quickest(&[slow(0), quick(0)], MIB), Some(1));
        assert_eq!(quickest(&[slow(0), quick(5 * MIB)], MIB), Some(1));
        assert_eq!(quickest(&[slow(0), quick(10 * MIB)], MIB), Some(0));
    }

    #[test]
    fn a_rate_follows_what_was_seen_lately() {
        let first = learned_rate(None, 100, 1.0);
        assert!((first - 100.0).abs() < f64::EPSILON);
        let slowed = (0..20).fold(first, |rate, _| learned_rate(Some(rate), 100, 10.0));
        assert!((slowed - 10.0).abs() < 1.0, "{slowed}");
        assert!(learned_rate(None, 100, 0.0).is_finite());
    }

    proptest! {
        #[test]
        fn over_time_each_gives_as_much_as_it_is_quick(rates in prop::collection::vec(1.0f64..100.0, 1..5)) {
            let mut givers: Vec<Giver> = rates.iter().map(|rate| giver(Some(*rate), 0)).collect();
            for _ in 0..1000 {
                let chosen = quickest(&givers, MIB).expect("there are some");
                givers[chosen].under_way += MIB;
            }
            let times: Vec<f64> = givers.iter().map(|one| as_float(one.under_way) / one.rate.unwrap_or(1.0)).collect();
            let (least, most) = (times.iter().copied().fold(f64::INFINITY, f64::min), times.iter().copied().fold(0.0, f64::max));
            let slowest = rates.iter().copied().fold(f64::INFINITY, f64::min);
            prop_assert!(most - least <= as_float(MIB) / slowest + 1.0, "{times:?}");
        }
    }
}
