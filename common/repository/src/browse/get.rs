//! `repo-get`.

use super::BrowseError;
use super::path::Place;
use super::shown::Shown;
use crate::codec::Decompressor;
use crate::error::RepositoryError;
use crate::object::ObjectReader;
use crate::open::Repository;
use pgconvoy_core::format::object::{HEADER_BYTES, Header, Kind};
use pgconvoy_core::format::wal::WalBody;
use pgconvoy_storage::ObjectKey;
use serde_json::Value;
use sha1::{Digest, Sha1};
use std::io::Write;

/// Stored bytes that are handed out at once.
const PIECE_BYTES: u64 = 4 << 20;

/// What of an object is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// The plain file of a WAL object; of any other what its footer says, as JSON.
    Decoded,
    /// As it is stored.
    Raw,
}

/// Writes an object out.
pub async fn get(
    repository: &Repository,
    path: &str,
    content: Content,
    out: &mut (dyn Write + Send),
) -> Result<(), BrowseError> {
    let stanzas = repository.stanzas().await?;
    let place = Place::parse(path, |name| stanzas.iter().any(|stanza| stanza.as_str() == name))?;
    let missing = || BrowseError::Missing { place: repository.describe(), path: path.to_owned() };
    let Place::Inside { key, .. } = place else { return Err(missing()) };
    let size = repository.storage().stat(&key).await?.ok_or_else(missing)?.size;
    match content {
        Content::Raw => raw(repository, &key, size, out).await,
        Content::Decoded => match kind(repository, &key, size).await? {
            None => Err(BrowseError::UnknownKind { place: repository.describe(), path: path.to_owned() }),
            Some(Kind::Wal) => wal(repository, &key, out).await,
            Some(kind) => footer(repository, kind, &key, out).await,
        },
    }
}

async fn raw(
    repository: &Repository,
    key: &ObjectKey,
    size: u64,
    out: &mut (dyn Write + Send),
) -> Result<(), BrowseError> {
    let mut at = 0;
    while at < size {
        let end = size.min(at + PIECE_BYTES);
        let piece = repository.storage().get_range(key, at..end).await?;
        out.write_all(&piece).map_err(BrowseError::Output)?;
        at = end;
    }
    Ok(())
}

/// As the header tells; `None` if there is none.
async fn kind(repository: &Repository, key: &ObjectKey, size: u64) -> Result<Option<Kind>, BrowseError> {
    let bytes = repository.storage().get_range(key, 0..size.min(HEADER_BYTES as u64)).await?;
    Ok(Header::decode(&bytes).ok().map(|header| header.kind))
}

/// A frame at a time. What was written before an error is not to be trusted; the error says so.
async fn wal(
    repository: &Repository,
    key: &ObjectKey,
    out: &mut (dyn Write + Send),
) -> Result<(), BrowseError> {
    let object = ObjectReader::open(repository, Kind::Wal, key.as_str()).await?;
    let body: WalBody = object.body()?;
    let mut decompressor = Decompressor::new();
    let (mut plain, mut sha1) = (Vec::new(), Sha1::new());
    for frame in 0..object.frames().len() {
        let mut stored = object.fetch(repository, frame..frame + 1).await?.to_vec();
        object.decode_frame(frame, &mut stored, &mut decompressor, &mut plain)?;
        sha1.update(&plain);
        out.write_all(&plain).map_err(BrowseError::Output)?;
    }
    let found: [u8; 20] = sha1.finalize().into();
    if found == body.sha1 {
        return Ok(());
    }
    Err(BrowseError::Repository(RepositoryError::Contradiction {
        place: repository.describe(),
        object: key.to_string(),
        reason: "its content does not match its SHA-1".into(),
    }))
}

async fn footer(
    repository: &Repository,
    kind: Kind,
    key: &ObjectKey,
    out: &mut (dyn Write + Send),
) -> Result<(), BrowseError> {
    let object = ObjectReader::open(repository, kind, key.as_str()).await?;
    let Shown(body) = object.body()?;
    let text =
        serde_json::to_string_pretty(&without_secrets(kind, body)).expect("a JSON value is always text");
    writeln!(out, "{text}").map_err(BrowseError::Output)
}

/// The stanza's hash secret stays within: whoever knows it can make blocks that look unchanged.
fn without_secrets(kind: Kind, mut body: Value) -> Value {
    if kind == Kind::Cluster
        && let Some(secret) = body.get_mut("hash-secret")
    {
        *secret = Value::from("***");
    }
    body
}
