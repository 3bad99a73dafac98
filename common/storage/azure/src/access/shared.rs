//! Signing with an account's key, as "Authorize with Shared Key" of Azure's documentation has it.

use super::service;
use azure_core::http::{Request, Url, headers};
use azure_core::time::{OffsetDateTime, to_rfc7231};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use zeroize::Zeroizing;

pub(crate) struct SharedKey {
    account: String,
    key: Zeroizing<Vec<u8>>,
}

impl SharedKey {
    pub(crate) fn parse(account: &str, key: &str) -> Result<SharedKey, String> {
        let key = BASE64.decode(key.trim()).map_err(
            |_| "key is not base64: with key-type = \"shared\" it is one of the account's two access keys",
        )?;
        Ok(SharedKey { account: account.to_owned(), key: Zeroizing::new(key) })
    }

    pub(crate) fn sign(&self, request: &mut Request) {
        request.insert_header(headers::MS_DATE, to_rfc7231(&OffsetDateTime::now_utc()));
        let signature = self.signature(&string_to_sign(&self.account, request));
        request.insert_header(headers::AUTHORIZATION, format!("SharedKey {}:{signature}", self.account));
    }

    /// Makes the address of `blob`, `CONTAINER/NAME`, one by which anybody reads it for a while.
    pub(crate) fn sign_address(&self, blob: &str, address: &mut Url) {
        let end = service::end(OffsetDateTime::now_utc());
        let signature = self.signature(&service::string_to_sign(&self.account, blob, &end));
        service::append(address, &end, &signature);
    }

    fn signature(&self, text: &str) -> String {
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        mac.update(text.as_bytes());
        BASE64.encode(mac.finalize().into_bytes())
    }
}

/// The standard headers that are signed, in their order, after the method.
const SIGNED: [&str; 11] = [
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    // Always empty: x-ms-date says when.
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
];

fn string_to_sign(account: &str, request: &Request) -> String {
    let all: BTreeMap<&str, &str> =
        request.headers().iter().map(|(name, value)| (name.as_str(), value.as_str().trim())).collect();
    let length = request.body().len().unwrap_or(0).to_string();
    let mut text = format!("{}\n", request.method().as_str());
    for name in SIGNED {
        let value = match name {
            "content-length" if length == "0" => "",
            "content-length" => length.as_str(),
            "date" => "",
            name => all.get(name).copied().unwrap_or(""),
        };
        text.push_str(value);
        text.push('\n');
    }
    for (name, value) in all.iter().filter(|(name, _)| name.starts_with("x-ms-")) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name}:{value}");
    }
    let _ = write!(text, "/{account}{}", request.url().path());
    let mut query: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in request.url().query_pairs() {
        query.entry(name.to_lowercase()).or_default().push(value.into_owned());
    }
    for (name, mut values) in query {
        values.sort();
        let _ = write!(text, "\n{name}:{}", values.join(","));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use azure_core::http::Method;

    fn request(method: Method, url: &str) -> Request {
        Request::new(url.parse().expect("a valid address"), method)
    }

    #[test]
    fn what_is_signed_is_what_the_documentation_shows() {
        // The example of "Authorize with Shared Key".
        let mut example = request(
            Method::Get,
            "http://myaccount.blob.core.windows.net/mycontainer?restype=container&comp=metadata&timeout=20",
        );
        example.insert_header("x-ms-date", "Fri, 26 Jun 2015 23:39:12 GMT");
        example.insert_header("x-ms-version", "2015-02-21");
        assert_eq!(
            string_to_sign("myaccount", &example),
            "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n\
             /myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20"
        );
    }

    #[test]
    fn conditions_lengths_and_the_account_in_a_path_are_signed_too() {
        let mut put =
            request(Method::Put, "http://127.0.0.1:1/acct/box/a%2Fb%20c?comp=block&BlockId=eA%3D%3D");
        put.insert_header("if-none-match", "*");
        put.insert_header("content-type", "application/octet-stream");
        put.insert_header("x-ms-meta-b", " spaced ");
        put.insert_header("x-ms-blob-type", "BlockBlob");
        put.set_body(vec![0; 12]);
        assert_eq!(
            string_to_sign("acct", &put),
            "PUT\n\n\n12\n\napplication/octet-stream\n\n\n\n*\n\n\nx-ms-blob-type:BlockBlob\nx-ms-meta-b:spaced\n\
             /acct/acct/box/a%2Fb%20c\nblockid:eA==\ncomp:block"
        );
    }

    #[test]
    fn a_key_that_is_no_base64_is_refused_without_being_shown() {
        let reason = SharedKey::parse("acct", "my#secret").err().expect("no base64");
        assert!(reason.contains("access keys") && !reason.contains("secret"), "{reason}");
    }
}
