//! A small HTTP server whose answers a test gives, and a bucket made of it.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "every test binary uses a part of it; a failed unwrap fails the test"
)]

pub mod bucket;

use pgconvoy_core::config::{S3Config, S3KeyType, Secret, StoreTls, UriStyle};
use pgconvoy_storage::Lock;
use pgconvoy_storage::decorate::retry::RetryPolicy;
use pgconvoy_storage::parts::PartSlots;
use pgconvoy_storage_s3::credentials::Environment;
use pgconvoy_storage_s3::{Options, S3Storage};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// Decoded, with its slash.
    pub path: String,
    /// Decoded.
    pub query: BTreeMap<String, String>,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// The access key that it is signed with.
    pub fn access_key(&self) -> Option<&str> {
        let (_, rest) = self.header("authorization")?.split_once("Credential=")?;
        rest.split('/').next()
    }
}

#[derive(Debug, Clone, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn of(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, headers: Vec::new(), body: body.into() }
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Reply {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    /// As S3 words an error.
    pub fn error(status: u16, code: &str, more: &str) -> Reply {
        let body = format!(
            "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>words</Message>{more}</Error>"
        );
        Reply::of(status, body).with("content-type", "application/xml")
    }
}

/// Its address. It lives as long as the runtime.
pub async fn serve(answer: impl Fn(Request) -> Reply + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let mut socket = BufReader::new(socket);
                while let Some(request) = read(&mut socket).await {
                    let is_head = request.method == "HEAD";
                    let reply = answer(request);
                    let mut text = format!("HTTP/1.1 {} X\r\n", reply.status);
                    for (name, value) in &reply.headers {
                        text.push_str(&format!("{name}: {value}\r\n"));
                    }
                    if !reply.headers.iter().any(|(name, _)| name == "content-length") {
                        text.push_str(&format!("content-length: {}\r\n", reply.body.len()));
                    }
                    text.push_str("\r\n");
                    let mut bytes = text.into_bytes();
                    if !is_head {
                        bytes.extend_from_slice(&reply.body);
                    }
                    if socket.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    format!("http://{address}")
}

async fn read(socket: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut head = String::new();
    loop {
        let before = head.len();
        if socket.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
        if head.len() - before == 2 {
            break;
        }
    }
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?);
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.ok()?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    });
    Some(Request { method, path: decoded(path), query: query.collect(), headers, body })
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first == b'%' {
            let (hex, tail) = rest.split_at(2);
            bytes.push(u8::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).unwrap());
            rest = tail;
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).unwrap()
}

pub const SECRET: &str = "a secret that nobody must see";

pub fn config(endpoint: &str) -> S3Config {
    S3Config {
        bucket: "bucket".to_owned(),
        endpoint: endpoint.to_owned(),
        region: "eu-north-1".to_owned(),
        uri_style: UriStyle::Path,
        key_type: S3KeyType::Shared,
        key: Some(Secret::new("KEY")),
        key_secret: Some(Secret::new(SECRET)),
        token: None,
        role: None,
        process_command: Vec::new(),
        kms_key_id: None,
        sse_customer_key: None,
        storage_class: None,
        requester_pays: false,
        tls: StoreTls { ca_file: None, verify: false },
        tags: BTreeMap::new(),
    }
}

/// Quick, and once more where it may help.
pub const RETRY: RetryPolicy = RetryPolicy {
    attempts_max: 4,
    backoff_first: Duration::from_millis(20),
    backoff_max: Duration::from_millis(100),
    deadline: Duration::from_secs(30),
    attempt_timeout: Some(Duration::from_secs(10)),
};

pub fn connect(config: &S3Config, path: &str) -> S3Storage {
    connect_in(config, path, Environment::default())
}

pub fn connect_in(config: &S3Config, path: &str, environment: Environment) -> S3Storage {
    let slots = PartSlots::for_slots(2);
    S3Storage::connect(config, path, Options { retry: RETRY, slots, environment, lock: None }).unwrap()
}

/// One that locks new objects.
pub fn connect_locking(config: &S3Config, path: &str, lock: Lock) -> S3Storage {
    let (slots, environment) = (PartSlots::for_slots(2), Environment::default());
    S3Storage::connect(config, path, Options { retry: RETRY, slots, environment, lock: Some(lock) }).unwrap()
}
