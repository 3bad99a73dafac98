//! Who the program is to the store: keys from the configuration, from the instance or container it runs in, from a web
//! identity, or from a program; got when they are needed, kept, and renewed before they end.
//!
//! Invariants
//! 1. A secret is in no message and no Debug form.
//! 2. One request for credentials is under way at a time, however many calls wait for them.
//! 3. A renewal that fails costs nothing while the old ones still hold.

mod fetch;
mod metadata;
mod process;
mod web_identity;

pub(crate) use fetch::{Fetch, text_of_file};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, Result as Provided, future};
use pgconvoy_core::config::{S3Config, S3KeyType};
use pgconvoy_storage::{IoAction, Place, StorageError, http};
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};
use tokio::sync::Mutex;

/// How long before their end credentials are renewed, at most: as long as AWS gives new ones beside the old.
const RENEWAL_MAX: Duration = Duration::from_secs(300);
/// And this share of their life, if they live shorter.
const RENEWAL_SHARE: u32 = 4;
const NAME: &str = "pgconvoy";

/// Variables of the process, or of a test.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    pub fn of_process() -> Environment {
        Environment(std::env::vars().filter(|(name, _)| name.starts_with("AWS_")).collect())
    }

    pub fn of<'a>(variables: impl IntoIterator<Item = (&'a str, String)>) -> Environment {
        Environment(variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// Why there are no credentials. Its words hold no secret.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no credentials: {reason}")]
pub struct CredentialsFailure {
    pub(crate) reason: String,
    /// None: trying again may help.
    pub(crate) hint: Option<&'static str>,
}

impl CredentialsFailure {
    pub(crate) fn passing(reason: impl Into<String>) -> CredentialsFailure {
        CredentialsFailure { reason: reason.into(), hint: None }
    }

    pub(crate) fn lasting(reason: impl Into<String>, hint: &'static str) -> CredentialsFailure {
        CredentialsFailure { reason: reason.into(), hint: Some(hint) }
    }

    pub(crate) fn at(&self, at: Place, action: IoAction) -> StorageError {
        let reason = self.to_string();
        match self.hint {
            Some(hint) => StorageError::Refused { at, action, reason, hint: hint.to_owned() },
            None => StorageError::Unavailable { at, reason },
        }
    }
}

/// Where credentials come from.
enum Kind {
    Fixed(Credentials),
    Fetched(Box<Fetch>),
}

/// Credentials for the SDK.
pub(crate) struct Source {
    kind: Kind,
    kept: Mutex<Option<Kept>>,
}

struct Kept {
    credentials: Credentials,
    renew_at: Option<SystemTime>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

impl Source {
    /// `http` is the store's client, for a token service beside the store.
    pub(crate) fn new(
        config: &S3Config,
        environment: Environment,
        http: reqwest::Client,
        store: &str,
    ) -> Result<Source, StorageError> {
        let kind =
            match config.key_type {
                S3KeyType::Shared => Kind::Fixed(fixed(config)),
                S3KeyType::Auto => {
                    // Spoken to without TLS, on addresses of the host itself.
                    let tls = pgconvoy_core::config::StoreTls { ca_file: None, verify: false };
                    let client = http::client(&tls, store)?;
                    Kind::Fetched(Box::new(Fetch::Metadata(metadata::Metadata {
                        client,
                        environment,
                        role: config.role.clone(),
                    })))
                }
                S3KeyType::WebId => Kind::Fetched(Box::new(Fetch::WebIdentity(
                    web_identity::WebIdentity::new(config, environment, http, store)?,
                ))),
                S3KeyType::Process => {
                    Kind::Fetched(Box::new(Fetch::Process(process::Process(config.process_command.clone()))))
                }
            };
        Ok(Source { kind, kept: Mutex::new(None) })
    }

    async fn current(&self) -> Result<Credentials, CredentialsFailure> {
        let fetch = match &self.kind {
            Kind::Fixed(credentials) => return Ok(credentials.clone()),
            Kind::Fetched(fetch) => fetch,
        };
        let mut kept = self.kept.lock().await;
        let now = SystemTime::now();
        if let Some(kept) = kept.as_ref()
            && kept.renew_at.is_none_or(|moment| now < moment)
        {
            return Ok(kept.credentials.clone());
        }
        match fetch.fetch().await {
            Ok(credentials) => {
                let renew_at = credentials.expiry().map(|end| renewal(now, end));
                *kept = Some(Kept { credentials: credentials.clone(), renew_at });
                Ok(credentials)
            }
            Err(failure) => {
                let now = SystemTime::now();
                let end = kept.as_ref().and_then(|old| old.credentials.expiry()).filter(|end| now < *end);
                let (Some(old), Some(end)) = (kept.as_mut(), end) else { return Err(failure) };
                tracing::warn!(%failure, "credentials are not renewed yet; the old ones still hold");
                // Not at every call: whoever should give them is in trouble.
                let left = end.duration_since(now).unwrap_or_default();
                old.renew_at = Some(now + left / RENEWAL_SHARE);
                Ok(old.credentials.clone())
            }
        }
    }
}

/// When to ask for new ones.
fn renewal(now: SystemTime, end: SystemTime) -> SystemTime {
    let life = end.duration_since(now).unwrap_or_default();
    end - (life / RENEWAL_SHARE).min(RENEWAL_MAX)
}

fn fixed(config: &S3Config) -> Credentials {
    let text = |secret: &Option<pgconvoy_core::config::Secret>| {
        secret.as_ref().map(|secret| secret.expose().to_owned())
    };
    Credentials::new(
        text(&config.key).unwrap_or_default(),
        text(&config.key_secret).unwrap_or_default(),
        text(&config.token),
        None,
        NAME,
    )
}

impl ProvideCredentials for Source {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async move {
            let current: Provided = self.current().await.map_err(CredentialsError::provider_error);
            current
        })
    }
}

#[cfg(test)]
mod tests;
