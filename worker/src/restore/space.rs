//! Is there room? Asked before anything is written: a restore that fails after hours is a disaster of its own.

use super::error::{Action, RestoreError};
use super::files;
use super::places::Places;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::plan::restore::RestorePlan;
use pgconvoy_core::units::ByteCount;
use rustix::fs::{StatVfs, statfs, statvfs};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// These compress what they store: that the plain bytes do not fit says little. `linux/magic.h`, and OpenZFS's own.
const COMPRESSING: [u64; 2] = [0x9123_683e, 0x2fc1_2fc1];

#[derive(Debug)]
struct Need {
    path: PathBuf,
    bytes: u64,
    block: u64,
}

/// What the target holds already needs no more room than it has.
pub(super) fn check(plan: &RestorePlan, places: &Places) -> Result<(), Failure> {
    let mut devices: BTreeMap<PathBuf, u64> = BTreeMap::new();
    let mut needs: BTreeMap<u64, Need> = BTreeMap::new();
    for root in
        std::iter::once(places.target()).chain(places.destinations().map(|(_, destination)| destination))
    {
        let existing = existing_part(root);
        let device = std::fs::metadata(existing).map_err(RestoreError::file(Action::LookAt, existing))?.dev();
        devices.insert(root.to_owned(), device);
        let block = look(existing)?.f_frsize.max(1);
        needs.entry(device).or_insert_with(|| Need { path: existing.to_owned(), bytes: 0, block });
    }
    for file in &plan.files {
        let device = devices.get(places.root_of(&file.path)).expect("every root was just looked at");
        let need = needs.get_mut(device).expect("every device was just entered");
        let there = files::look(&places.of(&file.path))?.map_or(0, |found| found.len());
        let wanted = file.size.saturating_sub(there);
        need.bytes = need.bytes.saturating_add(wanted.next_multiple_of(need.block));
    }
    needs.into_values().try_for_each(|need| judge(&need))
}

fn judge(need: &Need) -> Result<(), Failure> {
    let status = look(&need.path)?;
    // Root may use what is kept back for it, but should not live on that either.
    let free = status.f_bavail.saturating_mul(status.f_frsize);
    if need.bytes <= free {
        return Ok(());
    }
    let compresses = statfs(&need.path)
        .is_ok_and(|found| u64::try_from(found.f_type).is_ok_and(|kind| COMPRESSING.contains(&kind)));
    if compresses {
        let (path, needed, free) = (need.path.display(), ByteCount(need.bytes), ByteCount(free));
        tracing::warn!(
            "the files have {needed} and {path} has {free} free: they fit only if the filesystem compresses them"
        );
        return Ok(());
    }
    Err(RestoreError::Space { path: need.path.clone(), free, needed: need.bytes }.into())
}

fn look(path: &Path) -> Result<StatVfs, RestoreError> {
    statvfs(path).map_err(|error| RestoreError::file(Action::LookAt, path)(error.into()))
}

fn existing_part(path: &Path) -> &Path {
    path.ancestors().find(|part| part.exists()).unwrap_or(path)
}
