//! The tracked files, and Rust text with its comments and literals blanked out, so that a brace in a string is no brace.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A tracked file: its path from the top, with `/`, and its text where it is text.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
    /// Of Rust files: the same lines and columns, blank where comments and literals were.
    pub(crate) code: String,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Source {
        let code = if path.ends_with(".rs") { blank_out(text) } else { String::new() };
        Source { path: path.to_owned(), text: text.to_owned(), code }
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    pub(crate) fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// Tests of a file beside it, or the black-box tests: they may be longer and sleep with a reason.
    pub(crate) fn is_test(&self) -> bool {
        self.file_name() == "tests.rs" || self.path.split('/').any(|part| part == "tests")
    }

    /// Line numbers (from 1) of test code: all of a test file, else what follows `#[cfg(test)]`.
    pub(crate) fn test_lines_begin(&self) -> usize {
        if self.is_test() {
            return 1;
        }
        let attribute = self.code.lines().position(|line| line.trim() == "#[cfg(test)]");
        attribute.map_or(usize::MAX, |line| line + 1)
    }
}

/// The checkout: as the runner says it, since a build may be moved before its tests run.
pub(crate) fn top() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// What git tracks or would track; without git, everything outside `target`.
pub(crate) fn tracked_files() -> Result<Vec<String>> {
    let listing = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .current_dir(top())
        .output();
    let mut found: Vec<String> = match listing {
        Ok(output) if output.status.success() => String::from_utf8(output.stdout)?
            .split('\0')
            .filter(|path| !path.is_empty())
            .map(str::to_owned)
            .collect(),
        _ => walk()?,
    };
    // What is deleted but not committed yet is still listed.
    found.retain(|path| top().join(path).exists());
    found.sort();
    Ok(found)
}

fn walk() -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(top().join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                if path != Path::new("target") && path != Path::new(".git") {
                    open.push(path);
                }
            } else {
                found.push(path.to_str().context("a path that is not UTF-8")?.to_owned());
            }
        }
    }
    Ok(found)
}

pub(crate) fn sources() -> Result<Vec<Source>> {
    let mut found = Vec::new();
    for path in tracked_files()? {
        let bytes = std::fs::read(top().join(&path)).with_context(|| path.clone())?;
        // Golden files of the repository format are no text and have no style.
        if let Ok(text) = String::from_utf8(bytes) {
            found.push(Source::new(&path, &text));
        }
    }
    Ok(found)
}

/// Comments, strings and characters become spaces; line breaks stay.
pub(crate) fn blank_out(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let blank = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => string(rest),
            'r' if !ends_in_word(&out) => raw_string(rest),
            '\'' => character(rest),
            _ => 0,
        };
        let taken = if blank == 0 { first.len_utf8() } else { blank };
        for c in rest[..taken].chars() {
            out.push(if blank == 0 || c == '\n' { c } else { ' ' });
        }
        rest = &rest[taken..];
    }
    out
}

fn ends_in_word(text: &str) -> bool {
    // `b` and `c` may stand before the `r` of a raw string.
    text.chars().last().is_some_and(|c| (c.is_alphanumeric() && c != 'b' && c != 'c') || c == '_')
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// `r"..."`, `r#"..."#`; 0 where the `r` begins a word instead.
fn raw_string(text: &str) -> usize {
    let hashes = text[1..].bytes().take_while(|byte| *byte == b'#').count();
    if text.as_bytes().get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let body = hashes + 2;
    let end = format!("\"{}", "#".repeat(hashes));
    text[body..].find(&end).map_or(text.len(), |at| body + at + end.len())
}

/// `'x'` or `'\n'`; 0 where the quote begins a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => text[3..].find('\'').map_or(text.len(), |at| at + 4),
        Some(_) => match chars.next() {
            Some((at, '\'')) => at + 1,
            _ => 0,
        },
        None => 0,
    }
}
