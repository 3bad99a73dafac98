//! Who asks for a page, and what a browser may do with it.
//!
//! As with the API: first the token, then either this coordinator leads or the one that does is asked, on behalf of the same token. A form
//! is looked at by the coordinator that the browser speaks to: it must come from a page of that very host and bear the session's proof.

use super::{frame, session};
use crate::api::asking::{self, Asked};
use crate::api::refusal::Refusal;
use crate::api::{Shared, forward};
use crate::fleet::Standing;
use actix_web::body::{BoxBody, EitherBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderMap, LOCATION, REFERRER_POLICY, REFRESH,
    X_CONTENT_TYPE_OPTIONS,
};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::{DefaultHeaders, Next};
use actix_web::{Error, HttpMessage, HttpResponse, ResponseError, web};
use pgconvoy_core::failure::{ErrorCode, Failure};
use serde::Deserialize;
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Nothing but what this coordinator serves: no other host, no script or style within a page, no frame around it.
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'self'; frame-ancestors 'none'";

/// On every answer of this server.
pub(crate) fn policy() -> DefaultHeaders {
    DefaultHeaders::new()
        .add((CONTENT_SECURITY_POLICY, POLICY))
        .add((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        // With "no-referrer" browsers would send forms with the origin "null".
        .add((REFERRER_POLICY, "same-origin"))
        .add(("cross-origin-opener-policy", "same-origin"))
        .add(("cross-origin-resource-policy", "same-origin"))
}

/// What is not shown or done, as a page.
#[derive(Debug)]
pub(super) struct Trouble(Refusal);

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Trouble {
        Trouble(refusal)
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Trouble {
        Trouble(failure.into())
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A page without a leader asks again by itself.
const REFRESH_SECONDS: &str = "3";

impl ResponseError for Trouble {
    fn status_code(&self) -> StatusCode {
        self.0.status()
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.0.status());
        if self.0.status() == StatusCode::SERVICE_UNAVAILABLE {
            response.insert_header((REFRESH, REFRESH_SECONDS));
        }
        html(&mut response, frame::trouble(self.0.failure()).into_string())
    }
}

/// What is shown now may be otherwise a moment later.
pub(super) fn html(response: &mut actix_web::HttpResponseBuilder, text: String) -> HttpResponse {
    response.insert_header((CACHE_CONTROL, "no-store")).content_type("text/html; charset=utf-8").body(text)
}

/// 303: what comes next is asked for, not sent again.
pub(super) fn see_other(path: &str) -> HttpResponse {
    HttpResponse::SeeOther()
        .insert_header((LOCATION, path))
        .insert_header((CACHE_CONTROL, "no-store"))
        .finish()
}

/// By what somebody is known.
enum Known {
    /// A program, or a coordinator that follows; no browser sends this by itself.
    Bearer(Zeroizing<String>),
    Browser(Zeroizing<String>),
}

enum Admitted {
    /// To be answered here.
    Here,
    /// Answered already.
    Elsewhere(HttpResponse),
}

/// Stands in front of every page.
pub(super) async fn settle(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<EitherBody<impl MessageBody, BoxBody>>, Error> {
    let known = match request.headers().contains_key(AUTHORIZATION) {
        true => asking::presented(request.headers()).map(Known::Bearer).ok(),
        false => session::token(request.request()).map(Known::Browser),
    };
    let Some(known) = known else {
        let response = to_login(&request);
        return Ok(request.into_response(response).map_into_right_body());
    };
    let admitted = match admit(&mut request, &known).await {
        Ok(admitted) => admitted,
        Err(Trouble(refusal)) if refusal.status() == StatusCode::UNAUTHORIZED => {
            let mut response = to_login(&request);
            let _ = response.add_cookie(&session::no_cookie());
            return Ok(request.into_response(response).map_into_right_body());
        }
        Err(trouble) => return Ok(request.into_response(trouble.error_response()).map_into_right_body()),
    };
    let mut response = match admitted {
        Admitted::Here => next.call(request).await?.map_into_left_body(),
        Admitted::Elsewhere(answer) => request.into_response(answer).map_into_right_body(),
    };
    if let Known::Browser(token) = &known {
        let _ = response.response_mut().add_cookie(&session::cookie(token));
    }
    Ok(response)
}

async fn admit(request: &mut ServiceRequest, known: &Known) -> Result<Admitted, Trouble> {
    let shared = asking::shared(request);
    let (Known::Bearer(token) | Known::Browser(token)) = known;
    let bearer = asking::bearer(&shared, token, request.peer_addr()).await?;
    let body = asking::body(request).await?;
    if matches!(known, Known::Browser(_)) && request.method() != Method::GET {
        may_post(request.headers(), token, &body)?;
    }
    let standing = shared.fleet.standing().borrow().clone();
    match standing {
        Standing::Leading(lead) => {
            request.set_payload(Payload::from(body));
            let token = Arc::new(token.clone());
            request.extensions_mut().insert(Asked { lead, bearer, token });
            Ok(Admitted::Here)
        }
        Standing::Following(leader) => elsewhere(request, &shared, token, body, leader).await,
    }
}

async fn elsewhere(
    request: &ServiceRequest,
    shared: &Shared,
    token: &str,
    body: web::Bytes,
    leader: Option<crate::fleet::LeaderAddress>,
) -> Result<Admitted, Trouble> {
    let answer = forward::to_leader(shared, request.request(), token, body, leader).await?;
    Ok(Admitted::Elsewhere(answer))
}

#[derive(Deserialize)]
struct Proven {
    proof: String,
}

/// Whether a form is one of ours.
pub(super) fn may_post(headers: &HeaderMap, token: &str, body: &[u8]) -> Result<(), Trouble> {
    let form = std::str::from_utf8(body).ok().and_then(|text| web::Query::<Proven>::from_query(text).ok());
    let is_proven = form.is_some_and(|form| session::proves(token, &form.proof));
    if is_proven && session::is_same_origin(headers) {
        return Ok(());
    }
    let message = "this does not come from a page of this dashboard, or from one of another session";
    Err(Refusal::new(StatusCode::FORBIDDEN, ErrorCode::Access, message)
        .hint("go back, load the page again, and repeat it")
        .into())
}

/// Where it goes on after the login. Streams are no pages: they are refused.
fn to_login(request: &ServiceRequest) -> HttpResponse {
    if request.path().ends_with("/events") {
        return HttpResponse::Unauthorized().insert_header((CACHE_CONTROL, "no-store")).finish();
    }
    match request.path() {
        path if request.method() == Method::GET && super::login::is_ours(path) && path != "/" => {
            see_other(&format!("/login?next={path}"))
        }
        _ => see_other("/login"),
    }
}
