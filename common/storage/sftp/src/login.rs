//! The private key to log in with.

use crate::options::SftpOptions;
use pgconvoy_core::config::Secret;
use pgconvoy_core::failure::ErrorCode;
use pgconvoy_storage::{Place, StorageError};
use russh::keys::{Error as KeyError, PrivateKey, decode_secret_key, ssh_key};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use zeroize::Zeroizing;

/// A private key has some kilobytes.
const KEY_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Reads and opens the key. It blocks, and computes for a tenth of a second where there is a passphrase.
pub(crate) fn load_key(options: &SftpOptions, at: &Place) -> Result<PrivateKey, StorageError> {
    let setup = |(code, reason, hint): Refusal| StorageError::unusable(at.clone(), code, reason, hint);
    let text = read_private(&options.private_key_file).map_err(setup)?;
    open_key(&options.private_key_file, &text, options.private_key_passphrase.as_ref()).map_err(setup)
}

type Refusal = (ErrorCode, String, String);

fn read_private(path: &Path) -> Result<Zeroizing<String>, Refusal> {
    let shown = path.display();
    let unreadable = |error: std::io::Error| {
        let hint = format!(
            "private-key-file must name a file that the user running this process can read; {shown} is not such a file"
        );
        (ErrorCode::FileOpen, format!("unable to read private key '{shown}': {error}"), hint)
    };
    let mut file = std::fs::File::open(path).map_err(unreadable)?;
    let about = file.metadata().map_err(unreadable)?;
    // As ssh does: what belongs to somebody else is that one's to guard, as long as not everybody may read it.
    let is_mine = about.uid() == rustix::process::geteuid().as_raw();
    let forbidden = if is_mine { 0o077 } else { 0o007 };
    if about.mode() & forbidden != 0 {
        let mode = about.mode() & 0o7777;
        let reason = format!("private key '{shown}' has mode {mode:04o}, so others can read it");
        return Err((ErrorCode::Access, reason, format!("chmod 600 {shown}")));
    }
    let mut text = Zeroizing::new(String::new());
    file.by_ref().take(KEY_FILE_BYTES_MAX).read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}

fn open_key(path: &Path, text: &str, passphrase: Option<&Secret>) -> Result<PrivateKey, Refusal> {
    let shown = path.display();
    let error = match decode_secret_key(text, passphrase.map(Secret::expose)) {
        Ok(key) => return Ok(key),
        Err(error) => error,
    };
    let is_encrypted = matches!(error, KeyError::KeyIsEncrypted) || text.contains("ENCRYPTED");
    match (error, passphrase) {
        (_, None) if is_encrypted => Err((
            ErrorCode::Crypto,
            format!("private key '{shown}' is encrypted, and no passphrase is set"),
            "set private-key-passphrase (PGCONVOY_REPO_n_SFTP_PRIVATE_KEY_PASSPHRASE_FILE names a file that holds it)"
                .to_owned(),
        )),
        (KeyError::SshKey(ssh_key::Error::Crypto), Some(_)) => Err(wrong_passphrase(path)),
        (_, Some(_)) if is_encrypted => Err(wrong_passphrase(path)),
        (error, _) => Err((
            ErrorCode::FileInvalid,
            format!("'{shown}' holds no private key that can be used: {error}"),
            "private-key-file must name the private key, not the .pub file, of type ed25519, ecdsa or rsa; 'ssh-keygen -p -f FILE' \
             rewrites an old one in OpenSSH's format"
                .to_owned(),
        )),
    }
}

fn wrong_passphrase(path: &Path) -> Refusal {
    (
        ErrorCode::Crypto,
        format!("private-key-passphrase does not open private key '{}'", path.display()),
        format!(
            "'ssh-keygen -y -f {}' asks for the passphrase and tells whether it is right",
            path.display()
        ),
    )
}

#[cfg(test)]
mod tests;
