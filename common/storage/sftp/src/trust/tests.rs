#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use super::*;

const ONE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINHvEDnrFjD6ICUfwu50p2Lfn0RglnbwwS5KsmMF+a26";
const TWO: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPKHDqN6PcCjkH1OcTbncUxhkOBxWifJrmqXoaRxg2A6";
const RSA: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQCOJZCrK9dJXURjmT0Pbwm2YvLeCZVfRjmQWf3EXgZdJbbASSnoy3DJbQzX2s5INUU+1FVmTTkKl76QFuZrrjrLI+V+DnpoVsyb+8JfPaWTzymm3l10XJuqAAzwdgAtIQljaLZrlD9PLkmDSzq6lsFrw+9uFGWKlF7Q1OmBwfIEx5EOow+bSNy/aU8Sk6/+ljlVumKHc65YmKMbRPD/W3oLh7K/Ya3hYWj+ZwIzjpYjs6sJ9fp86Eqkb+dOTyhOWuJ2Cvvs+Dnw3yKOD+HIMYZdbs9qvnVN+XvEBQ6Gb8FjoI8lN+1dKx8CuXIhUAVRDLX1X/zP18EnPmDoSQaG5TwX";
/// As `ssh-keygen -l` prints them.
const ONE_PRINT: &str = "SHA256:QMGC3JryfSfc022PHIa9E7qbtdTqQIPoM/CWop4pThY";
const TWO_PRINT: &str = "SHA256:BXkPILrwSzJ7JhaXxVnrGEPIigd6kSklxfyhhUxAkJ4";
const ONE_HEX: &str = "40c182dc9af27d27dcd36d8f1c86bd13ba9bb5d4ea4083e833f096a29e294e16";
/// `[files.example]:2222` as `ssh-keygen -H` hides it.
const HASHED: &str = "|1|XZaw29Q71kf7TruJmQgw9ogEdVA=|AXiKBFKqiwDEuNcxs8iIb4VnzYo=";

fn key(line: &str) -> PublicKey {
    russh::keys::parse_public_key_base64(line.split(' ').nth(1).unwrap()).unwrap()
}

fn by_file(port: u16, text: &str) -> Trust {
    Trust::new(("files.example", port), Some(("/etc/known", text)), None).unwrap()
}

#[test]
fn a_host_is_known_by_its_name_its_port_a_pattern_or_a_hash() {
    for (port, hosts) in [
        (22, "files.example"),
        (22, "other,FILES.example,third"),
        (22, "*.example"),
        (2222, "[files.example]:2222"),
        (2222, HASHED),
        (2222, "files.example"),
    ] {
        let trust = by_file(port, &format!("# hosts\n\nother {TWO}\n{hosts} {ONE} comment\n"));
        assert_eq!(trust.judge(&key(ONE)), Ok(()), "{hosts}");
        assert!(trust.judge(&key(TWO)).is_err(), "{hosts}");
        assert_eq!(trust.attempts(), [vec![Algorithm::Ed25519]], "{hosts}");
    }
}

#[test]
fn a_host_that_is_not_in_the_file_is_refused_with_its_fingerprint_and_the_command_that_adds_it() {
    for (port, text) in [
        (22, String::new()),
        (22, format!("[files.example]:2222 {ONE}")),
        (22, format!("{HASHED} {ONE}")),
        (2223, format!("{HASHED} {ONE}")),
        (22, format!("files.example,!files.example {ONE}")),
        (22, format!("@cert-authority files.example {ONE}")),
        (22, format!("#files.example {ONE}")),
        (22, "files.example ssh-ed25519 nonsense".to_owned()),
    ] {
        let trust = by_file(port, &text);
        let refused = trust.judge(&key(ONE)).unwrap_err();
        assert!(
            refused.reason.contains(ONE_PRINT) && refused.reason.contains("/etc/known does not know"),
            "{refused:?}"
        );
        assert!(
            refused.hint.contains(&format!("ssh-keyscan -p {port} files.example >> /etc/known")),
            "{refused:?}"
        );
        assert_eq!(trust.attempts().concat().len(), 6, "any key of the server shows who it is");
    }
}

#[test]
fn a_key_that_changed_is_refused_with_its_line_and_both_fingerprints() {
    let trust = by_file(22, &format!("# first\nother {TWO}\nfiles.example {ONE}\n"));
    let refused = trust.judge(&key(TWO)).unwrap_err();
    for part in [ONE_PRINT, TWO_PRINT, "line 3 of /etc/known", "has changed"] {
        assert!(refused.reason.contains(part), "{part}: {refused:?}");
    }
    assert!(refused.hint.contains("replace line 3"), "{refused:?}");
    assert!(trust.judge(&key(RSA)).is_err(), "a key of another kind is not known either");
}

#[test]
fn a_revoked_key_is_refused_even_where_another_line_knows_it() {
    let trust = by_file(22, &format!("files.example {ONE}\n@revoked * {ONE}\nfiles.example {RSA}\n"));
    let refused = trust.judge(&key(ONE)).unwrap_err();
    assert!(refused.reason.contains("line 2 of /etc/known revokes"), "{refused:?}");
    assert_eq!(trust.judge(&key(RSA)), Ok(()));
}

#[test]
fn an_rsa_key_is_asked_for_with_signatures_of_sha_2_only() {
    let trust = by_file(22, &format!("files.example {RSA}\n"));
    let sha2 = [HashAlg::Sha512, HashAlg::Sha256].map(|hash| Algorithm::Rsa { hash: Some(hash) });
    assert_eq!(trust.attempts(), [sha2.to_vec()]);
    assert_eq!(trust.judge(&key(RSA)), Ok(()));
}

#[test]
fn a_fingerprint_may_be_written_in_base64_or_in_hexadecimal_digits() {
    let with_colons: Vec<&str> =
        ONE_HEX.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap()).collect();
    for text in [
        ONE_PRINT,
        &ONE_PRINT[7..],
        ONE_HEX,
        &ONE_HEX.to_uppercase(),
        &with_colons.join(":"),
        &format!("sha256:{ONE_HEX}"),
    ] {
        let trust = Trust::new(("h", 22), None, Some(text)).unwrap();
        assert_eq!(trust.judge(&key(ONE)), Ok(()), "{text}");
        let refused = trust.judge(&key(TWO)).unwrap_err();
        assert!(refused.reason.contains(ONE_PRINT) && refused.reason.contains(TWO_PRINT), "{refused:?}");
        assert_eq!(trust.attempts().len(), 3, "a fingerprint does not tell the kind of its key");
    }
    for text in
        ["", "SHA256:", "MD5:43:51:43:a1:b5:fc:8b:b7:0a:3a:a9:b1:0f:66:73:a8", &ONE_HEX[1..], "SHA256:%%%"]
    {
        let refused = Trust::new(("h", 22), None, Some(text)).unwrap_err();
        assert!(refused.hint.contains("ssh-keygen -lf"), "{refused:?}");
    }
}

#[test]
fn with_a_file_and_a_fingerprint_a_key_must_be_named_by_both() {
    let text = format!("h {ONE}\nh {TWO}\n");
    let trust = Trust::new(("h", 22), Some(("k", &text)), Some(ONE_PRINT)).unwrap();
    assert_eq!(trust.judge(&key(ONE)), Ok(()));
    assert!(trust.judge(&key(TWO)).is_err());
    assert!(Trust::new(("h", 22), None, None).is_err());
}
