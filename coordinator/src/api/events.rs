//! A job as a stream of server-sent events: `progress` whenever it changes, `end` when it is over, a comment when all is quiet.
//!
//! An event's id is `<epoch>-<n>`: which leader told it, and the how-manieth change of its jobs. Who comes with the id of the
//! present state has missed nothing and is told of the next change; who comes with any other is told the present state at once.
//! Each event tells all there is, so that none has to be kept for those who come back.
//!
//! A stream lives no longer than its token: that is asked for anew, now and then.
//!
//! Failure story: a leader that leads no more ends its streams without `end`, and so does one that stops; who follows asks again.

use super::Shared;
use super::asking::Asked;
use super::json;
use super::refusal::Refusal;
use crate::lead::Lead;
use crate::tokens::Tokens;
use actix_web::HttpResponse;
use actix_web::http::header::CACHE_CONTROL;
use actix_web::web::Bytes;
use futures::Stream;
use pgconvoy_core::wire::JobId;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// Proxies and clients take a silent connection for a dead one.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Between two events: often enough for a progress bar.
const EVENT_INTERVAL: Duration = Duration::from_millis(200);
/// About as long as a revocation takes to be known to whoever asks.
const TOKEN_INTERVAL: Duration = Duration::from_secs(3);

pub(super) fn too_many() -> Refusal {
    Refusal::unavailable("too many streams are open")
        .hint("close some, or ask for the job now and then instead")
}

pub(super) fn stream(
    asked: &Asked,
    shared: &Shared,
    id: JobId,
    last_event: Option<&str>,
) -> Result<HttpResponse, Refusal> {
    let permit = shared.follower()?;
    let follower = Follower {
        version: asked.lead.watch(),
        lead: asked.lead.clone(),
        bearer: Arc::new(StreamBearer::new(shared.tokens.clone(), asked)),
        id,
        known: Known { event: last_event.map(str::to_owned), data: None },
        quiet_since: Instant::now(),
        not_before: Instant::now(),
        is_over: false,
        stop: shared.stop.clone(),
        _permit: permit,
    };
    let mut response = HttpResponse::Ok();
    response.content_type("text/event-stream").insert_header((CACHE_CONTROL, "no-store"));
    Ok(response.streaming(follower.events()))
}

/// Whose stream it is.
pub(crate) struct StreamBearer {
    tokens: Arc<Tokens>,
    token: Arc<Zeroizing<String>>,
}

impl StreamBearer {
    pub(crate) fn new(tokens: Arc<Tokens>, asked: &Asked) -> StreamBearer {
        StreamBearer { tokens, token: asked.token.clone() }
    }

    /// Resolves when the token opens nothing any more, or nobody can tell.
    pub(crate) async fn is_gone(&self) {
        while self.tokens.bearer(&self.token).await.is_ok() {
            tokio::time::sleep(TOKEN_INTERVAL).await;
        }
    }
}

/// One who follows a job.
struct Follower {
    lead: Arc<Lead>,
    bearer: Arc<StreamBearer>,
    id: JobId,
    version: watch::Receiver<u64>,
    known: Known,
    quiet_since: Instant,
    not_before: Instant,
    is_over: bool,
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Follower {
    fn events(self) -> impl Stream<Item = Result<Bytes, Infallible>> {
        futures::stream::unfold(self, |mut follower| async {
            let text = follower.next().await?;
            Some((Ok(Bytes::from(text)), follower))
        })
    }

    /// What to send next; `None`: the stream is over.
    async fn next(&mut self) -> Option<String> {
        if self.is_over {
            return None;
        }
        let (lead, stop, bearer) = (self.lead.clone(), self.stop.clone(), self.bearer.clone());
        tokio::select! {
            text = self.event_or_comment() => text,
            () = bearer.is_gone() => None,
            () = lead.leadership().lost() => None,
            () = stop.cancelled() => None,
        }
    }

    async fn event_or_comment(&mut self) -> Option<String> {
        tokio::time::sleep_until(self.not_before).await;
        loop {
            if let Some(text) = self.event()? {
                self.quiet_since = Instant::now();
                self.not_before = self.quiet_since + EVENT_INTERVAL;
                return Some(text);
            }
            let comment_at = self.quiet_since + KEEP_ALIVE;
            match tokio::time::timeout_at(comment_at, self.version.changed()).await {
                Ok(changed) => changed.ok()?,
                Err(_) => {
                    self.quiet_since = Instant::now();
                    return Some(":\n\n".to_owned());
                }
            }
        }
    }

    /// The present state, if it is news. Outer `None`: there is no such job any more.
    fn event(&mut self) -> Option<Option<String>> {
        let version = *self.version.borrow_and_update();
        let epoch = self.lead.leadership().epoch();
        let id = format!("{}-{version}", epoch.0);
        let view = self.lead.job(self.id)?;
        self.is_over = view.record.state.is_over();
        let data = json::job(&view, epoch).to_string();
        if self.is_over {
            return Some(Some(event(&id, "progress", &data) + &event(&id, "end", "{}")));
        }
        Some(self.known.is_news(&id, &data).then(|| event(&id, "progress", &data)))
    }
}

/// What a follower knows already.
struct Known {
    /// The id that it brought along, until that was looked at.
    event: Option<String>,
    /// What it was told last.
    data: Option<String>,
}

impl Known {
    /// Whether a state must be told, which counts as told then.
    ///
    /// A change is counted only after it can be seen, so these data may be newer than what was told under the same id. Whoever
    /// comes with it is told whatever is there at the next count.
    fn is_news(&mut self, id: &str, data: &str) -> bool {
        let is_known_by_id = self.event.take().is_some_and(|known| known == id);
        if is_known_by_id || self.data.as_deref() == Some(data) {
            return false;
        }
        self.data = Some(data.to_owned());
        true
    }
}

/// `data` is one line, as compact JSON is.
fn event(id: &str, name: &str, data: &str) -> String {
    format!("id: {id}\nevent: {name}\ndata: {data}\n\n")
}

#[cfg(test)]
mod tests {
    use super::Known;

    fn known(event: Option<&str>) -> Known {
        Known { event: event.map(str::to_owned), data: None }
    }

    #[test]
    fn a_state_is_news_once() {
        for event in [None, Some("7-1"), Some("nonsense")] {
            let mut known = known(event);
            assert!(known.is_news("7-2", "queued"), "{event:?}");
            assert!(!known.is_news("7-3", "queued"), "another job changed");
            assert!(known.is_news("7-4", "running"));
        }
    }

    #[test]
    fn who_knows_the_present_state_is_told_of_the_next_one() {
        let mut known = known(Some("7-2"));
        assert!(!known.is_news("7-2", "queued"));
        assert!(known.is_news("7-3", "running"));
    }

    #[test]
    fn a_change_that_is_seen_before_it_is_counted_is_told_when_it_is() {
        let mut known = known(Some("7-2"));
        assert!(!known.is_news("7-2", "running"), "the follower was told that 7-2 is queued, perhaps");
        assert!(known.is_news("7-3", "running"));
    }
}
