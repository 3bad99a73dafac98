//! Tokens of an identity: fetched once, kept, renewed before they end or when the store refuses one.

use super::identity::Identity;
use pgconvoy_storage::renewed::{Given, Renewed};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use zeroize::Zeroizing;

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

pub(crate) struct Tokens {
    identity: Identity,
    kept: Renewed<Zeroizing<String>, TokenTrouble>,
    /// The store refused the last token, and took none since.
    is_doubted: AtomicBool,
}

impl Tokens {
    pub(super) fn new(identity: Identity) -> Tokens {
        Tokens { identity, kept: Renewed::default(), is_doubted: AtomicBool::new(false) }
    }

    pub(crate) fn whose(&self) -> &'static str {
        self.identity.whose()
    }

    /// `Bearer ...`, of a token that is valid for a while. One that could not be renewed is used to its end.
    pub(crate) async fn bearer(&self) -> Result<Zeroizing<String>, TokenTrouble> {
        let renew = async {
            let token = self.identity.fetch().await?;
            let value = Zeroizing::new(format!("Bearer {}", *token.secret));
            Ok(Given { value, life: Some(token.lifetime) })
        };
        self.kept.current(renew).await
    }

    /// The store did not take it. True: another may do. A second one in a row that is refused is no matter of its age.
    pub(crate) fn refused(&self, bearer: &str) -> bool {
        let was_current = self.kept.forget(|kept| kept.as_str() == bearer);
        !(was_current && self.is_doubted.swap(true, Ordering::Relaxed))
    }

    pub(crate) fn accepted(&self) {
        self.is_doubted.store(false, Ordering::Relaxed);
    }
}
