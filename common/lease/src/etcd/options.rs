//! How a process reaches its etcd: values, never paths; who starts the process has read the files.
//!
//! Invariants
//! 1. Either every endpoint is spoken to with TLS or none is. A CA, or a certificate of one's own, means TLS.
//! 2. No secret is ever printed.

use super::verdict::with_causes;
use crate::error::LeaseError;
use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use std::fmt;
use std::time::Duration;

/// On a local network a connection takes milliseconds; this covers one lost packet and its repetition.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How often an idle connection is tried. etcd closes a connection that is tried more often than every five seconds.
const PING_INTERVAL: Duration = Duration::from_secs(6);

/// A member that does not answer a ping for so long is given up, and the watches on it move to another.
const PING_TIMEOUT: Duration = Duration::from_secs(4);

#[derive(Clone, Default)]
pub struct EtcdOptions {
    /// `host:port`, or a URL. All members of the cluster, in any order.
    pub endpoints: Vec<String>,
    /// The certificates, PEM, that sign those of the servers.
    pub ca_pem: Option<Vec<u8>>,
    /// The certificate that this process shows.
    pub identity: Option<EtcdIdentity>,
    pub login: Option<EtcdLogin>,
}

#[derive(Clone)]
pub struct EtcdIdentity {
    pub certificate_pem: Vec<u8>,
    pub key_pem: Vec<u8>,
}

#[derive(Clone)]
pub struct EtcdLogin {
    pub user: String,
    pub password: String,
}

impl fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdOptions")
            .field("endpoints", &self.endpoints)
            .field("tls", &self.uses_tls())
            .field("user", &self.login.as_ref().map(|login| login.user.as_str()))
            .finish_non_exhaustive()
    }
}

impl EtcdOptions {
    fn uses_tls(&self) -> bool {
        self.ca_pem.is_some() || self.identity.is_some()
    }

    /// The endpoints as URLs.
    pub(super) fn urls(&self) -> Result<Vec<String>, LeaseError> {
        if self.endpoints.is_empty() {
            return refuse("no etcd endpoint is given");
        }
        self.endpoints.iter().map(|endpoint| self.url(endpoint.trim())).collect()
    }

    fn url(&self, endpoint: &str) -> Result<String, LeaseError> {
        let (scheme, host) = match endpoint.split_once("://") {
            None => (if self.uses_tls() { "https" } else { "http" }, endpoint),
            Some((scheme @ ("http" | "https"), host)) => (scheme, host),
            Some((scheme, _)) => {
                return refuse(format!("endpoint '{endpoint}': '{scheme}' is not a way to etcd"));
            }
        };
        let host = host.trim_end_matches('/');
        let port = host.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none() || host.contains(['/', ' ', '@']) {
            return refuse(format!("endpoint '{endpoint}' is not of the form host:port"));
        }
        if scheme == "https" && self.ca_pem.is_none() {
            return refuse(format!("endpoint '{endpoint}' is to be reached with TLS, and no CA is given"));
        }
        if scheme == "http" && self.uses_tls() {
            return refuse(format!("endpoint '{endpoint}' is without TLS, and certificates are given"));
        }
        Ok(format!("{scheme}://{host}"))
    }

    pub(super) fn connect_options(&self) -> Result<ConnectOptions, LeaseError> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
            .with_tcp_keepalive(PING_INTERVAL)
            // A member that is cut off from the others says so, instead of showing an old state or being silent.
            .with_require_leader(true);
        if self.uses_tls() {
            options = options.with_tls(self.tls()?);
        }
        Ok(options)
    }

    fn tls(&self) -> Result<TlsOptions, LeaseError> {
        let mut tls = TlsOptions::new();
        if let Some(pem) = &self.ca_pem {
            check_pem("CA", pem, "CERTIFICATE")?;
            tls = tls.ca_certificate(Certificate::from_pem(pem));
        }
        if let Some(identity) = &self.identity {
            check_pem("client certificate", &identity.certificate_pem, "CERTIFICATE")?;
            check_pem("client key", &identity.key_pem, "PRIVATE KEY")?;
            tls = tls.identity(Identity::from_pem(&identity.certificate_pem, &identity.key_pem));
        }
        Ok(tls)
    }
}

/// An empty or foreign file would be taken for "no certificates", and every connection fail for another reason.
fn check_pem(what: &str, pem: &[u8], kind: &str) -> Result<(), LeaseError> {
    let text = String::from_utf8_lossy(pem);
    if text.contains("-----BEGIN ") && text.contains(&format!("{kind}-----")) {
        return Ok(());
    }
    refuse(format!("the {what} is no PEM file with a {}", kind.to_lowercase()))
}

/// A client that cannot be made from these options.
pub(super) fn unfit(error: &etcd_client::Error) -> LeaseError {
    LeaseError::Options { reason: with_causes(error) }
}

fn refuse<T>(reason: impl Into<String>) -> Result<T, LeaseError> {
    Err(LeaseError::Options { reason: reason.into() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
    use super::*;

    fn plain(endpoints: &[&str]) -> EtcdOptions {
        EtcdOptions {
            endpoints: endpoints.iter().map(|&one| one.to_owned()).collect(),
            ..EtcdOptions::default()
        }
    }

    #[test]
    fn endpoints_become_urls_of_one_scheme() {
        let options = plain(&["a:2379", "http://[::1]:2379/"]);
        assert_eq!(options.urls().unwrap(), ["http://a:2379", "http://[::1]:2379"]);
        let pem = b"-----BEGIN CERTIFICATE-----".to_vec();
        let secure = EtcdOptions { ca_pem: Some(pem), ..plain(&["a:2379", "https://b:2379"]) };
        assert_eq!(secure.urls().unwrap(), ["https://a:2379", "https://b:2379"]);
        let mixed = EtcdOptions { endpoints: vec!["http://a:2379".to_owned()], ..secure };
        assert!(mixed.urls().is_err());
    }

    #[test]
    fn endpoints_that_lead_nowhere_are_refused_before_anything_is_sent() {
        for bad in ["", "a", "a:b", "ftp://a:1", "https://a:1", "http://a:1/path", "user@a:1"] {
            assert!(matches!(plain(&[bad]).urls(), Err(LeaseError::Options { .. })), "{bad:?}");
        }
        assert!(plain(&[]).urls().is_err());
    }

    #[test]
    fn files_that_are_no_certificates_are_refused_and_secrets_are_not_printed() {
        let login = EtcdLogin { user: "pgconvoy".to_owned(), password: "hunter2".to_owned() };
        let options = EtcdOptions { ca_pem: Some(Vec::new()), login: Some(login), ..plain(&["a:1"]) };
        assert!(matches!(options.connect_options(), Err(LeaseError::Options { .. })));
        let shown = format!("{options:?}");
        assert!(shown.contains("pgconvoy") && !shown.contains("hunter2"), "{shown}");
    }
}
