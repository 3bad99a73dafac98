//! Tokens for the HTTP API: made on a coordinator's host, kept in the lease store as hashes, checked at every request.
//!
//! A token reads `pgc_<id>_<secret>`: the id finds the record and may be told to anybody, the secret is 32 random bytes
//! in base64url. The store has only its SHA-256, which needs no salt and no slow hash: nobody guesses 256 random bits.
//!
//! Code map: this file is the token, its record and the three things done with records; `check` is who asks.
//!
//! Invariants
//! 1. A token's text exists once, where it was made. Neither the store nor a log can give it back.
//! 2. Secrets are compared in constant time.
//!
//! Failure story: whoever reads the store learns names and roles, and can pose as nobody.

mod check;

pub use check::{Bearer, Refused, Tokens};

use crate::audit::Entry;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::{decode, encode_named};
use pgconvoy_core::ids::IdError;
use pgconvoy_core::units::Timestamp;
use pgconvoy_lease::store::{BATCH_KEYS_MAX, Expected, Write};
use pgconvoy_lease::{FleetKeys, LeaseError, LeaseStore};
use pgconvoy_transport::PeerName;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// What every token begins with, for people and for programs that look for leaked secrets.
const PREFIX: &str = "pgc_";
/// So many ids that two of them never meet.
const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;
/// What one token is made of.
pub const RANDOM_BYTES: usize = ID_BYTES + SECRET_BYTES;
/// Longer ones are no tokens, and not looked at.
const TEXT_LENGTH_MAX: usize = 128;

/// What a bearer may do; each role may also do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenRole {
    /// Reads.
    Viewer,
    /// Submits, cancels, pauses and drains.
    Operator,
    /// Reads the audit, too.
    Admin,
}

impl TokenRole {
    pub const ALL: [TokenRole; 3] = [TokenRole::Viewer, TokenRole::Operator, TokenRole::Admin];

    pub const fn name(self) -> &'static str {
        match self {
            TokenRole::Viewer => "viewer",
            TokenRole::Operator => "operator",
            TokenRole::Admin => "admin",
        }
    }
}

impl fmt::Display for TokenRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for TokenRole {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        TokenRole::ALL.into_iter().find(|role| role.name() == text).ok_or_else(|| IdError {
            what: "role",
            text: text.to_owned(),
            reason: "it is none of viewer, operator and admin",
        })
    }
}

/// What the lease store keeps of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TokenRecord {
    /// Whose it is, for the audit and for whoever lists tokens.
    pub name: String,
    pub role: TokenRole,
    pub created: Timestamp,
    /// SHA-256 of the secret's text.
    secret_sha256: [u8; 32],
}

impl TokenRecord {
    fn opens_with(&self, secret: &str) -> bool {
        let digest: [u8; 32] = Sha256::digest(secret.as_bytes()).into();
        digest.ct_eq(&self.secret_sha256).into()
    }
}

/// A token just made. This is the only time that its text is there.
pub struct NewToken {
    pub id: String,
    pub text: Zeroizing<String>,
    pub record: TokenRecord,
}

impl NewToken {
    /// From random bytes of the system.
    pub fn make(
        name: &PeerName,
        role: TokenRole,
        now: Timestamp,
        random: &Zeroizing<[u8; RANDOM_BYTES]>,
    ) -> NewToken {
        let (id, secret) = random.split_at(ID_BYTES);
        let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let secret = Zeroizing::new(URL_SAFE_NO_PAD.encode(secret));
        let record = TokenRecord {
            name: name.to_string(),
            role,
            created: now,
            secret_sha256: Sha256::digest(secret.as_bytes()).into(),
        };
        NewToken { text: Zeroizing::new(format!("{PREFIX}{id}_{}", *secret)), id, record }
    }
}

/// The two parts of a token's text, if it looks like one.
fn parts(text: &str) -> Option<(&str, &str)> {
    if text.len() > TEXT_LENGTH_MAX {
        return None;
    }
    let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    let is_id = id.len() == 2 * ID_BYTES && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then_some((id, secret))
}

/// What may be told of what somebody typed for a token: never its secret.
pub fn id_or_name(which: &str) -> &str {
    parts(which).map_or(which, |(id, _)| id)
}

/// Makes it valid. One name may have several tokens, so that an old one can be replaced without a gap.
/// With its record in the audit.
pub async fn store(
    leases: &dyn LeaseStore,
    keys: &FleetKeys,
    token: &NewToken,
    audited: Entry,
) -> Result<(), Failure> {
    let key = keys.token(&token.id).map_err(LeaseError::from)?;
    let value = Bytes::from(encode_named(&token.record));
    let put = Write::Put { key, value, expected: Expected::Absent };
    leases.commit(vec![put, audited.done().write(keys)?], None).await?;
    Ok(())
}

/// All of them, by their ids. One that cannot be read is told of and opens nothing.
pub async fn list(
    leases: &dyn LeaseStore,
    keys: &FleetKeys,
) -> Result<Vec<(String, TokenRecord)>, LeaseError> {
    let mut tokens = Vec::new();
    for entry in leases.list(&keys.tokens()).await?.entries {
        match decode::<TokenRecord>("token", &entry.value) {
            Ok(record) => tokens.push((entry.key.last_part().to_owned(), record)),
            Err(error) => tracing::error!("{} cannot be read: {error}", entry.key),
        }
    }
    Ok(tokens)
}

/// Ends one token, by its id or its text, or all of a name. Answers with the ids. The audit has it, also if there is none.
pub async fn revoke(
    leases: &dyn LeaseStore,
    keys: &FleetKeys,
    which: &str,
    audited: Entry,
) -> Result<Vec<String>, Failure> {
    let which = id_or_name(which);
    let known = list(leases, keys).await?;
    let is_meant = |(id, token): &(String, TokenRecord)| id == which || token.name == which;
    let revoked: Vec<String> = known.into_iter().filter(is_meant).map(|(id, _)| id).collect();
    if revoked.is_empty() {
        let message = format!("there is no token with the id or name '{which}'");
        leases.commit(vec![audited.refused(ErrorCode::ParamInvalid).write(keys)?], None).await?;
        return Err(Failure::new(ErrorCode::ParamInvalid, message).hint("pgconvoy token list shows them"));
    }
    let audited = audited.on(revoked.join(" ")).done();
    // One key of a transaction is the record's.
    for some in revoked.chunks(BATCH_KEYS_MAX - 1) {
        let delete = |id: &String| Ok(Write::Delete { key: keys.token(id).map_err(LeaseError::from)? });
        let deletes = some.iter().map(delete).collect::<Result<Vec<_>, Failure>>()?;
        let record = std::iter::once(audited.write(keys)?);
        leases.commit(deletes.into_iter().chain(record).collect(), None).await?;
    }
    Ok(revoked)
}

#[cfg(test)]
mod tests;
