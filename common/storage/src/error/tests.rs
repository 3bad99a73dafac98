use super::*;
use pgconvoy_core::failure::Failure;

fn sorted(action: IoAction, errno: Errno) -> StorageError {
    let key: ObjectKey = "a/b".parse().expect("a valid key");
    StorageError::from_errno(Place::new("posix:/r", Some(&key)), action, errno)
}

#[test]
fn each_refusal_of_the_system_has_its_own_message_code_and_advice_on_retrying() {
    use Retry::{IsFutile, MayHelp};
    let table = [
        (IoAction::Open, Errno::ACCESS, 105, IsFutile, "unable to open 'a/b' in posix:/r: permission denied"),
        (IoAction::Open, Errno::PERM, 105, IsFutile, "unable to open 'a/b' in posix:/r: permission denied"),
        (
            IoAction::Write,
            Errno::ROFS,
            64,
            IsFutile,
            "unable to write 'a/b' in posix:/r: the store is read-only",
        ),
        (IoAction::Write, Errno::NOSPC, 64, IsFutile, "unable to write 'a/b' in posix:/r: no space is left"),
        (
            IoAction::Write,
            Errno::DQUOT,
            64,
            IsFutile,
            "unable to write 'a/b' in posix:/r: the quota is used up",
        ),
        (
            IoAction::Read,
            Errno::IO,
            42,
            IsFutile,
            "unable to read 'a/b' in posix:/r: Input/output error (os error 5)",
        ),
        (
            IoAction::Read,
            Errno::STALE,
            49,
            MayHelp,
            "'a/b' in posix:/r is not available: Stale file handle (os error 116)",
        ),
        (
            IoAction::Read,
            Errno::TIMEDOUT,
            49,
            MayHelp,
            "'a/b' in posix:/r did not answer in time: Connection timed out (os error 110)",
        ),
        (IoAction::Open, Errno::NOENT, 55, IsFutile, "'a/b' in posix:/r does not exist"),
        (IoAction::Publish, Errno::EXIST, 93, IsFutile, "'a/b' in posix:/r exists already"),
    ];
    for (action, errno, number, retry, message) in table {
        let error = sorted(action, errno);
        assert_eq!(error.to_string(), message);
        assert_eq!(error.code().number(), number, "{message}");
        assert_eq!(error.retry(), retry, "{message}");
    }
}

#[test]
fn a_failed_sync_is_never_worth_a_retry() {
    for action in [IoAction::Sync, IoAction::SyncPath] {
        for errno in [Errno::IO, Errno::STALE, Errno::TIMEDOUT, Errno::AGAIN, Errno::NOSPC, Errno::DQUOT] {
            assert_eq!(sorted(action, errno).retry(), Retry::IsFutile, "{action:?} {errno:?}");
        }
    }
}

#[test]
fn a_full_disk_reaches_the_operator_with_a_hint() {
    let failure = Failure::from(sorted(IoAction::Write, Errno::NOSPC));
    assert_eq!(failure.code, ErrorCode::FileWrite);
    assert_eq!(failure.hints.len(), 1);
}
