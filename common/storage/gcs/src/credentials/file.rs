//! `key-type = "token"`: a file with an access token, written by somebody who renews it.

use super::{TokenError, authorization};
use http::HeaderMap;
use std::os::unix::fs::MetadataExt;
use tokio::sync::Mutex;

/// More is no token.
const TOKEN_LENGTH_MAX: u64 = 64 << 10;
const HINT: &str =
    "key-file must hold an access token on one line, as gcloud auth print-access-token prints it";

#[derive(Debug)]
pub(super) struct TokenFile {
    path: String,
    last: Mutex<Option<(Stamp, HeaderMap)>>,
}

/// What changes when a file is written or replaced: inode, size, time in seconds and nanoseconds.
type Stamp = (u64, u64, i64, i64);

impl TokenFile {
    pub(super) fn new(path: String) -> TokenFile {
        TokenFile { path, last: Mutex::new(None) }
    }

    fn unreadable(&self, reason: impl std::fmt::Display) -> TokenError {
        TokenError::lasting(format!("key-file {}: {reason}", self.path), HINT)
    }

    /// The file is read again when it changed.
    pub(super) async fn headers(&self) -> Result<HeaderMap, TokenError> {
        let data = tokio::fs::metadata(&self.path).await.map_err(|error| self.unreadable(error))?;
        if data.len() > TOKEN_LENGTH_MAX {
            return Err(self.unreadable("it is too long"));
        }
        let stamp = (data.ino(), data.size(), data.mtime(), data.mtime_nsec());
        let mut last = self.last.lock().await;
        if let Some((known, headers)) = &*last
            && *known == stamp
        {
            return Ok(headers.clone());
        }
        let text = tokio::fs::read_to_string(&self.path).await.map_err(|error| self.unreadable(error))?;
        let token = text.trim();
        if token.is_empty() {
            return Err(self.unreadable("it holds no token"));
        }
        let headers = authorization(token)?;
        *last = Some((stamp, headers.clone()));
        Ok(headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::AUTHORIZATION;

    #[tokio::test]
    async fn a_token_that_was_replaced_is_taken_up_and_never_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        let file = TokenFile::new(path.to_string_lossy().into_owned());
        assert!(file.headers().await.is_err(), "there is no file yet");
        for token in ["first-token", "other-token-of-another-length"] {
            std::fs::write(&path, format!("{token}\n")).expect("write");
            let headers = file.headers().await.expect("a token");
            assert_eq!(headers[AUTHORIZATION], format!("Bearer {token}"));
            assert!(!format!("{file:?}").contains(token));
        }
        std::fs::write(&path, "two\nlines").expect("write");
        let error = file.headers().await.expect_err("no token has line breaks").to_string();
        assert!(!error.contains("lines"), "{error}");
        std::fs::write(&path, " \n").expect("write");
        assert!(file.headers().await.expect_err("empty").to_string().ends_with("it holds no token"));
    }
}
