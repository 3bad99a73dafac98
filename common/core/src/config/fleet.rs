//! `[fleet]`, `[coordinator]`, `[worker]`, `[paths]` and `[log]`: where things run on this host and with whom they speak.

use super::choices::{LogFormat, LogLevel};
use super::sheet::Reader;
use super::value::Secret;
use crate::ids::{StanzaName, WorkerName};
use crate::units::ByteCount;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    pub lock: String,
    pub spool: String,
    pub log: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogConfig {
    pub console: LogLevel,
    pub file: LogLevel,
    pub format: LogFormat,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetConfig {
    pub name: String,
    pub etcd: EtcdConfig,
    pub coordinators: Vec<String>,
    /// Empty: this process does the work itself.
    pub api: Vec<String>,
    pub ca_file: Option<String>,
    pub cert_file: Option<String>,
    pub key_file: Option<String>,
    pub token_file: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdConfig {
    pub endpoints: Vec<String>,
    pub ca_file: Option<String>,
    /// Certificate and key to show.
    pub identity: Option<(String, String)>,
    pub login: Option<(String, Secret)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoordinatorConfig {
    pub quic_listen: SocketAddr,
    pub http_listen: SocketAddr,
    /// `host:port`, as others reach it; `None`: what can be told from where it listens.
    pub quic_address: Option<String>,
    pub http_address: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerConfig {
    /// `None`: the host's name.
    pub name: Option<WorkerName>,
    /// `None`: a quarter of the cores, at least 1.
    pub slots: Option<u32>,
    /// Bytes per second.
    pub bandwidth_max: Option<ByteCount>,
    pub compute: Compute,
    pub listen: Option<SocketAddr>,
    /// `host:port`, as compute workers reach it; `None`: what can be told from where it listens.
    pub address: Option<String>,
    pub labels: BTreeMap<String, String>,
}

/// Whose pages a worker may see that is not their source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compute {
    #[default]
    Nobody,
    Stanzas(BTreeSet<StanzaName>),
    Everybody,
}

impl Compute {
    pub fn is_nobody(&self) -> bool {
        *self == Compute::Nobody
    }

    pub fn allows(&self, stanza: &StanzaName) -> bool {
        match self {
            Compute::Nobody => false,
            Compute::Stanzas(names) => names.contains(stanza),
            Compute::Everybody => true,
        }
    }
}

pub(super) fn read_paths(paths: &Reader<'_>) -> Paths {
    Paths {
        lock: paths.get_default("lock"),
        spool: paths.get_default("spool"),
        log: paths.get_default("log"),
    }
}

pub(super) fn read_log(log: &Reader<'_>) -> LogConfig {
    LogConfig {
        console: log.get_default("level-console"),
        file: log.get_default("level-file"),
        format: log.get_default("format"),
    }
}

pub(super) fn read_fleet(fleet: &mut Reader<'_>) -> FleetConfig {
    FleetConfig {
        name: fleet.get_required("name"),
        etcd: EtcdConfig {
            endpoints: fleet.get("etcd").unwrap_or_default(),
            ca_file: fleet.get("etcd-ca-file"),
            identity: pair(fleet, "etcd-cert-file", "etcd-key-file"),
            login: pair(fleet, "etcd-user", "etcd-password"),
        },
        coordinators: fleet.get("coordinators").unwrap_or_default(),
        api: fleet.get("api").unwrap_or_default(),
        ca_file: fleet.get("ca-file"),
        cert_file: fleet.get("cert-file"),
        key_file: pair::<String, String>(fleet, "cert-file", "key-file").map(|(_, key)| key),
        token_file: fleet.get("token-file"),
    }
}

/// Two settings that mean something only together.
fn pair<A, B>(fleet: &mut Reader<'_>, first: &str, second: &str) -> Option<(A, B)>
where
    A: super::value::FromValue,
    B: super::value::FromValue,
{
    let (here, missing) = match (fleet.is_set(first), fleet.is_set(second)) {
        (true, true) => return fleet.get(first).zip(fleet.get(second)),
        (false, false) => return None,
        (true, false) => (first, second),
        (false, true) => (second, first),
    };
    fleet.complain(here, format!("'{here}' means nothing without '{missing}'"), format!("add {missing}"));
    None
}

pub(super) fn read_coordinator(coordinator: &Reader<'_>) -> CoordinatorConfig {
    CoordinatorConfig {
        quic_listen: coordinator.get_default("quic-listen"),
        http_listen: coordinator.get_default("http-listen"),
        quic_address: coordinator.get("quic-address"),
        http_address: coordinator.get("http-address"),
    }
}

pub(super) fn read_worker(worker: &mut Reader<'_>) -> WorkerConfig {
    WorkerConfig {
        name: worker
            .get::<String>("name")
            .map(|name| name.parse().expect("the registry admits only names that workers can have")),
        slots: worker.get("slots"),
        bandwidth_max: worker.get("bandwidth-max"),
        compute: compute(worker),
        listen: worker.get("listen"),
        address: worker.get("address"),
        labels: worker.get("labels").unwrap_or_default(),
    }
}

fn compute(worker: &mut Reader<'_>) -> Compute {
    let named: Vec<String> = worker.get("compute").unwrap_or_default();
    if named.iter().any(|name| name == "*") {
        return Compute::Everybody;
    }
    let mut stanzas = BTreeSet::new();
    for name in &named {
        match name.parse::<StanzaName>() {
            Ok(stanza) => {
                stanzas.insert(stanza);
            }
            Err(error) => worker.complain("compute", error.to_string(), "name stanzas, or \"*\" for all"),
        }
    }
    if stanzas.is_empty() { Compute::Nobody } else { Compute::Stanzas(stanzas) }
}
