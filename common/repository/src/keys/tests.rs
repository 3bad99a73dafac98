#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

#[test]
fn generated_keys_differ_and_their_fingerprints_tell_them_apart() {
    let first = RepositoryKey::generate(KeyGeneration(1)).unwrap();
    let second = RepositoryKey::generate(KeyGeneration(1)).unwrap();
    assert_ne!(first.secret(), second.secret());
    assert_ne!(first.fingerprint(), second.fingerprint());
}

#[test]
fn a_repository_keys_debug_form_shows_the_fingerprint_and_not_the_key() {
    let key = RepositoryKey::from_secret(KeyGeneration(3), Zeroizing::new([0xAB; KEY_BYTES]));
    let shown = format!("{key:?}");
    assert!(shown.contains(&key.fingerprint().to_string()), "{shown}");
    assert!(!shown.contains("171") && !shown.contains("abab"), "{shown}");
}

/// Operators write fingerprints down.
#[test]
fn golden_fingerprint_does_not_change() {
    let key = RepositoryKey::from_secret(KeyGeneration(1), Zeroizing::new([7; KEY_BYTES]));
    assert_eq!(key.fingerprint().to_string(), "c2df217cc7a96059");
}

#[test]
fn fingerprints_are_read_as_they_are_printed_and_nothing_else_is() {
    let fingerprint: Fingerprint = "00ff00ff12345678".parse().unwrap();
    assert_eq!(fingerprint.to_string(), "00ff00ff12345678");
    for bad in [
        "",
        "00ff00ff1234567",
        "00ff00ff123456789",
        "00FF00FF12345678",
        "+0ff00ff12345678",
        "x0ff00ff12345678",
    ] {
        assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
    }
}
