//! What this program does when a worker is told to do a whole job, or its part of one: the command, by the worker's own configuration.
//!
//! Invariant: a stanza that the configuration does not name is refused, whatever a coordinator says.

use super::workshop::{not_that, of_job};
use crate::args::Command;
use crate::commands::{repo_sync, restore, verify};
use crate::context::{Context, Current};
use crate::settings::{RepoSyncRequest, RestoreRequest, VerifyRequest};
use async_trait::async_trait;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::job::JobKind;
use pgconvoy_core::wire::{AssistOrder, CopyOrder, ErrandEnd, ErrandOrder};
use pgconvoy_worker::desk::Desk;
use pgconvoy_worker::errand::Errands;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The commands, by the configuration of a worker's host.
pub struct CommandErrands(Arc<Current>);

impl CommandErrands {
    pub fn new(context: Arc<Current>) -> CommandErrands {
        CommandErrands(context)
    }

    /// What was ordered, as if it had been typed here.
    fn typed(&self, order: &ErrandOrder) -> Result<(Context, Command), Failure> {
        let ErrandOrder { kind, stanza, options } = order;
        let current = self.0.get();
        if !current.config.stanzas.contains_key(stanza) {
            let message = format!("the configuration of this worker does not name stanza {stanza}");
            return Err(Failure::new(ErrorCode::OptionInvalidValue, message)
                .hint(format!("add [stanza.{stanza}] there if the worker is to see its data")));
        }
        of_job(&current, *kind, stanza, options)
    }

    fn restore_request(&self, order: &ErrandOrder) -> Result<(Context, RestoreRequest), Failure> {
        match self.typed(order)? {
            (context, Command::Restore(args)) => {
                let request = RestoreRequest::new(&context, &args)?;
                Ok((context, request))
            }
            (_, other) => Err(not_that(&other)),
        }
    }

    fn sync_request(&self, order: &ErrandOrder) -> Result<RepoSyncRequest, Failure> {
        match self.typed(order)? {
            (context, Command::RepoSync(args)) => RepoSyncRequest::for_job(&context, &args),
            (_, other) => Err(not_that(&other)),
        }
    }
}

#[async_trait]
impl Errands for CommandErrands {
    async fn run(&self, order: ErrandOrder, cancel: CancellationToken) -> Result<ErrandEnd, Failure> {
        match self.typed(&order)? {
            (context, Command::Verify(args)) => {
                let verified = verify::verified(&VerifyRequest::new(&context, &args)?, cancel).await?;
                let (result, failure) = (verified.to_json(), verified.verdict().err());
                Ok(ErrandEnd { result: Some(result.to_string()), failure })
            }
            (_, other) => Err(not_that(&other)),
        }
    }

    async fn lead(
        &self,
        order: ErrandOrder,
        desk: Arc<Desk>,
        cancel: CancellationToken,
    ) -> Result<ErrandEnd, Failure> {
        if order.kind == JobKind::RepoSync {
            return repo_sync::shared(&self.sync_request(&order)?, desk, cancel).await;
        }
        let (context, request) = self.restore_request(&order)?;
        let result = restore::shared(&context, &request, desk, cancel).await?;
        Ok(ErrandEnd { result: Some(result.to_string()), failure: None })
    }

    async fn copy(
        &self,
        order: CopyOrder,
        desk: Arc<Desk>,
        cancel: CancellationToken,
    ) -> Result<(), Failure> {
        repo_sync::help(&self.sync_request(&order.errand)?, order, desk, cancel).await
    }

    async fn assist(
        &self,
        order: AssistOrder,
        desk: Arc<Desk>,
        cancel: CancellationToken,
    ) -> Result<(), Failure> {
        let (context, request) = self.restore_request(&order.errand)?;
        restore::assist(&context, &request, order, desk, cancel).await
    }
}
