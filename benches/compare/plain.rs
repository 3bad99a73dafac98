//! What a restore cannot be quicker than: files of the same sizes, written and synced by as many threads.

use crate::support::{Context, Result, anyhow, files};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

const CHUNK: usize = 1 << 20;
const LARGE: u64 = 1 << 20;

/// Paths below a data directory with their sizes, largest first.
pub(crate) fn sizes(data: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    for file in files::walk(data)? {
        let relative = file.strip_prefix(data)?.to_owned();
        // A restored cluster's WAL comes from the archive later.
        if !relative.starts_with("pg_wal") && file.is_file() {
            found.push((relative, fs::metadata(&file)?.len()));
        }
    }
    found.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    Ok(found)
}

/// Large files are synced as they come, the others all at the end: the first of those makes the journal write what it holds
/// of the rest.
pub(crate) fn write(target: &Path, files: &[(PathBuf, u64)], threads: u32) -> Result<()> {
    let chunk = noise();
    for_each(files, threads, |(path, size)| write_one(&target.join(path), *size, &chunk))?;
    let small: Vec<&PathBuf> = files.iter().filter(|(_, size)| *size < LARGE).map(|(path, _)| path).collect();
    for_each(&small, threads, |path| Ok(File::open(target.join(path))?.sync_all()?))
}

/// Each of the items once, by whichever thread is free.
pub(crate) fn for_each<T: Sync>(
    items: &[T],
    threads: u32,
    work: impl Fn(&T) -> Result<()> + Sync,
) -> Result<()> {
    let queue = Mutex::new(items.iter());
    let next = || queue.lock().map(|mut rest| rest.next()).map_err(|_| anyhow!("a thread panicked"));
    let serve = || -> Result<()> {
        while let Some(item) = next()? {
            work(item)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(serve)).collect();
        running.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
    })
}

/// Not zeros: a file system may have ideas about those.
fn noise() -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(&mut next).take(CHUNK).collect()
}

fn write_one(path: &Path, size: u64, chunk: &[u8]) -> Result<()> {
    fs::create_dir_all(path.parent().context("a file lies in a directory")?)?;
    let mut file = File::create(path).with_context(|| path.display().to_string())?;
    let mut left = usize::try_from(size)?;
    while left > 0 {
        let bytes = left.min(chunk.len());
        file.write_all(&chunk[..bytes])?;
        left -= bytes;
    }
    if size >= LARGE {
        file.sync_all()?;
    }
    Ok(())
}
