//! Randomness for names and waits; nothing secret is made of it.

use crate::{IoAction, Place, StorageError};

/// 32 digits: names that two writers never share.
pub fn hex(place: impl FnOnce() -> Place) -> Result<String, StorageError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| StorageError::Io {
        at: place(),
        action: IoAction::Open,
        reason: format!("the system has no random bytes: {error}"),
    })?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

/// From 0 to 255; 128 where the system has no random bytes.
pub(crate) fn byte() -> u8 {
    let mut byte = [128];
    match getrandom::fill(&mut byte) {
        Ok(()) => byte[0],
        Err(_) => 128,
    }
}
