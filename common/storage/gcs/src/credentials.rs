//! Whose requests these are: a header for each request, from one of three sources.
//!
//! The same [`Bearer`] serves the SDK's requests and our own. Tokens are kept until shortly before they expire and made
//! anew by whoever asks then; one that the store refuses is made anew at once.
//!
//! Invariant: a token or a key never reaches an error, a log or a `Debug` form.

mod auto;
mod file;
mod service;

use auto::Auto;
use file::TokenFile;
use google_cloud_auth::credentials::{CacheableResource, CredentialsProvider, EntityTag};
use google_cloud_auth::errors::CredentialsError;
use http::header::AUTHORIZATION;
use http::{Extensions, HeaderMap, HeaderValue};
use pgconvoy_core::config::{GcsConfig, GcsKeyType};
use pgconvoy_core::failure::ErrorCode;
use pgconvoy_storage::{Place, StorageError};
use service::Service;
use std::sync::Arc;

/// Objects may be read, written and deleted; nothing else is asked for.
const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_write";

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no access token: {reason}")]
pub(crate) struct TokenError {
    pub(crate) may_help: bool,
    pub(crate) reason: String,
    pub(crate) hint: &'static str,
}

impl TokenError {
    fn passing(reason: String) -> TokenError {
        TokenError { may_help: true, reason, hint: "" }
    }

    fn lasting(reason: String, hint: &'static str) -> TokenError {
        TokenError { may_help: false, reason, hint }
    }

    pub(crate) fn at(self, at: Place) -> StorageError {
        let reason = self.to_string();
        if self.may_help {
            return StorageError::Unavailable { at, reason };
        }
        StorageError::unusable(at, ErrorCode::Access, reason, self.hint)
    }
}

/// A clone is the same source, with the same token.
#[derive(Debug, Clone)]
pub(crate) struct Bearer(Arc<Source>);

#[derive(Debug)]
enum Source {
    Service(Service),
    File(TokenFile),
    Auto(Auto),
}

impl Bearer {
    pub(crate) fn new(config: &GcsConfig, http: &reqwest::Client) -> Result<Bearer, TokenError> {
        let key_file = config.key_file.clone().unwrap_or_default();
        let source = match config.key_type {
            GcsKeyType::Service => Source::Service(Service::new(key_file, http.clone())?),
            GcsKeyType::Token => Source::File(TokenFile::new(key_file)),
            GcsKeyType::Auto => Source::Auto(Auto::default()),
        };
        Ok(Bearer(Arc::new(source)))
    }

    /// What a request bears. Waits for a new token where the last one is about to expire.
    pub(crate) async fn headers(&self) -> Result<HeaderMap, TokenError> {
        match &*self.0 {
            Source::Service(service) => service.headers().await,
            Source::File(file) => file.headers().await,
            Source::Auto(auto) => auto.headers().await,
        }
    }

    /// After the store refused what a request bore: whether the next one can bear another. Many may learn the same at a time:
    /// one that was got meanwhile stays.
    pub(crate) async fn forget(&self, refused: &HeaderMap) -> bool {
        match &*self.0 {
            Source::Service(service) => service.forget(refused),
            Source::File(file) => return file.headers().await.is_ok_and(|current| current != *refused),
            Source::Auto(auto) => auto.forget(refused).await,
        }
        true
    }
}

/// For the SDK.
impl CredentialsProvider for Bearer {
    async fn headers(&self, _: Extensions) -> Result<CacheableResource<HeaderMap>, CredentialsError> {
        let headers = Bearer::headers(self).await;
        let data = headers.map_err(|error| CredentialsError::from_source(error.may_help, error))?;
        Ok(CacheableResource::New { entity_tag: EntityTag::new(), data })
    }

    /// The endpoint of the configuration says which service it is.
    async fn universe_domain(&self) -> Option<String> {
        None
    }
}

/// `Authorization: Bearer ..`, marked as sensitive.
fn authorization(token: &str) -> Result<HeaderMap, TokenError> {
    let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {token}")) else {
        return Err(TokenError::lasting(
            "it holds characters that no token has".to_owned(),
            "write the token alone, on one line",
        ));
    };
    value.set_sensitive(true);
    Ok(HeaderMap::from_iter([(AUTHORIZATION, value)]))
}
