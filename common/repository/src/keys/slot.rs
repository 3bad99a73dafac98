//! A key slot: the repository key of one generation, wrapped for one secret.
//!
//! The body of a key slot object is [`KeySlot`], a map with these keys:
//!
//! | key | what |
//! |---|---|
//! | `format` | 1 |
//! | `generation`, `name` | as in the object's name |
//! | `kind` | `key-file`, `command`, or `passphrase` with `memory-kib`, `passes`, `lanes`, `salt` (16 bytes) of argon2id |
//! | `salt` | 32 random bytes, new for every slot |
//! | `wrapped` | the repository key in AES-256-GCM: 32 bytes and the tag |
//! | `fingerprint` | of the repository key |
//! | `secret-fingerprint` | of the key file or the command's answer; absent for a passphrase |
//!
//! The wrapping key is HKDF-SHA256(input = secret, or argon2id of the passphrase; salt = `salt`; info = `pgconvoy/1 wrap`).
//! Its nonce is zero, since `salt` makes a key that encrypts once. Associated data: `pgconvoy/1 wrap` || repository identity
//! (16) || generation (4, big-endian) || length of the name (4, big-endian) || name.

use super::{Fingerprint, KEY_BYTES, KeyError, RepositoryKey, SlotSecret, fill_random};
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit, Nonce, Tag};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use hkdf::Hkdf;
use pgconvoy_core::ids::{Identity, KeyGeneration};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::fmt;
use std::str::FromStr;
use zeroize::Zeroizing;

pub const KEY_SLOT_FORMAT: u16 = 1;
const SALT_BYTES: usize = 32;
const PASSPHRASE_SALT_BYTES: usize = 16;
const TAG_BYTES: usize = 16;
const WRAPPED_BYTES: usize = KEY_BYTES + TAG_BYTES;
const WRAP_CONTEXT: &[u8] = b"pgconvoy/1 wrap";
const NONCE_BYTES: [u8; 12] = [0; 12];

/// argon2id for new slots: half a second of one core, and no more memory than a worker has without slots of its own
/// (RFC 9106 recommends 64 MiB and 3 passes where 2 GiB are too much).
const ARGON2_MEMORY_KIB: u32 = 64 << 10;
const ARGON2_PASSES: u32 = 3;
const ARGON2_LANES: u32 = 1;
/// What is accepted from a slot, which anybody who can write to the store can put there: 256 MiB and some seconds.
const ARGON2_MEMORY_KIB_MAX: u32 = 256 << 10;
const ARGON2_PASSES_MAX: u32 = 16;
const ARGON2_LANES_MAX: u32 = 8;

const NAME_BYTES_MAX: usize = 64;

/// The last part of a slot object's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SlotName(String);

impl SlotName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SlotName {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let reason = if text.is_empty() {
            "it is empty"
        } else if text.len() > NAME_BYTES_MAX {
            "it is longer than 64 characters"
        } else if text.starts_with(['.', '-']) {
            "it starts with '.' or '-'"
        } else if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
            "only letters, digits, '-', '_' and '.' are allowed"
        } else {
            return Ok(SlotName(text.to_owned()));
        };
        Err(KeyError::SlotName { name: text.to_owned(), reason })
    }
}

impl TryFrom<String> for SlotName {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        text.parse()
    }
}

impl From<SlotName> for String {
    fn from(name: SlotName) -> String {
        name.0
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What kind of secret opens a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotKind {
    KeyFile,
    #[serde(rename_all = "kebab-case")]
    Passphrase {
        memory_kib: u32,
        passes: u32,
        lanes: u32,
        #[serde(with = "serde_bytes")]
        salt: [u8; PASSPHRASE_SALT_BYTES],
    },
    Command,
}

impl SlotKind {
    pub const fn name(&self) -> &'static str {
        match self {
            SlotKind::KeyFile => "key file",
            SlotKind::Passphrase { .. } => "passphrase",
            SlotKind::Command => "key from the key command",
        }
    }

    fn for_secret(secret: &SlotSecret) -> Result<Self, KeyError> {
        Ok(match secret {
            SlotSecret::KeyFile(_) => SlotKind::KeyFile,
            SlotSecret::Command(_) => SlotKind::Command,
            SlotSecret::Passphrase(_) => {
                let mut salt = [0; PASSPHRASE_SALT_BYTES];
                fill_random(&mut salt)?;
                SlotKind::Passphrase {
                    memory_kib: ARGON2_MEMORY_KIB,
                    passes: ARGON2_PASSES,
                    lanes: ARGON2_LANES,
                    salt,
                }
            }
        })
    }
}

/// The body of a key slot object. All of it may be known to anybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct KeySlot {
    pub format: u16,
    pub generation: KeyGeneration,
    pub name: SlotName,
    pub kind: SlotKind,
    #[serde(with = "serde_bytes")]
    pub salt: [u8; SALT_BYTES],
    #[serde(with = "serde_bytes")]
    pub wrapped: [u8; WRAPPED_BYTES],
    pub fingerprint: Fingerprint,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_fingerprint: Option<Fingerprint>,
}

impl KeySlot {
    /// Wraps a repository key for one more secret.
    pub fn wrap(
        key: &RepositoryKey,
        repository: Identity,
        name: &SlotName,
        secret: &SlotSecret,
    ) -> Result<Self, KeyError> {
        let mut salt = [0; SALT_BYTES];
        fill_random(&mut salt)?;
        Self::wrap_with(key, repository, name, secret, SlotKind::for_secret(secret)?, salt)
    }

    /// `salt` is used for this call only.
    fn wrap_with(
        key: &RepositoryKey,
        repository: Identity,
        name: &SlotName,
        secret: &SlotSecret,
        kind: SlotKind,
        salt: [u8; SALT_BYTES],
    ) -> Result<Self, KeyError> {
        let mut slot = KeySlot {
            format: KEY_SLOT_FORMAT,
            generation: key.generation(),
            name: name.clone(),
            kind,
            salt,
            wrapped: [0; WRAPPED_BYTES],
            fingerprint: key.fingerprint(),
            secret_fingerprint: secret.fingerprint(),
        };
        let cipher = slot.cipher(secret)?;
        let (wrapped, place_of_tag) = slot.wrapped.split_at_mut(KEY_BYTES);
        wrapped.copy_from_slice(key.secret());
        let associated = associated_data(repository, slot.generation, &slot.name);
        let tag = cipher
            .encrypt_inout_detached(&Nonce::from(NONCE_BYTES), &associated, InOutBuf::from(wrapped))
            .expect("32 bytes are no more than AES-GCM allows");
        place_of_tag.copy_from_slice(&tag);
        Ok(slot)
    }

    /// Opens the slot, which may come from anybody. The caller compares generation and name with the object's name.
    pub fn unwrap(&self, repository: Identity, secret: &SlotSecret) -> Result<RepositoryKey, KeyError> {
        if self.format != KEY_SLOT_FORMAT {
            return Err(
                self.invalid(format!("its format is {}, and {KEY_SLOT_FORMAT} is known", self.format))
            );
        }
        let cipher = self.cipher(secret)?;
        let (wrapped, tag) =
            self.wrapped.split_last_chunk::<TAG_BYTES>().expect("a wrapped key is longer than a tag");
        let mut opened = Zeroizing::new([0; KEY_BYTES]);
        opened.copy_from_slice(wrapped);
        let associated = associated_data(repository, self.generation, &self.name);
        let buffer = InOutBuf::from(opened.as_mut_slice());
        cipher
            .decrypt_inout_detached(&Nonce::from(NONCE_BYTES), &associated, buffer, &Tag::from(*tag))
            .map_err(|_| self.wrong_secret(secret))?;
        let key = RepositoryKey::from_secret(self.generation, opened);
        if key.fingerprint() != self.fingerprint {
            let (slot, expected, found) = (self.name.to_string(), self.fingerprint, key.fingerprint());
            return Err(KeyError::OtherKey { slot, expected, found });
        }
        Ok(key)
    }

    fn cipher(&self, secret: &SlotSecret) -> Result<Aes256Gcm, KeyError> {
        let wrapping_key = match (&self.kind, secret) {
            // The same 32 bytes may move from a file into a key management service.
            (SlotKind::KeyFile | SlotKind::Command, SlotSecret::KeyFile(raw) | SlotSecret::Command(raw)) => {
                self.wrapping_key(raw.as_slice())
            }
            (
                SlotKind::Passphrase { memory_kib, passes, lanes, salt },
                SlotSecret::Passphrase(passphrase),
            ) => {
                let params = self.argon2_params(*memory_kib, *passes, *lanes)?;
                self.wrapping_key(stretch(passphrase, salt, params)?.as_slice())
            }
            (kind, secret) => {
                return Err(KeyError::OtherKind {
                    slot: self.name.to_string(),
                    generation: self.generation,
                    wanted: kind.name(),
                    given: secret.kind_name(),
                });
            }
        };
        Ok(Aes256Gcm::new((&*wrapping_key).into()))
    }

    fn wrapping_key(&self, input: &[u8]) -> Zeroizing<[u8; KEY_BYTES]> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        Hkdf::<Sha256>::new(Some(&self.salt), input)
            .expand(WRAP_CONTEXT, key.as_mut_slice())
            .expect("HKDF gives up to 255 hashes of key material");
        key
    }

    fn argon2_params(&self, memory_kib: u32, passes: u32, lanes: u32) -> Result<Params, KeyError> {
        for (what, asked, most) in [
            ("KiB of memory", memory_kib, ARGON2_MEMORY_KIB_MAX),
            ("passes", passes, ARGON2_PASSES_MAX),
            ("lanes", lanes, ARGON2_LANES_MAX),
        ] {
            if asked > most {
                return Err(
                    self.invalid(format!("it asks for {asked} {what} of argon2id, and {most} are allowed"))
                );
            }
        }
        Params::new(memory_kib, passes, lanes, Some(KEY_BYTES))
            .map_err(|error| self.invalid(error.to_string()))
    }

    fn invalid(&self, reason: String) -> KeyError {
        KeyError::BadSlot { slot: self.name.to_string(), reason }
    }

    fn wrong_secret(&self, secret: &SlotSecret) -> KeyError {
        KeyError::WrongSecret {
            slot: self.name.to_string(),
            generation: self.generation,
            given: secret.kind_name(),
            repository_key: self.fingerprint,
            expected: self.secret_fingerprint,
            found: secret.fingerprint(),
        }
    }
}

/// argon2id over memory that is reserved first, so that too little of it is an error and not an abort.
fn stretch(passphrase: &[u8], salt: &[u8], params: Params) -> Result<Zeroizing<[u8; KEY_BYTES]>, KeyError> {
    let failed = |reason: String| KeyError::Derivation { reason };
    let blocks = params.block_count();
    let mut memory: Zeroizing<Vec<Block>> = Zeroizing::new(Vec::new());
    memory.try_reserve_exact(blocks).map_err(|error| failed(error.to_string()))?;
    memory.resize(blocks, Block::default());
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into_with_memory(passphrase, salt, key.as_mut_slice(), memory.as_mut_slice())
        .map_err(|error| failed(error.to_string()))?;
    Ok(key)
}

fn associated_data(repository: Identity, generation: KeyGeneration, name: &SlotName) -> Vec<u8> {
    let name_length = u32::try_from(name.as_str().len()).expect("slot names have at most 64 bytes");
    let mut data = WRAP_CONTEXT.to_vec();
    data.extend_from_slice(repository.as_bytes());
    data.extend_from_slice(&generation.0.to_be_bytes());
    data.extend_from_slice(&name_length.to_be_bytes());
    data.extend_from_slice(name.as_str().as_bytes());
    data
}

#[cfg(test)]
mod tests;
