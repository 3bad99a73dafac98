#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use super::*;
use pgconvoy_core::failure::Classify as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

const PASSPHRASE: &str = "correct horse";

struct Keys {
    directory: tempfile::TempDir,
}

impl Keys {
    fn new() -> Keys {
        Keys { directory: tempfile::tempdir().unwrap() }
    }

    /// Makes a key with OpenSSH's own tool.
    fn make(&self, name: &str, passphrase: &str, more: &[&str]) -> PathBuf {
        let path = self.directory.path().join(name);
        let made =
            Command::new("ssh-keygen").args(["-q", "-N", passphrase, "-f"]).arg(&path).args(more).status();
        assert!(made.unwrap().success(), "ssh-keygen {more:?}");
        path
    }

    fn load(&self, path: &Path, passphrase: Option<&str>) -> Result<PrivateKey, StorageError> {
        let options = SftpOptions {
            host: "h".to_owned(),
            port: 22,
            user: "u".to_owned(),
            private_key_file: path.to_owned(),
            private_key_passphrase: passphrase.map(Secret::new),
            known_hosts_file: None,
            host_fingerprint: None,
            path: "/".to_owned(),
            creates_path: false,
        };
        let loaded = load_key(&options, &Place::new("sftp:u@h", None));
        if let Err(error) = &loaded {
            assert_eq!(error.hints().len(), 1, "{error}");
            let told = format!("{error} {error:?} {:?} {options:?}", error.hints());
            assert!(!told.contains(PASSPHRASE), "a passphrase is never told: {told}");
        }
        loaded
    }
}

#[test]
fn keys_of_every_kind_open_with_and_without_a_passphrase() {
    let keys = Keys::new();
    let kinds: [&[&str]; 5] = [
        &["-t", "ed25519"],
        &["-t", "ecdsa", "-b", "256"],
        &["-t", "ecdsa", "-b", "521"],
        &["-t", "rsa", "-b", "2048"],
        &["-t", "rsa", "-b", "2048", "-m", "PEM"],
    ];
    for (number, kind) in kinds.into_iter().enumerate() {
        for passphrase in ["", PASSPHRASE] {
            let path = keys.make(&format!("{number}-{}", passphrase.len()), passphrase, kind);
            let given = Some(passphrase).filter(|passphrase| !passphrase.is_empty());
            let key = keys.load(&path, given).unwrap_or_else(|error| panic!("{kind:?} {given:?}: {error}"));
            let public = std::fs::read_to_string(path.with_extension("pub")).unwrap();
            assert!(public.contains(&key.public_key().to_openssh().unwrap()), "{kind:?}");
        }
    }
}

#[test]
fn an_encrypted_key_without_its_passphrase_says_so_and_names_the_setting() {
    let keys = Keys::new();
    for more in
        [&["-t", "ed25519"][..], &["-t", "rsa", "-b", "2048", "-m", "PEM"], &["-t", "ecdsa", "-m", "PKCS8"]]
    {
        let path = keys.make(more[more.len() - 1], PASSPHRASE, more);
        let missing = keys.load(&path, None).unwrap_err();
        assert!(missing.to_string().contains("is encrypted, and no passphrase is set"), "{missing}");
        assert!(missing.hints()[0].contains("private-key-passphrase"));
        let wrong = keys.load(&path, Some("wrong horse")).unwrap_err();
        assert!(wrong.to_string().contains("private-key-passphrase does not open"), "{more:?}: {wrong}");
        assert_eq!((missing.code(), wrong.code()), (ErrorCode::Crypto, ErrorCode::Crypto));
    }
}

#[test]
fn a_key_that_others_can_read_is_refused_with_the_command_that_closes_it() {
    let keys = Keys::new();
    let path = keys.make("open", "", &["-t", "ed25519"]);
    for mode in [0o640, 0o604, 0o644] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let refused = keys.load(&path, None).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::Access, "{refused}");
        assert_eq!(refused.hints(), [format!("chmod 600 {}", path.display())]);
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
    keys.load(&path, None).unwrap();
}

#[test]
fn what_is_no_private_key_or_not_there_is_told_apart() {
    let keys = Keys::new();
    let path = keys.make("key", "", &["-t", "ed25519"]);
    let public = path.with_extension("pub");
    std::fs::set_permissions(&public, std::fs::Permissions::from_mode(0o600)).unwrap();
    let refused = keys.load(&public, None).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::FileInvalid, "{refused}");
    assert!(refused.hints()[0].contains("not the .pub file"));
    let missing = keys.load(&keys.directory.path().join("none"), None).unwrap_err();
    assert_eq!(missing.code(), ErrorCode::FileOpen, "{missing}");
}
