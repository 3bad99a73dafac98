//! The main road: a stanza is made, backed up in full, looked at, verified, restored and compared row by row.

mod support;

use support::checks::repo_report;
use support::{
    ClusterOptions, Context, Finished, Json, Program, Repo, Result, Scratch, Site, SiteOptions, data, ensure,
    labels, limits, note, same_data, tools,
};

#[test]
fn a_full_backup_goes_to_both_repositories_and_each_restores_alone() -> Result<()> {
    let site = Site::start()?;
    site.pgconvoy.run(["check"])?.ok()?;
    let report = site.backup(&[])?;
    assert_eq!(report["status"], "ok", "{report}");
    let label = report["label"].as_str().context("label")?.to_owned();
    assert!(label.ends_with('F') && label.len() == 16, "{label}");
    assert_eq!(labels(&site.pgconvoy, 1)?, std::slice::from_ref(&label));
    assert_eq!(labels(&site.pgconvoy, 2)?, std::slice::from_ref(&label));
    site.pgconvoy.run(["verify"])?.ok()?;

    site.cluster.psql("create table later as select generate_series(1, 1000) n")?;
    site.cluster.switch_and_archive()?;
    let expected = data::fingerprint(&site.cluster)?;
    for number in [1, 2] {
        let copy = site.restore(&format!("alone-{number}"), &[&format!("--repo={number}")])?;
        copy.start_and_recover()?;
        same_data(&copy, &expected)?;
        assert_eq!(copy.psql("select count(*) from scribble")?, "0", "an unlogged table comes back empty");
        copy.stop()?;
    }
    Ok(())
}

#[test]
fn a_backup_reports_what_it_did_in_the_words_of_the_contract() -> Result<()> {
    let site = Site::start()?;
    let report = site.backup(&["--unit-size=4MiB"])?;
    let label = report["label"].as_str().context("label")?;
    for (key, value) in [("type", "full"), ("stanza", "main"), ("status", "ok")] {
        assert_eq!(report[key], value, "{report}");
    }
    assert_eq!(report["prior"], Json::Null);
    let number = |pointer: &str| report.pointer(pointer).and_then(Json::as_u64).context(pointer.to_owned());
    assert!(number("/bytes/database")? > 40 << 20, "{report}");
    assert!(number("/bytes/read")? * 100 <= number("/bytes/database")? * 102, "{report}");
    assert!(number("/units/total")? > 5 && number("/pages/checked")? > 4_000, "{report}");
    assert!(number("/duration-ms")? > 0);
    assert_eq!(report["pages"]["errors"], Json::Array(Vec::new()), "{report}");
    for (pointer, length) in [("/archive/start", 24), ("/archive/stop", 24)] {
        assert_eq!(report.pointer(pointer).and_then(Json::as_str).map(str::len), Some(length), "{report}");
    }
    for repo in [1, 2] {
        let repo = repo_report(&report, repo)?;
        assert_eq!(repo["status"], "ok", "{report}");
        assert!(repo["bytes-stored"].as_u64().context("bytes-stored")? > 1 << 20, "{report}");
    }
    let worker_units: u64 = report["workers"]
        .as_array()
        .context("workers")?
        .iter()
        .filter_map(|worker| worker["units"].as_u64())
        .sum();
    assert_eq!(worker_units, number("/units/total")?, "every unit was done by somebody");
    ranges_are_shared_between_slots(&site, label)
}

/// A file over the unit size is read by several slots, and its ranges lie one behind the other.
fn ranges_are_shared_between_slots(site: &Site, label: &str) -> Result<()> {
    let manifest = site.pgconvoy.run(["manifest", "--set", label, "--output=json"])?.ok()?.json()?;
    assert_eq!(manifest["label"], label);
    let files = manifest["file"].as_array().context("file")?;
    let largest = files.iter().max_by_key(|file| file["size"].as_u64()).context("no files")?;
    let ranges = largest["range"].as_array().context("range")?;
    assert!(ranges.len() >= 4, "{largest}");
    let mut end = 0;
    let mut slots = std::collections::BTreeSet::new();
    for range in ranges {
        assert_eq!(range["offset"].as_u64(), Some(end), "{largest}");
        end += range["length"].as_u64().context("length")?;
        slots.insert(format!("{} {}", range["worker"], range["slot"]));
    }
    assert_eq!(Some(end), largest["size"].as_u64(), "{largest}");
    assert!(slots.len() >= 2, "one slot read all of {largest}");
    Ok(())
}

#[test]
fn info_speaks_to_people_and_in_the_json_of_pgbackrest() -> Result<()> {
    let site = Site::start_with(&SiteOptions { without_data: true, ..SiteOptions::default() })?;
    let label = site.backup_label(&[])?;
    let text = site.pgconvoy.run(["info"])?.ok()?.stdout;
    for word in [
        "stanza: main",
        "status: ok",
        "aes-256-gcm",
        &format!("full backup: {label}"),
        "wal start/stop",
        "repo1",
        "repo2",
    ] {
        assert!(text.contains(word), "'{word}' is missing in\n{text}");
    }
    let info = site.pgconvoy.run(["info", "--output=json"])?.ok()?.json()?;
    let stanza = &info[0];
    assert_eq!(stanza["name"], "main");
    assert_eq!(stanza["status"]["code"], 0, "{info}");
    for key in ["archive", "backup", "cipher", "db", "name", "repo", "status"] {
        assert!(stanza.get(key).is_some(), "'{key}' is missing in {stanza}");
    }
    let backup = &stanza["backup"][0];
    let keys = [
        "archive",
        "backrest",
        "database",
        "error",
        "info",
        "label",
        "lsn",
        "prior",
        "reference",
        "timestamp",
        "type",
        "uuid",
    ];
    for key in keys {
        assert!(backup.get(key).is_some(), "'{key}' is missing in {backup}");
    }
    assert_eq!(stanza["db"][0]["version"], "15");
    assert_eq!(stanza["db"][0]["system-id"].to_string(), site.cluster.control("Database system identifier")?);
    let start = backup["timestamp"]["start"].as_u64().context("start")?;
    assert!(backup["timestamp"]["stop"].as_u64().context("stop")? >= start);
    Ok(())
}

#[test]
fn tablespaces_and_links_go_where_their_maps_say() -> Result<()> {
    let options = ClusterOptions { linked_wal: true, ..ClusterOptions::default() };
    let site = Site::start_with(&SiteOptions { cluster: options, ..SiteOptions::default() })?;
    for name in ["east", "west"] {
        site.cluster.create_tablespace(name, &site.scratch.join(&format!("original-{name}")))?;
        site.cluster.psql(&format!(
            "create table in_{name} tablespace {name} as select generate_series(1, 5000) n"
        ))?;
    }
    site.backup(&[])?;
    site.cluster.switch_and_archive()?;
    let expected = data::fingerprint(&site.cluster)?;

    let mapped = site.scratch.private_dir("mapped-east")?;
    let all = site.scratch.private_dir("mapped-all")?;
    let wal = site.scratch.private_dir("mapped-wal")?;
    let maps = [
        format!("--tablespace-map=east={}", mapped.display()),
        format!("--tablespace-map-all={}", all.display()),
        format!("--link-map=pg_wal={}", wal.display()),
    ];
    let copy = site.restore("mapped", &maps.each_ref().map(String::as_str))?;
    copy.start_and_recover()?;
    same_data(&copy, &expected)?;
    let location = |name: &str| {
        copy.psql(&format!("select pg_tablespace_location(oid) from pg_tablespace where spcname = '{name}'"))
    };
    assert_eq!(location("east")?, mapped.display().to_string());
    assert_eq!(location("west")?, all.join("west").display().to_string());
    assert_eq!(std::fs::read_link(copy.data().join("pg_wal"))?, wal);
    copy.stop()?;

    let all_again = site.scratch.private_dir("mapped-again")?;
    let copy = site.restore("unlinked", &[&format!("--tablespace-map-all={}", all_again.display())])?;
    assert!(copy.data().join("pg_wal").symlink_metadata()?.is_dir(), "an unmapped link becomes a directory");
    copy.start_and_recover()?;
    same_data(&copy, &expected)
}

#[test]
fn pg_verifybackup_agrees_before_the_first_start() -> Result<()> {
    let site = Site::start()?;
    site.backup(&[])?;
    let copy = site.restore("copy", &["--backup-manifest", "--type=immediate", "--target-action=promote"])?;
    verify_backup(&copy)?;
    copy.start_and_recover()
}

fn verify_backup(copy: &support::Cluster) -> Result<Finished> {
    Program::new(tools::tool("pg_verifybackup")?)?
        .arg("--no-parse-wal")
        .arg(copy.data())
        .run(limits::TOOL)?
        .ok()
}

#[test]
fn a_stopped_cluster_is_backed_up_without_a_connection() -> Result<()> {
    let site = Site::start()?;
    let expected = data::fingerprint(&site.cluster)?;
    site.cluster.stop()?;
    let report = site.backup(&["--no-online"])?;
    assert_eq!(report["status"], "ok", "{report}");
    let copy = site.restore("copy", &[])?;
    assert!(!copy.data().join("recovery.signal").exists(), "an offline backup needs no recovery");
    copy.start_and_recover()?;
    same_data(&copy, &expected)
}

#[test]
fn an_older_set_and_each_type_of_recovery_can_be_asked_for() -> Result<()> {
    let site = Site::start()?;
    let first = site.backup_label(&[])?;
    let expected = data::fingerprint(&site.cluster)?;
    site.cluster.psql("create table later as select 1 as n")?;
    let second = site.backup_label(&[])?;
    assert!(second > first, "labels increase");
    site.cluster.switch_and_archive()?;

    let older = site.restore("older", &["--set", &first, "--type=immediate", "--target-action=promote"])?;
    older.start_and_recover()?;
    same_data(&older, &expected)?;
    older.stop()?;

    let bare = site.restore("bare", &["--type=none"])?;
    assert!(!bare.data().join("recovery.signal").exists());
    assert!(bare.data().join("backup_label").exists(), "the backup's own recovery stays necessary");

    let latest = site.restore("latest", &["--type=default"])?;
    assert!(latest.data().join("recovery.signal").exists());
    latest.start_and_recover()?;
    assert_eq!(latest.psql("select n from later")?, "1");
    Ok(())
}

#[test]
fn every_codec_brings_back_what_it_was_given() -> Result<()> {
    let site = Site::start_with(&SiteOptions { without_data: true, ..SiteOptions::default() })?;
    site.cluster.psql("create table word as select md5(n::text) from generate_series(1, 20000) n")?;
    let expected = data::fingerprint(&site.cluster)?;
    for codec in ["none", "lz4", "zst", "gz", "bz2"] {
        note(format!("codec {codec}"));
        let label = site.backup_label(&[&format!("--compress-type={codec}")])?;
        site.pgconvoy.run(["verify", "--set", &label])?.ok()?;
        let recovery = ["--set", &label, "--type=immediate", "--target-action=promote"];
        let copy = site.restore(&format!("copy-{codec}"), &recovery)?;
        copy.start_and_recover()?;
        same_data(&copy, &expected)?;
        copy.stop()?;
    }
    Ok(())
}

#[test]
fn segments_of_another_size_than_sixteen_mebibytes_are_found() -> Result<()> {
    let cluster = ClusterOptions { wal_segment_mib: 1, ..ClusterOptions::default() };
    let site = Site::start_with(&SiteOptions { cluster, ..SiteOptions::default() })?;
    let report = site.backup(&[])?;
    assert_eq!(report["status"], "ok", "{report}");
    site.cluster.switch_and_archive()?;
    let expected = data::fingerprint(&site.cluster)?;
    site.pgconvoy.run(["verify"])?.ok()?;
    let copy = site.restore("copy", &[])?;
    copy.start_and_recover()?;
    same_data(&copy, &expected)
}

#[test]
fn one_plain_repository_without_a_cipher_is_enough() -> Result<()> {
    let scratch = Scratch::new()?;
    let cluster = support::Cluster::create(&scratch, "primary", &ClusterOptions::default())?;
    let config = support::Config::new(&scratch, &[Repo::plain(&scratch, 1)], &cluster);
    config.write(&scratch.config_file())?;
    let pgconvoy = support::Pgconvoy::new(&scratch);
    cluster.start()?;
    pgconvoy.run(["stanza-create"])?.ok()?;
    pgconvoy.run(["stanza-create"])?.ok().context("a second stanza-create changes nothing")?;
    pgconvoy.run(["backup", "--type=full"])?.ok()?;
    let copy = support::Cluster::attach(&scratch, "copy", support::site::copy_overrides())?;
    pgconvoy.run(["restore", &format!("--pg-path={}", copy.data().display())])?.ok()?;
    copy.start_and_recover()?;
    ensure!(copy.psql("select 1")? == "1");
    Ok(())
}
