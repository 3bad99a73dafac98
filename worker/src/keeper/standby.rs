//! A standby as this job's source: proved fit before its first file is opened, watched as long as it is read, and asked when what
//! it gave is to count.

use super::live::{Watcher, watch};
use super::{Directory, Keeper, Known, Session, SourceConfig, known_version_facts, online};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::wire::{ConfirmOrder, Incarnation, PreflightOrder, ReportBody, StandbyTerms};
use pgconvoy_postgres::connect::Client;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// How long a standby may take to come as far as the backup's start. The job does not wait for it.
const PATIENCE: Duration = Duration::from_secs(600);
/// A server that is slower to say what it is is none to rely on.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);

/// A standby that was proved fit.
pub(super) struct Standby {
    pub(super) client: Arc<Client>,
    pub(super) incarnation: Incarnation,
    _watch: AbortOnDropHandle<()>,
}

pub(super) async fn join(
    order: PreflightOrder,
    config: SourceConfig,
    client: Client,
    terms: StandbyTerms,
    watcher: Watcher,
    runtime: &Handle,
) -> Result<(Known, Directory), Failure> {
    let control = online::own_control(&client, &config).await?;
    let summarizes_wal = client.summarizes_wal().await?;
    let incarnation = client.become_source(&terms, PATIENCE).await?;
    let directory = online::prove(&client, terms.start, &config.directory).await?;
    // It was the same all the time that the proof took.
    client.confirm_standby(&terms, &incarnation).await?;
    let facts = known_version_facts(&control, client.settings().version, Vec::new());
    let client = Arc::new(client);
    let watched = client.clone();
    let watching = runtime.spawn(async move {
        let place = watched.settings().place.clone();
        let ask = || async { watched.confirm_standby(&terms, &incarnation).await.map(|()| true) };
        if let Some(failure) = watch(&place, ask).await {
            // Nobody there: what it gave is not confirmed, then.
            let _ = watcher.reporter.send(ReportBody::SessionLost(failure)).await;
        }
    });
    let standby = Standby { client, incarnation, _watch: AbortOnDropHandle::new(watching) };
    let session = Session::Standby(standby);
    let known =
        Known { summarizes_wal, facts, stanza: order.stanza, options: order.options, config, session };
    Ok((known, directory))
}

impl Keeper {
    /// By a connection of its own: what is asked is what the server is now, whoever this process was connected to before.
    pub(super) async fn confirm(&self, order: ConfirmOrder) -> ReportBody {
        let asked = async {
            let stanza = self.known.as_ref().map(|known| known.config.connect.clone());
            let connect =
                stanza.ok_or_else(|| Failure::new(ErrorCode::Assert, "no standby was read here"))?;
            let client = Client::connect(&connect).await?;
            client.confirm_standby(&order.terms, &order.incarnation).await?;
            Ok(())
        };
        let silent = || {
            let message =
                format!("the standby did not say what it is within {} s", CONFIRM_TIMEOUT.as_secs());
            Failure::new(ErrorCode::DbConnect, message)
        };
        let result = timeout(CONFIRM_TIMEOUT, asked).await.unwrap_or_else(|_| Err(silent()));
        ReportBody::Confirmed { round: order.round, result }
    }
}
