//! Pages, forms and sessions of the dashboard, and what else is told beside the API, as a browser or a program without one asks.

use super::site::{self, Peer, Site};
use super::{TIMEOUT, backup};
use crate::tokens::{self, TokenRole};
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, COOKIE, ETAG, HeaderMap, IF_NONE_MATCH, LOCATION, ORIGIN, SET_COOKIE};
use std::collections::BTreeMap;

/// What a browser would get.
struct Page {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Page {
    fn header(&self, name: impl reqwest::header::AsHeaderName) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    fn leads_to(&self) -> (u16, &str) {
        (self.status, self.header(LOCATION))
    }

    /// What its forms bear.
    fn proof(&self) -> String {
        let (_, after) = self.text.split_once("name=\"proof\" value=\"").unwrap();
        after.split('"').next().unwrap().to_owned()
    }
}

async fn send(request: reqwest::RequestBuilder) -> Page {
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    Page { status, headers, text: answer.text().await.unwrap() }
}

fn cookie(peer: &Peer, role: TokenRole) -> String {
    format!("theme=dark; __Host-pgconvoy={}", peer.token(role))
}

async fn get(peer: &Peer, path: &str, role: TokenRole) -> Page {
    send(peer.request(Method::GET, path).header(COOKIE, cookie(peer, role))).await
}

/// A form of a page of that very host.
async fn post(peer: &Peer, path: &str, role: TokenRole, proof: &str) -> Page {
    let request = peer.request(Method::POST, path).header(COOKIE, cookie(peer, role));
    let request =
        request.header(ORIGIN, peer.url()).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    send(request.body(format!("proof={proof}"))).await
}

async fn log_in(peer: &Peer, token: &str, next: &str) -> Page {
    let request = peer.request(Method::POST, "/login").header(ORIGIN, peer.url());
    let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    send(request.body(format!("token={token}&next={next}"))).await
}

#[actix::test]
async fn a_token_becomes_a_cookie_and_a_page_renews_it() {
    let site = Site::new().await;
    let leader = site.leader("one").await;
    assert_eq!(send(leader.request(Method::GET, "/")).await.leads_to(), (303, "/login"));
    let form = send(leader.request(Method::GET, "/login")).await;
    assert!(form.status == 200 && form.text.contains("name=\"token\""), "{}", form.text);
    let refused = log_in(&leader, "pgc_0000000000000000_x", "/").await;
    assert!(
        refused.status == 401 && refused.header(SET_COOKIE).is_empty() && refused.text.contains("not known")
    );
    let token = leader.token(TokenRole::Viewer);
    let entered = log_in(&leader, token, "/jobs/7").await;
    assert_eq!(entered.leads_to(), (303, "/jobs/7"));
    assert!(entered.header(SET_COOKIE).starts_with(&format!("__Host-pgconvoy={token}; ")));
    assert_eq!(log_in(&leader, token, "//evil.example").await.leads_to(), (303, "/"));
    let page = get(&leader, "/", TokenRole::Viewer).await;
    assert_eq!((page.status, page.header(CONTENT_TYPE)), (200, "text/html; charset=utf-8"));
    assert!(page.header(SET_COOKIE).contains("Max-Age=43200"), "the session would end under somebody's eyes");
    let proof = page.proof();
    assert_eq!(post(&leader, "/logout", TokenRole::Viewer, "").await.status, 403);
    let left = post(&leader, "/logout", TokenRole::Viewer, &proof).await;
    assert_eq!(left.leads_to(), (303, "/login"));
    assert!(left.header(SET_COOKIE).contains("Max-Age=0"));
}

#[actix::test]
async fn every_page_forbids_what_it_does_not_need() {
    let site = Site::new().await;
    let leader = site.leader("one").await;
    for path in ["/", "/login", "/jobs/nothing"] {
        let page = get(&leader, path, TokenRole::Viewer).await;
        let policy = page.header("content-security-policy");
        assert!(
            policy.contains("default-src 'self'") && policy.contains("frame-ancestors 'none'"),
            "{path}: {policy}"
        );
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{path}: {policy}");
        assert_eq!(page.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(page.header("referrer-policy"), "same-origin", "{path}");
        for forbidden in ["<script>", "<style", " style=", " onclick=", "javascript:", "http://", "https://"]
        {
            assert!(!page.text.contains(forbidden), "{path} has {forbidden}");
        }
    }
}

#[actix::test]
async fn what_pages_need_beside_them_is_kept_by_browsers_and_named_by_what_is_in_it() {
    let site = Site::new().await;
    let leader = site.leader("one").await;
    let page = get(&leader, "/", TokenRole::Viewer).await.text;
    let assets: Vec<&str> = page.split('"').filter(|text| text.starts_with("/assets/")).collect();
    assert_eq!(assets.len(), 3, "{assets:?}");
    for path in assets {
        let asset = send(leader.request(Method::GET, path)).await;
        assert!(asset.status == 200 && asset.header("cache-control").contains("immutable"), "{path}");
        let again = leader.request(Method::GET, path).header(IF_NONE_MATCH, asset.header(ETAG));
        assert_eq!(send(again).await.status, 304, "{path}");
    }
    assert_eq!(send(leader.request(Method::GET, "/assets/style-0.css")).await.status, 404);
}

#[actix::test]
async fn a_form_does_what_the_role_allows_and_only_as_one_of_our_pages() {
    let site = Site::new().await;
    let leader = site.leader("one").await;
    let id = leader.submit(&backup()).await;
    let (path, cancel) = (format!("/jobs/{id}"), format!("/jobs/{id}/cancel"));
    let for_viewers = get(&leader, &path, TokenRole::Viewer).await;
    assert!(for_viewers.status == 200 && !for_viewers.text.contains("/cancel"), "{}", for_viewers.text);
    let proof = for_viewers.proof();
    assert_eq!(post(&leader, &cancel, TokenRole::Viewer, &proof).await.status, 403, "a viewer cancels");
    let page = get(&leader, &path, TokenRole::Operator).await;
    assert!(page.text.contains(&format!("action=\"{cancel}\"")), "{}", page.text);
    assert_eq!(
        post(&leader, &cancel, TokenRole::Operator, &proof).await.status,
        403,
        "another session's proof"
    );
    let by_a_stranger =
        leader.request(Method::POST, &cancel).header(COOKIE, cookie(&leader, TokenRole::Operator));
    let by_a_stranger =
        by_a_stranger.header(ORIGIN, "https://evil.example").body(format!("proof={}", page.proof()));
    assert_eq!(send(by_a_stranger).await.status, 403);
    let shown = leader.get(&format!("jobs/{id}"), TokenRole::Viewer).await.body;
    assert_eq!(shown["state"], "queued", "nothing of this did anything");
    let paused = post(&leader, &format!("{path}/pause"), TokenRole::Operator, &page.proof()).await;
    assert!(paused.status == 409 && paused.text.contains("is queued, not running"), "{}", paused.text);
    let done = post(&leader, &cancel, TokenRole::Operator, &page.proof()).await;
    assert_eq!(done.leads_to(), (303, path.as_str()));
    let over = get(&leader, &path, TokenRole::Operator).await;
    assert!(over.text.contains("data-state=\"cancelled\""), "{}", over.text);
}

#[actix::test]
async fn a_follower_shows_the_leaders_pages_and_passes_forms_on() {
    let site = Site::new().await;
    let leader = site.leader("one").await;
    let other = site.follower("two").await;
    let id = leader.submit(&backup()).await;
    let page = get(&other, &format!("/jobs/{id}"), TokenRole::Operator).await;
    assert!(page.status == 200 && page.text.contains("led by one"), "{}", page.text);
    assert!(page.header(SET_COOKIE).contains("__Host-pgconvoy"));
    assert!(page.header("content-security-policy").contains("default-src 'self'"));
    let done = post(&other, &format!("/jobs/{id}/cancel"), TokenRole::Operator, &page.proof()).await;
    assert_eq!(done.leads_to(), (303, format!("/jobs/{id}").as_str()));
    assert_eq!(leader.get(&format!("jobs/{id}"), TokenRole::Viewer).await.body["state"], "cancelled");
    let alone = site.idle("three").await;
    let page = get(&alone, "/", TokenRole::Viewer).await;
    assert!(page.status == 503 && page.header("refresh") == "3", "{}", page.text);
    assert!(page.text.contains("no coordinator leads"), "{}", page.text);
}

#[actix::test]
async fn an_open_page_is_told_what_changes_and_is_sent_out_when_its_token_is_revoked() {
    let site = Site::new().await;
    let leader = site.leader("one").await;
    let id = leader.submit(&backup()).await;
    let stream = |path: String| {
        let request = leader.request(Method::GET, &path);
        let request = request.header(COOKIE, cookie(&leader, TokenRole::Viewer));
        async move { request.send().await.unwrap() }
    };
    let mut job = stream(format!("/jobs/{id}/events")).await;
    let mut fleet = stream("/events".to_owned()).await;
    assert_eq!(job.headers()["content-type"], "text/event-stream");
    let said = async |stream: &mut reqwest::Response, word: &str| {
        let mut text = String::new();
        let reading = async {
            while !text.contains(word) {
                let piece = stream.chunk().await.unwrap().expect("the stream goes on");
                text += std::str::from_utf8(&piece).unwrap();
            }
        };
        tokio::time::timeout(TIMEOUT, reading).await.unwrap();
        text
    };
    assert!(said(&mut job, "\"state\":\"queued\"").await.starts_with("event: page\n"));
    said(&mut fleet, "Running and waiting").await;
    leader.post(&format!("jobs/{id}/cancel"), TokenRole::Operator, &serde_json::Value::Null).await;
    assert!(said(&mut job, "event: end").await.contains("\"state\":\"cancelled\""));
    assert!(job.chunk().await.unwrap().is_none(), "a stream of a job that is over ends");
    let by_hand = site::by_hand("token revoke", "viewer");
    tokens::revoke(site.leases.as_ref(), &site.keys, "viewer", by_hand).await.unwrap();
    said(&mut fleet, "event: gone").await;
    assert!(fleet.chunk().await.unwrap().is_none());
    assert_eq!(get(&leader, "/", TokenRole::Viewer).await.leads_to(), (303, "/login"));
    let refused = stream("/events".to_owned()).await;
    assert_eq!(refused.status().as_u16(), 401, "a stream is led nowhere");
}

#[actix::test]
async fn metrics_are_for_bearers_and_what_concerns_the_fleet_is_the_leaders() {
    let site = Site::new().await;
    let leader = site.leader("one").await;
    let other = site.follower("two").await;
    leader.submit(&backup()).await;
    assert_eq!(leader.status_of("/metrics").await, 401);
    let told = async |peer: &Peer| -> BTreeMap<String, String> {
        let request = peer.request(Method::GET, "/metrics").bearer_auth(peer.token(TokenRole::Viewer));
        let page = send(request).await;
        assert_eq!((page.status, page.header(CONTENT_TYPE)), (200, crate::metrics::CONTENT_TYPE));
        let samples = page.text.lines().filter(|line| !line.starts_with('#'));
        samples
            .map(|line| line.rsplit_once(' ').unwrap())
            .map(|(name, value)| (name.into(), value.into()))
            .collect()
    };
    let (of_leader, of_other) = (told(&leader).await, told(&other).await);
    assert_eq!(of_leader["pgconvoy_coordinator_leader{coordinator=\"one\"}"], "1");
    assert_eq!(of_leader["pgconvoy_jobs{kind=\"backup\",state=\"queued\"}"], "1");
    assert_eq!(of_leader["pgconvoy_workers{state=\"up\"}"], "0");
    assert_eq!(of_other["pgconvoy_coordinator_leader{coordinator=\"two\"}"], "0");
    assert!(!of_other.keys().any(|name| name.starts_with("pgconvoy_jobs")), "{of_other:?}");
}

#[actix::test]
async fn the_api_tells_of_stanzas_and_repositories() {
    let site = Site::new().await;
    let leader = site.leader("one").await;
    let stanzas = leader.get("stanzas", TokenRole::Viewer).await.body;
    assert_eq!(stanzas[0]["name"], "main");
    assert_eq!(leader.get("stanzas/main/backups", TokenRole::Viewer).await.body, serde_json::json!([]));
    assert_eq!(leader.get("stanzas/other", TokenRole::Viewer).await.status, 404);
    assert_eq!(leader.get("repos", TokenRole::Viewer).await.body, serde_json::json!([]));
    assert_eq!(leader.get("info", TokenRole::Viewer).await.body[0]["name"], "main");
    assert_eq!(leader.ask("GET", "info", None, None).await.status, 401);
}
