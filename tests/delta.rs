//! Restores over a cluster that is there: what equals the backup stays, everything else becomes as in the backup.

mod support;

use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use support::cluster::assert_does_not_start;
use support::{
    Cluster, Context, Json, Random, Result, Site, assert_refused, data, ensure, files, limits, note,
    same_data,
};

const PATH_NOT_EMPTY: i32 = 40;
const END: [&str; 2] = ["--type=immediate", "--target-action=promote"];
/// Restores that are killed.
const ROUNDS: u32 = 8;

fn delta(site: &Site, copy: &Cluster, more: &[&str]) -> Result<Json> {
    let options = [&END[..], &["--output=json"], more].concat();
    site.try_restore(copy.data(), &options)?.ok()?.json()
}

fn number(report: &Json, key: &str) -> Result<u64> {
    report[key].as_u64().with_context(|| format!("no {key} in {report}"))
}

/// A relation file of some size, by its table.
fn relation(copy: &Cluster, table: &str) -> Result<PathBuf> {
    Ok(copy.data().join(copy.psql(&format!("select pg_relation_filepath('{table}')"))?))
}

/// A copy that has lived on since it was restored: rows changed, files truncated, gone, grown and new.
fn lived_on(site: &Site, name: &str) -> Result<Cluster> {
    let copy = site.restore(name, &END)?;
    copy.start_and_recover()?;
    copy.psql(
        "create table stray as select generate_series(1, 10000) n; delete from document where id % 50 = 0",
    )?;
    let truncated = relation(&copy, "document_pkey")?;
    copy.psql("checkpoint")?;
    copy.stop()?;
    std::fs::OpenOptions::new().write(true).open(&truncated)?.set_len(8192)?;
    let files = base_files(&copy)?;
    let (gone, grown) = (files.first().context("a file")?, files.last().context("a file")?);
    std::fs::remove_file(gone)?;
    std::fs::OpenOptions::new()
        .append(true)
        .open(grown)?
        .write_all_at(&[7; 20_000], std::fs::metadata(grown)?.len())?;
    std::fs::write(copy.data().join("base/stray"), "nobody's")?;
    std::fs::create_dir(copy.data().join("not_postgresqls"))?;
    Ok(copy)
}

fn base_files(copy: &Cluster) -> Result<Vec<PathBuf>> {
    let mut files = files::walk(&copy.data().join("base"))?;
    files.sort();
    Ok(files)
}

fn has(copy: &Cluster, path: &str) -> bool {
    copy.data().join(path).exists()
}

#[test]
fn only_what_differs_is_fetched_and_the_result_is_the_backup() -> Result<()> {
    let site = Site::start()?;
    site.backup(&[])?;
    let expected = data::fingerprint(&site.cluster)?;
    let copy = lived_on(&site, "copy")?;
    assert_refused(&site.try_restore(copy.data(), &END)?, PATH_NOT_EMPTY)?;
    ensure!(has(&copy, "global/pg_control"), "a refused restore removed something");
    let report = delta(&site, &copy, &["--delta"])?;
    let (bytes, kept) = (number(&report, "bytes")?, number(&report, "bytes-kept")?);
    note(&report);
    ensure!(kept > bytes / 2 && kept < bytes, "{report}");
    ensure!(number(&report, "bytes-fetched")? < bytes - kept + bytes / 10, "{report}");
    ensure!(!has(&copy, "base/stray") && !has(&copy, "not_postgresqls"), "strangers are left");
    copy.start_and_recover()?;
    same_data(&copy, &expected)?;
    copy.stop()?;

    let again = delta(&site, &copy, &["--force"])?;
    ensure!(number(&again, "bytes-kept")? == 0, "--force alone keeps nothing: {again}");
    copy.start_and_recover()?;
    same_data(&copy, &expected)
}

#[test]
fn files_of_the_same_size_and_time_are_believed_where_that_is_asked_for() -> Result<()> {
    let site = Site::start()?;
    // What changed in the second in which the backup begins, or later, is not believed.
    site.cluster.psql("checkpoint; select pg_sleep(2)")?;
    site.backup(&[])?;
    let expected = data::fingerprint(&site.cluster)?;
    let copy = site.restore("copy", &END)?;
    let large = base_files(&copy)?
        .into_iter()
        .max_by_key(|file| std::fs::metadata(file).map_or(0, |found| found.len()));
    let large = large.context("a file")?;
    let time = std::fs::metadata(&large)?.modified()?;
    let file = std::fs::OpenOptions::new().write(true).open(&large)?;
    file.write_all_at(&[1; 8192], 0)?;
    let report = delta(&site, &copy, &["--delta", "--force"])?;
    ensure!(
        number(&report, "bytes-kept")? < number(&report, "bytes")?,
        "its time told of the change: {report}"
    );
    file.write_all_at(&[1; 8192], 0)?;
    file.set_modified(time)?;
    let report = delta(&site, &copy, &["--delta", "--force"])?;
    note(&report);
    let mut first = [0; 8192];
    std::fs::File::open(&large)?.read_exact_at(&mut first, 0)?;
    ensure!(first == [1; 8192], "nobody was to look into it");
    delta(&site, &copy, &["--delta"])?;
    copy.start_and_recover()?;
    same_data(&copy, &expected)
}

#[test]
fn tablespaces_are_restored_through_the_targets_own_links_only() -> Result<()> {
    let site = Site::start()?;
    site.cluster.create_tablespace("east", &site.scratch.join("east"))?;
    site.cluster.psql("create table in_east tablespace east as select generate_series(1, 50000) n")?;
    site.backup(&[])?;
    let expected = data::fingerprint(&site.cluster)?;
    let map = format!("--tablespace-map=east={}", site.scratch.join("east-copy").display());
    let copy = site.restore("copy", &[&END[..], &[&map]].concat())?;
    let report = delta(&site, &copy, &["--delta", &map])?;
    ensure!(number(&report, "bytes-kept")? + 100_000 > number(&report, "bytes")?, "{report}");

    // To another place: the old one is nobody's to remove.
    let elsewhere = format!("--tablespace-map=east={}", site.scratch.join("east-again").display());
    delta(&site, &copy, &["--delta", &elsewhere])?;
    ensure!(!files::walk(&site.scratch.join("east-copy"))?.is_empty(), "what the link led to was removed");
    // To a place that holds something and that the target does not lead to.
    let refused = site.try_restore(copy.data(), &[&END[..], &["--delta", &map]].concat())?;
    assert_refused(&refused, PATH_NOT_EMPTY)?;
    copy.start_and_recover()?;
    same_data(&copy, &expected)
}

#[test]
fn a_file_that_has_another_name_elsewhere_is_replaced_not_written_to() -> Result<()> {
    let site = Site::start()?;
    site.backup(&[])?;
    let copy = site.restore("copy", &END)?;
    let file = base_files(&copy)?
        .into_iter()
        .find(|file| std::fs::metadata(file).is_ok_and(|found| found.len() > 8192));
    let file = file.context("a file")?;
    let twin = site.scratch.join("twin");
    std::fs::hard_link(&file, &twin)?;
    std::fs::OpenOptions::new().write(true).open(&file)?.write_all_at(b"changed", 0)?;
    delta(&site, &copy, &["--delta"])?;
    ensure!(std::fs::read(&twin)?.starts_with(b"changed"), "the twin was written to");
    ensure!(std::fs::metadata(&file)?.nlink() == 1);
    Ok(())
}

#[test]
fn a_delta_restore_killed_at_any_moment_leaves_nothing_that_starts() -> Result<()> {
    let site = Site::start()?;
    site.backup(&[])?;
    let expected = data::fingerprint(&site.cluster)?;
    let mut random = Random::from_environment()?;
    let copy = lived_on(&site, "copy")?;
    let kept = site.scratch.join("kept");
    copy_tree(copy.data(), &kept)?;
    let undisturbed = site.try_restore(copy.data(), &[&END[..], &["--delta"]].concat())?.ok()?.elapsed;
    for round in 1..=ROUNDS {
        std::fs::remove_dir_all(copy.data())?;
        copy_tree(&kept, copy.data())?;
        let moment = random.moment_within(undisturbed);
        let path = format!("--pg-path={}", copy.data().display());
        let running = site.pgconvoy.start(["restore", &path, "--delta", END[0], END[1]])?;
        let killed = running.kill_after(moment)?;
        note(format!("round {round}: killed after {moment:?}: code {:?}", killed.code));
        ensure!(killed.code.is_none_or(|code| code == 0), "{killed}");
        // With pg_control it is the old cluster, untouched, or the restored one, whole.
        if !has(&copy, "global/pg_control") {
            assert_does_not_start(&copy)?;
        }
        delta(&site, &copy, &["--delta"])?;
        copy.start_and_recover()?;
        same_data(&copy, &expected)?;
        copy.stop()?;
    }
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    support::Program::new("cp")?.arg("-a").arg(from).arg(to).run(limits::TOOL)?.ok()?;
    Ok(())
}
