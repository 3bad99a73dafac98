//! Requests of the documented JSON API, over the HTTP client that all stores share.
//!
//! Every call takes its turn from one [`Pace`], bears a header of the [`Bearer`], and ends as a value or as an error sorted by
//! [`refusal`](crate::refusal). Nothing is tried again here, but for a token that the store refused while another can be had.

use crate::credentials::Bearer;
use crate::names::{encode, encode_pairs};
use crate::refusal::{Absence, Answer, no_bucket, sort};
use http::header::{
    CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, RANGE, RETRY_AFTER,
};
use pgconvoy_storage::http::{retry_after, unanswered};
use pgconvoy_storage::pace::Pace;
use pgconvoy_storage::{IoAction, Place, StorageError};
use reqwest::{Method, Response};
use serde::de::DeserializeOwned;
use std::time::SystemTime;

/// Who pays for the requests, where it is not the bucket's owner.
const USER_PROJECT: HeaderName = HeaderName::from_static("x-goog-user-project");
/// A page of a listing with its thousand names is the longest answer that is no body.
const ANSWER_LENGTH_MAX: usize = 16 << 20;
const ERROR_LENGTH_MAX: usize = 64 << 10;

#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) http: reqwest::Client,
    /// With its scheme, without a slash at the end.
    pub(crate) endpoint: String,
    pub(crate) bucket: String,
    pub(crate) bearer: Bearer,
    pub(crate) user_project: Option<HeaderValue>,
    pub(crate) pace: Pace,
}

/// One request, before it has its credentials.
#[derive(Clone)]
pub(crate) struct Call<'a> {
    method: Method,
    path: String,
    query: Vec<(&'a str, &'a str)>,
    headers: HeaderMap,
    /// In pieces, so that what is around a body needs no copy of it.
    body: Vec<bytes::Bytes>,
    /// Only if there is no object of that name: 412 then says that there is one.
    must_create: bool,
    pub(crate) at: Place,
    pub(crate) action: IoAction,
}

impl<'a> Call<'a> {
    fn new(method: Method, path: String, at: &Place, action: IoAction) -> Call<'a> {
        let (query, headers, body) = (Vec::new(), HeaderMap::new(), Vec::new());
        Call { method, path, query, headers, body, must_create: false, at: at.clone(), action }
    }

    pub(crate) fn query(mut self, name: &'a str, value: &'a str) -> Self {
        self.query.push((name, value));
        self
    }

    pub(crate) fn must_create(mut self, must: bool) -> Self {
        self.must_create = must;
        if must { self.query("ifGenerationMatch", "0") } else { self }
    }

    pub(crate) fn range(mut self, first: u64, last: u64) -> Self {
        let value = HeaderValue::try_from(format!("bytes={first}-{last}"));
        self.headers.insert(RANGE, value.expect("digits make a header"));
        self
    }

    pub(crate) fn body(mut self, content_type: &str, pieces: Vec<bytes::Bytes>) -> Self {
        let value = HeaderValue::try_from(content_type).expect("our content types make a header");
        self.headers.insert(CONTENT_TYPE, value);
        self.body = pieces;
        self
    }

    pub(crate) fn json(self, body: &serde_json::Value) -> Self {
        self.body("application/json", vec![body.to_string().into()])
    }
}

impl Api {
    /// Where one object is.
    pub(crate) fn object_path(&self, name: &str) -> String {
        format!("/storage/v1/b/{}/o/{}", encode(&self.bucket), encode(name))
    }

    /// A request about one object.
    pub(crate) fn object<'a>(&self, method: Method, name: &str, at: &Place, action: IoAction) -> Call<'a> {
        Call::new(method, self.object_path(name), at, action)
    }

    /// Many requests in one.
    pub(crate) fn batch<'a>(&self, at: &Place, action: IoAction) -> Call<'a> {
        Call::new(Method::POST, "/batch/storage/v1".to_owned(), at, action)
    }

    pub(crate) fn compose<'a>(&self, name: &str, at: &Place) -> Call<'a> {
        let mut call = self.object(Method::POST, name, at, IoAction::Publish);
        call.path.push_str("/compose");
        call
    }

    /// From an object of a bucket to one of this one.
    pub(crate) fn rewrite<'a>(&self, (bucket, source): (&str, &str), name: &str, at: &Place) -> Call<'a> {
        let (from, to) = (encode(bucket), encode(&self.bucket));
        let path = format!("/storage/v1/b/{from}/o/{}/rewriteTo/b/{to}/o/{}", encode(source), encode(name));
        Call::new(Method::POST, path, at, IoAction::Write)
    }

    pub(crate) fn listing<'a>(&self, at: &Place) -> Call<'a> {
        let path = format!("/storage/v1/b/{}/o", encode(&self.bucket));
        Call::new(Method::GET, path, at, IoAction::List)
    }

    /// A request about the bucket itself.
    pub(crate) fn bucket<'a>(&self, at: &Place) -> Call<'a> {
        Call::new(Method::GET, format!("/storage/v1/b/{}", encode(&self.bucket)), at, IoAction::Use)
    }

    pub(crate) fn upload<'a>(&self, at: &Place) -> Call<'a> {
        let path = format!("/upload/storage/v1/b/{}/o", encode(&self.bucket));
        Call::new(Method::POST, path, at, IoAction::Write)
    }

    /// The answer as JSON.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T, StorageError> {
        self.ask_dated(call).await.map(|(answer, _)| answer)
    }

    /// The answer as JSON, and the store's clock.
    pub(crate) async fn ask_dated<T: DeserializeOwned>(
        &self,
        call: Call<'_>,
    ) -> Result<(T, Option<SystemTime>), StorageError> {
        let request = async {
            let response = self.send(&call).await?;
            let now = date(response.headers());
            let body = self.bounded(response, ANSWER_LENGTH_MAX, &call).await?;
            let answer = serde_json::from_slice(&body).map_err(|error| StorageError::Unavailable {
                at: call.at.clone(),
                reason: format!("its answer is not what the JSON API documents: {error}"),
            });
            Ok((answer?, now))
        };
        self.pace.run(request).await
    }

    /// For requests whose answer has no body.
    pub(crate) async fn tell(&self, call: Call<'_>) -> Result<(), StorageError> {
        self.pace.run(async { self.send(&call).await.map(drop) }).await
    }

    /// The head of an answer that is a success. Whoever asks has taken a turn.
    pub(crate) async fn send(&self, call: &Call<'_>) -> Result<Response, StorageError> {
        let bearing = self.bearing(&call.at).await?;
        let mut response = self.send_once(call, &bearing).await?;
        if response.status() == 401 && self.bearer.forget(&bearing).await {
            response = self.send_once(call, &self.bearing(&call.at).await?).await?;
        }
        if response.status().is_success() {
            return Ok(response);
        }
        if response.status() == 412 && call.must_create {
            return Err(StorageError::AlreadyExists { at: call.at.clone() });
        }
        let answer = self.refusal(response, call).await;
        Err(self.refused(&call.at, call.action, &answer).await)
    }

    /// All of an answer that is no success.
    pub(crate) async fn refusal(&self, response: Response, call: &Call<'_>) -> Answer {
        let status = response.status().as_u16();
        let wait = retry_after(response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()));
        // What cannot be read of an error's text changes nothing about the error.
        let body = self.bounded(response, ERROR_LENGTH_MAX, call).await.unwrap_or_default();
        Answer::new(status, &body, wait)
    }

    /// The error that an answer is, after a look for the bucket where the answer does not tell of it.
    pub(crate) async fn refused(&self, at: &Place, action: IoAction, answer: &Answer) -> StorageError {
        if answer.status != 404 {
            return sort(at.clone(), action, answer);
        }
        match answer.absence() {
            Absence::Object => StorageError::NotFound { at: at.clone() },
            Absence::Bucket => no_bucket(Place::new(at.store.as_ref(), None), &self.bucket),
            Absence::Unclear if action == IoAction::List => {
                no_bucket(Place::new(at.store.as_ref(), None), &self.bucket)
            }
            Absence::Unclear => match self.find_bucket(at).await {
                Ok(true) => StorageError::NotFound { at: at.clone() },
                Ok(false) => no_bucket(Place::new(at.store.as_ref(), None), &self.bucket),
                Err(error) => error,
            },
        }
    }

    /// Asked by a listing: to look at the bucket itself needs a right that nothing else here needs.
    async fn find_bucket(&self, at: &Place) -> Result<bool, StorageError> {
        let call = self.listing(at).query("maxResults", "1").query("fields", "kind");
        let response = self.send_once(&call, &self.bearing(at).await?).await?;
        let status = response.status().as_u16();
        match status {
            200..300 => Ok(true),
            404 => Ok(false),
            _ => Err(sort(at.clone(), IoAction::List, &self.refusal(response, &call).await)),
        }
    }

    /// What a request bears of its credentials.
    pub(crate) async fn bearing(&self, at: &Place) -> Result<HeaderMap, StorageError> {
        self.bearer.headers().await.map_err(|error| error.at(at.clone()))
    }

    /// The head of whatever answer comes.
    pub(crate) async fn send_once(
        &self,
        call: &Call<'_>,
        bearing: &HeaderMap,
    ) -> Result<Response, StorageError> {
        let mut address = format!("{}{}", self.endpoint, call.path);
        if !call.query.is_empty() {
            address.push('?');
            address.push_str(&encode_pairs(&call.query));
        }
        let mut headers = call.headers.clone();
        headers.extend(bearing.clone());
        if let Some(project) = &self.user_project {
            headers.insert(USER_PROJECT, project.clone());
        }
        let length: usize = call.body.iter().map(bytes::Bytes::len).sum();
        let mut request = self.http.request(call.method.clone(), address);
        if length > 0 {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            let pieces = call.body.clone().into_iter().map(Ok::<_, std::convert::Infallible>);
            request = request.body(reqwest::Body::wrap_stream(futures::stream::iter(pieces)));
        }
        let sent = request.headers(headers).send().await;
        sent.map_err(|error| unanswered(call.at.clone(), call.action, &error))
    }

    /// A body of unknown length, which is an error when it is longer than anybody expects.
    pub(crate) async fn bounded(
        &self,
        mut response: Response,
        length_max: usize,
        call: &Call<'_>,
    ) -> Result<Vec<u8>, StorageError> {
        let mut body = Vec::new();
        let failed = |error: reqwest::Error| unanswered(call.at.clone(), call.action, &error);
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > length_max {
                let reason = format!("its answer is longer than {length_max} bytes");
                return Err(StorageError::Unavailable { at: call.at.clone(), reason });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

fn date(headers: &HeaderMap) -> Option<SystemTime> {
    let text = headers.get(DATE)?.to_str().ok()?;
    let moment = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(moment.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_stores_clock_is_read_from_its_answers() {
        let value = HeaderValue::from_static("Thu, 26 Nov 2026 12:12:38 GMT");
        let read = date(&HeaderMap::from_iter([(DATE, value)]));
        assert_eq!(read, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_695_158)));
        assert_eq!(date(&HeaderMap::new()), None);
    }
}
