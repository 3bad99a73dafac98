//! This process as a member of a fleet: what it shows, and whom it trusts.

use crate::host::{now, random_identity};
use pgconvoy_core::config::{Config, FleetConfig};
use pgconvoy_core::failure::{Context as _, ErrorCode, Failure};
use pgconvoy_transport::pki::Credentials;

pub fn fleet(config: &Config) -> Result<&FleetConfig, Failure> {
    config.fleet.as_ref().ok_or_else(|| {
        Failure::new(ErrorCode::OptionRequired, "the configuration names no fleet")
            .hint("add [fleet] with its name, etcd, coordinators and certificate")
    })
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

fn read_file(option: &str, path: &str) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| {
        Failure::new(ErrorCode::FileOpen, format!("[fleet] {option}: cannot read {path}: {error}"))
            .hint("must exist, and be readable for the user who runs pgconvoy")
    })
}

/// Where randomness for reconnecting comes from. Without any, everybody waits the longest time.
pub fn random() -> u64 {
    random_identity().map_or(u64::MAX, |identity| {
        let (low, _) = identity.as_bytes().split_at(8);
        u64::from_le_bytes(low.try_into().expect("eight bytes are eight bytes"))
    })
}
