//! The sessions of one store: few at first, more while there is more to do at once than they carry.
//!
//! OpenSSH lets 2 MiB be on their way to each session. So what a long line carries grows with the sessions, and what a
//! processor encrypts grows with the connections.
//!
//! Invariants
//! 1. There are never more than [`SESSIONS_MAX`] sessions on [`CONNECTIONS_MAX`] connections.
//! 2. A call waits for a new session only if there is none at all; else more come beside it.
//! 3. A session that is lost is never given to anybody again.
//! 4. Bodies of uploads go by other connections than the first one, where there are others: questions that somebody waits for do not
//!    queue behind megabytes.

use crate::connect::{Connection, connect, open_session};
use crate::options::SftpOptions;
use crate::session::{Lane, Session};
use pgconvoy_storage::{Place, StorageError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

pub(crate) const SESSIONS_MAX: usize = 8;
const CONNECTIONS_MAX: usize = 4;
/// After an attempt that failed while other sessions work.
const GROWTH_PAUSE: Duration = Duration::from_secs(30);

/// What a session is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Anything,
    /// The steps of an upload, one after the other.
    Steps,
    /// The bodies of uploads.
    Bodies,
}

#[derive(Debug, Default)]
struct Members {
    sessions: Vec<Arc<Session>>,
    /// No further session is tried before.
    paused_until: Option<Instant>,
}

impl Members {
    fn can_grow(&self) -> bool {
        self.sessions.len() < SESSIONS_MAX && self.paused_until.is_none_or(|until| Instant::now() >= until)
    }

    /// The connection with the fewest sessions, if it is not time for another one.
    fn roomy_connection(&self) -> Option<Arc<Connection>> {
        let mut connections: Vec<&Arc<Connection>> = Vec::new();
        for session in &self.sessions {
            if !connections.iter().any(|known| Arc::ptr_eq(known, session.connection())) {
                connections.push(session.connection());
            }
        }
        // The first two each have a purpose of their own.
        let are_few = connections.len() < 2 || connections.iter().all(|one| one.sessions() > 1);
        if are_few && connections.len() < CONNECTIONS_MAX {
            return None;
        }
        let roomy = connections.into_iter().filter(|one| one.has_room());
        roomy.min_by_key(|one| one.sessions()).cloned()
    }

    /// The session with the least to do for a purpose, without these.
    fn least_busy(&self, used: &[&Lane], purpose: Purpose) -> Option<Arc<Session>> {
        let first = self.sessions.first()?.connection();
        let is_on_first = |session: &Session| Arc::ptr_eq(session.connection(), first);
        let has_others = self.sessions.iter().any(|session| !is_on_first(session));
        let serves = |session: &Session| match purpose {
            Purpose::Anything => true,
            Purpose::Steps => is_on_first(session),
            Purpose::Bodies => !has_others || !is_on_first(session),
        };
        let is_free = |session: &Arc<Session>| !used.iter().any(|lane| lane.is_on(session));
        let found = self.sessions.iter().filter(|session| serves(session) && is_free(session));
        found.min_by_key(|session| session.busy()).cloned()
    }

    fn connections(&self) -> usize {
        let mut seen: Vec<*const Connection> =
            self.sessions.iter().map(|session| Arc::as_ptr(session.connection())).collect();
        seen.sort_unstable();
        seen.dedup();
        seen.len()
    }
}

#[derive(Debug)]
pub(crate) struct Pool {
    options: Arc<SftpOptions>,
    at: Place,
    members: Mutex<Members>,
    /// Held by who makes a session.
    growing: Arc<tokio::sync::Mutex<()>>,
}

impl Pool {
    pub(crate) fn new(options: Arc<SftpOptions>, at: Place) -> Arc<Pool> {
        Arc::new(Pool { options, at, members: Mutex::default(), growing: Arc::default() })
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.sessions.retain(|session| !session.is_lost());
        members
    }

    /// The session with the least to do, and more of them beside it when that one is busy.
    pub(crate) async fn lane(self: &Arc<Self>) -> Result<Lane, StorageError> {
        self.lane_for(Purpose::Anything).await
    }

    /// For the steps of an upload.
    pub(crate) async fn lane_for_steps(self: &Arc<Self>) -> Result<Lane, StorageError> {
        self.lane_for(Purpose::Steps).await
    }

    async fn lane_for(self: &Arc<Self>, purpose: Purpose) -> Result<Lane, StorageError> {
        if let Some(lane) = self.least_busy(&[], purpose) {
            return Ok(lane);
        }
        let _alone = self.growing.lock().await;
        // Somebody else may have made one meanwhile.
        if let Some(lane) = self.least_busy(&[], purpose) {
            return Ok(lane);
        }
        let connection = Arc::new(connect(&self.options, &self.at).await?);
        let session = open_session(&connection, &self.at).await?.ok_or_else(|| self.refused())?;
        Ok(self.add(session))
    }

    /// Any session, if there is one.
    pub(crate) fn any(self: &Arc<Self>) -> Option<Lane> {
        self.least_busy(&[], Purpose::Anything)
    }

    /// Another session than these, for the body of an upload.
    pub(crate) fn another(self: &Arc<Self>, used: &[&Lane]) -> Option<Lane> {
        self.least_busy(used, Purpose::Bodies)
    }

    fn least_busy(self: &Arc<Self>, used: &[&Lane], purpose: Purpose) -> Option<Lane> {
        let members = self.members();
        let found = members.least_busy(used, purpose);
        let is_short = found.as_ref().is_none_or(|session| session.busy() > 0);
        let grows = is_short && !members.sessions.is_empty() && members.can_grow();
        drop(members);
        if grows {
            self.grow();
        }
        found.map(Lane::new)
    }

    fn refused(&self) -> StorageError {
        StorageError::Unavailable { at: self.at.clone(), reason: "the server allows no session".to_owned() }
    }

    fn add(&self, session: Session) -> Lane {
        let session = Arc::new(session);
        self.members().sessions.push(session.clone());
        Lane::new(session)
    }

    /// Makes one more session, beside whatever goes on.
    fn grow(self: &Arc<Self>) {
        let Ok(alone) = self.growing.clone().try_lock_owned() else { return };
        let pool = Arc::downgrade(self);
        let (options, at) = (self.options.clone(), self.at.clone());
        tokio::spawn(async move {
            let Some((roomy, connections)) = pool.upgrade().map(|pool| {
                let members = pool.members();
                (members.roomy_connection(), members.connections())
            }) else {
                return;
            };
            let grown = one_more(&options, &at, roomy, connections).await;
            let Some(pool) = pool.upgrade() else { return };
            match grown {
                Ok(Some(session)) => drop(pool.add(session)),
                Ok(None) => pool.members().paused_until = Some(Instant::now() + GROWTH_PAUSE),
                Err(error) => {
                    tracing::debug!(%error, "no further SFTP session could be made");
                    pool.members().paused_until = Some(Instant::now() + GROWTH_PAUSE);
                }
            }
            drop(alone);
        });
    }
}

async fn one_more(
    options: &Arc<SftpOptions>,
    at: &Place,
    roomy: Option<Arc<Connection>>,
    connections: usize,
) -> Result<Option<Session>, StorageError> {
    if let Some(connection) = roomy
        && let Some(session) = open_session(&connection, at).await?
    {
        return Ok(Some(session));
    }
    if connections >= CONNECTIONS_MAX {
        return Ok(None);
    }
    open_session(&Arc::new(connect(options, at).await?), at).await
}
