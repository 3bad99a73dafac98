#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod admission;
mod fleet;
mod hostile;
mod network;

use crate::conformance::Fixture;
use crate::conformance::proxy::UdpProxy;
use crate::connection::Connection;
use crate::identity::PeerIdentity;
use crate::quic::Load;
use async_trait::async_trait;
use fleet::Fleet;
use std::time::Duration;

/// Over the loopback device, or through a network that is slow and loses packets.
struct Quic {
    fleet: Fleet,
    is_bad: bool,
}

#[async_trait]
impl Fixture for Quic {
    fn identities(&self) -> (PeerIdentity, PeerIdentity) {
        (self.fleet.worker.member().identity.clone(), self.fleet.coordinator.member().identity.clone())
    }

    async fn connect(&self) -> (Connection, Connection) {
        let listener = self.fleet.listen();
        let target = listener.local_address().unwrap();
        if !self.is_bad {
            return self.fleet.connect(&listener, target).await;
        }
        let proxy = UdpProxy::start(target).await.unwrap();
        proxy.delay(Duration::from_millis(2));
        proxy.lose(2);
        let ends = self.fleet.connect(&listener, proxy.address()).await;
        // It must outlive the case, and each case is the last thing of its process or test.
        std::mem::forget(proxy);
        ends
    }
}

mod on_several_threads {
    crate::transport_conformance!(
        [#[tokio::test(flavor = "multi_thread", worker_threads = 2)]],
        super::Quic { fleet: super::Fleet::new(), is_bad: false }
    );
}

mod from_who_sends_files {
    crate::transport_conformance!(
        [#[tokio::test(flavor = "multi_thread", worker_threads = 2)]],
        super::Quic { fleet: super::Fleet { load: super::Load::Files, ..super::Fleet::new() }, is_bad: false }
    );
}

mod on_one_thread {
    crate::transport_conformance!(
        [#[tokio::test]],
        super::Quic { fleet: super::Fleet::new(), is_bad: false }
    );
}

mod through_a_bad_network {
    crate::transport_conformance!(
        [#[tokio::test(flavor = "multi_thread", worker_threads = 2)]],
        super::Quic { fleet: super::Fleet::new(), is_bad: true }
    );
}
