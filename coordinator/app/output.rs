//! The result on stdout, failures on stderr.

use pgconvoy_core::config::ConfigProblem;
use pgconvoy_core::failure::{ErrorCode, Failure};
use std::io::{ErrorKind, Write, stderr, stdout};
use std::process::ExitCode;

/// One or more failures; the first one gives the exit status.
#[derive(Debug)]
pub struct Failures {
    first: Failure,
    more: Vec<Failure>,
}

impl From<Failure> for Failures {
    fn from(first: Failure) -> Self {
        Failures { first, more: Vec::new() }
    }
}

impl From<Vec<ConfigProblem>> for Failures {
    fn from(problems: Vec<ConfigProblem>) -> Self {
        let mut failures = problems.into_iter().map(Failure::from);
        let first = failures
            .next()
            .unwrap_or_else(|| Failure::new(ErrorCode::Config, "the configuration is not valid"));
        Failures { first, more: failures.collect() }
    }
}

impl Failures {
    /// All of them, for whoever goes on in spite of them.
    pub fn iter(&self) -> impl Iterator<Item = &Failure> {
        std::iter::once(&self.first).chain(&self.more)
    }

    /// Prints them and says how the process ends. An error that cannot be printed still has its exit status.
    pub fn report(&self) -> ExitCode {
        let text: String = std::iter::once(&self.first).chain(&self.more).map(lines).collect();
        let _ = stderr().lock().write_all(text.as_bytes());
        ExitCode::from(self.first.code.number())
    }
}

/// `ERROR: [NNN]: what happened`, and its hints.
pub fn lines(failure: &Failure) -> String {
    let hints = failure.hints.iter().map(|hint| format!("HINT: {hint}\n"));
    format!("ERROR: [{}]: {}\n", failure.code, failure.message) + &hints.collect::<String>()
}

/// The result of a command, as it is.
pub fn text(text: &str) -> Result<ExitCode, Failure> {
    bytes(text.as_bytes())
}

/// The result of a command as one line.
pub fn json(value: &serde_json::Value) -> Result<ExitCode, Failure> {
    text(&format!("{value}\n"))
}

/// Rows under their heads, each column as wide as its widest text.
pub fn table<const N: usize>(head: &[&str; N], rows: &[[String; N]]) -> String {
    let head = head.map(str::to_owned);
    let all = || std::iter::once(&head).chain(rows);
    let widths: Vec<usize> =
        (0..N).map(|column| all().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let line = |row: &[String; N]| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(text, width)| format!("{text:<width$}")).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    all().map(line).collect()
}

/// For results that are written piece by piece.
pub fn stdout_writer() -> impl Write + Send {
    std::io::BufWriter::new(UntilEnough(stdout()))
}

/// Whoever read has seen enough when the pipe breaks: that is no error.
struct UntilEnough<W>(W);

impl<W: Write> Write for UntilEnough<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self.0.write(bytes) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(bytes.len()),
            other => other,
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self.0.flush() {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }
}

pub fn bytes(bytes: &[u8]) -> Result<ExitCode, Failure> {
    let mut out = stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // Whoever read has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(Failure::new(ErrorCode::FileWrite, format!("cannot write to stdout: {error}"))),
    }
}
