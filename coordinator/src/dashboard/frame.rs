//! What every page has around it: head, way out, the sign of life, what is read aloud, and marks that pages share.

use super::assets::{ICON, SCRIPT, STYLE};
use crate::api::asking::Asked;
use crate::dashboard::session;
use maud::{DOCTYPE, Markup, html};
use pgconvoy_core::failure::Failure;

/// How a state is coloured; its word always stands beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tone {
    Good,
    Work,
    Warn,
    Bad,
    Idle,
}

impl Tone {
    fn class(self) -> &'static str {
        match self {
            Tone::Good => "good",
            Tone::Work => "work",
            Tone::Warn => "warn",
            Tone::Bad => "bad",
            Tone::Idle => "idle",
        }
    }

    /// For whoever sees no colours.
    fn shape(self) -> &'static str {
        match self {
            Tone::Good => "✓",
            Tone::Work => "▶",
            Tone::Warn => "!",
            Tone::Bad => "✕",
            Tone::Idle => "·",
        }
    }
}

/// A state as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sign {
    pub(super) tone: Tone,
    pub(super) word: String,
}

impl Sign {
    pub(super) fn new(tone: Tone, word: impl Into<String>) -> Sign {
        Sign { tone, word: word.into() }
    }

    pub(super) fn markup(&self) -> Markup {
        html! {
            span class={ "sign " (self.tone.class()) } {
                span class="shape" aria-hidden="true" { (self.tone.shape()) }
                (self.word)
            }
        }
    }
}

/// A page of somebody who is logged in, kept up to date by a stream.
pub(super) struct Frame<'a> {
    pub(super) title: &'a str,
    pub(super) asked: &'a Asked,
    pub(super) coordinator: &'a str,
    /// Path of the stream that has its news.
    pub(super) stream: &'a str,
    /// What decides which buttons are shown.
    pub(super) state: &'a str,
    pub(super) content: Markup,
}

impl Frame<'_> {
    pub(super) fn page(self) -> Markup {
        let Frame { title, asked, coordinator, stream, state, content } = self;
        let epoch = asked.lead.leadership().epoch();
        let inside = html! {
            header class="top" {
                a class="brand" href="/" { (mark()) "pgconvoy" }
                nav aria-label="Pages" { a href="/" { "Fleet" } }
                p id="alive" class="alive" data-alive="still" { span class="lamp" aria-hidden="true" {} span id="alive-word" { "standing still" } }
                form method="post" action="/logout" class="who" {
                    span { (asked.bearer.name) " " span class="muted" { "(" (asked.bearer.role) ")" } }
                    input type="hidden" name="proof" value=(session::proof(&asked.token));
                    button type="submit" class="quiet" { "Log out" }
                }
            }
            main id="main" tabindex="-1" data-stream=(stream) data-state=(state) { (content) }
            p id="said" class="unseen" role="status" aria-live="polite" {}
            footer class="muted" {
                "pgconvoy " (env!("CARGO_PKG_VERSION")) " · led by " (coordinator) ", epoch " (epoch.0)
            }
        };
        document(title, true, inside)
    }
}

/// A page of nobody.
pub(super) fn outside(title: &str, content: Markup) -> Markup {
    document(title, false, html! { main id="main" class="outside" tabindex="-1" { (content) } })
}

pub(super) fn trouble(failure: &Failure) -> Markup {
    let content = html! {
        section class="card trouble" role="alert" {
            h1 { "This did not work" }
            p { (failure.message) }
            @for hint in &failure.hints { p class="hint" { (hint) } }
            p class="muted" { "Error " (failure.code) }
            p { a href="/" { "To the fleet" } }
        }
    };
    outside("Trouble", content)
}

fn document(title: &str, is_live: bool, inside: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · pgconvoy" }
                link rel="stylesheet" href=(STYLE.path);
                link rel="icon" type="image/svg+xml" href=(ICON.path);
                @if is_live { script src=(SCRIPT.path) defer {} }
            }
            body {
                a class="skip" href="#main" { "Skip to the content" }
                (inside)
            }
        }
    }
}

/// Three trucks of a convoy.
fn mark() -> Markup {
    html! {
        svg class="mark" viewBox="0 0 24 24" aria-hidden="true" focusable="false" {
            rect x="1" y="8" width="6" height="8" rx="1.5" {}
            rect x="9" y="8" width="6" height="8" rx="1.5" {}
            rect x="17" y="8" width="6" height="8" rx="1.5" {}
        }
    }
}

/// How far something is, with the figure beside it for whoever sees no bar.
pub(super) fn bar(label: &str, done: u64, total: u64) -> Markup {
    html! {
        progress aria-label=(label) max=(total.max(1)) value=(done.min(total.max(1))) {
            (super::words::percent(done, total)) "%"
        }
    }
}

/// A part of a page that is replaced when it changes.
pub(super) fn part(id: &str, content: Markup) -> Markup {
    html! { div class="part" id=(id) { (content) } }
}
