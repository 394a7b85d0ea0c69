//! Counts requests, for `/metrics`: by route and never by what was in a path.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use prometheus_client::{
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};
use tokio::time::Instant;

/// Label names and values.
pub(super) type Labels = Vec<(&'static str, String)>;

/// From a page out of memory to a test of a silent destination, seconds.
const DURATIONS: [f64; 9] = [0.001, 0.005, 0.02, 0.1, 0.25, 1.0, 5.0, 20.0, 45.0];

/// What was asked so far. Clones are the same.
#[derive(Debug, Clone)]
pub struct Measures(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    requests: Family<Labels, Counter>,
    auth_failures: Counter,
    /// Not a family: a histogram for each of a hundred routes tells nobody more.
    durations: Mutex<Histogram>,
}

impl Default for Measures {
    fn default() -> Self {
        Self(Arc::new(Inner {
            requests: Family::default(),
            auth_failures: Counter::default(),
            durations: Mutex::new(Histogram::new(DURATIONS)),
        }))
    }
}

impl Measures {
    /// Puts what was counted where it is asked for.
    pub(super) fn register(&self, registry: &mut Registry) {
        let inner = &self.0;
        registry.register("http_requests", "Requests to the admin address, by route", inner.requests.clone());
        registry.register(
            "auth_failures",
            "Requests that proved nobody, or somebody without the right",
            inner.auth_failures.clone(),
        );
        let durations = inner.durations.lock().unwrap_or_else(PoisonError::into_inner).clone();
        registry.register(
            "http_request_duration_seconds",
            "From a request's head to its answer's",
            durations,
        );
    }

    fn count(&self, route: &str, method: &str, status: u16, took: Duration) {
        let labels =
            vec![("route", route.to_owned()), ("method", method.to_owned()), ("code", status.to_string())];
        self.0.requests.get_or_create(&labels).inc();
        if matches!(status, 401 | 403) {
            self.0.auth_failures.inc();
        }
        self.0.durations.lock().unwrap_or_else(PoisonError::into_inner).observe(took.as_secs_f64());
    }
}

/// The layer around every route.
pub(super) async fn around(State(measures): State<Measures>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    // What a stranger types is no label: methods are a few, and paths that lead nowhere are one.
    let method = match request.method().as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS") => known.to_owned(),
        _ => "OTHER".to_owned(),
    };
    let response = next.run(request).await;
    let problem = response.extensions().get::<super::problem::Problem>();
    let status = problem.map_or(response.status(), super::problem::Problem::status);
    measures.count(route.as_deref().unwrap_or("none"), &method, status.as_u16(), began.elapsed());
    response
}
