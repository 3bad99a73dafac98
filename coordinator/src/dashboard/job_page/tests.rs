#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::*;
use crate::unit_map::HeldUnit;
use pgconvoy_core::failure::ErrorCode;
use pgconvoy_core::ids::{Attempt, Identity, RepoKey, UnitId};
use pgconvoy_core::job::JobOptions;
use pgconvoy_core::wire::{JobId, ServerSeen, SourceSeen};

const HOSTILE: &str = "<script>alert(1)</script>\"'\u{202e}";

fn job(state: JobState, result: Option<&str>) -> JobView {
    let mut options = JobOptions::default();
    options.set("exclude", vec![HOSTILE.to_owned(), "b".to_owned()]);
    let record = JobRecord {
        id: JobId(Identity::from_random_bytes([7; 16])),
        kind: JobKind::Backup,
        stanza: "main".parse().unwrap(),
        options,
        priority: 0,
        state,
        submitted_by: HOSTILE.to_owned(),
        created: Timestamp(0),
        started: Some(Timestamp(1_000)),
        finished: state.is_over().then_some(Timestamp(61_000)),
        begun: None,
        main_worker: None,
        failure: (state == JobState::Failed).then(|| Failure::new(ErrorCode::Term, HOSTILE).hint(HOSTILE)),
        result: result.map(str::to_owned),
    };
    JobView { record, progress: None, rate: 0, eta: None }
}

fn worker(name: &str, state: WorkerState) -> (WorkerView, u32) {
    let source =
        SourceSeen { stanza: "main".parse().unwrap(), directory: String::new(), server: ServerSeen::Unknown };
    let view = WorkerView {
        name: name.parse().unwrap(),
        state,
        slots: 2,
        sources: vec![source],
        repositories: Vec::new(),
    };
    (view, 0)
}

fn look() -> Look {
    let held = HeldUnit { unit: UnitId(2), worker: "w1".parse().unwrap(), attempt: Attempt(1) };
    let parts = crate::unit_map::WorkerPart { worker: "w1".parse().unwrap(), units: 2, bytes: 2 << 20 };
    let stored = |key, failure: Option<&str>| crate::unit_map::RepositoryPart {
        repository: RepoKey(key),
        stored: 1 << 20,
        failure: failure.map(str::to_owned),
    };
    let map = UnitMap {
        states: b"ddlp".to_vec(),
        held: vec![held],
        workers: vec![parts],
        repositories: vec![stored(1, None), stored(2, Some(HOSTILE))],
    };
    Look { worker_rates: [("w1".parse().unwrap(), 1 << 20)].into(), map, ..Look::default() }
}

fn view(job: &JobView, look: Option<&Look>, workers: &[(WorkerView, u32)]) -> JobPageView {
    JobPageView::of(&Known { view: job, look, workers, places: &[] }, Timestamp(62_000))
}

const RESULT: &str = r#"{"type":"full","prior":null,"bytes":{"database":1048576,"read":1048576,"changed":0},
    "units":{"total":5,"retried":1,"resumed":0},"pages":{"checked":128,"errors":[]},
    "repos":[{"key":1,"status":"ok","bytes-stored":1024,"error":null},
             {"key":2,"status":"error","bytes-stored":0,"error":{"code":64,"message":"disk full"}}],
    "workers":[{"name":"w1","units":5,"bytes":1048576}]}"#;

#[test]
fn a_running_job_tells_who_holds_what_and_who_is_lost() {
    let (job, look) = (job(JobState::Running, None), look());
    let workers = [worker("w1", WorkerState::Up), worker("w2", WorkerState::Lost)];
    let shown = view(&job, Some(&look), &workers);
    assert_eq!(shown.counts, Counts { pending: 1, leased: 1, again: 0, done: 2 });
    let told: Vec<_> = shown
        .workers
        .iter()
        .map(|part| (part.name.as_str(), part.in_hand, part.units, part.rate.as_deref()))
        .collect();
    assert_eq!(told, [("w1", Some(1), 2, Some("1.0 MiB/s")), ("w2", Some(0), 0, None)]);
    assert_eq!(shown.repositories[1].sign.word, "dropped");
    assert_eq!(shown.said(), "backup of main is running; lost: w2.");
}

#[test]
fn a_job_that_is_over_is_told_from_its_result() {
    let job = job(JobState::Partial, Some(RESULT));
    let shown = view(&job, None, &[]);
    assert_eq!((shown.counts.done, shown.counts.total(), shown.retried), (5, 5, 1));
    assert_eq!(shown.workers[0].bytes, "1.0 MiB");
    assert_eq!(shown.repositories[1].trouble.as_deref(), Some("disk full"));
    assert!(shown.result.contains(&("Pages checked", "128".to_owned())), "{:?}", shown.result);
    assert_eq!(shown.row.took.as_deref(), Some("1 m 0 s"));
}

#[test]
fn the_map_of_a_job_is_done_only_if_the_job_is() {
    let of = |state, known| last_map(&job(state, None).record, known).map(|states| states.len());
    assert_eq!(of(JobState::Done, Some(3)), Some(3));
    assert_eq!(of(JobState::Failed, Some(3)), None);
    assert_eq!(of(JobState::Cancelled, Some(3)), None);
    assert_eq!(of(JobState::Done, None), None, "nobody knows how many there were");
    assert_eq!(last_map(&job(JobState::Done, Some(RESULT)).record, Some(3)), Some(vec![DONE; 5]));
}

#[test]
fn a_result_that_is_none_of_ours_shows_nothing() {
    for result in ["", "[]", "{\"bytes\":7,\"repos\":{},\"workers\":\"x\"}"] {
        let shown = view(&job(JobState::Done, Some(result)), None, &[]);
        assert!(shown.result.is_empty() && shown.workers.is_empty(), "{result}");
    }
}

#[test]
fn buttons_are_for_those_who_may_press_them() {
    let shown = view(&job(JobState::Running, None), None, &[]);
    let for_viewers = content(&shown, None).into_string();
    assert!(!for_viewers.contains("<form") && !for_viewers.contains("<button"), "{for_viewers}");
    let for_operators = content(&shown, Some("abc")).into_string();
    assert_eq!(for_operators.matches("name=\"proof\" value=\"abc\"").count(), 3);
    let of_another_kind = JobPageView { is_backup: false, ..shown };
    let cancel_only = content(&of_another_kind, Some("abc")).into_string();
    assert_eq!((cancel_only.matches("<form").count(), cancel_only.matches("<canvas").count()), (1, 0));
}

#[test]
fn whatever_an_option_or_an_error_holds_it_stays_a_text() {
    let mut shown = view(&job(JobState::Failed, None), Some(&look()), &[worker("w1", WorkerState::Up)]);
    shown.workers[0].name = HOSTILE.to_owned();
    shown.row.stanza = HOSTILE.to_owned();
    let page = content(&shown, Some("abc")).into_string();
    assert!(!page.contains("<script>") && page.contains("&lt;script&gt;"), "{page}");
}
