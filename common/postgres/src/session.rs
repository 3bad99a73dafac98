//! Runs statements on a connection, each within the time limit.
//!
//! Failure story: the driver's task lives on the runtime that was current at connect and is aborted when the session is
//! dropped; the server sees the socket close and ends whatever the session held. A statement that passes the time limit
//! is cancelled on the server and its session closed, because its late answer could be taken for another's.

use crate::PostgresError;
use std::fmt;
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio_postgres::types::{FromSql, ToSql};
use tokio_postgres::{NoTls, Row, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

/// A cancel request is a courtesy to the server, made on a connection that may be dead.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limits that only newer versions have; an older one would refuse them at startup.
const NEWER_LIMITS: [&str; 2] = ["idle_session_timeout", "transaction_timeout"];

pub(crate) struct Session {
    driver: tokio_postgres::Client,
    task: AbortHandle,
    tls: Option<MakeRustlsConnect>,
    place: String,
    user: String,
    statement_timeout: Duration,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("place", &self.place)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl Session {
    pub(crate) fn new(
        driver: tokio_postgres::Client,
        task: AbortHandle,
        tls: Option<MakeRustlsConnect>,
        place: String,
        user: String,
        statement_timeout: Duration,
    ) -> Self {
        Session { driver, task, tls, place, user, statement_timeout }
    }

    /// What the startup packet cannot say to every version.
    pub(crate) async fn lift_newer_limits(&self) -> Result<(), PostgresError> {
        let sql = "select set_config(name, '0', false) from pg_settings where name = any($1)";
        self.rows("lift its time limits", sql, &[&NEWER_LIMITS.as_slice()]).await.map(|_| ())
    }

    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    /// One row by the simple protocol, every value as text: two of these need not reach one server behind a pooler.
    pub(crate) async fn simple_row(
        &self,
        what: &'static str,
        sql: &str,
    ) -> Result<Vec<Option<String>>, PostgresError> {
        let messages = self.bounded(what, self.driver.simple_query(sql)).await?;
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let row = row.ok_or_else(|| self.no_row(what))?;
        Ok((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
    }

    pub(crate) async fn row(
        &self,
        what: &'static str,
        sql: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Answer, PostgresError> {
        let mut rows = self.rows(what, sql, values).await?;
        rows.pop().ok_or_else(|| self.no_row(what))
    }

    pub(crate) async fn rows(
        &self,
        what: &'static str,
        sql: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Answer>, PostgresError> {
        let rows = self.bounded(what, self.driver.query(sql, values)).await?;
        Ok(rows.into_iter().map(|row| Answer { row, place: self.place.clone(), what }).collect())
    }

    fn no_row(&self, what: &'static str) -> PostgresError {
        let reason = "the answer has no row".to_owned();
        PostgresError::Query { place: self.place.clone(), what, reason, permission: false }
    }

    async fn bounded<T>(
        &self,
        what: &'static str,
        statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, PostgresError> {
        match tokio::time::timeout(self.statement_timeout, statement).await {
            Ok(outcome) => outcome.map_err(|error| PostgresError::from_statement(&self.place, what, &error)),
            Err(_) => {
                self.give_up().await;
                Err(PostgresError::Timeout {
                    place: self.place.clone(),
                    what,
                    timeout: self.statement_timeout,
                })
            }
        }
    }

    async fn give_up(&self) {
        let token = self.driver.cancel_token();
        let cancel = async {
            match &self.tls {
                None => token.cancel_query(NoTls).await,
                Some(tls) => token.cancel_query(tls.clone()).await,
            }
        };
        if !matches!(tokio::time::timeout(CANCEL_TIMEOUT, cancel).await, Ok(Ok(()))) {
            tracing::debug!(place = self.place, "the cancel request did not get through");
        }
        self.task.abort();
    }
}

/// A row that knows whose answer to what it is.
pub(crate) struct Answer {
    row: Row,
    place: String,
    what: &'static str,
}

impl Answer {
    pub(crate) fn get<'a, T: FromSql<'a>>(&'a self, column: &str) -> Result<T, PostgresError> {
        self.row
            .try_get(column)
            .map_err(|error| PostgresError::from_statement(&self.place, self.what, &error))
    }

    /// A value whose text one of our own types understands.
    pub(crate) fn parse<T: std::str::FromStr<Err: fmt::Display>>(
        &self,
        column: &str,
    ) -> Result<T, PostgresError> {
        let text: &str = self.get(column)?;
        text.parse().map_err(|error: T::Err| self.refuse(text, &error))
    }

    /// A value that SQL has only in a wider or signed type.
    pub(crate) fn number<T: TryFrom<i64, Error: fmt::Display>>(
        &self,
        column: &str,
    ) -> Result<T, PostgresError> {
        let wide: i64 = self.get(column)?;
        T::try_from(wide).map_err(|error| self.refuse(&wide.to_string(), &error))
    }

    pub(crate) fn refuse(&self, value: &str, reason: &dyn fmt::Display) -> PostgresError {
        PostgresError::Answer {
            place: self.place.clone(),
            what: self.what,
            value: value.to_owned(),
            reason: reason.to_string(),
        }
    }
}
