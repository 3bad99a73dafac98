//! known_hosts as sshd(8) describes it: names, `[name]:port`, patterns, hashed names, revoked keys.
//!
//! Lines of certificate authorities are left out: a server is known by its key.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use hmac::{Hmac, KeyInit as _, Mac as _};
use russh::keys::{PublicKey, parse_public_key_base64};
use sha1::Sha1;

const SSH_PORT: u16 = 22;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KnownKey {
    /// From 1.
    pub(super) line: usize,
    pub(super) key: PublicKey,
    pub(super) is_revoked: bool,
}

/// How a host is called in the file.
pub(super) fn name_of(host: &str, port: u16) -> String {
    let host = host.to_lowercase();
    if port == SSH_PORT { host } else { format!("[{host}]:{port}") }
}

/// All that the text says of the host. As with ssh, a host at another port may be listed by its bare name.
pub(super) fn find(text: &str, host: &str, port: u16) -> Vec<KnownKey> {
    let by = |name: &str| lines(text).filter(|line| matches(line.hosts, name)).filter_map(key_of).collect();
    let found: Vec<KnownKey> = by(&name_of(host, port));
    if found.iter().all(|key| key.is_revoked) && port != SSH_PORT {
        return found.into_iter().chain::<Vec<KnownKey>>(by(&name_of(host, SSH_PORT))).collect();
    }
    found
}

struct Line<'a> {
    number: usize,
    is_revoked: bool,
    hosts: &'a str,
    key: &'a str,
}

fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    text.lines().zip(1..).filter_map(|(line, number)| {
        let mut words = line.split_whitespace().peekable();
        let marker = words.next_if(|word| word.starts_with('@'));
        let is_revoked = match marker {
            None => false,
            Some("@revoked") => true,
            Some(_) => return None,
        };
        let hosts = words.next().filter(|hosts| !hosts.starts_with('#'))?;
        let _kind = words.next()?;
        Some(Line { number, is_revoked, hosts, key: words.next()? })
    })
}

/// A key that nobody can read names nothing.
fn key_of(line: Line<'_>) -> Option<KnownKey> {
    let key = parse_public_key_base64(line.key).ok()?;
    Some(KnownKey { line: line.number, key, is_revoked: line.is_revoked })
}

/// Whether a list of patterns names the host: one that begins with `!` and fits rules it out.
fn matches(hosts: &str, name: &str) -> bool {
    let mut is_named = false;
    for pattern in hosts.split(',') {
        if let Some(hashed) = pattern.strip_prefix("|1|") {
            is_named |= is_hash_of(hashed, name);
        } else if let Some(unwanted) = pattern.strip_prefix('!') {
            if fits(unwanted.to_lowercase().as_bytes(), name.as_bytes()) {
                return false;
            }
        } else {
            is_named |= fits(pattern.to_lowercase().as_bytes(), name.as_bytes());
        }
    }
    is_named
}

/// `salt|hash`, both in base64.
fn is_hash_of(hashed: &str, name: &str) -> bool {
    let decode = |part: &str| BASE64_STANDARD.decode(part).ok();
    let parts = hashed.split_once('|').and_then(|(salt, hash)| Some((decode(salt)?, decode(hash)?)));
    let Some((salt, hash)) = parts else { return false };
    Hmac::<Sha1>::new_from_slice(&salt)
        .is_ok_and(|keyed| keyed.chain_update(name.as_bytes()).verify_slice(&hash).is_ok())
}

/// `*` stands for any characters, `?` for one.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut place) = (0, 0);
    // Where to go on if what follows the last star does not fit.
    let mut retry = None;
    while place < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                retry = Some((at + 1, place));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[place] => {
                at += 1;
                place += 1;
            }
            _ => match retry {
                Some((after_star, from)) => {
                    retry = Some((after_star, from + 1));
                    at = after_star;
                    place = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_stand_for_characters() {
        for (pattern, name) in
            [("*", "x"), ("*.example", "a.b.example"), ("h?st*", "host12"), ("a*b*c", "axbybc")]
        {
            assert!(fits(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        for (pattern, name) in
            [("", "x"), ("*.example", "example"), ("h?st", "hst"), ("a*b", "ac"), ("ab", "abc")]
        {
            assert!(!fits(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
    }

    #[test]
    fn a_name_that_is_ruled_out_is_not_named_by_another_pattern() {
        assert!(matches("*.example,!bad.example", "good.example"));
        assert!(!matches("*.example,!bad.example", "bad.example"));
        assert!(!matches("!bad.example", "good.example"));
    }
}
