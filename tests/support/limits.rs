//! How long the tests wait for what, in one place. Generous: they end a hang, they measure nothing.

use super::{Result, bail};
use std::time::{Duration, Instant};

/// One `pgconvoy` command on a small cluster; takes seconds, several times that on a busy machine without optimisation.
pub const COMMAND: Duration = Duration::from_secs(180);
/// One `pgconvoy` command, or one of PostgreSQL's checkers, on the cluster of a gigabyte.
pub const LARGE_COMMAND: Duration = Duration::from_secs(900);
/// One query or one of PostgreSQL's small tools.
pub const TOOL: Duration = Duration::from_secs(120);
/// Start or stop of a server.
pub const SERVER: Duration = Duration::from_secs(90);
/// Replay of what a test wrote.
pub const RECOVERY: Duration = Duration::from_secs(180);
/// A condition that another process is about to bring about.
pub const SOON: Duration = Duration::from_secs(60);
/// Between two looks at a condition.
const POLL: Duration = Duration::from_millis(10);

/// The same limit as [`SOON`] for what is awaited.
pub async fn within<T>(work: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(SOON, work).await.map_err(|_| super::anyhow!("not within {SOON:?}"))
}

/// Looks until `ready` has a value, `limit` at the longest.
pub fn wait_for<T>(what: &str, limit: Duration, mut ready: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = ready()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {limit:?}");
        }
        // Bounded by the timeout above.
        std::thread::sleep(POLL);
    }
}
