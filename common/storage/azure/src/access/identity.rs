//! Who this machine is to Azure, and where its tokens come from.
//!
//! Three places, as Azure's own libraries look for them: a federated token that an orchestrator puts into a file (workload
//! identity), a local service that the environment names (App Service, Functions, Arc, Container Apps), and the metadata
//! service of a virtual machine.

use super::token::{Token, TokenTrouble};
use pgconvoy_core::config::{Secret, StoreTls};
use pgconvoy_storage::{IoAction, Place, http};
use reqwest::{RequestBuilder, Url};
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;
use zeroize::Zeroizing;

const RESOURCE: &str = "https://storage.azure.com/";
const SCOPE: &str = "https://storage.azure.com/.default";
const METADATA_SERVICE: &str = "http://169.254.169.254/metadata/identity/oauth2/token";
const PUBLIC_AUTHORITY: &str = "https://login.microsoftonline.com/";
/// A service on the same machine answers at once; an authority within a second.
const TIMEOUT: Duration = Duration::from_secs(15);
/// What a service may say of why it refuses, in characters.
const REASON_MAX: usize = 200;

/// What the environment says of identities; see [`Surroundings::of_process`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// `AZURE_FEDERATED_TOKEN_FILE`
    pub federated_token_file: Option<PathBuf>,
    /// `AZURE_CLIENT_ID`: the application, or which of several identities of a machine.
    pub client_id: Option<String>,
    /// `AZURE_TENANT_ID`
    pub tenant_id: Option<String>,
    /// `AZURE_AUTHORITY_HOST`
    pub authority_host: Option<String>,
    /// `IDENTITY_ENDPOINT`
    pub identity_endpoint: Option<String>,
    /// `IDENTITY_HEADER`: what proves to that service that one is on this machine.
    pub identity_header: Option<Secret>,
    /// In place of the metadata service's own address.
    pub metadata_service: Option<String>,
}

impl Surroundings {
    pub fn of_process() -> Surroundings {
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Surroundings {
            federated_token_file: text("AZURE_FEDERATED_TOKEN_FILE").map(PathBuf::from),
            client_id: text("AZURE_CLIENT_ID"),
            tenant_id: text("AZURE_TENANT_ID"),
            authority_host: text("AZURE_AUTHORITY_HOST"),
            identity_endpoint: text("IDENTITY_ENDPOINT"),
            identity_header: text("IDENTITY_HEADER").map(Secret::new),
            metadata_service: None,
        }
    }

    pub(super) fn identity(&self) -> Result<Identity, String> {
        let source = self.source()?;
        let system = StoreTls { ca_file: None, verify: true };
        let client = http::client(&system, "identity").map_err(|error| error.to_string())?;
        Ok(Identity { client, source })
    }

    fn source(&self) -> Result<Source, String> {
        if let (Some(token_file), Some(client), Some(tenant)) =
            (&self.federated_token_file, &self.client_id, &self.tenant_id)
        {
            let authority = self.authority_host.as_deref().unwrap_or(PUBLIC_AUTHORITY);
            let url = format!("{}/{tenant}/oauth2/v2.0/token", authority.trim_end_matches('/'));
            let url = parse("AZURE_AUTHORITY_HOST", &url)?;
            return Ok(Source::Workload { url, client: client.clone(), token_file: token_file.clone() });
        }
        let mut query = vec![("resource", RESOURCE.to_owned())];
        query.extend(self.client_id.iter().map(|client| ("client_id", client.clone())));
        if let (Some(endpoint), Some(header)) = (&self.identity_endpoint, &self.identity_header) {
            let url = with_query(parse("IDENTITY_ENDPOINT", endpoint)?, "2019-08-01", &query);
            return Ok(Source::LocalService { url, header: header.clone() });
        }
        let address = self.metadata_service.as_deref().unwrap_or(METADATA_SERVICE);
        Ok(Source::Machine { url: with_query(parse("metadata service", address)?, "2018-02-01", &query) })
    }
}

fn parse(name: &str, text: &str) -> Result<Url, String> {
    text.parse().map_err(|error| format!("{name} '{text}': {error}"))
}

fn with_query(mut url: Url, version: &str, query: &[(&str, String)]) -> Url {
    url.query_pairs_mut().append_pair("api-version", version).extend_pairs(query);
    url
}

enum Source {
    Workload { url: Url, client: String, token_file: PathBuf },
    LocalService { url: Url, header: Secret },
    Machine { url: Url },
}

impl Source {
    fn url(&self) -> &Url {
        match self {
            Source::Workload { url, .. } | Source::LocalService { url, .. } | Source::Machine { url } => url,
        }
    }
}

pub(super) struct Identity {
    client: reqwest::Client,
    source: Source,
}

impl Identity {
    pub(super) fn whose(&self) -> &'static str {
        match self.source {
            Source::Workload { .. } => "the workload identity of this container",
            Source::LocalService { .. } => "the managed identity of this service",
            Source::Machine { .. } => "the managed identity of this machine",
        }
    }

    async fn request(&self) -> Result<RequestBuilder, TokenTrouble> {
        Ok(match &self.source {
            Source::Workload { url, client, token_file } => {
                // Read each time: whoever puts it there replaces it before it ends.
                let assertion = tokio::fs::read_to_string(token_file).await.map(Zeroizing::new);
                let assertion = assertion.map_err(|error| {
                    TokenTrouble::Refused(format!(
                        "AZURE_FEDERATED_TOKEN_FILE {}: {error}",
                        token_file.display()
                    ))
                })?;
                let form = form(&[
                    ("grant_type", "client_credentials"),
                    ("client_id", client),
                    ("scope", SCOPE),
                    ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
                    ("client_assertion", assertion.trim()),
                ]);
                let request = self.client.post(url.clone());
                request.header("content-type", "application/x-www-form-urlencoded").body(form)
            }
            Source::LocalService { url, header } => {
                self.client.get(url.clone()).header("x-identity-header", header.expose())
            }
            Source::Machine { url } => self.client.get(url.clone()).header("metadata", "true"),
        })
    }

    pub(super) async fn fetch(&self) -> Result<Token, TokenTrouble> {
        let answer = self.request().await?.timeout(TIMEOUT).send().await;
        let answer = answer.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(|error| self.unreachable(&error))?;
        if !status.is_success() {
            let reason = format!("{} answered {}{}", self.place(), status.as_u16(), refusal(&body));
            // While a machine's identity is being set up its service answers 404 and 410, by its documentation.
            let is_passing = matches!(status.as_u16(), 404 | 408 | 410 | 429 | 500..);
            return Err(if is_passing { TokenTrouble::Away(reason) } else { TokenTrouble::Refused(reason) });
        }
        let given: Given = serde_json::from_slice(&body)
            .map_err(|_| TokenTrouble::Away(format!("{} gave no token in its answer", self.place())))?;
        let seconds = given
            .expires_in
            .seconds()
            .ok_or_else(|| TokenTrouble::Away(format!("{} did not say when its token ends", self.place())))?;
        Ok(Token { secret: Zeroizing::new(given.access_token), lifetime: Duration::from_secs(seconds) })
    }

    /// Host and port; a path may name a tenant, but a query is nobody's business.
    fn place(&self) -> String {
        let url = self.source.url();
        let port = url.port().map_or(String::new(), |port| format!(":{port}"));
        let address = format!("{}{port}", url.host_str().unwrap_or("?"));
        match self.source {
            Source::Workload { .. } => format!("the authority {address}"),
            Source::LocalService { .. } => format!("the identity service {address}"),
            Source::Machine { .. } => format!("the metadata service {address}"),
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> TokenTrouble {
        let trouble = http::unanswered(Place::new(self.place(), None), IoAction::Open, error);
        let hint = match self.source {
            Source::Machine { .. } => {
                "; key-type = \"auto\" needs a machine in Azure with a managed identity"
            }
            _ => "",
        };
        TokenTrouble::Away(format!("{trouble}{hint}"))
    }
}

/// `application/x-www-form-urlencoded`.
fn form(pairs: &[(&str, &str)]) -> String {
    let mut url: Url = "https://form/".parse().expect("a valid address");
    url.query_pairs_mut().extend_pairs(pairs);
    url.query().unwrap_or_default().to_owned()
}

#[derive(Deserialize)]
struct Given {
    access_token: String,
    expires_in: Seconds,
}

/// A number for an authority, a text for a metadata service.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(u64),
    Text(String),
}

impl Seconds {
    fn seconds(&self) -> Option<u64> {
        match self {
            Seconds::Number(seconds) => Some(*seconds),
            Seconds::Text(text) => text.trim().parse().ok(),
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Refusal {
    error: String,
    error_description: String,
}

/// ` (invalid_request: Identity not found)`, the first line only: further ones are numbers of requests.
fn refusal(body: &[u8]) -> String {
    let said: Refusal = serde_json::from_slice(body).unwrap_or_default();
    let line = said.error_description.lines().next().unwrap_or_default();
    match (said.error.as_str(), line) {
        ("", "") => String::new(),
        (error, "") => format!(" ({error})"),
        (error, line) => format!(" ({error}: {})", line.chars().take(REASON_MAX).collect::<String>()),
    }
}

#[cfg(test)]
mod tests;
