//! The fleet page as markup, in parts that are replaced one by one when they change.

use super::{FleetView, JobRow, LastBackup, RepositoryRow, StanzaRow, Tile, WorkerRow};
use crate::dashboard::frame::{bar, part};
use crate::dashboard::words;
use maud::{Markup, html};

pub(in crate::dashboard) fn content(view: &FleetView) -> Markup {
    html! {
        h1 class="unseen" { "Fleet" }
        (parts(view))
    }
}

pub(in crate::dashboard) fn parts(view: &FleetView) -> Markup {
    html! {
        (part("tiles", html! { ul class="tiles" { @for one in &view.tiles { (tile(one)) } } }))
        (part("jobs", jobs(&view.jobs)))
        (part("stanzas", stanzas(&view.stanzas)))
        div class="columns" {
            (part("workers", workers(&view.workers)))
            (part("repositories", repositories(&view.repositories)))
        }
        (part("past", past(&view.past)))
    }
}

fn tile(tile: &Tile) -> Markup {
    html! {
        li class="tile" {
            span class="name" { (tile.name) }
            span class="figure" { (tile.figure) }
            (tile.sign.markup())
        }
    }
}

fn jobs(jobs: &[JobRow]) -> Markup {
    html! {
        @if !jobs.is_empty() {
            section class="card" aria-labelledby="jobs-head" {
                h2 id="jobs-head" { "Running and waiting" }
                ul class="jobs" { @for job in jobs { li { (running(job)) } } }
            }
        }
    }
}

fn running(job: &JobRow) -> Markup {
    html! {
        div class="line" {
            a id={ "live-" (job.id) } class="strong" href={ "/jobs/" (job.id) } { (job.kind) " of " bdi { (job.stanza) } }
            (job.sign.markup())
            span class="muted" { (job.when) }
            @if let Some(label) = &job.label { span class="code" { (label) } }
        }
        @if job.units.1 > 0 {
            div class="line" {
                (bar("Bytes done", job.bytes.0, job.bytes.1))
                span class="figure" { (words::percent(job.bytes.0, job.bytes.1)) "%" }
                span { (words::count(job.units.0)) " of " (words::count(job.units.1)) " units" }
                @if let Some(rate) = &job.rate { span { (rate) } }
                @if let Some(eta) = &job.eta { span { "ends in " (eta) } }
                @if let Some(limiting) = &job.limiting { span class="muted" { "limited by " (limiting) } }
            }
        }
    }
}

fn stanzas(stanzas: &[StanzaRow]) -> Markup {
    html! {
        section class="card" aria-labelledby="stanzas-head" {
            h2 id="stanzas-head" { "Stanzas" }
            @if stanzas.is_empty() { p class="muted" { "The configuration of the coordinators names no stanza." } }
            @else {
                div class="scroll" tabindex="0" role="region" aria-labelledby="stanzas-head" {
                    table {
                        thead { tr {
                            th scope="col" { "Stanza" }
                            th scope="col" { "State" }
                            th scope="col" { "Last backup" }
                            th scope="col" { "Recoverable until" }
                            th scope="col" class="number" { "Size" }
                            th scope="col" { "Repositories" }
                        } }
                        tbody { @for row in stanzas { (stanza(row)) } }
                    }
                }
            }
        }
    }
}

fn stanza(row: &StanzaRow) -> Markup {
    html! {
        tr {
            th scope="row" { bdi { (row.name) } }
            td class="wide" {
                @match &row.running {
                    Some(job) => {
                        a id={ "of-" (row.name) } class="plain" href={ "/jobs/" (job.id) } { (row.sign.markup()) }
                        @if job.units.1 > 0 { " " (bar("Bytes done", job.bytes.0, job.bytes.1)) }
                    }
                    None => { (row.sign.markup()) }
                }
            }
            td class="wide" data-name="Last backup" { @match &row.last { Some(last) => { (last_backup(last)) } None => { span class="muted" { "none" } } } }
            td data-name="Recoverable until" {
                @match &row.recoverable {
                    Some(age) => { (age) }
                    None => { span class="muted" { "unknown" } }
                }
            }
            td class="number" data-name="Size" { @if let Some(last) = &row.last { (last.size) } }
            td class="wide" {
                ul class="chips" {
                    @for (key, sign) in &row.repositories { li { span class="muted" { "repo " (key) } " " (sign.markup()) } }
                }
            }
        }
    }
}

fn last_backup(last: &LastBackup) -> Markup {
    html! {
        span title=(last.at) { (last.age) }
        " " span class="muted" { (last.kind) }
        br;
        span class="code muted" { (last.label) }
    }
}

fn workers(workers: &[WorkerRow]) -> Markup {
    html! {
        section class="card" aria-labelledby="workers-head" {
            h2 id="workers-head" { "Workers" }
            @if workers.is_empty() { p class="muted" { "No worker has come yet." } }
            @else {
                table {
                    thead { tr {
                        th scope="col" { "Worker" }
                        th scope="col" { "State" }
                        th scope="col" { "Slots busy" }
                        th scope="col" { "Serves" }
                    } }
                    tbody { @for row in workers { (worker(row)) } }
                }
            }
        }
    }
}

fn worker(row: &WorkerRow) -> Markup {
    html! {
        tr {
            th scope="row" { bdi { (row.name) } }
            td class="wide" { (row.sign.markup()) }
            td data-name="Slots busy" {
                @if row.slots > 0 { (bar("Slots busy", row.busy.min(row.slots), row.slots)) " " span class="figure" { (row.busy) "/" (row.slots) } }
                @else { span class="muted" { "none" } }
            }
            td data-name="Serves" {
                @for (at, (stanza, server)) in row.serves.iter().enumerate() {
                    @if at > 0 { ", " }
                    bdi { (stanza) } " " span class="muted" { (server) }
                }
            }
        }
    }
}

fn repositories(repositories: &[RepositoryRow]) -> Markup {
    html! {
        section class="card" aria-labelledby="repositories-head" {
            h2 id="repositories-head" { "Repositories" }
            table {
                thead { tr {
                    th scope="col" { "Repository" }
                    th scope="col" { "State" }
                    th scope="col" class="number" { "Backups" }
                    th scope="col" { "Read" }
                } }
                tbody { @for row in repositories { (repository(row)) } }
            }
        }
    }
}

fn repository(row: &RepositoryRow) -> Markup {
    html! {
        tr {
            th scope="row" {
                "repo " (row.key)
                @if !row.is_required { " " span class="muted" { "not required" } }
                br;
                bdi class="code muted" { (row.place) }
            }
            td class="wide" {
                (row.sign.markup())
                @if let Some(trouble) = &row.trouble { br; span class="muted" { (trouble) } }
            }
            td class="number" data-name="Backups" { (words::count(row.backups)) }
            td data-name="Read" { @match &row.read { Some(age) => { (age) } None => { span class="muted" { "never" } } } }
        }
    }
}

fn past(past: &[JobRow]) -> Markup {
    html! {
        section class="card" aria-labelledby="past-head" {
            h2 id="past-head" { "Ended lately" }
            @if past.is_empty() { p class="muted" { "No job has ended yet." } }
            @else {
                div class="scroll" tabindex="0" role="region" aria-labelledby="past-head" {
                    table {
                        thead { tr {
                            th scope="col" { "Job" }
                            th scope="col" { "State" }
                            th scope="col" { "Ended" }
                            th scope="col" { "Took" }
                            th scope="col" { "Backup" }
                            th scope="col" { "By" }
                        } }
                        tbody { @for job in past { (ended(job)) } }
                    }
                }
            }
        }
    }
}

fn ended(job: &JobRow) -> Markup {
    html! {
        tr {
            th scope="row" { a id={ "past-" (job.id) } href={ "/jobs/" (job.id) } { (job.kind) " of " bdi { (job.stanza) } } }
            td class="wide" {
                (job.sign.markup())
                @if let Some(error) = &job.error { br; span class="muted" { (error) } }
            }
            td data-name="Ended" { (job.when) }
            td data-name="Took" { (job.took.as_deref().unwrap_or_default()) }
            td class="code" data-name="Backup" { (job.label.as_deref().unwrap_or_default()) }
            td data-name="By" { bdi { (job.by) } }
        }
    }
}
