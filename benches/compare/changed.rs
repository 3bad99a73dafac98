//! A restored cluster in which something changed: what a restore over it has to find.

use crate::support::{Context, Result, ensure, files};
use std::os::unix::fs::FileExt;
use std::path::Path;

const BLOCK_BYTES: u64 = 8192;
/// One block of so many becomes another.
const EVERY: u64 = 100;

/// Changes blocks all over the relations, and nothing of their size.
pub(crate) fn change(data_directory: &Path) -> Result<()> {
    let mut changed = 0;
    for path in files::walk(&data_directory.join("base"))? {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(&path)?;
        let blocks = file.metadata()?.len() / BLOCK_BYTES;
        for block in (0..blocks).step_by(usize::try_from(EVERY)?) {
            let mut first = [0];
            let offset = block * BLOCK_BYTES;
            file.read_exact_at(&mut first, offset).with_context(|| path.display().to_string())?;
            file.write_all_at(&[!first[0]], offset)?;
            changed += 1;
        }
    }
    ensure!(changed > 0, "nothing was changed");
    Ok(())
}
