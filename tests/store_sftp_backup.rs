//! A cluster backed up to a local repository and to one on an SFTP server, from one read, and restored from the latter alone.

mod support;

use support::stores::sshd::Sshd;
use support::{
    Cluster, ClusterOptions, Config, Context, Pgconvoy, Repo, Result, Scratch, data, ensure, labels,
    same_data, site,
};

/// Repository 1 is local, repository 2 an encrypted one on the server. Fields drop in this order.
struct Stage {
    pgconvoy: Pgconvoy,
    /// Knows repository 2 only.
    remote: Pgconvoy,
    cluster: Cluster,
    sshd: Sshd,
    scratch: Scratch,
}

impl Stage {
    fn start() -> Result<Stage> {
        let scratch = Scratch::new()?;
        let sshd = Sshd::start(&scratch)?;
        let local = Repo::encrypted(&scratch, 1)?;
        let key_file = Repo::encrypted(&scratch, 2)?.key_file.context("a key")?;
        let cluster = Cluster::create(&scratch, "primary", &ClusterOptions::default())?;
        let remote = format!(
            "\n[repo.2]\ntype = \"sftp\"\npath = \"{}\"\ncipher = \"aes-256-gcm\"\nkey-file = \"{}\"\n{}",
            scratch.join("on-the-server/repo2").display(),
            key_file.display(),
            sshd.settings_of_repo(2)?
        );
        scratch.private_dir("on-the-server")?;
        let config = Config::new(&scratch, &[local], &cluster).extra(&remote);
        config.write(&scratch.config_file())?;
        let pgconvoy = Pgconvoy::new(&scratch);
        let remote = pgconvoy.with_config(&scratch, "remote.toml", &config.repos(&[]))?;
        cluster.start()?;
        pgconvoy.run(["stanza-create"])?.ok()?;
        Ok(Stage { pgconvoy, remote, cluster, sshd, scratch })
    }

    fn restored(&self, name: &str, more: &[&str]) -> Result<Cluster> {
        let copy = Cluster::attach(&self.scratch, name, site::copy_overrides())?;
        let path = format!("--pg-path={}", copy.data().display());
        self.remote.run(["restore", path.as_str()].iter().chain(more))?.ok()?;
        copy.start_and_recover()?;
        Ok(copy)
    }
}

#[test]
fn one_backup_goes_to_a_local_and_an_sftp_repository_and_restores_from_the_server_alone() -> Result<()> {
    let stage = Stage::start()?;
    data::seed_small(&stage.cluster)?;
    stage.pgconvoy.run(["check"])?.ok()?;
    let report = stage.pgconvoy.run(["backup", "--type=full", "--output=json"])?.ok()?.json()?;
    ensure!(report["status"] == "ok", "{report}");
    stage.cluster.psql("create table later as select generate_series(1, 1000) n")?;
    let report = stage.pgconvoy.run(["backup", "--type=incr", "--output=json"])?.ok()?.json()?;
    ensure!(report["status"] == "ok" && report["type"] == "incr", "{report}");
    ensure!(
        labels(&stage.pgconvoy, 1)?.len() == 2 && labels(&stage.pgconvoy, 1)? == labels(&stage.remote, 2)?
    );
    stage.cluster.psql("create table last as select generate_series(1, 1000) n")?;
    stage.cluster.switch_and_archive()?;
    let expected = data::fingerprint(&stage.cluster)?;
    stage.pgconvoy.run(["verify"])?.ok()?;
    std::fs::remove_dir_all(stage.scratch.join("repo1"))?;
    same_data(&stage.restored("copy", &[])?, &expected)
}

#[test]
fn a_server_that_dies_and_comes_back_is_an_error_and_then_a_repository_again() -> Result<()> {
    let mut stage = Stage::start()?;
    stage.sshd.kill()?;
    let failed = stage.remote.run(["backup", "--type=full", "--io-timeout=5s"])?;
    ensure!(failed.code != Some(0) && failed.stderr.contains("sftp:"), "{failed}");
    stage.sshd.restart()?;
    stage.pgconvoy.run(["backup", "--type=full"])?.ok()?;
    let expected = data::fingerprint(&stage.cluster)?;
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
