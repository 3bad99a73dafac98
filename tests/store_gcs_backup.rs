//! A cluster backed up to a local repository and to one in Google Cloud Storage, from one read, and restored from the latter alone.

mod support;

#[path = "support/stores/gcs_server.rs"]
mod gcs_server;

use gcs_server::{GcsServer, table};
use support::stores::http_proxy::{HttpProxy, Weather};
use support::stores::tour::goes_there_and_comes_back;
use support::{Context, Pgconvoy, Random, Result, Site, SiteOptions, ensure, labels, limits, note, user};

/// Repository 1 is local, repository 2 an encrypted one in the bucket. Fields drop in this order.
struct Stage {
    server: GcsServer,
    /// Knows repository 2 only.
    remote: Pgconvoy,
    site: Site,
}

impl Stage {
    /// Nothing but the server is started; it is reached at its own address, or through what stands there.
    fn prepare(through: impl FnOnce(&GcsServer) -> Result<String>) -> Result<Stage> {
        let server = GcsServer::start()?;
        let site = Site::prepare(&SiteOptions::default())?;
        let service = server.service_key(site.scratch.path())?;
        user::give(&service.file)?;
        let table = table(&through(&server)?, &service.key_type());
        let site = site.with_second_repo_in("gcs", "/pg", &table)?;
        let remote = site.only_repos(&[2])?;
        Ok(Stage { server, remote, site })
    }

    fn start() -> Result<Stage> {
        let stage = Stage::prepare(|server| Ok(server.endpoint()))?;
        stage.site.cluster.start()?;
        stage.site.pgconvoy.run(["stanza-create"])?.ok()?;
        Ok(stage)
    }

    /// A program that knows repository 2 only, with other credentials for it.
    fn with_credentials(&self, name: &str, key_type: &str) -> Result<Pgconvoy> {
        let Site { scratch, config, repos, pgconvoy, .. } = &self.site;
        let bucket = repos[1].clone().in_store("gcs", "/pg", &table(&self.server.endpoint(), key_type));
        pgconvoy.with_config(scratch, name, &config.clone().repos(&[bucket]))
    }

    fn has_no_parts(&self) -> Result<()> {
        let names = self.server.names();
        ensure!(names.iter().all(|name| !name.contains(".parts/")), "{names:?}");
        Ok(())
    }
}

#[test]
fn one_backup_goes_to_a_local_repository_and_a_bucket_and_restores_from_the_bucket_alone() -> Result<()> {
    let stage = Stage::prepare(|server| Ok(server.endpoint()))?;
    goes_there_and_comes_back(&stage.site, &stage.remote)?;
    stage.has_no_parts()
}

#[test]
fn without_encryption_it_comes_back_from_the_bucket_as_well() -> Result<()> {
    let Stage { server: _server, site, .. } = Stage::prepare(|server| Ok(server.endpoint()))?;
    let site = site.without_keys()?;
    goes_there_and_comes_back(&site, &site.only_repos(&[2])?)
}

#[test]
fn all_that_lasts_is_retained_also_where_a_compose_forgets_it() -> Result<()> {
    let stage = Stage::prepare(|server| Ok(server.endpoint()))?;
    let Stage { server, site, .. } = stage;
    let lock = "lock-mode = \"compliance\"\nlock-period = \"30d\"";
    let repos = vec![site.repos[0].clone(), site.repos[1].clone().with(lock)];
    let site = site.with_repos(repos)?;
    site.cluster.start()?;
    let refused = site.pgconvoy.run(["stanza-create"])?;
    ensure!(refused.code != Some(0) && refused.stderr.contains("has no object retention"), "{refused}");
    server.bucket(|bucket| {
        bucket.object_retention = true;
        bucket.forgets_retention = true;
    });
    site.pgconvoy.run(["stanza-create"])?.ok()?;
    support::data::seed_small(&site.cluster)?;
    site.backup(&["--compress-type=none"])?;
    let checked = site.pgconvoy.run(["check", "--output=json"])?.ok()?.json()?;
    ensure!(checked.to_string().contains("compliance for 30d"), "{checked}");
    let names: Vec<String> = server.names().into_iter().filter(|name| name.starts_with("pg/")).collect();
    let retained = |name: &String| server.retention(name).is_some_and(|kept| kept["mode"] == "Locked");
    let free: Vec<&String> = names.iter().filter(|name| !retained(name)).collect();
    ensure!(free.iter().all(|name| name.contains("/heartbeat/")), "{free:?}");
    let is_joined = |name: &&String| server.metadata(name).is_ok_and(|metadata| !metadata.is_empty());
    let joined: Vec<&String> =
        names.iter().filter(|name| name.contains("/pack/")).filter(is_joined).collect();
    ensure!(!joined.is_empty(), "no pack was made of parts");
    Ok(())
}

#[test]
fn a_bucket_with_versions_that_was_emptied_shows_what_was_in_it() -> Result<()> {
    let stage = Stage::prepare(|server| Ok(server.endpoint()))?;
    let Stage { server, site, remote } = &stage;
    server.bucket(|bucket| bucket.versioning = true);
    site.cluster.start()?;
    site.pgconvoy.run(["stanza-create"])?.ok()?;
    support::data::seed_small(&site.cluster)?;
    let label = site.backup_label(&[])?;
    let moment = jiff::Timestamp::now();
    let now = jiff::Timestamp::now;
    limits::wait_for("the next moment", limits::SOON, || {
        Ok((now().as_millisecond() > moment.as_millisecond() + 1).then_some(()))
    })?;
    for name in server.names() {
        server.bucket(|bucket| drop(bucket.delete(&name, None)));
    }
    ensure!(labels(remote, 2).unwrap_or_default().is_empty(), "there is nothing");
    let past = ["--repo=2".to_owned(), format!("--repo-target-time={moment}")];
    let run =
        |command: &[&str]| remote.run(command.iter().map(|word| (*word).to_owned()).chain(past.clone()));
    ensure!(run(&["info"])?.ok()?.stdout.contains(&label), "no backup");
    run(&["verify"])?.ok()?;
    let copy = site.copy("past")?;
    run(&["restore", &format!("--pg-path={}", copy.data().display())])?.ok()?;
    copy.start_and_recover()
}

#[test]
fn a_network_that_fails_every_fifth_request_only_costs_time() -> Result<()> {
    let mut proxy = None;
    let random = Random::from_environment()?;
    let stage = Stage::prepare(|server| {
        let before = HttpProxy::before(server.address(), random)?;
        before.set(Weather::bad(20));
        Ok(proxy.insert(before).endpoint())
    })?;
    goes_there_and_comes_back(&stage.site, &stage.remote)?;
    let seen = proxy.context("a proxy")?.seen();
    note(format!("{seen:?}"));
    ensure!(seen.faults.len() > 5, "{seen:?}");
    stage.has_no_parts()
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
    let token = stage.site.scratch.join("token");
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
    let secret = std::fs::read_to_string(stage.site.scratch.join("service.pem"))?;
    let line = secret.lines().nth(1).context("a key")?;
    ensure!(!refused.stderr.contains(line) && !refused.stderr.contains("ya29"), "{refused}");
    Ok(())
}
