//! How the units of a job travel to a page: all of them as runs of letters, then what has changed. Pure.
//!
//! `12d3l985p`: twelve units done, three leased, the others pending; the letters are those of [`crate::unit_map`]. A change is
//! `41l` or, of several in a row, `41x3d`; changes are separated by spaces.

use crate::unit_map::{AGAIN, DONE, LEASED, PENDING};

/// How many units are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) pending: u64,
    pub(super) leased: u64,
    /// Leased, and not for the first time.
    pub(super) again: u64,
    pub(super) done: u64,
}

impl Counts {
    pub(super) fn of(states: &[u8]) -> Counts {
        let count = |letter: u8| states.iter().filter(|state| **state == letter).count() as u64;
        Counts { pending: count(PENDING), leased: count(LEASED), again: count(AGAIN), done: count(DONE) }
    }

    pub(super) fn total(self) -> u64 {
        self.pending + self.leased + self.again + self.done
    }
}

/// Begin, length and letter of each run of equal letters.
fn runs(states: &[u8]) -> impl Iterator<Item = (usize, usize, u8)> {
    let mut at = 0;
    states.chunk_by(|one, next| one == next).map(move |run| {
        let begin = at;
        at += run.len();
        (begin, run.len(), run[0])
    })
}

pub(super) fn whole(states: &[u8]) -> String {
    runs(states).map(|(_, length, letter)| format!("{length}{}", char::from(letter))).collect()
}

/// What is to be changed in `before` to have `after`. `None`: they are not of one length, so all must be told.
pub(super) fn changes(before: &[u8], after: &[u8]) -> Option<String> {
    if before.len() != after.len() {
        return None;
    }
    // What has not changed is a run of a letter that is none.
    let changed: Vec<u8> =
        before.iter().zip(after).map(|(before, after)| if before == after { 0 } else { *after }).collect();
    let told = runs(&changed).filter(|(_, _, letter)| *letter != 0).map(|(begin, length, letter)| {
        let letter = char::from(letter);
        if length == 1 { format!("{begin}{letter}") } else { format!("{begin}x{length}{letter}") }
    });
    Some(told.collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_told_in_runs() {
        assert_eq!(whole(b"dddlpp"), "3d1l2p");
        assert_eq!(whole(b""), "");
        let large = vec![PENDING; 20_000];
        assert_eq!(whole(&large), "20000p");
    }

    #[test]
    fn only_what_changed_is_told() {
        assert_eq!(changes(b"pppppp", b"ddplla").as_deref(), Some("0x2d 3x2l 5a"));
        assert_eq!(changes(b"pp", b"pp").as_deref(), Some(""));
        assert_eq!(changes(b"pp", b"ppp"), None, "units came to it");
    }

    #[test]
    fn units_are_counted_by_state() {
        let counts = Counts::of(b"ddlap");
        assert_eq!(counts, Counts { pending: 1, leased: 1, again: 1, done: 2 });
        assert_eq!(counts.total(), 5);
    }
}
