//! Who PostgreSQL and `pgconvoy` run as: never root. As root the tests switch to the package's `postgres`, otherwise
//! they stay who they are.

use super::{Context, Result, ensure};
use std::path::Path;

/// The ordinary user that Debian's package creates.
const SERVER_USER: &str = "postgres";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TestUser {
    pub uid: u32,
    pub gid: u32,
    /// The tests run as root and must step down.
    pub switched: bool,
}

pub fn test_user() -> Result<TestUser> {
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    if !uid.is_root() {
        return Ok(TestUser { uid: uid.as_raw(), gid: gid.as_raw(), switched: false });
    }
    let accounts = std::fs::read_to_string("/etc/passwd").context("/etc/passwd")?;
    let line = accounts
        .lines()
        .find(|line| line.split(':').next() == Some(SERVER_USER))
        .with_context(|| format!("no user {SERVER_USER}: install postgresql-15, as ./tests/run.sh does"))?;
    let mut fields = line.split(':').skip(2);
    let mut number =
        || -> Result<u32> { Ok(fields.next().context("a line of /etc/passwd is too short")?.parse()?) };
    let user = TestUser { uid: number()?, gid: number()?, switched: true };
    ensure!(user.uid != 0, "user {SERVER_USER} is root");
    Ok(user)
}

/// Hands a file or directory to the test user.
pub fn give(path: &Path) -> Result<()> {
    let user = test_user()?;
    if user.switched {
        std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid))
            .with_context(|| format!("chown {}", path.display()))?;
    }
    Ok(())
}

/// A directory that belongs to the test user and that nobody else may enter, as PostgreSQL wants it.
pub fn private_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir(path).with_context(|| format!("mkdir {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
    give(path)
}
