//! Asks central, and turns every way it can go wrong into a [`Failure`] with a next step.

use std::{error::Error, path::Path, time::Duration};

use reqwest::{Certificate, Method, StatusCode, Url, header, redirect};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{args::Connection, failure::Failure, secret_file, stream::Stream};

/// How long central has for a connection, its TLS handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long central has for a whole answer: testing a destination waits for an agent's dial.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// An answer larger than this is not read to its end.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How long one stream of events may last; central ends it before.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// More pages than this are not read.
const PAGES_MAX: usize = 1000;

/// Central's API, with the right to use it.
pub(crate) struct Client {
    http: reqwest::Client,
    api: Url,
    token: String,
}

/// An RFC 9457 problem, as far as we show it.
#[derive(Debug, Deserialize)]
struct Problem {
    code: String,
    detail: String,
    request_id: Option<String>,
}

impl Client {
    /// Reads the token and the CA; asks nobody yet.
    ///
    /// # Errors
    /// [`Failure::Usage`] for whatever is missing or unreadable.
    pub(crate) fn new(connection: &Connection) -> Result<Self, Failure> {
        let api = api_url(connection.server.as_deref())?;
        let token = match &connection.token_file {
            Some(path) => secret_file::read(path)?,
            None => token_from_environment()?,
        };
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Failure::Usage("the token holds characters that no token has: copy it again".into()));
        }
        // An error means that somebody chose a provider before us, and one is all we need.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("posternctl/", env!("CARGO_PKG_VERSION")))
            .https_only(true)
            // Following one could carry the token to someone else.
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT);
        if let Some(path) = &connection.ca_cert {
            http = http.tls_certs_only(read_ca(path)?);
        }
        let http =
            http.build().map_err(|error| Failure::Usage(format!("cannot prepare TLS: {}", chain(&error))))?;
        Ok(Self { http, api, token })
    }

    /// The whole answer: of a list, every page, unless `path` limits it.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failure> {
        let (mut all, mut next) = self.page(Method::GET, path, None).await?;
        let mut pages = 1;
        while let (Some(path), false) = (next.take(), path.contains("limit=")) {
            pages += 1;
            if pages > PAGES_MAX {
                return Err(Failure::Failed(format!("{} answers without end: is it central?", self.host())));
            }
            let (page, further) = self.page(Method::GET, &path, None).await?;
            if let (Value::Array(all), Value::Array(page)) = (&mut all, page) {
                all.extend(page);
            }
            next = further;
        }
        Ok(all)
    }

    /// A stream of server-sent events.
    pub(crate) async fn follow(&self, path: &str) -> Result<Stream, Failure> {
        let url = self.url(path)?;
        let request = self.http.get(url).bearer_auth(&self.token).timeout(FOLLOW_TIMEOUT);
        let request = request.header(header::ACCEPT, "text/event-stream");
        let response = request.send().await.map_err(|error| self.no_answer(&error))?;
        match response.status() {
            status if status.is_success() => Ok(Stream::new(response)),
            status => match response.json::<Problem>().await {
                Ok(problem) => Err(refused(status, problem)),
                Err(_) => Err(Failure::Failed(format!("{} answered with {status}", self.host()))),
            },
        }
    }

    /// An answer of any length to the operator of central's machine, beside the API.
    pub(crate) async fn operator(&self, path: &str) -> Result<reqwest::Response, Failure> {
        let url =
            self.api.join(path).map_err(|error| Failure::Usage(format!("{path} is no path: {error}")))?;
        let request = self.http.post(url).bearer_auth(&self.token).timeout(FOLLOW_TIMEOUT);
        let response = request.send().await.map_err(|error| self.no_answer(&error))?;
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::UNAUTHORIZED => Err(Failure::Failed(format!(
                "{} does not take this token: only its operator's will do, DATA_DIR/operator.token of its present start",
                self.host()
            ))),
            status => Err(Failure::Failed(format!("{} answered with {status}", self.host()))),
        }
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Result<Value, Failure> {
        self.ask(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Result<Value, Failure> {
        self.ask(Method::PUT, path, Some(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Result<Value, Failure> {
        self.ask(Method::PATCH, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.ask(Method::DELETE, path, None).await
    }

    /// Where central is, for texts.
    pub(crate) fn host(&self) -> String {
        format!(
            "{}:{}",
            self.api.host_str().unwrap_or_default(),
            self.api.port_or_known_default().unwrap_or(443)
        )
    }

    fn url(&self, path: &str) -> Result<Url, Failure> {
        self.api
            .join(path.trim_start_matches('/'))
            .map_err(|error| Failure::Usage(format!("{path} is no path: {error}")))
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, Failure> {
        self.page(method, path, body).await.map(|(answer, _)| answer)
    }

    /// The answer, and where the next page of it is.
    async fn page(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<(Value, Option<String>), Failure> {
        let url = self.url(path)?;
        let mut request = self.http.request(method, url).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let mut response = request.send().await.map_err(|error| self.no_answer(&error))?;
        let status = response.status();
        let json =
            response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(
                |kind| kind.starts_with("application/json") || kind.starts_with("application/problem+json"),
            );
        let next = response.headers().get(header::LINK).and_then(|value| next_page(value.to_str().ok()?));
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.no_answer(&error))? {
            if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(Failure::Failed(format!("{} answers without end: is it central?", self.host())));
            }
            bytes.extend_from_slice(&chunk);
        }
        match status {
            // 202 and 204 say everything by their number.
            status if status.is_success() && bytes.is_empty() => Ok((Value::Null, None)),
            status if status.is_success() && json => serde_json::from_slice(&bytes)
                .map(|answer| (answer, next))
                .map_err(|error| Failure::Failed(format!("{} sent broken JSON: {error}", self.host()))),
            status => match serde_json::from_slice(&bytes) {
                Ok(problem) if !status.is_success() && json => Err(refused(status, problem)),
                _ => Err(Failure::Failed(format!(
                    "{} answered with {status}, but not as central's API does: check --server (the admin address)",
                    self.host()
                ))),
            },
        }
    }

    pub(crate) fn no_answer(&self, error: &reqwest::Error) -> Failure {
        let cause = chain(error);
        let next = if cause.contains("certificate") {
            "give --ca-cert or POSTERN_CA_CERT the CA certificate of this central"
        } else if error.is_timeout() {
            "check that central runs and that no firewall drops the way to it"
        } else {
            "check --server, and that central runs there"
        };
        Failure::NoAnswer(format!("no answer from {}: {cause}; {next}", self.host()))
    }
}

/// Reads an answer into what we show of it.
pub(crate) fn read<T: DeserializeOwned>(answer: &Value) -> Result<T, Failure> {
    T::deserialize(answer).map_err(|error| {
        Failure::Failed(format!(
            "central's answer is not what this posternctl {} expects ({error}): use the version that came with central, or -o json",
            env!("CARGO_PKG_VERSION")
        ))
    })
}

/// The path behind the API's beginning of `</api/v1/…>; rel="next"`.
fn next_page(link: &str) -> Option<String> {
    let (target, rel) = link.strip_prefix('<')?.split_once('>')?;
    let path = target.strip_prefix("/api/v1/")?;
    rel.contains("rel=\"next\"").then(|| path.to_owned())
}

fn refused(status: StatusCode, problem: Problem) -> Failure {
    let next = match status {
        StatusCode::UNAUTHORIZED => "; check --token-file or POSTERN_TOKEN",
        StatusCode::FORBIDDEN => "; use a token with that role",
        _ => "",
    };
    let request = problem.request_id.map(|id| format!(", request {id}")).unwrap_or_default();
    let detail = crate::screen::plain(problem.detail.trim_end_matches('.'));
    Failure::Failed(format!("{detail}{next} ({}{request})", problem.code))
}

fn api_url(server: Option<&str>) -> Result<Url, Failure> {
    let example = "for example https://central.example:8443";
    let server = server.ok_or_else(|| {
        Failure::Usage(format!("where is central? Give --server or POSTERN_SERVER, {example}"))
    })?;
    let wrong =
        |why: String| Failure::Usage(format!("{server:?} is no address of central: {why}, {example}"));
    let url = Url::parse(server).map_err(|error| wrong(error.to_string()))?;
    if url.scheme() != "https" {
        return Err(wrong("it must begin with https://, because a token travels there".into()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("it must not hold a user or password".into()));
    }
    if !matches!(url.path(), "/" | "") || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("it must end after the port".into()));
    }
    url.join("/api/v1/").map_err(|error| wrong(error.to_string()))
}

fn token_from_environment() -> Result<String, Failure> {
    match std::env::var("POSTERN_TOKEN") {
        Ok(token) if !token.trim().is_empty() => Ok(token.trim().to_owned()),
        _ => Err(Failure::Usage(
            "no API token: give --token-file FILE, or set POSTERN_TOKEN in the environment".into(),
        )),
    }
}

fn read_ca(path: &Path) -> Result<Vec<Certificate>, Failure> {
    let wrong = |why: String| Failure::Usage(format!("the CA certificate {}: {why}", path.display()));
    let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(wrong("holds no PEM certificate".into())),
        Err(error) => Err(wrong(chain(&error))),
    }
}

/// An error and its causes in one sentence, each said once.
fn chain(error: &dyn Error) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let this = error.to_string();
        if !text.contains(&this) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&this);
        }
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_an_https_address_and_nothing_more() {
        assert_eq!(api_url(Some("https://c:1")).unwrap().as_str(), "https://c:1/api/v1/");
        assert_eq!(api_url(Some("https://c:1/")).unwrap().as_str(), "https://c:1/api/v1/");
        for wrong in ["http://c", "c:1", "https://me:secret@c", "https://c/api", "https://c?x", ""] {
            assert!(matches!(api_url(Some(wrong)), Err(Failure::Usage(_))), "{wrong}");
        }
        assert!(matches!(api_url(None), Err(Failure::Usage(_))));
    }

    #[test]
    fn the_next_page_is_one_of_the_api_or_none() {
        let link = "</api/v1/streams?after=1.2.3&limit=5>; rel=\"next\"";
        assert_eq!(next_page(link).as_deref(), Some("streams?after=1.2.3&limit=5"));
        assert_eq!(next_page("<https://elsewhere/api/v1/x>; rel=\"next\""), None);
        assert_eq!(next_page("</api/v1/x>; rel=\"prev\""), None);
    }

    #[test]
    fn a_refusal_shows_reason_code_and_request() {
        let problem = Problem {
            code: "forbidden".into(),
            detail: "this needs the role operator.".into(),
            request_id: Some("r1".into()),
        };
        assert_eq!(
            refused(StatusCode::FORBIDDEN, problem).to_string(),
            "this needs the role operator; use a token with that role (forbidden, request r1)"
        );
    }
}
