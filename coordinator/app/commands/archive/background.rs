//! The processes that push and fetch ahead of the commands: how they are started, and how one finds out that it is the only
//! one.
//!
//! A command starts one by calling itself with `--background`. It becomes the leader of a session of its own, so that
//! what PostgreSQL does to its archiver's processes does not reach it, and ends by itself when there is nothing to do.

use crate::context::Context;
use crate::host::HostLock;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::StanzaName;
use pgconvoy_worker::archive::Nudge;
use std::process::{Command, Stdio};
use std::time::Duration;

const FLAG: &str = "--background";
/// Somebody may just be looking whether the lock is held.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Wakes the command's background process, or starts it. One that does not listen is about to end.
pub(crate) fn wake(context: &Context, stanza: &StanzaName, nudge: Nudge) -> Result<(), Failure> {
    let socket = HostLock::background_socket(&context.config.paths.lock, stanza, context.command);
    match nudge.send(&socket) {
        Ok(()) => Ok(()),
        Err(_) => start(context),
    }
}

/// Starts the command's background process unless it runs.
pub(crate) fn ensure(context: &Context, stanza: &StanzaName) -> Result<(), Failure> {
    if is_running(context, stanza) { Ok(()) } else { start(context) }
}

fn start(context: &Context) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        let message = format!("cannot start the background process of {}: {error}", context.command);
        Failure::new(ErrorCode::Execute, message)
    };
    let mut arguments = context.arguments.clone();
    let verb = arguments.iter().rposition(|argument| argument == context.command);
    arguments.insert(verb.map_or(0, |at| at + 1), FLAG.to_owned());
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().map_err(failed)?;
    Ok(())
}

pub(crate) fn is_running(context: &Context, stanza: &StanzaName) -> bool {
    HostLock::is_background_held(&context.config.paths.lock, stanza, context.command)
}

/// Makes this process the background process. `None`: there is one.
pub(crate) fn become_it(context: &Context, stanza: &StanzaName) -> Result<Option<HostLock>, Failure> {
    // Whoever leads a session or a group already has one of its own.
    let _ = rustix::process::setsid();
    for _ in 0..LOCK_TRIES {
        let lock = HostLock::acquire_background(&context.config.paths.lock, stanza, context.command)?;
        if lock.is_some() {
            return Ok(lock);
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    Ok(None)
}
