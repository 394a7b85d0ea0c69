//! The pages' way to the rest of central: its own REST API, asked within the process and on behalf of
//! whoever reads the page.

use std::net::SocketAddr;

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{ConnectInfo, FromRequestParts},
    http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tower::ServiceExt;

use super::reply::Failure;
use crate::admin::{API, problem::Problem};

/// The largest answer a page is made from. Every list of the API is bounded far below it.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The most of one list that a page looks through.
const LIST_MAX: usize = 10_000;

/// The REST API as the outside sees it, rights included: what each page is handed.
#[derive(Clone)]
pub(super) struct InProcess(pub(super) Router);

/// The API, with the credentials of one reader. Cheap to clone.
#[derive(Clone)]
pub(super) struct Api {
    router: Router,
    /// The headers by which the API knows who asks, and from where.
    credentials: HeaderMap,
    /// The reader's address, which the API's limits and audit go by.
    from: Option<ConnectInfo<SocketAddr>>,
}

/// What of a page's request says who asks; the rest is between browser and page.
const PASSED_ON: [HeaderName; 6] = [
    header::COOKIE,
    header::HOST,
    header::ORIGIN,
    header::USER_AGENT,
    header::AUTHORIZATION,
    HeaderName::from_static("sec-fetch-site"),
];

impl<S: Sync> FromRequestParts<S> for Api {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        let Some(InProcess(router)) = parts.extensions.get::<InProcess>() else {
            return Err(Failure::from(Refused::ours("the page has no API to ask".to_owned())).into_response());
        };
        let passed_on = |name: HeaderName| parts.headers.get(&name).map(|value| (name, value.clone()));
        Ok(Self {
            router: router.clone(),
            credentials: PASSED_ON.into_iter().filter_map(passed_on).collect(),
            // Nothing else of the page's own: the parameters of its path would count as the API's.
            from: parts.extensions.get().copied(),
        })
    }
}

/// The API said no. Its words are for people.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) code: String,
    pub(super) detail: String,
    pub(super) errors: Vec<FieldError>,
    pub(super) request_id: String,
}

/// What is wrong with one field of what was sent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct FieldError {
    pub(super) field: String,
    pub(super) reason: String,
}

/// An answer, with the version of the record it shows.
pub(super) struct Answered {
    pub(super) body: Value,
    /// To be given back with an edit.
    pub(super) version: Option<String>,
    /// A session begins, changes or ends: for the browser.
    pub(super) cookies: Vec<HeaderValue>,
}

/// An answer as it came. Lists of thousands are read from it without a detour.
struct Unread {
    body: Bytes,
    version: Option<String>,
    cookies: Vec<HeaderValue>,
    /// Where a list goes on, behind `/api/v1`.
    next: Option<String>,
}

impl Unread {
    fn read<T: DeserializeOwned>(&self) -> Result<T, Refused> {
        let body = if self.body.is_empty() { b"null" } else { &self.body[..] };
        let mut reader = serde_json::Deserializer::from_slice(body);
        serde_path_to_error::deserialize(&mut reader)
            .map_err(|error| Refused::ours(format!("the answer is not as expected: {error}")))
    }

    fn answered(self) -> Result<Answered, Refused> {
        let body = self.read()?;
        Ok(Answered { body, version: self.version, cookies: self.cookies })
    }
}

#[derive(Deserialize)]
struct ProblemBody {
    code: String,
    detail: String,
    #[serde(default)]
    errors: Vec<FieldError>,
    #[serde(default)]
    request_id: String,
}

impl Api {
    /// Reads `path`, which begins behind `/api/v1`.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Refused> {
        self.ask(Method::GET, path, None, None).await?.read()
    }

    /// Reads a list to its end, page by page.
    pub(super) async fn all<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, Refused> {
        let mut all = Vec::new();
        let mut next = Some(path.to_owned());
        while let Some(path) = next.take() {
            let answered = self.ask(Method::GET, &path, None, None).await?;
            all.extend(answered.read::<Vec<T>>()?);
            next = answered.next.filter(|_| all.len() < LIST_MAX);
        }
        Ok(all)
    }

    /// The same, with the version to give back when it is changed.
    pub(super) async fn versioned(&self, path: &str) -> Result<Answered, Refused> {
        self.ask(Method::GET, path, None, None).await?.answered()
    }

    /// Asks for something to be done.
    pub(super) async fn send(&self, method: Method, path: &str, body: Value) -> Result<Answered, Refused> {
        self.ask(method, path, Some(body), None).await?.answered()
    }

    /// Changes a record only while it is the one that was shown.
    pub(super) async fn change(
        &self,
        method: Method,
        path: &str,
        body: Value,
        version: &str,
    ) -> Result<Answered, Refused> {
        self.ask(method, path, Some(body), Some(version)).await?.answered()
    }

    /// Whether central is ready to work, as `/readyz` says.
    pub(super) async fn ready(&self) -> Result<(), Refused> {
        let request = self.request(Method::GET, "/readyz", Body::empty())?;
        let response = self.router.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
        if response.status().is_success() { Ok(()) } else { understand(response).await.map(drop) }
    }

    fn request(&self, method: Method, uri: &str, body: Body) -> Result<Request<Body>, Refused> {
        let request = Request::builder().method(method).uri(uri).body(body);
        let mut request = request.map_err(|error| Refused::ours(error.to_string()))?;
        *request.headers_mut() = self.credentials.clone();
        if let Some(from) = self.from {
            request.extensions_mut().insert(from);
        }
        Ok(request)
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        version: Option<&str>,
    ) -> Result<Unread, Refused> {
        let has_body = body.is_some();
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let mut request = self.request(method, &format!("{API}{path}"), body)?;
        let headers = request.headers_mut();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(version) = version {
            // What can be no version is none that anybody read.
            let version = HeaderValue::from_str(version).unwrap_or(HeaderValue::from_static("\"\""));
            headers.insert(header::IF_MATCH, version);
        }
        if has_body {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        // A router answers always: its error cannot be made.
        let response = self.router.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
        understand(response).await
    }
}

impl Refused {
    /// Something went wrong between page and API, which is our own fault.
    pub(super) fn ours(detail: String) -> Self {
        tracing::error!(detail, "A page could not be made from the API's answer");
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            code: "page_failed".to_owned(),
            detail,
            errors: Vec::new(),
            request_id: String::new(),
        }
    }

    /// The API's own words, where a page asks the rooms behind it.
    pub(super) fn by(problem: &Problem) -> Self {
        Self {
            status: problem.status(),
            code: problem.code().to_owned(),
            detail: problem.detail().to_owned(),
            errors: Vec::new(),
            request_id: String::new(),
        }
    }

    /// A form of ours holds what it cannot hold: refused as the API refuses a field.
    pub(super) fn field(field: &str, reason: impl Into<String>) -> Self {
        let error = FieldError { field: field.to_owned(), reason: reason.into() };
        Self {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            code: "invalid_field".to_owned(),
            detail: format!("{}: {}", error.field, error.reason),
            errors: vec![error],
            request_id: String::new(),
        }
    }

    /// The same refusal, with a field under the name that the form has for it.
    #[must_use]
    pub(super) fn called(mut self, field: &str, here: &str) -> Self {
        for error in self.errors.iter_mut().filter(|error| error.field == field) {
            here.clone_into(&mut error.field);
        }
        self
    }

    /// A refusal to be filled with words of a page's own.
    pub(super) fn quiet() -> Self {
        Self {
            status: StatusCode::CONFLICT,
            code: String::new(),
            detail: String::new(),
            errors: Vec::new(),
            request_id: String::new(),
        }
    }

    /// What is said about this field, if anything is.
    pub(super) fn of(&self, field: &str) -> Option<&str> {
        self.errors.iter().find(|error| error.field == field).map(|error| error.reason.as_str())
    }

    /// Whether somebody else changed the record since it was shown.
    pub(super) fn is_lost_update(&self) -> bool {
        self.status == StatusCode::PRECONDITION_FAILED || self.code == "conflict"
    }
}

async fn understand(response: Response) -> Result<Unread, Refused> {
    let status = response.status();
    let version = text_of(response.headers(), &header::ETAG);
    let cookies = response.headers().get_all(header::SET_COOKIE).iter().cloned().collect();
    let next = text_of(response.headers(), &header::LINK).and_then(|link| next_page(&link));
    let bytes = to_bytes(response.into_body(), ANSWER_BYTES_MAX)
        .await
        .map_err(|error| Refused::ours(format!("the answer was not whole: {error}")))?;
    if status.is_success() {
        return Ok(Unread { body: bytes, version, cookies, next });
    }
    let problem: ProblemBody = serde_json::from_slice(&bytes)
        .map_err(|error| Refused::ours(format!("{status}, and the reason is unreadable: {error}")))?;
    let ProblemBody { code, detail, errors, request_id } = problem;
    Err(Refused { status, code, detail, errors, request_id })
}

/// The address in `</api/v1/x?after=y>; rel="next"`, without the API's prefix.
fn next_page(link: &str) -> Option<String> {
    let (address, rest) = link.strip_prefix('<')?.split_once('>')?;
    rest.contains("rel=\"next\"").then(|| address.strip_prefix(API).map(str::to_owned))?
}

/// Turns an answer into what a page wants of it.
pub(super) fn read<T: DeserializeOwned>(body: Value) -> Result<T, Refused> {
    serde_path_to_error::deserialize(body)
        .map_err(|error| Refused::ours(format!("the answer is not as expected: {error}")))
}

fn text_of(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use axum::{Json, routing::get};
    use serde_json::json;

    use super::*;

    impl Api {
        fn of(router: Router) -> Self {
            Self { router, credentials: HeaderMap::new(), from: None }
        }
    }

    #[tokio::test]
    async fn the_parameters_of_a_pages_path_are_not_the_apis() {
        let api = Router::new().route(
            "/api/v1/x/{name}",
            get(|axum::extract::Path(name): axum::extract::Path<String>| async move { Json(json!(name)) }),
        );
        let page = |api: Api| async move { api.get::<String>("/x/inner").await.unwrap() };
        let pages = Router::new().route("/page/{name}", get(page)).layer(axum::Extension(InProcess(api)));
        let request = Request::builder().uri("/page/outer").body(Body::empty()).unwrap();
        let response = pages.oneshot(request).await.unwrap();
        assert_eq!(to_bytes(response.into_body(), 100).await.unwrap(), "inner");
    }

    #[tokio::test]
    async fn an_answer_comes_with_its_version() {
        let answer = Router::new()
            .route("/api/v1/x", get(|| async { ([(header::ETAG, "\"7\"")], Json(json!({"a": 1}))) }));
        let answered = Api::of(answer).versioned("/x").await.unwrap();
        assert_eq!((answered.body, answered.version.as_deref()), (json!({"a": 1}), Some("\"7\"")));
    }

    #[tokio::test]
    async fn a_refusal_names_the_field_and_the_reason() {
        let problem = json!({"code": "invalid_field", "detail": "url: no", "request_id": "r",
            "errors": [{"field": "url", "reason": "no"}]});
        let refusing = Router::new().route(
            "/api/v1/x",
            get(move || async move { (StatusCode::UNPROCESSABLE_ENTITY, Json(problem)).into_response() }),
        );
        let refused = Api::of(refusing).get::<Value>("/x").await.unwrap_err();
        assert_eq!((refused.of("url"), refused.of("name")), (Some("no"), None));
        assert!(!refused.is_lost_update());
    }

    #[tokio::test]
    async fn a_list_is_read_to_its_end() {
        let page = |link: Option<&'static str>, items: Value| {
            let mut response = Json(items).into_response();
            if let Some(link) = link {
                response.headers_mut().insert(header::LINK, HeaderValue::from_static(link));
            }
            response
        };
        let listing = Router::new().route(
            "/api/v1/x",
            get(move |request: Request<Body>| async move {
                match request.uri().query() {
                    None => page(Some("</api/v1/x?after=2>; rel=\"next\""), json!([1, 2])),
                    Some(_) => page(None, json!([3])),
                }
            }),
        );
        assert_eq!(Api::of(listing).all::<u8>("/x").await.unwrap(), [1, 2, 3]);
    }

    #[tokio::test]
    async fn an_answer_of_another_shape_is_our_fault_and_no_panic() {
        let odd = Router::new().route("/api/v1/x", get(|| async { Json(json!({"a": "text"})) }));
        let refused = Api::of(odd).get::<Vec<u8>>("/x").await.unwrap_err();
        assert_eq!(refused.status, StatusCode::INTERNAL_SERVER_ERROR);
    }
}
