//! A "session" with a cluster that does not run: nobody to ask, and nothing that changes.

use super::{Directory, Known, Session, SourceConfig, known_version_facts};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::manifest;
use pgconvoy_core::units::Timestamp;
use pgconvoy_core::wire::{PreflightOrder, SessionFacts};
use pgconvoy_postgres::control::{ControlRead, existing_postmaster, read_control};
use pgconvoy_postgres::roots::Roots;
use pgconvoy_postgres::scan::tablespaces_offline;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(super) fn preflight(order: PreflightOrder, config: SourceConfig) -> Result<Known, Failure> {
    let mut warnings = Vec::new();
    if let Err(error) = existing_postmaster(&config.directory) {
        if !order.options.force {
            return Err(Failure::from(error).hint("a backup of a running cluster needs no --no-online"));
        }
        warnings.push(format!("--force: {error}; the backup may not be consistent"));
    }
    let ControlRead { control, bytes } = read_control(&config.directory)?;
    if !control.state.is_shut_down() {
        if !order.options.force {
            return Err(Failure::new(
                ErrorCode::PgRunning,
                format!("the cluster in {} was not shut down cleanly", config.directory.display()),
            )
            .hint("start and stop it, so that its files are complete without WAL")
            .hint("--force backs it up as it is, with its pg_wal"));
        }
        warnings.push("--force: the cluster was not shut down cleanly".into());
    }
    Ok(Known {
        summarizes_wal: false,
        facts: known_version_facts(&control, control.version, warnings),
        stanza: order.stanza,
        options: order.options,
        config,
        session: Session::Offline(bytes),
    })
}

/// Whether the cluster stood still all the time: a server that ran in between left another pg_control. Blocks.
pub(super) fn check_untouched(directory: &Path, control_before: &[u8]) -> Result<(), Failure> {
    let is_untouched =
        existing_postmaster(directory).is_ok() && read_control(directory)?.bytes == control_before;
    if is_untouched {
        return Ok(());
    }
    let message = format!("PostgreSQL was started in {} while it was backed up", directory.display());
    Err(Failure::new(ErrorCode::PgRunning, message)
        .hint("what was read is not consistent: stop it for the whole backup, or back it up online"))
}

pub(super) fn open(known: &Known) -> Result<(SessionFacts, Directory), Failure> {
    let tablespaces = tablespaces_offline(&known.config.directory)?;
    let roots = Roots::record(&known.config.directory, known.facts.version, &tablespaces)?;
    let facts = SessionFacts {
        offline_control: control_crc(known),
        started: now(),
        timeline: known.facts.timeline,
        start: None,
        databases: Vec::new(),
        tablespaces: tablespaces
            .iter()
            .map(|one| manifest::Tablespace {
                oid: one.oid,
                name: one.name.clone(),
                destination: one.location.display().to_string(),
            })
            .collect(),
    };
    Ok((facts, Directory { roots, tablespaces }))
}

/// For workers on other hosts, or with other mounts: what they see must be the very same directory.
pub(super) fn control_crc(known: &Known) -> Option<u32> {
    match &known.session {
        Session::Offline(control) => Some(crc32c::crc32c(control)),
        _ => None,
    }
}

pub(super) async fn next_second() -> Timestamp {
    let begin = now().seconds();
    while now().seconds() == begin {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Timestamp::from_seconds(now().seconds())
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
