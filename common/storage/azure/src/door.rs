//! The one way out: every request, of the SDK or of a batch, is finished, signed and sent here.
//!
//! Invariants
//! 1. Signatures and tokens are added here, behind the SDK's logging, and the errors that leave bear no address: nothing
//!    that logs or formats ever sees a secret. What is to be copied has only a name till then, since its address bears a right.
//! 2. Every body that is written goes with its CRC-64, so the server refuses what was damaged on the way.
//! 3. One request is sent once. Whoever called tries again.

use crate::access::{Access, COPY_SOURCE, TokenTrouble};
use crate::address;
use async_trait::async_trait;
use azure_core::error::ErrorKind;
use azure_core::http::headers::{HeaderName, HeaderValue, Headers};
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{AsyncRawResponse, Body, Context, HttpClient, Method, Request, Url};
use azure_core::{Error, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use crc_fast::{CrcAlgorithm, checksum};
use futures::TryStreamExt as _;
use std::sync::Arc;

const CONTENT_CRC64: HeaderName = HeaderName::from_static("x-ms-content-crc64");
const ERROR_CODE: HeaderName = HeaderName::from_static("x-ms-error-code");

#[derive(Debug)]
pub(crate) struct Door {
    client: reqwest::Client,
    access: Access,
    account: Url,
}

impl Door {
    pub(crate) fn new(client: reqwest::Client, access: Access, account: Url) -> Door {
        Door { client, access, account }
    }

    /// For a request, or a part of one, that is sent as it is.
    pub(crate) async fn authorize(&self, request: &mut Request) -> Result<()> {
        let authorized = self.access.authorize(request).await;
        authorized.map_err(|trouble| Error::new(ErrorKind::Credential, trouble))
    }

    /// Makes an address of the `CONTAINER/NAME` that the SDK was told to copy from.
    async fn authorize_source(&self, request: &mut Request) -> Result<()> {
        let Some(blob) = request.headers().get_optional_str(&COPY_SOURCE).map(str::to_owned) else {
            return Ok(());
        };
        let address = address::within(&self.account, blob.splitn(2, '/'));
        let lent = self.access.lend(request, &blob, address).await;
        lent.map_err(|trouble| Error::new(ErrorKind::Credential, trouble))
    }
}

#[async_trait]
impl HttpClient for Door {
    async fn execute_request(&self, request: &Request) -> Result<AsyncRawResponse> {
        let mut request = request.clone();
        let body = match request.body() {
            Body::Bytes(body) => body.clone(),
            // Nothing here gives the SDK anything but bytes.
            Body::SeekableStream(_) => {
                return Err(Error::with_message(ErrorKind::Other, "a body that is not in memory"));
            }
        };
        if request.method() == Method::Put && !body.is_empty() {
            request.insert_header(CONTENT_CRC64, crc64(&body));
        }
        self.authorize_source(&mut request).await?;
        self.authorize(&mut request).await?;
        let method = reqwest::Method::from_bytes(request.method().as_str().as_bytes())
            .map_err(|error| Error::new(ErrorKind::Other, error))?;
        let mut sent = self.client.request(method, request.url().clone());
        for (name, value) in request.headers().iter() {
            sent = sent.header(name.as_str(), value.as_str());
        }
        let answer = sent.body(body).send().await.map_err(|error| unsent(error.without_url()))?;
        let status = answer.status().as_u16();
        let headers = headers_of(answer.headers());
        if status == 401 || headers.get_optional_str(&ERROR_CODE) == Some("AuthenticationFailed") {
            if self.access.was_refused(&request) {
                let reason = "the store does not take the token any more, another is asked for".to_owned();
                return Err(Error::new(ErrorKind::Credential, TokenTrouble::Away(reason)));
            }
        } else if status < 500 {
            self.access.was_accepted();
        }
        let body = answer.bytes_stream().map_err(|error| Error::new(ErrorKind::Io, error.without_url()));
        Ok(AsyncRawResponse::new(status.into(), headers, Box::pin(body)))
    }
}

fn unsent(error: reqwest::Error) -> Error {
    Error::new(if error.is_connect() { ErrorKind::Connection } else { ErrorKind::Io }, error)
}

/// CRC-64/NVME, its bytes from the lowest.
fn crc64(body: &[u8]) -> String {
    BASE64.encode(checksum(CrcAlgorithm::Crc64Nvme, body).to_le_bytes())
}

/// A value that is no text is nothing that anybody here asks for.
fn headers_of(map: &reqwest::header::HeaderMap) -> Headers {
    let mut headers = Headers::new();
    for (name, value) in map {
        if let Ok(value) = value.to_str() {
            headers.insert(HeaderName::from(name.as_str().to_owned()), HeaderValue::from(value.to_owned()));
        }
    }
    headers
}

/// What the SDK has no word for: a listing that ends at the next `/`. Carried by the context of a call.
#[derive(Debug)]
pub(crate) struct Delimited;

#[derive(Debug)]
pub(crate) struct Delimiting;

#[async_trait]
impl Policy for Delimiting {
    async fn send(&self, context: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        if context.value::<Delimited>().is_some() {
            request.url_mut().query_pairs_mut().append_pair("delimiter", "/");
        }
        // The transport is always behind.
        next[0].send(context, request, &next[1..]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_that_azure_computes() {
        // The check value of CRC-64/NVME, 0xae8b14860a799888.
        assert_eq!(BASE64.decode(crc64(b"123456789")), Ok(0xae8b_1486_0a79_9888_u64.to_le_bytes().to_vec()));
    }
}
