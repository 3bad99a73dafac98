//! What stores behind HTTP share: one way to a client, and one reading of what goes wrong.
//!
//! Invariants
//! 1. Whom to trust is said here once: the system's authorities, or only those of `ca-file`, or nobody's (`verify-tls =
//!    false`). The provider is passed explicitly.
//! 2. No proxy and no redirect is followed: requests are signed for one host.
//! 3. An error tells of address and cause, never of a request's head or query, where signatures are.

use crate::{IoAction, Place, Shortage, StorageError};
use pgconvoy_core::config::StoreTls;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Until the head of an answer, which comes after a body was sent over a line that may be slow, and between two pieces of it. Only a
/// backstop: the time-outs of a try and of a call are the retry policy's, which `io-timeout` makes.
const READ_TIMEOUT: Duration = Duration::from_secs(300);
/// Longer than the pauses between a worker's requests, shorter than servers keep quiet connections.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// What a server may ask for is bounded by the deadline anyway; this keeps arithmetic safe.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// A client for one store. `store` is what errors call it.
pub fn client(tls: &StoreTls, store: &str) -> Result<reqwest::Client, StorageError> {
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(client_config(tls, store)?)
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .tcp_nodelay(true)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build();
    client.map_err(|error| unusable(store, format!("no HTTP client: {error}")))
}

/// TLS as `ca-file` and `verify-tls` say.
pub fn client_config(tls: &StoreTls, store: &str) -> Result<ClientConfig, StorageError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider speaks TLS 1.2 and 1.3");
    if !tls.verify {
        return Ok(config
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_no_client_auth());
    }
    let roots = match &tls.ca_file {
        Some(path) => roots_of_file(path, store)?,
        None => system_roots(store)?,
    };
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn roots_of_file(path: &str, store: &str) -> Result<RootCertStore, StorageError> {
    let unreadable = |reason: String| unusable(store, format!("ca-file {path}: {reason}"));
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|error| unreadable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unreadable("it holds no certificate".to_owned()));
    }
    Ok(roots)
}

fn system_roots(store: &str) -> Result<RootCertStore, StorageError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let cause = found.errors.first().map_or(String::new(), |error| format!(" ({error})"));
        return Err(unusable(
            store,
            format!("this system has no certificate authorities{cause}; set ca-file"),
        ));
    }
    Ok(roots)
}

fn unusable(store: &str, reason: String) -> StorageError {
    StorageError::NotSupported { at: Place::new(store, None), reason }
}

/// Takes any certificate, as `verify-tls = false` asks; handshakes are checked against it all the same.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let schemes = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, schemes)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let schemes = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, schemes)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// An answer that is no success, as far as HTTP alone tells. A store's own code says more: sort by that first.
#[derive(Debug, Clone, Copy)]
pub struct Refusal<'a> {
    pub status: u16,
    /// The store's own word for it, `SlowDown`; empty where it has none.
    pub code: &'a str,
    pub message: &'a str,
    pub retry_after: Option<Duration>,
}

/// Sorts an answer by its status. What exists already is the caller's to tell: 409 and 412 mean other things too.
pub fn refused(at: Place, action: IoAction, refusal: Refusal<'_>) -> StorageError {
    let Refusal { status, code, message, retry_after } = refusal;
    let said = match (code, message) {
        ("", "") => String::new(),
        ("", said) | (said, "") => format!(" ({said})"),
        (code, message) => format!(" ({code}: {message})"),
    };
    let reason = format!("it answered {status}{said}");
    match status {
        401 | 403 => StorageError::Access { at, action, reason },
        404 | 410 => StorageError::NotFound { at },
        408 => StorageError::Timeout { at, reason },
        429 | 503 => StorageError::Throttled { at, reason, retry_after },
        507 => StorageError::Full { at, action, shortage: Shortage::Space },
        500.. => StorageError::Unavailable { at, reason },
        _ => StorageError::Io { at, action, reason },
    }
}

/// `Retry-After` in seconds; dates are rare, and clocks differ.
pub fn retry_after(value: Option<&str>) -> Option<Duration> {
    let seconds = value?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// A request that got no answer, or none to its end: a server that is away, a name that is unknown, a certificate that
/// nobody vouches for.
pub fn unanswered(at: Place, action: IoAction, error: &(dyn Error + 'static)) -> StorageError {
    let reason = causes(error);
    if let Some(tls) = find::<rustls::Error>(error)
        && matches!(tls, rustls::Error::InvalidCertificate(_))
    {
        return StorageError::Access { at, action, reason };
    }
    if find::<reqwest::Error>(error).is_some_and(reqwest::Error::is_timeout) {
        return StorageError::Timeout { at, reason };
    }
    StorageError::Unavailable { at, reason }
}

/// An error of this type among the causes, also where an I/O error carries it.
fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        let carried = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match carried {
            Some(carried) => Some(carried as &(dyn Error + 'static)),
            None => error.source(),
        };
    }
    None
}

/// The chain of causes, each once. An error of reqwest would name the whole address, with its query: only its causes count.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        let is_news = !words.iter().any(|known| known.contains(&text));
        if is_news && error.downcast_ref::<reqwest::Error>().is_none() {
            words.push(text);
        }
        next = error.source();
    }
    if words.is_empty() { "the request was not answered".to_owned() } else { words.join(": ") }
}

#[cfg(test)]
mod tests;
