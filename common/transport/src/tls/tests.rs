#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::*;
use crate::Role;
use crate::pki::Serial;
use crate::pki::authority::{Authority, IssueRequest, MEMBER_VALIDITY};
use pgconvoy_core::units::Timestamp;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection};
use std::io::Cursor;
use std::time::SystemTime;

fn now() -> Timestamp {
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    Timestamp::from_seconds(i64::try_from(seconds).unwrap())
}

fn member(authority: &Authority, role: Role) -> Credentials {
    let name = "m-1".parse().unwrap();
    let request = IssueRequest { role, name, sans: Vec::new(), validity: MEMBER_VALIDITY };
    let issued = authority.issue(&request, now()).unwrap();
    Credentials::from_pem(authority.cert_pem(), &issued.cert_pem, &issued.key_pem, now()).unwrap()
}

/// Shakes hands over two buffers, as HTTPS would over a socket.
fn shake_hands(client: ClientConfig, server: ServerConfig) -> Result<(), rustls::Error> {
    let name = ServerName::try_from("any.name.at.all").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut there = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut there).unwrap();
        }
        server.read_tls(&mut Cursor::new(there)).unwrap();
        server.process_new_packets()?;
        let mut back = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut back).unwrap();
        }
        client.read_tls(&mut Cursor::new(back)).unwrap();
        client.process_new_packets()?;
    }
    Ok(())
}

fn ask(server: &Credentials, trusted: &Authority, revoked: &Revoked) -> Result<(), String> {
    let trusted = TrustedAuthority::from_pem(trusted.cert_pem()).unwrap();
    let client = https_client_config(&trusted, Admission::of([Role::Coordinator]), revoked);
    shake_hands(client, https_server_config(&Shown::new(server))).map_err(|error| plain_reason(&error))
}

#[test]
fn a_client_without_a_certificate_reaches_a_coordinator_by_any_name() {
    let authority = Authority::create(&"prod".parse().unwrap(), now()).unwrap();
    assert_eq!(ask(&member(&authority, Role::Coordinator), &authority, &Revoked::default()), Ok(()));
}

#[test]
fn a_client_takes_nobody_else_for_a_coordinator() {
    let authority = Authority::create(&"prod".parse().unwrap(), now()).unwrap();
    let namesake = Authority::create(&"prod".parse().unwrap(), now()).unwrap();
    let revoked = Revoked::default();
    assert_eq!(
        ask(&member(&authority, Role::Worker), &authority, &revoked),
        Err("the certificate is that of worker m-1, a coordinator is expected".to_owned())
    );
    assert_eq!(
        ask(&member(&namesake, Role::Coordinator), &authority, &revoked),
        Err("the certificate was not issued by this fleet's authority".to_owned())
    );
    let coordinator = member(&authority, Role::Coordinator);
    let serial: Serial = coordinator.facts().serial.clone();
    revoked.add(serial.clone());
    assert_eq!(
        ask(&coordinator, &authority, &revoked),
        Err(format!("the certificate of coordinator m-1 was revoked (serial {serial})"))
    );
}

#[test]
fn a_certificate_for_clients_only_serves_nobody() {
    let authority = Authority::create(&"prod".parse().unwrap(), now()).unwrap();
    let trusted = TrustedAuthority::from_pem(authority.cert_pem()).unwrap();
    let client = https_client_config(&trusted, Admission::of(Role::ALL), &Revoked::default());
    assert!(
        shake_hands(client, https_server_config(&Shown::new(&member(&authority, Role::Client)))).is_err()
    );
}
