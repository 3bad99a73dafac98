//! One fetch, whatever it asks, and what all of them share.

use super::metadata::Metadata;
use super::process::Process;
use super::web_identity::WebIdentity;
use super::{CredentialsFailure, NAME};
use aws_credential_types::Credentials;
use pgconvoy_storage::{IoAction, Place, http};
use serde::Deserialize;
use std::time::{Duration, SystemTime};

/// Of one whole fetch: whoever gives credentials is near.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer or a file with credentials, with room.
const ANSWER_MAX: u64 = 64 << 10;

pub(crate) enum Fetch {
    Metadata(Metadata),
    WebIdentity(WebIdentity),
    Process(Process),
}

impl Fetch {
    pub(crate) async fn fetch(&self) -> Result<Credentials, CredentialsFailure> {
        let fetch = async {
            match self {
                Fetch::Metadata(metadata) => metadata.fetch().await,
                Fetch::WebIdentity(identity) => identity.fetch().await,
                Fetch::Process(process) => process.fetch().await,
            }
        };
        let late = |_| Err(CredentialsFailure::passing("nobody gave any within 10 s"));
        tokio::time::timeout(FETCH_TIMEOUT, fetch).await.unwrap_or_else(late)
    }
}

/// What instances, containers and programs tell, in the names of each.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Told {
    access_key_id: String,
    secret_access_key: String,
    #[serde(alias = "SessionToken")]
    token: Option<String>,
    expiration: Option<String>,
}

impl Told {
    /// `whose` is who told it. A parser's message would show what it stopped at, so it is not passed on.
    pub(crate) fn parse(text: &[u8], whose: &str) -> Result<Credentials, CredentialsFailure> {
        let told: Told = serde_json::from_slice(text).map_err(|_| {
            CredentialsFailure::passing(format!("{whose} gave something else than credentials"))
        })?;
        credentials(
            &told.access_key_id,
            &told.secret_access_key,
            told.token,
            told.expiration.as_deref(),
            whose,
        )
    }
}

pub(crate) fn credentials(
    key: &str,
    secret: &str,
    token: Option<String>,
    expiration: Option<&str>,
    whose: &str,
) -> Result<Credentials, CredentialsFailure> {
    let end = match expiration {
        None => None,
        Some(text) => {
            let moment: jiff::Timestamp = text.parse().map_err(|_| {
                CredentialsFailure::passing(format!("{whose} gave credentials that end at '{text}'"))
            })?;
            Some(SystemTime::from(moment))
        }
    };
    Ok(Credentials::new(key, secret, token, end, NAME))
}

/// The body of an answer of 200.
pub(crate) async fn answer(
    request: reqwest::RequestBuilder,
    whose: &str,
) -> Result<(u16, Vec<u8>), CredentialsFailure> {
    let unreachable = |error: reqwest::Error| {
        let reason = http::unanswered(Place::new(whose, None), IoAction::Open, &error);
        CredentialsFailure::passing(reason.to_string())
    };
    let mut answer = request.send().await.map_err(unreachable)?;
    let status = answer.status().as_u16();
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
        body.extend_from_slice(&chunk);
        if u64::try_from(body.len()).is_ok_and(|length| length > ANSWER_MAX) {
            return Err(CredentialsFailure::passing(format!("{whose} does not stop talking")));
        }
    }
    Ok((status, body))
}

/// A small file, such as a token, without the spaces around it.
pub(crate) async fn text_of_file(path: &str, hint: &'static str) -> Result<String, CredentialsFailure> {
    let unreadable = |reason: String| CredentialsFailure::lasting(format!("{path}: {reason}"), hint);
    let size = tokio::fs::metadata(path).await.map_err(|error| unreadable(error.to_string()))?.len();
    if size > ANSWER_MAX {
        return Err(unreadable("it is too large for a token".to_owned()));
    }
    let text = tokio::fs::read_to_string(path).await.map_err(|error| unreadable(error.to_string()))?;
    Ok(text.trim().to_owned())
}
