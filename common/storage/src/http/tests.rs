#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::*;
use pgconvoy_core::failure::{Classify, Retry};
use std::io::Write;
use std::sync::Arc;

fn at() -> Place {
    Place::new("s3:bucket", None)
}

fn with_file(text: &str) -> (tempfile::NamedTempFile, StoreTls) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let tls = StoreTls { ca_file: Some(file.path().to_str().unwrap().to_owned()), verify: true };
    (file, tls)
}

#[test]
fn each_status_has_a_class_that_says_whether_to_try_again() {
    use Retry::{IsFutile, MayHelp};
    let table = [
        (301, IsFutile, "unable to write s3:bucket: it answered 301 (Code: words)"),
        (400, IsFutile, "unable to write s3:bucket: it answered 400 (Code: words)"),
        (401, IsFutile, "unable to write s3:bucket: permission denied: it answered 401 (Code: words)"),
        (403, IsFutile, "unable to write s3:bucket: permission denied: it answered 403 (Code: words)"),
        (404, IsFutile, "unable to write s3:bucket: it answered 404 (Code: words)"),
        (410, IsFutile, "unable to write s3:bucket: it answered 410 (Code: words)"),
        (408, MayHelp, "s3:bucket did not answer in time: it answered 408 (Code: words)"),
        (429, MayHelp, "s3:bucket asks for patience: it answered 429 (Code: words)"),
        (500, MayHelp, "s3:bucket is not available: it answered 500 (Code: words)"),
        (501, IsFutile, "s3:bucket: it answered 501 (Code: words)"),
        (502, MayHelp, "s3:bucket is not available: it answered 502 (Code: words)"),
        (503, MayHelp, "s3:bucket asks for patience: it answered 503 (Code: words)"),
        (507, IsFutile, "unable to write s3:bucket: no space is left"),
    ];
    for (status, retry, text) in table {
        let refusal = Refusal { status, code: "Code", message: "words", retry_after: None };
        let error = refused(at(), IoAction::Write, refusal);
        assert_eq!((error.retry(), error.to_string().as_str()), (retry, text));
        // Whoever has to mend something is sent to the settings, and not to a disk.
        let hints = error.hints().concat();
        assert!(!hints.contains("kernel") && !error.is_not_found(), "{error}: {hints}");
        let is_refused = matches!(error, StorageError::Refused { .. });
        assert!(!is_refused || hints.contains("endpoint"), "{error}: {hints}");
    }
}

#[test]
fn only_seconds_are_taken_as_a_wait() {
    assert_eq!(retry_after(Some(" 7 ")), Some(Duration::from_secs(7)));
    assert_eq!(retry_after(Some("99999999999")), Some(RETRY_AFTER_MAX));
    for odd in [None, Some(""), Some("-1"), Some("soon"), Some("Fri, 31 Dec 1999 23:59:59 GMT")] {
        assert_eq!(retry_after(odd), None);
    }
}

#[test]
fn a_ca_file_that_cannot_serve_is_named() {
    let missing = StoreTls { ca_file: Some("/no/such/file".to_owned()), verify: true };
    let error = client_config(&missing, "s3:bucket").unwrap_err();
    assert!(error.hints().concat().contains("PEM"), "{:?}", error.hints());
    let error = error.to_string();
    assert!(error.starts_with("unable to use s3:bucket: ca-file /no/such/file: "), "{error}");
    let (_file, empty) = with_file("nothing\n");
    let error = client_config(&empty, "s3:bucket").unwrap_err().to_string();
    assert!(error.ends_with("it holds no certificate"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_away_is_an_error_without_the_query() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    drop(socket);
    let tls = StoreTls { ca_file: None, verify: false };
    let client = client(&tls, "s3:bucket").unwrap();
    let sent = client.get(format!("http://127.0.0.1:{port}/a?sig=secret")).send().await.unwrap_err();
    let error = unanswered(at(), IoAction::Read, &sent);
    assert_eq!(error.retry(), Retry::MayHelp);
    let text = error.to_string();
    assert!(text.starts_with("s3:bucket is not available: ") && !text.contains("secret"), "{text}");
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_no_matter_of_patience() {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let address = serve_tls(&own).await;
    let ask = async |tls: StoreTls| {
        let client = client(&tls, "s3:bucket").unwrap();
        client.get(format!("https://localhost:{}/?sig=secret", address.port())).send().await
    };
    let (_other_file, stranger) = with_file(&other.cert.pem());
    let sent = ask(stranger).await.unwrap_err();
    let error = unanswered(at(), IoAction::Open, &sent);
    assert!(error.retry() == Retry::IsFutile && error.hints().concat().contains("ca-file"), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
    let (_own_file, known) = with_file(&own.cert.pem());
    assert_eq!(ask(known).await.unwrap().status(), 204);
    assert_eq!(ask(StoreTls { ca_file: None, verify: false }).await.unwrap().status(), 204);
}

/// This program once more, on a system that knows no authorities.
#[test]
fn who_asks_nobody_by_tls_needs_no_authorities() {
    const INSIDE: &str = "PGCONVOY_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        return tokio::runtime::Runtime::new().unwrap().block_on(ask_without_authorities());
    }
    let again = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "http::tests::who_asks_nobody_by_tls_needs_no_authorities"])
        .env(INSIDE, "1")
        .env("SSL_CERT_FILE", "/no/such/file")
        .env_remove("SSL_CERT_DIR")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&again.stdout);
    assert!(
        again.status.success() && told.contains("1 passed"),
        "{told}{}",
        String::from_utf8_lossy(&again.stderr)
    );
}

async fn ask_without_authorities() {
    let tls = StoreTls { ca_file: None, verify: true };
    let client = client(&tls, "s3:bucket").unwrap();
    let plain =
        crate::scripted::Server::start(|_, _| crate::scripted::Answer::new("204 No Content", "")).await;
    assert_eq!(client.get(plain.url()).send().await.unwrap().status(), 204);
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let address = serve_tls(&own).await;
    let sent = client.get(format!("https://localhost:{}/", address.port())).send().await.unwrap_err();
    let error = unanswered(at(), IoAction::Open, &sent);
    assert!(error.to_string().contains("this system has no certificate authorities"), "{error}");
    assert!(error.hints().concat().contains("ca-file"), "{:?}", error.hints());
}

#[tokio::test]
async fn the_systems_authorities_vouch_for_no_stranger() {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let address = serve_tls(&own).await;
    let client = client(&StoreTls { ca_file: None, verify: true }, "s3:bucket").unwrap();
    let sent = client.get(format!("https://localhost:{}/", address.port())).send().await.unwrap_err();
    let error = unanswered(at(), IoAction::Open, &sent);
    assert!(matches!(error, StorageError::Refused { .. }), "{error}");
    assert!(!error.to_string().contains("no certificate authorities"), "{error}");
}

/// Answers every request with 204.
async fn serve_tls(certified: &rcgen::CertifiedKey<rcgen::KeyPair>) -> std::net::SocketAddr {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(mut socket) = acceptor.accept(socket).await else { continue };
            let mut head = [0; 4096];
            if socket.read(&mut head).await.is_ok() {
                let _ = socket.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
                let _ = socket.shutdown().await;
            }
        }
    });
    address
}
