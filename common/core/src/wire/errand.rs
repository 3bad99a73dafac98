//! A whole job for one worker, and what came of it.

use crate::failure::{ErrorCode, Failure};
use crate::ids::StanzaName;
use crate::job::{JobKind, JobOptions};
use crate::units::ByteCount;
use serde::{Deserialize, Serialize};

/// What a report of an errand may take: it goes in one frame (1 MiB) and into one record of the lease store (1.5 MiB).
const END_BYTES_MAX: usize = 512 << 10;
/// What is kept of a message that is too long.
const MESSAGE_BYTES_KEPT: usize = 4 << 10;

/// A whole job for one worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrandOrder {
    pub kind: JobKind,
    pub stanza: StanzaName,
    pub options: JobOptions,
}

/// What came of an errand that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrandEnd {
    /// The command's own result, as JSON.
    pub result: Option<String>,
    /// What the command would exit with.
    pub failure: Option<Failure>,
}

impl ErrandEnd {
    /// As it can be reported. A result that is too long is left out, and that is a failure: somebody waits for it.
    #[must_use]
    pub fn reportable(self) -> ErrandEnd {
        let result_bytes = self.result.as_ref().map_or(0, String::len);
        if result_bytes + self.failure.as_ref().map_or(0, bytes) <= END_BYTES_MAX {
            return self;
        }
        let failure = self.failure.unwrap_or_else(|| {
            let taken = ByteCount(result_bytes as u64);
            Failure::new(ErrorCode::Protocol, format!("its result takes {taken}, too much to be reported"))
        });
        let hint = "the worker's log tells all of it; with --embedded the same command tells it here";
        ErrandEnd { result: None, failure: Some(reportable(failure).hint(hint)) }
    }
}

/// The same of an error alone.
#[must_use]
pub fn reportable(mut failure: Failure) -> Failure {
    if bytes(&failure) > 2 * MESSAGE_BYTES_KEPT {
        if let Some((end, _)) = failure.message.char_indices().find(|(at, _)| *at >= MESSAGE_BYTES_KEPT) {
            failure.message.truncate(end);
            failure.message.push_str(" ...");
        }
        failure.hints.clear();
    }
    failure
}

fn bytes(failure: &Failure) -> usize {
    failure.message.len() + failure.hints.iter().map(String::len).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(bytes: usize) -> Failure {
        Failure::new(ErrorCode::Checksum, "\u{e4}".repeat(bytes / 2)).hint("look")
    }

    #[test]
    fn what_fits_a_frame_is_reported_as_it_is() {
        let end = ErrandEnd { result: Some("x".repeat(400 << 10)), failure: Some(failure(50 << 10)) };
        assert_eq!(end.clone().reportable(), end);
        assert_eq!(reportable(failure(100)), failure(100));
    }

    #[test]
    fn what_does_not_fit_becomes_a_short_failure_under_the_same_code() {
        let long = ErrandEnd { result: Some("x".repeat(2 << 20)), failure: None }.reportable();
        assert!(
            long.result.is_none() && long.failure.is_some_and(|failure| failure.message.contains("2MiB"))
        );
        let both = ErrandEnd { result: Some("{}".into()), failure: Some(failure(2 << 20)) }.reportable();
        let told = both.failure.unwrap_or_else(|| Failure::new(ErrorCode::Assert, "none"));
        assert_eq!(told.code, ErrorCode::Checksum);
        assert!(told.message.len() < 5000 && told.message.ends_with(" ..."));
        assert!(both.result.is_none() && told.hints.len() == 1);
    }
}
