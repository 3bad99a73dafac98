#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::*;
use crate::Surroundings;
use crate::testing::{Answer, Server, at, config, locking, store, store_of};
use pgconvoy_core::config::{AzureKeyType, Secret};
use pgconvoy_core::failure::Classify as _;

const HERE: &str = "200 OK\r\netag: \"0x1\"";
const STAGED: &str = "201 Created";
const TOKEN: &str = r#"{"access_token":"secret-token","expires_in":"3600","token_type":"Bearer"}"#;

fn key(name: &str) -> ObjectKey {
    name.parse().unwrap()
}

/// As a look at it told; the servers here say that everything is 5 bytes long.
fn source(size: u64) -> ObjectInfo {
    ObjectInfo { key: key("a b"), size, modified: None, etag: Some("\"0x1\"".into()) }
}

fn line(request: &str) -> &str {
    request.lines().next().unwrap()
}

fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    let find = |line: &'a str| line.split_once(": ").filter(|(known, _)| known.eq_ignore_ascii_case(name));
    request.lines().find_map(find).map(|(_, value)| value)
}

fn is_block(request: &str) -> bool {
    line(request).contains("blockid=")
}

/// Answers what is asked of blocks and heads as told; all else works.
async fn server(block: &'static str, head: &'static str) -> Server {
    Server::start(move |_, request| match request {
        request if is_block(request) => {
            // As servers do that say which header they do not like.
            let quoted = header(request, "x-ms-copy-source").unwrap();
            let body =
                format!("<Error><Message>No.\nTime:1</Message><HeaderValue>{quoted}</HeaderValue></Error>");
            Answer::new(block, &body)
        }
        request if line(request).starts_with("HEAD") => Answer::new(head, "bytes"),
        request if line(request).starts_with("DELETE") => Answer::new("202 Accepted", ""),
        request if line(request).contains("/token") => Answer::new("200 OK", TOKEN),
        _ => Answer::new("201 Created\r\netag: \"0x2\"", ""),
    })
    .await
}

/// By the account's key, by a signature, by an identity.
fn of_all_kinds(server: &Server) -> [AzureStorage; 3] {
    let kind = |key_type, key: Option<&'static str>| {
        let config = AzureConfig { key_type, key: key.map(Secret::new), ..at(server) };
        let metadata_service = Some(format!("{}/token", server.url()));
        store_of(config, Surroundings { metadata_service, ..Surroundings::default() }, None)
    };
    [
        kind(AzureKeyType::Shared, Some("c2VjcmV0LWtleQ==")),
        kind(AzureKeyType::Sas, Some("sv=1&sp=rw&sig=c2VjcmV0")),
        kind(AzureKeyType::Auto, None),
    ]
}

#[tokio::test]
async fn each_kind_of_credentials_lets_the_service_read_its_source_and_nothing_else() {
    let server = server(STAGED, HERE).await;
    let address = format!("{}/acct/box/p%2Fa%20b", server.url());
    for (number, store) in of_all_kinds(&server).iter().enumerate() {
        let asked_before = server.seen().len();
        store.copy_once(store, &source(5), &key("to")).await.unwrap();
        let seen = server.seen().split_off(asked_before);
        let block = seen.iter().find(|request| is_block(request)).unwrap();
        let from = header(block, "x-ms-copy-source").unwrap();
        let lent = header(block, "x-ms-copy-source-authorization");
        match number {
            0 => {
                let (plain, query) = from.split_once('?').unwrap();
                assert_eq!((plain, lent), (address.as_str(), None));
                assert!(query.starts_with("sv=2020-12-06&sr=b&sp=r&se="), "{query}");
            }
            1 => assert_eq!((from, lent), (&*format!("{address}?sv=1&sp=rw&sig=c2VjcmV0"), None)),
            _ => assert_eq!((from, lent), (address.as_str(), Some("Bearer secret-token"))),
        }
        let others = seen.iter().filter(|request| !is_block(request));
        assert!(others.into_iter().all(|request| header(request, "x-ms-copy-source").is_none()));
        assert_eq!(header(block, "content-length"), Some("0"));
    }
}

#[tokio::test]
async fn a_large_source_goes_in_ranges_of_one_tag_and_a_copy_of_another_size_is_removed() {
    let server = server(STAGED, HERE).await;
    let store = locking(&server);
    let size = 2 * BLOCK_BYTES + 7;
    let refused = store.copy_once(&store, &source(size), &key("to")).await;
    let reason = format!("it copied 5 of {size} bytes");
    let at = store.place(Some(&key("to")));
    assert_eq!(refused, Err(StorageError::NotSupported { at, reason }));
    let seen = server.seen();
    let mut ranges = Vec::new();
    for block in seen.iter().filter(|request| is_block(request)) {
        assert_eq!(header(block, "x-ms-source-if-match"), Some("\"0x1\""));
        ranges.push((line(block).to_owned(), header(block, "x-ms-source-range").unwrap().to_owned()));
    }
    // Ids end with their number.
    ranges.sort();
    let ranges: Vec<&str> = ranges.iter().map(|(_, range)| range.as_str()).collect();
    assert_eq!(ranges, ["bytes=0-104857599", "bytes=104857600-209715199", "bytes=209715200-209715206"]);
    let commit = seen.iter().find(|request| line(request).contains("comp=blocklist")).unwrap();
    assert_eq!(commit.matches("<Latest>").count(), 3);
    assert_eq!(header(commit, "if-none-match"), Some("*"));
    assert_eq!(header(commit, "x-ms-immutability-policy-mode"), Some("locked"));
    assert!(header(commit, "x-ms-meta-pgconvoyupload").is_some());
    assert!(seen.iter().any(|request| line(request).starts_with("DELETE /acct/box/p%2Fto ")), "{seen:#?}");
}

#[tokio::test]
async fn what_the_service_does_not_copy_is_told_from_a_source_that_is_another_one_or_gone() {
    const ANOTHER: &str = "200 OK\r\netag: \"0x9\"";
    const GONE: &str = "404 No\r\nx-ms-error-code: BlobNotFound";
    let table = [
        ("412 No\r\nx-ms-error-code: SourceConditionNotMet", ANOTHER, "Changed"),
        ("412 No\r\nx-ms-error-code: ConditionNotMet", ANOTHER, "Changed"),
        ("412 No\r\nx-ms-error-code: SourceConditionNotMet", GONE, "NotFound"),
        ("404 No\r\nx-ms-error-code: CannotVerifyCopySource", GONE, "NotFound"),
        ("404 No\r\nx-ms-error-code: BlobNotFound", GONE, "NotFound"),
        ("404 No\r\nx-ms-error-code: CannotVerifyCopySource", HERE, "NotSupported"),
        ("403 No\r\nx-ms-error-code: CannotVerifyCopySource", HERE, "NotSupported"),
        ("500 No\r\nx-ms-error-code: CannotVerifyCopySource", HERE, "NotSupported"),
        ("501 No\r\nx-ms-error-code: NotImplemented", HERE, "NotSupported"),
        ("400 No\r\nx-ms-error-code: InvalidHeaderValue", HERE, "Refused"),
        ("400 No\r\nx-ms-error-code: UnsupportedHeader", HERE, "Refused"),
        ("409 No\r\nx-ms-error-code: PublicAccessNotPermitted", HERE, "Refused"),
        ("403 No\r\nx-ms-error-code: AuthorizationFailure", HERE, "Refused"),
        ("403 No\r\nx-ms-error-code: AuthorizationPermissionMismatch", HERE, "Access or Refused"),
        ("403 No\r\nx-ms-error-code: UnauthorizedBlobOverwrite", HERE, "Access"),
    ];
    for (block, head, expected) in table {
        let server = server(block, head).await;
        for store in of_all_kinds(&server) {
            let error = store.copy_once(&store, &source(5), &key("to")).await.unwrap_err();
            let told = format!("{error:?}");
            let kind = told.split([' ', '{']).next().unwrap();
            assert!(expected.split(" or ").any(|expected| expected == kind), "{block}: {told}");
            let shown = format!("{told} {error} {:?} {store:?}", error.hints());
            for secret in ["sig=", "c2VjcmV0", "secret-token", "sv="] {
                assert!(!shown.contains(secret), "{shown}");
            }
        }
        assert!(!server.seen().iter().any(|request| line(request).contains("comp=blocklist")));
    }
}

#[tokio::test]
async fn an_empty_source_is_looked_at_again_and_committed_without_blocks() {
    for (head, is_another) in [("200 OK\r\netag: \"0x1\"", false), ("200 OK\r\netag: \"0x9\"", true)] {
        let server = Server::start(move |_, request| {
            let answer =
                if line(request).starts_with("HEAD") { head } else { "201 Created\r\netag: \"0x2\"" };
            Answer::new(answer, "")
        })
        .await;
        let store = store(&server);
        let copied = store.copy_once(&store, &source(0), &key("to")).await;
        let is_committed = server.seen().iter().any(|request| line(request).contains("comp=blocklist"));
        assert_eq!((copied.is_ok(), is_committed), (!is_another, !is_another), "{copied:?}");
        assert!(!server.seen().iter().any(|request| is_block(request)));
    }
}

#[tokio::test]
async fn one_store_is_one_service_and_one_right_however_it_is_spelled() {
    let open = |config: AzureConfig| store_of(config, Surroundings::default(), None);
    let here = open(config());
    let same = [
        AzureConfig { container: "other".to_owned(), ..config() },
        AzureConfig { tags: BTreeMap::from([("kind".to_owned(), "copy".to_owned())]), ..config() },
        AzureConfig { endpoint: "https://blob.core.windows.net/".to_owned(), ..config() },
        AzureConfig {
            endpoint: "acct.blob.core.windows.net".to_owned(),
            account: "acct".to_owned(),
            ..config()
        },
    ];
    let copies: Vec<_> = same.into_iter().map(|config| open(config).copies_from(&here)).collect();
    assert_eq!(copies, [Some(BYTES_MAX), Some(BYTES_MAX), Some(BYTES_MAX), None]);
    for other in [
        AzureConfig { account: "other".to_owned(), ..config() },
        AzureConfig { endpoint: "blob.core.chinacloudapi.cn".to_owned(), ..config() },
        AzureConfig { key: Some(Secret::new("YW5vdGhlcg==")), ..config() },
        AzureConfig { key_type: AzureKeyType::Auto, key: None, ..config() },
        AzureConfig { uri_style: UriStyle::Path, ..config() },
    ] {
        assert_eq!(open(other).copies_from(&here), None);
    }
    let refused = here.copy_once(&here, &source(BYTES_MAX + 1), &key("to")).await;
    assert!(matches!(refused, Err(StorageError::NotSupported { .. })), "{refused:?}");
}
