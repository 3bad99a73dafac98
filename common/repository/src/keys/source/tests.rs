#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::super::create_key_file;
use super::*;
use pgconvoy_core::failure::{Classify, ErrorCode};
use std::os::unix::fs::PermissionsExt;

/// 32 bytes of 9.
const NINES: &str = "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=";

fn key_of(text: &str) -> Result<Zeroizing<[u8; KEY_BYTES]>, BadSecret> {
    parse_key(text.as_bytes())
}

fn text_of(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn load_text(text: &[u8], source: impl Fn(String) -> KeySource) -> Result<SlotSecret, KeyError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    load_secret(&source(text_of(&path)))
}

#[test]
fn a_key_is_read_with_any_line_end_and_without() {
    for end in ["", "\n", "\r\n"] {
        assert_eq!(*key_of(&format!("{NINES}{end}")).unwrap(), [9; KEY_BYTES], "{end:?}");
    }
}

#[test]
fn what_is_not_32_bytes_of_base64_on_one_line_is_refused() {
    for (text, reason) in [
        (String::new(), BadSecret::Empty),
        ("\n".to_owned(), BadSecret::Empty),
        (format!("{NINES}\n{NINES}\n"), BadSecret::Lines),
        (format!("{NINES}\n\n"), BadSecret::Lines),
        (format!(" {NINES}"), BadSecret::NotBase64),
        (NINES.replace('=', ""), BadSecret::NotBase64),
        ("not base64!".to_owned(), BadSecret::NotBase64),
        ("AAAA".to_owned(), BadSecret::Length { bytes: 3 }),
        ("AAAA".repeat(11), BadSecret::Length { bytes: 33 }),
    ] {
        assert_eq!(key_of(&text).unwrap_err(), reason, "{text:?}");
    }
}

#[test]
fn a_bad_key_file_is_code_28_with_a_hint_how_to_make_one_and_without_its_content() {
    for text in [b"hunter2 is no key\n".to_vec(), vec![b'A'; 100_000], vec![0xFF; 44]] {
        let error = load_text(&text, KeySource::KeyFile).unwrap_err();
        assert_eq!(error.code(), ErrorCode::FileInvalid);
        assert!(error.hints().join(" ").contains("openssl rand -base64 32"));
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}

#[test]
fn a_missing_file_is_code_55_with_a_hint_how_to_make_one() {
    let path = "/nonexistent/repo1.key".to_owned();
    for source in [KeySource::KeyFile(path.clone()), KeySource::PassphraseFile(path)] {
        let error = load_secret(&source).unwrap_err();
        assert_eq!(error.code(), ErrorCode::FileMissing);
        assert!(error.hints().join(" ").contains("pgconvoy repo-key create"));
    }
}

#[test]
fn an_encrypted_repository_without_a_configured_key_is_code_37() {
    assert_eq!(load_secret(&KeySource::None).unwrap_err().code(), ErrorCode::OptionRequired);
}

#[test]
fn a_directory_in_place_of_a_key_file_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let error = load_secret(&KeySource::KeyFile(text_of(directory.path()))).unwrap_err();
    assert_eq!(error.code(), ErrorCode::FileRead);
}

#[test]
fn a_passphrase_is_the_line_without_its_end() {
    for text in [b"open  sesame ".as_slice(), b"open  sesame \n", b"open  sesame \r\n"] {
        let SlotSecret::Passphrase(passphrase) = load_text(text, KeySource::PassphraseFile).unwrap() else {
            panic!("another kind of secret")
        };
        assert_eq!(passphrase.as_slice(), b"open  sesame ");
    }
    for text in [b"".as_slice(), b"\n", b"two\nlines\n", &[b'x'; PASSPHRASE_BYTES_MAX + 1]] {
        let error = load_text(text, KeySource::PassphraseFile).unwrap_err();
        assert_eq!(error.code(), ErrorCode::FileInvalid);
    }
}

#[test]
fn a_file_that_others_can_read_is_still_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("open.key");
    std::fs::write(&path, NINES).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(load_secret(&KeySource::KeyFile(text_of(&path))).is_ok());
}

#[test]
fn a_created_key_file_is_private_loads_and_has_the_fingerprint_that_was_reported() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("repo1.key");
    let fingerprint = create_key_file(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(std::fs::read(&path).unwrap().len(), NINES.len() + 1);
    let secret = load_secret(&KeySource::KeyFile(text_of(&path))).unwrap();
    assert_eq!(secret.fingerprint(), Some(fingerprint));
}

#[test]
fn creating_refuses_an_existing_file_or_a_dangling_link_with_code_93_and_leaves_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("repo1.key");
    std::fs::write(&path, "precious").unwrap();
    assert_eq!(create_key_file(&path).unwrap_err().code(), ErrorCode::Exists);
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    let link = directory.path().join("link.key");
    std::os::unix::fs::symlink(directory.path().join("elsewhere"), &link).unwrap();
    assert_eq!(create_key_file(&link).unwrap_err().code(), ErrorCode::Exists);
    assert!(!directory.path().join("elsewhere").exists());
}
