//! Who a browser is: the cookie, and the proof that a form is one of our pages'.
//!
//! The cookie holds the token itself, out of reach of scripts (`HttpOnly`), of plain HTTP (`Secure`), of other sites (`SameSite=Strict`) and of other
//! hosts and paths (`__Host-`). Anything else that every coordinator accepts would need a secret that all of them have, and there is none: what could
//! be made of the hash in the lease store would let whoever reads the store pose as anybody, and a key kept there would be one more thing
//! to lose. So a session has no record of its own: each request asks by the token, as the API does, and one that was revoked is over
//! within seconds, wherever it is used.
//!
//! A form's proof is a MAC under the token: whoever can make it has the token. It holds for the session, on every coordinator.

use actix_web::HttpRequest;
use actix_web::cookie::time::Duration;
use actix_web::cookie::{Cookie, SameSite};
use actix_web::http::header::{HOST, HeaderMap, ORIGIN};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

const COOKIE: &str = "__Host-pgconvoy";
/// A browser that nobody looks at for so long forgets it; each page and stream renews it.
const IDLE: Duration = Duration::hours(12);
/// What is proved, apart from the token.
const PURPOSE: &[u8] = b"pgconvoy dashboard: a form of this session";
const FETCH_SITE: &str = "sec-fetch-site";

/// The token that the browser brings along.
pub(super) fn token(request: &HttpRequest) -> Option<Zeroizing<String>> {
    let cookie = request.cookie(COOKIE)?;
    (!cookie.value().is_empty()).then(|| Zeroizing::new(cookie.value().to_owned()))
}

pub(super) fn cookie(token: &str) -> Cookie<'static> {
    Cookie::build(COOKIE, token.to_owned())
        .path("/")
        .secure(true)
        .http_only(true)
        .same_site(SameSite::Strict)
        .max_age(IDLE)
        .finish()
}

/// Takes the cookie away.
pub(super) fn no_cookie() -> Cookie<'static> {
    let mut cookie = cookie("");
    cookie.set_max_age(Duration::ZERO);
    cookie
}

fn mac(token: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(token.as_bytes()).expect("a key may have any length");
    mac.update(PURPOSE);
    mac
}

/// What a form of this session carries.
pub(super) fn proof(token: &str) -> String {
    mac(token).finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// In constant time.
pub(super) fn proves(token: &str, proof: &str) -> bool {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let bytes: Option<Vec<u8>> = proof
        .as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect();
    bytes.is_some_and(|bytes| mac(token).verify_slice(&bytes).is_ok())
}

/// Whether the browser says that a page of this very host sends this. Every browser of today says one of the two.
pub(super) fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |value: Option<&actix_web::http::header::HeaderValue>| {
        value.and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    if let Some(site) = text(headers.get(FETCH_SITE))
        && site != "same-origin"
    {
        return false;
    }
    match (text(headers.get(ORIGIN)), text(headers.get(HOST))) {
        (Some(origin), Some(host)) => origin == format!("https://{host}"),
        (None, _) => headers.contains_key(FETCH_SITE),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
    use super::*;
    use actix_web::http::header::{HeaderName, HeaderValue};

    #[test]
    fn a_proof_belongs_to_its_token_alone() {
        let of_one = proof("pgc_1");
        assert_eq!(of_one.len(), 64);
        assert!(proves("pgc_1", &of_one));
        assert!(!proves("pgc_2", &of_one));
        for wrong in ["", "0", "zz", &of_one[2..], &of_one.replace(['0', '1', '2', '3', '4'], "5"), "ü"] {
            assert!(!proves("pgc_1", wrong), "{wrong}");
        }
    }

    #[test]
    fn the_cookie_is_out_of_reach_of_scripts_and_of_other_sites() {
        let told = cookie("pgc_1").to_string();
        for word in
            ["__Host-pgconvoy=pgc_1", "HttpOnly", "SameSite=Strict", "Secure", "Path=/", "Max-Age=43200"]
        {
            assert!(told.contains(word), "{told}");
        }
        assert!(!told.contains("Domain"));
        assert!(no_cookie().to_string().contains("Max-Age=0"));
    }

    #[test]
    fn only_a_page_of_the_same_host_counts() {
        let headers = |pairs: &[(&str, &str)]| -> HeaderMap {
            let pair = |(name, value): &(&str, &str)| {
                (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
            };
            pairs.iter().map(pair).collect()
        };
        let here = ("host", "c1:7433");
        for (is_ours, told) in [
            (true, vec![here, ("origin", "https://c1:7433")]),
            (true, vec![here, ("origin", "https://c1:7433"), ("sec-fetch-site", "same-origin")]),
            (true, vec![here, ("sec-fetch-site", "same-origin")]),
            (false, vec![here]),
            (false, vec![here, ("origin", "https://c1:7434")]),
            (false, vec![here, ("origin", "http://c1:7433")]),
            (false, vec![here, ("origin", "null")]),
            (false, vec![here, ("origin", "https://c1:7433"), ("sec-fetch-site", "cross-site")]),
            (false, vec![("origin", "https://c1:7433")]),
        ] {
            assert_eq!(is_same_origin(&headers(&told)), is_ours, "{told:?}");
        }
    }
}
