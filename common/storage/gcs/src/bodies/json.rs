//! Bodies by the JSON API: a multipart upload with the object's description before it, and media reads.

use super::{NewObject, WRONG_CHECKSUM, Wanted, Which, damaged};
use crate::api::{Api, Call};
use crate::resource::{Resource, crc32c_text};
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_RANGE};
use pgconvoy_storage::http::unanswered;
use pgconvoy_storage::{IoAction, Place, StorageError, random};
use reqwest::{Method, Response, StatusCode};

pub(super) async fn put(api: &Api, new: NewObject<'_>, at: &Place) -> Result<i64, StorageError> {
    let mut description = serde_json::json!({
        "name": new.name,
        "crc32c": crc32c_text(new.crc32c),
        "contentType": "application/octet-stream",
        "metadata": new.metadata,
    });
    if let Some(retention) = new.retention {
        description["retention"] = retention;
    }
    let boundary = random::hex(|| at.clone())?;
    let head = format!(
        "--{boundary}\r\ncontent-type: application/json; charset=UTF-8\r\n\r\n{description}\r\n--{boundary}\r\ncontent-type: application/octet-stream\r\n\r\n"
    );
    let pieces = vec![head.into(), new.body.clone(), format!("\r\n--{boundary}--\r\n").into()];
    let call = api.upload(at).query("uploadType", "multipart").query("fields", "generation,size,crc32c");
    let call = call.body(&format!("multipart/related; boundary={boundary}"), pieces);
    let stored: Resource = api.ask(call.must_create(new.must_create)).await?;
    Ok(stored.generation)
}

pub(super) async fn read(
    api: &Api,
    which: Which<'_>,
    wanted: Wanted,
    at: &Place,
) -> Result<Bytes, StorageError> {
    let generation = which.generation.map(|generation| generation.to_string());
    let call = api.object(Method::GET, which.name, at, IoAction::Read).query("alt", "media");
    let call = match &generation {
        Some(generation) => call.query("generation", generation),
        None => call,
    };
    let call = match &wanted {
        Wanted::Whole { .. } => call,
        Wanted::Part(range) => call.range(range.start, range.end - 1),
    };
    let request = async {
        let response = api.send(&call).await?;
        let size = size(&response, at)?;
        let length = wanted.length(size, at)?;
        if matches!(wanted, Wanted::Part(_)) && response.status() != StatusCode::PARTIAL_CONTENT {
            let reason = "it sends whole objects where a range was asked for".to_owned();
            return Err(StorageError::NotSupported { at: at.clone(), reason });
        }
        let expected = match wanted {
            Wanted::Whole { .. } => crc32c(&response),
            Wanted::Part(_) => None,
        };
        let body = exactly(response, length, &call).await?;
        match expected {
            Some(expected) if expected != crc32c::crc32c(&body) => Err(damaged(at, WRONG_CHECKSUM)),
            _ => Ok(body),
        }
    };
    api.pace.run(request).await
}

/// The object's size, whatever of it comes.
fn size(response: &Response, at: &Place) -> Result<u64, StorageError> {
    let header = |name: &str| response.headers().get(name)?.to_str().ok();
    let total = match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            header(CONTENT_RANGE.as_str()).and_then(|range| range.rsplit_once('/')).map(|(_, total)| total)
        }
        _ => header("x-goog-stored-content-length").or_else(|| header(CONTENT_LENGTH.as_str())),
    };
    let size = total.and_then(|text| text.parse().ok());
    size.ok_or_else(|| damaged(at, "its answer does not say how large the object is"))
}

/// `x-goog-hash` comes once with both checksums, or once for each.
fn crc32c(response: &Response) -> Option<u32> {
    let headers = response.headers().get_all("x-goog-hash");
    let mut hashes =
        headers.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let text = hashes.find_map(|hash| hash.trim().strip_prefix("crc32c="))?;
    crate::resource::parse_crc32c(text)
}

async fn exactly(mut response: Response, length: usize, call: &Call<'_>) -> Result<Bytes, StorageError> {
    let failed = |error: reqwest::Error| unanswered(call.at.clone(), call.action, &error);
    let mut body = BytesMut::with_capacity(length);
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > length {
            return Err(damaged(&call.at, "more came than was asked for"));
        }
        body.extend_from_slice(&chunk);
    }
    if body.len() < length {
        return Err(damaged(&call.at, "its answer ended too early"));
    }
    Ok(body.freeze())
}
