//! Asking a program for the secret: a password manager, a key management service.
//!
//! Invariants
//! 1. No shell: what the configuration lists is what is run.
//! 2. It ends within [`COMMAND_TIMEOUT`], with whatever it started, and holds bounded memory.
//! 3. Of what it printed only the tail of stderr ever appears in a message.

use super::error::BadSecret;
use super::source::{KEY_TEXT_BYTES_MAX, parse_key, read_bounded};
use super::{KEY_BYTES, KeyError};
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// A key management service answers in a second; a restore should not hang on one that does not.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// The last words of a program say why it failed.
const STDERR_TAIL_BYTES: usize = 1024;
/// How often a program that closed its output is asked whether it has ended.
const EXIT_POLL: Duration = Duration::from_millis(5);

type Answer = Option<Zeroizing<Vec<u8>>>;

pub(super) fn ask(argv: &[String]) -> Result<Zeroizing<[u8; KEY_BYTES]>, KeyError> {
    ask_within(argv, COMMAND_TIMEOUT)
}

pub(super) fn ask_within(argv: &[String], timeout: Duration) -> Result<Zeroizing<[u8; KEY_BYTES]>, KeyError> {
    let (program, arguments) = argv.split_first().ok_or(KeyError::CommandEmpty)?;
    let start_error = |reason| KeyError::CommandStart { program: program.clone(), reason };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(start_error)?;
    let outcome = collect(&mut child, Instant::now() + timeout);
    if !matches!(outcome, Ok(Some(_))) {
        end_group(&mut child);
    }
    let Some((status, stdout, stderr)) = outcome.map_err(start_error)? else {
        return Err(KeyError::CommandTimeout { program: program.clone(), seconds: timeout.as_secs() });
    };
    if !status.success() {
        return Err(KeyError::CommandFailed { program: program.clone(), status: status.to_string(), stderr });
    }
    stdout
        .ok_or(BadSecret::TooLong { limit_bytes: KEY_TEXT_BYTES_MAX })
        .and_then(|text| parse_key(&text))
        .map_err(|reason| KeyError::CommandAnswer { program: program.clone(), reason })
}

/// Waits for both outputs to close and for the exit, `None` if that takes too long. The readers are threads of their own,
/// so that neither a full pipe nor a silent program stops the clock; they end with the pipes.
fn collect(child: &mut Child, deadline: Instant) -> io::Result<Option<(ExitStatus, Answer, String)>> {
    let stdout = child.stdout.take().expect("stdout is piped");
    let stderr = child.stderr.take().expect("stderr is piped");
    let stdout = in_thread(move || read_answer(stdout))?;
    let stderr = in_thread(move || read_tail(stderr))?;
    let Some(stdout) = receive(&stdout, deadline) else { return Ok(None) };
    let Some(stderr) = receive(&stderr, deadline) else { return Ok(None) };
    let (stdout, stderr) = (stdout?, stderr?);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some((status, stdout, stderr)));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(EXIT_POLL);
    }
}

fn in_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<mpsc::Receiver<T>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::Builder::new().name("key-command".to_owned()).spawn(move || {
        // Nobody listens after the deadline.
        let _ = sender.send(work());
    })?;
    Ok(receiver)
}

fn receive<T>(receiver: &mpsc::Receiver<T>, deadline: Instant) -> Option<T> {
    receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
}

fn read_answer(mut stdout: impl Read) -> io::Result<Answer> {
    let answer = read_bounded(&mut stdout, KEY_TEXT_BYTES_MAX)?;
    // A program that prints too much is told so by its answer, not by a broken pipe.
    io::copy(&mut stdout, &mut io::sink())?;
    Ok(answer)
}

fn read_tail(mut stderr: impl Read) -> io::Result<String> {
    let mut tail = Vec::new();
    let mut piece = [0; STDERR_TAIL_BYTES];
    loop {
        match stderr.read(&mut piece) {
            Ok(0) => break,
            Ok(bytes) => tail.extend_from_slice(&piece[..bytes]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        let surplus = tail.len().saturating_sub(STDERR_TAIL_BYTES);
        tail.drain(..surplus);
    }
    Ok(String::from_utf8_lossy(&tail).trim().to_owned())
}

/// The program leads a process group of its own, so what it started ends with it.
fn end_group(child: &mut Child) {
    let group = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(group) = group {
        // It may have ended by itself in the meantime.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    // It may also have left its group, and waiting is safe only for what was killed.
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests;
