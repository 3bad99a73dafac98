//! Asynchronous archive-push and archive-get: a stand-in for PostgreSQL asks for one segment after another while a
//! background process works ahead.
//!
//! Everybody gets a directory of his own that looks like a data directory, with links to the same segments. The wall time is
//! that of the commands; the CPU time is theirs and that of the background processes, which are waited for.

use crate::contender::Contender;
use crate::measure::{Cost, children_cpu};
use crate::rounds::Turn;
use crate::stage::{Stage, settle};
use crate::support::{Context, Program, Result, ensure, limits, user};
use rustix::process::{WaitOptions, set_child_subreaper, wait};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a turn does to each of its segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Push,
    Get,
}

/// One turn of one contender.
pub(crate) fn turn(stage: &Stage, contender: Contender, way: Way, segments: &[PathBuf]) -> Result<Turn> {
    forget_statuses(stage)?;
    let data = data_directory(stage, way, segments)?;
    let script = script(stage, contender, way, &data, segments)?;
    let program = Program::new("sh")?.arg("-s").stdin_text(&script)?.current_dir(&data);
    settle();
    let cost = cost_with_background(|| {
        let begin = Instant::now();
        program.run(limits::LARGE_COMMAND)?.ok()?;
        Ok(begin.elapsed())
    })?;
    std::fs::remove_dir_all(&data)?;
    Ok(Turn { cost, memory: 0 })
}

/// The wall time is what `work` tells; the CPU time is that of all processes which it leaves behind too, until they have ended.
pub(crate) fn cost_with_background(work: impl FnOnce() -> Result<Duration>) -> Result<Cost> {
    // Background processes become children of this one when their command ends.
    set_child_subreaper(rustix::process::Pid::from_raw(1)).context("taking over the background processes")?;
    let cpu = children_cpu()?;
    let wall = work()?.as_secs_f64();
    while wait(WaitOptions::empty()).is_ok_and(|ended| ended.is_some()) {}
    set_child_subreaper(None).context("leaving the background processes alone")?;
    Ok(Cost { wall, cpu: children_cpu()? - cpu })
}

/// What was told of an earlier turn's segments would hold for this one's too: they are the same files.
pub(crate) fn forget_statuses(stage: &Stage) -> Result<()> {
    for spool in ["spool", "pgbackrest/spool"] {
        let spool = stage.scratch().join(spool);
        if spool.exists() {
            std::fs::remove_dir_all(&spool)?;
        }
    }
    Ok(())
}

/// Status and identity are copied; the segments are links, which neither tool can tell from its own.
fn data_directory(stage: &Stage, way: Way, segments: &[PathBuf]) -> Result<PathBuf> {
    let data = stage.scratch().private_dir("ahead")?;
    for folder in ["global", "pg_wal", "pg_wal/archive_status"] {
        user::private_dir(&data.join(folder))?;
    }
    for file in ["global/pg_control", "PG_VERSION"] {
        std::fs::copy(stage.cluster().data().join(file), data.join(file))?;
        user::give(&data.join(file))?;
    }
    if way == Way::Push {
        for segment in segments {
            let name = name_of(segment);
            std::fs::hard_link(segment, data.join("pg_wal").join(&name))?;
            let ready = data.join("pg_wal/archive_status").join(format!("{name}.ready"));
            std::fs::write(&ready, "")?;
            user::give(&ready)?;
        }
    }
    Ok(data)
}

fn script(
    stage: &Stage,
    contender: Contender,
    way: Way,
    data: &Path,
    segments: &[PathBuf],
) -> Result<String> {
    ensure!(!segments.is_empty(), "a turn without segments");
    let path = match contender {
        Contender::Pgbackrest { .. } => format!("--pg1-path={}", data.display()),
        _ => format!("--pg-path={}", data.display()),
    };
    let words = stage.words(contender).join(" ");
    let mut script = String::from("set -e\n");
    for segment in segments {
        let name = name_of(segment);
        script.push_str(&match way {
            Way::Push => format!(
                "{words} archive-push --archive-async {path} pg_wal/{name}\n\
                 mv pg_wal/archive_status/{name}.ready pg_wal/archive_status/{name}.done\n"
            ),
            Way::Get => format!(
                "{words} archive-get --archive-async {path} {name} pg_wal/RECOVERYXLOG\n\
                 mv pg_wal/RECOVERYXLOG pg_wal/{name}\n"
            ),
        });
    }
    Ok(script)
}

pub(crate) fn name_of(segment: &Path) -> String {
    segment.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
