//! What a browser fetches beside the pages: one style, one script, one picture, all of this program. A file's name bears the hash of what
//! is in it, so a browser keeps it for good and never has an old one.

use actix_web::http::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use actix_web::{HttpRequest, HttpResponse, web};
use sha2::{Digest, Sha256};
use std::sync::LazyLock;

pub(super) struct Asset {
    /// From the top: `/assets/style-0123456789abcdef.css`.
    pub(super) path: String,
    content_type: &'static str,
    etag: String,
    text: &'static str,
}

impl Asset {
    fn new(name: &str, suffix: &str, content_type: &'static str, text: &'static str) -> Asset {
        let hash: String = Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Asset {
            path: format!("/assets/{name}-{hash}.{suffix}"),
            content_type,
            etag: format!("\"{hash}\""),
            text,
        }
    }
}

pub(super) static STYLE: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("style", "css", "text/css; charset=utf-8", include_str!("assets/style.css")));
pub(super) static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("live", "js", "text/javascript; charset=utf-8", include_str!("assets/live.js"))
});
pub(super) static ICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("icon", "svg", "image/svg+xml", include_str!("assets/icon.svg")));

pub(super) async fn asset(request: HttpRequest, name: web::Path<String>) -> HttpResponse {
    let path = format!("/assets/{name}");
    let Some(asset) = [&*STYLE, &*SCRIPT, &*ICON].into_iter().find(|asset| asset.path == path) else {
        return HttpResponse::NotFound().finish();
    };
    let known = request.headers().get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let mut response = match known == Some(asset.etag.as_str()) {
        true => HttpResponse::NotModified(),
        false => HttpResponse::Ok(),
    };
    response
        .insert_header((ETAG, asset.etag.as_str()))
        .insert_header((CACHE_CONTROL, "public, max-age=31536000, immutable"))
        .content_type(asset.content_type);
    if known == Some(asset.etag.as_str()) { response.finish() } else { response.body(asset.text) }
}
