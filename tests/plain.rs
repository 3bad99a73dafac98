//! Repositories that keep files as such: a copy of a backup starts by itself, what did not change is a link to the backup before, and
//! everything else is as with packs.

mod support;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use support::fleet::{Fleet, FleetOptions};
use support::process::Program;
use support::repository::RepositoryFiles;
use support::site::copy_overrides;
use support::{
    Cluster, ClusterOptions, Context, Json, Result, Site, SiteOptions, data, ensure, files, labels, limits,
    same_data,
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
    let bytes: u64 =
        files::walk(&root)?.iter().filter_map(|path| path.symlink_metadata().ok()).map(|one| one.len()).sum();
    ensure!(
        stored["bytes-stored"].as_u64().is_some_and(|stored| stored > bytes / 2),
        "{stored} counts files of {bytes} bytes"
    );
    let listed = site.pgconvoy.run(["repo-ls", "--repo=1", "--recurse"])?.ok()?.stdout;
    ensure!(listed.contains("data/global/pg_control"), "files are shown as objects are\n{listed}");
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

/// A file's path in the data directory, as PostgreSQL tells it.
fn file_of(cluster: &Cluster, table: &str) -> Result<String> {
    Ok(cluster.psql(&format!("select pg_relation_filepath('{table}')"))?.trim().to_owned())
}

#[test]
fn what_did_not_change_is_a_link_to_the_backup_before() -> Result<()> {
    let site = site()?;
    site.cluster
        .psql("create table still as select generate_series(1, 20000) n; vacuum still; checkpoint")?;
    let (full, _) = backup(&site, "full", &[])?;
    site.cluster.psql("update document set title = title || 'x' where id % 50 = 0; checkpoint")?;
    let (incr, report) = backup(&site, "incr", &[])?;
    // Time and size say nothing any more: contents are compared.
    let (delta, _) = backup(&site, "incr", &["--delta"])?;
    let repository = site.repository(1)?;
    let in_each = |table: &str| -> Result<Vec<(u64, u64)>> {
        let file = file_of(&site.cluster, table)?;
        [&full, &incr, &delta].iter().map(|label| inode(&repository.data(label).join(&file))).collect()
    };
    let still = in_each("still")?;
    ensure!(still[0] == still[1] && still[1] == still[2], "unchanged, and read or not: one file {still:?}");
    let changed = in_each("document")?;
    ensure!(changed[0] != changed[1], "what changed is a file of its own");
    ensure!(changed[1] == changed[2], "and nothing changed after that");
    let stored =
        |report: &Json| support::checks::repo_report(report, 1)?["bytes-stored"].as_u64().context("stored");
    let total: u64 = files::walk(&repository.data(&incr))?
        .iter()
        .filter_map(|path| path.metadata().ok())
        .map(|one| one.len())
        .sum();
    ensure!(stored(&report)? < total, "links are not counted as stored");

    // The chain is whole, and each member by itself.
    site.cluster.switch_and_archive()?;
    let expected = data::fingerprint(&site.cluster)?;
    site.pgconvoy.run(["verify"])?.ok()?;
    let copy = site.restore(
        "restored",
        &[
            "--repo=1",
            &format!("--set={delta}"),
            &format!("--tablespace-map-all={}", site.scratch.join("spaces").display()),
        ],
    )?;
    copy.start_and_recover()?;
    same_data(&copy, &expected)?;
    copy.stop()?;
    let shown = site.pgconvoy.run(["manifest", "--set", &incr, "--repo=1", "--output=json"])?.ok()?.json()?;
    let packed =
        site.pgconvoy.run(["manifest", "--set", &incr, "--repo=2", "--output=json"])?.ok()?.json()?;
    ensure!(shown["file"] == packed["file"], "both repositories have the same backup");
    Ok(())
}

#[test]
fn an_incremental_backup_starts_by_itself_too() -> Result<()> {
    let site = site()?;
    backup(&site, "full", &[])?;
    site.cluster.psql("update document set title = title || 'x' where id % 50 = 0; drop table elsewhere; create table elsewhere tablespace fast as select generate_series(1, 30000) n")?;
    let (label, _) = backup(&site, "incr", &["--archive-copy"])?;
    let expected = data::fingerprint(&site.cluster)?;
    lose_the_original(&site)?;
    let copy = copy_as_an_administrator_does(&site, &label, "copy")?;
    copy.start_and_recover()?;
    same_data(&copy, &expected)?;
    ensure!(copy.psql("select count(*) from elsewhere")? == "30000", "the tablespace came along");
    copy.stop()
}

/// Without WAL of its own a copy gets it from the archive, like any other.
#[test]
fn a_copy_recovers_with_wal_from_the_archive() -> Result<()> {
    let site = site()?;
    let (label, _) = backup(&site, "full", &[])?;
    site.cluster.psql("create table later as select 1 n")?;
    site.cluster.switch_and_archive()?;
    let expected = data::fingerprint(&site.cluster)?;
    let copy = copy_as_an_administrator_does(&site, &label, "copy")?;
    let command = format!(
        "restore_command = '{} --config={} --stanza=main archive-get %f %p'\n",
        site.scratch.binary().display(),
        site.scratch.config_file().display()
    );
    let settings = copy.data().join("postgresql.auto.conf");
    std::fs::write(&settings, std::fs::read_to_string(&settings)? + &command)?;
    std::fs::write(copy.data().join("recovery.signal"), "")?;
    support::user::give(&copy.data().join("recovery.signal"))?;
    copy.start_and_recover()?;
    same_data(&copy, &expected)?;
    copy.stop()
}

#[test]
fn damage_in_a_plain_file_is_found_and_made_good_from_the_packed_repository() -> Result<()> {
    let site = site()?;
    let (full, _) = backup(&site, "full", &[])?;
    site.cluster.switch_and_archive()?;
    let expected = data::fingerprint(&site.cluster)?;
    let file = site.repository(1)?.data(&full).join(file_of(&site.cluster, "document")?);
    for (name, hurt) in [
        ("flipped", support::damage::flip_bit as fn(&Path) -> Result<support::damage::Wound>),
        ("cut", support::damage::cut_tail),
        ("gone", support::damage::delete),
    ] {
        let wound = hurt(&file)?;
        let found = site.pgconvoy.run(["verify", "--output=json"])?;
        ensure!(found.code != Some(0), "{found}");
        ensure!(found.stdout.contains(support::repository::name_of(&file).as_str()), "{found}");
        let space = site.scratch.join(&format!("spaces-{name}"));
        let copy = site.restore(name, &[&format!("--tablespace-map-all={}", space.display())])?;
        copy.start_and_recover()?;
        same_data(&copy, &expected)?;
        copy.stop()?;
        let alone = site.only_repos(&[1])?;
        let path = format!("--pg-path={}", site.scratch.join(&format!("{name}-alone")).display());
        let refused = alone.run(["restore", path.as_str(), "--tablespace-map-all=/nowhere"])?;
        ensure!(refused.code.is_some_and(|code| code != 0), "{name}: it has no good copy\n{refused}");
        drop(wound);
    }
    site.pgconvoy.run(["verify"])?.ok()?;
    Ok(())
}

#[test]
fn names_that_are_missing_or_lead_elsewhere_are_found() -> Result<()> {
    let site = site()?;
    backup(&site, "full", &[])?;
    site.cluster.psql("create table more as select 1 n")?;
    let (incr, _) = backup(&site, "incr", &[])?;
    let root = site.repository(1)?.data(&incr);
    let finds = |what: &str| -> Result<()> {
        let found = site.pgconvoy.run(["verify", "--repo=1", "--output=json"])?;
        ensure!(found.code != Some(0) && found.stdout.contains(what), "verify did not find {what}\n{found}");
        Ok(())
    };
    let link = files::walk(&root.join("pg_tblspc"))?.pop().context("a link")?;
    let leads = std::fs::read_link(&link)?;
    std::fs::remove_file(&link)?;
    std::os::unix::fs::symlink("/nowhere", &link)?;
    finds("leads somewhere else")?;
    std::fs::remove_file(&link)?;
    std::os::unix::fs::symlink(leads, &link)?;
    site.pgconvoy.run(["verify", "--repo=1"])?.ok()?;
    // A file that was taken over unread: its bytes are well where they were stored.
    let still = root.join("PG_VERSION");
    let bytes = std::fs::read(&still)?;
    std::fs::remove_file(&still)?;
    finds("PG_VERSION")?;
    std::fs::write(&still, "1\n\n")?;
    support::user::give(&still)?;
    finds("PG_VERSION")?;
    std::fs::write(&still, bytes)?;
    site.pgconvoy.run(["verify", "--repo=1"])?.ok()?;
    Ok(())
}

/// Only the first repository, as somebody else might have configured it.
fn configured(site: &Site, name: &str, change: impl Fn(&mut support::Repo)) -> Result<support::Pgconvoy> {
    let mut repo = site.repos[0].clone();
    change(&mut repo);
    site.pgconvoy.with_config(&site.scratch, name, &site.config.clone().repos(&[repo]))
}

const REPO_INVALID: i32 = 103;

#[test]
fn a_plain_repository_is_neither_encrypted_nor_taken_for_a_packed_one() -> Result<()> {
    let site = Site::start_with(&SiteOptions {
        first_repo_keeps_files: true,
        without_data: true,
        ..SiteOptions::default()
    })?;
    let packed = configured(&site, "packed.toml", |repo| repo.keeps_files = false)?;
    let refused = packed.run(["backup", "--type=full"])?;
    support::assert_refused(&refused, REPO_INVALID)?;
    ensure!(refused.stderr.contains("layout = \"plain\"") && refused.has_hint(), "{refused}");
    let key = site.repos[1].key_file.clone();
    let encrypted = configured(&site, "encrypted.toml", |repo| repo.key_file = key.clone())?;
    let refused = encrypted.run(["backup", "--type=full"])?;
    ensure!(
        refused.code != Some(0) && refused.stderr.contains("a plain repository is not encrypted"),
        "{refused}"
    );
    Ok(())
}

#[test]
fn a_killed_backup_leaves_nothing_behind_the_next_one() -> Result<()> {
    let site = site()?;
    let undisturbed = site.try_backup(&["--no-resume"])?.ok()?.elapsed;
    let repository = site.repository(1)?;
    let backups = repository.stanza().join("backup");
    let mut partials = 0;
    for part in [4, 5, 6, 7, 8, 9] {
        let moment = undisturbed * part / 10;
        site.pgconvoy.start(["backup", "--type=full"])?.kill_after(moment)?;
        partials += left(&backups)?.len();
        let (label, _) = backup(&site, "full", if part % 2 == 0 { &["--no-resume"] } else { &[] })?;
        ensure!(left(&backups)?.is_empty(), "{:?} is left after {label}", left(&backups)?);
        site.pgconvoy.run(["verify", "--set", &label])?.ok()?;
        let copy = copy_as_an_administrator_does(&site, &label, &format!("copy-{part}"))?;
        ensure!(copy.data().join("global/pg_control").exists(), "it is whole");
        std::fs::remove_dir_all(copy.data())?;
    }
    ensure!(partials > 0, "no kill came while files were written");
    site.pgconvoy.run(["verify"])?.ok()?;
    Ok(())
}

fn left(backups: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(backups)?.map(|entry| Ok(entry?.path()));
    let all: Vec<PathBuf> = entries.collect::<Result<_>>()?;
    Ok(all
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "partial"))
        .collect())
}

#[test]
fn in_a_fleet_whoever_leads_at_the_end_puts_the_directory_together() -> Result<()> {
    let site = site()?;
    let options = FleetOptions { bandwidth_max: Some("4MiB".to_owned()), ..FleetOptions::default() };
    let mut fleet = Fleet::start(&site, &options)?;
    let id = fleet.submit_backup(&["--unit-size=1MiB", "--archive-copy"])?;
    fleet.await_units(&id, 5)?;
    let leader = fleet.leader()?;
    fleet.coordinators[leader].kill()?;
    let job = fleet.await_end(&id)?;
    ensure!(job["state"] == "done", "{job}");
    let label = labels(&site.pgconvoy, 1)?.pop().context("a label")?;
    let expected = data::fingerprint(&site.cluster)?;
    ensure!(left(&site.repository(1)?.stanza().join("backup"))?.is_empty(), "nothing is left of its making");
    site.pgconvoy.run(["verify"])?.ok()?;
    drop(fleet);
    lose_the_original(&site)?;
    let copy = copy_as_an_administrator_does(&site, &label, "copy")?;
    copy.start_and_recover()?;
    same_data(&copy, &expected)?;
    copy.stop()
}
