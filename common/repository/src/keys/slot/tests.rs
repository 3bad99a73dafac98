#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::*;
use pgconvoy_core::failure::{Classify, ErrorCode};
use proptest::prelude::*;

const SALT: [u8; SALT_BYTES] = [0x33; SALT_BYTES];

fn repository() -> Identity {
    Identity::from_random_bytes([0x11; 16])
}

fn name() -> SlotName {
    "default".parse().unwrap()
}

fn key() -> RepositoryKey {
    RepositoryKey::from_secret(KeyGeneration(2), Zeroizing::new([7; KEY_BYTES]))
}

fn key_file(byte: u8) -> SlotSecret {
    SlotSecret::KeyFile(Zeroizing::new([byte; KEY_BYTES]))
}

fn command(byte: u8) -> SlotSecret {
    SlotSecret::Command(Zeroizing::new([byte; KEY_BYTES]))
}

fn passphrase(text: &str) -> SlotSecret {
    SlotSecret::Passphrase(Zeroizing::new(text.as_bytes().to_vec()))
}

/// argon2id that costs a test nothing.
fn cheap() -> SlotKind {
    SlotKind::Passphrase { memory_kib: 8, passes: 1, lanes: 1, salt: [0x44; PASSPHRASE_SALT_BYTES] }
}

fn file_slot() -> KeySlot {
    KeySlot::wrap_with(&key(), repository(), &name(), &key_file(9), SlotKind::KeyFile, SALT).unwrap()
}

fn passphrase_slot() -> KeySlot {
    KeySlot::wrap_with(&key(), repository(), &name(), &passphrase("open sesame"), cheap(), SALT).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_wrapped_key_comes_back_for_each_kind_of_secret() {
    for secret in [key_file(9), command(9), passphrase("open sesame")] {
        let slot = KeySlot::wrap(&key(), repository(), &name(), &secret).unwrap();
        let opened = slot.unwrap(repository(), &secret).unwrap();
        assert_eq!(opened.secret(), key().secret());
        assert_eq!(opened.generation(), KeyGeneration(2));
        assert_eq!(slot.secret_fingerprint, secret.fingerprint());
    }
}

#[test]
fn a_new_passphrase_slot_costs_what_the_constants_say_and_is_accepted_by_the_limits() {
    let slot = KeySlot::wrap(&key(), repository(), &name(), &passphrase("open sesame")).unwrap();
    let SlotKind::Passphrase { memory_kib, passes, lanes, .. } = slot.kind else { panic!("{:?}", slot.kind) };
    assert_eq!((memory_kib, passes, lanes), (65_536, 3, 1));
}

#[test]
fn the_same_bytes_open_a_slot_from_a_file_and_from_a_command() {
    assert_eq!(file_slot().unwrap(repository(), &command(9)).unwrap().secret(), key().secret());
}

#[test]
fn two_slots_of_one_secret_share_no_salt() {
    let slots = [0, 1].map(|_| KeySlot::wrap(&key(), repository(), &name(), &key_file(9)).unwrap());
    assert_ne!(slots[0].salt, slots[1].salt);
    assert_ne!(slots[0].wrapped, slots[1].wrapped);
}

#[test]
fn a_wrong_key_file_is_code_95_and_the_hints_name_both_fingerprints() {
    let slot = file_slot();
    let error = slot.unwrap(repository(), &key_file(10)).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Crypto);
    let hints = error.hints().join(" ");
    for fingerprint in [key_file(9).fingerprint(), key_file(10).fingerprint(), Some(key().fingerprint())] {
        assert!(hints.contains(&fingerprint.unwrap().to_string()), "{hints}");
    }
}

#[test]
fn a_wrong_passphrase_is_code_95_and_the_hint_names_the_repository_key() {
    let error = passphrase_slot().unwrap(repository(), &passphrase("open barley")).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Crypto);
    assert!(error.hints().join(" ").contains(&key().fingerprint().to_string()));
}

#[test]
fn a_secret_of_another_kind_is_told_as_such() {
    for (slot, secret) in [(file_slot(), passphrase("open sesame")), (passphrase_slot(), key_file(9))] {
        let error = slot.unwrap(repository(), &secret).unwrap_err();
        assert!(matches!(error, KeyError::OtherKind { .. }), "{error}");
        assert_eq!(error.code(), ErrorCode::Crypto);
    }
}

#[test]
fn a_slot_opens_only_for_its_repository_generation_and_name() {
    let elsewhere = Identity::from_random_bytes([0x12; 16]);
    assert!(file_slot().unwrap(elsewhere, &key_file(9)).is_err());
    let mut slot = file_slot();
    slot.generation = KeyGeneration(3);
    assert!(slot.unwrap(repository(), &key_file(9)).is_err());
    let mut slot = file_slot();
    slot.name = "other".parse().unwrap();
    assert!(slot.unwrap(repository(), &key_file(9)).is_err());
}

#[test]
fn a_flip_of_any_bit_of_salt_or_wrapped_key_is_refused() {
    for bit in 0..SALT_BYTES * 8 {
        let mut slot = file_slot();
        slot.salt[bit / 8] ^= 1 << (bit % 8);
        assert!(slot.unwrap(repository(), &key_file(9)).is_err(), "salt bit {bit}");
    }
    for bit in 0..WRAPPED_BYTES * 8 {
        let mut slot = file_slot();
        slot.wrapped[bit / 8] ^= 1 << (bit % 8);
        assert!(slot.unwrap(repository(), &key_file(9)).is_err(), "wrapped bit {bit}");
    }
}

#[test]
fn a_damaged_slot_is_told_from_a_wrong_key_file() {
    let mut slot = file_slot();
    slot.wrapped[0] ^= 1;
    let error = slot.unwrap(repository(), &key_file(9)).unwrap_err();
    assert!(error.hints()[0].contains("the secret is the right one"), "{:?}", error.hints());
}

#[test]
fn a_slot_that_promises_another_key_is_refused() {
    let mut slot = file_slot();
    slot.fingerprint = "0000000000000000".parse().unwrap();
    let error = slot.unwrap(repository(), &key_file(9)).unwrap_err();
    assert!(matches!(error, KeyError::OtherKey { .. }), "{error}");
}

#[test]
fn a_hostile_slot_cannot_ask_for_much_memory_or_time() {
    for (memory_kib, passes, lanes) in [
        (u32::MAX, 1, 1),
        (ARGON2_MEMORY_KIB_MAX + 1, 1, 1),
        (8, u32::MAX, 1),
        (8, 1, u32::MAX),
        (0, 0, 0),
        (8, 1, 8),
    ] {
        let mut slot = passphrase_slot();
        slot.kind = SlotKind::Passphrase { memory_kib, passes, lanes, salt: [0; PASSPHRASE_SALT_BYTES] };
        let error = slot.unwrap(repository(), &passphrase("open sesame")).unwrap_err();
        assert!(matches!(error, KeyError::BadSlot { .. }), "{memory_kib} {passes} {lanes}: {error}");
    }
}

#[test]
fn a_slot_of_a_newer_format_is_refused() {
    let mut slot = file_slot();
    slot.format = KEY_SLOT_FORMAT + 1;
    assert_eq!(slot.unwrap(repository(), &key_file(9)).unwrap_err().code(), ErrorCode::Format);
}

#[test]
fn slot_names_cannot_leave_their_directory() {
    for bad in ["", ".", "..", "a/b", "-x", "a b", &"x".repeat(65)] {
        assert!(bad.parse::<SlotName>().is_err(), "{bad:?}");
    }
    assert_eq!("ops-2".parse::<SlotName>().unwrap().as_str(), "ops-2");
}

#[test]
fn slots_come_back_from_messagepack_and_unknown_keys_in_it_are_ignored() {
    for slot in [file_slot(), passphrase_slot()] {
        let bytes = rmp_serde::to_vec_named(&slot).unwrap();
        assert_eq!(rmp_serde::from_slice::<KeySlot>(&bytes).unwrap(), slot);
        let mut longer = bytes.clone();
        // A map of up to 15 entries counts them in its first byte.
        longer[0] += 1;
        longer.extend_from_slice(&rmp_serde::to_vec("later").unwrap());
        longer.extend_from_slice(&rmp_serde::to_vec(&1).unwrap());
        assert_eq!(rmp_serde::from_slice::<KeySlot>(&longer).unwrap(), slot);
    }
}

#[test]
fn errors_and_debug_forms_show_no_secret() {
    let secret = passphrase("open sesame");
    let error = passphrase_slot().unwrap(repository(), &passphrase("open barley")).unwrap_err();
    let shown = format!("{secret:?} {:?} {error} {error:?} {:?}", key_file(0xAB), error.hints());
    for part in ["sesame", "barley", "171", "abab"] {
        assert!(!shown.contains(part), "{part} in {shown}");
    }
}

/// These bytes are in repositories, and nothing opens them again if this changes.
#[test]
fn golden_slots_do_not_change() {
    assert_eq!(
        hex(&file_slot().wrapped),
        "c9764a669e44928422513d2a3675d4fbeca22fb863b5b8028ba855b04f7abd4b0f41c581de09624d566e5c0efb61a87e"
    );
    assert_eq!(file_slot().secret_fingerprint.unwrap().to_string(), "49baf8f813036c95");
    assert_eq!(
        hex(&passphrase_slot().wrapped),
        "6f48731dc0940e2056d32f880d2c3bc2fa5b2a3574d2d28223fe81ac4e3d8cb4b728e2c8a802cc5702cacd2971cb192d"
    );
    let body = [
        "87a6666f726d617401aa67656e65726174696f6e02a46e616d65a764656661756c74a46b696e6481aa70617373706872",
        "61736584aa6d656d6f72792d6b696208a670617373657301a56c616e657301a473616c74c41044444444444444444444",
        "444444444444a473616c74c4203333333333333333333333333333333333333333333333333333333333333333a77772",
        "6170706564c4306f48731dc0940e2056d32f880d2c3bc2fa5b2a3574d2d28223fe81ac4e3d8cb4b728e2c8a802cc5702",
        "cacd2971cb192dab66696e6765727072696e74b063326466323137636337613936303539",
    ]
    .concat();
    assert_eq!(hex(&rmp_serde::to_vec_named(&passphrase_slot()).unwrap()), body);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn arbitrary_slots_never_open_and_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        wrapped in any::<[[u8; 24]; 2]>(),
        memory_kib in prop_oneof![0u32..64, Just(u32::MAX)],
        passes in prop_oneof![0u32..3, Just(u32::MAX)],
        lanes: u32,
    ) {
        if let Ok(slot) = rmp_serde::from_slice::<KeySlot>(&bytes) {
            prop_assert!(slot.unwrap(repository(), &key_file(9)).is_err());
        }
        let mut slot = passphrase_slot();
        slot.wrapped.copy_from_slice(wrapped.as_flattened());
        prop_assert!(slot.unwrap(repository(), &passphrase("open sesame")).is_err());
        slot.kind = SlotKind::Passphrase { memory_kib, passes, lanes: lanes % 10, salt: [0; PASSPHRASE_SALT_BYTES] };
        prop_assert!(slot.unwrap(repository(), &passphrase("open sesame")).is_err());
    }

    #[test]
    fn a_damaged_body_never_panics_and_never_opens_with_another_key(at in any::<proptest::sample::Index>(), flip in 1u8..=255) {
        let mut bytes = rmp_serde::to_vec_named(&file_slot()).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(slot) = rmp_serde::from_slice::<KeySlot>(&bytes)
            && let Ok(opened) = slot.unwrap(repository(), &key_file(9))
        {
            prop_assert_eq!(opened.fingerprint(), key().fingerprint());
        }
    }
}
