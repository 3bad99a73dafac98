//! The computing side of a push: read, hash, compress on several threads, seal in order.
//!
//! ```text
//! read --> SHA-1 --+--> lane 0: compress --+--> seal per repository --> [bounded queue] --> uploads
//!                  +--> lane 1: compress --+
//! ```
//!
//! Invariants
//! 1. Frame n goes to lane n modulo their number and is taken back from there, so frames leave in the order of the file.
//! 2. Memory is bounded: a lane holds at most [`LANE_DEPTH`] frames.
//! 3. A lane starts with its first frame: a history file costs one thread, not four.

use super::{PushManner, THREADS_MAX, WalSource};
use crate::codec::{Codec, Compressor};
use crate::error::RepositoryError;
use crate::object::ObjectEncoder;
use bytes::Bytes;
use pgconvoy_core::format::object::{FRAME_RAW_BYTES, TAG_BYTES};
use pgconvoy_core::format::wal::WalBody;
use sha1::{Digest, Sha1};
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;
use tokio::sync::mpsc;

/// One frame being compressed and one waiting keep a lane busy.
const LANE_DEPTH: usize = 2;

/// One piece of the object for each target; an error ends that target's object.
pub(super) type Pieces = Vec<(usize, Result<Bytes, RepositoryError>)>;

/// By which two files of one name are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plain {
    pub(super) size: u64,
    pub(super) sha1: [u8; 20],
}

pub(super) fn digest(source: &WalSource) -> io::Result<Plain> {
    let mut reader = source()?;
    let (mut size, mut sha1) = (0, Sha1::new());
    let mut buffer = vec![0; FRAME_RAW_BYTES];
    loop {
        let read = read_full(reader.as_mut(), &mut buffer)?;
        size += read as u64;
        sha1.update(&buffer[..read]);
        if read < buffer.len() {
            return Ok(Plain { size, sha1: sha1.finalize().into() });
        }
    }
}

/// Fills the buffer unless the file ends first.
fn read_full(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Hands all pieces of the object behind its header to `sender`. Blocks.
pub(super) fn compress(
    source: &WalSource,
    name: String,
    encoders: Vec<(usize, ObjectEncoder)>,
    manner: &PushManner,
    sender: &mpsc::Sender<Pieces>,
) -> io::Result<Plain> {
    let mut reader = source()?;
    let mut sealing = Sealing { encoders, sender };
    let (mut size, mut sha1) = (0u64, Sha1::new());
    std::thread::scope(|scope| {
        let mut lanes = Lanes::new(scope, manner);
        loop {
            let mut raw = lanes.spare();
            raw.resize(FRAME_RAW_BYTES, 0);
            let read = read_full(reader.as_mut(), &mut raw)?;
            raw.truncate(read);
            if raw.is_empty() {
                break;
            }
            size += read as u64;
            sha1.update(&raw);
            if let Some(frame) = lanes.put(raw)? {
                sealing.frame(frame)?;
            }
        }
        while let Some(frame) = lanes.take()? {
            sealing.frame(frame)?;
        }
        Ok::<_, io::Error>(())
    })?;
    let mut compressor = Compressor::new(manner.codec, manner.level).map_err(io::Error::other)?;
    let plain = Plain { size, sha1: sha1.finalize().into() };
    sealing.finish(&WalBody { name, size, sha1: plain.sha1 }, &mut compressor)?;
    Ok(plain)
}

struct Frame {
    stored: Vec<u8>,
    codec: Codec,
    raw_bytes: u32,
}

/// What a lane gives back: the frame, and the buffer to fill again.
type Compressed = io::Result<(Frame, Vec<u8>)>;

struct Lane {
    raw: SyncSender<Vec<u8>>,
    compressed: Receiver<Compressed>,
}

/// Compressing threads that keep the order of frames.
struct Lanes<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    manner: &'env PushManner,
    lanes: Vec<Lane>,
    lanes_max: usize,
    put: usize,
    taken: usize,
    spare: Vec<Vec<u8>>,
}

impl<'scope, 'env> Lanes<'scope, 'env> {
    fn new(scope: &'scope Scope<'scope, 'env>, manner: &'env PushManner) -> Self {
        let lanes_max = manner.threads.clamp(1, THREADS_MAX);
        Lanes { scope, manner, lanes: Vec::new(), lanes_max, put: 0, taken: 0, spare: Vec::new() }
    }

    /// A buffer whose content does not matter.
    fn spare(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Gives a frame to its lane. Where all lanes are full, the oldest frame comes out first.
    fn put(&mut self, raw: Vec<u8>) -> io::Result<Option<Frame>> {
        let is_full = self.put - self.taken == self.lanes_max * LANE_DEPTH;
        let oldest = if is_full { self.take()? } else { None };
        if self.lanes.len() < self.lanes_max && self.put == self.lanes.len() {
            let lane = self.start()?;
            self.lanes.push(lane);
        }
        self.lanes[self.put % self.lanes_max].raw.send(raw).map_err(|_| lane_died())?;
        self.put += 1;
        Ok(oldest)
    }

    /// The oldest frame that was put and not taken.
    fn take(&mut self) -> io::Result<Option<Frame>> {
        if self.taken == self.put {
            return Ok(None);
        }
        let (frame, raw) =
            self.lanes[self.taken % self.lanes_max].compressed.recv().map_err(|_| lane_died())??;
        self.taken += 1;
        self.spare.push(raw);
        Ok(Some(frame))
    }

    fn start(&self) -> io::Result<Lane> {
        let (raw, work) = sync_channel::<Vec<u8>>(LANE_DEPTH);
        let (done, compressed) = sync_channel(LANE_DEPTH);
        let mut compressor =
            Compressor::new(self.manner.codec, self.manner.level).map_err(io::Error::other)?;
        let compressing = move || {
            for raw in work {
                if done.send(compress_frame(&mut compressor, raw)).is_err() {
                    break;
                }
            }
        };
        std::thread::Builder::new().spawn_scoped(self.scope, compressing)?;
        Ok(Lane { raw, compressed })
    }
}

fn lane_died() -> io::Error {
    io::Error::other("a compressing thread ended")
}

fn compress_frame(compressor: &mut Compressor, raw: Vec<u8>) -> Compressed {
    let mut stored = Vec::with_capacity(raw.len() / 2);
    let codec = compressor.compress(&raw, &mut stored).map_err(io::Error::other)?;
    let raw_bytes = u32::try_from(raw.len()).expect("a frame is far below 4 GiB");
    Ok((Frame { stored, codec, raw_bytes }, raw))
}

/// The objects being made, one for each target that has not failed.
struct Sealing<'a> {
    encoders: Vec<(usize, ObjectEncoder)>,
    sender: &'a mpsc::Sender<Pieces>,
}

impl Sealing<'_> {
    fn frame(&mut self, frame: Frame) -> io::Result<()> {
        self.each(|encoder| {
            let mut copy = Vec::with_capacity(frame.stored.len() + TAG_BYTES);
            copy.extend_from_slice(&frame.stored);
            encoder.frame(frame.codec, frame.raw_bytes, copy)
        })
    }

    fn finish(mut self, body: &WalBody, compressor: &mut Compressor) -> io::Result<()> {
        self.each(|encoder| encoder.finish(body, compressor))
    }

    /// Makes a piece with every encoder; one that fails makes no more.
    fn each(
        &mut self,
        mut piece: impl FnMut(&mut ObjectEncoder) -> Result<Bytes, RepositoryError>,
    ) -> io::Result<()> {
        let pieces: Pieces = self.encoders.iter_mut().map(|(at, encoder)| (*at, piece(encoder))).collect();
        self.encoders.retain(|(at, _)| pieces.iter().any(|(made, result)| made == at && result.is_ok()));
        self.sender.blocking_send(pieces).map_err(|_| io::Error::other("the receiving end is gone"))
    }
}
