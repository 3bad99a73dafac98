//! How a daemon is told to stop: a signal asks it to drain, a second one or the end of its patience to end at once.

use pgconvoy_core::failure::{ErrorCode, Failure};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    Drain,
    Now,
}

pub struct Stops {
    terminate: Signal,
    interrupt: Signal,
    asked: Option<Instant>,
}

impl Stops {
    pub fn listen() -> Result<Stops, Failure> {
        let failed = |error: std::io::Error| {
            Failure::new(ErrorCode::Unknown, format!("cannot wait for signals: {error}"))
        };
        Ok(Stops {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            asked: None,
        })
    }

    /// Tells systemd, where it started this process.
    pub fn tell_ready(&self) {
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
            tracing::debug!("nobody was told that the daemon is ready: {error}");
        }
    }

    /// The next word; after the first one, it comes by itself when the patience is over.
    pub async fn next(&mut self, patience: Duration) -> Stop {
        let overdue = async {
            match self.asked {
                Some(asked) => tokio::time::sleep_until(asked + patience).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            () = overdue => {}
        }
        match self.asked.replace(Instant::now()) {
            None => Stop::Drain,
            Some(_) => Stop::Now,
        }
    }
}
