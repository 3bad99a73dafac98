//! Keys of an encrypted repository: generations of the repository key, and the slots that hold it wrapped.
//!
//! What it is: how a secret that a host has (a key file, a passphrase, the answer of a command) becomes the key that
//! objects are sealed with. What it is not: where slots are stored, or which of several slots to try.
//!
//! ```text
//! secret of a host --(argon2id if a passphrase)--> HKDF with the slot's salt --> wrapping key
//! wrapping key --AES-256-GCM--> repository key of one generation --(crate::seal)--> key of one object
//! ```
//!
//! Invariants
//! 1. Secrets are zeroed when dropped, and never appear in `Debug`, in `Display` or in an error.
//! 2. A slot opens only for the repository, the generation and the name that it was made for.
//! 3. Opening a hostile slot costs bounded memory and time: the limits on argon2id are constants here.
//! 4. A key file is never overwritten. Losing the last secret is losing the backups.
//!
//! Failure story: a wrong secret is told by the slot's own tag, and named with fingerprints, so that an operator can tell
//! the file they have from the file they need.

mod command;
mod create;
mod error;
mod slot;
mod source;

pub use create::create_key_file;
pub use error::KeyError;
pub use slot::{KEY_SLOT_FORMAT, KeySlot, SlotKind, SlotName};
pub use source::{SlotSecret, load_secret};

pub use pgconvoy_core::config::KeySource;

use pgconvoy_core::ids::KeyGeneration;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;
use zeroize::Zeroizing;

/// AES-256's.
pub const KEY_BYTES: usize = 32;

const REPOSITORY_KEY_CONTEXT: &[u8] = b"pgconvoy/1 fingerprint";

/// One generation of a repository's key. All objects written under it have keys derived from it.
pub struct RepositoryKey {
    generation: KeyGeneration,
    secret: Zeroizing<[u8; KEY_BYTES]>,
}

impl RepositoryKey {
    pub fn generate(generation: KeyGeneration) -> Result<Self, KeyError> {
        Ok(RepositoryKey { generation, secret: random_secret()? })
    }

    pub fn from_secret(generation: KeyGeneration, secret: Zeroizing<[u8; KEY_BYTES]>) -> Self {
        RepositoryKey { generation, secret }
    }

    pub fn generation(&self) -> KeyGeneration {
        self.generation
    }

    /// What people compare instead of the key.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(REPOSITORY_KEY_CONTEXT, self.secret.as_slice())
    }

    pub(crate) fn secret(&self) -> &[u8; KEY_BYTES] {
        &self.secret
    }
}

impl fmt::Debug for RepositoryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RepositoryKey")
            .field("generation", &self.generation.0)
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}

/// The first 8 bytes of SHA-256 over a context and a secret of full strength: names the secret, and does not help to guess it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint([u8; 8]);

impl Fingerprint {
    fn of(context: &[u8], secret: &[u8]) -> Self {
        let digest = Sha256::new().chain_update(context).chain_update(secret).finalize();
        Fingerprint(*digest.first_chunk().expect("SHA-256 has 32 bytes"))
    }
}

/// 16 hexadecimal digits.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a fingerprint: it needs 16 hexadecimal digits")]
pub struct FingerprintError {
    text: String,
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let is_hex = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match u64::from_str_radix(text, 16) {
            Ok(number) if is_hex => Ok(Fingerprint(number.to_be_bytes())),
            _ => Err(FingerprintError { text: text.to_owned() }),
        }
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = FingerprintError;

    fn try_from(text: String) -> Result<Self, FingerprintError> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> String {
        fingerprint.to_string()
    }
}

fn random_secret() -> Result<Zeroizing<[u8; KEY_BYTES]>, KeyError> {
    let mut secret = Zeroizing::new([0; KEY_BYTES]);
    fill_random(secret.as_mut_slice())?;
    Ok(secret)
}

fn fill_random(bytes: &mut [u8]) -> Result<(), KeyError> {
    getrandom::fill(bytes).map_err(|error| KeyError::NoRandomness { reason: error.to_string() })
}

#[cfg(test)]
mod tests;
