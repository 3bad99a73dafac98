//! Running programs as the test user: output kept, time limited, gone on drop.
//!
//! Output goes to files, not pipes: a server started by `pg_ctl` inherits them and would keep a pipe open for ever.
//! A program leads a process group of its own, so a kill reaches its children and nobody else.

use super::limits::wait_for;
use super::{Context, Json, Result, bail, ensure, user};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A program to run, as the test user unless said otherwise.
pub struct Program {
    command: Command,
}

impl Program {
    pub fn new(path: impl AsRef<OsStr>) -> Result<Program> {
        let user = user::test_user()?;
        let mut program = Program::as_ourselves(path);
        if user.switched {
            program.command.uid(user.uid).gid(user.gid);
        }
        Ok(program)
    }

    /// Without stepping down: for what only root may do.
    pub fn as_ourselves(path: impl AsRef<OsStr>) -> Program {
        let mut command = Command::new(path);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("LC_ALL", "C").env("HOME", "/").env("RUST_BACKTRACE", "1");
        command.current_dir("/").process_group(0).stdin(Stdio::null());
        Program { command }
    }

    pub fn arg(mut self, value: impl AsRef<OsStr>) -> Self {
        self.command.arg(value);
        self
    }

    pub fn args<S: AsRef<OsStr>>(mut self, values: impl IntoIterator<Item = S>) -> Self {
        self.command.args(values);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn current_dir(mut self, path: &Path) -> Self {
        self.command.current_dir(path);
        self
    }

    pub fn stdin_text(mut self, text: &str) -> Result<Self> {
        let mut file = tempfile::tempfile()?;
        file.write_all(text.as_bytes())?;
        file.rewind()?;
        self.command.stdin(file);
        Ok(self)
    }

    pub fn start(mut self) -> Result<Running> {
        let (stdout, stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
        self.command.stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
        let shown = show(&self.command);
        let child = self.command.spawn().with_context(|| format!("start {shown}"))?;
        Ok(Running { child, shown, stdout, stderr, started: Instant::now(), reaped: false })
    }

    pub fn run(self, limit: Duration) -> Result<Finished> {
        self.start()?.wait(limit)
    }
}

fn show(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

/// A program that runs. Dropping it kills it.
pub struct Running {
    child: Child,
    shown: String,
    stdout: File,
    stderr: File,
    started: Instant,
    reaped: bool,
}

impl Running {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn pid(&self) -> Result<Pid> {
        Pid::from_raw(i32::try_from(self.child.id())?).context("a child has process id 0")
    }

    /// What it has said so far.
    pub fn stderr_so_far(&self) -> Result<String> {
        // The cursor belongs to the program too.
        let mut bytes = vec![0; usize::try_from(self.stderr.metadata()?.len())?];
        let read = self.stderr.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// SIGKILL to the program and to all that it started.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)
    }

    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if !self.reaped {
            // A group whose last process has just ended is what the caller wanted.
            match rustix::process::kill_process_group(self.pid()?, signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error).context(self.shown.clone()),
            }
        }
        Ok(())
    }

    /// Whether it has ended, without reaping it: that is [`Running::wait`]'s, which counts.
    pub fn has_ended(&self) -> Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(self.reaped || rustix::process::waitid(WaitId::Pid(self.pid()?), options)?.is_some())
    }

    /// Waits for the end; kills it and fails when the limit passes.
    pub fn wait(mut self, limit: Duration) -> Result<Finished> {
        let ended = wait_for(&self.shown.clone(), limit, || Ok(self.has_ended()?.then_some(())));
        if let Err(error) = ended {
            self.kill()?;
            let finished = self.reap()?;
            bail!("{error}\n{finished}");
        }
        self.reap()
    }

    /// Kills it at once; what it had written until then is kept.
    pub fn kill_and_wait(mut self) -> Result<Finished> {
        self.kill()?;
        self.wait(super::limits::SOON)
    }

    /// Since it was started.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Lets it run for a while, then kills it. What it did not live to say is in the result.
    pub fn kill_after(self, moment: Duration) -> Result<Finished> {
        wait_for("the moment of the kill", moment + super::limits::SOON, || {
            Ok((self.started.elapsed() >= moment || self.has_ended()?).then_some(()))
        })?;
        self.kill_and_wait()
    }

    fn reap(&mut self) -> Result<Finished> {
        let elapsed = self.started.elapsed();
        let before = IoCounters::ours()?;
        let status = self.child.wait()?;
        let io = IoCounters::ours()?.since(before);
        self.reaped = true;
        Ok(Finished {
            shown: self.shown.clone(),
            code: status.code(),
            signal: status.signal(),
            stdout: text_of(&mut self.stdout)?,
            stderr: text_of(&mut self.stderr)?,
            elapsed,
            io,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.reaped && self.kill().is_ok() {
            drop(self.child.wait());
        }
    }
}

fn text_of(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What the kernel counted for a process, all threads, children that were waited for included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoCounters {
    /// Bytes that read calls returned, from the page cache or from the disk.
    pub read_bytes: u64,
    /// Bytes handed to write calls.
    pub written_bytes: u64,
}

impl IoCounters {
    /// Of this process and of all the children that it has waited for: the kernel adds a child's when it is reaped, so
    /// the difference around that moment is the child's own. (A dead child's own file is for root only.)
    fn ours() -> Result<IoCounters> {
        let text = std::fs::read_to_string("/proc/self/io").context("/proc/self/io")?;
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        let (read_bytes, written_bytes) =
            (field("rchar:").context("rchar")?, field("wchar:").context("wchar")?);
        Ok(IoCounters { read_bytes, written_bytes })
    }

    fn since(self, before: IoCounters) -> IoCounters {
        IoCounters {
            read_bytes: self.read_bytes.saturating_sub(before.read_bytes),
            written_bytes: self.written_bytes.saturating_sub(before.written_bytes),
        }
    }
}

/// A program that has ended.
#[derive(Debug, Clone)]
pub struct Finished {
    pub shown: String,
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub elapsed: Duration,
    pub io: IoCounters,
}

impl Finished {
    /// The output of a program that must have succeeded.
    pub fn ok(self) -> Result<Finished> {
        ensure!(self.code == Some(0), "{self}");
        Ok(self)
    }

    pub fn with_code(self, code: i32) -> Result<Finished> {
        ensure!(self.code == Some(code), "exit code {code} was expected\n{self}");
        Ok(self)
    }

    /// stdout as the one JSON value that it must be.
    pub fn json(&self) -> Result<Json> {
        serde_json::from_str(self.stdout.trim()).with_context(|| format!("stdout is not JSON\n{self}"))
    }

    pub fn has_hint(&self) -> bool {
        self.stderr.lines().any(|line| line.trim_start().starts_with("HINT: "))
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{} -> exit {:?}, signal {:?}, after {:?}",
            self.shown, self.code, self.signal, self.elapsed
        )?;
        write!(f, "--- stdout\n{}\n--- stderr\n{}", self.stdout.trim_end(), self.stderr.trim_end())
    }
}
