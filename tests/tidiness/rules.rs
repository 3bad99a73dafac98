//! The rules, each a function from sources to findings. Nothing here reads a file.

use super::source::Source;

/// Lines of a file; a room one can overlook.
const FILE_LINES_MAX: usize = 500;
/// Tests are lists of cases and may be longer.
const TEST_FILE_LINES_MAX: usize = 800;
/// Lines of a function, signature and braces included: about a screen.
const FUNCTION_LINES_MAX: usize = 70;
/// A test's name is a sentence, and shorter ones are none.
const TEST_NAME_WORDS_MIN: usize = 3;
/// How far above a sleep the comment may stand that names its time-out.
const COMMENT_LINES_ABOVE: usize = 3;

/// What the design fixes at the top, beside dotfiles.
const TOP_LEVEL: [&str; 10] = [
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "LICENSE",
    "coordinator",
    "worker",
    "common",
    "deploy",
    "benches",
    "tests",
];

/// What a rule has against a place. The exceptions name rule and place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    pub(crate) place: String,
    pub(crate) what: String,
}

fn finding(place: impl Into<String>, what: impl Into<String>) -> Finding {
    Finding { place: place.into(), what: what.into() }
}

pub(crate) fn top_level(paths: &[String]) -> Vec<Finding> {
    let mut names: Vec<&str> = paths.iter().filter_map(|path| path.split('/').next()).collect();
    names.dedup();
    let strange = names.into_iter().filter(|name| !name.starts_with('.') && !TOP_LEVEL.contains(name));
    strange.map(|name| finding(name, "is not among the names that the top level may have")).collect()
}

pub(crate) fn file_length(source: &Source) -> Vec<Finding> {
    let limit = if source.is_test() { TEST_FILE_LINES_MAX } else { FILE_LINES_MAX };
    let lines = source.text.lines().count();
    let too_long = source.is_rust() && lines > limit;
    too_long
        .then(|| finding(&source.path, format!("has {lines} lines, {limit} is the limit")))
        .into_iter()
        .collect()
}

pub(crate) fn module_header(source: &Source) -> Vec<Finding> {
    // Unit tests beside a file are under that file's header.
    let needs_one = source.is_rust() && source.file_name() != "tests.rs";
    let first = source.text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with("#!"));
    let has_one = first.is_some_and(|line| line.starts_with("//!") && line.len() > "//!".len());
    (needs_one && !has_one)
        .then(|| finding(&source.path, "does not begin with a `//!` header"))
        .into_iter()
        .collect()
}

/// A function found in blanked code.
pub(crate) struct Function<'a> {
    pub(crate) name: &'a str,
    /// From 1.
    pub(crate) line: usize,
    pub(crate) lines: usize,
}

/// Functions with a body, by matching braces.
pub(crate) fn functions(code: &str) -> Vec<Function<'_>> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let begins_word = code[..at].chars().last().is_none_or(|c| !c.is_alphanumeric() && c != '_');
        let name_at = at + 3;
        let name =
            code[name_at..].split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
        if !begins_word || name.is_empty() {
            continue;
        }
        if let Some(length) = body_end(&code[name_at..]) {
            let line = code[..at].matches('\n').count() + 1;
            let lines = code[at..name_at + length].matches('\n').count() + 1;
            found.push(Function { name, line, lines });
        }
    }
    found
}

/// Where the body that begins in `code` ends; None for a declaration without one.
fn body_end(code: &str) -> Option<usize> {
    let (mut brackets, mut braces) = (0i32, 0i32);
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets -= 1,
            ';' if brackets == 0 && braces == 0 => return None,
            // A brace within brackets of the signature is a const expression's.
            '{' if braces > 0 || brackets == 0 => braces += 1,
            '}' if braces > 0 => {
                braces -= 1;
                if braces == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

pub(crate) fn function_length(source: &Source) -> Vec<Finding> {
    let long = functions(&source.code).into_iter().filter(|function| function.lines > FUNCTION_LINES_MAX);
    long.map(|function| {
        let place = format!("{}:{}", source.path, function.name);
        finding(
            place,
            format!("line {}: {} lines, {FUNCTION_LINES_MAX} is the limit", function.line, function.lines),
        )
    })
    .collect()
}

/// Words of work that somebody meant to come back to. Spelt in halves, so that this file has none of them.
const LEFTOVERS: [&str; 8] = [
    concat!("todo", "!"),
    concat!("unimplemented", "!"),
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("for", " now"),
    concat!("#[", "ignore"),
    concat!("dbg", "!("),
];

/// What tells of the place where the project was written instead of the project.
const STRANGERS: [&str; 3] = [concat!("/wo", "rk/"), concat!("../sha", "red"), concat!("/ro", "ot/")];

pub(crate) fn leftovers(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        for word in LEFTOVERS.into_iter().chain(STRANGERS).filter(|word| has_word(line, word)) {
            found.push(finding(&source.path, format!("line {}: '{word}'", index + 1)));
        }
    }
    found
}

/// Not within a longer word: a template of `mktemp` has more than three X.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        let before = word.starts_with(char::is_alphanumeric) && is_part(line[..at].chars().last());
        let after = word.ends_with(char::is_alphanumeric) && is_part(line[at + word.len()..].chars().next());
        !before && !after
    })
}

pub(crate) fn sleeps_in_tests(source: &Source) -> Vec<Finding> {
    let lines: Vec<&str> = source.text.lines().collect();
    // Under tokio's paused clock a sleep is a statement about time and takes none.
    let is_virtual =
        |line: &str| line.contains("tokio::time::sleep(") && source.code.contains("start_paused = true");
    let mut found = Vec::new();
    for (index, line) in source.code.lines().enumerate().skip(source.test_lines_begin().saturating_sub(1)) {
        let around = &lines[index.saturating_sub(COMMENT_LINES_ABOVE)..=index];
        let named = around.iter().any(|line| {
            let comment = line.split_once("//").map(|(_, comment)| comment.to_ascii_lowercase());
            comment.is_some_and(|comment| comment.contains("timeout") || comment.contains("time-out"))
        });
        if line.contains("sleep(") && !is_virtual(line) && !named {
            found.push(finding(
                &source.path,
                format!("line {}: a sleep without a comment that names its timeout", index + 1),
            ));
        }
    }
    found
}

pub(crate) fn test_names(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut is_test = false;
    for (index, line) in source.code.lines().map(str::trim).enumerate() {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        }
        let Some((_, after)) = line.split_once("fn ").filter(|_| is_test) else { continue };
        is_test = false;
        let name = after.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
        let is_sentence = name.split('_').filter(|word| !word.is_empty()).count() >= TEST_NAME_WORDS_MIN
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !is_sentence {
            found
                .push(finding(&source.path, format!("line {}: the name '{name}' is no sentence", index + 1)));
        }
    }
    found
}
