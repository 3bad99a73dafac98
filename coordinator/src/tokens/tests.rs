#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::*;
use crate::audit::Caller;
use pgconvoy_core::ids::Identity;
use pgconvoy_lease::EmbeddedStore;
use std::sync::Arc;
use std::time::Duration;

/// For conditions that are waited for; long enough for any machine.
const TIMEOUT: Duration = Duration::from_secs(20);

fn token(name: &str, role: TokenRole, seed: u8) -> NewToken {
    let random = Zeroizing::new([seed; RANDOM_BYTES]);
    NewToken::make(&name.parse().unwrap(), role, Timestamp(1), &random)
}

fn by_hand(random: u8) -> Entry {
    let caller = Caller { name: "root@here".to_owned(), role: "host".to_owned() };
    Entry::asked(&caller, "token", "ops", Timestamp(1), Identity::from_random_bytes([random; 16]))
}

fn fleet() -> (Arc<EmbeddedStore>, FleetKeys) {
    (Arc::new(EmbeddedStore::start()), FleetKeys::new("blue").unwrap())
}

/// Waits until the token opens, or opens nothing.
async fn comes_to(tokens: &Tokens, token: &NewToken, is_open: bool) {
    let comes = async {
        while tokens.bearer(&token.text).await.is_ok() != is_open {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TIMEOUT, comes).await.unwrap();
}

#[test]
fn a_token_has_an_id_for_people_and_a_secret_for_nobody() {
    let token = token("ops", TokenRole::Operator, 7);
    assert_eq!(*token.text, "pgc_0707070707070707_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc");
    assert_eq!(parts(&token.text).unwrap().0, token.id);
    let secret = token.text.rsplit('_').next().unwrap();
    let stored = encode_named(&token.record);
    assert!(!stored.windows(secret.len()).any(|window| window == secret.as_bytes()));
}

#[test]
fn what_does_not_look_like_a_token_is_none() {
    for text in ["", "pgc_", "pgc_07_x", "pgc_0707070707070707", "abc_0707070707070707_x", &"pgc_".repeat(99)]
    {
        assert_eq!(parts(text), None, "{text}");
    }
}

#[test]
fn roles_read_as_they_print_and_are_ordered() {
    for role in TokenRole::ALL {
        assert_eq!(role.to_string().parse::<TokenRole>().unwrap(), role);
    }
    assert!("root".parse::<TokenRole>().is_err());
    assert!(TokenRole::Viewer < TokenRole::Operator && TokenRole::Operator < TokenRole::Admin);
}

#[tokio::test]
async fn a_bearer_is_known_by_id_and_secret() {
    let (leases, keys) = fleet();
    let (good, bad) = (token("ops", TokenRole::Operator, 1), token("ops", TokenRole::Operator, 2));
    store(leases.as_ref(), &keys, &good, by_hand(1)).await.unwrap();
    let tokens = Tokens::new(leases.clone(), keys.clone());
    let expected = Bearer { name: "ops".to_owned(), role: TokenRole::Operator };
    assert_eq!(tokens.bearer(&good.text).await.unwrap(), expected);
    let mixed = format!("pgc_{}_{}", good.id, bad.text.rsplit('_').next().unwrap());
    assert!(matches!(tokens.bearer(&mixed).await, Err(Refused::Unknown(id)) if id == good.id));
    assert!(matches!(tokens.bearer(&bad.text).await, Err(Refused::Unknown(_))));
    assert!(matches!(tokens.bearer("secret").await, Err(Refused::NotAToken)));
    assert!(store(leases.as_ref(), &keys, &good, by_hand(1)).await.is_err(), "an id is given once");
}

#[tokio::test]
async fn a_new_token_works_at_once_and_a_revoked_one_not_for_long() {
    let (leases, keys) = fleet();
    let tokens = Tokens::new(leases.clone(), keys.clone());
    let made = token("ops", TokenRole::Viewer, 3);
    assert!(tokens.bearer(&made.text).await.is_err());
    store(leases.as_ref(), &keys, &made, by_hand(2)).await.unwrap();
    comes_to(&tokens, &made, true).await;
    assert_eq!(
        revoke(leases.as_ref(), &keys, "ops", by_hand(3)).await.unwrap(),
        std::slice::from_ref(&made.id)
    );
    comes_to(&tokens, &made, false).await;
    assert_eq!(
        revoke(leases.as_ref(), &keys, "ops", by_hand(4)).await.unwrap_err().code,
        ErrorCode::ParamInvalid
    );
}

#[tokio::test]
async fn tokens_are_revoked_by_id_text_or_name() {
    let (leases, keys) = fleet();
    let made: Vec<NewToken> = (1..=4).map(|seed| token("ci", TokenRole::Viewer, seed)).collect();
    for token in &made {
        store(leases.as_ref(), &keys, token, by_hand(5)).await.unwrap();
    }
    assert_eq!(revoke(leases.as_ref(), &keys, &made[0].id, by_hand(6)).await.unwrap().len(), 1);
    assert_eq!(revoke(leases.as_ref(), &keys, &made[1].text, by_hand(7)).await.unwrap().len(), 1);
    assert_eq!(revoke(leases.as_ref(), &keys, "ci", by_hand(8)).await.unwrap().len(), 2);
    assert!(list(leases.as_ref(), &keys).await.unwrap().is_empty());
}
