//! The API of a fleet as a program asks it: HTTPS, the fleet's own authority, a token.

use super::{Context, Json, Result, limits};
use pgconvoy_transport::pki::{Revoked, TrustedAuthority};
use pgconvoy_transport::tls::https_client_config;
use pgconvoy_transport::{Admission, Role};
use std::path::Path;

/// `GET /api/v1/<path>` of the coordinator at that address.
pub fn get(address: &str, authority: &Path, token: &Path, path: &str) -> Result<Json> {
    let trusted = TrustedAuthority::from_pem(&std::fs::read_to_string(authority)?)?;
    let tls = https_client_config(&trusted, Admission::of([Role::Coordinator]), &Revoked::default());
    let token = std::fs::read_to_string(token)?;
    let asking = async {
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy();
        let request = client.timeout(limits::SOON).build()?.get(format!("{address}/api/v1/{path}"));
        let answer = request.header("authorization", format!("Bearer {}", token.trim())).send().await?;
        answer.error_for_status()?.bytes().await
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    serde_json::from_slice(&runtime.block_on(asking)?).context("JSON")
}
