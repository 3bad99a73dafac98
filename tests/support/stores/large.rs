//! One large object, in every kind of store: written piece by piece and read range by range, so that nobody holds all of it.
//!
//! Of 40 MiB, and with [`LONG_VARIABLE`] of more than 5 GB: S3's limit for one put, more than 32 bits count, more parts than a compose
//! of composes takes, and more than an uploader could keep in memory unseen.

use super::super::{Context, Random, Result, ensure, note};
use bytes::Bytes;
use pgconvoy_storage::{ObjectKey, PutMode, Storage, StorageError};
use std::ops::Range;
use std::sync::LazyLock;
use std::time::Instant;

/// `tests/run.sh --long` sets it.
const LONG_VARIABLE: &str = "PGCONVOY_LONG";
const PIECE: usize = 1 << 20;
const PIECE_BYTES: u64 = 1 << 20;
const SHORT_PIECES: u64 = 40;
const LONG_PIECES: u64 = 5_200;
/// Of one read; no multiple of any store's parts.
const RANGE_PIECES: u64 = 8;
/// Each of these in a piece is told from all others of the object.
const PAGE: usize = 4096;
/// What a process may take that never holds more than some parts of the long one.
const MEMORY_MAX_KIB: u64 = 1 << 20;

static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut random = Random::seeded(7);
    (0..PIECE / 8).flat_map(|_| random.next().to_le_bytes()).collect()
});

/// Who keeps what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// This process is a client and nothing else: what it holds is the uploader's.
    Elsewhere,
    /// In this process, in memory.
    Here,
}

/// How many pieces an object has here.
fn pieces() -> u64 {
    if std::env::var_os(LONG_VARIABLE).is_some() { LONG_PIECES } else { SHORT_PIECES }
}

/// Writes the piece of the body at a place. Its pages are noise that begins with the page's number, so it costs no more than a copy.
fn add_piece(number: u64, body: &mut Vec<u8>) -> Result<()> {
    let begin = body.len();
    body.extend_from_slice(&NOISE);
    for (page, offset) in (begin..body.len()).step_by(PAGE).enumerate() {
        let page = number * PIECE_BYTES / u64::try_from(PAGE)? + u64::try_from(page)?;
        body[offset..offset + 8].copy_from_slice(&page.to_le_bytes());
    }
    Ok(())
}

/// The body between two pieces.
fn between(pieces: Range<u64>) -> Result<Bytes> {
    let mut body = Vec::with_capacity(usize::try_from((pieces.end - pieces.start) * PIECE_BYTES)?);
    pieces.into_iter().try_for_each(|number| add_piece(number, &mut body))?;
    Ok(body.into())
}

/// The body between two bytes.
fn bytes_between(range: &Range<u64>) -> Result<Bytes> {
    let first = range.start / PIECE_BYTES;
    let around = between(first..range.end.div_ceil(PIECE_BYTES))?;
    let begin = usize::try_from(range.start - first * PIECE_BYTES)?;
    Ok(around.slice(begin..begin + usize::try_from(range.end - range.start)?))
}

/// Creates the object, reads all of it, and leaves it there.
pub async fn comes_back_range_by_range(store: &dyn Storage, key: &ObjectKey, server: Server) -> Result<()> {
    let (pieces, begun) = (pieces(), Instant::now());
    let mut upload = store.begin(key, PutMode::Create).await?;
    for number in 0..pieces {
        upload.write(between(number..number + 1)?).await?;
    }
    upload.finish().await?;
    let (size, written) = (pieces * PIECE_BYTES, begun.elapsed());
    let found = store.stat(key).await?.context("it is there")?.size;
    ensure!(found == size, "{found} bytes instead of {size}");
    for first in (0..pieces).step_by(usize::try_from(RANGE_PIECES)?) {
        let last = (first + RANGE_PIECES).min(pieces);
        let range = store.get_range(key, first * PIECE_BYTES..last * PIECE_BYTES).await?;
        ensure!(range == between(first..last)?, "from piece {first} on it is something else");
    }
    // Across the middle, where 32 bits end, and up to the end.
    for middle in [size / 2, 1 << 32, size - 4].into_iter().filter(|middle| *middle < size) {
        let range = middle - 3..middle + 4;
        let expected = bytes_between(&range)?;
        ensure!(store.get_range(key, range).await? == expected, "around {middle} it is something else");
    }
    let beyond = store.get_range(key, size - 1..size + 1).await;
    ensure!(matches!(beyond, Err(StorageError::Truncated { .. })), "{beyond:?}");
    note(format!("{size} bytes: written in {written:?}, all in {:?}", begun.elapsed()));
    match server {
        Server::Elsewhere => is_within_memory(size),
        Server::Here => Ok(()),
    }
}

/// Only of an object that would not fit.
fn is_within_memory(size: u64) -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    let most: u64 = most.context("VmHWM")?.trim().parse()?;
    note(format!("{most} KiB of memory at most"));
    ensure!(size >> 10 < MEMORY_MAX_KIB || most < MEMORY_MAX_KIB, "{most} KiB of memory were taken");
    Ok(())
}
