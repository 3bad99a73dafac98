//! A socket by which commands wake a background process that has nothing to do, or tell it what they noticed.
//!
//! A nudge says where to look: what there is to be seen lies in `archive_status` and in the repositories. So nothing is
//! lost with a nudge, and the process needs no hurry of its own.

use std::io;
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::path::Path;
use tokio::net::UnixDatagram;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nudge {
    /// Something waits.
    Look = 1,
    /// Some repository lacks what another has.
    CatchUp = 2,
}

impl Nudge {
    fn of(byte: u8) -> Nudge {
        if byte == Nudge::CatchUp as u8 { Nudge::CatchUp } else { Nudge::Look }
    }

    /// An error means that nobody listens.
    pub fn send(self, path: &Path) -> io::Result<()> {
        let socket = StdDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        match socket.send_to(&[self as u8], path) {
            Ok(_) => Ok(()),
            // Its queue is full: it will look.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The end that is woken. Without a socket it sleeps on: then its own looks have to do.
pub(super) struct Nudges(Option<UnixDatagram>);

impl Nudges {
    /// Only for who holds the lock: a socket that is there is a dead process's.
    pub(super) fn listen(path: &Path) -> Nudges {
        let _ = std::fs::remove_file(path);
        match UnixDatagram::bind(path) {
            Ok(socket) => Nudges(Some(socket)),
            Err(error) => {
                tracing::debug!("nobody can wake this process: {error}");
                Nudges(None)
            }
        }
    }

    /// Resolves when somebody nudged. Many at once are one, which says the most.
    pub(super) async fn next(&self) -> Nudge {
        let Some(socket) = &self.0 else { return std::future::pending().await };
        let mut byte = [0; 1];
        if socket.recv(&mut byte).await.is_err() {
            return std::future::pending().await;
        }
        let mut nudge = Nudge::of(byte[0]);
        while socket.try_recv(&mut byte).is_ok() {
            nudge = nudge.max(Nudge::of(byte[0]));
        }
        nudge
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
        let path = folder.path().join("nudge");
        assert!(Nudge::Look.send(&path).is_err());
        let nudges = Nudges::listen(&path);
        let woken = async || timeout(Duration::from_millis(50), nudges.next()).await.ok();
        assert_eq!(woken().await, None);
        for nudge in [Nudge::Look, Nudge::CatchUp, Nudge::Look] {
            nudge.send(&path).unwrap();
        }
        assert_eq!(woken().await, Some(Nudge::CatchUp));
        assert_eq!(woken().await, None, "many at once are one");
        drop(nudges);
        assert!(Nudge::Look.send(&path).is_err(), "what a dead process left listens to nobody");
    }
}
