//! How agents become known over HTTP: a one-time token for a certificate, a certificate for a younger
//! one, an expired one for a place in the list of those that ask to come back. They live on the tunnel
//! listener, beside the websockets; browsers and administrators never come here.

use std::net::SocketAddr;

use axum::{
    Extension, Json as Answer, Router,
    extract::{ConnectInfo, State},
    http::{HeaderMap, StatusCode, header},
    middleware::from_fn,
    response::{IntoResponse, Response},
    routing::post,
};
use proto::hello::{
    ENROLL_PATH, EnrollRequest, Enrolled, RENEW_PATH, RETURN_PATH, Refusal, RefusalCode, RenewRequest,
    ReturnRequest,
};
use serde_json::json;
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tracing::{info, warn};

use super::{
    input::Json,
    request::{self, RequestId},
};
use crate::{
    audit::Audit,
    enrolment::{AgentIdentity, Enrolment},
    gateway::Gateways,
};

/// What the two handlers need. Cheap to clone.
#[derive(Clone)]
pub struct EnrolmentState {
    pub enrolment: Enrolment,
    pub audit: Audit,
    pub gateways: Gateways,
}

/// How many that ask to come back are looked at at once: anybody may ask, and a look costs signatures.
const RETURNS_MAX: usize = 4;
static RETURNS: Semaphore = Semaphore::const_new(RETURNS_MAX);

/// The three endpoints. The listener puts an `Option<AgentIdentity>` into each request's extensions:
/// whom the client certificate of this very connection names.
pub fn enrolment_routes(state: EnrolmentState) -> Router {
    Router::new()
        .route(ENROLL_PATH, post(enroll))
        .route(RENEW_PATH, post(renew))
        .route(RETURN_PATH, post(come_back))
        .layer(from_fn(request::around))
        .with_state(state)
}

async fn enroll(
    State(state): State<EnrolmentState>,
    from: Option<Extension<ConnectInfo<SocketAddr>>>,
    Extension(RequestId(id)): Extension<RequestId>,
    headers: HeaderMap,
    Json(request): Json<EnrollRequest>,
) -> Result<Answer<Enrolled>, Refused> {
    no_browser(&headers)?;
    let enrolled = state.enrolment.redeem(&request, OffsetDateTime::now_utc()).await.map_err(|error| {
        if error.refusal().code == RefusalCode::Internal {
            warn!(%error, name = %request.name, "An enrolment failed");
        } else {
            info!(%error, name = %request.name, "Refused an enrolment");
        }
        Refused(error.refusal())
    });
    state.note("agents.enroll", Some(request.name.to_string()), from, id, &enrolled).await;
    let enrolled = enrolled?;
    state.reload(&enrolled).await;
    Ok(Answer(enrolled))
}

async fn renew(
    State(state): State<EnrolmentState>,
    Extension(identity): Extension<Option<AgentIdentity>>,
    headers: HeaderMap,
    Json(request): Json<RenewRequest>,
) -> Result<Answer<Enrolled>, Refused> {
    no_browser(&headers)?;
    let Some(identity) = identity else {
        return Err(Refused(Refusal {
            code: RefusalCode::Unknown,
            message: "renewing needs the agent's present certificate on this connection: enrol first"
                .to_owned(),
        }));
    };
    let renewed = state.enrolment.renew(&identity, &request.csr_pem, OffsetDateTime::now_utc()).await;
    let renewed = renewed.map_err(|error| {
        warn!(%error, name = %identity.name, agent = %identity.agent, "A certificate was not renewed");
        Refused(error.refusal())
    })?;
    state.reload(&renewed).await;
    Ok(Answer(renewed))
}

async fn come_back(
    State(state): State<EnrolmentState>,
    from: Option<Extension<ConnectInfo<SocketAddr>>>,
    Extension(RequestId(id)): Extension<RequestId>,
    headers: HeaderMap,
    Json(request): Json<ReturnRequest>,
) -> Result<Answer<Enrolled>, Refused> {
    no_browser(&headers)?;
    let Ok(_place) = RETURNS.try_acquire() else {
        let message = "many ask to come back at once: try again in a minute".to_owned();
        return Err(Refused(Refusal { code: RefusalCode::Busy, message }));
    };
    let address = from.as_ref().map(|Extension(ConnectInfo(address))| address.ip());
    let back = state.enrolment.come_back(&request, address, OffsetDateTime::now_utc()).await;
    let back = back.map_err(|error| {
        let refusal = error.refusal();
        info!(%error, code = %refusal.code, "An agent with an expired certificate was not let in");
        Refused(refusal)
    })?;
    // That one asks in vain stands on its Process Server: it asks again and again.
    let name = back.name.to_string();
    let back = Ok(back);
    state.note("agents.return", Some(name), from, id, &back).await;
    let back = back?;
    state.reload(&back).await;
    Ok(Answer(back))
}

impl EnrolmentState {
    /// Into the audit log, behind what was done or refused. What nobody proved to be belongs to the first Environment.
    async fn note(
        &self,
        action: &str,
        name: Option<String>,
        from: Option<Extension<ConnectInfo<SocketAddr>>>,
        request_id: String,
        outcome: &Result<Enrolled, Refused>,
    ) {
        let Some((first, _)) = self.gateways.iter().next() else { return };
        let from = from.map(|Extension(ConnectInfo(address))| address.ip().to_canonical());
        let trail = self.audit.begin(first.clone(), action.to_owned(), name, from, request_id);
        match outcome {
            Ok(enrolled) => {
                let who = json!({ "kind": "agent", "name": enrolled.name, "agent": enrolled.agent });
                trail.by(&enrolled.environment, who, format!("agent/{}", enrolled.agent));
                trail.end(StatusCode::OK.as_u16(), None).await;
            }
            Err(refused) => trail.end(refused.status().as_u16(), Some(&refused.0.code.to_string())).await,
        }
    }

    /// The agent has its certificate either way; the room reads the records again at the next occasion.
    async fn reload(&self, enrolled: &Enrolled) {
        if let Some(gateway) = self.gateways.of(&enrolled.environment)
            && let Err(error) = gateway.reload().await
        {
            warn!(%error, name = %enrolled.name, "The gateway could not be told of an enrolment");
        }
    }
}

/// A page in somebody's browser may reach this address: agents never send an Origin.
fn no_browser(headers: &HeaderMap) -> Result<(), Refused> {
    if headers.contains_key(header::ORIGIN) {
        let message = "browsers are not served here".to_owned();
        return Err(Refused(Refusal { code: RefusalCode::Malformed, message }));
    }
    Ok(())
}

/// A refusal on its way to an agent, which reads the code and shows the message.
struct Refused(Refusal);

impl Refused {
    fn status(&self) -> StatusCode {
        match self.0.code {
            RefusalCode::Malformed | RefusalCode::Clock | RefusalCode::Version => StatusCode::BAD_REQUEST,
            RefusalCode::Busy | RefusalCode::Stopping | RefusalCode::Internal => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            RefusalCode::Unknown
            | RefusalCode::Cloned
            | RefusalCode::StaleEpoch
            | RefusalCode::UnknownClaim
            | RefusalCode::OtherSession
            | RefusalCode::NotSeated
            | RefusalCode::CannotResume
            | RefusalCode::Waiting
            | RefusalCode::Other => StatusCode::FORBIDDEN,
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status(), Answer(self.0)).into_response()
    }
}
