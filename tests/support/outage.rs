//! Ways in which a repository cannot be asked, and what PostgreSQL must not do meanwhile.

use super::files::Closed;
use super::{Cluster, Context, Result, limits, note, user};
use std::path::{Path, PathBuf};

/// Undoes itself when dropped.
pub enum Outage {
    Closed(#[expect(dead_code, reason = "held for its drop")] Vec<Closed>),
    Away { from: PathBuf, to: PathBuf },
}

impl Outage {
    /// Permissions, as of a share whose credentials ended.
    pub fn closed(path: &Path) -> Result<Outage> {
        Ok(Outage::Closed(vec![Closed::with_mode(path, 0)?]))
    }

    /// The path itself is gone, or an empty mount point is left where the repository was.
    pub fn away(path: &Path, leaves_mount_point: bool) -> Result<Outage> {
        let to = path.with_extension("away");
        std::fs::rename(path, &to)?;
        if leaves_mount_point {
            user::private_dir(path)?;
        }
        Ok(Outage::Away { from: path.to_owned(), to })
    }
}

impl Drop for Outage {
    fn drop(&mut self) {
        if let Outage::Away { from, to } = self {
            let emptied = if from.exists() { std::fs::remove_dir_all(&*from) } else { Ok(()) };
            if let Err(error) = emptied.and_then(|()| std::fs::rename(&*to, &*from)) {
                note(format!("{} stays away: {error}", from.display()));
            }
        }
    }
}

pub type Begin = fn(&Path) -> Result<Outage>;

pub const OUTAGES: [(&str, Begin); 3] = [
    ("closed", Outage::closed),
    ("gone", |path| Outage::away(path, false)),
    ("an empty mount point", |path| Outage::away(path, true)),
];

/// It may start and get as far as it can without the repository; then it ends, as it was.
pub fn assert_does_not_promote(copy: &Cluster) -> Result<()> {
    if copy.start().is_ok() {
        copy.wait_until_gone(limits::SOON)
            .with_context(|| format!("it goes on without its WAL\n{}", copy.log()))?;
    }
    copy.was_not_promoted()?;
    super::ensure!(copy.control("Latest checkpoint's TimeLineID")? == "1", "it is on another timeline");
    Ok(())
}
