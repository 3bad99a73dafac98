//! A new key file, for `repo-key create`.

use super::source::secret_fingerprint;
use super::{Fingerprint, KeyError, random_secret};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use zeroize::Zeroizing;

const MODE_OWNER_ONLY: u32 = 0o600;

/// Writes 32 random bytes in base64 on one line into a file that did not exist, synced with its directory, and gives the
/// fingerprint that `repo-key list` will show for it.
pub fn create_key_file(path: &Path) -> Result<Fingerprint, KeyError> {
    let secret = random_secret()?;
    let mut line = Zeroizing::new(BASE64.encode(secret.as_slice()));
    line.push('\n');
    let file = OpenOptions::new().write(true).create_new(true).mode(MODE_OWNER_ONLY).open(path).map_err(
        |reason| match reason.kind() {
            ErrorKind::AlreadyExists => KeyError::Exists { path: path.to_owned() },
            _ => KeyError::Write { path: path.to_owned(), reason },
        },
    )?;
    if let Err(reason) = write_synced(file, path, line.as_bytes()) {
        // Half a key must not be taken for one; the file is ours, as it was created above.
        let _ = std::fs::remove_file(path);
        return Err(KeyError::Write { path: path.to_owned(), reason });
    }
    Ok(secret_fingerprint(&secret))
}

fn write_synced(mut file: File, path: &Path, line: &[u8]) -> io::Result<()> {
    file.write_all(line)?;
    file.sync_all()?;
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()
}
