//! What this program does when a worker is told to do a whole job: the command, by the worker's own configuration.
//!
//! Invariant: a stanza that the configuration does not name is refused, whatever a coordinator says.

use super::workshop::{not_that, of_job};
use crate::args::Command;
use crate::commands::{restore, verify};
use crate::context::Context;
use crate::settings::{RestoreRequest, VerifyRequest};
use async_trait::async_trait;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::job::JobKind;
use pgconvoy_core::wire::{ErrandEnd, ErrandOrder};
use pgconvoy_worker::errand::Errands;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The commands, by the configuration of a worker's host.
pub struct CommandErrands(Arc<Context>);

impl CommandErrands {
    pub fn new(context: Arc<Context>) -> CommandErrands {
        CommandErrands(context)
    }
}

#[async_trait]
impl Errands for CommandErrands {
    async fn run(&self, order: ErrandOrder, cancel: CancellationToken) -> Result<ErrandEnd, Failure> {
        let ErrandOrder { kind, stanza, options } = order;
        if !self.0.config.stanzas.contains_key(&stanza) {
            let message = format!("the configuration of this worker does not name stanza {stanza}");
            return Err(Failure::new(ErrorCode::OptionInvalidValue, message)
                .hint(format!("add [stanza.{stanza}] there if the worker is to see its data")));
        }
        let (context, command) = of_job(&self.0, kind, &stanza, &options)?;
        let (result, failure) = match (kind, command) {
            (JobKind::Verify, Command::Verify(args)) => {
                let verified = verify::verified(&VerifyRequest::new(&context, &args)?, cancel).await?;
                (verified.to_json(), verified.verdict().err())
            }
            (JobKind::Restore, Command::Restore(args)) => {
                let request = RestoreRequest::new(&context, &args)?;
                (restore::as_errand(&context, &request, cancel).await?, None)
            }
            (_, other) => return Err(not_that(&other)),
        };
        Ok(ErrandEnd { result: Some(result.to_string()), failure })
    }
}
