//! What the tests here share: a configuration, and a store on a server that answers as a test wants.

use crate::{AzureOptions, AzureStorage, Surroundings};
use pgconvoy_core::config::{AzureConfig, AzureKeyType, Secret, StoreTls, UriStyle};
use pgconvoy_storage::decorate::retry::RetryPolicy;
use pgconvoy_storage::parts::PartSlots;
pub(crate) use pgconvoy_storage::scripted::{Answer, Server};
use pgconvoy_storage::{Lock, LockMode};
use std::collections::BTreeMap;
use std::time::Duration;

/// Of a store that nobody asks.
pub(crate) fn config() -> AzureConfig {
    AzureConfig {
        account: "acct".to_owned(),
        container: "box".to_owned(),
        key_type: AzureKeyType::Shared,
        key: Some(Secret::new("c2VjcmV0LWtleQ==")),
        endpoint: "blob.core.windows.net".to_owned(),
        uri_style: UriStyle::Host,
        tls: StoreTls { ca_file: None, verify: false },
        tags: BTreeMap::new(),
    }
}

/// In the path `p` of a container of that server.
pub(crate) fn store(server: &Server) -> AzureStorage {
    store_with(server, None)
}

/// One that locks all but what is called `brief`.
pub(crate) fn locking(server: &Server) -> AzureStorage {
    let lock = Lock {
        mode: LockMode::Compliance,
        period: Duration::from_secs(86_400),
        covers: |key| !key.as_str().ends_with("brief"),
    };
    store_with(server, Some(lock))
}

fn store_with(server: &Server, lock: Option<Lock>) -> AzureStorage {
    store_of(at(server), Surroundings::default(), lock)
}

/// Of that server.
pub(crate) fn at(server: &Server) -> AzureConfig {
    AzureConfig { endpoint: server.url(), uri_style: UriStyle::Path, ..config() }
}

pub(crate) fn store_of(config: AzureConfig, surroundings: Surroundings, lock: Option<Lock>) -> AzureStorage {
    let options = AzureOptions {
        path: "/p".to_owned(),
        retry: RetryPolicy::default(),
        slots: PartSlots::for_slots(1),
        surroundings,
        lock,
    };
    AzureStorage::new(&config, options).expect("a store")
}
