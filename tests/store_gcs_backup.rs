//! A cluster backed up to a local repository and to one in Google Cloud Storage, from one read, and restored from the latter alone.

mod support;

#[path = "support/stores/gcs_server.rs"]
mod gcs_server;

use gcs_server::{BUCKET, GcsServer};
use support::{
    Cluster, ClusterOptions, Config, Context, Pgconvoy, Repo, Result, Scratch, data, ensure, labels,
    same_data, site, user,
};

/// Repository 1 is local, repository 2 an encrypted one in the bucket. Fields drop in this order.
struct Stage {
    pgconvoy: Pgconvoy,
    /// Knows repository 2 only.
    remote: Pgconvoy,
    config: Config,
    bucket: Repo,
    cluster: Cluster,
    server: GcsServer,
    scratch: Scratch,
}

impl Stage {
    fn start() -> Result<Stage> {
        let scratch = Scratch::new()?;
        let server = GcsServer::start()?;
        let service = server.service_key(scratch.path())?;
        user::give(&service.file)?;
        let key_type = format!("key-type = \"service\"\nkey-file = \"{}\"", service.file.display());
        let bucket = Repo::encrypted(&scratch, 2)?.in_store("gcs", "/pg", &table(&server, &key_type));
        let cluster = Cluster::create(&scratch, "primary", &ClusterOptions::default())?;
        let config = Config::new(&scratch, &[Repo::encrypted(&scratch, 1)?, bucket.clone()], &cluster);
        config.write(&scratch.config_file())?;
        let pgconvoy = Pgconvoy::new(&scratch);
        let only = config.clone().repos(std::slice::from_ref(&bucket));
        let remote = pgconvoy.with_config(&scratch, "remote.toml", &only)?;
        cluster.start()?;
        pgconvoy.run(["stanza-create"])?.ok()?;
        Ok(Stage { pgconvoy, remote, config, bucket, cluster, server, scratch })
    }

    /// A program that knows repository 2 only, with other credentials for it.
    fn with_credentials(&self, name: &str, key_type: &str) -> Result<Pgconvoy> {
        let bucket = self.bucket.clone().in_store("gcs", "/pg", &table(&self.server, key_type));
        self.pgconvoy.with_config(&self.scratch, name, &self.config.clone().repos(&[bucket]))
    }
}

fn table(server: &GcsServer, key_type: &str) -> String {
    format!("bucket = \"{BUCKET}\"\nendpoint = \"{}\"\n{key_type}", server.endpoint())
}

#[test]
fn one_backup_goes_to_a_local_repository_and_a_bucket_and_restores_from_the_bucket_alone() -> Result<()> {
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
    ensure!(stage.server.names().iter().all(|name| !name.contains(".parts/")), "{:?}", stage.server.names());
    std::fs::remove_dir_all(stage.scratch.join("repo1"))?;
    let copy = Cluster::attach(&stage.scratch, "copy", site::copy_overrides())?;
    stage.remote.run(["restore", &format!("--pg-path={}", copy.data().display())])?.ok()?;
    copy.start_and_recover()?;
    same_data(&copy, &expected)
}

#[test]
fn the_machines_own_identity_comes_from_the_metadata_server() -> Result<()> {
    let stage = Stage::start()?;
    let auto = stage.with_credentials("auto.toml", "key-type = \"auto\"")?;
    let given = stage.server.tokens_given();
    let host = format!("127.0.0.1:{}", stage.server.port());
    let listed = auto.call(["repo-ls", "--recurse"])?.env("GCE_METADATA_HOST", &host);
    let listed = listed.run(support::limits::COMMAND)?.ok()?;
    ensure!(listed.stdout.contains("pgconvoy.repo"), "{listed}");
    ensure!(stage.server.tokens_given() > given, "the token came from elsewhere");
    Ok(())
}

#[test]
fn what_is_wrong_with_a_bucket_is_said_with_its_hint_by_the_commands() -> Result<()> {
    let stage = Stage::start()?;
    let token = stage.scratch.join("token");
    std::fs::write(&token, "ya29.long-expired\n")?;
    user::give(&token)?;
    let key_type = format!("key-type = \"token\"\nkey-file = \"{}\"", token.display());
    let expired = stage.with_credentials("expired.toml", &key_type)?;
    let refused = expired.run(["backup", "--type=full"])?;
    let said = format!("{}{}", refused.stdout, refused.stderr);
    ensure!(
        refused.code != Some(0) && refused.has_hint() && said.contains("Invalid Credentials"),
        "{refused}"
    );
    ensure!(!said.contains("long-expired"), "{refused}");
    stage.server.rules(|rules| rules.forbidden = true);
    let refused = stage.remote.run(["backup", "--type=full"])?;
    ensure!(refused.code != Some(0) && refused.stderr.contains("roles/storage.objectUser"), "{refused}");
    let secret = std::fs::read_to_string(stage.scratch.join("service.pem"))?;
    let line = secret.lines().nth(1).context("a key")?;
    ensure!(!refused.stderr.contains(line) && !refused.stderr.contains("ya29"), "{refused}");
    Ok(())
}
