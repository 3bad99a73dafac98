//! The computing side of a push: read, hash, compress on several threads, seal in order.
//!
//! ```text
//! read --> SHA-1 --+--> compress here, where no lane has room --+--> seal per repository --> [bounded queue] --> uploads
//!                  +--> lane 0: compress ------------------------+
//!                  +--> lane 1: compress ------------------------+
//! ```
//!
//! Who reads compresses too: where several files are pushed side by side, none of them hands a frame from core to core.
//!
//! Invariants
//! 1. Frames leave in the order of the file, whoever compressed them.
//! 2. Memory is bounded: a lane holds at most [`LANE_DEPTH`] frames, and at most [`PENDING_MAX`] wait for the oldest.
//! 3. A further lane starts when all others are full: a history file costs one thread, not four.

use super::threads::Running;
use super::{PushManner, THREADS_MAX, WalSource};
use crate::codec::{Codec, Compressor};
use crate::error::RepositoryError;
use crate::object::ObjectEncoder;
use bytes::Bytes;
use pgconvoy_core::format::object::FRAME_RAW_BYTES;
use pgconvoy_core::format::wal::WalBody;
use sha1::{Digest, Sha1};
use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::Scope;
use tokio::sync::mpsc;

/// One frame being compressed and one waiting keep a lane busy.
const LANE_DEPTH: usize = 2;
/// As many as all lanes hold, and as many again that were compressed beside them.
const PENDING_MAX: usize = 2 * LANE_DEPTH * THREADS_MAX;

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
    let _running = manner.threads.first();
    let mut compressor = manner.threads.compressor(manner).map_err(io::Error::other)?;
    std::thread::scope(|scope| {
        let mut lanes = Lanes::new(scope, manner);
        loop {
            let mut raw = lanes.spare();
            raw.resize(FRAME_RAW_BYTES, 0);
            let read = read_full(reader.as_mut(), &mut raw)?;
            raw.truncate(read);
            if raw.is_empty() {
                lanes.spare.push(raw);
                break;
            }
            size += read as u64;
            sha1.update(&raw);
            lanes.put(raw, &mut compressor)?;
            while let Some(frame) = lanes.next_ready()? {
                sealing.frame(frame)?;
            }
        }
        while let Some(frame) = lanes.next()? {
            sealing.frame(frame)?;
        }
        manner.threads.keep_buffers(lanes.spare);
        Ok::<_, io::Error>(())
    })?;
    let plain = Plain { size, sha1: sha1.finalize().into() };
    sealing.finish(&WalBody { name, size, sha1: plain.sha1 }, &mut compressor)?;
    manner.threads.keep_compressor(manner, compressor);
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
    /// Frames that were put and not taken.
    frames: usize,
    _running: Running,
}

/// A frame that was read and has not left yet.
enum Pending {
    Compressed(Frame),
    InLane(usize),
}

/// Compressing threads beside the one that reads, which keep the order of frames.
struct Lanes<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    manner: &'env PushManner,
    lanes: Vec<Lane>,
    /// Oldest first.
    pending: VecDeque<Pending>,
    spare: Vec<Vec<u8>>,
}

impl<'scope, 'env> Lanes<'scope, 'env> {
    fn new(scope: &'scope Scope<'scope, 'env>, manner: &'env PushManner) -> Self {
        Lanes { scope, manner, lanes: Vec::new(), pending: VecDeque::new(), spare: Vec::new() }
    }

    /// A buffer whose content does not matter.
    fn spare(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_else(|| self.manner.threads.buffer())
    }

    /// Gives a frame to a lane that has room; else it is compressed here and now.
    fn put(&mut self, raw: Vec<u8>, compressor: &mut Compressor) -> io::Result<()> {
        let has_room = |lanes: &[Lane]| lanes.iter().any(|lane| lane.frames < LANE_DEPTH);
        if has_room(&self.lanes) || self.grow()? {
            let lanes = self.lanes.iter_mut().enumerate();
            let (at, lane) = lanes.min_by_key(|(_, lane)| lane.frames).ok_or_else(lane_died)?;
            lane.raw.send(raw).map_err(|_| lane_died())?;
            lane.frames += 1;
            self.pending.push_back(Pending::InLane(at));
            return Ok(());
        }
        let (frame, raw) = compress_frame(compressor, raw)?;
        self.spare.push(raw);
        self.pending.push_back(Pending::Compressed(frame));
        Ok(())
    }

    /// The oldest frame, if it is there already or too many wait for it.
    fn next_ready(&mut self) -> io::Result<Option<Frame>> {
        let at = match self.pending.front() {
            Some(Pending::InLane(at)) if self.pending.len() < PENDING_MAX => *at,
            _ => return self.next(),
        };
        match self.lanes[at].compressed.try_recv() {
            Ok(compressed) => {
                self.pending.pop_front();
                self.received(at, compressed).map(Some)
            }
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(lane_died()),
        }
    }

    /// The oldest frame that has not left.
    fn next(&mut self) -> io::Result<Option<Frame>> {
        match self.pending.pop_front() {
            Some(Pending::Compressed(frame)) => Ok(Some(frame)),
            Some(Pending::InLane(at)) => {
                let compressed = self.lanes[at].compressed.recv().map_err(|_| lane_died())?;
                self.received(at, compressed).map(Some)
            }
            None => Ok(None),
        }
    }

    fn received(&mut self, at: usize, compressed: Compressed) -> io::Result<Frame> {
        let (frame, raw) = compressed?;
        self.lanes[at].frames -= 1;
        self.spare.push(raw);
        Ok(frame)
    }

    /// Another lane, if there may be one.
    fn grow(&mut self) -> io::Result<bool> {
        if self.lanes.len() + 1 >= THREADS_MAX {
            return Ok(false);
        }
        let Some(running) = self.manner.threads.further() else { return Ok(false) };
        let lane = self.start(running)?;
        self.lanes.push(lane);
        Ok(true)
    }

    fn start(&self, running: Running) -> io::Result<Lane> {
        let (raw, work) = sync_channel::<Vec<u8>>(LANE_DEPTH);
        let (done, compressed) = sync_channel(LANE_DEPTH);
        let manner = self.manner;
        let mut compressor = manner.threads.compressor(manner).map_err(io::Error::other)?;
        let compressing = move || {
            for raw in work {
                if done.send(compress_frame(&mut compressor, raw)).is_err() {
                    break;
                }
            }
            manner.threads.keep_compressor(manner, compressor);
        };
        std::thread::Builder::new().spawn_scoped(self.scope, compressing)?;
        Ok(Lane { raw, compressed, frames: 0, _running: running })
    }
}

fn lane_died() -> io::Error {
    io::Error::other("a compressing thread ended")
}

fn compress_frame(compressor: &mut Compressor, raw: Vec<u8>) -> Compressed {
    let mut stored = Vec::new();
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
        let (mut stored, mut left) = (frame.stored, self.encoders.len());
        self.each(|encoder| {
            left -= 1;
            let own = if left == 0 { std::mem::take(&mut stored) } else { stored.clone() };
            encoder.frame(frame.codec, frame.raw_bytes, own)
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
