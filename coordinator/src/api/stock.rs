//! What repositories hold, as the API tells it: stanzas with their newest backup and their reach, backups, repositories, and all
//! of it in pgBackRest's own form.

use super::Shared;
use super::asking::Asked;
use super::refusal::Refusal;
use crate::lead::Lead;
use crate::survey::{Report, RepositoryReport, Standing};
use crate::tokens::TokenRole;
use actix_web::{HttpResponse, web};
use pgconvoy_core::job::JobKind;
use pgconvoy_core::units::Timestamp;
use pgconvoy_repository::info::{InfoReport, StanzaInfo, to_json};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

type Answer = Result<HttpResponse, Refusal>;

/// For the first look into repositories; a program that asks has no use for "not yet".
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn of_repositories(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/stanzas").get(stanzas))
        .service(web::resource("/stanzas/{name}").get(stanza))
        .service(web::resource("/stanzas/{name}/backups").get(backups))
        .service(web::resource("/repos").get(repos))
        .service(web::resource("/info").get(info));
}

/// What is known, with the backups that run.
pub(crate) async fn report(
    shared: &Shared,
    lead: &Lead,
    patience: Duration,
) -> Result<Report, pgconvoy_core::failure::Failure> {
    let mut report = shared.survey.awaited(last_end(lead), patience).await?;
    mark_running(&mut report, lead);
    Ok(report)
}

/// When the last job ended: what was read before may be outdated.
pub(crate) fn last_end(lead: &Lead) -> Option<Timestamp> {
    lead.jobs().iter().filter_map(|view| view.record.finished).max()
}

pub(crate) fn mark_running(report: &mut Report, lead: &Lead) {
    let jobs = lead.jobs();
    let running = jobs.iter().map(|view| &view.record);
    let running = running.filter(|job| job.kind == JobKind::Backup && job.state.is_under_way());
    let running: BTreeSet<&str> = running.map(|job| job.stanza.as_str()).collect();
    for stanza in &mut report.info.stanzas {
        stanza.is_backup_running = running.contains(stanza.name.as_str());
    }
}

async fn asked_for(asked: &Asked, shared: &Shared) -> Result<Report, Refusal> {
    asked.by(TokenRole::Viewer)?;
    Ok(report(shared, &asked.lead, PATIENCE).await?)
}

fn told(stanza: &StanzaInfo) -> Value {
    to_json(&InfoReport { stanzas: vec![stanza.clone()] })[0].take()
}

/// Of `info`'s form, what an overview needs.
fn overview(stanza: &StanzaInfo) -> Value {
    let mut told = told(stanza);
    let last = told["backup"].as_array().and_then(|backups| backups.last()).cloned();
    json!({
        "name": told["name"].take(),
        "status": told["status"].take(),
        "cipher": told["cipher"].take(),
        "repo": told["repo"].take(),
        "last-backup": last,
        "pitr": told["pitr"].take(),
    })
}

fn named(report: &Report, name: &str) -> Result<StanzaInfo, Refusal> {
    let known = report.info.stanzas.iter().find(|stanza| stanza.name == name).cloned();
    known.ok_or_else(|| Refusal::not_found(format!("there is no stanza {name}")))
}

async fn stanzas(asked: Asked, shared: web::Data<Shared>) -> Answer {
    let report = asked_for(&asked, &shared).await?;
    Ok(HttpResponse::Ok().json(report.info.stanzas.iter().map(overview).collect::<Value>()))
}

async fn stanza(asked: Asked, shared: web::Data<Shared>, name: web::Path<String>) -> Answer {
    let report = asked_for(&asked, &shared).await?;
    Ok(HttpResponse::Ok().json(told(&named(&report, &name)?)))
}

async fn backups(asked: Asked, shared: web::Data<Shared>, name: web::Path<String>) -> Answer {
    let report = asked_for(&asked, &shared).await?;
    Ok(HttpResponse::Ok().json(told(&named(&report, &name)?)["backup"].take()))
}

async fn repos(asked: Asked, shared: web::Data<Shared>) -> Answer {
    let report = asked_for(&asked, &shared).await?;
    Ok(HttpResponse::Ok().json(report.repositories.iter().map(repository).collect::<Value>()))
}

fn repository(place: &RepositoryReport) -> Value {
    let (state, message) = match &place.standing {
        Standing::Unknown => ("unknown", None),
        Standing::Well => ("ok", None),
        Standing::Failed(message) => ("error", Some(message.clone())),
        Standing::Silent(since) => ("silent", Some(format!("it has not answered since {since}"))),
    };
    json!({
        "key": place.facts.key,
        "type": place.facts.kind,
        "description": place.facts.description,
        "layout": place.facts.layout,
        "required": place.facts.is_required,
        "state": state,
        "message": message,
        "as-of": place.as_of.map(|at| at.to_string()),
    })
}

async fn info(asked: Asked, shared: web::Data<Shared>) -> Answer {
    let report = asked_for(&asked, &shared).await?;
    Ok(HttpResponse::Ok().json(to_json(&report.info)))
}
