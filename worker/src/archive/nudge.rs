//! A socket by which commands wake a background process that has nothing to do.
//!
//! A nudge says "look": what there is to be seen lies in `archive_status`, and the answer in the spool. So nothing is lost
//! with a nudge, and the process needs no hurry of its own.

use std::io;
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::path::Path;
use tokio::net::UnixDatagram;

pub(super) const NAME: &str = "nudge";

/// The end that is woken. Without a socket it sleeps on: then its own looks have to do.
pub(super) struct Nudges(Option<UnixDatagram>);

impl Nudges {
    /// Only for who holds the lock: a socket that is there is a dead process's.
    pub(super) fn listen(path: Option<&Path>) -> Nudges {
        let bind = |path: &Path| {
            let _ = std::fs::remove_file(path);
            UnixDatagram::bind(path)
        };
        Nudges(path.and_then(|path| match bind(path) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::debug!("nobody can wake this process: {error}");
                None
            }
        }))
    }

    /// Resolves when somebody nudged.
    pub(super) async fn next(&self) {
        let Some(socket) = &self.0 else { return std::future::pending().await };
        if socket.recv(&mut [0; 1]).await.is_err() {
            std::future::pending::<()>().await;
        }
        // Many at once are one.
        while socket.try_recv(&mut [0; 1]).is_ok() {}
    }
}

/// An error means that nobody listens.
pub(super) fn send(path: &Path) -> io::Result<()> {
    let socket = StdDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    match socket.send_to(&[0], path) {
        Ok(_) => Ok(()),
        // Its queue is full: it will look.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test]
    async fn a_nudge_wakes_once_and_nobody_is_woken_where_nobody_listens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        assert!(send(&path).is_err());
        let nudges = Nudges::listen(Some(&path));
        let is_woken = async || timeout(Duration::from_millis(50), nudges.next()).await.is_ok();
        assert!(!is_woken().await);
        send(&path).unwrap();
        send(&path).unwrap();
        assert!(is_woken().await);
        assert!(!is_woken().await, "two at once are one");
        drop(nudges);
        assert!(send(&path).is_err(), "what a dead process left listens to nobody");
    }
}
