//! A stream to a source, for a thread that waits for it: with a limit, and no longer than the job lasts.

use super::thrift::Passage;
use super::{Peer, RemoteSources, unreached};
use crate::job::{JobContext, job_over};
use crate::serving::protocol::{Answer, CHUNK_BYTES, Intake};
use bytes::Bytes;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::WorkerName;
use pgconvoy_core::wire::RemoteSource;
use pgconvoy_transport::connection::FRAME_BYTES_MAX;
use pgconvoy_transport::{Stream, StreamWriter, TransportError};
use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

pub(super) struct Line {
    writer: Box<dyn StreamWriter>,
    intake: Intake,
    /// Keeps the connection.
    peer: Arc<Peer>,
    waiter: Waiter,
    begun: Instant,
    passage: Passage,
}

struct Waiter {
    remote: RemoteSource,
    runtime: Handle,
    patience: Duration,
    ended: CancellationToken,
}

impl Waiter {
    fn wait<T>(&self, work: impl Future<Output = Result<T, TransportError>>) -> Result<T, Failure> {
        let limited = async { timeout(self.patience, work).await };
        let done = self.runtime.block_on(self.ended.run_until_cancelled(limited)).ok_or_else(job_over)?;
        let silent = || TransportError::Timeout { what: "a wish", after: self.patience };
        done.unwrap_or_else(|_| Err(silent())).map_err(|error| unreached(&self.remote, error))
    }
}

impl Line {
    pub(super) fn open(context: &JobContext, remote: &RemoteSource) -> Result<Line, Failure> {
        let patience = Duration::from_millis(context.units.stall_timeout_ms);
        let (runtime, ended) = (context.runtime.clone(), context.ended.clone());
        let sources: &RemoteSources = &context.remote;
        let opening = ended.run_until_cancelled(sources.open(remote, patience));
        let (stream, peer) = runtime.block_on(opening).ok_or_else(job_over)??;
        let Stream { writer, reader } = stream;
        let intake = Intake::new(reader, format!("worker {}", remote.worker));
        let waiter = Waiter { remote: remote.clone(), runtime, patience, ended };
        let passage = Passage { is_squeezed: peer.thrift().squeezes(), ..Passage::default() };
        Ok(Line { writer, intake, peer, waiter, begun: Instant::now(), passage })
    }

    /// Whether the bytes of this attempt are to come as lz4.
    pub(super) fn is_squeezed(&self) -> bool {
        self.passage.is_squeezed
    }

    pub(super) fn worker(&self) -> &WorkerName {
        &self.waiter.remote.worker
    }

    pub(super) fn say(&mut self, bytes: Bytes) -> Result<(), Failure> {
        self.waiter.wait(self.writer.write(bytes))
    }

    /// The next answer, and the bytes that come with it.
    pub(super) fn answer(&mut self) -> Result<(Answer, VecDeque<Bytes>), Failure> {
        let intake = &mut self.intake;
        let wanted = Instant::now();
        let (answer, body) = self.waiter.wait(async move {
            let answer: Option<Answer> = intake.message(FRAME_BYTES_MAX).await?;
            // Whoever has something to say about the end has said so.
            let answer = answer.ok_or(TransportError::StreamReset)?;
            let body = match &answer {
                Answer::Bytes { stored, .. } if *stored > CHUNK_BYTES => {
                    return Err(intake.garbage(*stored as usize, "more than a chunk can be"));
                }
                Answer::Bytes { stored, .. } => intake.body(*stored as usize).await?,
                _ => VecDeque::new(),
            };
            Ok((answer, body))
        })?;
        self.passage.waited += wanted.elapsed();
        if let Answer::Bytes { raw, .. } = &answer {
            self.passage.bytes += u64::from(*raw);
            self.passage.took = self.begun.elapsed();
        }
        Ok((answer, body))
    }

    /// It answers something that it was not asked.
    pub(super) fn nonsense(&self) -> Failure {
        let message = format!("source {} answers something that it was not asked", self.worker());
        Failure::new(ErrorCode::Protocol, message)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.peer.thrift().learn(self.passage);
    }
}
