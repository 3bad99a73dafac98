//! Tokens of an identity: fetched once, kept, renewed before they end.

use super::identity::Identity;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use zeroize::Zeroizing;

/// The longest time before its end that a token is renewed: outlasts any single request.
const RENEWAL_MAX: Duration = Duration::from_secs(300);
/// One that lives shorter is renewed in the last part of its life, so that it is used at all.
const RENEWAL_PART: u32 = 4;

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenTrouble {
    /// Whoever gives out tokens does not answer, or not now.
    #[error("{0}")]
    Away(String),
    /// It refuses, and will until somebody changes something.
    #[error("{0}")]
    Refused(String),
}

/// What an identity service gave out.
pub(crate) struct Token {
    pub(crate) secret: Zeroizing<String>,
    pub(crate) lifetime: Duration,
}

struct Kept {
    bearer: Zeroizing<String>,
    renew_at: Instant,
    ends_at: Instant,
}

pub(crate) struct Tokens {
    identity: Identity,
    kept: Mutex<Option<Kept>>,
    /// One at a time asks for a new one.
    asking: tokio::sync::Mutex<()>,
}

impl Tokens {
    pub(super) fn new(identity: Identity) -> Tokens {
        Tokens { identity, kept: Mutex::new(None), asking: tokio::sync::Mutex::new(()) }
    }

    pub(crate) fn whose(&self) -> &'static str {
        self.identity.whose()
    }

    /// `Bearer ...`, of a token that is valid for a while. One that could not be renewed is used to its end.
    pub(crate) async fn bearer(&self) -> Result<String, TokenTrouble> {
        if let Some(fresh) = self.kept_until(|kept| kept.renew_at) {
            return Ok(fresh);
        }
        let _turn = self.asking.lock().await;
        if let Some(fresh) = self.kept_until(|kept| kept.renew_at) {
            return Ok(fresh);
        }
        // From before the request: its lifetime began somewhere during it.
        let begun = Instant::now();
        match self.identity.fetch().await {
            Ok(token) => {
                let kept = keep(&token, begun);
                let bearer = (*kept.bearer).clone();
                *self.lock() = Some(kept);
                Ok(bearer)
            }
            Err(trouble) => match self.kept_until(|kept| kept.ends_at) {
                Some(old) => {
                    tracing::warn!(%trouble, "a token could not be renewed, the old one is used on");
                    Ok(old)
                }
                None => Err(trouble),
            },
        }
    }

    pub(crate) fn forget(&self) {
        *self.lock() = None;
    }

    fn kept_until(&self, end: impl Fn(&Kept) -> Instant) -> Option<String> {
        let kept = self.lock();
        kept.as_ref().filter(|kept| Instant::now() < end(kept)).map(|kept| (*kept.bearer).clone())
    }

    /// Every change is one assignment.
    fn lock(&self) -> MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keep(token: &Token, begun: Instant) -> Kept {
    // A lifetime beyond the clock's range is as good as a day.
    let ends_at = begun.checked_add(token.lifetime).unwrap_or(begun + Duration::from_secs(86_400));
    let margin = RENEWAL_MAX.min(token.lifetime / RENEWAL_PART);
    let renew_at = ends_at.checked_sub(margin).unwrap_or(ends_at);
    Kept { bearer: Zeroizing::new(format!("Bearer {}", *token.secret)), renew_at, ends_at }
}
