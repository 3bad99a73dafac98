//! Who did what, and what came of it.

use super::site::{self, Peer, Site};
use super::{TIMEOUT, backup};
use crate::tokens::{self, TokenRole};
use serde_json::{Value, json};

/// The audit without tokens: `who what outcome code` of each record.
async fn told(peer: &Peer) -> Vec<String> {
    let audit = peer.get("audit", TokenRole::Admin).await.body;
    let line = |record: &Value| {
        let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
        let code = record["code"].as_u64().map(|code| format!(" {code}")).unwrap_or_default();
        format!("{} {} {}{code}", text("who"), text("what"), text("outcome"))
    };
    let records = audit.as_array().unwrap();
    records.iter().filter(|record| record["role"] != "host").map(line).collect()
}

#[actix::test]
async fn the_audit_says_of_every_command_whether_it_was_done() {
    let site = Site::new().await;
    let leader = site.leader("one").await;
    let id = leader.submit(&backup()).await;
    let command = async |what: &str, role| {
        leader.post(&format!("jobs/{id}/{what}"), role, &json!({"priority": 7})).await.status
    };
    assert_eq!(command("priority", TokenRole::Operator).await, 200);
    assert_eq!(command("pause", TokenRole::Operator).await, 409);
    assert_eq!(command("cancel", TokenRole::Viewer).await, 403);
    assert_eq!(command("cancel", TokenRole::Admin).await, 200);
    assert_eq!(command("cancel", TokenRole::Operator).await, 409);
    leader.post("workers/db9/drain", TokenRole::Operator, &Value::Null).await;
    leader.post("jobs", TokenRole::Operator, &json!({"kind": "backup", "stanza": "a/b"})).await;
    leader.post("jobs", TokenRole::Viewer, &backup()).await;
    let expected = [
        "operator submit backup done",
        "operator priority 7 done",
        "operator pause refused 96",
        "viewer cancel refused 105",
        "admin cancel done",
        "operator cancel refused 96",
        "operator drain refused 96",
        "operator submit backup refused 32",
        "viewer submit backup refused 105",
    ];
    assert_eq!(told(&leader).await, expected);
    let audit = leader.get("audit", TokenRole::Admin).await.body;
    let cancelled = audit.as_array().unwrap().iter().find(|record| record["what"] == "cancel").unwrap();
    assert_eq!(cancelled["object"], json!(id));
}

#[actix::test]
async fn questions_are_not_in_the_audit() {
    let site = Site::new().await;
    let leader = site.leader("one").await;
    leader.get("jobs", TokenRole::Viewer).await;
    assert_eq!(leader.get("audit", TokenRole::Viewer).await.status, 403);
    assert_eq!(told(&leader).await, Vec::<String>::new());
}

#[actix::test]
async fn the_next_leader_tells_what_was_done_under_the_one_before() {
    let site = Site::new().await;
    let leader = site.leader("one").await;
    let other = site.follower("two").await;
    let id = other.submit(&backup()).await;
    leader.resign().await;
    tokio::time::timeout(TIMEOUT, other.comes_to_lead()).await.unwrap();
    other.post(&format!("jobs/{id}/cancel"), TokenRole::Operator, &Value::Null).await;
    assert_eq!(told(&other).await, ["operator submit backup done", "operator cancel done"]);
}

#[actix::test]
async fn what_is_done_to_tokens_on_a_host_is_in_the_audit() {
    let site = Site::new().await;
    let leader = site.leader("one").await;
    let revoke = async |which: &str| {
        let by_hand = site::by_hand("token revoke", which);
        tokens::revoke(site.leases.as_ref(), &site.keys, which, by_hand).await
    };
    let ids = revoke("viewer").await.unwrap();
    assert!(revoke("nobody").await.is_err());
    let audit = leader.get("audit", TokenRole::Admin).await.body;
    let records = audit.as_array().unwrap();
    let of = |object: &str| records.iter().find(|record| record["object"] == object).unwrap();
    assert_eq!(of("operator")["what"], "token create");
    assert_eq!(
        (of(&ids[0])["what"].as_str(), of(&ids[0])["outcome"].as_str()),
        (Some("token revoke"), Some("done"))
    );
    assert_eq!((&of("nobody")["outcome"], &of("nobody")["code"]), (&json!("refused"), &json!(96)));
    assert_eq!(of("nobody")["who"], "root@here");
}
