//! What an error of the etcd client proves: that nothing took place, that something was refused, or nothing at all.
//!
//! A write is sent again only after the first. The list of messages is etcd's own (`rpctypes/error.go`): its status codes
//! alone do not tell an expired token from a wrong password, or a request that was turned away from one that was lost.
//!
//! Invariants
//! 1. `NotDone` needs proof: no connection was made, or etcd turns this request away before it proposes it.
//! 2. Whatever is not known here is `Unknown`.

use crate::error::LeaseError;
use crate::store::LeaseId;
use std::error::Error as _;
use tonic::{Code, ConnectError, Status};

/// Turned away by the member that was asked, before anything was proposed to the cluster: another one may do it.
const NOT_DONE: [&str; 3] =
    ["etcdserver: no leader", "etcdserver: too many requests", "etcdserver: rpc not supported for learner"];

/// A new token helps. etcd forgets tokens after five minutes without use, and all of them when it restarts.
const TOKEN_REFUSED: [&str; 3] = [
    "etcdserver: invalid auth token",
    "etcdserver: user name is empty",
    "etcdserver: revision of auth store is old",
];

/// The login holds, and its role does not reach to this key.
pub(super) const PERMISSION_DENIED: &str = "etcdserver: permission denied";

const DENIED: [&str; 3] = [
    PERMISSION_DENIED,
    "etcdserver: authentication failed, invalid user ID or password",
    "etcdserver: authentication is not enabled",
];

const LEASE_NOT_FOUND: &str = "etcdserver: requested lease not found";

/// What the etcd client says where the stream of keep-alives tells that a lease is over.
pub(super) const LEASE_OVER: &str = "lease not found";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Certainly nothing took place.
    NotDone(String),
    /// It may have taken place.
    Unknown(String),
    TokenRefused(String),
    Denied(String),
    LeaseNotFound,
    Refused(String),
}

impl Verdict {
    pub(super) fn error(self) -> LeaseError {
        match self {
            Verdict::NotDone(reason) | Verdict::Unknown(reason) => LeaseError::Unavailable { reason },
            Verdict::TokenRefused(reason) | Verdict::Denied(reason) => LeaseError::Denied { reason },
            Verdict::LeaseNotFound => LeaseError::Refused { reason: LEASE_NOT_FOUND.to_owned() },
            Verdict::Refused(reason) => LeaseError::Refused { reason },
        }
    }

    /// As [`Verdict::error`], of a call that names a lease.
    pub(super) fn error_with(self, lease: LeaseId) -> LeaseError {
        match self {
            Verdict::LeaseNotFound => LeaseError::Lost { lease },
            other => other.error(),
        }
    }
}

pub(super) fn verdict(error: &etcd_client::Error) -> Verdict {
    match error {
        etcd_client::Error::GRpcStatus(status) => of_status(status),
        etcd_client::Error::LeaseKeepAliveError(text) if text == LEASE_OVER => Verdict::LeaseNotFound,
        // A range that a role may not read: etcd tells it within the stream, as text.
        etcd_client::Error::WatchError(text) if text.contains(PERMISSION_DENIED) => {
            Verdict::Denied(text.clone())
        }
        other => Verdict::Unknown(with_causes(other)),
    }
}

fn of_status(status: &Status) -> Verdict {
    let message = status.message();
    if never_connected(status) {
        return Verdict::NotDone(causes(status));
    }
    if message == LEASE_NOT_FOUND {
        return Verdict::LeaseNotFound;
    }
    let text = message.to_owned();
    if NOT_DONE.contains(&message) {
        Verdict::NotDone(text)
    } else if TOKEN_REFUSED.contains(&message) {
        Verdict::TokenRefused(text)
    } else if DENIED.contains(&message) {
        Verdict::Denied(text)
    } else if message.starts_with("etcdserver: ") && is_refusal(status.code()) {
        Verdict::Refused(text)
    } else {
        Verdict::Unknown(causes(status))
    }
}

/// What etcd answers with these codes it has looked at and does not do.
fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::ResourceExhausted
            | Code::Unimplemented
            | Code::Unauthenticated
    )
}

fn never_connected(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The message and what lies under it: "tcp connect error" alone does not say "connection refused".
fn causes(status: &Status) -> String {
    let first = if status.message().is_empty() { status.code().description() } else { status.message() };
    chain(first.to_owned(), status.source())
}

/// An error with what lies under it.
pub(super) fn with_causes(error: &etcd_client::Error) -> String {
    match error {
        // Its own text is "transport error" and its source is not told.
        etcd_client::Error::TransportError(inner) => chain(inner.to_string(), inner.source()),
        other => chain(other.to_string(), other.source()),
    }
}

fn chain(mut text: String, mut cause: Option<&(dyn std::error::Error + 'static)>) -> String {
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
    use super::*;

    fn of(status: Status) -> Verdict {
        verdict(&etcd_client::Error::GRpcStatus(status))
    }

    #[test]
    fn only_what_was_surely_not_done_is_said_to_be() {
        let connect = ConnectError(Box::new(std::io::Error::other("refused")));
        let Verdict::NotDone(reason) = of(Status::from_error(Box::new(connect))) else { panic!() };
        assert!(reason.contains("refused"), "{reason}");
        assert!(matches!(of(Status::unavailable("etcdserver: no leader")), Verdict::NotDone(_)));
        for unknown in [
            Status::unavailable("etcdserver: request timed out, possibly due to previous leader failure"),
            Status::unavailable("etcdserver: leader changed"),
            Status::unavailable("broken pipe"),
            Status::unknown("etcdserver: server stopped"),
            Status::cancelled("operation was canceled"),
            Status::invalid_argument("not from etcd"),
        ] {
            assert!(matches!(of(unknown.clone()), Verdict::Unknown(_)), "{unknown:?}");
        }
    }

    #[test]
    fn refusals_are_told_apart() {
        let token = of(Status::unauthenticated("etcdserver: invalid auth token"));
        assert!(matches!(token, Verdict::TokenRefused(_)));
        let password = "etcdserver: authentication failed, invalid user ID or password";
        let denied = of(Status::invalid_argument(password));
        assert_eq!(denied.error(), LeaseError::Denied { reason: password.to_owned() });
        let gone = of(Status::not_found(LEASE_NOT_FOUND));
        assert_eq!(gone.error_with(LeaseId(7)), LeaseError::Lost { lease: LeaseId(7) });
        let full = of(Status::resource_exhausted("etcdserver: mvcc: database space exceeded"));
        assert!(matches!(full, Verdict::Refused(_)));
    }

    #[test]
    fn an_ended_lease_is_known_from_the_stream_of_keep_alives() {
        let over = etcd_client::Error::LeaseKeepAliveError(LEASE_OVER.to_owned());
        assert_eq!(verdict(&over), Verdict::LeaseNotFound);
        let broken = etcd_client::Error::LeaseKeepAliveError("channel closed".to_owned());
        assert!(matches!(verdict(&broken), Verdict::Unknown(_)));
    }
}
