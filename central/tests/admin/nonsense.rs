//! Every route of the API, asked with nonsense in each field its description names: refused with the field's name and
//! the reason. What is asked comes from the description, so that a new field is tried too.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use central::admin::{Role, openapi};
use serde_json::{Map, Value, json};

use crate::stage::{Reply, Stage};

/// A body that is read as a whole and has no schema: which fields it has.
const UNWRITTEN: &[(&str, &str, &[&str])] = &[
    (
        "patch",
        "/api/v1/destinations/{name}",
        &["type", "url", "direction", "listen", "enabled", "limits", "tls", "acl"],
    ),
    ("put", "/api/v1/alerts", &["endpoints", "hold_down"]),
];

#[tokio::test]
async fn a_field_of_another_type_an_unknown_one_and_a_missing_one_are_named() {
    let stage = furnished().await;
    let document = openapi::document();
    let mut wrong = Vec::new();
    let mut tried = 0;
    for (method, path, operation) in operations(&document) {
        let Some(body) = operation.get("requestBody") else { continue };
        let schema = resolve(&document, &body["content"]["application/json"]["schema"]);
        let unwritten = UNWRITTEN.iter().find(|(m, p, _)| (*m, *p) == (method, path));
        let written = schema["properties"].as_object().cloned().unwrap_or_default();
        let fields: Vec<(String, Value)> = match unwritten {
            Some((_, _, fields)) => {
                fields.iter().map(|field| ((*field).to_owned(), json!({"type": "string"}))).collect()
            }
            None => written.into_iter().collect(),
        };
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut refused = async |body: Value, named: &dyn Fn(&str) -> bool, what: &str| {
            let reply = ask(&stage, method, &fill(path), body).await;
            tried += 1;
            let field = reply.body["errors"][0]["field"].as_str().unwrap_or_default();
            if reply.status != StatusCode::UNPROCESSABLE_ENTITY || !named(field) {
                wrong.push(format!("{method} {path}, {what}: {} {}", reply.status, reply.body));
            }
        };
        for (field, schema) in &fields {
            // None of our fields is a list of lists.
            let nonsense = json!({ field: [[7]] });
            let within = |said: &str| said.split(['.', '[']).next() == Some(field);
            refused(nonsense, &within, &format!("{field} as a list ({schema})")).await;
        }
        refused(json!({"nonsense": 1}), &|said| said == "nonsense", "an unknown field").await;
        if !required.is_empty() {
            refused(json!({}), &|said| required.contains(&said), "nothing").await;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tried > 60, "only {tried} were tried: is the description read?");
}

#[tokio::test]
async fn nonsense_in_the_address_is_named() {
    let stage = furnished().await;
    let document = openapi::document();
    let mut wrong = Vec::new();
    for (method, path, operation) in operations(&document) {
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().unwrap_or_default();
            let asked = match parameter["in"].as_str() {
                Some("query") if parameter["schema"]["type"] == "integer" => {
                    format!("{}?{name}=banana", fill(path))
                }
                Some("path") if name == "name" => path.replace("{name}", "no%20name").replace("{id}", "x"),
                _ => continue,
            };
            let reply = ask(&stage, method, &asked, Value::Null).await;
            if reply.status != StatusCode::BAD_REQUEST || reply.body["errors"][0]["field"] != name {
                wrong.push(format!("{method} {asked}: {} {}", reply.status, reply.body));
            }
        }
        if method == "get" && path.starts_with("/api/") {
            let asked = format!("{}?nonsense=1", fill(path));
            let reply = ask(&stage, method, &asked, Value::Null).await;
            let queried =
                operation["parameters"].as_array().into_iter().flatten().any(|one| one["in"] == "query");
            if queried && reply.body["errors"][0]["field"] != "nonsense" {
                wrong.push(format!("{method} {asked}: {} {}", reply.status, reply.body));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn whatever_takes_a_version_refuses_an_old_one() {
    let stage = furnished().await;
    let document = openapi::document();
    let mut tried = 0;
    for (method, path, operation) in operations(&document) {
        let takes =
            operation["parameters"].as_array().into_iter().flatten().any(|one| one["name"] == "If-Match");
        if !takes {
            continue;
        }
        let token = stage.token(Role::CloudAdministrator).await;
        let request = Request::builder()
            .method(Method::from_bytes(method.to_uppercase().as_bytes()).unwrap())
            .uri(fill(path))
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .header("if-match", "\"old\"");
        let reply = stage.send(request.body(Body::from("{}")).unwrap()).await;
        tried += 1;
        assert_eq!(
            (reply.status, reply.code()),
            (StatusCode::PRECONDITION_FAILED, "changed_meanwhile"),
            "{method} {path}: {reply:?}"
        );
    }
    assert!(tried >= 6, "only {tried} take a version");
}

/// A stage with one of everything that has a name.
async fn furnished() -> Stage {
    let stage = Stage::new();
    stage.connect("gw-a").await;
    let all = Role::CloudAdministrator;
    for (path, body) in [
        ("destinations", json!({"name": "orders", "url": "tcp://10.0.0.1:1"})),
        ("users", json!({"name": "vera", "role": "viewer", "password": "a password of many letters"})),
    ] {
        let made = stage.ask(all, Method::POST, &format!("/api/v1/{path}"), body).await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    }
    stage
}

/// Method, path and description of everything that is described.
fn operations(document: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    let paths = document["paths"].as_object().into_iter().flatten();
    paths.flat_map(|(path, methods)| {
        let methods = methods.as_object().into_iter().flatten();
        methods.map(move |(method, operation)| (method.as_str(), path.as_str(), operation))
    })
}

fn resolve(document: &Value, schema: &Value) -> Value {
    let Some(name) = schema["$ref"].as_str().and_then(|at| at.rsplit('/').next()) else {
        return schema.clone();
    };
    document["components"]["schemas"].get(name).cloned().unwrap_or(Value::Object(Map::new()))
}

fn fill(path: &str) -> String {
    let name = match path {
        _ if path.contains("/destinations") => "orders",
        _ if path.contains("/users") => "vera",
        _ => "gw-a",
    };
    path.replace("{name}", name).replace("{id}", "0123456789abcdef")
}

async fn ask(stage: &Stage, method: &str, path: &str, body: Value) -> Reply {
    let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
    stage.ask(Role::CloudAdministrator, method, path, body).await
}
