//! What must be refused, each with its code, its words and a hint, and nothing lost.

mod support;

use support::config::{Repo, write_key};
use support::{
    Cluster, ClusterOptions, Context, Result, Site, SiteOptions, assert_refused, assert_refused_with_one_of,
    data, ensure, files, labels,
};

const CONFIG: i32 = 27;
const PG_RUNNING: i32 = 38;
const PATH_NOT_EMPTY: i32 = 40;
const FILE_MISSING: i32 = 55;
const DB_CONNECT: i32 = 56;
const DB_MISMATCH: i32 = 58;
const SET_INVALID: i32 = 75;
const TABLESPACE_MAP: i32 = 76;
const LINK_MAP: i32 = 78;
const ARCHIVE_DISABLED: i32 = 87;
const CRYPTO: i32 = 95;
const REPO_INVALID: i32 = 103;
const COMMAND: i32 = 104;

/// An empty cluster will do: these tests look at codes.
fn bare_site() -> Result<Site> {
    Site::start_with(&SiteOptions { without_data: true, ..SiteOptions::default() })
}

#[test]
fn a_wrong_key_opens_nothing_and_changes_nothing() -> Result<()> {
    let site = bare_site()?;
    let label = site.backup_label(&[])?;
    let wrong = site.scratch.join("wrong.key");
    write_key(&wrong, 99)?;
    let repos: Vec<Repo> =
        site.repos.iter().map(|repo| Repo { key_file: Some(wrong.clone()), ..repo.clone() }).collect();
    let locked_out =
        site.pgconvoy.with_config(&site.scratch, "wrong.toml", &site.config.clone().repos(&repos))?;
    // WAL may still be arriving from the running cluster; everything else must stay as it is.
    let parts =
        ["keys", "main/backup", "main/catalogue", "main/cluster"].map(|part| site.repos[0].path.join(part));
    let snapshots = || parts.iter().map(|part| files::snapshot(part)).collect::<Result<Vec<_>>>();
    let before = snapshots()?;
    assert_refused(&locked_out.run(["backup", "--type=full"])?, CRYPTO)?;
    assert_refused_with_one_of(&locked_out.run(["verify"])?, &[CRYPTO, COMMAND])?;
    assert_refused_with_one_of(&locked_out.run(["check"])?, &[CRYPTO, COMMAND])?;
    assert_refused_with_one_of(&locked_out.run(["stanza-create"])?, &[CRYPTO, COMMAND])?;
    let copy = site.copy("copy")?;
    let path = format!("--pg-path={}", copy.data().display());
    assert_refused(&locked_out.run(["restore", path.as_str()])?, CRYPTO)?;
    assert!(!copy.data().join("global/pg_control").exists());
    for (before, after) in before.iter().zip(&snapshots()?) {
        let changed = files::changes(before, after);
        ensure!(changed.is_empty(), "{changed:?}");
    }
    assert_eq!(labels(&site.pgconvoy, 1)?, std::slice::from_ref(&label));
    Ok(())
}

#[test]
fn a_new_key_file_is_readable_by_its_owner_only_and_opens_a_repository() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let site = Site::prepare(&SiteOptions::default())?;
    let key = site.scratch.join("new.key");
    let create = || site.pgconvoy.run(["repo-key".as_ref(), "create".as_ref(), key.as_os_str()]);
    create()?.ok()?;
    assert_eq!(key.metadata()?.permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&key)?;
    assert_eq!(text.trim_end().len(), 44, "32 bytes in base64");
    ensure!(create()?.code.is_some_and(|code| code != 0), "an existing key was overwritten");
    assert_eq!(std::fs::read_to_string(&key)?, text, "losing the key is losing the backups");
    let repos = [Repo { key_file: Some(key), ..site.repos[0].clone() }];
    site.config.clone().repos(&repos).write(&site.scratch.config_file())?;
    site.cluster.start()?;
    site.pgconvoy.run(["stanza-create"])?.ok()?;
    Ok(())
}

#[test]
fn an_unknown_configuration_key_names_the_nearest_known_one() -> Result<()> {
    let site = bare_site()?;
    let config = site.config.clone().backup("compress-typ", "\"zst\"");
    let misspelt = site.pgconvoy.with_config(&site.scratch, "misspelt.toml", &config)?;
    for command in ["backup", "info", "check"] {
        let finished = misspelt.run([command])?;
        assert_refused(&finished, CONFIG)?;
        ensure!(finished.stderr.contains("compress-type"), "the nearest key is not named\n{finished}");
    }
    Ok(())
}

#[test]
fn the_data_directory_of_another_cluster_is_not_backed_up() -> Result<()> {
    let site = bare_site()?;
    let label = site.backup_label(&[])?;
    let other = Cluster::create(&site.scratch, "other", &ClusterOptions::default())?;
    other.start()?;
    let config = site.config.clone().for_cluster(&other);
    let mistaken = site.pgconvoy.with_config(&site.scratch, "mistaken.toml", &config)?;
    for command in ["backup", "check", "stanza-create"] {
        assert_refused(&mistaken.run([command])?, DB_MISMATCH)?;
    }
    other.psql("select txid_current()")?;
    let segment = other.psql("select pg_walfile_name(pg_current_wal_insert_lsn())")?;
    let pushed = mistaken.archive_push(other.data(), &other.data().join("pg_wal").join(segment))?;
    ensure!(
        pushed.code.is_some_and(|code| (1..126).contains(&code)),
        "another cluster's WAL was taken\n{pushed}"
    );
    assert_eq!(labels(&site.pgconvoy, 1)?, std::slice::from_ref(&label));
    Ok(())
}

#[test]
fn a_running_server_in_the_target_is_left_alone() -> Result<()> {
    let site = Site::start()?;
    site.backup(&[])?;
    let expected = data::fingerprint(&site.cluster)?;
    assert_refused(&site.try_restore(site.cluster.data(), &[])?, PG_RUNNING)?;
    assert_refused(&site.try_restore(site.cluster.data(), &["--delta", "--force"])?, PG_RUNNING)?;
    support::same_data(&site.cluster, &expected)?;
    site.cluster.stop()?;
    site.cluster.start()?;
    support::same_data(&site.cluster, &expected)
}

#[test]
fn a_target_that_is_not_empty_keeps_what_it_has() -> Result<()> {
    let site = bare_site()?;
    site.backup(&[])?;
    let target = site.scratch.private_dir("target")?;
    std::fs::write(target.join("precious"), "years of work")?;
    assert_refused(&site.try_restore(&target, &[])?, PATH_NOT_EMPTY)?;
    assert_eq!(files::walk(&target)?, [target.join("precious")]);

    // A stopped cluster is no empty directory either.
    site.cluster.stop()?;
    let before = files::snapshot(site.cluster.data())?;
    assert_refused(&site.try_restore(site.cluster.data(), &[])?, PATH_NOT_EMPTY)?;
    let changed = files::changes(&before, &files::snapshot(site.cluster.data())?);
    ensure!(changed.is_empty(), "{changed:?}");
    Ok(())
}

#[test]
fn a_tablespace_directory_that_is_not_empty_keeps_what_it_has() -> Result<()> {
    let site = bare_site()?;
    site.cluster.create_tablespace("east", &site.scratch.join("original-east"))?;
    site.cluster.psql("create table in_east tablespace east as select 1 as n")?;
    site.backup(&[])?;
    let occupied = site.scratch.private_dir("occupied")?;
    std::fs::write(occupied.join("precious"), "years of work")?;
    let copy = site.copy("copy")?;
    let map = format!("--tablespace-map=east={}", occupied.display());
    assert_refused(&site.try_restore(copy.data(), &[&map])?, PATH_NOT_EMPTY)?;
    assert_eq!(files::walk(&occupied)?, [occupied.join("precious")]);

    // Without a map it would go where the original lives.
    let before = files::snapshot(&site.scratch.join("original-east"))?;
    assert_refused(&site.try_restore(copy.data(), &[])?, PATH_NOT_EMPTY)?;
    let changed = files::changes(&before, &files::snapshot(&site.scratch.join("original-east"))?);
    ensure!(changed.is_empty(), "{changed:?}");
    Ok(())
}

#[test]
fn maps_for_what_is_not_in_the_backup_are_refused() -> Result<()> {
    let site = bare_site()?;
    site.backup(&[])?;
    let target = site.scratch.join("target");
    let elsewhere = site.scratch.join("elsewhere");
    let tablespace = format!("--tablespace-map=nosuch={}", elsewhere.display());
    assert_refused(&site.try_restore(&target, &[&tablespace])?, TABLESPACE_MAP)?;
    let link = format!("--link-map=nosuch={}", elsewhere.display());
    assert_refused(&site.try_restore(&target, &[&link])?, LINK_MAP)?;
    assert!(!target.join("global/pg_control").exists());
    Ok(())
}

#[test]
fn a_set_that_does_not_exist_is_not_restored() -> Result<()> {
    let site = bare_site()?;
    let target = site.scratch.join("target");
    assert_refused(&site.try_restore(&target, &[])?, SET_INVALID).context("no backup at all")?;
    site.backup(&[])?;
    assert_refused(&site.try_restore(&target, &["--set=20010101-000000F"])?, SET_INVALID)?;
    assert!(!target.join("global/pg_control").exists());
    Ok(())
}

#[test]
fn commands_before_stanza_create_say_what_is_missing() -> Result<()> {
    let site = Site::prepare(&SiteOptions::default())?;
    site.cluster.start()?;
    for command in ["backup", "check"] {
        let finished = site.pgconvoy.run([command])?;
        assert_refused_with_one_of(&finished, &[FILE_MISSING, REPO_INVALID, COMMAND])?;
        ensure!(
            finished.stderr.contains("stanza-create"),
            "the hint does not name stanza-create\n{finished}"
        );
    }
    Ok(())
}

#[test]
fn a_server_that_does_not_run_or_does_not_archive_is_noticed() -> Result<()> {
    let cluster = ClusterOptions { archive_mode: false, ..ClusterOptions::default() };
    let site = Site::start_with(&SiteOptions { cluster, without_data: true, ..SiteOptions::default() })?;
    for command in ["check", "backup"] {
        assert_refused(&site.pgconvoy.run([command])?, ARCHIVE_DISABLED)?;
    }
    site.cluster.stop()?;
    for command in ["check", "backup"] {
        assert_refused(&site.pgconvoy.run([command])?, DB_CONNECT)?;
    }
    Ok(())
}

#[test]
fn a_running_server_is_not_backed_up_as_if_it_were_stopped() -> Result<()> {
    let site = bare_site()?;
    assert_refused(&site.try_backup(&["--no-online"])?, PG_RUNNING)?;
    assert!(labels(&site.pgconvoy, 1)?.is_empty());
    Ok(())
}

#[test]
fn secrets_reach_neither_output_nor_log() -> Result<()> {
    let site = bare_site()?;
    let key = site.repos[0].key_file.as_ref().context("a key")?;
    let secret = std::fs::read_to_string(key)?.trim().to_owned();
    let mut texts = vec![site.pgconvoy.run(["config", "show"])?.ok()?];
    texts.push(
        site.pgconvoy
            .run(["backup", "--type=full", "--log-level-console=trace", "--log-level-file=trace"])?
            .ok()?,
    );
    for finished in &texts {
        ensure!(
            !finished.stdout.contains(&secret) && !finished.stderr.contains(&secret),
            "{}",
            finished.shown
        );
    }
    let logs = site.scratch.join("log");
    if logs.exists() {
        for path in files::walk(&logs)? {
            ensure!(!std::fs::read_to_string(&path)?.contains(&secret), "{}", path.display());
        }
    }
    Ok(())
}
