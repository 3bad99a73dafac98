#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::*;
use pgconvoy_core::failure::{Classify, ErrorCode, Retry};

/// 32 bytes of 9.
const NINES: &str = "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=";
/// Far above what a shell needs, far below what its `sleep` would take.
const GENEROUS: Duration = Duration::from_secs(20);

fn argv(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn shell(script: &str) -> Result<Zeroizing<[u8; KEY_BYTES]>, KeyError> {
    ask_within(&argv(&["sh", "-c", script]), GENEROUS)
}

#[test]
fn the_answer_on_stdout_is_the_key_and_stderr_is_ignored_when_all_is_well() {
    assert_eq!(*shell(&format!("echo chatter >&2; echo {NINES}")).unwrap(), [9; KEY_BYTES]);
}

#[test]
fn arguments_reach_the_program_without_a_shell() {
    let error = ask(&argv(&["echo", "$HOME; `id`"])).unwrap_err();
    assert!(matches!(error, KeyError::CommandAnswer { reason: BadSecret::NotBase64, .. }), "{error}");
    assert_eq!(*ask(&argv(&["printf", "%s", NINES])).unwrap(), [9; KEY_BYTES]);
}

#[test]
fn a_failing_command_is_code_102_with_the_tail_of_its_stderr_and_nothing_of_its_stdout() {
    let error =
        shell(&format!("echo {NINES}; yes noise | head -n 20000 >&2; echo vault is sealed >&2; exit 3"))
            .unwrap_err();
    assert_eq!((error.code(), error.retry()), (ErrorCode::Execute, Retry::MayHelp));
    let message = format!("{error} {error:?}");
    assert!(message.contains("vault is sealed") && message.contains("exit status: 3"), "{message}");
    assert!(!message.contains(NINES) && message.len() < 4 * STDERR_TAIL_BYTES, "{}", message.len());
}

#[test]
fn an_answer_that_is_no_key_is_code_95_and_is_not_repeated() {
    for script in ["true", "echo hunter2", "yes hunter2 | head -c 300000"] {
        let error = shell(script).unwrap_err();
        assert!(matches!(error, KeyError::CommandAnswer { .. }), "{script}: {error}");
        assert_eq!(error.code(), ErrorCode::Crypto);
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}

#[test]
fn a_program_that_does_not_exist_or_is_not_named_is_an_error() {
    assert!(matches!(ask(&argv(&["/nonexistent/vault"])), Err(KeyError::CommandStart { .. })));
    assert!(matches!(ask(&[]), Err(KeyError::CommandEmpty)));
}

#[test]
fn a_command_that_hangs_is_ended_with_all_that_it_started() {
    let directory = tempfile::tempdir().unwrap();
    let pid_file = directory.path().join("pid");
    for script in ["sleep 300 & echo $! > PID; wait", "exec >&- 2>&-; echo $$ > PID; exec sleep 300"] {
        let script = script.replace("PID", pid_file.to_str().unwrap());
        let began = Instant::now();
        let error = ask_within(&argv(&["sh", "-c", &script]), Duration::from_millis(500)).unwrap_err();
        assert!(matches!(error, KeyError::CommandTimeout { .. }), "{error}");
        assert!(began.elapsed() < GENEROUS);
        let pid: i32 = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
        assert!(ends_within(pid, GENEROUS), "process {pid} is left");
    }
}

/// A killed process may still be seen for a moment, until its parent or init has taken note.
fn ends_within(pid: i32, timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    let is_gone = || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')),
        Err(_) => true,
    };
    while !is_gone() {
        if Instant::now() >= deadline {
            return false;
        }
        // The timeout is the deadline above.
        std::thread::sleep(EXIT_POLL);
    }
    true
}
