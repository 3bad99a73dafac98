//! The way in and out: a token becomes a cookie, and the cookie goes.
//!
//! Both are done by whichever coordinator the browser speaks to: nothing of it is the leader's.

use super::door::{self, Trouble, see_other};
use super::{frame, session};
use crate::api::Shared;
use crate::api::asking;
use crate::api::refusal::Refusal;
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use maud::{Markup, html};
use pgconvoy_core::failure::ErrorCode;
use serde::Deserialize;
use zeroize::Zeroizing;

#[derive(Deserialize)]
pub(super) struct Onward {
    next: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Entry {
    token: String,
    next: Option<String>,
}

/// A path of this dashboard, as its links are: whatever could lead to another host is none.
pub(super) fn is_ours(path: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte);
    path.starts_with('/') && !path.starts_with("//") && path.len() <= 256 && path.bytes().all(is_plain)
}

fn onward(next: Option<&str>) -> &str {
    next.filter(|path| is_ours(path)).unwrap_or("/")
}

pub(super) async fn page(onward: web::Query<Onward>) -> HttpResponse {
    shown(StatusCode::OK, onward.next.as_deref(), None)
}

fn shown(status: StatusCode, next: Option<&str>, refused: Option<&str>) -> HttpResponse {
    let page = frame::outside("Log in", form(onward(next), refused));
    door::html(&mut HttpResponse::build(status), page.into_string())
}

fn form(next: &str, refused: Option<&str>) -> Markup {
    html! {
        section class="card login" {
            h1 { "pgconvoy" }
            p class="muted" { "Log in with a token of this fleet." }
            @if let Some(refused) = refused { p class="refused" role="alert" { (refused) } }
            form method="post" action="/login" {
                label for="token" { "Token" }
                input id="token" name="token" type="password" autocomplete="current-password" required
                    autofocus spellcheck="false" maxlength="128"
                    aria-invalid=[refused.map(|_| "true")];
                input type="hidden" name="next" value=(next);
                button type="submit" class="main" { "Log in" }
            }
            p class="hint" { "On a coordinator's host: " code { "pgconvoy token create --name=YOU --role=viewer" } }
        }
    }
}

/// There is no session yet that a form could prove, but a browser says from where it comes.
pub(super) async fn enter(
    request: HttpRequest,
    shared: web::Data<Shared>,
    entry: web::Form<Entry>,
) -> Result<HttpResponse, Trouble> {
    if !session::is_same_origin(request.headers()) {
        let message = "this does not come from the login page of this host";
        return Err(Refusal::new(StatusCode::FORBIDDEN, ErrorCode::Access, message).into());
    }
    let Entry { token, next } = entry.into_inner();
    let token = Zeroizing::new(token);
    match asking::bearer(&shared, token.trim(), request.peer_addr()).await {
        Ok(bearer) => {
            tracing::info!("token '{}' logged in to the dashboard", bearer.name);
            let mut response = see_other(onward(next.as_deref()));
            let _ = response.add_cookie(&session::cookie(token.trim()));
            Ok(response)
        }
        Err(refusal) if refusal.status() == StatusCode::UNAUTHORIZED => {
            let told = "This token is not known, or was revoked.";
            Ok(shown(StatusCode::UNAUTHORIZED, next.as_deref(), Some(told)))
        }
        Err(refusal) => Err(refusal.into()),
    }
}

/// Nobody but a page of the session ends it.
pub(super) async fn leave(request: HttpRequest, body: web::Bytes) -> Result<HttpResponse, Trouble> {
    if let Some(token) = session::token(&request) {
        door::may_post(request.headers(), &token, &body)?;
    }
    let mut response = see_other("/login");
    let _ = response.add_cookie(&session::no_cookie());
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_of_the_dashboard_are_gone_on_to() {
        for path in ["/", "/jobs/6f1c", "/stanzas/main"] {
            assert!(is_ours(path), "{path}");
        }
        for path in [
            "",
            "jobs",
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "/a?b",
            "/\r\nx",
            "/%2f",
        ] {
            assert!(!is_ours(path), "{path}");
            assert_eq!(onward(Some(path)), "/");
        }
    }

    #[test]
    fn the_login_page_says_nothing_that_somebody_typed() {
        let shown = form(onward(Some("/\"><script>")), Some("No.")).into_string();
        assert!(!shown.contains("<script>") && shown.contains("value=\"/\""), "{shown}");
    }
}
