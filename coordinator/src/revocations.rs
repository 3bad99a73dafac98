//! Which certificates are not welcome any more: written to the lease store by `cert revoke`, followed by every coordinator.
//!
//! Failure story: while the store does not answer, the last known set counts. Certificates that were revoked meanwhile are
//! refused when it answers again; those that it knew stay refused.

use crate::audit::Entry;
use bytes::Bytes;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::format::encode_named;
use pgconvoy_core::units::Timestamp;
use pgconvoy_lease::store::{Expected, Write};
use pgconvoy_lease::{FleetKeys, LeaseError, LeaseStore};
use pgconvoy_transport::pki::{Revoked, Serial};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Before a store that did not answer is asked again.
const PAUSE_BETWEEN_TRIES: Duration = Duration::from_secs(1);

/// What the store keeps of a certificate that was revoked, for whoever looks there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RevokedRecord {
    /// Whose it was, as far as is known.
    pub bearer: Option<String>,
    pub at: Timestamp,
}

/// Has this certificate refused by the whole fleet from now on, with a record in the audit. Once more changes nothing.
pub async fn revoke(
    leases: &dyn LeaseStore,
    keys: &FleetKeys,
    serial: &Serial,
    record: &RevokedRecord,
    audited: Entry,
) -> Result<(), Failure> {
    let key = keys.revoked(&serial.to_string()).map_err(LeaseError::from)?;
    let put = Write::Put { key, value: Bytes::from(encode_named(record)), expected: Expected::Anything };
    leases.commit(vec![put, audited.done().write(keys)?], None).await?;
    Ok(())
}

pub async fn list(leases: &dyn LeaseStore, keys: &FleetKeys) -> Result<BTreeSet<Serial>, LeaseError> {
    let mut serials = BTreeSet::new();
    for entry in leases.list(&keys.all_revoked()).await?.entries {
        match entry.key.last_part().parse::<Serial>() {
            Ok(serial) => {
                serials.insert(serial);
            }
            Err(error) => tracing::error!("{} cannot be read: {error}", entry.key),
        }
    }
    Ok(serials)
}

/// Keeps the set as the store has it, until it is told to stop. Who must not admit anybody unseen calls [`list`] first.
pub async fn follow(leases: Arc<dyn LeaseStore>, keys: FleetKeys, revoked: Revoked, stop: CancellationToken) {
    let following = async {
        loop {
            let error = follow_once(leases.as_ref(), &keys, &revoked).await;
            tracing::debug!("the revoked certificates are read again: {error}");
            tokio::time::sleep(PAUSE_BETWEEN_TRIES).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = following => {}
    }
}

/// Until the watch ends.
async fn follow_once(leases: &dyn LeaseStore, keys: &FleetKeys, revoked: &Revoked) -> LeaseError {
    let changes = async {
        let mut watch = leases.watch(&keys.all_revoked()).await?;
        loop {
            revoked.replace(list(leases, keys).await?);
            watch.next().await?;
        }
    };
    match changes.await {
        Ok(never) => never,
        Err(error) => error,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
    use super::*;
    use crate::audit::Caller;
    use pgconvoy_core::ids::Identity;
    use pgconvoy_core::record::AuditRecord;
    use pgconvoy_lease::EmbeddedStore;

    fn audited(random: u8) -> Entry {
        let caller = Caller { name: "somebody".into(), role: "host".into() };
        let random = Identity::from_random_bytes([random; 16]);
        Entry::asked(&caller, "cert revoke", "worker db1", Timestamp(1), random)
    }

    /// Long enough for any machine; the test waits for the change, not for this.
    const TIMEOUT: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_revoked_certificate_is_refused_wherever_the_store_is_followed() {
        let leases: Arc<dyn LeaseStore> = Arc::new(EmbeddedStore::start());
        let keys = FleetKeys::new("blue").unwrap();
        let (early, late): (Serial, Serial) = ("0a0b".parse().unwrap(), "0c".parse().unwrap());
        let record = RevokedRecord { bearer: Some("worker db1".to_owned()), at: Timestamp(1) };
        revoke(leases.as_ref(), &keys, &early, &record, audited(1)).await.unwrap();
        let (revoked, stop) = (Revoked::default(), CancellationToken::new());
        let following = tokio::spawn(follow(leases.clone(), keys.clone(), revoked.clone(), stop.clone()));
        let seen = async {
            while !revoked.contains(&early) {
                tokio::task::yield_now().await;
            }
            revoke(leases.as_ref(), &keys, &late, &record, audited(2)).await.unwrap();
            while !revoked.contains(&late) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(TIMEOUT, seen).await.unwrap();
        stop.cancel();
        following.await.unwrap();
    }

    #[tokio::test]
    async fn the_audit_says_who_revoked_a_certificate() {
        let leases = EmbeddedStore::start();
        let keys = FleetKeys::new("blue").unwrap();
        let record = RevokedRecord { bearer: None, at: Timestamp(1) };
        revoke(&leases, &keys, &"0a".parse().unwrap(), &record, audited(1)).await.unwrap();
        let entries = leases.list(&keys.audits()).await.unwrap().entries;
        let record: AuditRecord = pgconvoy_core::format::decode("audit record", &entries[0].value).unwrap();
        assert_eq!((record.who.as_str(), record.outcome.name()), ("somebody", "done"));
    }
}
