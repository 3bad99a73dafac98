//! The paths, and what each does. Roles stand in front of every deed.

use super::asking::Asked;
use super::refusal::Refusal;
use super::{Shared, asking, events, json};
use crate::fleet::Standing;
use crate::jobs::JobView;
use crate::metrics;
use crate::tokens::TokenRole;
use crate::units::ListUnits;
use actix_web::http::StatusCode;
use actix_web::http::header::LOCATION;
use actix_web::{HttpRequest, HttpResponse, web};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::{Identity, StanzaName, UnitId, WorkerName};
use pgconvoy_core::job::{JobKind, JobOptions};
use pgconvoy_core::wire::JobId;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;

type Answer = Result<HttpResponse, Refusal>;

/// For whoever watches whether this coordinator is up, who needs no token, and for Prometheus, which does.
pub(super) fn open(config: &mut web::ServiceConfig) {
    config
        .route("/healthz", web::get().to(healthz))
        .route("/readyz", web::get().to(readyz))
        .route("/metrics", web::get().to(metrics));
}

pub(super) fn of_jobs(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/jobs").get(jobs).post(submit))
        .service(web::resource("/jobs/{id}").get(job))
        .service(web::resource("/jobs/{id}/units").get(units))
        .service(web::resource("/jobs/{id}/events").get(follow))
        .service(web::resource("/jobs/{id}/cancel").post(cancel))
        .service(web::resource("/jobs/{id}/pause").post(pause))
        .service(web::resource("/jobs/{id}/resume").post(resume))
        .service(web::resource("/jobs/{id}/priority").post(priority));
}

pub(super) fn of_workers(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/workers").get(workers))
        .service(web::resource("/workers/{name}/drain").post(drain))
        .service(web::resource("/workers/{name}/undrain").post(undrain))
        .service(web::resource("/audit").get(audit))
        .default_service(web::to(nothing_here));
}

pub(super) async fn nothing_here() -> Answer {
    Err(Refusal::not_found("there is nothing at this path"))
}

async fn healthz() -> HttpResponse {
    HttpResponse::Ok().json(json!({"status": "ok"}))
}

/// Ready is who leads or knows who does, by a lease store that still answers.
async fn readyz(shared: web::Data<Shared>) -> Answer {
    let role = match &*shared.fleet.standing().borrow() {
        Standing::Leading(_) => "leader",
        Standing::Following(Some(_)) => "follower",
        Standing::Following(None) => return Err(Refusal::unavailable("no coordinator leads at the moment")),
    };
    if !shared.fleet.knows_of_late() {
        return Err(Refusal::unavailable("the lease store does not answer"));
    }
    Ok(HttpResponse::Ok().json(json!({"status": "ok", "role": role})))
}

/// For the bearer of any token. Each coordinator answers for itself; what concerns the fleet is told by the one that leads.
async fn metrics(shared: web::Data<Shared>, request: HttpRequest) -> Answer {
    let token = asking::presented(request.headers())?;
    asking::bearer(&shared, &token, request.peer_addr()).await?;
    let text = metrics::of(&shared).await;
    Ok(HttpResponse::Ok().content_type(metrics::CONTENT_TYPE).body(text))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Submission {
    kind: String,
    stanza: String,
    #[serde(default)]
    options: BTreeMap<String, OptionValues>,
    #[serde(default)]
    priority: i32,
}

/// An option's value as JSON has it, or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum OptionValues {
    One(OptionValue),
    Several(Vec<OptionValue>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OptionValue {
    Switch(bool),
    Number(i64),
    Text(String),
}

impl OptionValue {
    fn text(self) -> String {
        match self {
            OptionValue::Switch(is_on) => is_on.to_string(),
            OptionValue::Number(number) => number.to_string(),
            OptionValue::Text(text) => text,
        }
    }
}

impl Submission {
    fn options(options: BTreeMap<String, OptionValues>) -> JobOptions {
        let values = |values| match values {
            OptionValues::One(value) => vec![value.text()],
            OptionValues::Several(values) => values.into_iter().map(OptionValue::text).collect(),
        };
        JobOptions(options.into_iter().map(|(name, value)| (name, values(value))).collect())
    }
}

fn read<T: DeserializeOwned>(body: &web::Bytes) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .map_err(|error| Refusal::malformed(format!("the request's body is not understood: {error}")))
}

async fn submit(asked: Asked, body: web::Bytes) -> Answer {
    let submission = read::<Submission>(&body);
    let what =
        submission.as_ref().map_or("submit".to_owned(), |submission| format!("submit {}", submission.kind));
    let id = asked.lead.new_job()?;
    let object = id.to_string();
    let submitting = asked.command(&what, &object, async |caller| {
        let Submission { kind, stanza, options, priority } = submission?;
        let wrong = |error: pgconvoy_core::ids::IdError| {
            Refusal::misunderstood(Failure::new(ErrorCode::OptionInvalidValue, error.to_string()))
        };
        let (kind, stanza): (JobKind, StanzaName) =
            (kind.parse().map_err(wrong)?, stanza.parse().map_err(wrong)?);
        let options = Submission::options(options);
        Ok(asked.lead.submit(caller, id, kind, stanza, options, priority).await?)
    });
    submitting.await?;
    Ok(HttpResponse::Created()
        .insert_header((LOCATION, format!("/api/v1/jobs/{object}")))
        .json(json!({"id": object})))
}

async fn jobs(asked: Asked) -> Answer {
    asked.by(TokenRole::Viewer)?;
    let mut views = asked.lead.jobs();
    views.sort_by_key(|view| (view.record.created, view.record.id));
    let epoch = asked.lead.leadership().epoch();
    Ok(HttpResponse::Ok().json(views.iter().map(|view| json::job(view, epoch)).collect::<Value>()))
}

/// A job that there is.
pub(crate) fn known(asked: &Asked, id: &str) -> Result<(JobId, JobView), Refusal> {
    let missing = || Refusal::not_found(format!("there is no job {id}")).hint("pgconvoy job list shows them");
    let id: JobId = id.parse::<Identity>().map(JobId).map_err(|_| missing())?;
    let view = asked.lead.job(id).ok_or_else(missing)?;
    Ok((id, view))
}

/// A job that there is and that can still be changed.
fn changeable(asked: &Asked, id: &str) -> Result<JobId, Refusal> {
    let (id, view) = known(asked, id)?;
    if view.record.state.is_over() {
        let message = format!("job {id} is over: {}", view.record.state.name());
        return Err(Refusal::conflict(Failure::new(ErrorCode::ParamInvalid, message)));
    }
    Ok(id)
}

fn told(asked: &Asked, id: &str) -> Answer {
    let (_, view) = known(asked, id)?;
    Ok(HttpResponse::Ok().json(json::job(&view, asked.lead.leadership().epoch())))
}

async fn job(asked: Asked, id: web::Path<String>) -> Answer {
    asked.by(TokenRole::Viewer)?;
    told(&asked, &id)
}

/// Units of one answer: about a megabyte, and all of a backup of 300 GB.
const UNITS_MAX: usize = 10_000;

/// Which units: `?from=N&count=N`, for backups that have more than fit into one answer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    #[serde(default)]
    from: u32,
    count: Option<usize>,
}

async fn units(asked: Asked, id: web::Path<String>, request: HttpRequest) -> Answer {
    asked.by(TokenRole::Viewer)?;
    let (id, view) = known(&asked, &id)?;
    let page = web::Query::<Page>::from_query(request.query_string());
    let Page { from, count } = page.map_err(|error| Refusal::malformed(error.to_string()))?.into_inner();
    let page = ListUnits { from: UnitId(from), count: count.unwrap_or(UNITS_MAX).min(UNITS_MAX) };
    let source = view.record.begun.map(|begun| begun.source);
    let units = asked.lead.units(id, page).await;
    Ok(HttpResponse::Ok().json(units.iter().map(|unit| json::unit(unit, source.as_ref())).collect::<Value>()))
}

async fn follow(
    asked: Asked,
    id: web::Path<String>,
    request: HttpRequest,
    shared: web::Data<Shared>,
) -> Answer {
    asked.by(TokenRole::Viewer)?;
    let (id, _) = known(&asked, &id)?;
    let last_event = request.headers().get("last-event-id").and_then(|value| value.to_str().ok());
    events::stream(&asked, &shared, id, last_event)
}

pub(crate) async fn to_cancel(asked: &Asked, id: &str) -> Result<(), Refusal> {
    let cancelling = asked
        .command("cancel", id, async |caller| Ok(asked.lead.cancel(caller, changeable(asked, id)?).await?));
    cancelling.await
}

async fn cancel(asked: Asked, path: web::Path<String>) -> Answer {
    to_cancel(&asked, &path).await?;
    told(&asked, &path)
}

pub(crate) async fn to_pause(asked: &Asked, id: &str, is_wanted: bool) -> Result<(), Refusal> {
    let setting = asked.command(if is_wanted { "pause" } else { "resume" }, id, async |_| {
        asked.lead.set_paused(changeable(asked, id)?, is_wanted).await.map_err(contradicted)
    });
    setting.await
}

async fn pause(asked: Asked, path: web::Path<String>) -> Answer {
    to_pause(&asked, &path, true).await?;
    told(&asked, &path)
}

async fn resume(asked: Asked, path: web::Path<String>) -> Answer {
    to_pause(&asked, &path, false).await?;
    told(&asked, &path)
}

/// The job is there; what it is at the moment does not allow the change.
fn contradicted(failure: Failure) -> Refusal {
    match failure.code {
        ErrorCode::ParamInvalid => Refusal::conflict(failure),
        _ => failure.into(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPriority {
    priority: i32,
}

async fn priority(asked: Asked, path: web::Path<String>, body: web::Bytes) -> Answer {
    let wanted = read::<NewPriority>(&body);
    let what =
        wanted.as_ref().map_or("priority".to_owned(), |wanted| format!("priority {}", wanted.priority));
    let setting = asked.command(&what, &path, async |_| {
        let NewPriority { priority } = wanted?;
        asked.lead.set_priority(changeable(&asked, &path)?, priority).await.map_err(contradicted)
    });
    setting.await?;
    told(&asked, &path)
}

async fn workers(asked: Asked) -> Answer {
    asked.by(TokenRole::Viewer)?;
    let epoch = asked.lead.leadership().epoch();
    let workers = asked.lead.workers();
    Ok(HttpResponse::Ok().json(workers.iter().map(|worker| json::worker(worker, epoch)).collect::<Value>()))
}

async fn drain(asked: Asked, name: web::Path<String>) -> Answer {
    set_drained(&asked, &name, true).await
}

async fn undrain(asked: Asked, name: web::Path<String>) -> Answer {
    set_drained(&asked, &name, false).await
}

async fn set_drained(asked: &Asked, name: &str, is_wanted: bool) -> Answer {
    let epoch = asked.lead.leadership().epoch();
    let find = || asked.lead.workers().into_iter().find(|(view, _)| view.name.as_str() == name);
    let missing =
        || Refusal::not_found(format!("there is no worker {name}")).hint("pgconvoy workers list shows them");
    let setting = asked.command(if is_wanted { "drain" } else { "undrain" }, name, async |_| {
        let worker: WorkerName = find().ok_or_else(missing)?.0.name;
        Ok(asked.lead.drain(&worker, is_wanted).await?)
    });
    setting.await?;
    let told = find().ok_or_else(missing)?;
    Ok(HttpResponse::build(StatusCode::OK).json(json::worker(&told, epoch)))
}

async fn audit(asked: Asked) -> Answer {
    asked.by(TokenRole::Admin)?;
    let records = asked.lead.audits().await?;
    Ok(HttpResponse::Ok().json(records.iter().map(json::audit).collect::<Value>()))
}
