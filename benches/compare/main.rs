//! pgconvoy beside pgBackRest: full and incremental backup, restore, archive-push and archive-get of the same cluster, in turn, in one run.
//!
//! Both get the same codec and level, two processes, the same file system, and a fresh repository for every backup; what
//! one of them does is followed by what the other does, so that a busy moment hits both. pgBackRest bundles small files
//! and keeps block maps, as pgconvoy always does; where its version calls block maps a trial, it is measured without them
//! too. `PGBACKREST` names another pgBackRest than the one on the PATH.

#[path = "../measure/mod.rs"]
mod measure;
#[path = "../measure/mixed.rs"]
mod mixed;
#[path = "../../tests/support/mod.rs"]
mod support;

mod ahead;
mod changed;
mod codecs;
mod contender;
mod pgbackrest;
mod plain;
mod replay;
mod rounds;
mod sparse;
mod stage;
mod wal;

use ahead::Way;
use anyhow::{Result, ensure};
use contender::Contender;
use measure::{Budget, Form, Table, Unit, mebibytes};
use replay::Replay;
use rounds::Rounds;
use sparse::Sparse;
use stage::{Stage, settle};
use std::collections::BTreeMap;
use std::process::ExitCode;

/// Of data files; what a run loads.
const SHORT_BYTES: u64 = 300 << 20;
const FULL_BYTES: u64 = 3 << 30;
/// Of a table of which little changes.
const SHORT_SPARSE_BYTES: u64 = 256 << 20;
const FULL_SPARSE_BYTES: u64 = 2 << 30;
const PROCESSES: u32 = 2;
const SEGMENTS_PER_TURN: u32 = 6;
/// What works ahead needs something to work ahead on. Few segments measure how it begins and ends as much as how it goes on.
const SHORT_SEGMENTS_AHEAD: u32 = 12;
const FULL_SEGMENTS_AHEAD: u32 = 48;
/// Neighbours move a turn by a third: a median of few says little.
const TURNS_AHEAD: u32 = 3;
const SHORT_SEGMENTS_REPLAYED: u32 = 12;
const FULL_SEGMENTS_REPLAYED: u32 = 48;

/// A worker's: 64 MiB and 24 MiB for each slot and repository; a coordinator's for so few files: 64 MiB. Embedded, both.
fn memory_max(repositories: u32) -> f64 {
    f64::from(64 + PROCESSES * 24 * repositories + 64)
}

fn main() -> Result<ExitCode> {
    let form = Form::from_arguments();
    let stage = Stage::build(form.pick(SHORT_BYTES, FULL_BYTES))?;
    let rounds = form.pick(3, 5);
    let mut table = Table::default();
    let chosen = chosen_parts()?;
    for (_, part) in PARTS.iter().filter(|(name, _)| chosen.iter().any(|chosen| chosen == name)) {
        part(&stage, rounds, &mut table)?;
    }
    Ok(table.end())
}

type Part = fn(&Stage, u32, &mut Table) -> Result<()>;

/// In the order in which they run: a restore needs the backups before it.
const PARTS: [(&str, Part); 8] = [
    ("backup", backup),
    ("restore", restore),
    ("restore-over", restore_over),
    ("incremental", incremental),
    ("archive-push", archive_push),
    ("archive-ahead", archive_ahead),
    ("replay", replay),
    ("start", start),
];

/// All of them, or those that `--only=NAME` names.
fn chosen_parts() -> Result<Vec<String>> {
    let named: Vec<String> =
        std::env::args().filter_map(|argument| Some(argument.strip_prefix("--only=")?.to_owned())).collect();
    for name in &named {
        ensure!(PARTS.iter().any(|(part, _)| part == name), "no part is called '{name}'");
    }
    Ok(if named.is_empty() { PARTS.iter().map(|(name, _)| (*name).to_owned()).collect() } else { named })
}

fn backup(stage: &Stage, count: u32, table: &mut Table) -> Result<()> {
    let (one, two) = (Contender::Pgconvoy { repositories: 1 }, Contender::Pgconvoy { repositories: 2 });
    let mut all = vec![one, two];
    all.extend(stage.rivals());
    let mut stored = BTreeMap::new();
    let rounds = Rounds::run("backup", &all, count, |contender, watch| {
        stage.fresh(contender)?;
        settle();
        let turn = stage.measure(stage.backup(contender, "full")?, watch)?;
        stored.insert(contender, stage.stored(contender)?);
        Ok(turn)
    })?;
    for rival in stage.rivals() {
        let name = rival.name();
        rounds.judge_wall(
            table,
            &format!("full backup, wall against {name}"),
            one,
            rival,
            Budget::AtMost(0.65),
        );
        rounds.judge_cpu(table, &format!("full backup, CPU against {name}"), one, rival, Budget::AtMost(0.7));
    }
    rounds.judge_wall(table, "full backup to 2 repositories, wall against 1", two, one, Budget::AtMost(1.2));
    rounds.judge_cpu(table, "full backup to 2 repositories, CPU against 1", two, one, Budget::AtMost(1.2));
    for (contender, repositories) in [(one, 1), (two, 2)] {
        let what = format!("full backup, peak memory of {}", contender.name());
        let budget = Budget::AtMost(memory_max(repositories));
        table.judge(&what, mebibytes(rounds.memory(contender)), Unit::Mebibytes, budget, stage.size());
    }
    for rival in stage.rivals() {
        let what = format!("full backup, peak memory of {}", rival.name());
        table.tell(&what, mebibytes(rounds.memory(rival)), Unit::Mebibytes, "sum of its processes");
    }
    for contender in all {
        let what = format!("full backup, stored by {}", contender.name());
        table.tell(&what, mebibytes(stored[&contender]), Unit::Mebibytes, "in one repository, without WAL");
    }
    Ok(())
}

fn restore(stage: &Stage, count: u32, table: &mut Table) -> Result<()> {
    let one = Contender::Pgconvoy { repositories: 1 };
    let rival = stage.rival();
    let plain = Contender::Plain;
    let rounds = Rounds::run("restore", &[one, rival, plain], count, |contender, watch| {
        stage.prepare_restore()?;
        match contender {
            Contender::Plain => stage.write_plainly(),
            _ => stage.measure(stage.restore(contender)?, watch),
        }
    })?;
    let name = rival.name();
    rounds.judge_wall(table, &format!("restore, wall against {name}"), one, rival, Budget::AtMost(0.75));
    rounds.tell_cpu(table, &format!("restore, CPU against {name}"), one, rival);
    let what = "restore, wall against writing and syncing the same bytes";
    rounds.judge_wall(table, what, one, plain, Budget::AtMost(1.15));
    let budget = Budget::AtMost(memory_max(1));
    table.judge(
        "restore, peak memory of pgconvoy",
        mebibytes(rounds.memory(one)),
        Unit::Mebibytes,
        budget,
        "",
    );
    let what = format!("restore, peak memory of {name}");
    table.tell(&what, mebibytes(rounds.memory(rival)), Unit::Mebibytes, "sum of its processes");
    Ok(())
}

/// Over the same cluster, of which one block in a hundred became another.
fn restore_over(stage: &Stage, count: u32, table: &mut Table) -> Result<()> {
    let one = Contender::Pgconvoy { repositories: 1 };
    let rival = stage.rival();
    let rounds = Rounds::run("restore --delta", &[one, rival], count, |contender, watch| {
        stage.prepare_restore()?;
        stage.measure(stage.restore(contender)?, false)?;
        changed::change(&stage.target())?;
        settle();
        stage.measure(stage.restore(contender)?.arg("--delta"), watch)
    })?;
    let name = rival.name();
    rounds.tell_wall(table, &format!("restore --delta, 1 % changed, wall against {name}"), one, rival);
    rounds.tell_cpu(table, &format!("restore --delta, 1 % changed, CPU against {name}"), one, rival);
    Ok(())
}

/// Of a large table in which one block in a hundred changed since the last time, by the hash of blocks.
fn incremental(stage: &Stage, count: u32, table: &mut Table) -> Result<()> {
    let bytes = Form::from_arguments().pick(SHORT_SPARSE_BYTES, FULL_SPARSE_BYTES);
    let one = Contender::Pgconvoy { repositories: 1 };
    let rival = stage.rival();
    let mut sparse = Sparse::create(stage.cluster(), bytes)?;
    for contender in [one, rival] {
        stage.fresh(contender)?;
        stage.measure(stage.backup(contender, "full")?, false)?;
    }
    let mut stored = BTreeMap::new();
    let rounds = Rounds::run("incremental", &[one, rival], count, |contender, watch| {
        // The same change for both.
        if contender == one {
            sparse.change(stage.cluster())?;
            settle();
        }
        let before = stage.stored(contender)?;
        let turn = stage.measure(stage.backup(contender, "incr")?, watch)?;
        stored.insert(contender, stage.stored(contender)? - before);
        Ok(turn)
    })?;
    let (name, of) = (rival.name(), format!("1 % of {} MiB changed", bytes >> 20));
    let wall = format!("incremental backup, {of}, wall against {name}");
    rounds.judge_wall(table, &wall, one, rival, Budget::AtMost(0.6));
    let cpu = format!("incremental backup, {of}, CPU against {name}");
    rounds.judge_cpu(table, &cpu, one, rival, Budget::AtMost(0.5));
    let budget = Budget::AtMost(memory_max(1));
    let what = "incremental backup, peak memory of pgconvoy";
    table.judge(what, mebibytes(rounds.memory(one)), Unit::Mebibytes, budget, "");
    let most = Budget::AtMost(mebibytes(bytes) * 0.015);
    let what = format!("incremental backup, {of}, stored by pgconvoy");
    table.judge(
        &what,
        mebibytes(stored[&one]),
        Unit::Mebibytes,
        most,
        "in the last round, maps and lists included",
    );
    let what = format!("incremental backup, {of}, stored by {name}");
    table.tell(&what, mebibytes(stored[&rival]), Unit::Mebibytes, "the same");
    Ok(())
}

fn archive_push(stage: &Stage, count: u32, table: &mut Table) -> Result<()> {
    let one = Contender::Pgconvoy { repositories: 1 };
    let rival = stage.rival();
    let each = usize::try_from(SEGMENTS_PER_TURN)?;
    // Both push the same segments, each round others: what is in the archive already would cost nothing.
    let batches: Vec<_> = stage.segments(each * usize::try_from(count + 1)?)?.chunks(each).collect();
    stage.fresh(one)?;
    stage.fresh(rival)?;
    let mut turns = 0;
    let rounds = Rounds::run("archive-push", &[one, rival], count, |contender, watch| {
        let batch = batches[turns / 2];
        turns += 1;
        settle();
        stage.measure(wal::push(stage, contender, batch)?, watch)
    })?;
    let name = rival.name();
    let what = format!("archive-push, segments a second against {name}");
    rounds.judge_rate(table, &what, one, rival, f64::from(SEGMENTS_PER_TURN), Budget::AtLeast(1.5));
    rounds.tell_cpu(table, &format!("archive-push, CPU against {name}"), one, rival);
    Ok(())
}

/// The same with background processes, and the way back. Each round begins with an empty archive and fetches what it pushed.
fn archive_ahead(stage: &Stage, count: u32, table: &mut Table) -> Result<()> {
    let one = Contender::Pgconvoy { repositories: 1 };
    let (rival, codecs) = (stage.rival(), Contender::Plain);
    let form = Form::from_arguments();
    let each = form.pick(SHORT_SEGMENTS_AHEAD, FULL_SEGMENTS_AHEAD);
    let segments = stage.segments(usize::try_from(each)?)?;
    let each = f64::from(each);
    let name = rival.name();
    let turns = count * form.pick(1, TURNS_AHEAD);
    let push = Rounds::run("archive-push ahead", &[one, rival, codecs], turns, |contender, _| {
        if contender == codecs {
            return codecs::turn(segments, PROCESSES);
        }
        stage.fresh(contender)?;
        ahead::turn(stage, contender, Way::Push, segments)
    })?;
    let what = format!("archive-push --archive-async, segments a second against {name}");
    push.judge_rate(table, &what, one, rival, each, Budget::AtLeast(2.0));
    push.tell_cpu(table, &format!("archive-push --archive-async, CPU against {name}"), one, rival);
    let what = format!("reading, SHA-1 and compression alone, segments a second against {name}");
    push.tell_rate(table, &what, codecs, rival, each);
    let get = Rounds::run("archive-get ahead", &[one, rival], count, |contender, _| {
        ahead::turn(stage, contender, Way::Get, segments)
    })?;
    let what = format!("archive-get --archive-async, segments a second against {name}");
    get.tell_rate(table, &what, one, rival, each);
    get.tell_cpu(table, &format!("archive-get --archive-async, CPU against {name}"), one, rival);
    Ok(())
}

/// What a recovery waits for: segments, as PostgreSQL replays them.
fn replay(stage: &Stage, count: u32, table: &mut Table) -> Result<()> {
    let one = Contender::Pgconvoy { repositories: 1 };
    let (rival, plain) = (stage.rival(), Contender::Plain);
    let least = Form::from_arguments().pick(SHORT_SEGMENTS_REPLAYED, FULL_SEGMENTS_REPLAYED);
    let mut replay = Replay::prepare(stage, &[one, rival], usize::try_from(least)?)?;
    let rounds =
        Rounds::run("replay", &[one, rival, plain], count, |contender, _| replay.turn(stage, contender))?;
    let name = rival.name();
    let what =
        format!("recovery of {} segments by archive-get --archive-async, wall against ", replay.segments());
    rounds.tell_wall(table, &format!("{what}{name}"), one, rival);
    rounds.tell_wall(table, &format!("{what}cp of plain files"), one, plain);
    let what = format!("the same, CPU with PostgreSQL's own against {name}");
    rounds.tell_cpu(table, &what, one, rival);
    Ok(())
}

/// How long a command takes that does nothing.
fn start(stage: &Stage, _: u32, table: &mut Table) -> Result<()> {
    const STARTS: u32 = 50;
    let one = Contender::Pgconvoy { repositories: 1 };
    let rounds = Rounds::run("start", &[one], 3, |_, watch| stage.measure(stage.starts(STARTS)?, watch))?;
    let milliseconds = rounds.wall(one) * 1000.0 / f64::from(STARTS);
    let how = format!("of {STARTS} in a shell's loop");
    table.judge("start of a command", milliseconds, Unit::Milliseconds, Budget::AtMost(10.0), how);
    Ok(())
}
