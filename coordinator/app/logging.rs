//! What a command tells while it works: lines on stderr and in a file.
//!
//! Lines are pgBackRest's, `2026-11-22 10:30:00.123 P00   INFO: text`, or JSON. Times are UTC, as in backup labels.
//! `detail` lies between info and debug: it is a debug event with the target [`DETAIL`].
//!
//! Not here: the `ERROR:` and `HINT:` lines at a command's end, which `output` prints whatever the level. The file has
//! them too.

mod line;

use crate::context::Context;
use crate::output;
use line::LineLayer;
use pgconvoy_core::config::{LogConfig, LogLevel};
use pgconvoy_core::failure::Failure;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write, stderr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Instant;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterFn, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;

/// `tracing::debug!(target: "detail", ...)` is a line of level detail.
pub const DETAIL: &str = "detail";
/// How the command ended: for the file only.
const OUTCOME: &str = "outcome";

type SetLevel = Box<dyn Fn(LogLevel) + Send + Sync>;

/// The sinks of this process; their levels can change while it runs.
struct Levels {
    console: SetLevel,
    file: Option<SetLevel>,
}

static LEVELS: OnceLock<Levels> = OnceLock::new();

/// Other levels from now on. A file that is not open stays closed.
pub fn set_levels(log: &LogConfig) {
    if let Some(levels) = LEVELS.get() {
        (levels.console)(log.console);
        if let Some(set) = &levels.file {
            set(log.file);
        }
    }
}

/// A command that is being logged.
pub struct Run {
    command: &'static str,
    started: Instant,
}

/// Starts logging as the configuration says.
pub fn start(context: &Context) -> Run {
    let log = &context.config.log;
    let (console, set_console) = layer(log, log.console, stderr(), |target| target != OUTCOME);
    let (mut sinks, mut set_file) = (vec![console], None);
    let mut complaint = None;
    if log.file != LogLevel::Off {
        match open(context) {
            Ok(file) => {
                let (layer, set) = layer(log, log.file, file, |_| true);
                sinks.push(layer);
                set_file = Some(set);
            }
            Err(reason) => complaint = reason,
        }
    }
    let _ = LEVELS.set(Levels { console: set_console, file: set_file });
    // Only the first command of a process can set it, and a process has one.
    let _ = tracing::subscriber::set_global_default(Registry::default().with(sinks));
    if let Some(complaint) = complaint {
        tracing::warn!("{complaint}; going on without a log file");
    }
    if context.is_root && context.command != "restore" {
        tracing::warn!(
            "running as root: files that are made now may be out of reach for the database's user"
        );
    }
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!("{} command begin {version}: {}", context.command, context.arguments.join(" "));
    Run { command: context.command, started: Instant::now() }
}

impl Run {
    pub fn end(self, outcome: &Result<ExitCode, Failure>) {
        let milliseconds = self.started.elapsed().as_millis();
        match outcome {
            Ok(_) => tracing::info!("{} command end: completed ({milliseconds}ms)", self.command),
            Err(failure) => {
                tracing::error!(target: OUTCOME, "{}", output::lines(failure).trim_start_matches("ERROR: ").trim_end());
                let code = failure.code;
                tracing::info!(
                    "{} command end: aborted with error [{code}] ({milliseconds}ms)",
                    self.command
                );
            }
        }
    }
}

/// One file for each stanza and command. `Err(None)`: nobody asked for a log in the usual directory, and there is none.
fn open(context: &Context) -> Result<std::fs::File, Option<String>> {
    let stanza = context.stanza.as_deref().unwrap_or("all");
    let path =
        Path::new(&context.config.paths.log).join(format!("{}-{}.log", file_name(stanza), context.command));
    OpenOptions::new().append(true).create(true).open(&path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => None,
        _ => Some(format!("cannot open the log file '{}': {error}", path.display())),
    })
}

/// The stanza's name has not been checked yet, and it must not lead out of the directory.
fn file_name(stanza: &str) -> String {
    stanza
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '_' })
        .collect()
}

fn layer<W>(
    log: &LogConfig,
    level: LogLevel,
    sink: W,
    wants: fn(&str) -> bool,
) -> (Box<dyn Layer<Registry> + Send + Sync>, SetLevel)
where
    W: Write + Send + 'static,
{
    let (filter, handle) = reload::Layer::new(filter(level, wants));
    let set = move |level| {
        // It fails only when the sink is gone, and then nobody reads.
        let _ = handle.reload(self::filter(level, wants));
    };
    (LineLayer::new(log.format, sink).with_filter(filter).boxed(), Box::new(set))
}

fn filter(
    level: LogLevel,
    wants: fn(&str) -> bool,
) -> FilterFn<impl Fn(&Metadata<'_>) -> bool + Send + Sync + 'static> {
    let is_wanted = move |metadata: &Metadata<'_>| shows(level, metadata) && wants(metadata.target());
    filter_fn(is_wanted).with_max_level_hint(most_verbose(level))
}

fn most_verbose(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Detail | LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

fn level_of(metadata: &Metadata<'_>) -> LogLevel {
    match *metadata.level() {
        Level::ERROR => LogLevel::Error,
        Level::WARN => LogLevel::Warn,
        Level::INFO => LogLevel::Info,
        Level::DEBUG if metadata.target() == DETAIL => LogLevel::Detail,
        Level::DEBUG => LogLevel::Debug,
        Level::TRACE => LogLevel::Trace,
    }
}

/// Libraries are of interest when something is wrong, or when everything is asked for. What they trace may hold
/// headers and credentials, so only their own warnings are shown below that.
fn shows(level: LogLevel, metadata: &Metadata<'_>) -> bool {
    let ours = metadata.target().starts_with("pgconvoy") || [DETAIL, OUTCOME].contains(&metadata.target());
    level_of(metadata) <= level && (ours || level_of(metadata) <= LogLevel::Warn)
}
