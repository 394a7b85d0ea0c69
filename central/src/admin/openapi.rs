//! The API's description, OpenAPI 3.1, made from the table of routes and nothing else.
//!
//! The document is committed as `docs/openapi.json`; a test holds both equal.

use std::collections::BTreeMap;

use axum::{
    http::{Method, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use super::{
    API,
    about::About,
    described::about,
    rights::Needs,
    routes::{self, Route},
};

/// What of the admin address is no API and not described: the pages for people.
fn is_described(route: &Route) -> bool {
    route.path.starts_with(API) || matches!(route.path.as_str(), "/livez" | "/readyz" | "/metrics")
}

/// `GET /api/v1/openapi.json`.
pub(super) async fn show() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document_text()).into_response()
}

/// The document as it is served and committed.
pub fn document_text() -> String {
    // Maps of strings serialise.
    let mut text = serde_json::to_string_pretty(&document()).unwrap_or_default();
    text.push('\n');
    text
}

/// The document.
pub fn document() -> Value {
    let mut paths = BTreeMap::<String, Map<String, Value>>::new();
    let mut schemas = BTreeMap::<String, Value>::new();
    for route in routes::table().iter().filter(|route| is_described(route)) {
        let about = about_of(route);
        let methods = paths.entry(route.path.clone()).or_default();
        methods.insert(route.method.as_str().to_lowercase(), operation(route, &about));
        let answers = about.answers.iter().filter_map(|answers| answers.shape.as_ref());
        let shapes = about.takes.iter().chain(answers);
        schemas.extend(shapes.flat_map(|shape| shape.components()));
    }
    schemas.insert("Problem".to_owned(), problem());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Postern",
            "version": "1",
            "summary": "The administration of a Secure Gateway.",
            "description": "Everything the command line and the pages do. Additive: fields and routes are added, none changes its meaning.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "An API token: posternctl tokens create." },
            },
            "responses": {
                "Problem": {
                    "description": "What went wrong, as RFC 9457 wants it.",
                    "headers": { "X-Request-Id": { "schema": { "type": "string" } } },
                    "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
                },
            },
        },
    })
}

/// What is said of it; nothing where nobody has said anything yet.
fn about_of(route: &Route) -> About {
    about(&route.method, route.path.strip_prefix(API).unwrap_or(&route.path)).unwrap_or_default()
}

fn operation(route: &Route, about: &About) -> Value {
    let mut operation = json!({
        "operationId": operation_id(route),
        "tags": [tag(&route.path)],
        "summary": about.summary,
        "parameters": parameters(route, about),
        "responses": responses(route, about),
    });
    if let Some(shape) = &about.takes {
        operation["requestBody"] = json!({ "content": { "application/json": { "schema": shape.schema() } } });
    }
    match route.needs {
        Needs::Nothing => operation["security"] = json!([]),
        Needs::Role(role) => {
            operation["security"] = json!([{ "token": [] }]);
            operation["x-role"] = json!(role);
            operation["description"] = json!(format!("Needs the role {role}."));
        }
    }
    operation
}

/// `get_destinations_name`: stable as long as method and path are.
fn operation_id(route: &Route) -> String {
    let path = route.path.strip_prefix(API).unwrap_or(&route.path);
    let words = path.split(['/', '-', '{', '}', '.']).filter(|word| !word.is_empty());
    std::iter::once(route.method.as_str().to_lowercase())
        .chain(words.map(str::to_owned))
        .collect::<Vec<_>>()
        .join("_")
}

fn tag(path: &str) -> &str {
    path.strip_prefix(API).unwrap_or("health").trim_start_matches('/').split('/').next().unwrap_or_default()
}

fn parameters(route: &Route, about: &About) -> Vec<Value> {
    let in_path = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let in_path = in_path
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }));
    let in_query = about.query.iter().map(|parameter| {
        json!({ "name": parameter.name, "in": "query", "description": parameter.about, "schema": { "type": parameter.kind } })
    });
    let mut all: Vec<_> = in_path.chain(in_query).collect();
    let header = |name: &str, about: &str| json!({ "name": name, "in": "header", "description": about, "schema": { "type": "string" } });
    if about.versioned && !matches!(route.method, Method::GET | Method::POST) {
        all.push(header("If-Match", "The ETag it was read with: answered 412 when somebody was faster."));
    }
    if route.method == Method::POST && matches!(route.needs, Needs::Role(_)) {
        let about = "Any text of the caller's: the same request with the same key is carried out once within 24 hours.";
        all.push(header("Idempotency-Key", about));
    }
    all
}

fn responses(route: &Route, about: &About) -> Value {
    let problem = || json!({ "$ref": "#/components/responses/Problem" });
    let mut responses = Map::new();
    if let Some(answers) = &about.answers {
        let description = answers.status.canonical_reason().unwrap_or("Done");
        let mut response = json!({ "description": description });
        let content = match (&answers.shape, answers.media) {
            (Some(shape), media) => Some(json!({ media: { "schema": shape.schema() } })),
            (None, "application/json") => None,
            (None, media) => Some(json!({ media: { "schema": { "type": "string" } } })),
        };
        if let Some(content) = content {
            response["content"] = content;
        }
        let mut headers = json!({ "X-Request-Id": { "schema": { "type": "string" } } });
        if about.versioned {
            headers["ETag"] = json!({ "schema": { "type": "string" } });
        }
        if about.query.iter().any(|parameter| parameter.name == "after") {
            let about = "The next page, rel=\"next\", where there is one.";
            headers["Link"] = json!({ "description": about, "schema": { "type": "string" } });
        }
        response["headers"] = headers;
        responses.insert(answers.status.as_str().to_owned(), response);
    }
    let mut refusals = vec!["default"];
    if matches!(route.needs, Needs::Role(_)) {
        refusals.extend(["401", "403"]);
    }
    if route.path.contains('{') {
        refusals.push("404");
    }
    if !about.query.is_empty() || route.path.contains('{') || about.takes.is_some() {
        refusals.push("400");
    }
    if about.takes.is_some() {
        refusals.extend(["409", "413", "415", "422"]);
    }
    if about.versioned && route.method != Method::GET {
        refusals.push("412");
    }
    responses.extend(refusals.into_iter().map(|status| (status.to_owned(), problem())));
    Value::Object(responses)
}

fn problem() -> Value {
    json!({
        "type": "object",
        "description": "RFC 9457.",
        "required": ["type", "title", "status", "detail", "code", "request_id"],
        "properties": {
            "type": { "type": "string" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string", "description": "One sentence for people." },
            "code": { "type": "string", "description": "Stable, for programs." },
            "request_id": { "type": "string", "description": "Names the request in central's log." },
            "errors": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["field", "reason"],
                    "properties": { "field": { "type": "string" }, "reason": { "type": "string" } },
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");

    #[test]
    fn the_committed_document_is_the_one_that_is_served() {
        let served = document_text();
        if std::env::var_os("POSTERN_WRITE_OPENAPI").is_some() {
            std::fs::write(COMMITTED, &served).unwrap();
        }
        let committed = std::fs::read_to_string(COMMITTED).unwrap_or_default();
        assert!(
            committed == served,
            "docs/openapi.json is not what central serves; write it anew: \
             POSTERN_WRITE_OPENAPI=1 cargo test -p central --lib openapi"
        );
    }

    #[test]
    fn every_route_of_the_table_stands_in_the_document_and_no_other() {
        let document = document();
        let described: BTreeSet<_> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, methods)| {
                methods.as_object().unwrap().keys().map(move |method| (path.clone(), method.clone()))
            })
            .collect();
        let table = routes::table();
        let table: BTreeSet<_> = table
            .iter()
            .filter(|route| is_described(route))
            .map(|route| (route.path.clone(), route.method.as_str().to_lowercase()))
            .collect();
        assert_eq!(described, table);
    }

    #[test]
    fn every_route_says_what_it_does_takes_and_answers() {
        for route in routes::table().iter().filter(|route| is_described(route)) {
            let name = format!("{} {}", route.method, route.path);
            let told = "tell it in admin/described.rs";
            let about = about_of(route);
            assert!(
                about.summary.ends_with('.'),
                "{name} has no summary, one sentence with its full stop: {told}"
            );
            assert!(
                about.answers.is_some(),
                "{name} does not say what it answers (.answers, .lists, …): {told}"
            );
            let takes = matches!(route.method, Method::POST | Method::PUT | Method::PATCH);
            assert!(about.takes.is_some() == takes, "{name} does not say what it takes (.takes): {told}");
        }
    }

    #[test]
    fn nothing_is_described_that_is_no_route() {
        let table = routes::table();
        for (method, path) in super::super::described::ALL {
            let full = [format!("{API}{path}"), (*path).to_owned()];
            let there = table.iter().any(|route| route.method == *method && full.contains(&route.path));
            assert!(there, "{method} {path} is described in admin/described.rs and is no route of the table");
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#/").skip(1) {
            let pointer = format!("/{}", reference.split('"').next().unwrap());
            assert!(document.pointer(&pointer).is_some(), "{pointer} is nowhere");
        }
    }
}
