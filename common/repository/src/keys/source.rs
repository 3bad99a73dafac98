//! Reading a host's secret from where the configuration says it is.

use super::error::BadSecret;
use super::{Fingerprint, KEY_BYTES, KeyError, command};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use pgconvoy_core::config::KeySource;
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use zeroize::Zeroizing;

/// 32 bytes in base64 and a line end need 46; longer files are something else.
pub(super) const KEY_TEXT_BYTES_MAX: usize = 256;
/// Longer passphrases than a page of text are a wrong file.
const PASSPHRASE_BYTES_MAX: usize = 4096;
/// Anybody but the owner.
const MODE_OTHERS: u32 = 0o077;

const SECRET_CONTEXT: &[u8] = b"pgconvoy/1 slot secret";

/// What opens a slot.
pub enum SlotSecret {
    KeyFile(Zeroizing<[u8; KEY_BYTES]>),
    Passphrase(Zeroizing<Vec<u8>>),
    Command(Zeroizing<[u8; KEY_BYTES]>),
}

impl SlotSecret {
    /// For messages.
    pub const fn kind_name(&self) -> &'static str {
        match self {
            SlotSecret::KeyFile(_) => "key file",
            SlotSecret::Passphrase(_) => "passphrase",
            SlotSecret::Command(_) => "key from the key command",
        }
    }

    /// Tells key files apart. A passphrase has none: it would let anybody try guesses without argon2id.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        match self {
            SlotSecret::KeyFile(secret) | SlotSecret::Command(secret) => Some(secret_fingerprint(secret)),
            SlotSecret::Passphrase(_) => None,
        }
    }
}

impl fmt::Debug for SlotSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlotSecret(<{}>)", self.kind_name())
    }
}

pub(super) fn secret_fingerprint(secret: &[u8; KEY_BYTES]) -> Fingerprint {
    Fingerprint::of(SECRET_CONTEXT, secret)
}

/// Reads the secret. It may wait for a command, up to 30 s: call it where blocking is allowed.
pub fn load_secret(source: &KeySource) -> Result<SlotSecret, KeyError> {
    match source {
        KeySource::None => Err(KeyError::NoSource),
        KeySource::KeyFile(path) => load_key_file(Path::new(path)),
        KeySource::PassphraseFile(path) => load_passphrase(Path::new(path)),
        KeySource::Command(argv) => command::ask(argv).map(SlotSecret::Command),
    }
}

fn load_key_file(path: &Path) -> Result<SlotSecret, KeyError> {
    let text = read_private(path, KEY_TEXT_BYTES_MAX)?;
    let secret = parse_key(&text).map_err(|reason| KeyError::BadFile { path: path.to_owned(), reason })?;
    Ok(SlotSecret::KeyFile(secret))
}

fn load_passphrase(path: &Path) -> Result<SlotSecret, KeyError> {
    let text = read_private(path, PASSPHRASE_BYTES_MAX)?;
    let line = only_line(&text).map_err(|reason| KeyError::BadFile { path: path.to_owned(), reason })?;
    Ok(SlotSecret::Passphrase(Zeroizing::new(line.to_vec())))
}

/// One line of base64 that holds a key.
pub(super) fn parse_key(text: &[u8]) -> Result<Zeroizing<[u8; KEY_BYTES]>, BadSecret> {
    let line = only_line(text)?;
    let mut decoded = Zeroizing::new([0; KEY_TEXT_BYTES_MAX]);
    let bytes = BASE64.decode_slice(line, decoded.as_mut_slice()).map_err(|_| BadSecret::NotBase64)?;
    let secret: &[u8; KEY_BYTES] = decoded[..bytes].try_into().map_err(|_| BadSecret::Length { bytes })?;
    Ok(Zeroizing::new(*secret))
}

fn only_line(text: &[u8]) -> Result<&[u8], BadSecret> {
    let line = text.strip_suffix(b"\n").unwrap_or(text);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        Err(BadSecret::Empty)
    } else if line.contains(&b'\n') {
        Err(BadSecret::Lines)
    } else {
        Ok(line)
    }
}

fn read_private(path: &Path, limit_bytes: usize) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let file = File::open(path).map_err(|reason| match reason.kind() {
        ErrorKind::NotFound => KeyError::Missing { path: path.to_owned() },
        _ => KeyError::Open { path: path.to_owned(), reason },
    })?;
    let read_error = |reason| KeyError::Read { path: path.to_owned(), reason };
    let mode = file.metadata().map_err(read_error)?.mode();
    if mode & MODE_OTHERS != 0 {
        let mode = format!("{:04o}", mode & 0o7777);
        tracing::warn!(path = %path.display(), mode, "key file is open to other users than its owner");
    }
    match read_bounded(file, limit_bytes).map_err(read_error)? {
        Some(text) => Ok(text),
        None => Err(KeyError::BadFile { path: path.to_owned(), reason: BadSecret::TooLong { limit_bytes } }),
    }
}

/// `None` if there is more. The buffer never moves, so that no copy of a secret stays behind.
pub(super) fn read_bounded(
    input: impl Read,
    limit_bytes: usize,
) -> std::io::Result<Option<Zeroizing<Vec<u8>>>> {
    let room = limit_bytes + 1;
    let mut text = Zeroizing::new(vec![0; room]);
    let mut input = input;
    let mut filled = 0;
    while filled < room {
        match input.read(&mut text[filled..]) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    text.truncate(filled);
    Ok(if filled > limit_bytes { None } else { Some(text) })
}

#[cfg(test)]
mod tests;
