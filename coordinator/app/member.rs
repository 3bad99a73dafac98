//! This process as a member of a fleet: its certificate, its lease store, its name. Files of `[fleet]` are read here.

use crate::host::{now, random_identity};
use pgconvoy_core::config::{Config, FleetConfig};
use pgconvoy_core::failure::{Context as _, ErrorCode, Failure};
use pgconvoy_lease::etcd::{EtcdIdentity, EtcdLogin, EtcdOptions, EtcdStore};
use pgconvoy_lease::{FleetKeys, LeaseError};
use pgconvoy_transport::pki::Credentials;
use std::sync::Arc;

pub fn fleet(config: &Config) -> Result<&FleetConfig, Failure> {
    config.fleet.as_ref().ok_or_else(|| {
        Failure::new(ErrorCode::OptionRequired, "the configuration names no fleet")
            .hint("add [fleet] with its name, etcd, coordinators and certificate")
    })
}

pub fn keys(fleet: &FleetConfig) -> Result<FleetKeys, Failure> {
    Ok(FleetKeys::new(&fleet.name).map_err(LeaseError::from)?)
}

/// The certificate, its key and the authority's certificate, checked against each other.
pub fn credentials(fleet: &FleetConfig) -> Result<Credentials, Failure> {
    let read = |option: &str, path: &Option<String>| {
        let path = path.as_ref().ok_or_else(|| {
            Failure::new(ErrorCode::OptionRequired, format!("[fleet] {option} is missing"))
                .hint("pgconvoy cert init and pgconvoy cert issue make the files")
        })?;
        read_file(option, path)
    };
    let (ca, certificate, key) = (
        read("ca-file", &fleet.ca_file)?,
        read("cert-file", &fleet.cert_file)?,
        read("key-file", &fleet.key_file)?,
    );
    Credentials::from_pem(&ca, &certificate, &key, now()).context("[fleet]")
}

pub fn read_file(option: &str, path: &str) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| {
        Failure::new(ErrorCode::FileOpen, format!("[fleet] {option}: cannot read {path}: {error}"))
            .hint("must exist, and be readable for the user who runs pgconvoy")
    })
}

/// Must be called inside the runtime.
pub async fn lease_store(fleet: &FleetConfig) -> Result<Arc<EtcdStore>, Failure> {
    if fleet.etcd.endpoints.is_empty() {
        return Err(Failure::new(ErrorCode::OptionRequired, "[fleet] etcd is missing")
            .hint("etcd = [\"http://host:2379\", ..]: coordinators keep leases and jobs there"));
    }
    let bytes = |option: &str, path: &String| read_file(option, path).map(String::into_bytes);
    let ca_pem = fleet.etcd.ca_file.as_ref().map(|path| bytes("etcd-ca-file", path)).transpose()?;
    let identity = match &fleet.etcd.identity {
        Some((certificate, key)) => Some(EtcdIdentity {
            certificate_pem: bytes("etcd-cert-file", certificate)?,
            key_pem: bytes("etcd-key-file", key)?,
        }),
        None => None,
    };
    let login = fleet.etcd.login.as_ref().map(|(user, password)| EtcdLogin {
        user: user.clone(),
        password: password.expose().to_owned(),
    });
    let options = EtcdOptions { endpoints: fleet.etcd.endpoints.clone(), ca_pem, identity, login };
    Ok(Arc::new(EtcdStore::connect(options).await?))
}

/// Where randomness for reconnecting comes from. Without any, everybody waits the longest time.
pub fn random() -> u64 {
    random_identity().map_or(u64::MAX, |identity| {
        let (low, _) = identity.as_bytes().split_at(8);
        u64::from_le_bytes(low.try_into().expect("eight bytes are eight bytes"))
    })
}
