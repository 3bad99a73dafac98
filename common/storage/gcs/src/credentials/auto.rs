//! `key-type = "auto"`: the machine's own identity, found as every program of Google's finds it
//! (`GOOGLE_APPLICATION_CREDENTIALS`, workload identity, the metadata server).
//!
//! The SDK's credentials renew their token in the background. They remember an error for good, so they are built anew after one.

use super::{SCOPE, TokenError};
use google_cloud_auth::credentials::{Builder, CacheableResource, Credentials};
use http::{Extensions, HeaderMap};
use std::error::Error;
use tokio::sync::Mutex;

const HINT: &str = "on a machine of Google's attach a service account; elsewhere let GOOGLE_APPLICATION_CREDENTIALS name a file with credentials";

#[derive(Debug, Default)]
pub(super) struct Auto {
    built: Mutex<Option<Credentials>>,
}

impl Auto {
    pub(super) async fn headers(&self) -> Result<HeaderMap, TokenError> {
        let credentials = self.credentials().await?;
        match credentials.headers(Extensions::new()).await {
            Ok(CacheableResource::New { data, .. }) => Ok(data),
            // Only said to those who show what they have.
            Ok(CacheableResource::NotModified) => {
                Err(TokenError::passing("the credentials gave none".to_owned()))
            }
            Err(error) => {
                self.forget().await;
                let reason = causes(&error);
                Err(match error.is_transient() {
                    true => TokenError::passing(reason),
                    false => TokenError::lasting(reason, HINT),
                })
            }
        }
    }

    pub(super) async fn forget(&self) -> bool {
        self.built.lock().await.take().is_some()
    }

    async fn credentials(&self) -> Result<Credentials, TokenError> {
        let mut built = self.built.lock().await;
        if let Some(credentials) = &*built {
            return Ok(credentials.clone());
        }
        let credentials = Builder::default().with_scopes([SCOPE]).build();
        let credentials = credentials.map_err(|error| TokenError::lasting(causes(&error), HINT))?;
        *built = Some(credentials.clone());
        Ok(credentials)
    }
}

/// The chain of causes, each once.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if !words.iter().any(|known| known.contains(&text)) {
            words.push(text);
        }
        next = error.source();
    }
    words.join(": ")
}
