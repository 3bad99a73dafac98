//! Restores to a moment, a position, a transaction or a name: each ends exactly where PostgreSQL says that it ends, on
//! whatever timeline that is.

mod support;

use support::site::copy_overrides;
use support::{
    Cluster, ClusterOptions, Context, Pgconvoy, Random, Result, Site, SiteOptions, assert_refused, ensure,
    note,
};

/// Restores to random targets, a quarter of each kind.
const TARGETS: usize = 20;
/// Rows of the table of moments, before and after each backup.
const MARKS: usize = 12;
/// Where the original wrote.
const FIRST: &str = "first";
const BACKUP_SET: i32 = 75;
const OTHER_TIMELINE: i32 = 58;

/// One committed row, and every way to name the place right behind it.
#[derive(Debug, Clone)]
struct Mark {
    id: u64,
    xid: String,
    /// When it was committed.
    committed: String,
    /// After it was committed, and before the next one began.
    time: String,
    lsn: String,
    name: String,
}

/// Commits rows, one transaction each, which say where they were written.
fn marks(cluster: &Cluster, branch: &str, count: usize) -> Result<Vec<Mark>> {
    (0..count).map(|_| mark(cluster, branch)).collect()
}

fn mark(cluster: &Cluster, branch: &str) -> Result<Mark> {
    let insert = format!("insert into moment (branch) values ('{branch}') returning id, txid_current()");
    let row = cluster.psql(&insert)?;
    let (id, xid) = row.split_once('|').with_context(|| row.clone())?;
    let name = format!("mark-{id}");
    let after = cluster.psql(&format!(
        "select to_char(pg_xact_commit_timestamp('{xid}'::xid) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')
                || '+00',
                to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00',
                pg_current_wal_insert_lsn();
         select pg_create_restore_point('{name}')"
    ))?;
    let fields: Vec<&str> = after.lines().next().unwrap_or_default().split('|').collect();
    let [committed, time, lsn] = fields[..] else { support::bail!("{after}") };
    let text = str::to_owned;
    Ok(Mark {
        id: id.parse()?,
        xid: text(xid),
        committed: text(committed),
        time: text(time),
        lsn: text(lsn),
        name,
    })
}

fn start() -> Result<Site> {
    let settings = vec!["track_commit_timestamp = on".to_owned()];
    let cluster = ClusterOptions { settings, ..ClusterOptions::default() };
    let site = Site::start_with(&SiteOptions { cluster, without_data: true, ..SiteOptions::default() })?;
    site.cluster
        .psql("create table moment (id int generated always as identity primary key, branch text)")?;
    site.cluster
        .client("pgbench")?
        .args(["-i", "-q", "-s", "1", "postgres"])
        .run(support::limits::TOOL)?
        .ok()?;
    Ok(site)
}

/// The last row that a restored cluster has, and on which branch it was written.
fn last_row(cluster: &Cluster) -> Result<(u64, String)> {
    let answer = cluster.psql("select id, branch from moment order by id desc limit 1")?;
    let (id, branch) = answer.split_once('|').unwrap_or(("0", ""));
    Ok((id.parse()?, branch.to_owned()))
}

/// Restores with these options into a new directory, starts it, and tells the last row.
fn lands_at(site: &Site, number: usize, options: &[&str]) -> Result<(u64, String)> {
    let repo = format!("--repo={}", number % 2 + 1);
    let mut all = vec![repo.as_str(), "--target-action=promote"];
    all.extend(options);
    let copy = site.restore(&format!("copy-{number}"), &all).with_context(|| format!("{all:?}"))?;
    copy.start_and_recover().with_context(|| format!("{all:?}"))?;
    let last = last_row(&copy)?;
    copy.stop()?;
    std::fs::remove_dir_all(copy.data())?;
    Ok(last)
}

fn lands(site: &Site, number: usize, options: &[&str], mark: &Mark, branch: &str) -> Result<()> {
    let landed = lands_at(site, number, options)?;
    ensure!(landed == (mark.id, branch.to_owned()), "{options:?} landed at row {landed:?}, not {mark:?}");
    Ok(())
}

#[test]
fn each_target_ends_exactly_where_postgresql_says() -> Result<()> {
    let site = start()?;
    let mut random = Random::from_environment()?;
    let load = site.cluster.load(2, 50)?;
    let first = site.backup_label(&[])?;
    let mut all = marks(&site.cluster, FIRST, MARKS)?;
    site.backup_label(&[])?;
    let between = all.len();
    all.extend(marks(&site.cluster, FIRST, MARKS)?);
    load.kill_and_wait()?;
    site.cluster.switch_and_archive()?;
    let first = format!("--set={first}");
    for number in 0..TARGETS {
        let place = usize::try_from(random.below(all.len() as u64))?;
        let mark = &all[place];
        let exclusive = random.below(2) == 1;
        let kind = ["time", "lsn", "xid", "name"][number % 4];
        // The row itself is what is excluded; what lies behind it is behind it either way.
        let (target, expected) = match kind {
            "time" if exclusive => (&mark.committed, mark.id - 1),
            "xid" if exclusive => (&mark.xid, mark.id - 1),
            "time" => (&mark.time, mark.id),
            "lsn" => (&mark.lsn, mark.id),
            "xid" => (&mark.xid, mark.id),
            _ => (&mark.name, mark.id),
        };
        let (typed, wanted) = (format!("--type={kind}"), format!("--target={target}"));
        let mut options = vec![typed.as_str(), wanted.as_str()];
        if exclusive && kind != "name" {
            options.push("--target-exclusive");
        }
        // A name or a transaction does not tell where it is: the latest backup may be after it.
        if place < between && (kind == "xid" || kind == "name") {
            options.push(&first);
        }
        note(format!("{number}: {options:?}, row {expected}"));
        let landed = lands_at(&site, number, &options)?;
        ensure!(landed.0 == expected, "{options:?} landed at row {landed:?}, not {expected}");
    }
    let copy = site.copy("too-early")?;
    let too_early = ["--type=time", "--target=2001-01-01 00:00:00+00"];
    assert_refused(&site.try_restore(copy.data(), &too_early)?, BACKUP_SET)?;
    ensure!(!copy.data().exists(), "something was written");
    Ok(())
}

/// Another server of the same history, which archives on as the original did.
fn successor(site: &Site, name: &str, options: &[&str]) -> Result<Cluster> {
    let cluster = Cluster::attach(&site.scratch, name, vec!["fsync=off".to_owned()])?;
    site.try_restore(cluster.data(), options)?.ok()?;
    Ok(cluster)
}

fn configured_for(site: &Site, cluster: &Cluster) -> Result<Pgconvoy> {
    let name = "successor.toml";
    site.pgconvoy.with_config(&site.scratch, name, &site.config.clone().for_cluster(cluster))
}

/// A standby that streams from the original takes over, and archives on the next timeline.
fn fail_over(site: &Site) -> Result<Cluster> {
    let standby = site.standby("standby", vec!["fsync=off".to_owned()])?;
    site.cluster.stop()?;
    standby.psql("select pg_promote()")?;
    Ok(standby)
}

#[test]
fn recovery_follows_the_timelines_of_a_failover_and_of_a_switch_back() -> Result<()> {
    let site = start()?;
    let first_backup = site.backup_label(&[])?;
    let first = marks(&site.cluster, FIRST, 4)?;
    site.cluster.switch_and_archive()?;

    let standby = fail_over(&site)?;
    let second = marks(&standby, "second", 3)?;
    let on_second = configured_for(&site, &standby)?;
    let report = on_second.run(["backup", "--type=full", "--output=json"])?.ok()?.json()?;
    let second_backup = report["label"].as_str().context("a label")?.to_owned();
    let second = [second, marks(&standby, "second", 3)?].concat();
    standby.switch_and_archive()?;
    lands(&site, 0, &["--type=time", &target(&last(&second)?.time)], last(&second)?, "second")?;
    lands(&site, 1, &["--type=time", &target(&first[1].time)], &first[1], FIRST)?;
    // Before the backup of its timeline.
    lands(&site, 2, &["--type=lsn", &target(&second[1].lsn)], &second[1], "second")?;
    standby.stop()?;

    // Back to a moment of the first timeline: what the second one had is not part of the third.
    let back = ["--type=name", &target(&first[2].name), "--target-timeline=1", "--target-action=promote"];
    let back = [&back[..], &["--set", &first_backup]].concat();
    let third = successor(&site, "back", &back)?;
    third.start_and_recover()?;
    ensure!(last_row(&third)? == (first[2].id, FIRST.to_owned()));
    let branch = marks(&third, "third", 3)?;
    third.switch_and_archive()?;
    third.stop()?;

    lands(&site, 3, &["--type=time", &target(&last(&branch)?.time)], last(&branch)?, "third")?;
    let on_2 = ["--type=lsn", &target(&last(&second)?.lsn), "--target-timeline=2"];
    lands(&site, 4, &on_2, last(&second)?, "second")?;
    // To the end of the latest timeline.
    let newest = site.restore("newest", &[])?;
    newest.start_and_recover()?;
    ensure!(last_row(&newest)? == (last(&branch)?.id, "third".to_owned()));

    let copy = site.copy("refused")?;
    let refused = site.try_restore(copy.data(), &["--set", &second_backup])?;
    assert_refused(&refused, OTHER_TIMELINE)?;
    let unknown = site.try_restore(copy.data(), &["--target-timeline=9"])?;
    assert_refused(&unknown, OTHER_TIMELINE)?;
    ensure!(!copy.data().exists(), "something was written");
    Ok(())
}

fn target(value: &str) -> String {
    format!("--target={value}")
}

fn last(marks: &[Mark]) -> Result<&Mark> {
    marks.last().context("a mark")
}

#[test]
fn a_restored_standby_is_a_standby_and_a_restored_copy_can_be_kept_from_archiving() -> Result<()> {
    let site = start()?;
    site.backup(&[])?;
    site.cluster.switch_and_archive()?;
    let standby = Cluster::attach(&site.scratch, "standby", copy_overrides())?;
    site.try_restore(standby.data(), &["--type=standby"])?.ok()?;
    standby.start()?;
    ensure!(standby.psql("select pg_is_in_recovery()")? == "t");
    standby.stop()?;
    let quiet =
        successor(&site, "quiet", &["--archive-mode=off", "--type=immediate", "--target-action=promote"])?;
    quiet.start_and_recover()?;
    ensure!(quiet.psql("show archive_mode")? == "off");
    Ok(())
}
