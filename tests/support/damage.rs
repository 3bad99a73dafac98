//! Hurts stored objects, and heals them when the value is dropped, so that one backup serves many cases.

use super::{Context, Result, ensure, user};
use std::path::{Path, PathBuf};

/// A hurt object and what it was before.
pub struct Wound {
    path: PathBuf,
    contents: Vec<u8>,
    permissions: std::fs::Permissions,
}

/// One bit in the middle of the object.
pub fn flip_bit(path: &Path) -> Result<Wound> {
    let middle = std::fs::metadata(path)?.len() / 2;
    flip_bit_at(path, usize::try_from(middle)?)
}

pub fn flip_bit_at(path: &Path, offset: usize) -> Result<Wound> {
    let wound = Wound::begin(path)?;
    let mut bytes = wound.contents.clone();
    let byte = bytes.get_mut(offset).with_context(|| format!("{} has no byte {offset}", path.display()))?;
    *byte ^= 0x10;
    replace(path, &bytes)?;
    Ok(wound)
}

/// Loses the last tenth of the object, one byte at least.
pub fn cut_tail(path: &Path) -> Result<Wound> {
    let wound = Wound::begin(path)?;
    let kept = wound.contents.len().saturating_sub((wound.contents.len() / 10).max(1));
    replace(path, &wound.contents[..kept])?;
    Ok(wound)
}

/// Each of two objects under the name of the other.
pub fn swap(one: &Path, other: &Path) -> Result<[Wound; 2]> {
    let wounds = [Wound::begin(one)?, Wound::begin(other)?];
    ensure!(wounds[0].contents != wounds[1].contents, "swapping equal objects hurts nothing");
    replace(one, &wounds[1].contents)?;
    replace(other, &wounds[0].contents)?;
    Ok(wounds)
}

pub fn delete(path: &Path) -> Result<Wound> {
    let wound = Wound::begin(path)?;
    std::fs::remove_file(path)?;
    Ok(wound)
}

/// A new file takes the name: stored objects may be read-only, and nothing else may share the inode.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    if path.exists() {
        std::fs::remove_file(path)?;
    }
    std::fs::write(path, bytes).with_context(|| path.display().to_string())?;
    user::give(path)
}

impl Wound {
    fn begin(path: &Path) -> Result<Wound> {
        let contents = std::fs::read(path).with_context(|| path.display().to_string())?;
        Ok(Wound { path: path.to_owned(), contents, permissions: std::fs::metadata(path)?.permissions() })
    }
}

impl Drop for Wound {
    fn drop(&mut self) {
        let healed = replace(&self.path, &self.contents)
            .and_then(|()| Ok(std::fs::set_permissions(&self.path, self.permissions.clone())?));
        if let Err(error) = healed {
            super::note(format!("{} stays damaged: {error}", self.path.display()));
        }
    }
}
