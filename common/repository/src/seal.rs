//! Sealing: the tag behind every frame of one object, and its encryption.
//!
//! What it is: `FORMAT.md` section 2, *Tags*. What it is not: a store of keys ([`crate::keys`]) or a reader of headers.
//!
//! Invariants
//! 1. With a key, nobody without it can change a frame, swap two, cut the last ones off, or move a frame to another name
//!    or repository, unnoticed: all of that is in the tag.
//! 2. Without a key the tag is a checksum over the same: it finds damage, cuts and swaps, and protects from nobody.
//! 3. A pair of key and counter encrypts once. A key belongs to one salt, a salt to one [`FrameSealer`] ([`FreshSalt`] is
//!    used up by it), and the sealer counts. An attempt that failed is sent again as the bytes it was, or begins anew.
//! 4. The last frame is the last: a sealer that sealed it takes no more.
//! 5. What does not open is not handed out, nor half of it.
//!
//! Failure story: a frame that does not open is damaged, or not the frame that was asked for; which of the two cannot be
//! known. The caller reads another repository's copy.

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit, Nonce, Tag};
use hkdf::Hkdf;
use pgconvoy_core::failure::{Classify, ErrorCode};
use pgconvoy_core::ids::Identity;
use sha2::Sha256;
use std::fmt;
use xxhash_rust::xxh3::Xxh3Default;
use zeroize::Zeroizing;

pub use crate::keys::RepositoryKey;
pub use pgconvoy_core::format::object::{HEADER_BYTES, TAG_BYTES};

pub const SALT_BYTES: usize = 32;
/// No store takes longer keys than S3, where the whole key may have this length.
pub const OBJECT_NAME_BYTES_MAX: usize = 1024;

/// Header, repository identity, length of the name: what precedes the name in the associated data.
const BEFORE_NAME_BYTES: usize = HEADER_BYTES + 16 + 4;
/// Frame number and last-frame flag: what follows it.
const AFTER_NAME_BYTES: usize = 4 + 1;
const ASSOCIATED_BYTES_MAX: usize = BEFORE_NAME_BYTES + OBJECT_NAME_BYTES_MAX + AFTER_NAME_BYTES;
/// Stands for the repository where there is no key: a plain object can be copied into another repository as it is.
const NIL_REPOSITORY: [u8; 16] = [0; 16];
const OBJECT_KEY_INFO: &[u8] = b"pgconvoy/1 object";

/// A salt that has encrypted nothing yet. It is neither copied nor made from bytes, and a [`FrameSealer`] consumes it.
#[derive(Debug)]
pub struct FreshSalt([u8; SALT_BYTES]);

impl FreshSalt {
    pub fn generate() -> Result<Self, SealError> {
        let mut bytes = [0; SALT_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| SealError::NoRandomness { reason: error.to_string() })?;
        Ok(FreshSalt(bytes))
    }

    /// For the object's header, where readers find it.
    pub fn as_bytes(&self) -> &[u8; SALT_BYTES] {
        &self.0
    }

    /// Golden files need the same bytes every time.
    #[cfg(test)]
    pub(crate) fn fixed(bytes: [u8; SALT_BYTES]) -> Self {
        FreshSalt(bytes)
    }
}

/// Seals the frames of one object while it is written, in order.
#[derive(Debug)]
pub struct FrameSealer {
    object: ObjectSeal,
    next: u64,
    ended: bool,
}

impl FrameSealer {
    /// Checksums only; see invariant 2.
    pub fn plain(header: &[u8; HEADER_BYTES], object_name: &str) -> Result<Self, SealError> {
        Ok(FrameSealer { object: ObjectSeal::plain(header, object_name)?, next: 0, ended: false })
    }

    /// `header` is the object's, with `salt` in it.
    pub fn aes(
        key: &RepositoryKey,
        repository: Identity,
        header: &[u8; HEADER_BYTES],
        salt: FreshSalt,
        object_name: &str,
    ) -> Result<Self, SealError> {
        let object = ObjectSeal::aes(key, repository, header, &salt.0, object_name)?;
        Ok(FrameSealer { object, next: 0, ended: false })
    }

    /// Encrypts `buffer[from..]` where it is, appends the tag and gives the frame's number. The last frame is the footer.
    ///
    /// Panics if `from` lies behind the end of `buffer`.
    pub fn seal(&mut self, last: bool, buffer: &mut Vec<u8>, from: usize) -> Result<u32, SealError> {
        if self.ended {
            return Err(SealError::Ended { object: self.object.name.clone() });
        }
        let frame = u32::try_from(self.next)
            .map_err(|_| SealError::TooManyFrames { object: self.object.name.clone() })?;
        self.next += 1;
        self.ended = last;
        let tag = self.object.seal(frame, last, &mut buffer[from..])?;
        buffer.extend_from_slice(&tag);
        Ok(frame)
    }

    /// How many frames are sealed, the last one included.
    pub fn frames(&self) -> u64 {
        self.next
    }
}

/// Opens any frame of one object, in any order and from several threads.
#[derive(Debug)]
pub struct FrameOpener {
    object: ObjectSeal,
}

impl FrameOpener {
    pub fn plain(header: &[u8; HEADER_BYTES], object_name: &str) -> Result<Self, SealError> {
        Ok(FrameOpener { object: ObjectSeal::plain(header, object_name)? })
    }

    /// `salt` is the header's, or what an authenticated reference says it must be.
    pub fn aes(
        key: &RepositoryKey,
        repository: Identity,
        header: &[u8; HEADER_BYTES],
        salt: &[u8; SALT_BYTES],
        object_name: &str,
    ) -> Result<Self, SealError> {
        Ok(FrameOpener { object: ObjectSeal::aes(key, repository, header, salt, object_name)? })
    }

    /// Checks and decrypts a frame where it is, and gives what was sealed: `sealed` without the tag at its end.
    pub fn open<'a>(&self, frame: u32, last: bool, sealed: &'a mut [u8]) -> Result<&'a mut [u8], SealError> {
        let bytes = sealed.len();
        let Some((data, tag)) = sealed.split_last_chunk_mut::<TAG_BYTES>() else {
            return Err(SealError::TooShort { object: self.object.name.clone(), frame, bytes });
        };
        self.object.open(frame, last, data, tag)?;
        Ok(data)
    }
}

/// What both directions share: the key of one object and what all its tags have in common.
struct ObjectSeal {
    name: String,
    cipher: Cipher,
}

enum Cipher {
    /// The hash of the associated data up to the frame number, to go on from.
    Plain(Box<Xxh3Default>),
    Aes256Gcm {
        cipher: Box<Aes256Gcm>,
        prefix: Vec<u8>,
    },
}

impl ObjectSeal {
    fn plain(header: &[u8; HEADER_BYTES], name: &str) -> Result<Self, SealError> {
        let mut hasher = Box::new(Xxh3Default::new());
        hasher.update(&associated_prefix(header, &NIL_REPOSITORY, name)?);
        Ok(ObjectSeal { name: name.to_owned(), cipher: Cipher::Plain(hasher) })
    }

    fn aes(
        key: &RepositoryKey,
        repository: Identity,
        header: &[u8; HEADER_BYTES],
        salt: &[u8; SALT_BYTES],
        name: &str,
    ) -> Result<Self, SealError> {
        let prefix = associated_prefix(header, repository.as_bytes(), name)?;
        let mut object_key = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(Some(salt), key.secret())
            .expand(OBJECT_KEY_INFO, object_key.as_mut_slice())
            .expect("HKDF gives up to 255 hashes of key material");
        let cipher = Box::new(Aes256Gcm::new((&*object_key).into()));
        Ok(ObjectSeal { name: name.to_owned(), cipher: Cipher::Aes256Gcm { cipher, prefix } })
    }

    fn seal(&self, frame: u32, last: bool, data: &mut [u8]) -> Result<[u8; TAG_BYTES], SealError> {
        match &self.cipher {
            Cipher::Plain(prefix) => Ok(plain_tag(prefix, frame, last, data)),
            Cipher::Aes256Gcm { cipher, prefix } => {
                let associated = Associated::new(prefix, frame, last);
                let tag = cipher
                    .encrypt_inout_detached(&nonce(frame), associated.as_slice(), InOutBuf::from(data))
                    .map_err(|_| SealError::TooLarge { object: self.name.clone(), frame })?;
                Ok(tag.into())
            }
        }
    }

    fn open(&self, frame: u32, last: bool, data: &mut [u8], tag: &[u8; TAG_BYTES]) -> Result<(), SealError> {
        match &self.cipher {
            Cipher::Plain(prefix) => {
                if plain_tag(prefix, frame, last, data) == *tag {
                    return Ok(());
                }
                Err(SealError::Damaged { object: self.name.clone(), frame })
            }
            Cipher::Aes256Gcm { cipher, prefix } => {
                let associated = Associated::new(prefix, frame, last);
                let tag = Tag::from(*tag);
                cipher
                    .decrypt_inout_detached(&nonce(frame), associated.as_slice(), InOutBuf::from(data), &tag)
                    .map_err(|_| SealError::NotAuthentic { object: self.name.clone(), frame })
            }
        }
    }
}

impl fmt::Debug for ObjectSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cipher = match &self.cipher {
            Cipher::Plain(_) => "none",
            Cipher::Aes256Gcm { .. } => "aes-256-gcm",
        };
        f.debug_struct("ObjectSeal")
            .field("name", &self.name)
            .field("cipher", &cipher)
            .finish_non_exhaustive()
    }
}

/// The part of the associated data that all frames of an object share.
fn associated_prefix(
    header: &[u8; HEADER_BYTES],
    repository: &[u8; 16],
    name: &str,
) -> Result<Vec<u8>, SealError> {
    if name.len() > OBJECT_NAME_BYTES_MAX {
        return Err(SealError::NameTooLong { bytes: name.len() });
    }
    let name_length = u32::try_from(name.len()).expect("the length was just bounded");
    let mut prefix = Vec::with_capacity(BEFORE_NAME_BYTES + name.len());
    prefix.extend_from_slice(header);
    prefix.extend_from_slice(repository);
    prefix.extend_from_slice(&name_length.to_be_bytes());
    prefix.extend_from_slice(name.as_bytes());
    Ok(prefix)
}

/// Associated data of one frame, on the stack: a frame costs no allocation.
struct Associated {
    bytes: [u8; ASSOCIATED_BYTES_MAX],
    length: usize,
}

impl Associated {
    fn new(prefix: &[u8], frame: u32, last: bool) -> Self {
        let length = prefix.len() + AFTER_NAME_BYTES;
        let mut bytes = [0; ASSOCIATED_BYTES_MAX];
        bytes[..prefix.len()].copy_from_slice(prefix);
        bytes[prefix.len()..length].copy_from_slice(&place(frame, last));
        Associated { bytes, length }
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

fn place(frame: u32, last: bool) -> [u8; AFTER_NAME_BYTES] {
    let [a, b, c, d] = frame.to_be_bytes();
    [a, b, c, d, u8::from(last)]
}

/// Eight zero bytes and the frame number: unique as the key is used for one object only.
fn nonce(frame: u32) -> Nonce<aes_gcm::aead::consts::U12> {
    let [a, b, c, d] = frame.to_be_bytes();
    [0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d].into()
}

fn plain_tag(prefix: &Xxh3Default, frame: u32, last: bool, data: &[u8]) -> [u8; TAG_BYTES] {
    let mut hasher = prefix.clone();
    hasher.update(&place(frame, last));
    hasher.update(data);
    hasher.digest128().to_be_bytes()
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("frame {frame} of '{object}' does not match its checksum")]
    Damaged { object: String, frame: u32 },
    #[error("frame {frame} of '{object}' fails its authentication")]
    NotAuthentic { object: String, frame: u32 },
    #[error("frame {frame} of '{object}' is cut: it has {bytes} bytes, and its tag alone has {TAG_BYTES}")]
    TooShort { object: String, frame: u32, bytes: usize },
    #[error("an object name of {bytes} bytes is longer than {OBJECT_NAME_BYTES_MAX}")]
    NameTooLong { bytes: usize },
    #[error("frame {frame} of '{object}' is larger than AES-GCM allows")]
    TooLarge { object: String, frame: u32 },
    #[error("'{object}' has more frames than can be numbered")]
    TooManyFrames { object: String },
    #[error("'{object}' already has its last frame")]
    Ended { object: String },
    #[error("the system gives no random bytes: {reason}")]
    NoRandomness { reason: String },
}

impl Classify for SealError {
    fn code(&self) -> ErrorCode {
        match self {
            SealError::Damaged { .. } | SealError::TooShort { .. } => ErrorCode::Checksum,
            SealError::NotAuthentic { .. } | SealError::NoRandomness { .. } => ErrorCode::Crypto,
            SealError::NameTooLong { .. } => ErrorCode::Format,
            SealError::TooLarge { .. } | SealError::TooManyFrames { .. } | SealError::Ended { .. } => {
                ErrorCode::Assert
            }
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            SealError::Damaged { .. } | SealError::TooShort { .. } => {
                vec!["`pgconvoy verify` finds what else is damaged; another repository may have a good copy.".to_owned()]
            }
            SealError::NotAuthentic { .. } => vec![
                "the object is damaged, was written with another key, or was put in the place of another one.".to_owned(),
                "compare the fingerprint of `pgconvoy repo-key list`; `pgconvoy verify` finds what else is damaged.".to_owned(),
            ],
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
