//! Turns a request's bearer token into a [`Caller`], or refuses it.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{AppState, problem::Problem, rights::Role};

/// The layer in front of each route that needs a role.
pub(super) async fn at_least(
    State((state, needed)): State<(AppState, Role)>,
    mut request: Request,
    next: Next,
) -> Response {
    match admit(&state, needed, request.headers()).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

async fn admit(
    state: &AppState,
    needed: Role,
    headers: &HeaderMap,
) -> Result<super::rights::Caller, Problem> {
    let token = bearer(headers).ok_or_else(Problem::unauthenticated)?;
    let caller = state.api_tokens.verify(token).await?.ok_or_else(Problem::unauthenticated)?;
    if caller.role < needed {
        return Err(Problem::forbidden(needed, caller.role));
    }
    Ok(caller)
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
