//! The life of a repository, the same in every kind of store: made, checked, filled, verified, and all that is left.

use super::super::{
    Context, Json, Pgconvoy, Result, Site, SiteOptions, data, ensure, labels, limits, note, same_data,
};
use super::http_proxy::HttpProxy;

/// Full and incremental backup of a busy cluster to both repositories, WAL, verify, and a restore by a program that knows repository 2 only.
pub fn goes_there_and_comes_back(site: &Site, alone: &Pgconvoy) -> Result<()> {
    came_back(site, alone).map(drop)
}

/// The same, and what the cluster held in the end.
pub fn came_back(site: &Site, alone: &Pgconvoy) -> Result<String> {
    site.cluster.start()?;
    site.pgconvoy.run(["stanza-create"])?.ok()?;
    data::seed_small(&site.cluster)?;
    site.pgconvoy.run(["check"])?.ok()?;
    let load = site.cluster.load(2, 40)?;
    let label = site.backup_label(&[])?;
    for repo in [1, 2] {
        ensure!(labels(&site.pgconvoy, repo)? == std::slice::from_ref(&label), "repository {repo}");
    }
    site.cluster.psql("create table later as select generate_series(1, 1000) n")?;
    site.cluster.switch_and_archive()?;
    let second = site.pgconvoy.run(["backup", "--type=incr", "--output=json"])?.ok()?.json()?;
    ensure!(second["status"] == "ok" && second["type"] == "incr", "{second}");
    load.kill_and_wait()?;
    site.cluster.psql("insert into later values (0)")?;
    site.cluster.switch_and_archive()?;
    site.pgconvoy.run(["verify"])?.ok()?;
    let expected = data::fingerprint(&site.cluster)?;
    site.cluster.stop()?;
    std::fs::remove_dir_all(&site.repos[0].path)?;
    let copy = site.copy("copy")?;
    alone.run(["restore", &format!("--pg-path={}", copy.data().display())])?.ok()?;
    copy.start_and_recover()?;
    same_data(&copy, &expected)?;
    Ok(expected)
}

/// Some packs and segments of megabytes that compress by half.
const NOISE: &str = "create table noise as select n, md5(n::text) || md5((n * 7)::text) || md5((n * 13)::text) as text \
                     from generate_series(1, 250000) n";
/// What a synchronisation sends of its own: small objects, lists of parts.
const PAPERS_BYTES: u64 = 4 << 20;

/// Repository 1 in one path of a store, with two backups, and repository 2 in another, with nothing; none is encrypted, and the cluster stopped.
pub struct TwoPaths {
    site: Site,
    /// Knows both; the site's own program knows the first.
    both: Pgconvoy,
    known: Vec<String>,
    expected: String,
}

impl TwoPaths {
    const SYNC: [&str; 6] =
        ["repo-sync", "--from=1", "--to=2", "--create", "--output=json", "--process-max=1"];

    pub fn filled(kind: &str, paths: [&str; 2], table: &str) -> Result<TwoPaths> {
        let site = Site::prepare(&SiteOptions::default())?;
        let [first, second] = [(0, paths[0]), (1, paths[1])]
            .map(|(number, path): (usize, _)| site.repos[number].clone().in_store(kind, path, table));
        let site = site.with_repos(vec![first, second])?.without_keys()?;
        site.config.clone().repos(&site.repos[..1]).write(&site.scratch.config_file())?;
        let both = site.pgconvoy.with_config(&site.scratch, "both.toml", &site.config)?;
        site.cluster.start()?;
        site.pgconvoy.run(["stanza-create"])?.ok()?;
        site.cluster.psql(NOISE)?;
        site.cluster.psql("checkpoint")?;
        let mut known = vec![site.backup_label(&["--unit-size=8MiB"])?];
        site.cluster.psql("create table later as select generate_series(1, 1000) n")?;
        site.cluster.psql("checkpoint")?;
        let report = site.pgconvoy.run(["backup", "--type=incr", "--output=json"])?.ok()?.json()?;
        known.push(report["label"].as_str().context("label")?.to_owned());
        site.cluster.switch_and_archive()?;
        let expected = data::fingerprint(&site.cluster)?;
        site.cluster.stop()?;
        Ok(TwoPaths { site, both, known, expected })
    }

    /// A first synchronisation, which makes the repository and, to prove the store, writes more than any papers.
    pub fn is_killed_amid_packs(&self, mut names: impl FnMut() -> Result<String>) -> Result<()> {
        let running = self.both.start(Self::SYNC)?;
        limits::wait_for("a pack in the target", limits::COMMAND, || {
            Ok((names()?.contains("/pack/") || running.has_ended()?).then_some(()))
        })?;
        note(format!("killed: {}", running.kill_and_wait()?.signal.is_some()));
        Ok(())
    }

    /// Synchronises the rest, with no more than papers going to the store by that proxy.
    pub fn store_copies(&self, proxy: &HttpProxy) -> Result<()> {
        let sent = proxy.seen().body_bytes;
        let report = self.both.run(Self::SYNC)?.ok()?.json()?;
        let sent = proxy.seen().body_bytes - sent;
        let by_store = bytes_by_store(&report);
        note(format!("sent {sent}, copied by the store {by_store}: {report}"));
        ensure!(by_store > 2 * PAPERS_BYTES && sent < PAPERS_BYTES, "{sent} bytes were sent: {report}");
        assert_eq!(labels(&self.both, 2)?, self.known);
        self.both.run(["verify", "--repo=2"])?.ok().map(drop)
    }

    /// For when repository 1 is none any more.
    pub fn second_stands_alone(&self) -> Result<()> {
        let alone = self.site.only_repos(&[2])?;
        let copy = self.site.copy("alone")?;
        alone.run(["restore", &format!("--pg-path={}", copy.data().display())])?.ok()?;
        copy.start_and_recover()?;
        same_data(&copy, &self.expected)?;
        copy.stop()
    }
}

fn bytes_by_store(report: &Json) -> u64 {
    let all = [&report["backup"], &report["archive"]].map(|all| all.as_array().cloned().unwrap_or_default());
    all.iter().flatten().filter_map(|one| one["bytes-by-store"].as_u64()).sum()
}
