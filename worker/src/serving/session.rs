//! One attempt of a compute worker at a source: a stream from its claim to its end.
//!
//! Reading that may wait for a disk is done by blocking threads, a helping at a time, and waiting by nobody: between two wishes a
//! stream holds an open file and no thread.

use super::desk::Desk;
use super::protocol::{ASK_BYTES_MAX, Answer, Ask, CLAIM_BYTES_MAX, Claim, Intake, encode};
use super::{Hub, OpenJob};
use crate::keeper::blocking;
use bytes::Bytes;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::WorkerName;
use pgconvoy_transport::{Stream, StreamWriter, TransportError};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// A stream is opened to say something at once.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(10);
/// What a slot may wait for beside a repository that stalls: its worker's own limit, another repository.
const SLOT_PATIENCE: Duration = Duration::from_secs(60);

/// Serves the stream until it has said all, or somebody ends it.
pub(super) async fn serve(hub: Arc<Hub>, worker: WorkerName, stream: Stream) {
    let Stream { mut writer, reader } = stream;
    let mut intake = Intake::new(reader, format!("worker {worker}"));
    let claimed = timeout(CLAIM_TIMEOUT, intake.message::<Claim>(CLAIM_BYTES_MAX)).await;
    let judged = match claimed {
        Ok(Ok(Some(claim))) => hub.judge(&worker, claim),
        // Whoever says nothing hears nothing.
        Ok(Ok(None)) | Err(_) => return,
        Ok(Err(error)) => Err(error.into()),
    };
    let (job, claim) = match judged {
        Ok(judged) => judged,
        Err(failure) => {
            tracing::warn!("worker {worker} is refused: {failure}");
            let _ = timeout(CLAIM_TIMEOUT, refuse(writer.as_mut(), failure)).await;
            return;
        }
    };
    let unit = claim.unit;
    let ended = job.context.ended.clone();
    let working = Session { hub, job, intake, writer }.run(claim);
    if let Some(Err(error)) = ended.run_until_cancelled(working).await {
        tracing::debug!("unit {unit} is not served to worker {worker} any more: {error}");
    }
}

async fn refuse(writer: &mut dyn StreamWriter, failure: Failure) -> Result<(), TransportError> {
    writer.write(encode(&Answer::Failed(failure))?).await?;
    writer.finish().await
}

struct Session {
    hub: Arc<Hub>,
    job: Arc<OpenJob>,
    intake: Intake,
    writer: Box<dyn StreamWriter>,
}

impl Session {
    async fn run(mut self, claim: Claim) -> Result<(), Failure> {
        let stall = Duration::from_millis(self.job.context.units.stall_timeout_ms);
        let patience = 2 * stall + SLOT_PATIENCE;
        let mut desk = Desk::new(self.job.context.clone(), claim, self.hub.buffers.clone())?;
        loop {
            if !desk.is_asked() {
                let next = timeout(patience, self.intake.message::<Ask>(ASK_BYTES_MAX)).await;
                match next.map_err(|_| silent(patience))?? {
                    Some(ask) => desk.ask([ask]),
                    None => return Ok(self.writer.finish().await?),
                }
            }
            while desk.has_room()
                && let Some(ask) = self.intake.held_message::<Ask>(ASK_BYTES_MAX)?
            {
                desk.ask([ask]);
            }
            let room = self.hub.room().await;
            let mut answers = desk.work_at_once();
            if answers.is_empty() {
                (answers, desk) = blocking(move || Ok((desk.work(), desk))).await?;
            }
            let is_last = answers.is_last;
            if let Some(bandwidth) = &self.job.context.bandwidth {
                bandwidth.pass(answers.read).await;
            }
            let saying = self.say(answers.into_bytes(), &mut desk);
            timeout(patience, saying).await.map_err(|_| silent(patience))??;
            drop(room);
            if is_last {
                return Ok(self.writer.finish().await?);
            }
        }
    }

    /// Hears meanwhile: who is about to wish for something may take no answer before that is said.
    async fn say(&mut self, answers: Vec<Bytes>, desk: &mut Desk) -> Result<(), TransportError> {
        let Session { writer, intake, .. } = self;
        let mut writing = pin!(async {
            for bytes in answers {
                writer.write(bytes).await?;
            }
            Ok(())
        });
        let mut hears = true;
        loop {
            tokio::select! {
                biased;
                written = &mut writing => return written,
                ask = intake.message::<Ask>(ASK_BYTES_MAX), if hears && desk.has_room() => {
                    hears = ask.as_ref().is_ok_and(Option::is_some);
                    desk.ask(ask?);
                }
            }
        }
    }
}

fn silent(patience: Duration) -> Failure {
    Failure::new(ErrorCode::Protocol, format!("nothing was wished or taken for {} s", patience.as_secs()))
}
