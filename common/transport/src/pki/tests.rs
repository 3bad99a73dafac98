#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::authority::{AUTHORITY_VALIDITY, CLOCK_SKEW, MEMBER_VALIDITY};
use super::*;
use crate::identity::Role;
use pgconvoy_core::failure::Classify;
use pgconvoy_core::units::Timestamp;
use std::time::Duration;

/// 2026-11-22T10:30:00Z.
const NOW: Timestamp = Timestamp::from_seconds(1_795_343_400);

fn later(seconds: u64) -> Timestamp {
    Timestamp::from_seconds(NOW.seconds() + i64::try_from(seconds).unwrap())
}

fn authority(fleet: &str) -> Authority {
    Authority::create(&fleet.parse().unwrap(), NOW).unwrap()
}

fn request(role: Role, name: &str) -> IssueRequest {
    IssueRequest { role, name: name.parse().unwrap(), sans: Vec::new(), validity: MEMBER_VALIDITY }
}

fn credentials(authority: &Authority, issued: &IssuedCert, now: Timestamp) -> Result<Credentials, PkiError> {
    Credentials::from_pem(authority.cert_pem(), &issued.cert_pem, &issued.key_pem, now)
}

#[test]
fn a_certificate_says_whom_it_was_issued_to() {
    let authority = authority("prod");
    for role in Role::ALL {
        let issued = authority.issue(&request(role, "db1.example"), NOW).unwrap();
        let facts = CertificateFacts::from_pem(&issued.cert_pem).unwrap();
        assert_eq!(facts.member.to_string(), format!("pgconvoy://prod/{role}/db1.example"));
        assert_eq!(facts.serial, issued.serial);
        assert_eq!(facts.not_after, later(MEMBER_VALIDITY.as_secs()));
        assert_eq!(facts.not_before.seconds(), NOW.seconds() - i64::try_from(CLOCK_SKEW.as_secs()).unwrap());
        let credentials = credentials(&authority, &issued, NOW).unwrap();
        assert_eq!(credentials.member(), &facts.member);
        assert_eq!(credentials.authority().fleet().as_str(), "prod");
    }
}

#[test]
fn an_authority_reads_back_from_its_two_files_and_goes_on_issuing() {
    let first = authority("prod");
    let again = Authority::load(first.cert_pem(), &first.key_pem()).unwrap();
    assert_eq!(again.fleet(), first.fleet());
    let issued = again.issue(&request(Role::Worker, "db1"), NOW).unwrap();
    credentials(&first, &issued, NOW).unwrap();
    let other = authority("prod");
    assert_eq!(Authority::load(first.cert_pem(), &other.key_pem()).err(), Some(PkiError::KeyMismatch));
    assert!(matches!(
        Authority::load(&issued.cert_pem, &issued.key_pem),
        Err(PkiError::Unreadable { what: "the authority's certificate", .. })
    ));
}

#[test]
fn host_names_and_addresses_come_from_the_request_and_a_coordinator_is_always_at_home() {
    let authority = authority("prod");
    let mut wanted = request(Role::Coordinator, "c-1");
    wanted.sans = ["backup.example.org", "10.1.2.3", "fd00::1", "localhost"].map(str::to_owned).to_vec();
    let issued = authority.issue(&wanted, NOW).unwrap();
    let hosts = CertificateFacts::from_pem(&issued.cert_pem).unwrap().hosts;
    assert_eq!(hosts, ["backup.example.org", "10.1.2.3", "fd00::1", "localhost", "127.0.0.1", "::1"]);
    let worker = authority.issue(&request(Role::Worker, "w-1"), NOW).unwrap();
    assert!(CertificateFacts::from_pem(&worker.cert_pem).unwrap().hosts.is_empty());
    wanted.sans = vec!["no host name".to_owned()];
    let error = authority.issue(&wanted, NOW).err().unwrap();
    assert_eq!(
        error.to_string(),
        "cannot issue a certificate: 'no host name' is neither a host name nor an address"
    );
}

#[test]
fn no_certificate_outlives_its_authority() {
    let authority = authority("prod");
    let almost_over = later(AUTHORITY_VALIDITY.as_secs() - 60);
    let issued = authority.issue(&request(Role::Worker, "db1"), almost_over).unwrap();
    assert_eq!(issued.not_after, later(AUTHORITY_VALIDITY.as_secs()));
    assert!(authority.issue(&request(Role::Worker, "db1"), later(AUTHORITY_VALIDITY.as_secs() + 1)).is_err());
    let mut endless = request(Role::Worker, "db1");
    endless.validity = Duration::MAX;
    assert!(matches!(authority.issue(&endless, NOW), Err(PkiError::Issue { .. })));
}

#[test]
fn credentials_that_peers_would_refuse_are_refused_at_home() {
    let (ours, theirs) = (authority("prod"), authority("test"));
    let namesake = authority("prod");
    let issued = ours.issue(&request(Role::Worker, "db1"), NOW).unwrap();
    let other = ours.issue(&request(Role::Worker, "db2"), NOW).unwrap();
    let text = |outcome: Result<Credentials, PkiError>| outcome.err().unwrap().to_string();
    assert_eq!(
        text(credentials(&theirs, &issued, NOW)),
        "the certificate of worker db1 is not valid: it is of fleet prod, the authority is that of test"
    );
    assert_eq!(
        text(credentials(&namesake, &issued, NOW)),
        "the certificate of worker db1 is not valid: the certificate was not issued by this fleet's authority"
    );
    let expired = credentials(&ours, &issued, later(MEMBER_VALIDITY.as_secs() + 1));
    assert_eq!(
        text(expired),
        "the certificate of worker db1 is not valid: the certificate expired at 2028-11-21T10:30:00.000Z"
    );
    let mixed = Credentials::from_pem(ours.cert_pem(), &issued.cert_pem, &other.key_pem, NOW);
    assert_eq!(mixed.err(), Some(PkiError::KeyMismatch));
    assert!(matches!(
        Credentials::from_pem(ours.cert_pem(), ours.cert_pem(), &ours.key_pem(), NOW).err(),
        Some(PkiError::NotAMember { .. })
    ));
}

#[test]
fn several_authorities_of_one_fleet_are_trusted_while_it_changes_them() {
    let (old, new, foreign) = (authority("prod"), authority("prod"), authority("test"));
    let both = format!("{}{}", old.cert_pem(), new.cert_pem());
    for authority in [&old, &new] {
        let issued = authority.issue(&request(Role::Client, "me"), NOW).unwrap();
        Credentials::from_pem(&both, &issued.cert_pem, &issued.key_pem, NOW).unwrap();
    }
    let mixed = format!("{}{}", old.cert_pem(), foreign.cert_pem());
    assert!(TrustedAuthority::from_pem(&mixed).is_err());
    assert!(TrustedAuthority::from_pem("").is_err());
}

#[test]
fn texts_that_are_no_certificates_are_clear_errors() {
    for text in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let error = CertificateFacts::from_pem(text).unwrap_err();
        assert!(error.to_string().starts_with("cannot read the certificate: "), "{error}");
    }
    let issued = authority("prod").issue(&request(Role::Client, "me"), NOW).unwrap();
    let error = Authority::load(&issued.key_pem, &issued.key_pem).err().unwrap();
    assert!(!error.to_string().contains("PRIVATE"), "a key is not quoted");
    assert!(error.hints().is_empty());
}

#[test]
fn a_serial_reads_as_it_prints_and_as_openssl_prints_it() {
    let serial: Serial = "0a1bff".parse().unwrap();
    assert_eq!(serial.to_string(), "0a1bff");
    assert_eq!("0A:1B:FF".parse::<Serial>().unwrap(), serial);
    assert_eq!("00:0a1bff".parse::<Serial>().unwrap(), serial);
    for text in ["", "abc", "xy", "+1", &"00".repeat(21)] {
        assert!(text.parse::<Serial>().is_err(), "{text}");
    }
}

#[test]
fn only_the_uri_of_a_member_is_a_member() {
    let member: Member = "pgconvoy://prod/worker/db1".parse().unwrap();
    assert_eq!(member.identity.worker().unwrap().as_str(), "db1");
    for uri in [
        "https://prod/worker/db1",
        "pgconvoy://prod/worker",
        "pgconvoy://prod/worker/db1/x",
        "pgconvoy://prod/king/db1",
        "pgconvoy://prod/worker/",
        "pgconvoy:///worker/db1",
        "pgconvoy://prod/worker/db1?x",
    ] {
        assert!(matches!(uri.parse::<Member>(), Err(PkiError::NotAMember { .. })), "{uri}");
    }
}

#[test]
fn the_set_of_revoked_certificates_is_one_for_all_its_handles() {
    let revoked = Revoked::default();
    let (one, two): (Serial, Serial) = ("01".parse().unwrap(), "02".parse().unwrap());
    revoked.clone().add(one.clone());
    assert!(revoked.contains(&one) && !revoked.contains(&two));
    revoked.replace([two.clone()].into());
    assert!(!revoked.contains(&one) && revoked.contains(&two));
}
