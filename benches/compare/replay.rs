//! archive-get --archive-async while PostgreSQL replays what it is given: the recovery of a restored cluster, from its start to its end.
//!
//! All recover the same backup and have the same WAL in their archives, which is of rows and indexes like the rest of the data.
//! A restore_command that copies segments from a directory beside it is the least that such a recovery can take here.
//! CPU times include PostgreSQL's own, which is most.

use crate::ahead;
use crate::contender::Contender;
use crate::measure::note;
use crate::rounds::Turn;
use crate::stage::{Stage, settle};
use crate::support::{Cluster, Result, ensure, limits};
use crate::wal;
use std::path::{Path, PathBuf};
use std::time::Instant;

const BACKED_UP_BY: Contender = Contender::Pgconvoy { repositories: 1 };

pub(crate) struct Replay {
    segments: Vec<PathBuf>,
    /// Each recovery has a log of its own.
    turns: u32,
}

impl Replay {
    /// A backup, and so many segments of WAL or a few more after it in each tool's archive.
    pub(crate) fn prepare(stage: &Stage, tools: &[Contender], segments: usize) -> Result<Replay> {
        let cluster = stage.cluster();
        tools.iter().try_for_each(|tool| stage.fresh(*tool))?;
        let first = cluster.psql("select pg_walfile_name(pg_current_wal_insert_lsn())")?;
        stage.backup(BACKED_UP_BY, "full")?.run(limits::LARGE_COMMAND)?.ok()?;
        let segments = load(cluster, &first, segments)?;
        for tool in tools {
            wal::push(stage, *tool, &segments)?.run(limits::LARGE_COMMAND)?.ok()?;
        }
        Ok(Replay { segments, turns: 0 })
    }

    pub(crate) fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Restores, which is not measured, and recovers.
    pub(crate) fn turn(&mut self, stage: &Stage, contender: Contender) -> Result<Turn> {
        ahead::forget_statuses(stage)?;
        stage.prepare_restore()?;
        stage.restore(BACKED_UP_BY)?.run(limits::LARGE_COMMAND)?.ok()?;
        let command = restore_command(stage, contender);
        let overrides = vec!["archive_mode=off".to_owned(), format!("restore_command='{command}'")];
        self.turns += 1;
        let name = format!("replay-{}", self.turns);
        let copy = Cluster::attach_at(stage.scratch(), &name, &stage.target(), overrides)?;
        settle();
        let cost = ahead::cost_with_background(|| {
            let begin = Instant::now();
            copy.start_and_recover()?;
            let wall = begin.elapsed();
            copy.stop()?;
            Ok(wall)
        })?;
        self.all_were_asked_for(&copy)?;
        Ok(Turn { cost, memory: 0 })
    }

    /// What lies in pg_wal is replayed without being asked for, and would flatter everybody.
    fn all_were_asked_for(&self, copy: &Cluster) -> Result<()> {
        let log = copy.log();
        let restored = log.matches("restored log file").count();
        ensure!(restored >= self.segments.len(), "{restored} segments of {}\n{log}", self.segments.len());
        Ok(())
    }
}

/// Copies of a table with its indexes, until they have filled so many segments.
fn load(cluster: &Cluster, first: &str, count: usize) -> Result<Vec<PathBuf>> {
    for number in 0_u32.. {
        cluster.psql(&format!(
            "create table replayed_{number} as table mixed_0; create index on replayed_{number} (reference)"
        ))?;
        let end = cluster.switch_and_archive()?;
        let segments =
            wal::segments(&cluster.data().join("pg_wal"), |name| (first..=end.as_str()).contains(&name))?;
        if segments.len() >= count {
            note(format!("{} segments to replay", segments.len()));
            return Ok(segments);
        }
    }
    unreachable!("numbers do not end")
}

fn restore_command(stage: &Stage, contender: Contender) -> String {
    let target = stage.target();
    let words = stage.words(contender).join(" ");
    match contender {
        Contender::Plain => format!("cp {}/%f %p", stage.cluster().data().join("pg_wal").display()),
        Contender::Pgbackrest { .. } => get(&words, "pg1-path", &target),
        Contender::Pgconvoy { .. } => get(&words, "pg-path", &target),
    }
}

fn get(words: &str, path_option: &str, target: &Path) -> String {
    format!("{words} archive-get --archive-async --{path_option}={} %f %p", target.display())
}
