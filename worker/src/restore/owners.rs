//! Who owns what is restored. As root: whom the manifest names, or, where the host does not know that name, whoever owns
//! the target. As anybody else: oneself, as there is no choice.

use super::error::{Action, RestoreError};
use pgconvoy_core::format::manifest::{ManifestHead, Ownership};
use pgconvoy_core::plan::restore::RestorePlan;
use std::fs::{File, FileTimes, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MODE_GROUP_READS: u16 = 0o040;
const ROOT: u32 = 0;

#[derive(Debug)]
pub(super) struct Owners {
    /// `None`: not root, owners stay as they come.
    known: Option<Known>,
    /// Of the files that no manifest lists: as pg_control's.
    own: Ownership,
}

#[derive(Debug)]
struct Known {
    users: Vec<Option<u32>>,
    groups: Vec<Option<u32>>,
    target: (u32, u32),
}

impl Owners {
    /// `target` is who owns the target now; a target of root's own goes to whoever owned pg_control.
    pub(super) fn new(head: &ManifestHead, plan: &RestorePlan, target: (u32, u32)) -> Self {
        let own = plan.files[plan.control].ownership;
        if !rustix::process::geteuid().is_root() {
            return Owners { known: None, own };
        }
        let users: Vec<Option<u32>> = head.users.iter().map(|name| number("passwd", name)).collect();
        let groups: Vec<Option<u32>> = head.groups.iter().map(|name| number("group", name)).collect();
        let mut known = Known { users, groups, target };
        if target.0 == ROOT {
            known.target = known.of(own);
        }
        Owners { known: Some(known), own }
    }

    pub(super) fn own(&self) -> Ownership {
        self.own
    }

    /// The data directory's: PostgreSQL takes these two modes only, and reads from them whether its group may read.
    pub(super) fn root_mode(&self) -> u16 {
        if self.own.mode & MODE_GROUP_READS == 0 { 0o700 } else { 0o750 }
    }

    /// Owner and mode; the time too, in seconds since 1970, where there is one.
    pub(super) fn give(
        &self,
        file: &File,
        path: &Path,
        owner: Ownership,
        modified: Option<i64>,
    ) -> Result<(), RestoreError> {
        let give = || {
            if let Some(known) = &self.known {
                let (user, group) = known.of(owner);
                std::os::unix::fs::fchown(file, Some(user), Some(group))?;
            }
            file.set_permissions(Permissions::from_mode(u32::from(owner.mode)))?;
            modified.map_or(Ok(()), |seconds| file.set_times(FileTimes::new().set_modified(moment(seconds))))
        };
        give().map_err(RestoreError::file(Action::GiveAway, path))
    }

    /// A directory, with a mode of its own if need be.
    pub(super) fn give_directory(&self, path: &Path, owner: Ownership) -> Result<(), RestoreError> {
        let directory = File::open(path).map_err(RestoreError::file(Action::Open, path))?;
        self.give(&directory, path, owner, None)
    }

    /// The link itself; links have no mode.
    pub(super) fn give_link(&self, path: &Path, owner: Ownership) -> Result<(), RestoreError> {
        let Some(known) = &self.known else { return Ok(()) };
        let (user, group) = known.of(owner);
        std::os::unix::fs::lchown(path, Some(user), Some(group))
            .map_err(RestoreError::file(Action::GiveAway, path))
    }
}

impl Known {
    fn of(&self, owner: Ownership) -> (u32, u32) {
        let find = |list: &[Option<u32>], index: u16| list.get(usize::from(index)).copied().flatten();
        (
            find(&self.users, owner.user).unwrap_or(self.target.0),
            find(&self.groups, owner.group).unwrap_or(self.target.1),
        )
    }
}

fn moment(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let moment =
        if seconds < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    moment.unwrap_or(UNIX_EPOCH)
}

/// `/etc/passwd` and `/etc/group` answer nearly always; `getent` knows directory services too.
fn number(database: &str, name: &str) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/etc/{database}")).unwrap_or_default();
    find(&text, name).or_else(|| {
        let output = Command::new("getent").args([database, name]).stdin(Stdio::null()).output().ok()?;
        find(&String::from_utf8(output.stdout).ok()?, name)
    })
}

fn find(text: &str, name: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let is_it = fields.next() == Some(name);
        is_it.then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_in_the_databases_of_the_host() {
        assert_eq!(find("a:x:7:8\npostgres:x:101:104:,,,:/:/bin/sh\n", "postgres"), Some(101));
        assert_eq!(find("postgres2:x:9:9\n", "postgres"), None);
        assert_eq!(number("passwd", "root"), Some(0));
        assert_eq!(number("group", "no-such-group-anywhere"), None);
    }

    #[test]
    fn times_before_1970_are_times_too() {
        assert_eq!(moment(-1), UNIX_EPOCH - Duration::from_secs(1));
        assert_eq!(moment(90), UNIX_EPOCH + Duration::from_secs(90));
    }
}
