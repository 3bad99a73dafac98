//! A directory on which system calls are slow or fail, for the programs that are started through it.
//!
//! The faults are real ones, of the kernel's: see `bad_disk.c`, which is compiled here. They can be changed and mended
//! while programs run.

use super::process::Program;
use super::{Context, Pgconvoy, Result, Scratch, limits, user};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/bad_disk.c");

/// The kind of call that a fault is in.
#[derive(Debug, Clone, Copy)]
pub enum Call {
    /// A file is made.
    Create,
    /// Of a file or a directory.
    Sync,
    /// A sync, for every MiB that was written since the last one: a slow disk behind a quick cache.
    Flush,
    /// A file gets its name, which publishes an object.
    Name,
    /// A file or directory is opened.
    Open,
    /// Something is read from a file.
    Read,
}

/// What happens to one kind of call.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    pub call: Call,
    pub delay: Duration,
    /// Every so many calls one fails; 0: none.
    pub fails_every: u32,
    pub error: rustix::io::Errno,
}

impl Fault {
    pub fn slow(call: Call, delay: Duration) -> Fault {
        Fault { call, delay, fails_every: 0, error: rustix::io::Errno::IO }
    }

    pub fn failing(call: Call, fails_every: u32, error: rustix::io::Errno) -> Fault {
        Fault { call, delay: Duration::ZERO, fails_every, error }
    }

    fn line(&self) -> String {
        let call = match self.call {
            Call::Create => "create",
            Call::Sync => "sync",
            Call::Flush => "flush",
            Call::Name => "name",
            Call::Open => "open",
            Call::Read => "read",
        };
        format!("{call} {} {} {}\n", self.delay.as_millis(), self.fails_every, self.error.raw_os_error())
    }
}

pub struct BadDisk {
    rules: PathBuf,
    script: PathBuf,
}

impl BadDisk {
    /// No faults yet. A `?` in the path is any character: the same place in each repository.
    pub fn below(scratch: &Scratch, directory: &Path) -> Result<BadDisk> {
        let program = scratch.join("bad-disk");
        Program::as_ourselves("cc")
            .args(["-O1", "-pthread", "-o"])
            .arg(&program)
            .arg(SOURCE)
            .run(limits::TOOL)
            .and_then(super::Finished::ok)
            .context("a C compiler is needed, as Rust itself needs one to link")?;
        let (rules, script) = (scratch.join("bad-disk.rules"), scratch.join("pgconvoy-on-a-bad-disk"));
        let text = format!(
            "#!/bin/sh\nexec {} '{}' {} {} \"$@\"\n",
            program.display(),
            directory.display(),
            rules.display(),
            scratch.binary().display()
        );
        std::fs::write(&script, text)?;
        for file in [&program, &script] {
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755))?;
        }
        Ok(BadDisk { rules, script })
    }

    /// The program to call instead of `pgconvoy`: it is pgconvoy, and all that this starts, on the bad disk.
    pub fn program(&self) -> &Path {
        &self.script
    }

    pub fn of(&self, pgconvoy: &Pgconvoy) -> Pgconvoy {
        pgconvoy.clone().with_binary(&self.script)
    }

    /// These faults and no others from now on, also for who runs already.
    pub fn suffers(&self, faults: &[Fault]) -> Result<()> {
        let temporary = self.rules.with_extension("new");
        std::fs::write(&temporary, faults.iter().map(Fault::line).collect::<String>())?;
        user::give(&temporary)?;
        Ok(std::fs::rename(&temporary, &self.rules)?)
    }

    pub fn mend(&self) -> Result<()> {
        self.suffers(&[])
    }
}
