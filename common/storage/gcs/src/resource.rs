//! Objects as the JSON API describes them. Numbers of 64 bits travel as text there.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use std::time::SystemTime;

/// What of an object's description is used; a request names the fields that it needs.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Resource {
    pub(crate) name: String,
    #[serde(deserialize_with = "number")]
    pub(crate) generation: i64,
    #[serde(deserialize_with = "number")]
    pub(crate) size: u64,
    crc32c: Option<String>,
    time_created: Option<String>,
    time_deleted: Option<String>,
    pub(crate) metadata: BTreeMap<String, String>,
    retention: Option<Retention>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Retention {
    retain_until_time: Option<String>,
}

impl Resource {
    pub(crate) fn version(&self) -> (&str, i64) {
        (&self.name, self.generation)
    }

    pub(crate) fn crc32c(&self) -> Option<u32> {
        parse_crc32c(self.crc32c.as_deref()?)
    }

    /// Nobody removes it before some time.
    pub(crate) fn is_retained(&self) -> bool {
        self.retention.as_ref().is_some_and(|retention| retention.retain_until_time.is_some())
    }

    /// When this generation was written, by the store's clock.
    pub(crate) fn created(&self) -> Option<SystemTime> {
        moment(self.time_created.as_deref()?)
    }

    /// When it was replaced or removed; `None`: it is live.
    pub(crate) fn deleted(&self) -> Option<SystemTime> {
        moment(self.time_deleted.as_deref()?)
    }
}

fn moment(text: &str) -> Option<SystemTime> {
    let moment: jiff::Timestamp = text.parse().ok()?;
    Some(moment.into())
}

/// A page of a listing.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Page {
    pub(crate) items: Vec<Resource>,
    pub(crate) prefixes: Vec<String>,
    pub(crate) next_page_token: Option<String>,
}

/// Big-endian in base64, as all of Google's APIs have it.
pub(crate) fn crc32c_text(crc: u32) -> String {
    BASE64_STANDARD.encode(crc.to_be_bytes())
}

pub(crate) fn parse_crc32c(text: &str) -> Option<u32> {
    let bytes: [u8; 4] = BASE64_STANDARD.decode(text).ok()?.try_into().ok()?;
    Some(u32::from_be_bytes(bytes))
}

/// A number, or its digits as text.
fn number<'de, D, N>(deserializer: D) -> Result<N, D::Error>
where
    D: Deserializer<'de>,
    N: FromStr + Deserialize<'de>,
    N::Err: Display,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either<N> {
        Number(N),
        Text(String),
    }
    match Either::deserialize(deserializer)? {
        Either::Number(number) => Ok(number),
        Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_documented_description_is_read() {
        let text = r#"{"kind":"storage#object","name":"a/b","generation":"1795695158000123","size":"11",
            "crc32c":"yZRlqg==","timeCreated":"2026-11-26T12:12:38.500Z","metadata":{"k":"v"}}"#;
        let resource: Resource = serde_json::from_str(text).expect("a description");
        assert_eq!((resource.name.as_str(), resource.size), ("a/b", 11));
        assert_eq!(resource.generation, 1_795_695_158_000_123);
        assert_eq!(resource.crc32c(), Some(crc32c::crc32c(b"hello world")));
        let created = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_695_158_500);
        assert_eq!(resource.created(), Some(created));
        assert_eq!(resource.metadata["k"], "v");
    }

    #[test]
    fn a_checksum_is_big_endian_in_base64() {
        // RFC 3720, B.4: 32 bytes of zeros.
        assert_eq!(crc32c_text(0x8a91_36aa), "ipE2qg==");
        assert_eq!(parse_crc32c("ipE2qg=="), Some(0x8a91_36aa));
        for bad in ["", "ipE2", "not base64"] {
            assert_eq!(parse_crc32c(bad), None, "{bad}");
        }
    }
}
