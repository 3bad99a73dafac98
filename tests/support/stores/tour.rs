//! The life of a repository, the same in every kind of store: made, checked, filled, verified, and all that is left.

use super::super::{Pgconvoy, Result, Site, data, ensure, labels, same_data};

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
