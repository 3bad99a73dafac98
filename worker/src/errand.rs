//! Whole jobs, and parts of restores, that a worker does by the commands of its program, and how it is told to do them.

use crate::restore::Desk;
use async_trait::async_trait;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::wire::{AssistOrder, ErrandEnd, ErrandOrder};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Does errands. Given by whoever knows the configuration and the commands.
#[async_trait]
pub trait Errands: Send + Sync {
    /// An error means that it was not done; what the command found out is in the end.
    async fn run(&self, order: ErrandOrder, cancel: CancellationToken) -> Result<ErrandEnd, Failure>;

    /// As the main worker of a restore.
    async fn restore(
        &self,
        order: ErrandOrder,
        desk: Arc<Desk>,
        cancel: CancellationToken,
    ) -> Result<ErrandEnd, Failure>;

    /// As a mate; ends when it is cancelled or cannot go on.
    async fn assist(
        &self,
        order: AssistOrder,
        desk: Arc<Desk>,
        cancel: CancellationToken,
    ) -> Result<(), Failure>;
}
