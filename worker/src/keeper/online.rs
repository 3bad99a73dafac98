//! A session with a running primary.

use super::{Directory, Known, Session, SourceConfig, blocking, known_version_facts};
use pgconvoy_core::failure::Failure;
use pgconvoy_core::format::manifest;
use pgconvoy_core::format::wal::StopBody;
use pgconvoy_core::units::Timestamp;
use pgconvoy_core::wire::{PreflightOrder, SessionFacts, SessionStart};
use pgconvoy_postgres::backup::BackupSession;
use pgconvoy_postgres::connect::Client;
use pgconvoy_postgres::control::read_control;
use pgconvoy_postgres::preflight::{ArchiveExpectation, check_settings};
use pgconvoy_postgres::proof::prove_live;

pub(super) async fn preflight(order: PreflightOrder, config: SourceConfig) -> Result<Known, Failure> {
    let client = Client::connect(&config.connect).await?;
    let expectation = ArchiveExpectation {
        check: order.options.archive_check,
        refuse_always: order.options.archive_mode_check,
    };
    let warnings = check_settings(client.settings(), expectation)?;
    let directory = config.directory.clone();
    let control = blocking(move || Ok(read_control(&directory)?.control)).await?;
    if control.system_id != client.settings().system_id {
        return Err(pgconvoy_postgres::PostgresError::SystemMismatch {
            directory: config.directory.clone(),
            place: client.settings().place.clone(),
            found: control.system_id,
            expected: client.settings().system_id,
        }
        .into());
    }
    let warnings = warnings.iter().map(ToString::to_string).collect();
    Ok(Known {
        facts: known_version_facts(&control, client.settings().version, warnings),
        relation_segment_blocks: control.relation_segment_blocks,
        order,
        config,
        session: Session::Connected(client),
    })
}

pub(super) async fn open(
    known: &mut Known,
    client: Client,
    label: &str,
) -> Result<(SessionFacts, Directory), Failure> {
    let session = BackupSession::start(client, label, known.order.options.start_fast).await?;
    let databases = session.client().databases().await?;
    let tablespaces = session.client().tablespaces().await?;
    let started = session.started().clone();
    let (path, settings, found) = (known.config.directory.clone(), session.client().settings().clone(), tablespaces.clone());
    let roots = blocking(move || Ok(prove_live(&path, &settings, started.start_lsn, &found)?)).await?;
    let started = session.started();
    let facts = SessionFacts {
        started: Timestamp(started.start_time.milliseconds()),
        timeline: started.timeline,
        start: Some(SessionStart {
            lsn: started.start_lsn,
            segment: started.start_segment,
            segment_before: started.archive_check_segment,
        }),
        databases: databases.into_iter().map(|one| manifest::Database { oid: one.oid, name: one.name }).collect(),
        tablespaces: tablespaces
            .iter()
            .map(|one| manifest::Tablespace {
                oid: one.oid,
                name: one.name.clone(),
                destination: one.location.display().to_string(),
            })
            .collect(),
    };
    known.session = Session::Online(session);
    Ok((facts, Directory { roots, tablespaces }))
}

pub(super) async fn next_second(session: &BackupSession) -> Result<Timestamp, Failure> {
    Ok(Timestamp(session.client().wait_next_second().await?.milliseconds()))
}

pub(super) async fn close(session: BackupSession) -> Result<StopBody, Failure> {
    let start_lsn = session.started().start_lsn;
    let stopped = session.stop().await?;
    Ok(StopBody {
        start_lsn,
        stop_lsn: stopped.stop_lsn,
        timeline: stopped.timeline,
        stopped: Timestamp(stopped.stop_time.milliseconds()),
        backup_label: stopped.backup_label,
        tablespace_map: stopped.tablespace_map,
    })
}
