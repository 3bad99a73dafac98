//! What is said when a backup reads standbys too, and when workers compute what others serve.

use super::{ATTEMPT, UNIT, context, held_unit, hello, job, receipt, unit};
use pgconvoy_core::config::Compute;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::{SystemId, WorkerName};
use pgconvoy_core::pg::{Lsn, PgVersion, TimelineId};
use pgconvoy_core::ticket::{Admits, TicketSecret};
use pgconvoy_core::wire::{
    ClusterTerms, ConfirmOrder, FromStandby, Held, Hello, Incarnation, OrderBody, Reading, Receipt,
    RemoteSource, ReportBody, ServerSeen, Serving, SourceSeen, StandbyTerms, Standing, UnitContext,
    UnitOrder,
};

const ADDRESS: &str = "db2.example:8432";

fn secret() -> TicketSecret {
    TicketSecret::from_random_bytes([3; TicketSecret::BYTES])
}

fn serving() -> Serving {
    Serving { address: ADDRESS.to_owned(), secret: secret() }
}

fn incarnation() -> Incarnation {
    Incarnation { started_us: 1_795_340_000_123_456, timeline: TimelineId(1) }
}

fn terms() -> StandbyTerms {
    StandbyTerms {
        system_id: SystemId(7_000_000_000_000_000_001),
        timeline: TimelineId(1),
        checkpoint: Lsn(0x1_0200_0060),
        start: Lsn(0x1_0200_0028),
    }
}

fn standing() -> Standing {
    Standing::Standby { incarnation: incarnation(), serves: Some(serving()) }
}

pub(super) fn orders() -> Vec<(&'static str, OrderBody)> {
    let cluster = ClusterTerms {
        version: PgVersion::V17,
        page_size: 8_192,
        relation_segment_blocks: 131_072,
        check_pages: true,
    };
    let reading = Reading { standbys: Some(terms()), offline_control: None, offload: Some(cluster) };
    let served = unit();
    let computes: WorkerName = "compute1".parse().unwrap();
    let admits = Admits { job: job(), unit: UNIT, attempt: ATTEMPT, worker: &computes, parts: &served.parts };
    let source = RemoteSource {
        worker: "db2".parse().unwrap(),
        address: ADDRESS.to_owned(),
        ticket: secret().sign(&admits),
        standby: Some(incarnation()),
    };
    let confirm = ConfirmOrder { round: 2, incarnation: incarnation(), terms: terms() };
    vec![
        ("prepare-with-standbys", OrderBody::Prepare(Box::new(UnitContext { reading, ..context() }))),
        ("run-served-unit", OrderBody::RunUnit(Box::new(UnitOrder { source: Some(source), ..served }))),
        ("confirm", OrderBody::Confirm(confirm)),
    ]
}

/// What a worker says of itself, before it has any job.
pub(super) fn hello_of_a_standby() -> Hello {
    let source = SourceSeen {
        stanza: "main".parse().unwrap(),
        directory: "/srv/pg".to_owned(),
        server: ServerSeen::Standby(SystemId(7_000_000_000_000_000_001)),
    };
    let held = Held {
        job: job(),
        session: false,
        prepared: true,
        standing: Some(standing()),
        units: vec![held_unit()],
    };
    Hello { sources: vec![source], held: vec![held], computes: Compute::Everybody, ..hello() }
}

pub(super) fn reports() -> Vec<(&'static str, ReportBody)> {
    let from = FromStandby { worker: "db2".parse().unwrap(), incarnation: incarnation() };
    let promoted = Failure::new(ErrorCode::HostConnect, "the standby was promoted");
    vec![
        ("stands-as-primary", ReportBody::Standing(Standing::Primary { serves: None })),
        ("stands-as-standby", ReportBody::Standing(standing())),
        ("stands-as-computer", ReportBody::Standing(Standing::Compute)),
        ("unit-of-a-standby-done", ReportBody::UnitDone(Receipt { standby: Some(from), ..receipt() })),
        ("confirmed-standby", ReportBody::Confirmed { round: 2, result: Ok(()) }),
        ("refused-standby", ReportBody::Confirmed { round: 3, result: Err(promoted) }),
    ]
}
