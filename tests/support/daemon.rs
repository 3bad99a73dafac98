//! A process of a fleet: started, watched, frozen, killed.

use super::process::{Finished, Running};
use super::{Context, Pgconvoy, Result, ensure, limits, note};
use rustix::process::Signal;
use std::path::{Path, PathBuf};

/// A process that goes on until it is told to stop. Dropping it kills it.
pub struct Daemon {
    pub name: String,
    kind: &'static str,
    pub program: Pgconvoy,
    running: Option<Running>,
    /// As systemd would name it.
    notify_socket: Option<PathBuf>,
}

impl Daemon {
    pub fn new(kind: &'static str, name: &str, program: Pgconvoy) -> Daemon {
        Daemon { name: name.to_owned(), kind, program, running: None, notify_socket: None }
    }

    pub fn start(&mut self) -> Result<()> {
        ensure!(self.running.is_none(), "{} runs already", self.name);
        let mut program = self.program.call([self.kind])?;
        if let Some(socket) = &self.notify_socket {
            program = program.env("NOTIFY_SOCKET", socket);
        }
        self.running = Some(program.start()?);
        Ok(())
    }

    /// Before it starts.
    pub fn notifies(&mut self, socket: &Path) {
        self.notify_socket = Some(socket.to_owned());
    }

    /// Changes the text of its configuration file; it hears of that by SIGHUP.
    pub fn reconfigure(&self, change: impl FnOnce(&str) -> String) -> Result<()> {
        let path = self.program.config_file();
        let before = std::fs::read_to_string(path)?;
        let after = change(&before);
        ensure!(before != after, "nothing changes in {}", path.display());
        std::fs::write(path, after)?;
        Ok(())
    }

    pub fn id(&self) -> Result<u32> {
        Ok(self.running.as_ref().with_context(|| format!("{} does not run", self.name))?.id())
    }

    /// What it has written to stderr so far.
    pub fn said(&self) -> Result<String> {
        self.running.as_ref().with_context(|| format!("{} does not run", self.name))?.stderr_so_far()
    }

    /// Waits until its log says that.
    pub fn await_log(&self, words: &str) -> Result<()> {
        let waited =
            limits::wait_for(&format!("'{words}' in the log of {}", self.name), limits::SOON, || {
                Ok(self.said()?.contains(words).then_some(()))
            });
        waited.with_context(|| self.said().unwrap_or_default())
    }

    pub fn is_running(&self) -> Result<bool> {
        Ok(match &self.running {
            Some(running) => !running.has_ended()?,
            None => false,
        })
    }

    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.running.as_mut().with_context(|| format!("{} does not run", self.name))?.signal(signal)
    }

    /// SIGKILL; what it had said is noted.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(running) = self.running.take() {
            note(format!("{} was killed: {}", self.name, running.kill_and_wait()?));
        }
        Ok(())
    }

    /// SIGTERM, and the end that follows.
    pub fn stop(&mut self) -> Result<Finished> {
        let mut running = self.running.take().with_context(|| format!("{} does not run", self.name))?;
        running.signal(Signal::TERM)?;
        running.wait(limits::SERVER)
    }

    pub fn freeze(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    pub fn thaw(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn thaw_if_frozen(&mut self) -> Result<()> {
        if self.running.is_some() { self.thaw() } else { Ok(()) }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.thaw_if_frozen().and_then(|()| self.kill()) {
            note(format!("{}: {error}", self.name));
        }
    }
}
