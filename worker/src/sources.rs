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

/// How often servers are asked whether they are still what the coordinator was told: after a failover the next backup must begin
/// where the primary is then.
const ROLE_INTERVAL: Duration = Duration::from_secs(15);

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

/// Ends once a server is something else than was said.
pub(crate) async fn changed(sources: &SourceConfigs, said: &[SourceSeen]) {
    let mut was_silent = false;
    loop {
        tokio::time::sleep(ROLE_INTERVAL).await;
        let now = look(sources).await;
        let both = || said.iter().zip(&now).map(|(said, now)| (&said.server, &now.server));
        // One that does not answer once may be busy.
        let is_silent = both().any(|(said, now)| !is_down(said) && is_down(now));
        if both().any(|(said, now)| is_news(said, now)) || (was_silent && is_silent) {
            return;
        }
        was_silent = is_silent;
    }
}

fn is_news(said: &ServerSeen, now: &ServerSeen) -> bool {
    !is_down(now) && said != now
}

fn is_down(server: &ServerSeen) -> bool {
    matches!(server, ServerSeen::Down(_))
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

#[cfg(test)]
mod tests {
    use super::*;
    use pgconvoy_core::ids::SystemId;

    #[test]
    fn a_server_that_took_over_or_came_back_is_news_and_one_that_is_silent_is_none() {
        let (primary, standby) = (ServerSeen::Primary(SystemId(1)), ServerSeen::Standby(SystemId(1)));
        let down = ServerSeen::Down("refused".into());
        for (said, now, expected) in [
            (&standby, &primary, true),
            (&primary, &standby, true),
            (&down, &primary, true),
            (&primary, &ServerSeen::Primary(SystemId(2)), true),
            (&primary, &primary, false),
            (&primary, &down, false),
            (&down, &ServerSeen::Down("timed out".into()), false),
        ] {
            assert_eq!(is_news(said, now), expected, "{said:?}, then {now:?}");
        }
    }
}
