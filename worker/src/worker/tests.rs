#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use super::*;
use crate::job::testing::PATIENCE;
use pgconvoy_transport::memory::{self, Faults};
use pgconvoy_transport::pki::Serial;
use pgconvoy_transport::{PeerIdentity, Role};

/// A worker, and the coordinator's end of its connection.
fn worker(revoked: Revoked) -> (WorkerHandle, Channel<Instruction, Report>) {
    let name: WorkerName = "db1".parse().unwrap();
    let peer = |role| PeerIdentity { name: name.clone().into(), role };
    let (near, far) = memory::pair(peer(Role::Coordinator), peer(Role::Worker), &Faults::default());
    let deps = WorkerDeps {
        name: name.clone(),
        host: String::new(),
        incarnation: Identity::from_random_bytes([1; 16]),
        slots: 1,
        bandwidth: None,
        sources: SourceConfigs::new(),
        computes: Default::default(),
        serving: None,
        reach: None,
        repositories: Arc::new(RepositorySet::new(Vec::new())),
        errands: None,
        dial: Dial::Once(far),
        spool: None,
        revoked,
        orphan_timeout: Duration::ZERO,
        runtime: Handle::current(),
    };
    (Worker::start(deps), Channel::new(near))
}

async fn heard(receiver: &mut TypedReceiver<Report>) -> ReportBody {
    let report = tokio::time::timeout(PATIENCE, receiver.recv()).await.expect("nothing was said");
    report.unwrap().unwrap().body
}

#[tokio::test]
async fn what_the_coordinator_tells_of_revoked_certificates_is_kept() {
    let revoked = Revoked::default();
    let (worker, Channel { sender, mut receiver, incoming: _incoming }) = worker(revoked.clone());
    assert!(matches!(heard(&mut receiver).await, ReportBody::Hello(_)));
    let welcome = Welcome { epoch: Epoch(1), ttl_ms: 60_000, jobs: Vec::new(), same_lease: true };
    sender.send(&Instruction::Welcome(welcome)).await.unwrap();
    let ReportBody::Alive { sequence } = heard(&mut receiver).await else { panic!("it is not alive") };
    let (first, second): (Serial, Serial) = ("0a0b".parse().unwrap(), "0c".parse().unwrap());
    for told in [vec![first.to_string()], vec!["nonsense".to_owned(), second.to_string()]] {
        sender.send(&Instruction::Confirmed { sequence, ttl_ms: 60_000, revoked: told }).await.unwrap();
    }
    let mut watch = revoked.watch();
    let both = watch.wait_for(|set| set.contains(&first) && set.contains(&second));
    tokio::time::timeout(PATIENCE, both).await.expect("it was not kept").unwrap();
    worker.stop();
}

#[tokio::test]
async fn an_order_of_an_epoch_that_is_over_is_not_obeyed() {
    let (worker, Channel { sender, mut receiver, incoming: _incoming }) = worker(Revoked::default());
    assert!(matches!(heard(&mut receiver).await, ReportBody::Hello(_)));
    let welcome = Welcome { epoch: Epoch(5), ttl_ms: 60_000, jobs: Vec::new(), same_lease: true };
    sender.send(&Instruction::Welcome(welcome)).await.unwrap();
    let job = |number| JobId(Identity::from_random_bytes([number; 16]));
    // Nobody has a session to close there: the answer is a failure, and an answer.
    let order = |epoch, number| {
        let body = OrderBody::CloseSession { repositories: Vec::new() };
        Instruction::Order(Order { epoch: Epoch(epoch), job: job(number), body })
    };
    for (epoch, number) in [(5, 1), (4, 2), (6, 3), (5, 4), (6, 5)] {
        sender.send(&order(epoch, number)).await.unwrap();
    }
    let mut answered = Vec::new();
    while answered.len() < 3 {
        let report = tokio::time::timeout(PATIENCE, receiver.recv()).await.expect("nothing was said");
        answered.extend(report.unwrap().unwrap().job);
    }
    answered.sort();
    assert_eq!(answered, [job(1), job(3), job(5)]);
    worker.stop();
}
