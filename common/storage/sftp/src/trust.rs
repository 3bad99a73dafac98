//! Whether the key that a server shows is one to believe: by a known_hosts file, a fingerprint, or both.
//!
//! Pure: text and keys in, a verdict out.
//!
//! Invariant: no key is believed that a given file or fingerprint does not name. There is no "accept what is new".

mod known_hosts;

use known_hosts::KnownKey;
use russh::keys::{Algorithm, EcdsaCurve, HashAlg, PublicKey};
use std::fmt;

/// Bytes of a SHA-256.
const DIGEST_BYTES: usize = 32;

/// Why a key is not believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Distrust {
    pub(crate) reason: String,
    pub(crate) hint: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fingerprint([u8; DIGEST_BYTES]);

/// As `ssh-keygen -l` prints it, without its padding.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use base64::prelude::{BASE64_STANDARD_NO_PAD, Engine as _};
        write!(f, "SHA256:{}", BASE64_STANDARD_NO_PAD.encode(self.0))
    }
}

/// `SHA256:` and base64, or 64 hexadecimal digits with or without colons.
fn parse_fingerprint(text: &str) -> Option<Fingerprint> {
    use base64::prelude::{BASE64_STANDARD_NO_PAD, Engine as _};
    let is_prefixed = text.get(..7).is_some_and(|prefix| prefix.eq_ignore_ascii_case("sha256:"));
    let text = if is_prefixed { &text[7..] } else { text };
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
    if digits.len() == DIGEST_BYTES * 2 && digits.iter().all(u8::is_ascii_hexdigit) {
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes = digits.chunks(2).map(byte).collect::<Option<Vec<u8>>>()?;
        return bytes.try_into().ok().map(Fingerprint);
    }
    let bytes = BASE64_STANDARD_NO_PAD.decode(text.trim_end_matches('=')).ok()?;
    bytes.try_into().ok().map(Fingerprint)
}

fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct KnownHosts {
    file: String,
    /// What the file says of the host.
    keys: Vec<KnownKey>,
}

/// What is believed of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trust {
    host: String,
    port: u16,
    known: Option<KnownHosts>,
    fingerprint: Option<Fingerprint>,
}

impl Trust {
    /// `known_hosts`: name and text of the file.
    pub(crate) fn new(
        (host, port): (&str, u16),
        known_hosts: Option<(&str, &str)>,
        fingerprint: Option<&str>,
    ) -> Result<Self, Distrust> {
        let fingerprint = match fingerprint {
            Some(text) => Some(parse_fingerprint(text.trim()).ok_or_else(|| Distrust {
                reason: format!("host-fingerprint '{text}' is not the SHA-256 of a key"),
                hint: "write SHA256:... as 'ssh-keyscan HOST | ssh-keygen -lf -' prints it, or 64 hexadecimal digits"
                    .to_owned(),
            })?),
            None => None,
        };
        let known = known_hosts.map(|(file, text)| KnownHosts {
            file: file.to_owned(),
            keys: known_hosts::find(text, host, port),
        });
        if known.is_none() && fingerprint.is_none() {
            return Err(Distrust {
                reason: "nothing says which host key to trust".to_owned(),
                hint: "set known-hosts-file or host-fingerprint".to_owned(),
            });
        }
        Ok(Trust { host: host.to_owned(), port, known, fingerprint })
    }

    /// Which kinds of key to ask the server for: one list after the other, until it shows one that is believed.
    ///
    /// A server has several keys and shows one of the first kind that it is asked for. A file says which kinds it knows; a
    /// fingerprint does not say of which kind it is.
    pub(crate) fn attempts(&self) -> Vec<Vec<Algorithm>> {
        let kinds = [
            vec![Algorithm::Ed25519],
            [EcdsaCurve::NistP256, EcdsaCurve::NistP384, EcdsaCurve::NistP521]
                .map(|curve| Algorithm::Ecdsa { curve })
                .to_vec(),
            [HashAlg::Sha512, HashAlg::Sha256].map(|hash| Algorithm::Rsa { hash: Some(hash) }).to_vec(),
        ];
        let Some(known) = &self.known else { return kinds.to_vec() };
        let is_known =
            |kind: &&Algorithm| known.keys.iter().any(|known| known.key.algorithm() == kind_of_key(kind));
        let chosen: Vec<Algorithm> = kinds.iter().flatten().filter(is_known).cloned().collect();
        // Of a host that the file does not know any key will do, to be shown to whoever must judge it.
        vec![if chosen.is_empty() { kinds.concat() } else { chosen }]
    }

    pub(crate) fn judge(&self, key: &PublicKey) -> Result<(), Distrust> {
        if let Some(known) = &self.known {
            self.judge_by_file(known, key)?;
        }
        match self.fingerprint {
            Some(expected) if key.fingerprint(HashAlg::Sha256).as_bytes() != expected.0 => Err(Distrust {
                reason: format!(
                    "the server shows {}, and host-fingerprint is {expected}",
                    describe(key)
                ),
                hint: "somebody may be in between; if the server has a new key, ask its administrator for the fingerprint and \
                       set host-fingerprint to it"
                    .to_owned(),
            }),
            _ => Ok(()),
        }
    }

    fn judge_by_file(&self, known: &KnownHosts, key: &PublicKey) -> Result<(), Distrust> {
        let same = |known: &&KnownKey| known.key.key_data() == key.key_data();
        let file = &known.file;
        if let Some(revoked) = known.keys.iter().filter(|known| known.is_revoked).find(same) {
            return Err(Distrust {
                reason: format!("the server shows {}, which line {} of {file} revokes", describe(key), revoked.line),
                hint: "whoever answers there has a key that must not be used any more: ask the server's administrator".to_owned(),
            });
        }
        let mut valid = known.keys.iter().filter(|known| !known.is_revoked);
        if valid.clone().any(|known| same(&known)) {
            return Ok(());
        }
        let changed = valid.clone().find(|known| known.key.algorithm() == key.algorithm());
        if let Some(other) = changed.or_else(|| valid.next()) {
            return Err(Distrust {
                reason: format!(
                    "the server shows {}, and line {} of {file} has {}: the key of the host has changed",
                    describe(key),
                    other.line,
                    describe(&other.key)
                ),
                hint: format!(
                    "somebody may be in between; if the server has a new key, ask its administrator for the fingerprint and \
                     replace line {} of {file}",
                    other.line
                ),
            });
        }
        let (host, port) = (&self.host, self.port);
        let name = known_hosts::name_of(host, port);
        Err(Distrust {
            reason: format!("the server shows {}, and {file} does not know {name}", describe(key)),
            hint: format!(
                "if that is the server's fingerprint, add its key: ssh-keyscan -p {port} {host} >> {file}"
            ),
        })
    }
}

/// A key of RSA does not say by which hash it signs.
fn kind_of_key(algorithm: &Algorithm) -> Algorithm {
    match algorithm {
        Algorithm::Rsa { .. } => Algorithm::Rsa { hash: None },
        other => other.clone(),
    }
}

/// `ssh-ed25519 key SHA256:...`
fn describe(key: &PublicKey) -> String {
    format!("{} key {}", key.algorithm(), fingerprint(key))
}

#[cfg(test)]
mod tests;
