//! A cluster backed up to a local repository and to one on an SFTP server, from one read, and restored from the latter alone.

mod support;

use support::stores::sshd::Sshd;
use support::stores::tour::goes_there_and_comes_back;
use support::{Cluster, Pgconvoy, Result, Site, SiteOptions, data, ensure, same_data};

/// Repository 1 is local, repository 2 an encrypted one on the server. Fields drop in this order.
struct Stage {
    sshd: Sshd,
    /// Knows repository 2 only.
    remote: Pgconvoy,
    site: Site,
}

impl Stage {
    fn prepare() -> Result<Stage> {
        let site = Site::prepare(&SiteOptions::default())?;
        let sshd = Sshd::start(&site.scratch)?;
        let path = site.scratch.private_dir("on-the-server")?.join("repo2");
        let site = site.with_second_repo_in("sftp", &path.display().to_string(), &sshd.table()?)?;
        let remote = site.only_repos(&[2])?;
        Ok(Stage { sshd, remote, site })
    }

    fn start() -> Result<Stage> {
        let stage = Stage::prepare()?;
        stage.site.cluster.start()?;
        stage.site.pgconvoy.run(["stanza-create"])?.ok()?;
        Ok(stage)
    }

    fn restored(&self, name: &str, more: &[&str]) -> Result<Cluster> {
        let copy = self.site.copy(name)?;
        let path = format!("--pg-path={}", copy.data().display());
        self.remote.run(["restore", path.as_str()].iter().chain(more))?.ok()?;
        copy.start_and_recover()?;
        Ok(copy)
    }
}

#[test]
fn one_backup_goes_to_a_local_and_an_sftp_repository_and_restores_from_the_server_alone() -> Result<()> {
    let stage = Stage::prepare()?;
    goes_there_and_comes_back(&stage.site, &stage.remote)
}

#[test]
fn without_encryption_it_comes_back_from_the_server_as_well() -> Result<()> {
    let Stage { sshd: _sshd, site, .. } = Stage::prepare()?;
    let site = site.without_keys()?;
    goes_there_and_comes_back(&site, &site.only_repos(&[2])?)
}

#[test]
fn a_server_that_dies_and_comes_back_is_an_error_and_then_a_repository_again() -> Result<()> {
    let mut stage = Stage::start()?;
    stage.sshd.kill()?;
    let failed = stage.remote.run(["backup", "--type=full", "--io-timeout=5s"])?;
    ensure!(failed.code != Some(0) && failed.stderr.contains("sftp:"), "{failed}");
    stage.sshd.restart()?;
    stage.site.pgconvoy.run(["backup", "--type=full"])?.ok()?;
    let expected = data::fingerprint(&stage.site.cluster)?;
    same_data(&stage.restored("copy", &["--type=immediate", "--target-action=promote"])?, &expected)
}

#[test]
fn what_is_wrong_with_a_login_is_said_with_its_hint_by_every_command() -> Result<()> {
    let stage = Stage::start()?;
    let key = stage.sshd.client_key();
    let others = |mode| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode))
    };
    others(0o644)?;
    let refused = stage.remote.run(["info"])?;
    let said = format!("{}{}", refused.stdout, refused.stderr);
    ensure!(said.contains("others can read it"), "{refused}");
    let refused = stage.remote.run(["backup", "--type=full"])?;
    ensure!(
        refused.code != Some(0) && refused.has_hint() && refused.stderr.contains("chmod 600"),
        "{refused}"
    );
    others(0o600)?;
    std::fs::write(stage.sshd.path("authorized_keys"), "")?;
    let refused = stage.remote.run(["backup", "--type=full"])?;
    ensure!(refused.code != Some(0) && refused.stderr.contains("authorized_keys"), "{refused}");
    Ok(())
}
