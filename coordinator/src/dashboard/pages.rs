//! The paths of the dashboard, and what each answers: pages from what the API reads, and forms that do what the API does.

use super::door::{Trouble, html, see_other, settle};
use super::fleet_page::{self, FleetView};
use super::frame::Frame;
use super::job_page::{self, JobPageView, Known};
use super::{assets, login, session, streams};
use crate::actors::backup::now;
use crate::api::asking::Asked;
use crate::api::refusal::Refusal;
use crate::api::{Shared, json, routes, stock};
use crate::dashboard::watching::{Look, Seen};
use crate::jobs::JobView;
use crate::lead::Lead;
use crate::survey::Report;
use crate::tokens::TokenRole;
use crate::units::ListUnits;
use actix_web::middleware::from_fn;
use actix_web::{HttpResponse, web};
use pgconvoy_core::failure::Failure;
use pgconvoy_core::ids::UnitId;

type Page = Result<HttpResponse, Trouble>;

pub(crate) fn pages(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/assets/{name}").get(assets::asset))
        .service(web::resource("/login").get(login::page).post(login::enter))
        .service(web::resource("/logout").post(login::leave))
        .service(web::resource("/").wrap(from_fn(settle)).get(fleet))
        .service(web::resource("/events").wrap(from_fn(settle)).get(streams::of_fleet))
        .service(web::resource("/jobs/{id}").wrap(from_fn(settle)).get(job))
        .service(web::resource("/jobs/{id}/events").wrap(from_fn(settle)).get(streams::of_job))
        .service(web::resource("/jobs/{id}/units/{unit}").wrap(from_fn(settle)).get(unit))
        .service(web::resource("/jobs/{id}/pause").wrap(from_fn(settle)).post(pause))
        .service(web::resource("/jobs/{id}/resume").wrap(from_fn(settle)).post(resume))
        .service(web::resource("/jobs/{id}/cancel").wrap(from_fn(settle)).post(cancel));
}

/// What the fleet page shows of this moment. Nobody waits for a repository.
pub(super) fn fleet_view(shared: &Shared, lead: &Lead) -> Result<FleetView, Failure> {
    let mut report: Report = shared.survey.report(stock::last_end(lead))?;
    stock::mark_running(&mut report, lead);
    Ok(FleetView::of(&report, &lead.jobs(), &lead.workers(), now()))
}

async fn fleet(asked: Asked, shared: web::Data<Shared>) -> Page {
    asked.by(TokenRole::Viewer)?;
    let content = fleet_page::content(&fleet_view(&shared, &asked.lead)?);
    let frame = Frame {
        title: "Fleet",
        asked: &asked,
        coordinator: shared.fleet.name(),
        stream: "/events",
        state: "fleet",
        content,
    };
    Ok(html(&mut HttpResponse::Ok(), frame.page().into_string()))
}

/// What the page of a job shows of this moment.
pub(super) fn job_view(shared: &Shared, lead: &Lead, view: &JobView, look: Option<&Look>) -> JobPageView {
    // Without them a repository is told by its number alone.
    let places = shared.survey.places().ok();
    let places = places.as_ref().map_or(&[][..], |places| &places.repositories);
    JobPageView::of(&Known { view, look, workers: &lead.workers(), places }, now())
}

/// The same as all who have the page open are told it.
pub(super) async fn seen(shared: &Shared, lead: &Lead, view: &JobView) -> Seen {
    let make = |look: Option<&Look>| streams::page_of_job(&job_view(shared, lead, view, look));
    shared.watching.job(lead, view, make).await
}

async fn job(asked: Asked, id: web::Path<String>, shared: web::Data<Shared>) -> Page {
    asked.by(TokenRole::Viewer)?;
    let (id, view) = routes::known(&asked, &id)?;
    let seen = seen(&shared, &asked.lead, &view).await;
    let shown = job_view(&shared, &asked.lead, &view, seen.look.as_deref());
    let proof = (asked.bearer.role >= TokenRole::Operator).then(|| session::proof(&asked.token));
    let frame = Frame {
        title: &shown.title(),
        asked: &asked,
        coordinator: shared.fleet.name(),
        stream: &format!("/jobs/{id}/events"),
        state: shown.state,
        content: job_page::content(&shown, proof.as_deref()),
    };
    Ok(html(&mut HttpResponse::Ok(), frame.page().into_string()))
}

/// One unit, for whoever points at it on the map.
async fn unit(asked: Asked, path: web::Path<(String, u32)>) -> Result<HttpResponse, Refusal> {
    asked.by(TokenRole::Viewer)?;
    let (id, number) = path.into_inner();
    let (id, view) = routes::known(&asked, &id)?;
    let units = asked.lead.units(id, ListUnits { from: UnitId(number), count: 1 }).await;
    let source = view.record.begun.map(|begun| begun.source);
    match units.first() {
        Some(unit) => Ok(HttpResponse::Ok().json(json::unit(unit, source.as_ref()))),
        None => Err(Refusal::not_found("there is no such unit, or none any more")),
    }
}

async fn pause(asked: Asked, id: web::Path<String>) -> Page {
    routes::to_pause(&asked, &id, true).await?;
    Ok(see_other(&format!("/jobs/{id}")))
}

async fn resume(asked: Asked, id: web::Path<String>) -> Page {
    routes::to_pause(&asked, &id, false).await?;
    Ok(see_other(&format!("/jobs/{id}")))
}

async fn cancel(asked: Asked, id: web::Path<String>) -> Page {
    routes::to_cancel(&asked, &id).await?;
    Ok(see_other(&format!("/jobs/{id}")))
}
