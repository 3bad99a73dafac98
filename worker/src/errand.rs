//! Whole jobs that a worker does by itself, and how it is told to do them.

use async_trait::async_trait;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::wire::{ErrandEnd, ErrandOrder};
use tokio_util::sync::CancellationToken;

/// Does errands. Given by whoever knows the configuration and the commands.
#[async_trait]
pub trait Errands: Send + Sync {
    /// An error means that it was not done; what the command found out is in the end.
    async fn run(&self, order: ErrandOrder, cancel: CancellationToken) -> Result<ErrandEnd, Failure>;
}
