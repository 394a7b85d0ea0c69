//! Turns a request's bearer token or session cookie into a [`Caller`], or refuses it.
//!
//! A token in the header speaks louder than a cookie: it was put there on purpose. A request that counts on a
//! cookie must come from our own pages if it may change anything.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use time::OffsetDateTime;

use super::{
    AppState, audit,
    client::session_of,
    problem::Problem,
    rights::{Caller, Needs, Who},
    same_origin::{self, From},
};
use crate::{audit::Trail, people::Secret};

/// What stands in front of a route.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) state: AppState,
    pub(super) needs: Needs,
}

/// How a request proves who sends it.
enum Proof<'a> {
    Token(&'a str),
    Cookie(Secret),
    None,
}

/// The layer in front of each route that needs a role, or wants to know who comes.
pub(super) async fn at_gate(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let trail = request.extensions().get::<Trail>().cloned();
    match gate.admit(request.method(), request.headers(), trail).await {
        Ok(caller) => {
            if let Some(caller) = caller {
                request.extensions_mut().insert(caller);
            }
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

impl Gate {
    async fn admit(
        &self,
        method: &Method,
        headers: &HeaderMap,
        trail: Option<Trail>,
    ) -> Result<Option<Caller>, Problem> {
        let proof = proof(headers);
        let may_change = same_origin::may_change(method);
        match (&proof, same_origin::from(headers)) {
            (Proof::Token(_), _) | (_, From::Here) => {}
            (_, From::Elsewhere) if may_change => return Err(Problem::cross_site()),
            // A browser that says nothing is too old to be protected; a program has tokens.
            (Proof::Cookie(_), From::Nowhere) if may_change => return Err(Problem::cross_site()),
            (_, From::Elsewhere | From::Nowhere) => {}
        }
        let mut caller = caller_by(&self.state, proof).await?;
        if let (Some(caller), Some(trail)) = (&mut caller, trail) {
            audit::sign(&trail, caller);
            caller.trail = Some(trail);
        }
        let Needs::Role(needed) = self.needs else { return Ok(caller) };
        let caller = caller.ok_or_else(Problem::unauthenticated)?;
        if caller.role < needed {
            return Err(Problem::forbidden(needed, caller.role));
        }
        Ok(Some(caller))
    }
}

/// Who sends a request with these headers, if anybody we know: for pages, which decide for themselves what to show.
///
/// # Errors
/// If the store cannot be read.
pub async fn caller_of(state: &AppState, headers: &HeaderMap) -> Result<Option<Caller>, Problem> {
    caller_by(state, proof(headers)).await
}

async fn caller_by(state: &AppState, proof: Proof<'_>) -> Result<Option<Caller>, Problem> {
    match proof {
        Proof::Token(token) => Ok(state.api_tokens.verify(token).await?),
        Proof::Cookie(secret) => {
            let session = state.people.session(&secret, OffsetDateTime::now_utc()).await?;
            Ok(session.map(|(session, user)| Caller {
                environment: session.environment.clone(),
                role: user.role,
                who: Who::User(Box::new(session)),
                trail: None,
            }))
        }
        Proof::None => Ok(None),
    }
}

fn proof(headers: &HeaderMap) -> Proof<'_> {
    if let Some(token) = bearer(headers) {
        return Proof::Token(token);
    }
    session_of(headers).map_or(Proof::None, Proof::Cookie)
}

/// The token of the one `Authorization` header; two headers are one too many to trust.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (only, None) = (all.next()?, all.next()) else { return None };
    let (scheme, token) = only.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_bearer_header_is_a_token() {
        let headers = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            headers
        };
        assert_eq!(bearer(&headers(&["Bearer abc"])), Some("abc"));
        assert_eq!(bearer(&headers(&["bearer abc"])), Some("abc"));
        assert_eq!(bearer(&headers(&["Basic abc"])), None);
        assert_eq!(bearer(&headers(&["Bearer a", "Bearer b"])), None);
        assert_eq!(bearer(&headers(&[])), None);
    }
}
