#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod auditing;
mod pages;
mod site;

use crate::tokens::{self, TokenRole};
use serde_json::{Value, json};
use site::{Answer, Site, Stream};
use std::time::Duration;

/// For conditions that are waited for; long enough for any machine.
const TIMEOUT: Duration = Duration::from_secs(20);

fn backup() -> Value {
    json!({"kind": "backup", "stanza": "main", "options": {"type": "full"}})
}

fn code(answer: &Answer) -> (u16, u64) {
    (answer.status, answer.body["error"]["code"].as_u64().unwrap_or_default())
}

#[actix::test]
async fn a_job_is_submitted_shown_and_cancelled() {
    let site = Site::new().await;
    let leader = site.leader("one").await;
    let submitted = leader.post("jobs", TokenRole::Operator, &backup()).await;
    assert_eq!(submitted.status, 201);
    let id = submitted.body["id"].as_str().unwrap().to_owned();
    assert_eq!(submitted.location, format!("/api/v1/jobs/{id}"));
    let jobs = leader.get("jobs", TokenRole::Viewer).await.body;
    assert_eq!(jobs.as_array().unwrap().len(), 1);
    let shown = leader.get(&format!("jobs/{id}"), TokenRole::Viewer).await.body;
    assert_eq!(jobs[0], shown);
    for (key, value) in [
        ("kind", json!("backup")),
        ("stanza", json!("main")),
        ("state", json!("queued")),
        ("priority", json!(0)),
        ("units", Value::Null),
        ("bytes", Value::Null),
        ("limiting-stage", Value::Null),
        ("error", Value::Null),
        ("options", json!({"type": ["full"]})),
        ("submitted-by", json!("operator")),
    ] {
        assert_eq!(shown[key], value, "{key}");
    }
    let raised =
        leader.post(&format!("jobs/{id}/priority"), TokenRole::Operator, &json!({"priority": 7})).await;
    assert_eq!((raised.status, raised.body["priority"].as_i64()), (200, Some(7)));
    let paused = leader.post(&format!("jobs/{id}/pause"), TokenRole::Operator, &Value::Null).await;
    assert_eq!(code(&paused), (409, 96), "what waits cannot be paused");
    let cancelled = leader.post(&format!("jobs/{id}/cancel"), TokenRole::Operator, &Value::Null).await;
    assert_eq!((cancelled.status, cancelled.body["state"].as_str()), (200, Some("cancelled")));
    assert_eq!(cancelled.body["error"]["code"], 63);
    let again = leader.post(&format!("jobs/{id}/cancel"), TokenRole::Operator, &Value::Null).await;
    assert_eq!(code(&again), (409, 96));
}

#[actix::test]
async fn each_role_may_do_what_it_is_for_and_no_more() {
    let site = Site::new().await;
    let leader = site.leader("one").await;
    for (role, read, submitted, audited) in [
        (TokenRole::Viewer, 200, 403, 403),
        (TokenRole::Operator, 200, 201, 403),
        (TokenRole::Admin, 200, 201, 200),
    ] {
        assert_eq!(leader.get("jobs", role).await.status, read, "{role}");
        assert_eq!(leader.get("workers", role).await.status, read, "{role}");
        assert_eq!(leader.post("jobs", role, &backup()).await.status, submitted, "{role}");
        assert_eq!(leader.get("audit", role).await.status, audited, "{role}");
    }
    let refused = leader.post("jobs", TokenRole::Viewer, &backup()).await;
    assert_eq!(code(&refused), (403, 105));
    assert!(refused.body["error"]["message"].as_str().unwrap().contains("operator"));
}

#[actix::test]
async fn nobody_gets_in_without_a_token_that_is_valid() {
    let site = Site::new().await;
    let leader = site.leader("one").await;
    assert_eq!(code(&leader.ask("GET", "jobs", None, None).await), (401, 105));
    for wrong in ["", "pgc_0000000000000000_AAAA", "Basic x"] {
        assert_eq!(code(&leader.ask("GET", "jobs", Some(wrong), None).await), (401, 105), "{wrong}");
    }
    assert_eq!(code(&leader.ask("GET", "nowhere", None, None).await), (401, 105), "not even what there is");
    let by_hand = site::by_hand("token revoke", "viewer");
    tokens::revoke(site.leases.as_ref(), &site.keys, "viewer", by_hand).await.unwrap();
    let refused = async {
        while leader.get("jobs", TokenRole::Viewer).await.status != 401 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TIMEOUT, refused).await.unwrap();
}

#[actix::test]
async fn what_makes_no_sense_is_refused_with_the_words_of_the_command() {
    let site = Site::new().await;
    let leader = site.leader("one").await;
    for (body, expected) in [
        (json!({"kind": "backup", "stanza": "main", "options": {"typ": "full"}}), (422, 31)),
        (json!({"kind": "burn", "stanza": "main"}), (422, 32)),
        (json!({"kind": "backup", "stanza": "a/b"}), (422, 32)),
        (json!({"kind": "backup"}), (400, 29)),
        (json!({"kind": "backup", "stanza": "main", "typo": 1}), (400, 29)),
        (json!({"kind": "backup", "stanza": "main", "options": {"type": {"deep": 1}}}), (400, 29)),
    ] {
        assert_eq!(code(&leader.post("jobs", TokenRole::Operator, &body).await), expected, "{body}");
    }
    let refused = leader
        .post(
            "jobs",
            TokenRole::Operator,
            &json!({"kind": "backup", "stanza": "main", "options": {"typ": []}}),
        )
        .await;
    assert_eq!(refused.body["error"]["hints"], json!(["did you mean '--type'?"]));
    let large = json!({"kind": "backup", "stanza": "main", "options": {"exclude": "x".repeat(300 << 10)}});
    assert_eq!(code(&leader.post("jobs", TokenRole::Operator, &large).await), (413, 29));
    assert_eq!(leader.get("jobs", TokenRole::Viewer).await.body, json!([]));
}

#[actix::test]
async fn what_is_not_there_is_not_found() {
    let site = Site::new().await;
    let leader = site.leader("one").await;
    let nobody = "00000000-0000-0000-0000-000000000000";
    for path in ["jobs/nonsense", &format!("jobs/{nobody}"), &format!("jobs/{nobody}/events"), "nowhere"] {
        assert_eq!(code(&leader.get(path, TokenRole::Viewer).await), (404, 96), "{path}");
    }
    for path in
        [format!("jobs/{nobody}/cancel"), "workers/db9/drain".to_owned(), "workers/db9/undrain".to_owned()]
    {
        let answer = leader.post(&path, TokenRole::Operator, &Value::Null).await;
        assert_eq!(code(&answer), (404, 96), "{path}");
    }
    assert_eq!(leader.get("workers", TokenRole::Viewer).await.body, json!([]));
}

#[actix::test]
async fn a_follower_of_a_job_is_told_of_changes_and_of_the_end() {
    let site = Site::new().await;
    let leader = site.leader("one").await;
    let id = leader.submit(&backup()).await;
    let mut stream = leader.follow(&id, None).await;
    let first = stream.event().await.unwrap();
    assert_eq!((first.name.as_str(), &first.data["state"]), ("progress", &json!("queued")));
    leader.post(&format!("jobs/{id}/priority"), TokenRole::Operator, &json!({"priority": 3})).await;
    let second = stream.event().await.unwrap();
    assert_eq!(second.data["priority"], 3);
    assert_ne!(first.id, second.id);
    leader.post(&format!("jobs/{id}/cancel"), TokenRole::Operator, &Value::Null).await;
    let last = stream.event().await.unwrap();
    assert_eq!((&last.data["state"], &last.data["result"]), (&json!("cancelled"), &Value::Null));
    assert_eq!(stream.event().await.unwrap().name, "end");
    assert!(stream.event().await.is_none(), "the stream is over");
}

#[actix::test]
async fn who_comes_back_is_told_what_was_missed_and_nothing_twice() {
    let site = Site::new().await;
    let leader = site.leader("one").await;
    let id = leader.submit(&backup()).await;
    let first = leader.follow(&id, None).await.event().await.unwrap();
    let (epoch, number) = first.id.split_once('-').unwrap();
    let older = format!("{epoch}-{}", number.parse::<u64>().unwrap() - 1);
    for stale in [older.as_str(), "1-1", "nonsense"] {
        let event = leader.follow(&id, Some(stale)).await.event().await.unwrap();
        assert_eq!(event.data, first.data, "{stale}");
    }
    let mut stream = leader.follow(&id, Some(&first.id)).await;
    leader.post(&format!("jobs/{id}/priority"), TokenRole::Operator, &json!({"priority": 4})).await;
    assert_eq!(stream.event().await.unwrap().data["priority"], 4, "the known state is not told again");
}

#[actix::test]
async fn a_follower_asks_the_leader_on_behalf_of_whoever_asks_it() {
    let site = Site::new().await;
    let leader = site.leader("one").await;
    let other = site.follower("two").await;
    let submitted = other.post("jobs", TokenRole::Operator, &backup()).await;
    assert_eq!(submitted.status, 201);
    let id = submitted.body["id"].as_str().unwrap().to_owned();
    assert_eq!(submitted.location, format!("/api/v1/jobs/{id}"));
    assert_eq!(leader.get("jobs", TokenRole::Viewer).await.body[0]["submitted-by"], "operator");
    assert_eq!(code(&other.post("jobs", TokenRole::Viewer, &backup()).await), (403, 105));
    assert_eq!(code(&other.ask("GET", "jobs", None, None).await), (401, 105));
    let mut stream = other.follow(&id, None).await;
    assert_eq!(stream.event().await.unwrap().name, "progress");
    other.post(&format!("jobs/{id}/cancel"), TokenRole::Operator, &Value::Null).await;
    assert_eq!(stream.event().await.unwrap().data["state"], "cancelled");
    assert_eq!(stream.event().await.unwrap().name, "end");
    let looped = other.asked_by_a_follower("jobs").await;
    assert_eq!((code(&looped), looped.may_be_repeated), ((503, 49), true));
}

#[actix::test]
async fn following_a_job_survives_a_change_of_leader() {
    let site = Site::new().await;
    let leader = site.leader("one").await;
    let other = site.follower("two").await;
    let id = leader.submit(&backup()).await;
    let mut stream = leader.follow(&id, None).await;
    let seen = stream.event().await.unwrap();
    leader.resign().await;
    assert!(stream.event().await.is_none(), "whoever leads no more tells no more");
    other.comes_to_lead().await;
    let mut stream: Stream = other.follow(&id, Some(&seen.id)).await;
    let event = stream.event().await.unwrap();
    assert_eq!(event.data["state"], "queued");
    assert_ne!(event.data["epoch"], seen.data["epoch"]);
}

#[actix::test]
async fn a_coordinator_without_a_leader_lives_and_is_not_ready() {
    let site = Site::new().await;
    let alone = site.idle("one").await;
    assert_eq!(alone.status_of("/healthz").await, 200);
    assert_eq!(alone.status_of("/readyz").await, 503);
    let refused = alone.get("jobs", TokenRole::Viewer).await;
    assert_eq!((code(&refused), refused.may_be_repeated), ((503, 49), true));
    let leader = site.leader("two").await;
    assert_eq!(leader.status_of("/readyz").await, 200);
    assert_eq!(leader.status_of("/elsewhere").await, 404);
}
