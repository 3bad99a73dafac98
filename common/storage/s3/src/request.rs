//! What requests carry besides their key: how objects are to be kept, who pays, what guards a body.

use aws_sdk_s3::types::{RequestPayer, ServerSideEncryption, StorageClass};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use md5::{Digest as _, Md5};
use pgconvoy_core::config::S3Config;
use pgconvoy_core::failure::ErrorCode;
use pgconvoy_storage::{Lock, Place, StorageError};
use std::fmt::Write as _;
use zeroize::Zeroizing;

/// The MD5 of a whole object, with the object.
pub(crate) const MD5_OF_OBJECT: &str = "pgconvoy-md5";
/// Which upload joined an object.
pub(crate) const UPLOAD_OF_OBJECT: &str = "pgconvoy-upload";

/// The `Content-MD5` of a body.
pub(crate) fn content_md5(body: &[u8]) -> String {
    BASE64.encode(Md5::digest(body))
}

/// The same for a body that may be large: that takes milliseconds, in which nobody's answers would be read.
pub(crate) async fn content_md5_aside(body: &Bytes) -> String {
    const LARGE: usize = 256 << 10;
    if body.len() < LARGE {
        return content_md5(body);
    }
    let body = body.clone();
    tokio::task::spawn_blocking(move || content_md5(&body)).await.expect("hashing does not panic")
}

/// How new objects are kept.
#[derive(Debug, Clone)]
pub(crate) struct Keeping {
    pub storage_class: Option<StorageClass>,
    pub kms_key_id: Option<String>,
    /// As the header wants them: `a=b&c=d`.
    pub tags: Option<String>,
    pub lock: Option<Lock>,
}

impl Keeping {
    pub(crate) fn of(config: &S3Config, lock: Option<Lock>) -> Keeping {
        let tags: Vec<String> =
            config.tags.iter().map(|(name, value)| format!("{}={}", escaped(name), escaped(value))).collect();
        Keeping {
            storage_class: config.storage_class.as_deref().map(StorageClass::from),
            kms_key_id: config.kms_key_id.clone(),
            tags: (!tags.is_empty()).then(|| tags.join("&")),
            lock,
        }
    }

    pub(crate) fn encryption(&self) -> Option<ServerSideEncryption> {
        self.kms_key_id.is_some().then_some(ServerSideEncryption::AwsKms)
    }
}

/// All but what no query has to escape.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            write!(escaped, "%{byte:02X}").expect("a text takes everything");
        }
    }
    escaped
}

/// The key that the store encrypts with and forgets (SSE-C). Every request that touches content needs it.
#[derive(Clone)]
pub(crate) struct CustomerKey {
    key: Zeroizing<String>,
    md5: String,
}

impl std::fmt::Debug for CustomerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CustomerKey")
    }
}

impl CustomerKey {
    /// From 32 bytes in base64.
    pub(crate) fn parse(text: &str, store: &str) -> Result<CustomerKey, StorageError> {
        let unusable = || {
            let reason = "sse-customer-key is not 32 bytes in base64".to_owned();
            let hint = "openssl rand -base64 32 makes a new one; objects that exist need the one they were written with";
            StorageError::unusable(Place::new(store, None), ErrorCode::OptionInvalidValue, reason, hint)
        };
        let bytes = Zeroizing::new(BASE64.decode(text.trim()).map_err(|_| unusable())?);
        if bytes.len() != 32 {
            return Err(unusable());
        }
        Ok(CustomerKey { key: Zeroizing::new(text.trim().to_owned()), md5: content_md5(&bytes) })
    }

    pub(crate) fn algorithm() -> String {
        "AES256".to_owned()
    }

    pub(crate) fn key(&self) -> String {
        self.key.to_string()
    }

    pub(crate) fn md5(&self) -> String {
        self.md5.clone()
    }
}

pub(crate) fn payer(config: &S3Config) -> Option<RequestPayer> {
    config.requester_pays.then_some(RequestPayer::Requester)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_escaped_as_a_query() {
        assert_eq!(escaped("a b&c=d/ü~"), "a%20b%26c%3Dd%2F%C3%BC~");
    }

    #[test]
    fn a_customer_key_is_32_bytes_and_never_shown() {
        let text = BASE64.encode([7; 32]);
        let key = CustomerKey::parse(&format!(" {text}\n"), "s3:b").expect("it is a key");
        assert_eq!((key.key(), key.md5()), (text.clone(), content_md5(&[7; 32])));
        assert!(!format!("{key:?}").contains(&text));
        for bad in ["", "AAAA", "not base64!", &BASE64.encode([7; 31])] {
            let error = CustomerKey::parse(bad, "s3:b").expect_err("it is none").to_string();
            assert!(bad.is_empty() || !error.contains(bad), "{error}");
        }
    }
}
