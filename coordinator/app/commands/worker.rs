//! `worker`: serves a fleet's coordinators on this host until it is told to stop.

mod offloading;

use super::archive::daemon::Archiver;
use crate::context::{Context, Current};
use crate::fleet::errands::CommandErrands;
use crate::host::{connect_options, cores, random_identity, writer};
use crate::member;
use crate::reload::Reload;
use crate::repositories::repository_set_for;
use crate::runtime::block_on;
use crate::signals::{Signals, Word, tell_ready};
use offloading::Offloading;
use pgconvoy_core::config::{BackupOptions, Config, FleetConfig, PgConfig, restart};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::{StanzaName, WorkerName};
use pgconvoy_repository::RepositorySet;
use pgconvoy_storage::bandwidth::Bandwidth;
use pgconvoy_transport::Role;
use pgconvoy_transport::pki::{Credentials, Revoked};
use pgconvoy_transport::quic::{DialConfig, QuicDialer};
use pgconvoy_transport::reconnect::Redial;
use pgconvoy_transport::tls::Admission;
use pgconvoy_worker::keeper::SourceConfig;
use pgconvoy_worker::{Dial, Worker, WorkerDeps};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// How long a worker that was told to stop may go on with what it has.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// For the last words to leave the socket.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);

pub fn run(context: &Context) -> Result<ExitCode, Failure> {
    block_on(serve(context))??;
    Ok(ExitCode::SUCCESS)
}

async fn serve(context: &Context) -> Result<(), Failure> {
    let config = &context.config;
    let fleet = member::fleet(config)?;
    let credentials = member::credentials(fleet)?;
    let name = name(config, credentials.member().identity.worker())?;
    let (member, revoked) = (credentials.member().clone(), Revoked::default());
    let offloading = Offloading::start(config, &credentials, &revoked)?;
    let (dialer, redial) = dial(fleet, credentials, &revoked)?;
    let (options, current) = (policy(context)?, Arc::new(Current::new(context.clone())));
    let bandwidth = Arc::new(Bandwidth::of(config.worker.bandwidth_max.map(|bytes| bytes.0)));
    let seen = sources(config, &name, options.db_timeout)?;
    let mut archivers = archivers(context, &seen)?;
    let mut worker = Worker::start(WorkerDeps {
        name: name.clone(),
        host: writer().host,
        incarnation: random_identity()?,
        slots: slots(config),
        bandwidth: Some(bandwidth.clone()),
        sources: seen,
        computes: config.worker.compute.clone(),
        serving: offloading.hub(),
        reach: offloading.reach(),
        repositories: all_repositories(config, &options)?,
        errands: Some(Arc::new(CommandErrands::new(current.clone()))),
        dial: Dial::Again(Arc::new(redial)),
        spool: Some(PathBuf::from(&config.paths.spool)),
        revoked,
        orphan_timeout: options.session_orphan_timeout,
        runtime: Handle::current(),
    });
    tracing::info!("worker {name} serves {}", fleet.coordinators.join(", "));
    let mut signals = Signals::listen()?;
    tell_ready();
    let reload = Reload { current: &current, member: &member, needs_restart: restart::of_worker };
    loop {
        tokio::select! {
            () = worker.stopped() => break,
            word = signals.next(DRAIN_TIMEOUT) => match word {
                Word::Reload => reload.run(|new, renewed| {
                    let seen = sources(&new.config, &name, policy(new)?.db_timeout)?;
                    archivers = self::archivers(new, &seen)?;
                    dialer.renew(renewed);
                    offloading.renew(renewed);
                    bandwidth.change(new.config.worker.bandwidth_max.map(|bytes| bytes.0));
                    if new.config.stanzas != current.get().config.stanzas {
                        worker.see(seen);
                    }
                    Ok(())
                }),
                Word::Drain => {
                    tracing::warn!("draining; a second signal, or {} s, ends at once", DRAIN_TIMEOUT.as_secs());
                    worker.drain();
                }
                Word::EndNow => worker.stop(),
            },
        }
    }
    // What is not said in time is told by silence.
    let _ = tokio::time::timeout(GOODBYE_TIMEOUT, async {
        tokio::join!(dialer.idle(), offloading.end());
    })
    .await;
    Ok(())
}

/// How it reaches a coordinator, again and again.
fn dial(
    fleet: &FleetConfig,
    credentials: Credentials,
    revoked: &Revoked,
) -> Result<(QuicDialer, Redial<QuicDialer>), Failure> {
    let dialer = QuicDialer::new(DialConfig {
        credentials,
        expects: Admission::of([Role::Coordinator]),
        revoked: revoked.clone(),
        runtime: Handle::current(),
    });
    let dialer = dialer.map_err(|error| {
        Failure::new(ErrorCode::HostConnect, format!("cannot open a UDP socket: {error}"))
    })?;
    let redial = Redial::new(dialer.clone(), fleet.coordinators.clone(), Box::new(member::random));
    let redial = redial.ok_or_else(|| {
        Failure::new(ErrorCode::OptionRequired, "[fleet] coordinators is missing")
            .hint("coordinators = [\"host:7432\", ..]: where this worker connects")
    })?;
    Ok((dialer, redial))
}

fn all_repositories(config: &Config, options: &BackupOptions) -> Result<Arc<RepositorySet>, Failure> {
    let repos: Vec<_> = config.repos.values().cloned().collect();
    repository_set_for(&repos, options.io_timeout, usize::from(slots(config)))
}

/// One for each stanza whose data this worker sees.
fn archivers(context: &Context, seen: &BTreeMap<StanzaName, SourceConfig>) -> Result<Vec<Archiver>, Failure> {
    let start = |(stanza, source): (&StanzaName, &SourceConfig)| {
        Archiver::start(context.clone(), stanza.clone(), source.clone())
    };
    seen.iter().map(start).collect()
}

/// What holds for this host, whatever the stanza.
fn policy(context: &Context) -> Result<BackupOptions, Failure> {
    let effective = context.config.effective(None, &context.overrides);
    effective.map_err(|mut problems| problems.swap_remove(0).into())
}

/// The certificate's, which is also the configured one if there is one.
fn name(config: &Config, certified: Option<&WorkerName>) -> Result<WorkerName, Failure> {
    let certified = certified.ok_or_else(|| {
        Failure::new(ErrorCode::Access, "the certificate is not a worker's")
            .hint("pgconvoy cert issue --role=worker --name=NAME")
    })?;
    match &config.worker.name {
        Some(configured) if configured != certified => Err(Failure::new(
            ErrorCode::OptionInvalidValue,
            format!("[worker] name is {configured}, and the certificate is of {certified}"),
        )
        .hint("a worker is known by the name in its certificate")),
        _ => Ok(certified.clone()),
    }
}

fn slots(config: &Config) -> u16 {
    let quarter = || u32::try_from(cores() / 4).unwrap_or(1);
    let slots = config.worker.slots.unwrap_or_else(quarter).max(1);
    u16::try_from(slots).unwrap_or(u16::MAX)
}

/// The data directories that the configuration gives to this worker, or to whatever machine reads it.
fn sources(
    config: &Config,
    name: &WorkerName,
    db_timeout: Duration,
) -> Result<BTreeMap<StanzaName, SourceConfig>, Failure> {
    let mut sources = BTreeMap::new();
    for stanza in config.stanzas.values() {
        let named = stanza.pg.iter().find(|pg| pg.host.as_ref() == Some(name));
        let Some(pg) = named.or_else(|| stanza.pg.iter().find(|pg| pg.host.is_none())) else { continue };
        sources.insert(stanza.name.clone(), source(pg, db_timeout)?);
    }
    Ok(sources)
}

fn source(pg: &PgConfig, db_timeout: Duration) -> Result<SourceConfig, Failure> {
    Ok(SourceConfig {
        directory: PathBuf::from(&pg.path),
        connect: connect_options(pg, db_timeout, "worker")?,
    })
}
