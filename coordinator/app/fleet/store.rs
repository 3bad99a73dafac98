//! The fleet's lease store, reached from a coordinator's host as the configuration says.

use crate::host::{now, random_identity, writer};
use pgconvoy_coordinator::audit::{Caller, Entry};
use pgconvoy_core::config::FleetConfig;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_lease::etcd::{EtcdIdentity, EtcdLogin};
use pgconvoy_lease::{EtcdOptions, EtcdStore, FleetKeys, LeaseError, LeaseStore};
use std::sync::Arc;

pub struct Store {
    pub leases: Arc<dyn LeaseStore>,
    pub keys: FleetKeys,
}

/// Connects, and makes sure that it answers. Inside a runtime.
pub async fn connect(fleet: Option<&FleetConfig>) -> Result<Store, Failure> {
    let fleet = fleet.filter(|fleet| !fleet.etcd.endpoints.is_empty()).ok_or_else(|| {
        let failure = Failure::new(ErrorCode::OptionRequired, "[fleet] etcd is needed for this");
        failure.hint("this works where coordinators run: their configuration names the fleet's etcd")
    })?;
    let keys = FleetKeys::new(&fleet.name).map_err(LeaseError::from)?;
    let leases = EtcdStore::connect(options(fleet)?).await?;
    Ok(Store { leases: Arc::new(leases), keys })
}

/// For the audit: somebody on a host that reaches the lease store, as far as this host knows.
pub fn by_hand(what: &str, object: &str) -> Result<Entry, Failure> {
    let name = format!("uid {}@{}", rustix::process::getuid().as_raw(), writer().host);
    let caller = Caller { name, role: "host".to_owned() };
    Ok(Entry::asked(&caller, what, object, now(), random_identity()?))
}

fn options(fleet: &FleetConfig) -> Result<EtcdOptions, Failure> {
    let read = |setting: &str, path: &String| {
        std::fs::read(path).map_err(|error| {
            Failure::new(ErrorCode::FileOpen, format!("cannot read [fleet] {setting} {path}: {error}"))
        })
    };
    let etcd = &fleet.etcd;
    let identity = |(certificate, key): &(String, String)| {
        Ok::<_, Failure>(EtcdIdentity {
            certificate_pem: read("etcd-cert-file", certificate)?,
            key_pem: read("etcd-key-file", key)?,
        })
    };
    Ok(EtcdOptions {
        endpoints: etcd.endpoints.clone(),
        ca_pem: etcd.ca_file.as_ref().map(|path| read("etcd-ca-file", path)).transpose()?,
        identity: etcd.identity.as_ref().map(identity).transpose()?,
        login: etcd
            .login
            .as_ref()
            .map(|(user, password)| EtcdLogin { user: user.clone(), password: password.expose().to_owned() }),
    })
}
