//! Reads a segment of WAL out of the archive, for a backup that stores it too.
//!
//! Any repository of the job has it. Units and attempts are spread over them, and one that cannot open it is passed by; one that
//! breaks off fails the attempt, and the next attempt begins with another one.

use crate::job::JobContext;
use pgconvoy_core::failure::{Context, ErrorCode, Failure};
use pgconvoy_core::ids::RepoKey;
use pgconvoy_core::pg::{WalFileName, WalSegmentName};
use pgconvoy_core::wire::{UnitOrder, UnitPart};
use pgconvoy_repository::wal::WalReader;
use pgconvoy_repository::{Repository, RepositoryError};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;
use tokio::time::timeout;

/// Frames between the store and the slot.
const FRAMES_IN_FLIGHT: usize = 2;

enum Piece {
    Frame(Vec<u8>),
    /// The segment's SHA-1 was proved. Without it a queue that ends is a read that broke off.
    End,
}

type Sent = Result<Piece, Failure>;

pub(super) struct Archived {
    frames: Receiver<Sent>,
    is_over: bool,
    current: Vec<u8>,
    /// How much of `current` was handed out.
    taken: usize,
    patience: Duration,
}

impl Archived {
    /// Blocks. Called on a slot's own thread.
    pub(super) fn open(
        context: &JobContext,
        order: &UnitOrder,
        part: &UnitPart,
    ) -> Result<Archived, Failure> {
        let segment: WalSegmentName =
            part.path.file_name().parse().map_err(|_| {
                Failure::new(ErrorCode::Assert, format!("{} is no segment of WAL", part.path))
            })?;
        let patience = Duration::from_millis(context.units.stall_timeout_ms);
        let mut failure = Failure::new(ErrorCode::Assert, "WAL was to be copied from no repository");
        for key in candidates(order) {
            let Some(repository) = context.repositories.get(&key) else { continue };
            let place = format!("repo {key}");
            match open(context, repository, segment, patience).context(&place) {
                Ok(reader) => {
                    let (sender, frames) = sync_channel(FRAMES_IN_FLIGHT);
                    let (repository, runtime) = (repository.clone(), context.runtime.clone());
                    context.runtime.spawn_blocking(move || {
                        let read = runtime.block_on(hand_over(&reader, &repository, &sender));
                        // Nobody reads any more if this fails.
                        let _ = sender.send(read.map(|()| Piece::End).context(place));
                    });
                    return Ok(Archived { frames, is_over: false, current: Vec::new(), taken: 0, patience });
                }
                Err(other) => failure = other,
            }
        }
        Err(failure)
    }

    /// Fills as much of the buffer as there is. Less only at the end, which is told only after the segment's SHA-1 was proved.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, Failure> {
        let mut filled = 0;
        while filled < buffer.len() && !self.is_over {
            if self.taken == self.current.len() {
                match self.frames.recv_timeout(self.patience) {
                    Ok(piece) => match piece? {
                        Piece::Frame(frame) => (self.current, self.taken) = (frame, 0),
                        Piece::End => self.is_over = true,
                    },
                    Err(RecvTimeoutError::Disconnected) => return Err(broken_off()),
                    Err(RecvTimeoutError::Timeout) => return Err(silent(self.patience)),
                }
            }
            let rest = self.current.get(self.taken..).unwrap_or_default();
            let count = rest.len().min(buffer.len() - filled);
            buffer[filled..filled + count].copy_from_slice(&rest[..count]);
            (filled, self.taken) = (filled + count, self.taken + count);
        }
        Ok(filled)
    }
}

/// Those of the unit, each first in its turn.
fn candidates(order: &UnitOrder) -> Vec<RepoKey> {
    let mut candidates = order.repositories.clone();
    let turn = (order.unit.0 as usize).wrapping_add(order.attempt.0 as usize);
    let first = turn.checked_rem(candidates.len()).unwrap_or_default();
    candidates.rotate_left(first);
    candidates
}

fn open(
    context: &JobContext,
    repository: &Arc<Repository>,
    segment: WalSegmentName,
    patience: Duration,
) -> Result<WalReader, Failure> {
    let (stanza, archive) = (&context.units.stanza, context.units.archive);
    let file = WalFileName::Segment(segment);
    let opening = async { timeout(patience, repository.open_wal(stanza, archive, &file)).await };
    match context.runtime.block_on(opening) {
        Ok(found) => found?.ok_or_else(|| {
            Failure::new(
                ErrorCode::FileMissing,
                format!("WAL segment {segment} is not in the archive any more"),
            )
            .hint("something removed it since the backup began: was it expired, or deleted by hand?")
        }),
        Err(_) => Err(silent(patience)),
    }
}

async fn hand_over(
    reader: &WalReader,
    repository: &Repository,
    frames: &SyncSender<Sent>,
) -> Result<(), Failure> {
    let mut is_wanted = true;
    let read = reader.read(repository, |frame| {
        is_wanted &= frames.send(Ok(Piece::Frame(frame.to_vec()))).is_ok();
        let broken_off = || RepositoryError::Interrupted { what: "copying WAL" };
        if is_wanted { Ok(()) } else { Err(broken_off()) }
    });
    Ok(read.await?)
}

fn broken_off() -> Failure {
    Failure::new(ErrorCode::FileRead, "reading WAL for the backup ended without saying why").retryable()
}

fn silent(patience: Duration) -> Failure {
    let message = format!("no answer within {} s", patience.as_secs_f64());
    Failure::new(ErrorCode::FileRead, message).hint("--io-timeout sets how long to wait").retryable()
}
