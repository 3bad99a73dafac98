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
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    built: Option<Credentials>,
    /// Counts what was built, so that nobody throws away what was built after theirs.
    number: u64,
    /// What they gave last.
    given: HeaderMap,
}

impl Auto {
    pub(super) async fn headers(&self) -> Result<HeaderMap, TokenError> {
        let (number, credentials) = self.credentials().await?;
        match credentials.headers(Extensions::new()).await {
            Ok(CacheableResource::New { data, .. }) => {
                let mut state = self.state.lock().await;
                if state.number == number && state.given != data {
                    state.given = data.clone();
                }
                Ok(data)
            }
            // Only said to those who show what they have.
            Ok(CacheableResource::NotModified) => {
                Err(TokenError::passing("the credentials gave none".to_owned()))
            }
            Err(error) => {
                let mut state = self.state.lock().await;
                if state.number == number {
                    state.built = None;
                }
                drop(state);
                let reason = causes(&error);
                Err(match error.is_transient() {
                    true => TokenError::passing(reason),
                    false => TokenError::lasting(reason, HINT),
                })
            }
        }
    }

    pub(super) async fn forget(&self, refused: &HeaderMap) {
        let mut state = self.state.lock().await;
        if state.given == *refused {
            state.built = None;
        }
    }

    async fn credentials(&self) -> Result<(u64, Credentials), TokenError> {
        let mut state = self.state.lock().await;
        if let Some(credentials) = &state.built {
            return Ok((state.number, credentials.clone()));
        }
        let credentials = Builder::default().with_scopes([SCOPE]).build();
        let credentials = credentials.map_err(|error| TokenError::lasting(causes(&error), HINT))?;
        let number = state.number + 1;
        *state = State { built: Some(credentials.clone()), number, given: HeaderMap::new() };
        Ok((number, credentials))
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
