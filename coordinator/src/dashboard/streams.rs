//! What keeps an open page up to date: server-sent events with the parts that changed, and with the units that did.
//!
//! `page` is `{"state","title","said","html"}`: the parts as markup; `map` is all units, `changes` those that changed (see `map`), `held` who holds
//! which; `end`: nothing more will come; `gone`: the token opens nothing any more. The first events of a stream tell all, so nothing has to be kept for whoever comes back.
//!
//! Invariants
//! 1. A stream takes a place among all streams of this coordinator, and gives it back however it ends.
//! 2. What all who look at the same thing are told is made once.
//! 3. A stream ends with its token.
//!
//! Failure story: as with the API's streams: a leader that leads no more ends its streams, and the page opens another one.

use super::fleet_page;
use super::job_page::{self, JobPageView};
use super::map;
use super::pages::{fleet_view, seen};
use super::watching::{Look, Seen};
use crate::api::Shared;
use crate::api::asking::Asked;
use crate::api::events::{KEEP_ALIVE, StreamBearer};
use crate::api::refusal::Refusal;
use crate::api::routes;
use crate::lead::Lead;
use crate::tokens::TokenRole;
use crate::unit_map::HeldUnit;
use actix_web::http::header::CACHE_CONTROL;
use actix_web::web::Bytes;
use actix_web::{HttpResponse, web};
use futures::Stream;
use pgconvoy_core::wire::JobId;
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

/// Between two looks at what a page shows.
const INTERVAL: Duration = Duration::from_millis(500);
/// Ages grow and repositories are read, though no job changes.
const QUIET_INTERVAL: Duration = Duration::from_secs(5);

type Answer = Result<HttpResponse, Refusal>;

pub(super) async fn of_fleet(asked: Asked, shared: web::Data<Shared>) -> Answer {
    asked.by(TokenRole::Viewer)?;
    stream(&asked, shared, None)
}

pub(super) async fn of_job(asked: Asked, id: web::Path<String>, shared: web::Data<Shared>) -> Answer {
    asked.by(TokenRole::Viewer)?;
    let (id, _) = routes::known(&asked, &id)?;
    stream(&asked, shared, Some(id))
}

fn stream(asked: &Asked, shared: web::Data<Shared>, job: Option<JobId>) -> Answer {
    let permit = shared.follower()?;
    let watcher = Watcher {
        version: asked.lead.watch(),
        news: shared.survey.watch(),
        lead: asked.lead.clone(),
        bearer: Arc::new(StreamBearer::new(shared.tokens.clone(), asked)),
        shared,
        job,
        page: None,
        states: None,
        held: Vec::new(),
        not_before: Instant::now(),
        quiet_since: Instant::now(),
        is_over: false,
        _permit: permit,
    };
    let mut response = HttpResponse::Ok();
    response.content_type("text/event-stream").insert_header((CACHE_CONTROL, "no-store"));
    Ok(response.streaming(watcher.events()))
}

/// An open page.
struct Watcher {
    shared: web::Data<Shared>,
    lead: Arc<Lead>,
    bearer: Arc<StreamBearer>,
    version: watch::Receiver<u64>,
    /// Of repositories.
    news: watch::Receiver<u64>,
    /// `None`: the fleet.
    job: Option<JobId>,
    /// What was told last.
    page: Option<Arc<str>>,
    states: Option<Vec<u8>>,
    held: Vec<HeldUnit>,
    not_before: Instant,
    quiet_since: Instant,
    is_over: bool,
    _permit: OwnedSemaphorePermit,
}

impl Watcher {
    fn events(self) -> impl Stream<Item = Result<Bytes, Infallible>> {
        futures::stream::unfold(self, |mut watcher| async {
            let text = watcher.next().await?;
            Some((Ok(Bytes::from(text)), watcher))
        })
    }

    /// What to send next; `None`: the stream is over.
    async fn next(&mut self) -> Option<String> {
        if self.is_over {
            return None;
        }
        let (lead, stop, bearer) = (self.lead.clone(), self.shared.stop.clone(), self.bearer.clone());
        tokio::select! {
            text = self.news_or_comment() => return text,
            () = bearer.is_gone() => {}
            () = lead.leadership().lost() => return None,
            () = stop.cancelled() => return None,
        }
        // The page asks for itself, and is led to the login.
        self.is_over = true;
        Some(event("gone", "{}"))
    }

    async fn news_or_comment(&mut self) -> Option<String> {
        loop {
            tokio::time::sleep_until(self.not_before).await;
            self.not_before = Instant::now() + INTERVAL;
            self.version.borrow_and_update();
            self.news.borrow_and_update();
            let news = match self.job {
                None => self.of_fleet().await,
                Some(job) => self.of_job(job).await?,
            };
            if !news.is_empty() {
                self.quiet_since = Instant::now();
                return Some(news);
            }
            if self.quiet_since.elapsed() >= KEEP_ALIVE {
                self.quiet_since = Instant::now();
                return Some(":\n\n".to_owned());
            }
            // Whatever comes first; a sender that is gone is found out by the leadership's end.
            tokio::select! {
                _ = self.version.changed() => {}
                _ = self.news.changed() => {}
                () = tokio::time::sleep(QUIET_INTERVAL) => {}
            }
        }
    }

    async fn of_fleet(&mut self) -> String {
        let (shared, lead) = (self.shared.clone(), self.lead.clone());
        let page = self.shared.watching.fleet(&self.lead, || match fleet_view(&shared, &lead) {
            Ok(view) => page("fleet", "Fleet", "", &fleet_page::parts(&view).into_string()),
            Err(failure) => page("fleet", "Fleet", &failure.message, ""),
        });
        let page = page.await;
        self.news_of(page)
    }

    /// Outer `None`: there is no such job any more.
    async fn of_job(&mut self, id: JobId) -> Option<String> {
        let view = self.lead.job(id)?;
        let Seen { look, page } = seen(&self.shared, &self.lead, &view).await;
        let mut news = self.news_of(page);
        self.is_over = view.record.state.is_over();
        if self.is_over {
            let known = self.states.as_ref().map(Vec::len);
            let last =
                job_page::last_map(&view.record, known).map(|states| Arc::new(Look::of_states(states)));
            news += &last.or(look).map(|look| self.units(&look)).unwrap_or_default();
            news += &event("end", "{}");
        } else if let Some(look) = look {
            news += &self.units(&look);
        }
        Some(news)
    }

    fn news_of(&mut self, page: Arc<str>) -> String {
        if self.page.as_ref() == Some(&page) {
            return String::new();
        }
        let news = event("page", &page);
        self.page = Some(page);
        news
    }

    fn units(&mut self, look: &Look) -> String {
        let states = &look.map.states;
        let changes = self.states.as_ref().and_then(|before| map::changes(before, states));
        let mut news = match changes {
            Some(changes) if changes.is_empty() => String::new(),
            Some(changes) => event("changes", &json!(changes).to_string()),
            None => event("map", &json!(map::whole(states)).to_string()),
        };
        if !news.is_empty() {
            self.states = Some(states.clone());
        }
        if self.held != look.map.held {
            self.held.clone_from(&look.map.held);
            let held =
                self.held.iter().map(|held| json!([held.unit.0, held.worker.as_str(), held.attempt.0]));
            news += &event("held", &held.collect::<serde_json::Value>().to_string());
        }
        news
    }
}

fn page(state: &str, title: &str, said: &str, html: &str) -> String {
    json!({"state": state, "title": title, "said": said, "html": html}).to_string()
}

/// What all who have a job's page open are told of it.
pub(super) fn page_of_job(shown: &JobPageView) -> String {
    page(shown.state, &shown.title(), &shown.said(), &job_page::parts(shown).into_string())
}

/// `data` is one line, as compact JSON is.
fn event(name: &str, data: &str) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}
