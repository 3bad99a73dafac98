//! What verify concludes of two damaged repositories, against what a restore from both does.

use super::fixture::{CHILD, Fixture, LABEL, Shape, child_pack, manifest, pack, stanza};
use super::{assert_whole, exists};
use pgconvoy_core::ids::RepoKey;
use pgconvoy_core::plan::restorable::{Restorable, Together};
use pgconvoy_repository::verify::{StanzaVerification, VerifyOptions, verify};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

const CASES: u64 = 150;

/// The same numbers every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

fn concluded(fixture: &Fixture, label: &str) -> Restorable {
    let options = VerifyOptions { set: None, process_max: 2, cancel: CancellationToken::new() };
    let repositories = [1, 2].map(|key| {
        fixture.runtime.block_on(async {
            let repository = fixture.set.open(RepoKey(key)).await.unwrap();
            verify(repository, &stanza(), &options, Arc::new(|_| {})).await.unwrap()
        })
    });
    let stanza = StanzaVerification {
        name: stanza().to_string(),
        repositories: repositories.into(),
        without: Vec::new(),
    };
    let mut conclusions = stanza.conclusions().into_iter();
    conclusions.find(|one| one.label.to_string() == label).unwrap().restorable
}

/// Flips a bit in one repository or in both, there at the same place or not far from it, or takes an object away.
fn hurt(fixture: &Fixture, dice: &mut Dice, may_take: bool) {
    let unit = u32::try_from(1 + dice.roll(3)).unwrap();
    let object = match dice.roll(8) {
        0 => child_pack(unit),
        1 => manifest(),
        _ => pack(unit),
    };
    let place = dice.roll(1 << 20);
    let first = 1 + dice.roll(2);
    let repositories = if dice.roll(5) == 0 { first..=first } else { 1..=2 };
    for repository in repositories {
        let (is_lost, apart) = (may_take && dice.roll(12) == 0, dice.roll(3) * 300);
        fixture.hurt(repository, &object, |mut bytes| {
            let length = bytes.len();
            bytes[(place + apart) % length] ^= 1;
            (!is_lost).then_some(bytes)
        });
    }
}

#[test]
fn a_restore_from_damaged_repositories_ends_as_verify_concluded() {
    let shape = Shape::sample();
    let mut told = [0; 3];
    for seed in 0..CASES {
        let fixture = Fixture::new(&shape);
        fixture.add_child(&shape);
        let label = if seed % 2 == 0 { LABEL } else { CHILD };
        let mut dice = Dice(seed);
        if seed % 3 == 0 {
            hurt(&fixture, &mut dice, false);
        }
        hurt(&fixture, &mut dice, true);
        let Restorable { alone, together } = concluded(&fixture, label);
        let mut order = fixture.order();
        order.set = Some(label.parse().unwrap());
        let restored = super::restore(&order, &fixture.around());
        match together {
            Together::Yes => {
                restored.unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
                assert_whole(&fixture, &shape);
            }
            Together::No => {
                assert!(alone.is_empty(), "seed {seed}: {alone:?}");
                assert!(restored.is_err(), "seed {seed}: it was restored");
                assert!(!exists(&fixture.target().join("global/pg_control")), "seed {seed}");
            }
            Together::Unknown => {}
        }
        told[together as usize] += 1;
    }
    let [yes, no, unknown] = told;
    assert!(yes > 50 && no > 20, "too little was put to the test: {told:?}");
    assert!(unknown <= 5, "{told:?}");
}

#[test]
fn what_nobody_hurt_can_be_restored_from_each_repository() {
    let fixture = Fixture::new(&Shape::sample());
    fixture.add_child(&Shape::sample());
    for label in [LABEL, CHILD] {
        let alone = vec![RepoKey(1), RepoKey(2)];
        assert_eq!(concluded(&fixture, label), Restorable { alone, together: Together::Yes });
    }
}
