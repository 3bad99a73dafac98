//! How jobs, workers and audit records are told: keys in kebab-case, times in RFC 3339, sizes in bytes.

use crate::jobs::JobView;
use crate::registry::WorkerView;
use crate::units::UnitView;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::ids::{Epoch, WorkerName};
use pgconvoy_core::record::AuditRecord;
use pgconvoy_core::units::Timestamp;
use serde_json::{Value, json};

/// A job as everybody is told of it. What is not known yet is null.
pub fn job(view: &JobView, epoch: Epoch) -> Value {
    let JobView { record, progress, rate, eta } = view;
    let time = |time: Option<Timestamp>| time.map(|time| time.to_string());
    let announced = record.begun.as_ref().and_then(|begun| begun.announced.as_ref());
    let label = progress.as_ref().and_then(|progress| progress.label).or(announced.map(|known| known.label));
    let units = progress.as_ref().map(|progress| {
        json!({
            "total": progress.units_total,
            "done": progress.units_done,
            "leased": progress.units_held,
            "retried": progress.units_retried,
            "doubled": progress.units_doubled,
        })
    });
    let bytes = progress
        .as_ref()
        .map(|progress| json!({"total": progress.bytes_total, "done": progress.bytes_done, "rate": rate}));
    let limiting = progress.as_ref().and_then(|progress| progress.limiting_stage);
    let limiting = limiting.map(|stage| stage.to_string());
    let mut told = json!({
        "id": record.id.to_string(),
        "kind": record.kind.name(),
        "stanza": record.stanza.as_str(),
        "state": record.state.name(),
        "priority": record.priority,
        "created": record.created.to_string(),
        "started": time(record.started),
        "finished": time(record.finished),
        "label": label.map(|label| label.to_string()),
        "epoch": epoch.0,
        // The worker that keeps the backup's session.
        "source": record.begun.as_ref().map(|begun| begun.source.as_str()),
        "units": units,
        "bytes": bytes,
        "eta-ms": eta.map(|eta| u64::try_from(eta.as_millis()).unwrap_or(u64::MAX)),
        "limiting-stage": limiting,
        "error": record.failure.as_ref().map(failure),
        "submitted-by": record.submitted_by,
        "options": record.options,
    });
    if record.state.is_over() {
        // A result that is not JSON is none of ours.
        told["result"] =
            record.result.as_deref().and_then(|result| serde_json::from_str(result).ok()).unwrap_or_default();
    }
    told
}

fn failure(failure: &Failure) -> Value {
    json!({"code": failure.code.number(), "message": failure.message, "hints": failure.hints})
}

pub(crate) fn unit(view: &UnitView, source: Option<&WorkerName>) -> Value {
    json!({
        "id": view.id.0,
        "state": view.state,
        "worker": view.worker.as_ref().map(WorkerName::as_str),
        "token": view.token.map(|token| token.0),
        "source": source.map(WorkerName::as_str),
        "attempt": view.attempt.map(|attempt| attempt.0),
        "bytes": view.bytes,
    })
}

pub(super) fn worker((view, busy): &(WorkerView, u32), epoch: Epoch) -> Value {
    let stanzas: Vec<&str> = view.sources.iter().map(|source| source.stanza.as_str()).collect();
    json!({
        "name": view.name.as_str(),
        "state": view.state.name(),
        "slots": view.slots,
        "busy": busy,
        "stanzas": stanzas,
        "epoch": epoch.0,
    })
}

pub(super) fn audit(record: &AuditRecord) -> Value {
    json!({
        "at": record.at.to_string(),
        "who": record.who,
        "role": record.role,
        "what": record.what,
        "object": record.object,
        "outcome": record.outcome.name(),
        "code": record.code,
    })
}
