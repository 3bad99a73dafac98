//! What a daemon is told by signals, and what it tells systemd, where that started it.
//!
//! SIGTERM and SIGINT ask it to drain; a second one, or the end of its patience, to end at once. SIGHUP asks it to read its
//! configuration anew.

use pgconvoy_core::failure::{ErrorCode, Failure};
use sd_notify::NotifyState;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    Reload,
    Drain,
    EndNow,
}

pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// When it was asked to drain.
    asked: Option<Instant>,
}

impl Signals {
    pub fn listen() -> Result<Signals, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                Failure::new(ErrorCode::Unknown, format!("cannot wait for signals: {error}"))
            })
        };
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
            asked: None,
        })
    }

    /// The next word; after the first that ends it, the last one comes by itself when the patience is over.
    pub async fn next(&mut self, patience: Duration) -> Word {
        let overdue = async {
            match self.asked {
                Some(asked) => tokio::time::sleep_until(asked + patience).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hangup.recv() => return Word::Reload,
            () = overdue => {}
        }
        match self.asked.replace(Instant::now()) {
            None => {
                notify(&[NotifyState::Stopping]);
                Word::Drain
            }
            Some(_) => Word::EndNow,
        }
    }
}

pub fn tell_ready() {
    notify(&[NotifyState::Ready]);
}

/// Does it between the words that systemd waits for after a SIGHUP of its own.
pub fn reloading(work: impl FnOnce()) {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!("nobody was told of the reload: {error}"),
    }
    work();
    tell_ready();
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("systemd was not told: {error}");
    }
}
