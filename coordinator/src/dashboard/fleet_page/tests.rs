#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::*;
use crate::workshop::PlaceFacts;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::{Identity, RepoKey};
use pgconvoy_core::job::JobOptions;
use pgconvoy_core::wire::JobId;
use pgconvoy_repository::info::{InfoReport, Status};

/// Ends whatever it stands in.
const HOSTILE: &str = "<script>alert(1)</script>\"'\u{202e}&amp;";

fn job(state: JobState, finished: Option<i64>) -> JobView {
    let record = JobRecord {
        id: JobId(Identity::from_random_bytes([7; 16])),
        kind: JobKind::Backup,
        stanza: "main".parse().unwrap(),
        options: JobOptions::default(),
        priority: 0,
        state,
        submitted_by: HOSTILE.to_owned(),
        created: Timestamp(0),
        started: Some(Timestamp(1_000)),
        finished: finished.map(Timestamp),
        begun: None,
        main_worker: None,
        failure: finished.map(|_| Failure::new(ErrorCode::Term, HOSTILE)),
        result: None,
    };
    JobView { record, progress: None, rate: 0, eta: None }
}

fn stanza(codes: &[StatusCode]) -> StanzaInfo {
    let repository = |(key, code): (u16, &StatusCode)| RepositoryInfo {
        key: RepoKey(key),
        cipher: None,
        status: Status::of(*code),
        clusters: Vec::new(),
        archives: Vec::new(),
        backups: Vec::new(),
        pitr: Vec::new(),
    };
    let repositories = (1..).zip(codes).map(repository).collect();
    StanzaInfo { name: "main".to_owned(), repositories, is_backup_running: false }
}

fn report(stanza: StanzaInfo, standing: Standing) -> Report {
    let facts = PlaceFacts {
        key: RepoKey(1),
        kind: "posix".to_owned(),
        description: HOSTILE.to_owned(),
        layout: "packed".to_owned(),
        is_required: true,
    };
    let repositories = vec![RepositoryReport { facts, standing, as_of: Some(Timestamp(0)) }];
    Report { info: InfoReport { stanzas: vec![stanza] }, repositories }
}

#[test]
fn a_stanza_says_first_what_an_operator_must_know() {
    use StatusCode::{MissingStanzaPath, NoBackups, Ok, Other};
    for (codes, jobs, tone, word) in [
        (vec![Ok, Ok], vec![], Tone::Good, "ok"),
        (vec![], vec![], Tone::Idle, "not read yet"),
        (vec![NoBackups], vec![], Tone::Warn, "no backup yet"),
        (vec![Ok, NoBackups], vec![], Tone::Warn, "repositories differ"),
        (vec![Other], vec![], Tone::Bad, "cannot be read"),
        (vec![MissingStanzaPath], vec![], Tone::Bad, "missing stanza path"),
        (vec![Ok], vec![job(JobState::Running, None)], Tone::Work, "backing up"),
        (vec![Ok], vec![job(JobState::Paused, None)], Tone::Warn, "backup paused"),
        (vec![Ok], vec![job(JobState::Failed, Some(5_000))], Tone::Bad, "last backup failed"),
        (vec![Ok], vec![job(JobState::Cancelled, Some(5_000))], Tone::Good, "ok"),
    ] {
        let view = FleetView::of(&report(stanza(&codes), Standing::Well), &jobs, &[], Timestamp(9_000));
        assert_eq!(view.stanzas[0].sign, Sign::new(tone, word));
    }
}

#[test]
fn what_runs_and_what_ended_stand_apart_and_the_newest_end_comes_first() {
    let jobs =
        [job(JobState::Done, Some(3_000)), job(JobState::Running, None), job(JobState::Failed, Some(8_000))];
    let view = FleetView::of(&report(stanza(&[]), Standing::Unknown), &jobs, &[], Timestamp(9_000));
    assert_eq!(view.jobs.iter().map(|row| row.sign.word.as_str()).collect::<Vec<_>>(), ["running"]);
    assert_eq!(view.past.iter().map(|row| row.sign.word.as_str()).collect::<Vec<_>>(), ["failed", "done"]);
    assert_eq!(view.past[1].took.as_deref(), Some("2 s"));
}

#[test]
fn figures_on_top_tell_the_worst_by_their_tone() {
    let silent = report(stanza(&[StatusCode::Other]), Standing::Silent(Timestamp(0)));
    let view = FleetView::of(&silent, &[], &[], Timestamp(60_000));
    let told: Vec<(&str, &str, Tone)> =
        view.tiles.iter().map(|tile| (tile.name, tile.figure.as_str(), tile.sign.tone)).collect();
    assert_eq!(
        told,
        [
            ("Stanzas", "0 of 1", Tone::Bad),
            ("Oldest last backup", "none", Tone::Warn),
            ("Running", "0", Tone::Idle),
            ("Workers", "0 of 0", Tone::Good),
            ("Repositories", "0 of 1", Tone::Bad),
        ]
    );
}

#[test]
fn whatever_a_name_holds_it_stays_a_text() {
    let jobs = [job(JobState::Running, None), job(JobState::Failed, Some(3_000))];
    let known = report(stanza(&[StatusCode::Ok]), Standing::Failed(HOSTILE.to_owned()));
    let mut view = FleetView::of(&known, &jobs, &[], Timestamp(9_000));
    view.stanzas[0].name = HOSTILE.to_owned();
    for row in view.jobs.iter_mut().chain(&mut view.past) {
        (row.stanza, row.id, row.label) = (HOSTILE.to_owned(), HOSTILE.to_owned(), Some(HOSTILE.to_owned()));
    }
    view.workers.push(WorkerRow {
        name: HOSTILE.to_owned(),
        sign: Sign::new(Tone::Good, HOSTILE),
        busy: 1,
        slots: 2,
        serves: vec![(HOSTILE.to_owned(), "primary")],
    });
    let shown = content(&view).into_string();
    assert!(!shown.contains("<script>"), "{shown}");
    // Once as a text, and in no attribute that it could end.
    assert!(shown.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;'\u{202e}&amp;amp;"), "{shown}");
    for attribute in shown.split("=\"").skip(1) {
        let value = attribute.split('"').next().unwrap();
        assert!(!value.contains('<'), "{value}");
    }
}
