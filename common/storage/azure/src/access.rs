//! By what right a request is made: the account's key, a shared access signature, or a token of the machine's identity.
//!
//! Invariant: no secret is in a `Debug` form, in an error or in the address that anybody but the server sees.

mod identity;
mod sas;
mod service;
mod shared;
mod token;

pub use identity::Surroundings;
pub(crate) use sas::SasFacts;
pub(crate) use token::TokenTrouble;

use azure_core::http::headers::HeaderName;
use azure_core::http::{Request, Url, headers};
use pgconvoy_core::config::{AzureConfig, AzureKeyType};
use sas::Sas;
use shared::SharedKey;
use std::fmt;
use std::sync::Arc;
use token::Tokens;

/// From where the server is to copy, and by what right of its own it reads that.
pub(crate) const COPY_SOURCE: HeaderName = HeaderName::from_static("x-ms-copy-source");
const COPY_SOURCE_AUTHORIZATION: HeaderName = HeaderName::from_static("x-ms-copy-source-authorization");

/// What a request bears. A clone shares its tokens.
#[derive(Clone)]
pub(crate) enum Access {
    Shared(Arc<SharedKey>),
    Sas(Arc<Sas>),
    Token(Arc<Tokens>),
}

impl Access {
    /// The reason of a refusal is for an operator.
    pub(crate) fn of(config: &AzureConfig, around: &Surroundings) -> Result<Access, String> {
        let key = || config.key.as_ref().map(|key| key.expose()).ok_or("key is missing".to_owned());
        Ok(match config.key_type {
            AzureKeyType::Shared => Access::Shared(Arc::new(SharedKey::parse(&config.account, key()?)?)),
            AzureKeyType::Sas => Access::Sas(Arc::new(Sas::parse(key()?)?)),
            AzureKeyType::Auto => Access::Token(Arc::new(Tokens::new(around.identity()?))),
        })
    }

    /// Makes the request one that the server can judge. The last thing before it is sent: a signature covers all of it.
    pub(crate) async fn authorize(&self, request: &mut Request) -> Result<(), TokenTrouble> {
        match self {
            Access::Shared(key) => key.sign(request),
            Access::Sas(sas) => sas.append(request.url_mut()),
            Access::Token(tokens) => {
                let bearer = tokens.bearer().await?;
                request.insert_header(headers::AUTHORIZATION, bearer.to_string());
            }
        }
        Ok(())
    }

    /// Lets the server read the blob that it is to copy by the same right that the request is made by. `blob` is `CONTAINER/NAME`.
    pub(crate) async fn lend(
        &self,
        request: &mut Request,
        blob: &str,
        mut address: Url,
    ) -> Result<(), TokenTrouble> {
        match self {
            Access::Shared(key) => key.sign_address(blob, &mut address),
            Access::Sas(sas) => sas.append(&mut address),
            Access::Token(tokens) => {
                let bearer = tokens.bearer().await?;
                request.insert_header(COPY_SOURCE_AUTHORIZATION, bearer.to_string());
            }
        }
        request.insert_header(COPY_SOURCE, address.to_string());
        Ok(())
    }

    /// The server did not believe what the request bears: a token that was taken back is not used again. True: the next one may do.
    pub(crate) fn was_refused(&self, request: &Request) -> bool {
        let Access::Token(tokens) = self else { return false };
        let bearer = request.headers().get_optional_str(&headers::AUTHORIZATION);
        tokens.refused(bearer.unwrap_or_default())
    }

    pub(crate) fn was_accepted(&self) {
        if let Access::Token(tokens) = self {
            tokens.accepted();
        }
    }

    /// What an error says of it.
    pub(crate) fn facts(&self) -> AccessFacts {
        match self {
            Access::Shared(_) => AccessFacts::Shared,
            Access::Sas(sas) => AccessFacts::Sas(sas.facts().clone()),
            Access::Token(tokens) => AccessFacts::Token(tokens.whose()),
        }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.facts())
    }
}

/// What may be said of credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AccessFacts {
    Shared,
    Sas(SasFacts),
    /// Whose tokens: `the managed identity of this machine`.
    Token(&'static str),
}
