//! The page of a job as markup, in parts that are replaced one by one when they change. The map and the buttons are no such parts: the
//! script paints the one, and the style shows those of the others that fit the state.

use super::{JobPageView, RepositoryPart, WorkerPart};
use crate::dashboard::frame::{bar, part};
use crate::dashboard::words;
use maud::{Markup, html};

/// `proof`: that of the session, if its bearer may do something to the job.
pub(in crate::dashboard) fn content(view: &JobPageView, proof: Option<&str>) -> Markup {
    let id = &view.row.id;
    html! {
        div class="title" {
            h1 { (view.row.kind) " of " bdi { (view.row.stanza) } }
            @if let Some(proof) = proof { (buttons(id, proof, view.is_backup)) }
        }
        (head(view))
        @if view.is_backup { (units(id, view)) }
        (tables(view))
    }
}

fn units(id: &str, view: &JobPageView) -> Markup {
    html! {
        section class="card units" aria-labelledby="units-head" {
            h2 id="units-head" { "Units" }
            (legend(view))
            canvas id="map" tabindex="0" role="img" aria-label="Map of units" aria-describedby="map-help unit" data-units={ "/jobs/" (id) "/units/" } {}
            p id="map-help" class="hint" {
                "A field is a unit. With the arrow keys, Home and End you point at one, with Enter you ask for it; or click."
            }
            p id="unit" class="code" role="status" aria-live="polite" {}
        }
    }
}

pub(in crate::dashboard) fn parts(view: &JobPageView) -> Markup {
    html! { (head(view)) (legend(view)) (tables(view)) }
}

fn buttons(id: &str, proof: &str, may_be_paused: bool) -> Markup {
    html! {
        div class="buttons" role="group" aria-label="What may be done to this job" {
            @if may_be_paused {
                (button(id, "pause", proof, "Pause", "when-running"))
                (button(id, "resume", proof, "Resume", "when-paused main"))
            }
            details class="when-live" {
                summary { "Cancel…" }
                p { "Nothing of it is published, and what was stored is given up." }
                (button(id, "cancel", proof, "Cancel this job", "danger"))
            }
        }
    }
}

fn button(id: &str, what: &str, proof: &str, text: &str, class: &str) -> Markup {
    html! {
        form method="post" action={ "/jobs/" (id) "/" (what) } class=(class) {
            input type="hidden" name="proof" value=(proof);
            button type="submit" class=(class) { (text) }
        }
    }
}

fn head(view: &JobPageView) -> Markup {
    let row = &view.row;
    part(
        "head",
        html! {
            section class="card" aria-label="How far it is" {
                div class="line" {
                    (row.sign.markup())
                    @if let Some(phase) = view.phase { span class="muted" { (phase) } }
                    @if let Some(label) = &row.label { span class="code" { (label) } }
                }
                @if row.bytes.1 > 0 {
                    (bar("Bytes done", row.bytes.0, row.bytes.1))
                    dl class="gauges" {
                        (gauge("Done", &format!("{}%", words::percent(row.bytes.0, row.bytes.1))))
                        (gauge("Units", &format!("{} of {}", words::count(row.units.0), words::count(row.units.1))))
                        (gauge("Bytes", &format!("{} of {}", words::bytes(row.bytes.0), words::bytes(row.bytes.1))))
                        @if !view.is_over {
                            (gauge("Rate", row.rate.as_deref().unwrap_or("–")))
                            (gauge("Ends in", row.eta.as_deref().unwrap_or("–")))
                            (gauge("Limited by", row.limiting.as_deref().unwrap_or("–")))
                        }
                        (gauge(if view.is_over { "Took" } else { "Running for" }, row.took.as_deref().unwrap_or("–")))
                    }
                }
                @if let Some(failure) = &view.failure {
                    div class="failure" {
                        p { strong { "Error " (failure.code) ": " } (failure.message) }
                        @for hint in &failure.hints { p class="hint" { (hint) } }
                    }
                }
                @if !view.result.is_empty() {
                    dl class="gauges" { @for (name, figure) in &view.result { (gauge(name, figure)) } }
                }
            }
        },
    )
}

fn gauge(name: &str, figure: &str) -> Markup {
    html! { div { dt { (name) } dd { (figure) } } }
}

fn legend(view: &JobPageView) -> Markup {
    let counts = view.counts;
    let entry = |class: &str, name: &str, count: u64| {
        html! {
            li {
                span class={ "field " (class) } aria-hidden="true" {}
                (name) " " strong { (words::count(count)) }
            }
        }
    };
    part(
        "legend",
        html! {
            @if counts.total() == 0 { p class="muted" { "There are no units to be seen." } }
            @else {
                ul class="legend" {
                    (entry("done", "done", counts.done))
                    (entry("leased", "in hand", counts.leased))
                    (entry("again", "in hand again", counts.again))
                    (entry("pending", "pending", counts.pending))
                    li class="muted" { (words::count(counts.total())) " in all, " (words::count(view.retried)) " begun again" }
                }
            }
        },
    )
}

fn tables(view: &JobPageView) -> Markup {
    html! {
        div class="columns" {
            (part("parts-of-workers", workers(&view.workers)))
            (part("parts-of-repositories", repositories(&view.repositories)))
        }
        (part("about", about(view)))
    }
}

fn workers(parts: &[WorkerPart]) -> Markup {
    let is_live = parts.iter().any(|part| part.sign.is_some());
    html! {
        @if !parts.is_empty() {
            section class="card" aria-labelledby="of-workers-head" {
                h2 id="of-workers-head" { "Workers" }
                table {
                    thead { tr {
                        th scope="col" { "Worker" }
                        @if is_live {
                            th scope="col" { "State" }
                            th scope="col" class="number" { "In hand" }
                        }
                        th scope="col" class="number" { "Units" }
                        th scope="col" class="number" { "Read" }
                        @if is_live { th scope="col" class="number" { "Rate" } }
                    } }
                    tbody { @for part in parts { (worker(part, is_live)) } }
                }
            }
        }
    }
}

fn worker(part: &WorkerPart, is_live: bool) -> Markup {
    html! {
        tr {
            th scope="row" {
                bdi { (part.name) }
                @if part.keeps_session { " " span class="muted" { "keeps the session" } }
            }
            @if is_live {
                td class="wide" { @if let Some(sign) = &part.sign { (sign.markup()) } }
                td class="number" data-name="In hand" { @if let Some(units) = part.in_hand { (words::count(units)) } }
            }
            td class="number" data-name="Units" { (words::count(part.units)) }
            td class="number" data-name="Read" { (part.bytes) }
            @if is_live { td class="number" data-name="Rate" { (part.rate.as_deref().unwrap_or_default()) } }
        }
    }
}

fn repositories(parts: &[RepositoryPart]) -> Markup {
    html! {
        @if !parts.is_empty() {
            section class="card" aria-labelledby="of-repositories-head" {
                h2 id="of-repositories-head" { "Repositories" }
                table {
                    thead { tr {
                        th scope="col" { "Repository" }
                        th scope="col" { "State" }
                        th scope="col" class="number" { "Stored" }
                        th scope="col" class="number" { "Rate" }
                    } }
                    tbody { @for part in parts { (repository(part)) } }
                }
            }
        }
    }
}

fn repository(part: &RepositoryPart) -> Markup {
    html! {
        tr {
            th scope="row" { "repo " (part.key) br; bdi class="code muted" { (part.place) } }
            td class="wide" {
                (part.sign.markup())
                @if let Some(trouble) = &part.trouble { br; span class="muted" { (trouble) } }
            }
            td class="number" data-name="Stored" { (part.stored) }
            td class="number" data-name="Rate" { (part.rate.as_deref().unwrap_or_default()) }
        }
    }
}

fn about(view: &JobPageView) -> Markup {
    html! {
        section class="card" aria-labelledby="about-head" {
            h2 id="about-head" { "About this job" }
            dl class="facts" {
                dt { "Job" } dd class="code" { (view.row.id) }
                dt { "Submitted by" } dd { bdi { (view.row.by) } }
                @for (name, time) in &view.times { dt { (name) } dd { (time) } }
                @for (name, values) in &view.options {
                    dt { "--" bdi { (name) } }
                    dd class="code" {
                        @for (at, value) in values.iter().enumerate() { @if at > 0 { ", " } bdi { (value) } }
                    }
                }
            }
        }
    }
}
