//! Whole jobs, and parts of shared ones, that a worker does by the commands of its program, and how it is told to do them.

use crate::desk::Desk;
use async_trait::async_trait;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::wire::{AssistOrder, CopyOrder, ErrandEnd, ErrandOrder};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Does errands. Given by whoever knows the configuration and the commands.
#[async_trait]
pub trait Errands: Send + Sync {
    /// An error means that it was not done; what the command found out is in the end.
    async fn run(&self, order: ErrandOrder, cancel: CancellationToken) -> Result<ErrandEnd, Failure>;

    /// As the main worker of a job that others help with.
    async fn lead(
        &self,
        order: ErrandOrder,
        desk: Arc<Desk>,
        cancel: CancellationToken,
    ) -> Result<ErrandEnd, Failure>;

    /// As a mate of a restore; ends when it is cancelled or cannot go on.
    async fn assist(
        &self,
        order: AssistOrder,
        desk: Arc<Desk>,
        cancel: CancellationToken,
    ) -> Result<(), Failure>;

    /// As a mate of a `repo-sync`; ends when it is cancelled or cannot go on.
    async fn copy(&self, order: CopyOrder, desk: Arc<Desk>, cancel: CancellationToken)
    -> Result<(), Failure>;
}
