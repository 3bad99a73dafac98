//! `deploy/fleet.sh`: up, what it prints typed as it stands, down without a trace, and all of it once more.

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::{Finished, Program, Result, Scratch, ensure, limits, note};

/// Of the script's own work: the program is built.
const UP_MAX: Duration = Duration::from_secs(60);
/// Labels of lines that are no commands.
const LABELS: [&str; 5] = ["the primary:", "coordinators:", "the authority", "logs:", "the end:"];

struct Script {
    folder: PathBuf,
    program: PathBuf,
}

impl Script {
    fn run(&self, verb: &str) -> Result<Finished> {
        Program::as_ourselves(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/fleet.sh"))
            .arg(verb)
            .env("FLEET_DIR", &self.folder)
            .env("PGCONVOY", &self.program)
            .run(limits::COMMAND)
    }

    /// Processes whose command line names the fleet's folder.
    fn processes(&self) -> Result<Vec<String>> {
        let folder = self.folder.display().to_string();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let path = entry?.path();
            let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&folder) {
                found.push(line);
            }
        }
        Ok(found)
    }
}

/// A script that somebody does down though a test fails before it could.
impl Drop for Script {
    fn drop(&mut self) {
        if self.folder.exists() {
            let _ = self.run("down");
        }
    }
}

/// What was printed to be typed, in its order, as one script that stops at the first error.
fn commands(printed: &str, folder: &Path) -> String {
    let is_command = |line: &&str| {
        line.starts_with("  ") && !LABELS.iter().any(|label| line.trim_start().starts_with(label))
    };
    let typed: Vec<&str> = printed.lines().filter(is_command).collect();
    format!("set -euo pipefail\ncd {}\n{}\n", folder.display(), typed.join("\n"))
}

#[test]
fn the_fleet_to_try_goes_up_does_as_it_prints_and_goes_down_without_a_trace_twice_in_a_row() -> Result<()> {
    let scratch = Scratch::new()?;
    let script = Script { folder: scratch.join("fleet"), program: scratch.binary() };
    for _ in 0..2 {
        let begun = Instant::now();
        let up = script.run("up")?.ok()?;
        note(format!("up after {:?}", begun.elapsed()));
        ensure!(begun.elapsed() < UP_MAX, "it took {:?}", begun.elapsed());
        ensure!(script.run("up")?.code == Some(1), "a fleet that is up goes up again");
        let typed = commands(&up.stdout, &script.folder);
        ensure!(typed.lines().count() > 8, "{typed}");
        let done = Program::as_ourselves("bash").arg("-c").arg(&typed).run(limits::COMMAND)?.ok()?;
        ensure!(done.stdout.contains("2000000"), "the restored cluster has all rows:\n{done}");
        ensure!(done.stdout.contains("db1") && done.stdout.contains("db3"), "{done}");
        script.run("down")?.ok()?;
        ensure!(!script.folder.exists(), "its folder is left");
        let left = script.processes()?;
        ensure!(left.is_empty(), "{left:?}");
    }
    ensure!(script.run("down")?.code == Some(1), "nothing to take down");
    ensure!(script.run("")?.code == Some(64));
    Ok(())
}
