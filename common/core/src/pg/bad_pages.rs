//! Pages that do not match their checksums, as people are told of them.

use std::fmt::Write;

/// Of one file, so that a file of rubbish does not fill a log.
const RUNS_TOLD_MAX: usize = 50;
const FILES_TOLD_MAX: usize = 50;

/// Block numbers in order, those one after another as a run: `3, 7-9`.
pub fn told_pages(blocks: &[u32]) -> String {
    let mut told = String::new();
    let follows = |a: &u32, b: &u32| a.checked_add(1) == Some(*b);
    let runs: Vec<&[u32]> = blocks.chunk_by(follows).collect();
    for run in runs.iter().take(RUNS_TOLD_MAX) {
        let separator = if told.is_empty() { "" } else { ", " };
        // Writing into a string cannot fail.
        let _ = match run {
            [first, .., last] => write!(told, "{separator}{first}-{last}"),
            [only] => write!(told, "{separator}{only}"),
            [] => Ok(()),
        };
    }
    let rest: usize = runs.iter().skip(RUNS_TOLD_MAX).map(|run| run.len()).sum();
    if rest > 0 {
        let _ = write!(told, " and {rest} more");
    }
    told
}

/// The same by file: `bad` is in order of file and block.
pub fn pages_by_file(bad: &[(String, u32)]) -> impl Iterator<Item = (&str, Vec<u32>)> {
    let files = bad.chunk_by(|(a, _), (b, _)| a == b);
    files.map(|file| (file[0].0.as_str(), file.iter().map(|(_, block)| *block).collect()))
}

/// `3 pages in 2 files do not match their checksums: base/5/1 (0, 4), base/5/2 (7)`; nothing if there is nothing to tell.
pub fn told_bad_pages(bad: &[(String, u32)]) -> Option<String> {
    let files: Vec<(&str, Vec<u32>)> = pages_by_file(bad).collect();
    let one_or_many = |count: usize, what: &str| match count {
        1 => format!("1 {what}"),
        many => format!("{many} {what}s"),
    };
    let listed: Vec<String> = files
        .iter()
        .take(FILES_TOLD_MAX)
        .map(|(file, blocks)| format!("{file} ({})", told_pages(blocks)))
        .collect();
    let more = match files.len().saturating_sub(FILES_TOLD_MAX) {
        0 => String::new(),
        more => format!(" and {}", one_or_many(more, "more file")),
    };
    let verb = if bad.len() == 1 { "does not match its checksum" } else { "do not match their checksums" };
    (!bad.is_empty()).then(|| {
        let (pages, of) = (one_or_many(bad.len(), "page"), one_or_many(files.len(), "file"));
        format!("{pages} in {of} {verb}: {}{more}", listed.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad(pages: &[(&str, u32)]) -> Vec<(String, u32)> {
        pages.iter().map(|(file, block)| ((*file).to_owned(), *block)).collect()
    }

    #[test]
    fn pages_one_after_another_are_told_as_a_run() {
        assert_eq!(told_pages(&[]), "");
        assert_eq!(told_pages(&[3, 7, 8, 9, 11, u32::MAX]), "3, 7-9, 11, 4294967295");
    }

    #[test]
    fn bad_pages_are_told_by_file() {
        assert_eq!(told_bad_pages(&[]), None);
        let one = told_bad_pages(&bad(&[("a", 4)]));
        assert_eq!(one.as_deref(), Some("1 page in 1 file does not match its checksum: a (4)"));
        let many = told_bad_pages(&bad(&[("a", 0), ("a", 1), ("b", 7)]));
        assert_eq!(many.as_deref(), Some("3 pages in 2 files do not match their checksums: a (0-1), b (7)"));
    }

    #[test]
    fn what_is_damaged_as_a_whole_is_told_in_a_line_that_can_be_read() {
        let scattered: Vec<u32> = (0..1000).map(|page| page * 2).collect();
        assert!(told_pages(&scattered).ends_with("96, 98 and 950 more"));
        let files: Vec<(String, u32)> = (0..1000).map(|file| (format!("{file:04}"), 1)).collect();
        assert!(told_bad_pages(&files).is_some_and(|told| told.ends_with("0049 (1) and 950 more files")));
    }
}
