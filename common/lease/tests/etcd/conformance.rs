//! The suite, on one node and on a cluster of three.

use crate::support::{connect, fleet};
use async_trait::async_trait;
use pgconvoy_lease::conformance::{Fixture, Scene};
use pgconvoy_lease::testing::etcd::EtcdCluster;
use std::sync::Arc;
use std::time::Duration;

struct Real {
    nodes: usize,
}

#[async_trait]
impl Fixture for Real {
    async fn scene(&self) -> Scene {
        let cluster = EtcdCluster::start(self.nodes).unwrap();
        Scene {
            store: Arc::new(connect(cluster.endpoints()).await),
            fleet: fleet(),
            // No lease of etcd's is shorter than one and a half elections.
            ttl: Duration::from_secs(2),
            // It looks for expired ones twice a second; the rest is for a busy machine.
            late: Duration::from_secs(2),
            kept: Box::new(cluster),
        }
    }
}

mod on_one_node {
    pgconvoy_lease::lease_conformance!(
        [#[tokio::test(flavor = "multi_thread", worker_threads = 2)]],
        super::Real { nodes: 1 }
    );
}

mod on_three_nodes {
    pgconvoy_lease::lease_conformance!(
        [#[tokio::test(flavor = "multi_thread", worker_threads = 2)]],
        super::Real { nodes: 3 }
    );
}
