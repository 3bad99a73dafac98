//! Chains of differential and incremental backups on a real cluster: every member restores to its exact state, from each
//! repository, and stores only what changed.

mod support;

use std::fs::{File, FileTimes};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use support::checks::repo_report;
use support::{Cluster, Context, Json, Result, Site, SiteOptions, data, ensure, note, same_data};

/// Between which the load may not write, so that what is counted is what is there when the marker commits.
const LOADED: &str = "pgbench_accounts, pgbench_branches, pgbench_history, pgbench_tellers";

/// A backup, and the state of the cluster a moment after it.
struct Member {
    label: String,
    kind: &'static str,
    /// The transaction that saw the state.
    xid: String,
    state: String,
}

fn backup(site: &Site, kind: &str, more: &[&str]) -> Result<Json> {
    let kind = format!("--type={kind}");
    let args = ["backup", kind.as_str(), "--output=json"];
    let finished = site.pgconvoy.run(args.iter().chain(more))?.ok()?;
    finished.json()
}

fn text(report: &Json, key: &str) -> Result<String> {
    Ok(report[key].as_str().with_context(|| format!("no {key} in {report}"))?.to_owned())
}

fn number(report: &Json, pointer: &str) -> Result<u64> {
    report.pointer(pointer).and_then(Json::as_u64).with_context(|| format!("{pointer} in {report}"))
}

/// All rows of all tables, as one transaction saw them after which nothing was committed until it had ended.
fn marker(cluster: &Cluster) -> Result<(String, String)> {
    let script = format!(
        "begin; lock table {LOADED} in share mode; insert into marker default values;
         select txid_current();
         {}
         commit;",
        data::FINGERPRINT
    );
    let answer = cluster.psql(&script)?;
    let (xid, state) = answer.split_once('\n').with_context(|| answer.clone())?;
    Ok((xid.trim().to_owned(), state.trim().to_owned()))
}

fn member(site: &Site, kind: &'static str) -> Result<Member> {
    let report = backup(site, kind, &[])?;
    ensure!(report["type"] == kind && report["status"] == "ok", "{report}");
    note(format!(
        "{} read {} changed {}",
        report["label"],
        number(&report, "/bytes/read")?,
        number(&report, "/bytes/changed")?
    ));
    let (xid, state) = marker(&site.cluster)?;
    Ok(Member { label: text(&report, "label")?, kind, xid, state })
}

/// What happens before the next member of a chain.
fn change(site: &Site, round: usize) -> Result<()> {
    let cluster = &site.cluster;
    let step = match round {
        0 => "update document set title = title || 'x' where id % 50 = 0; checkpoint",
        1 => "vacuum full document",
        2 => {
            "create table short as select generate_series(1, 5000) n; truncate short; insert into short values (1)"
        }
        3 => "create database twin template template1 strategy wal_log",
        4 => "create database copy template template1 strategy file_copy",
        5 => "reindex table document",
        6 => "create table elsewhere tablespace fast as select generate_series(1, 20000) n",
        7 => "delete from document where id % 2 = 0; vacuum document",
        8 => "drop table elsewhere; drop tablespace fast",
        _ => "drop database twin; insert into short select generate_series(1, 1000)",
    };
    step.split(';').try_for_each(|one| cluster.psql(one).map(drop))
}

#[test]
fn every_member_of_a_chain_restores_to_its_exact_state_from_each_repository() -> Result<()> {
    let site = Site::start()?;
    site.cluster.psql("create table marker (id int generated always as identity)")?;
    site.cluster.create_tablespace("fast", &site.scratch.join("fast"))?;
    let load = site.cluster.load(2, 40)?;
    let mut members = vec![member(&site, "full")?];
    for round in 0..10 {
        change(&site, round)?;
        members.push(member(&site, "incr")?);
    }
    members.push(member(&site, "diff")?);
    members.push(member(&site, "incr")?);
    load.kill_and_wait()?;
    site.cluster.switch_and_archive()?;
    site.pgconvoy.run(["verify"])?.ok()?;
    for (place, one) in members.iter().enumerate() {
        for repo in [1, 2] {
            let name = format!("{place}-{repo}");
            let options = [
                format!("--set={}", one.label),
                format!("--repo={repo}"),
                format!("--target={}", one.xid),
                format!(
                    "--tablespace-map-all={}",
                    site.scratch.join(&format!("tablespaces-{name}")).display()
                ),
                "--type=xid".to_owned(),
                "--target-action=promote".to_owned(),
                // Replay may create the tablespace of the original; here it does so where the original's was.
                "--force".to_owned(),
            ];
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            let copy = site.restore(&name, &options)?;
            copy.start_and_recover().with_context(|| format!("{} from repo {repo}", one.label))?;
            same_data(&copy, &one.state)
                .with_context(|| format!("{} ({}) from repo {repo}", one.label, one.kind))?;
            copy.stop()?;
            std::fs::remove_dir_all(copy.data())?;
        }
    }
    Ok(())
}

/// The main fork of a table.
fn file_of(cluster: &Cluster, table: &str) -> Result<PathBuf> {
    Ok(cluster.data().join(cluster.psql(&format!("select pg_relation_filepath('{table}')"))?.trim()))
}

fn set_time(path: &PathBuf, time: SystemTime) -> Result<()> {
    Ok(File::options().write(true).open(path)?.set_times(FileTimes::new().set_modified(time))?)
}

fn restores_the_same(site: &Site, label: &str) -> Result<()> {
    site.cluster.switch_and_archive()?;
    let expected = data::fingerprint(&site.cluster)?;
    for repo in [1, 2] {
        let copy = site
            .restore(&format!("{label}-{repo}"), &[&format!("--repo={repo}"), &format!("--set={label}")])?;
        copy.start_and_recover()?;
        same_data(&copy, &expected).with_context(|| format!("{label} from repo {repo}"))?;
        copy.stop()?;
    }
    Ok(())
}

#[test]
fn a_change_whose_size_and_time_were_put_back_is_caught_by_comparing_content() -> Result<()> {
    let site = Site::start()?;
    let path = file_of(&site.cluster, "document")?;
    site.cluster.psql("checkpoint")?;
    backup(&site, "full", &[])?;
    let before = std::fs::metadata(&path)?.modified()?;
    site.cluster.psql("update document set title = 'changed' where id = 7")?;
    site.cluster.psql("checkpoint")?;
    set_time(&path, before)?;
    let report = backup(&site, "incr", &["--delta"])?;
    let database = number(&report, "/bytes/database")?;
    ensure!(number(&report, "/bytes/read")? * 100 >= database * 98, "all is read: {report}");
    ensure!(number(&report, "/bytes/changed")? * 10 < database, "little is stored: {report}");
    restores_the_same(&site, &text(&report, "label")?)
}

#[test]
fn a_clock_that_was_set_back_makes_a_backup_compare_content_by_itself() -> Result<()> {
    let site = Site::start()?;
    let path = file_of(&site.cluster, "document")?;
    site.cluster.psql("checkpoint")?;
    let full = backup(&site, "full", &[])?;
    for (time, reason) in [
        (SystemTime::now() - Duration::from_secs(86_400), "earlier"),
        (SystemTime::now() + Duration::from_secs(86_400), "future"),
    ] {
        set_time(&path, time)?;
        let finished = site.pgconvoy.run(["backup", "--type=diff", "--output=json"])?.ok()?;
        ensure!(finished.stderr.contains(reason) && finished.stderr.contains("delta"), "{}", finished.stderr);
        let report = finished.json()?;
        ensure!(report["prior"] == full["label"], "{report}");
        ensure!(
            number(&report, "/bytes/read")? * 100 >= number(&report, "/bytes/database")? * 98,
            "{report}"
        );
    }
    Ok(())
}

#[test]
fn without_a_prior_a_backup_is_made_in_full_and_says_so() -> Result<()> {
    let site = Site::start_with(&SiteOptions { without_data: true, ..SiteOptions::default() })?;
    for kind in ["diff", "incr"] {
        let finished =
            site.pgconvoy.run(["backup", &format!("--type={kind}"), "--repo=1", "--output=json"])?.ok()?;
        let report = finished.json()?;
        if kind == "diff" {
            ensure!(finished.stderr.contains("no prior backup exists"), "{}", finished.stderr);
            ensure!(report["type"] == "full" && report["prior"] == Json::Null, "{report}");
        } else {
            ensure!(report["type"] == "incr", "{report}");
            ensure!(text(&report, "label")?.ends_with('I'), "{report}");
        }
    }
    Ok(())
}

#[test]
fn repositories_with_different_histories_get_each_what_it_lacks_from_one_read() -> Result<()> {
    let site = Site::start()?;
    site.cluster.psql("checkpoint")?;
    let full = text(&backup(&site, "full", &[])?, "label")?;
    site.cluster.psql("update document set title = 'one' where id % 100 = 1")?;
    site.cluster.psql("checkpoint")?;
    let only_one = text(&backup(&site, "incr", &["--repo=1"])?, "label")?;
    site.cluster.psql("update document set title = 'two' where id % 100 = 2")?;
    site.cluster.psql("checkpoint")?;
    let finished = site.pgconvoy.run(["backup", "--type=incr", "--output=json"])?.ok()?;
    ensure!(finished.stderr.contains(&format!("repo 2 lacks backup {only_one}")), "{}", finished.stderr);
    let both = finished.json()?;
    let label = text(&both, "label")?;
    let stored = |repo| -> Result<u64> { number(repo_report(&both, repo)?, "/bytes-stored") };
    ensure!(stored(1)? < stored(2)?, "what repo 1 has of {only_one} is not stored there again: {both}");
    let manifest = |repo: &str| -> Result<Json> {
        site.pgconvoy.run(["manifest", "--set", &label, repo, "--output=json"])?.ok()?.json()
    };
    let (one, two) = (manifest("--repo=1")?, manifest("--repo=2")?);
    ensure!(
        one["prior"] == only_one.as_str() && two["prior"] == full.as_str(),
        "{} {}",
        one["prior"],
        two["prior"]
    );
    ensure!(two["references"] == serde_json::json!([full]), "{}", two["references"]);
    ensure!(one["file"] == two["file"], "the files are the same, whatever they rest on");
    restores_the_same(&site, &label)?;

    // Nothing is left of what both had: repo 2 begins anew, and holds all of it by itself.
    site.cluster.psql("update document set title = 'three' where id % 100 = 3")?;
    let alone = text(&backup(&site, "full", &["--repo=1"])?, "label")?;
    let finished = site.pgconvoy.run(["backup", "--type=incr", "--output=json"])?.ok()?;
    ensure!(finished.stderr.contains(&format!("repo 2 lacks backup {alone}")), "{}", finished.stderr);
    let last = finished.json()?;
    let stored = |repo| -> Result<u64> { number(repo_report(&last, repo)?, "/bytes-stored") };
    ensure!(stored(1)? * 10 < stored(2)?, "{last}");
    restores_the_same(&site, &text(&last, "label")?)?;
    site.pgconvoy.run(["verify"])?.ok().map(drop)
}

#[test]
fn one_changed_block_in_a_hundred_costs_little_more_than_itself() -> Result<()> {
    let site = Site::start_with(&SiteOptions { without_data: true, ..SiteOptions::default() })?;
    // A row a page: 64 MiB that do not compress.
    site.cluster.psql(
        "create table wide (id int, filler text) with (fillfactor = 10);
         alter table wide alter filler set storage plain;
         insert into wide select n, (select string_agg(md5(random()::text), '') from generate_series(1, 220) where n > 0)
           from generate_series(1, 8192) n;
         vacuum freeze wide; checkpoint",
    )?;
    let table: u64 = site.cluster.psql("select pg_relation_size('wide')")?.trim().parse()?;
    ensure!(table >= 64 << 20, "{table}");
    backup(&site, "full", &["--compress-type=none"])?;
    site.cluster.psql("update wide set id = -id where id % 100 = 0")?;
    site.cluster.psql("checkpoint")?;
    let report = backup(&site, "incr", &["--compress-type=none"])?;
    let read = number(&report, "/bytes/read")?;
    ensure!(read >= table && read < table + (8 << 20), "the changed file and little else is read: {report}");
    // 1 % of rows have a new version elsewhere: 2 % of blocks of 32 KiB or less, and what else the server wrote.
    let changed = number(&report, "/bytes/changed")?;
    note(format!("table {table} changed {changed}"));
    ensure!(changed < table / 8, "{report}");
    restores_the_same(&site, &text(&report, "label")?)
}
