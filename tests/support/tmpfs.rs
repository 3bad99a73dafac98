//! A small file system of its own, to fill up or to make read-only. Mounting needs root: the tests are root, or `sudo`
//! answers without a password; without either the test fails and says so.

use super::process::Program;
use super::{Context, Result, limits, user};
use std::path::{Path, PathBuf};

pub struct Tmpfs {
    path: PathBuf,
}

impl Tmpfs {
    /// Mounts at a new directory, which belongs to the test user.
    pub fn mount(path: &Path, size_mib: u32) -> Result<Tmpfs> {
        std::fs::create_dir(path).with_context(|| format!("mkdir {}", path.display()))?;
        let user = user::test_user()?;
        let options = format!("size={size_mib}m,mode=700,uid={},gid={}", user.uid, user.gid);
        as_root("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(path)
            .run(limits::TOOL)
            .and_then(super::Finished::ok)
            .context("a small tmpfs is needed: run the tests as root, or where sudo asks for no password")?;
        Ok(Tmpfs { path: path.to_owned() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn set_read_only(&self, read_only: bool) -> Result<()> {
        let options = if read_only { "remount,ro" } else { "remount,rw" };
        as_root("mount").args(["-o", options]).arg(&self.path).run(limits::TOOL)?.ok()?;
        Ok(())
    }

    /// Leaves at most `bytes` free, by a file that [`Tmpfs::relieve`] removes.
    pub fn fill_up_to(&self, bytes: u64) -> Result<()> {
        let stat = rustix::fs::statvfs(&self.path)?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let ballast = std::fs::File::create(self.ballast())?;
        rustix::fs::fallocate(
            &ballast,
            rustix::fs::FallocateFlags::empty(),
            0,
            free.saturating_sub(bytes).max(1),
        )?;
        Ok(())
    }

    pub fn relieve(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.ballast())?)
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily, because a process that still has a file open must not leave the mount behind.
        let unmounted =
            as_root("umount").arg("--lazy").arg(&self.path).run(limits::TOOL).and_then(super::Finished::ok);
        if let Err(error) = unmounted {
            super::note(format!("{} stays mounted: {error}", self.path.display()));
        }
    }
}

fn as_root(program: &str) -> Program {
    if rustix::process::getuid().is_root() {
        Program::as_ourselves(program)
    } else {
        Program::as_ourselves("sudo").args(["--non-interactive", program])
    }
}
