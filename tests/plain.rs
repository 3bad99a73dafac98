//! Repositories that keep files as such: a copy of a backup starts by itself, what did not change is a link to the backup before, and
//! everything else is as with packs.

mod support;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use support::process::Program;
use support::repository::RepositoryFiles;
use support::site::copy_overrides;
use support::{
    Cluster, ClusterOptions, Context, Json, Result, Site, SiteOptions, data, ensure, files, limits, same_data,
};

/// Repository 1 is plain, repository 2 packed and encrypted. WAL lies behind a link, and a table in a tablespace.
fn site() -> Result<Site> {
    let cluster = ClusterOptions { linked_wal: true, wal_segment_mib: 1, ..ClusterOptions::default() };
    let site =
        Site::start_with(&SiteOptions { cluster, first_repo_keeps_files: true, ..SiteOptions::default() })?;
    site.cluster.create_tablespace("fast", &site.scratch.join("fast"))?;
    site.cluster.psql("create table elsewhere tablespace fast as select generate_series(1, 20000) n")?;
    Ok(site)
}

fn backup(site: &Site, kind: &str, more: &[&str]) -> Result<(String, Json)> {
    let kind = format!("--type={kind}");
    let args = ["backup", kind.as_str(), "--output=json"];
    let report = site.pgconvoy.run(args.iter().chain(more))?.ok()?.json()?;
    ensure!(report["status"] == "ok", "{report}");
    Ok((report["label"].as_str().context("label")?.to_owned(), report))
}

/// What the documentation says: copy, and let the owner write again.
fn copy_as_an_administrator_does(site: &Site, label: &str, name: &str) -> Result<Cluster> {
    let copy = Cluster::attach(&site.scratch, name, copy_overrides())?;
    let from = site.repository(1)?.data(label);
    Program::new("cp")?.arg("-a").arg(&from).arg(copy.data()).run(limits::LARGE_COMMAND)?.ok()?;
    Program::new("chmod")?.args(["-R", "u+w"]).arg(copy.data()).run(limits::COMMAND)?.ok()?;
    Ok(copy)
}

fn lose_the_original(site: &Site) -> Result<()> {
    site.cluster.stop()?;
    for gone in ["primary", "primary.wal", "fast"] {
        std::fs::rename(site.scratch.join(gone), site.scratch.join(&format!("{gone}.gone")))?;
    }
    std::fs::rename(site.repository(1)?.stanza().join("wal"), site.scratch.join("wal.gone"))?;
    Ok(())
}

#[test]
fn a_copy_of_a_backups_directory_starts_by_itself_with_every_row() -> Result<()> {
    let site = site()?;
    let (label, _) = backup(&site, "full", &["--archive-copy"])?;
    let expected = data::fingerprint(&site.cluster)?;
    let before = files::snapshot(&site.repository(1)?.data(&label))?;
    lose_the_original(&site)?;

    let copy = copy_as_an_administrator_does(&site, &label, "copy")?;
    copy.start_and_recover()?;
    same_data(&copy, &expected)?;
    ensure!(copy.psql("select count(*) from elsewhere")? == "20000", "the tablespace came along");
    copy.psql("insert into elsewhere values (1); update document set title = 'new'; checkpoint")?;
    copy.stop()?;
    let after = files::snapshot(&site.repository(1)?.data(&label))?;
    ensure!(files::changes(&before, &after).is_empty(), "a copy has nothing in common with its original");
    site.pgconvoy.run(["verify", "--set", &label, "--repo=1"])?;
    Ok(())
}

#[test]
fn a_backup_is_a_data_directory_that_nobody_writes_to() -> Result<()> {
    let site = site()?;
    let (label, report) = backup(&site, "full", &["--unit-size=1MiB"])?;
    let repository = site.repository(1)?;
    let root = repository.data(&label);
    ensure!(root.metadata()?.permissions().mode() & 0o077 == 0, "the directory is its owner's alone");
    for file in files::walk(&root)? {
        let metadata = file.symlink_metadata()?;
        ensure!(
            metadata.is_symlink() || metadata.permissions().mode() & 0o222 == 0,
            "{} is read-only",
            file.display()
        );
    }
    for needed in ["backup_label", "global/pg_control", "PG_VERSION", "pg_wal", "pg_tblspc", "pg_notify"] {
        ensure!(root.join(needed).exists(), "{needed} is there");
    }
    ensure!(!root.join("tablespace_map").exists(), "it would lead back to the original");
    let links: Vec<PathBuf> = files::walk(&root)?.into_iter().filter(|path| path.is_symlink()).collect();
    let [link] = &links[..] else { support::bail!("one tablespace, one link: {links:?}") };
    ensure!(link.canonicalize()?.starts_with(root.canonicalize()?), "it leads nowhere else");
    ensure!(!partial(&repository, &label).exists(), "nothing is left of its making");
    let stored = support::checks::repo_report(&report, 1)?;
    let bytes: u64 = files::walk(&root)?.iter().filter_map(|path| path.symlink_metadata().ok()).map(|one| one.len()).sum();
    ensure!(stored["stored"].as_u64().is_some_and(|stored| stored > bytes / 2), "{stored} counts files of {bytes} bytes");
    for pack in repository.packs(&label)? {
        ensure!(pack.metadata()?.len() < 2 << 20, "{} holds no data", pack.display());
    }
    Ok(())
}

fn partial(repository: &RepositoryFiles, label: &str) -> PathBuf {
    repository.backup(&format!("{label}.partial"))
}

fn inode(path: &Path) -> Result<(u64, u64)> {
    let metadata = path.symlink_metadata().with_context(|| path.display().to_string())?;
    Ok((metadata.dev(), metadata.ino()))
}
