//! Who the program is to the store: keys from the configuration, from the instance or container it runs in, from a web
//! identity, or from a program; got when they are needed, kept, and renewed before they end.
//!
//! Invariants
//! 1. A secret is in no message and no Debug form.
//! 2. Of credentials that end: one request for new ones is under way at a time, and nobody waits for it, or fails with it, while
//!    the old ones hold ([`Renewed`]).

mod fetch;
mod metadata;
mod process;
mod web_identity;

pub(crate) use fetch::{Fetch, text_of_file};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, Result as Provided, future};
use pgconvoy_core::config::{S3Config, S3KeyType};
use pgconvoy_storage::renewed::{Given, Renewed};
use pgconvoy_storage::{IoAction, Place, StorageError, http};
use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

const NAME: &str = "pgconvoy";

/// What is read of the environment. Keys are not: those belong into the configuration.
const VARIABLES: [&str; 10] = [
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AWS_ENDPOINT_URL_STS",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
];

/// Variables of the process, or of a test.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<&'static str, String>);

/// Some values are secrets.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Environment {
    /// A value that is no text is as good as none: no name or address is one.
    pub fn of_process() -> Environment {
        Environment::read(|name| std::env::var_os(name)?.into_string().ok())
    }

    pub fn of<'a>(variables: impl IntoIterator<Item = (&'a str, String)>) -> Environment {
        let variables: BTreeMap<&str, String> = variables.into_iter().collect();
        Environment::read(|name| variables.get(name).cloned())
    }

    fn read(value: impl Fn(&str) -> Option<String>) -> Environment {
        let known = VARIABLES.into_iter().filter_map(|name| Some((name, value(name)?)));
        Environment(known.collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        debug_assert!(VARIABLES.contains(&name), "{name} is not read");
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
            Some(hint) => StorageError::refused(at, action, reason, hint),
            None => StorageError::Unavailable { at, reason },
        }
    }
}

/// Where credentials come from.
enum Kind {
    Fixed(Credentials),
    Fetched(Box<Fetch>, Renewed<Credentials, CredentialsFailure>),
}

/// Credentials for the SDK.
pub(crate) struct Source(Kind);

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
        let fetch = match config.key_type {
            S3KeyType::Shared => return Ok(Source(Kind::Fixed(fixed(config)))),
            S3KeyType::Auto => {
                // Spoken to without TLS, on addresses of the host itself.
                let tls = pgconvoy_core::config::StoreTls { ca_file: None, verify: false };
                let client = http::client(&tls, store)?;
                Fetch::Metadata(metadata::Metadata { client, environment, role: config.role.clone() })
            }
            S3KeyType::WebId => {
                Fetch::WebIdentity(web_identity::WebIdentity::new(config, environment, http, store)?)
            }
            S3KeyType::Process => Fetch::Process(process::Process(config.process_command.clone())),
        };
        Ok(Source(Kind::Fetched(Box::new(fetch), Renewed::default())))
    }

    async fn current(&self) -> Result<Credentials, CredentialsFailure> {
        let (fetch, kept) = match &self.0 {
            Kind::Fixed(credentials) => return Ok(credentials.clone()),
            Kind::Fetched(fetch, kept) => (fetch, kept),
        };
        // Their end is a time of day: a host that slept finds that they ended sooner than their life told.
        let now = SystemTime::now();
        kept.forget(|credentials| credentials.expiry().is_some_and(|end| end <= now));
        let renew = async {
            let asked_at = SystemTime::now();
            Ok(given(fetch.fetch().await?, asked_at))
        };
        kept.current(renew).await
    }
}

fn given(credentials: Credentials, now: SystemTime) -> Given<Credentials> {
    let life = credentials.expiry().map(|end| end.duration_since(now).unwrap_or_default());
    Given { value: credentials, life }
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
