//! `[stanza.NAME]`: one cluster, its servers and which repositories hold it.

use super::choices::TlsMode;
use super::sheet::Reader;
use crate::ids::{RepoKey, StanzaName, WorkerName};
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StanzaConfig {
    pub name: StanzaName,
    /// The primary and its standbys, in the order of the file. Who is what is found by asking.
    pub pg: Vec<PgConfig>,
    /// All repositories that the configuration has, or those that the stanza names.
    pub repos: Vec<RepoKey>,
    /// Kind of work to cron line.
    pub schedule: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgConfig {
    /// Data directory.
    pub path: String,
    pub port: u16,
    pub socket_path: Option<String>,
    pub user: Option<String>,
    pub database: String,
    /// The worker that sees the data directory; `None` is this machine.
    pub host: Option<WorkerName>,
    /// Set: connect there over TCP. Else over the socket.
    pub address: Option<String>,
    pub tls: TlsMode,
    pub ca_file: Option<String>,
    pub password_file: Option<String>,
}

pub(super) fn read_pg(server: &mut Reader<'_>) -> PgConfig {
    let config = PgConfig {
        path: server.get_required("path"),
        port: server.get_default("port"),
        socket_path: server.get("socket-path"),
        user: server.get("user"),
        database: server.get_default("database"),
        host: server
            .get::<String>("host")
            .map(|name| name.parse().expect("the registry admits only names that workers can have")),
        address: server.get("address"),
        tls: server.get_default("tls"),
        ca_file: server.get("ca-file"),
        password_file: server.get("password-file"),
    };
    if config.address.is_some() && config.socket_path.is_some() {
        server.complain(
            "address",
            "address and socket-path contradict each other".into(),
            "keep one of the two",
        );
    }
    if config.address.is_none() && config.tls != TlsMode::Prefer && server.is_set("tls") {
        server.complain("tls", "a socket is not encrypted".into(), "add address, or remove tls");
    }
    config
}

pub(super) fn read(
    name: StanzaName,
    pg: Vec<PgConfig>,
    known: &[RepoKey],
    stanza: &mut Reader<'_>,
) -> StanzaConfig {
    if pg.is_empty() {
        let hint = format!("add [[stanza.{name}.pg]] with the path of its data directory");
        stanza.complain_here(format!("stanza '{name}' has no server"), hint);
    }
    for (index, server) in pg.iter().enumerate() {
        if pg[..index].iter().any(|other| other.path == server.path && other.host == server.host) {
            let reason = format!("stanza '{name}' names the data directory '{}' twice", server.path);
            stanza.complain_here(reason, "remove one of the two, or say with host which worker sees each");
        }
    }
    StanzaConfig {
        name,
        pg,
        repos: repos(known, stanza),
        schedule: stanza.get("schedule").unwrap_or_default(),
    }
}

fn repos(known: &[RepoKey], stanza: &mut Reader<'_>) -> Vec<RepoKey> {
    let Some(named) = stanza.get::<Vec<String>>("repos") else { return known.to_vec() };
    let mut chosen = Vec::new();
    for text in named {
        let key = RepoKey(text.parse().expect("the registry admits only numbers that repositories can have"));
        if !known.contains(&key) {
            stanza.complain(
                "repos",
                format!("repository {key} is not configured"),
                format!("add [repo.{key}]"),
            );
        } else if !chosen.contains(&key) {
            chosen.push(key);
        }
    }
    chosen.sort_unstable();
    chosen
}
