//! `/meta`: what a client must know before it may ask anything else. Needs no token, tells no state.

use axum::Json as Answer;
use proto::hello::{WIRE_VERSION, WIRE_VERSION_MIN};
use serde::Serialize;
use utoipa::ToSchema;

/// The answer of `GET /meta`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Meta {
    name: &'static str,
    version: &'static str,
    api: &'static str,
    /// The wire versions an agent may speak.
    wire_version_min: u16,
    wire_version: u16,
}

pub(super) async fn show() -> Answer<Meta> {
    Answer(Meta {
        name: "postern-central",
        version: env!("CARGO_PKG_VERSION"),
        api: super::API,
        wire_version_min: WIRE_VERSION_MIN,
        wire_version: WIRE_VERSION,
    })
}
