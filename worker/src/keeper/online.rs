//! A session with a running primary.

use super::{Directory, Known, Session, SourceConfig, blocking, known_version_facts};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::manifest;
use pgconvoy_core::format::wal::StopBody;
use pgconvoy_core::pg::{ControlFile, Lsn};
use pgconvoy_core::units::Timestamp;
use pgconvoy_core::wire::{PreflightOrder, SessionFacts, SessionStart};
use pgconvoy_postgres::PostgresError;
use pgconvoy_postgres::backup::BackupSession;
use pgconvoy_postgres::connect::Client;
use pgconvoy_postgres::control::read_control;
use pgconvoy_postgres::preflight::{ArchiveExpectation, check_settings};
use pgconvoy_postgres::proof::prove_live;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A directory that is gone while its tablespace is listed for longer than these was not dropped.
const LISTINGS_MAX: u32 = 3;
const LISTING_PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn preflight(order: PreflightOrder, config: SourceConfig) -> Result<Known, Failure> {
    let client = Client::connect(&config.connect).await?;
    preflight_with(client, order, config).await
}

async fn preflight_with(
    client: Client,
    order: PreflightOrder,
    config: SourceConfig,
) -> Result<Known, Failure> {
    let expectation = ArchiveExpectation {
        check: order.options.archive_check,
        refuse_always: order.options.archive_mode_check,
    };
    let warnings = check_settings(client.settings(), expectation)?;
    let control = own_control(&client, &config).await?;
    let warnings = warnings.iter().map(ToString::to_string).collect();
    let summarizes_wal = client.summarizes_wal().await?;
    Ok(Known {
        summarizes_wal,
        facts: known_version_facts(&control, client.settings().version, warnings),
        stanza: order.stanza,
        options: order.options,
        config,
        session: Session::Connected(Box::new(client)),
    })
}

/// pg_control of the directory, which must be of the connected server's cluster.
pub(super) async fn own_control(client: &Client, config: &SourceConfig) -> Result<ControlFile, Failure> {
    let directory = config.directory.clone();
    let control = blocking(move || Ok(read_control(&directory)?.control)).await?;
    if control.system_id != client.settings().system_id {
        return Err(PostgresError::SystemMismatch {
            directory: config.directory.clone(),
            place: client.settings().place.clone(),
            found: control.system_id,
            expected: client.settings().system_id,
        }
        .into());
    }
    Ok(control)
}

/// The session belongs to the caller, who hands it on when all of this went well.
pub(super) async fn open(
    known: &Known,
    client: Client,
    label: &str,
) -> Result<(SessionFacts, Directory, BackupSession), Failure> {
    let session = BackupSession::start(client, label, known.options.start_fast).await?;
    let databases = session.client().databases().await?;
    let started = session.started();
    let directory = prove(session.client(), started.start_lsn, &known.config.directory).await?;
    let facts = SessionFacts {
        offline_control: None,
        started: Timestamp(started.start_time.milliseconds()),
        timeline: started.timeline,
        start: Some(SessionStart {
            lsn: started.start_lsn,
            segment: started.start_segment,
            segment_before: started.archive_check_segment,
            checkpoint: Some(started.checkpoint_lsn),
        }),
        databases: databases
            .into_iter()
            .map(|one| manifest::Database { oid: one.oid, name: one.name })
            .collect(),
        tablespaces: directory
            .tablespaces
            .iter()
            .map(|one| manifest::Tablespace {
                oid: one.oid,
                name: one.name.clone(),
                destination: one.location.display().to_string(),
            })
            .collect(),
    };
    Ok((facts, directory, session))
}

/// Takes part in a backup whose session another worker holds.
pub(super) async fn join(
    order: PreflightOrder,
    config: SourceConfig,
    client: Client,
    start_lsn: Lsn,
) -> Result<(Known, Directory), Failure> {
    let mut known = preflight_with(client, order, config).await?;
    let Session::Connected(client) = std::mem::replace(&mut known.session, Session::Over) else {
        return Err(Failure::new(ErrorCode::Assert, "a preflight ended without a connection"));
    };
    let directory = prove(&client, start_lsn, &known.config.directory).await?;
    known.session = Session::Elsewhere(Arc::from(client));
    Ok((known, directory))
}

/// A tablespace that is dropped between listing and looking is listed no more the next time.
pub(super) async fn prove(client: &Client, start_lsn: Lsn, directory: &Path) -> Result<Directory, Failure> {
    let mut listings = 0;
    loop {
        let tablespaces = client.tablespaces().await?;
        listings += 1;
        let (path, listed) = (directory.to_owned(), tablespaces.clone());
        let settings = client.settings().clone();
        let proof = tokio::task::spawn_blocking(move || prove_live(&path, &settings, start_lsn, &listed));
        match proof.await.map_err(|_| Failure::new(ErrorCode::Assert, "a thread panicked"))? {
            Err(PostgresError::RootGone { tablespace: Some(_), .. }) if listings < LISTINGS_MAX => {
                tokio::time::sleep(LISTING_PAUSE).await;
            }
            proved => return Ok(Directory { roots: proved?, tablespaces }),
        }
    }
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
        kept: None,
    })
}
