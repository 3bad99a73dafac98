#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::*;
use crate::actors::worker_link::WorkerLink;
use crate::leader::{Leadership, Ttls};
use pgconvoy_core::job::JobState;
use pgconvoy_core::units::Timestamp;
use pgconvoy_core::wire::{Hello, Report};
use pgconvoy_lease::{EmbeddedStore, FleetKeys};
use pgconvoy_transport::memory::{self, Faults};
use pgconvoy_transport::{Channel, PeerIdentity, Role, TypedReceiver, TypedSender};

/// For conditions that are waited for; long enough for any machine.
const TIMEOUT: Duration = Duration::from_secs(20);
/// In which nothing must happen.
const LULL: Duration = Duration::from_millis(300);

struct Site {
    registry: Arc<Registry>,
    sender: TypedSender<Report>,
    instructions: TypedReceiver<Instruction>,
    errand: Errand,
}

fn worker() -> WorkerName {
    "db1".parse().unwrap()
}

fn job() -> JobId {
    JobId(Identity::from_random_bytes([7; 16]))
}

fn record() -> JobRecord {
    JobRecord {
        id: job(),
        kind: JobKind::Verify,
        stanza: "main".parse().unwrap(),
        options: JobOptions::default(),
        priority: 0,
        state: JobState::Running,
        submitted_by: "test".into(),
        created: Timestamp(0),
        started: None,
        finished: None,
        begun: None,
        main_worker: None,
        failure: None,
        result: None,
    }
}

impl Site {
    /// A worker does the errand.
    async fn new() -> Site {
        let store = Arc::new(EmbeddedStore::start());
        let keys = FleetKeys::new("blue").unwrap();
        let leadership = Leadership::acquire(store, keys, "one", Ttls::FLEET.leader).await.unwrap();
        let (leadership, runtime) = (Arc::new(leadership), Handle::current());
        let admission = Arc::new(|_: &_| Ok(()));
        let registry =
            Registry::new(leadership, runtime.clone(), Ttls::FLEET.worker, admission, Default::default());
        let errand = Errand::start(registry.clone(), &record(), Arc::default(), &runtime);
        let peer = |name: &str, role| PeerIdentity { name: name.parse().unwrap(), role };
        let (near, far) = memory::pair(
            peer("db1", Role::Worker),
            peer("coordinator", Role::Coordinator),
            &Faults::default(),
        );
        let near = Channel::<Report, Instruction>::new(near);
        let hello = Hello {
            worker: worker(),
            incarnation: Identity::default(),
            program: String::new(),
            slots: 1,
            sources: Vec::new(),
            held: Vec::new(),
            draining: false,
            repositories: Vec::new(),
            host: String::new(),
            computes: Default::default(),
        };
        near.sender.send(&Report { job: None, body: ReportBody::Hello(Box::new(hello)) }).await.unwrap();
        WorkerLink::join(far, registry.clone(), runtime).await.unwrap();
        let mut site = Site { registry, sender: near.sender, instructions: near.receiver, errand };
        assert!(matches!(site.order().await, OrderBody::Errand(_)));
        site
    }

    async fn order(&mut self) -> OrderBody {
        loop {
            let said = timeout(TIMEOUT, self.instructions.recv()).await.unwrap().unwrap().unwrap();
            if let Instruction::Order(order) = said {
                return order.body;
            }
        }
    }

    async fn cancel(&mut self) {
        self.errand.control.cancel(Failure::new(ErrorCode::Term, "cancelled"));
        assert!(matches!(self.order().await, OrderBody::End));
        assert!(timeout(LULL, self.errand.end()).await.is_err(), "the worker has not stopped yet");
    }

    async fn code(&mut self) -> Option<ErrorCode> {
        timeout(TIMEOUT, self.errand.end()).await.unwrap().err().map(|failure| failure.code)
    }
}

#[actix::test]
async fn a_cancelled_errand_ends_when_its_worker_says_that_it_has_stopped() {
    let mut site = Site::new().await;
    site.cancel().await;
    let end = ErrandEnd { result: Some("{}".into()), failure: None };
    let report = Report { job: Some(job()), body: ReportBody::ErrandEnded(Ok(end)) };
    site.sender.send(&report).await.unwrap();
    assert_eq!(site.code().await, Some(ErrorCode::Term));
}

#[actix::test]
async fn a_cancelled_errand_ends_when_its_worker_is_lost() {
    let mut site = Site::new().await;
    site.cancel().await;
    site.registry.lose(&worker()).await;
    assert_eq!(site.code().await, Some(ErrorCode::Term));
}
