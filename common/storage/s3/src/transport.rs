//! The SDK's HTTP client, made of the one that all stores share.
//!
//! Bodies that are sent lie in memory; they are handed on, not copied. Bodies that are received flow through.

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Servers that list the directories of their file system instead of keys in order, by the name that they give themselves.
const LISTING_DIRECTORIES: &str = "SeaweedFS";

#[derive(Debug, Clone)]
pub(crate) struct Transport {
    pub client: reqwest::Client,
    /// Set when the server names itself as one of those.
    pub lists_directories: Arc<AtomicBool>,
}

impl HttpClient for Transport {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Transport {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let transport = self.clone();
        HttpConnectorFuture::new(async move { transport.send(request).await })
    }
}

impl Transport {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
        let (head, body) = request.into_parts();
        let body = collected(body).await.map_err(ConnectorError::user)?;
        let request = http::Request::from_parts(head, reqwest::Body::from(body));
        let request = reqwest::Request::try_from(request).map_err(failed)?;
        let answer: http::Response<reqwest::Body> =
            self.client.execute(request).await.map_err(failed)?.into();
        let server = answer.headers().get(http::header::SERVER).and_then(|value| value.to_str().ok());
        if server.is_some_and(|server| server.starts_with(LISTING_DIRECTORIES)) {
            self.lists_directories.store(true, Ordering::Relaxed);
        }
        let (mut head, body) = answer.into_parts();
        head.headers = once_each(&head.headers);
        let answer = http::Response::from_parts(head, body);
        HttpResponse::try_from(answer.map(SdkBody::from_body_1_x))
            .map_err(|error| ConnectorError::other(error.into(), None))
    }
}

/// Some servers say the same twice, which the SDK takes for no answer at all.
fn once_each(headers: &HeaderMap) -> HeaderMap {
    let mut once = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        if !once.get_all(name).iter().any(|known| known == value) {
            once.append(name.clone(), value.clone());
        }
    }
    once
}

/// A body in memory is one piece, and stays the same bytes.
async fn collected(mut body: SdkBody) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
    let mut whole = Bytes::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let Ok(piece) = frame?.into_data() else { continue };
        whole = if whole.is_empty() { piece } else { [whole, piece].concat().into() };
    }
    Ok(whole)
}

fn failed(error: reqwest::Error) -> ConnectorError {
    if error.is_timeout() { ConnectorError::timeout(error.into()) } else { ConnectorError::io(error.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_twice_is_kept_once_and_what_differs_is_kept() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("a", "1"), ("a", "1"), ("b", "1"), ("b", "2"), ("a", "1")] {
            headers.append(name, value.parse().expect("a value"));
        }
        let once = once_each(&headers);
        let values = |name: &str| once.get_all(name).iter().cloned().collect::<Vec<_>>();
        assert_eq!(values("a"), ["1"]);
        assert_eq!(values("b"), ["1", "2"]);
    }
}
