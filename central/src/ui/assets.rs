//! The style sheet, the script and the icon: part of the program, under names that change with their
//! content, so that browsers may keep them for ever.

use std::sync::LazyLock;

use axum::{
    extract::Path,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

static STYLE: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("app", "css", "text/css; charset=utf-8", include_bytes!("assets/app.css")));
static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("app", "js", "text/javascript; charset=utf-8", include_bytes!("assets/app.js"))
});
static ICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("icon", "svg", "image/svg+xml", include_bytes!("assets/icon.svg")));

struct Asset {
    /// `app.0f3a….css`
    name: String,
    kind: &'static str,
    bytes: &'static [u8],
}

impl Asset {
    fn new(stem: &str, extension: &str, kind: &'static str, bytes: &'static [u8]) -> Self {
        let hash = Sha256::digest(bytes).iter().take(6).map(|byte| format!("{byte:02x}")).collect::<String>();
        Self { name: format!("{stem}.{hash}.{extension}"), kind, bytes }
    }
}

/// What a page links to.
#[derive(Debug, Clone)]
pub(super) struct Links {
    pub(super) style: String,
    pub(super) script: String,
    pub(super) icon: String,
}

impl Links {
    pub(super) fn new() -> Self {
        let link = |asset: &Asset| format!("/assets/{}", asset.name);
        Self { style: link(&STYLE), script: link(&SCRIPT), icon: link(&ICON) }
    }
}

pub(super) async fn serve(Path(name): Path<String>) -> Response {
    match [&*STYLE, &*SCRIPT, &*ICON].into_iter().find(|asset| asset.name == name) {
        Some(asset) => {
            let headers = [
                (header::CONTENT_TYPE, asset.kind),
                (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
            ];
            (headers, asset.bytes).into_response()
        }
        // A page of another version of central is open in somebody's browser.
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
