//! Who asks, and who answers: before anything is looked at, the token; then either this coordinator leads, or the one that does
//! is asked.
//!
//! A refused token is told of, without its secret, and costs whoever sent it time.

use super::refusal::Refusal;
use super::{Shared, forward};
use crate::fleet::Standing;
use crate::lead::{Caller, Lead};
use crate::tokens::{Bearer, Refused, TokenRole};
use actix_web::body::MessageBody;
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::PayloadError;
use actix_web::http::StatusCode;
use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use actix_web::middleware::Next;
use actix_web::{Error, FromRequest, HttpMessage, HttpRequest, web};
use pgconvoy_core::failure::ErrorCode;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// What a refused token waits for its answer: nothing to somebody who mistyped, much to somebody who guesses.
const REFUSAL_DELAY: Duration = Duration::from_millis(500);
/// The whole body must be there by then; a slow one only holds a connection.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A question with a known asker, to a leader. Handlers take it as an argument.
#[derive(Clone)]
pub(crate) struct Asked {
    pub(crate) lead: Arc<Lead>,
    pub(crate) bearer: Bearer,
    /// For whoever stays: it may be revoked meanwhile.
    pub(crate) token: Arc<Zeroizing<String>>,
}

impl Asked {
    /// The asker, if the role is high enough.
    pub(crate) fn by(&self, role: TokenRole) -> Result<Caller, Refusal> {
        if self.bearer.role < role {
            let message =
                format!("token '{}' is that of a {}: this takes {role}", self.bearer.name, self.bearer.role);
            return Err(Refusal::new(StatusCode::FORBIDDEN, ErrorCode::Access, message)
                .hint("pgconvoy token create makes one with another role"));
        }
        Ok(self.caller())
    }

    fn caller(&self) -> Caller {
        Caller { name: self.bearer.name.clone(), role: self.bearer.role.name().to_owned() }
    }
}

impl Asked {
    /// Something that changes the fleet: it is written down before it is done, and again with what came of it, also for those
    /// whose role does not allow it.
    pub(crate) async fn command<T>(
        &self,
        what: &str,
        object: &str,
        deed: impl AsyncFnOnce(&Caller) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let caller = match self.by(TokenRole::Operator) {
            Ok(caller) => caller,
            Err(refusal) => {
                self.lead.audit_refusal(&self.caller(), what, object, refusal.code()).await;
                return Err(refusal);
            }
        };
        let entry = self.lead.audit_begin(&caller, what, object).await?;
        let result = deed(&caller).await;
        self.lead.audit_end(entry, result.as_ref().map(|_| ()).map_err(Refusal::code)).await;
        result
    }
}

impl FromRequest for Asked {
    type Error = Refusal;
    type Future = Ready<Result<Asked, Refusal>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let asked = request.extensions().get::<Asked>().cloned();
        ready(asked.ok_or_else(|| Refusal::unavailable("this coordinator does not lead")))
    }
}

/// Stands in front of every question of the API.
pub(crate) async fn settle(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let shared = shared(&request);
    let token = presented(request.headers())?;
    let bearer = bearer(&shared, &token, request.peer_addr()).await?;
    let body = body(&mut request).await?;
    let standing = shared.fleet.standing().borrow().clone();
    match standing {
        Standing::Leading(lead) => {
            request.set_payload(Payload::from(body));
            request.extensions_mut().insert(Asked { lead, bearer, token: Arc::new(token) });
            Ok(next.call(request).await?.map_into_left_body())
        }
        Standing::Following(leader) => {
            let answer = forward::to_leader(&shared, request.request(), &token, body, leader).await?;
            Ok(request.into_response(answer).map_into_right_body())
        }
    }
}

pub(crate) fn shared(request: &ServiceRequest) -> web::Data<Shared> {
    request.app_data::<web::Data<Shared>>().cloned().expect("the app was given its data")
}

/// The whole body, if it is small and comes soon.
pub(crate) async fn body(request: &mut ServiceRequest) -> Result<web::Bytes, Refusal> {
    match tokio::time::timeout(BODY_TIMEOUT, request.extract::<web::Bytes>()).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) if matches!(error.as_error(), Some(PayloadError::Overflow)) => {
            let message = "the request's body is too large";
            Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::Format, message))
        }
        Ok(Err(error)) => Err(Refusal::malformed(format!("the request's body cannot be read: {error}"))),
        Err(_) => Err(Refusal::malformed("the request's body did not come in time")),
    }
}

/// The token of the `Authorization` header.
pub(crate) fn presented(headers: &HeaderMap) -> Result<Zeroizing<String>, Refusal> {
    let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    match header.and_then(|header| header.strip_prefix("Bearer ")) {
        Some(text) => Ok(Zeroizing::new(text.trim().to_owned())),
        None => Err(unauthorized("a token is needed").hint("send it as 'Authorization: Bearer TOKEN'")),
    }
}

/// Whose token it is.
pub(crate) async fn bearer(
    shared: &Shared,
    token: &str,
    peer: Option<SocketAddr>,
) -> Result<Bearer, Refusal> {
    let refused = match shared.tokens.bearer(token).await {
        Ok(bearer) => return Ok(bearer),
        Err(refused) => refused,
    };
    let id = match refused {
        Refused::CannotTell(failure) => return Err(Refusal::unavailable(failure.message)),
        Refused::NotAToken => "of no known form".to_owned(),
        Refused::Unknown(id) => id,
    };
    let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
    let Ok(_waiting) = shared.refusals.try_acquire() else {
        tracing::warn!("token {id} from {peer} was turned away: too many are refused at once");
        return Err(Refusal::new(
            StatusCode::TOO_MANY_REQUESTS,
            ErrorCode::Access,
            "too many tokens are refused at once",
        ));
    };
    tracing::warn!("token {id} from {peer} was refused");
    tokio::time::sleep(REFUSAL_DELAY).await;
    Err(unauthorized("the token is not known, or was revoked").hint("check token-file in [fleet]"))
}

fn unauthorized(message: &str) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, ErrorCode::Access, message)
}
