//! The API of a fleet as a program asks it: HTTPS, the fleet's own authority, a token.

use super::{Context, Json, Result, limits};
use pgconvoy_transport::pki::{CertificateFacts, Revoked, Serial, TrustedAuthority};
use pgconvoy_transport::tls::https_client_config;
use pgconvoy_transport::{Admission, Role};
use reqwest::Method;
use std::path::Path;

/// `GET /api/v1/<path>` of the coordinator at that address.
pub fn get(address: &str, authority: &Path, token: &Path, path: &str) -> Result<Json> {
    ask(Method::GET, address, authority, token, path)
}

/// `POST`, without a body.
pub fn post(address: &str, authority: &Path, token: &Path, path: &str) -> Result<Json> {
    ask(Method::POST, address, authority, token, path)
}

fn ask(method: Method, address: &str, authority: &Path, token: &Path, path: &str) -> Result<Json> {
    let token = std::fs::read_to_string(token)?;
    let client = client(authority)?;
    let answer = async {
        let request = client.request(method, format!("{address}/api/v1/{path}"));
        let answer = request.header("authorization", format!("Bearer {}", token.trim())).send().await?;
        answer.error_for_status()?.bytes().await
    };
    serde_json::from_slice(&block_on(answer)??).context("JSON")
}

/// Which certificate the coordinator at that address shows.
pub fn shown_certificate(address: &str, authority: &Path) -> Result<Serial> {
    let client = client(authority)?;
    let answer = block_on(async { client.get(format!("{address}/healthz")).send().await })??;
    let seen = answer.extensions().get::<reqwest::tls::TlsInfo>().context("TLS")?;
    let der = seen.peer_certificate().context("a certificate")?;
    Ok(CertificateFacts::from_der(der)?.serial)
}

/// That follows no redirect: where it leads is for the test to see. It keeps no connection: one that it opened and did not need is told
/// "408 Request Timeout" when nobody looks, which would be read as the answer to the next question.
pub fn client(authority: &Path) -> Result<reqwest::Client> {
    let trusted = TrustedAuthority::from_pem(&std::fs::read_to_string(authority)?)?;
    let tls = https_client_config(&trusted, Admission::of([Role::Coordinator]), &Revoked::default());
    let client = reqwest::Client::builder().tls_backend_preconfigured(tls).tls_info(true).no_proxy();
    let client = client.redirect(reqwest::redirect::Policy::none()).pool_max_idle_per_host(0);
    Ok(client.timeout(limits::SOON).build()?)
}

fn block_on<T>(work: impl Future<Output = T>) -> Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work))
}
