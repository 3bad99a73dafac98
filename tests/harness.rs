//! The harness itself: a helper that silently does nothing would make every other test pass.

mod support;

use std::time::Duration;
use support::tmpfs::Tmpfs;
use support::{
    Cluster, ClusterOptions, Program, Result, Scratch, anyhow, damage, data, ensure, files, limits,
};

#[test]
fn a_program_that_outlives_its_limit_is_killed_and_reported() -> Result<()> {
    let started = std::time::Instant::now();
    let result =
        Program::new("/bin/sh")?.args(["-c", "echo so far; sleep 60"]).run(Duration::from_millis(300));
    let error = result.err().ok_or_else(|| anyhow!("the limit did not hold"))?;
    assert!(error.to_string().contains("so far"), "{error}");
    assert!(started.elapsed() < limits::SOON);
    Ok(())
}

#[test]
fn the_io_counters_of_an_ended_program_are_exact_to_a_few_pages() -> Result<()> {
    const MIB: u64 = 1 << 20;
    let finished = Program::new("/bin/dd")?
        .args(["if=/dev/zero", "of=/dev/null", "bs=1M", "count=64"])
        .run(limits::TOOL)?
        .ok()?;
    let io = finished.io;
    assert!((64 * MIB..65 * MIB).contains(&io.read_bytes), "{io:?}");
    assert!((64 * MIB..65 * MIB).contains(&io.written_bytes), "{io:?}");
    Ok(())
}

#[test]
fn programs_do_not_run_as_root() -> Result<()> {
    let finished = Program::new("/usr/bin/id")?.args(["-u"]).run(limits::TOOL)?.ok()?;
    assert_ne!(finished.stdout.trim(), "0");
    Ok(())
}

#[test]
fn a_small_file_system_is_full_when_told_so_and_gone_after_the_test() -> Result<()> {
    let scratch = Scratch::new()?;
    let path = scratch.join("small");
    let write = |bytes: usize| std::fs::write(path.join("file"), vec![0; bytes]);
    {
        let mount = Tmpfs::mount(&path, 8)?;
        mount.fill_up_to(64 << 10)?;
        assert!(write(1 << 20).is_err());
        mount.relieve()?;
        write(1 << 20)?;
        mount.set_read_only(true)?;
        assert!(write(1).is_err());
    }
    assert_eq!(files::walk(&path)?.len(), 0, "the mount is still there");
    Ok(())
}

#[test]
fn a_wound_changes_the_object_and_heals() -> Result<()> {
    let scratch = Scratch::new()?;
    let (one, other) = (scratch.join("one"), scratch.join("other"));
    std::fs::write(&one, [7; 100])?;
    std::fs::write(&other, [9; 50])?;
    let before = files::snapshot(scratch.path())?;
    let hurt = |count: usize| -> Result<()> {
        let changed = files::changes(&before, &files::snapshot(scratch.path())?);
        ensure!(changed.len() == count, "{changed:?}");
        Ok(())
    };
    {
        let _wound = damage::flip_bit(&one)?;
        hurt(1)?;
    }
    {
        let _wound = damage::cut_tail(&one)?;
        assert_eq!(std::fs::metadata(&one)?.len(), 90);
    }
    {
        let _wounds = damage::swap(&one, &other)?;
        hurt(2)?;
    }
    {
        let _wound = damage::delete(&other)?;
        hurt(1)?;
    }
    hurt(0)
}

#[test]
fn a_closed_directory_refuses_the_test_user_until_it_opens_again() -> Result<()> {
    let scratch = Scratch::new()?;
    let inner = scratch.private_dir("outer")?.join("inner");
    support::user::private_dir(&inner)?;
    let touch = || Program::new("/usr/bin/touch")?.arg(inner.join("file")).run(limits::TOOL);
    {
        let _closed = files::Closed::tree(&scratch.join("outer"), 0o500)?;
        assert_eq!(touch()?.code, Some(1));
    }
    touch()?.ok()?;
    Ok(())
}

#[test]
fn a_fingerprint_sees_a_changed_row_and_a_stopped_server_is_gone() -> Result<()> {
    let scratch = Scratch::new()?;
    let options = ClusterOptions { archive_mode: false, linked_wal: true, ..ClusterOptions::default() };
    let cluster = Cluster::create(&scratch, "primary", &options)?;
    cluster.start()?;
    data::seed_small(&cluster)?;
    let before = data::fingerprint(&cluster)?;
    assert!(before.lines().count() >= 7 && before.contains("document|2000|"), "{before}");
    assert_eq!(before, data::fingerprint(&cluster)?);
    cluster.psql("update document set title = 'other' where id = 77")?;
    assert_ne!(before, data::fingerprint(&cluster)?);
    assert_eq!(cluster.control("Database cluster state")?, "in production");
    cluster.stop()?;
    cluster.wait_until_gone(limits::SOON)?;
    assert_eq!(cluster.control("Database cluster state")?, "shut down");
    Ok(())
}
