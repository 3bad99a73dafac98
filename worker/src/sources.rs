//! The data directories that a worker sees, and what it tells of them when it connects.

use crate::keeper::SourceConfig;
use futures::future::join_all;
use pgconvoy_core::ids::StanzaName;
use pgconvoy_core::wire::{RepositorySeen, ServerSeen, SourceSeen};
use pgconvoy_postgres::connect::Client;
use pgconvoy_repository::RepositorySet;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// A server that takes longer is told to be down; the preflight of a job asks again, with all its patience.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// By stanza.
pub type SourceConfigs = BTreeMap<StanzaName, SourceConfig>;

/// The data directories that a worker sees; others can take their place while it runs.
pub struct Sources(watch::Sender<Arc<SourceConfigs>>);

impl Sources {
    pub fn new(sources: SourceConfigs) -> Sources {
        Sources(watch::Sender::new(Arc::new(sources)))
    }

    pub fn of(&self, stanza: &StanzaName) -> Option<SourceConfig> {
        self.0.borrow().get(stanza).cloned()
    }

    pub(crate) fn replace(&self, sources: SourceConfigs) {
        self.0.send_replace(Arc::new(sources));
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<SourceConfigs>> {
        self.0.subscribe()
    }
}

/// Asks each server for its role.
pub(crate) async fn look(sources: &SourceConfigs) -> Vec<SourceSeen> {
    join_all(sources.iter().map(|(stanza, source)| async move {
        let asked = timeout(LOOK_TIMEOUT, Client::connect(&source.connect)).await;
        let server = match asked {
            Ok(Ok(client)) if client.settings().in_recovery => {
                ServerSeen::Standby(client.settings().system_id)
            }
            Ok(Ok(client)) => ServerSeen::Primary(client.settings().system_id),
            Ok(Err(error)) => ServerSeen::Down(error.to_string()),
            Err(_) => ServerSeen::Down(format!("no answer within {} s", LOOK_TIMEOUT.as_secs())),
        };
        seen(stanza, source, server)
    }))
    .await
}

/// Opens each repository: those that answer, by their identity.
pub(crate) async fn look_at(repositories: &RepositorySet) -> Vec<RepositorySeen> {
    let seen = join_all(repositories.keys().map(|repository| async move {
        match timeout(LOOK_TIMEOUT, repositories.open(repository)).await {
            Ok(Ok(opened)) => Some(RepositorySeen { repository, identity: opened.identity() }),
            Ok(Err(error)) => {
                tracing::warn!("repo {repository} cannot be opened here: {error}");
                None
            }
            Err(_) => {
                tracing::warn!("repo {repository} does not answer within {} s", LOOK_TIMEOUT.as_secs());
                None
            }
        }
    }));
    seen.await.into_iter().flatten().collect()
}

/// Without asking anybody.
pub(crate) fn unseen(sources: &SourceConfigs) -> Vec<SourceSeen> {
    sources.iter().map(|(stanza, source)| seen(stanza, source, ServerSeen::Unknown)).collect()
}

fn seen(stanza: &StanzaName, source: &SourceConfig, server: ServerSeen) -> SourceSeen {
    SourceSeen { stanza: stanza.clone(), directory: source.directory.display().to_string(), server }
}
