#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use super::*;
use crate::format::BackupLabel;
use crate::ids::{Attempt, PlanNumber, UnitId};
use crate::pg::{Lsn, TimelineId, WalSegmentSize};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn pack(unit: u32) -> PackName {
    let label: BackupLabel = "20261127-101500F".parse().unwrap();
    PackName { label, plan: PlanNumber(1), unit: UnitId(unit), attempt: Attempt(1) }
}

fn segment(number: u64) -> WalSegmentName {
    let size = WalSegmentSize::new(1 << 20).unwrap();
    WalSegmentName::containing(TimelineId(1), Lsn(number << 20), size)
}

const GOOD: Segment = Segment { size: 1 << 20, sha1: [7; 20], is_good: true };

fn whole() -> Holding {
    Holding {
        backup: Identity::default(),
        is_whole: true,
        manifest: Manifest::Whole(1),
        losses: Some(BTreeMap::new()),
        wal: WalHeld {
            needed: 2,
            segments: (3..5).map(|at| (segment(at), GOOD)).collect(),
            is_unread: false,
        },
    }
}

fn lost(blocks: Range<u32>) -> PackLoss {
    let mut loss = PackLoss::NONE;
    loss.add_possible(0, blocks.clone());
    loss.add_certain(0, blocks);
    loss
}

fn damaged(losses: impl IntoIterator<Item = (u32, PackLoss)>) -> Holding {
    let losses = losses.into_iter().map(|(unit, loss)| (pack(unit), loss)).collect();
    Holding { is_whole: false, losses: Some(losses), ..whole() }
}

fn concluded(seen: &[Seen]) -> Restorable {
    let keyed: Vec<(RepoKey, &Seen)> = (1..).map(RepoKey).zip(seen).collect();
    restorable(&keyed)
}

fn of(holdings: impl IntoIterator<Item = Holding>) -> Together {
    let seen: Vec<Seen> = holdings.into_iter().map(Seen::Published).collect();
    concluded(&seen).together
}

#[test]
fn what_is_whole_anywhere_is_restorable_and_told_by_repository() {
    let seen = [Seen::Without, Seen::Published(damaged([(0, PackLoss::ALL)])), Seen::Published(whole())];
    assert_eq!(concluded(&seen), Restorable { alone: vec![RepoKey(3)], together: Together::Yes });
    assert_eq!(
        concluded(&[Seen::Published(whole()), Seen::Unread]),
        Restorable { alone: vec![RepoKey(1)], together: Together::Yes },
        "a restore passes by one that does not answer"
    );
}

#[test]
fn damage_at_different_places_is_made_good_and_damage_at_the_same_is_not() {
    assert_eq!(of([damaged([(0, lost(0..4))]), damaged([(0, lost(4..8))])]), Together::Yes);
    assert_eq!(of([damaged([(0, lost(0..5))]), damaged([(0, lost(4..8))])]), Together::No);
    assert_eq!(of([damaged([(0, PackLoss::ALL)]), damaged([(1, PackLoss::ALL)])]), Together::Yes);
    assert_eq!(of([damaged([(0, PackLoss::ALL)]), damaged([(0, lost(3..4))])]), Together::No);
    let three = [lost(0..4), lost(2..6), lost(5..6)].map(|loss| damaged([(0, loss)]));
    assert_eq!(of(three.clone()), Together::Yes, "no block is lost in all three");
    assert_eq!(of(three[..2].iter().cloned()), Together::No);
}

#[test]
fn what_could_not_be_read_leaves_doubt_only_where_nobody_else_has_it() {
    let unknown = || damaged([(0, PackLoss::UNKNOWN)]);
    assert_eq!(of([unknown(), damaged([(1, PackLoss::ALL)])]), Together::Yes);
    assert_eq!(of([unknown(), damaged([(0, lost(0..1))])]), Together::Unknown);
    let one = Seen::Published(damaged([(0, PackLoss::ALL)]));
    assert_eq!(concluded(std::slice::from_ref(&one)).together, Together::No);
    assert_eq!(concluded(&[one.clone(), Seen::Unread]).together, Together::Unknown);
    assert_eq!(concluded(&[one, Seen::Without]).together, Together::No);
}

#[test]
fn an_unreadable_manifest_is_taken_from_a_sibling_and_a_doubtful_one_is_not_trusted() {
    let refused = || Holding { manifest: Manifest::Refused, losses: None, is_whole: false, ..whole() };
    let doubtful = || Holding { manifest: Manifest::Doubtful, is_whole: false, ..whole() };
    assert_eq!(of([refused(), whole()]), Together::Yes);
    assert_eq!(of([refused(), damaged([(0, PackLoss::ALL)])]), Together::Unknown, "it may have the pack");
    assert_eq!(of([refused(), refused()]), Together::No);
    assert_eq!(of([whole(), doubtful()]), Together::Unknown, "a restore may take blocks from it");
    assert_eq!(of([whole(), Holding { manifest: Manifest::Whole(2), ..whole() }]), Together::Unknown);
}

#[test]
fn the_first_repository_decides_which_backup_a_label_is() {
    let other = Holding { backup: Identity(uuid::Uuid::from_u128(9)), ..whole() };
    let seen = [Seen::Published(damaged([(0, PackLoss::ALL)])), Seen::Published(other)];
    assert_eq!(concluded(&seen), Restorable { alone: vec![RepoKey(2)], together: Together::No });
}

#[test]
fn each_segment_comes_from_where_it_is_whole_unless_two_tell_different_contents() {
    let with = |change: fn(&mut WalHeld)| {
        let mut holding = Holding { is_whole: false, ..whole() };
        change(&mut holding.wal);
        holding
    };
    let bad = |wal: &mut WalHeld| wal.segments.get_mut(&segment(3)).unwrap().is_good = false;
    let without = |wal: &mut WalHeld| wal.segments.retain(|name, _| *name != segment(4));
    let strange = |wal: &mut WalHeld| wal.segments.get_mut(&segment(4)).unwrap().sha1 = [8; 20];
    let unread = |wal: &mut WalHeld| {
        wal.segments.retain(|name, _| *name != segment(4));
        wal.is_unread = true;
    };
    assert_eq!(of([with(bad), with(without)]), Together::Yes);
    assert_eq!(of([with(without), with(without)]), Together::No);
    assert_eq!(of([with(without), with(unread)]), Together::Unknown);
    assert_eq!(of([whole(), with(strange)]), Together::Unknown, "archive-get refuses to choose");
    let seen = [Seen::Published(with(without)), Seen::Without];
    assert_eq!(concluded(&seen).together, Together::Unknown, "its archive may have the segment");
    assert_eq!(of([damaged([(0, PackLoss::ALL)]), with(without)]), Together::Yes, "files there, WAL here");
}

#[test]
fn more_runs_than_there_is_room_for_may_be_all_of_them() {
    let mut many = PackLoss::NONE;
    for block in (0..=u32::try_from(LOST_MAX).unwrap()).map(|run| run * 2) {
        many.add_certain(0, block..block + 1);
        many.add_possible(0, block..block + 1);
    }
    assert_eq!(many.possible, Lost::All);
    assert_eq!(of([damaged([(0, many.clone())]), damaged([(0, lost(1..2))])]), Together::Unknown);
    assert_eq!(of([damaged([(0, many)]), damaged([(0, lost(0..1))])]), Together::No);
}

/// Blocks that lie one after another in one frame.
#[derive(Debug, Clone)]
struct Piece {
    place: u32,
    blocks: Range<u32>,
    is_borrowed: bool,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    Good,
    /// The frame cannot be opened.
    Closed,
    /// The frame can be opened, and these blocks are not what they should be.
    Wrong(BTreeSet<u32>),
}

/// A pack as one repository has it.
#[derive(Debug, Clone)]
struct Stored {
    opens: bool,
    lender_opens: bool,
    pieces: Vec<Piece>,
}

const BLOCKS: u32 = 6;
const PLACES: u32 = 2;

impl Stored {
    fn loss(&self) -> PackLoss {
        if !self.opens {
            return PackLoss::ALL;
        }
        let mut loss = PackLoss::NONE;
        for Piece { place, blocks, is_borrowed, state } in &self.pieces {
            match state {
                _ if *is_borrowed && !self.lender_opens => {
                    loss.add_certain(*place, blocks.clone());
                    loss.endanger_all();
                }
                State::Good => {}
                State::Closed => {
                    loss.add_certain(*place, blocks.clone());
                    loss.add_possible(*place, blocks.clone());
                }
                State::Wrong(bad) => {
                    bad.iter().for_each(|block| loss.add_certain(*place, *block..*block + 1));
                    loss.add_possible(*place, blocks.clone());
                }
            }
        }
        loss
    }

    /// What a restore still wants after it took from here, as its slots do it.
    fn take(&self, wanted: Vec<(u32, Range<u32>)>) -> Vec<(u32, Range<u32>)> {
        if !self.opens {
            return wanted;
        }
        let mut found = Vec::new();
        for (place, blocks) in &wanted {
            for piece in self.pieces.iter().filter(|piece| piece.place == *place) {
                let part = piece.blocks.start.max(blocks.start)..piece.blocks.end.min(blocks.end);
                if !part.is_empty() {
                    found.push((piece, part));
                }
            }
        }
        let is_stuck = !self.lender_opens && found.iter().any(|(piece, _)| piece.is_borrowed);
        found.retain(|(piece, part)| {
            is_stuck
                || match &piece.state {
                    State::Good => false,
                    State::Closed => true,
                    State::Wrong(bad) => part.clone().any(|block| bad.contains(&block)),
                }
        });
        found.into_iter().map(|(piece, part)| (piece.place, part)).collect()
    }
}

fn stored(is_simple: bool) -> impl Strategy<Value = Stored> {
    let cells = prop::collection::vec((any::<bool>(), any::<bool>(), 0..8u8), (PLACES * BLOCKS) as usize);
    (prop::bool::weighted(0.9), any::<bool>(), cells).prop_map(move |(opens, lender_opens, cells)| {
        let mut pieces: Vec<Piece> = Vec::new();
        for (at, (begins, is_borrowed, fate)) in (0..).zip(cells) {
            let (place, block) = (at / BLOCKS, at % BLOCKS);
            match pieces.last_mut().filter(|last| last.place == place && !begins) {
                Some(last) => last.blocks.end = block + 1,
                None => {
                    pieces.push(Piece { place, blocks: block..block + 1, is_borrowed, state: State::Good })
                }
            }
            let last = pieces.last_mut().unwrap();
            match (fate, &mut last.state) {
                (0, state) => *state = State::Closed,
                (1, State::Wrong(bad)) => drop(bad.insert(block)),
                (1, state @ State::Good) if !is_simple => *state = State::Wrong(BTreeSet::from([block])),
                _ => {}
            }
        }
        Stored { opens, lender_opens: lender_opens || is_simple, pieces }
    })
}

fn orders(count: usize) -> Vec<Vec<usize>> {
    match count {
        0 => vec![Vec::new()],
        _ => orders(count - 1)
            .into_iter()
            .flat_map(|order| {
                (0..count).map(move |at| {
                    let mut order = order.clone();
                    order.insert(at, count - 1);
                    order
                })
            })
            .collect(),
    }
}

/// How restores in all orders end.
fn outcomes(stored: &[Stored]) -> BTreeSet<bool> {
    let restore = |order: Vec<usize>| {
        let wanted = (0..PLACES).map(|place| (place, 0..BLOCKS)).collect();
        order.into_iter().fold(wanted, |wanted, at| stored[at].take(wanted)).is_empty()
    };
    orders(stored.len()).into_iter().map(restore).collect()
}

fn concluded_of(stored: &[Stored]) -> Together {
    let loss = |one: &Stored| Some((0, one.loss())).filter(|(_, loss)| !loss.is_none());
    of(stored.iter().map(|one| damaged(loss(one))))
}

proptest! {
    #[test]
    fn a_restore_ends_as_was_concluded_in_whatever_order_it_asks(
        stored in prop::collection::vec(stored(false), 1..4)
    ) {
        let outcomes = outcomes(&stored);
        match concluded_of(&stored) {
            Together::Yes => prop_assert_eq!(outcomes, BTreeSet::from([true])),
            Together::No => prop_assert_eq!(outcomes, BTreeSet::from([false])),
            Together::Unknown => {}
        }
    }

    #[test]
    fn frames_that_open_or_do_not_leave_no_doubt(stored in prop::collection::vec(stored(true), 1..4)) {
        let expected = match outcomes(&stored).contains(&true) {
            true => Together::Yes,
            false => Together::No,
        };
        prop_assert_eq!(concluded_of(&stored), expected);
    }
}
