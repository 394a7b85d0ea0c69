//! How long pages and lists of the administration take, and what central holds, with a large stock of records.
//!
//! Every `GET` of the API's own description and every page of the menu is asked one after the other over one kept
//! connection. What is timed is the whole as a client sees it, TLS and the body's last byte included: an upper bound
//! of the server's own time.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use postern_tests::{Central, Folder};
use reqwest::{Certificate, Client, header};
use serde_json::{Value, json};

use crate::figure::{Figure, Statistic, Unit};
use crate::stock::Stock;
use crate::usage::memory;

pub(crate) const PROCESS_SERVERS: usize = 1_000;
pub(crate) const ROUNDS: usize = 20;

const NAME: &str = "pages";
const ANSWER_WANTED_MS: f64 = 100.0;
const MEMORY_WANTED_MIB: f64 = 150.0;
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// The pages of the UI that show something, beside the API's routes.
const PAGES: &[&str] = &[
    "/",
    "/process-servers",
    "/process-servers?q=host-0&show=attention&page=2",
    "/process-servers/host-0001",
    "/enrol",
    "/destinations",
    "/destinations?q=database&show=failing",
    "/destinations/new",
    "/destinations/database-0001",
    "/destinations/database-0001/edit",
    "/streams",
    "/failovers",
    "/events",
    "/alerts",
    "/alerts/endpoint",
    "/audit",
    "/people",
    "/settings",
];

/// A figure for each page and route, and central's memory before and after all of them.
pub(crate) async fn measure(rounds: usize, process_servers: usize) -> Vec<Figure> {
    let stock = Stock::of(process_servers);
    let folder = Folder::new("pages");
    let began = Instant::now();
    stock.fill(&folder.join("data"));
    eprintln!("pages: {stock:?} written in {:.0} s", began.elapsed().as_secs_f64());
    let central = Central::start_on(folder, &["default"], "").await;
    for _ in 0..stock.api_tokens {
        central.api().post("/api-tokens", json!({"role": "viewer"})).await;
    }
    is_stocked(&central, stock).await;
    let (client, base) = browser(&central);
    let at_first = memory(central.pid()).rss_mib;

    let mut paths: Vec<String> = PAGES.iter().map(|path| (*path).to_owned()).collect();
    paths.extend(routes(&central.api().get("/openapi.json").await));
    let mut figures = Vec::new();
    for path in paths {
        let mut took_ms = Vec::new();
        for _ in 0..rounds {
            took_ms.push(ask(&client, &format!("{base}{path}")).await.as_secs_f64() * 1e3);
        }
        let figure = Figure::of(NAME, path, Unit::Milliseconds, took_ms);
        figures.push(figure.wanted(Statistic::P95, ANSWER_WANTED_MS));
    }
    let rss = |name: &str, mib: f64| {
        let figure = Figure::of(NAME, name, Unit::Mebibytes, vec![mib]);
        figure.wanted(Statistic::Max, MEMORY_WANTED_MIB)
    };
    figures.push(rss("central before the first question, RSS", at_first));
    figures.push(rss("central after all of them, RSS", memory(central.pid()).rss_mib));
    figures
}

/// That central has read what was written, or the figures would be of an empty one.
async fn is_stocked(central: &Central, stock: Stock) {
    let newest = central.api().get("/events?limit=1").await;
    let events = newest[0]["seq"].as_u64().unwrap_or_default();
    assert!(events >= stock.events as u64, "only {events} events are there");
    for (path, wanted) in [
        ("/process-servers", stock.process_servers),
        ("/destinations", stock.destinations),
        ("/users", stock.users),
        ("/api-tokens", stock.api_tokens),
        ("/failovers", stock.failovers),
    ] {
        let page = central.api().get(path).await;
        let there = page.as_array().map_or(0, Vec::len);
        assert!(there >= wanted.min(1000), "{path} has only {there} of {wanted}");
    }
}

fn browser(central: &Central) -> (Client, String) {
    let pem = fs::read(central.ca_cert()).expect("central wrote its CA certificate");
    let ca = Certificate::from_pem_bundle(&pem).expect("the CA file holds certificates");
    let mut headers = header::HeaderMap::new();
    headers.insert(header::AUTHORIZATION, bearer(central.token_file()));
    let client =
        Client::builder().tls_certs_only(ca).no_proxy().timeout(ANSWER_WITHIN).default_headers(headers);
    (client.build().expect("these settings make a client"), format!("https://{}", central.admin()))
}

fn bearer(token_file: &Path) -> header::HeaderValue {
    let token = fs::read_to_string(token_file).expect("central wrote its first token");
    header::HeaderValue::from_str(&format!("Bearer {}", token.trim())).expect("a token is plain text")
}

async fn ask(client: &Client, url: &str) -> Duration {
    let began = Instant::now();
    let answer = client.get(url).send().await.unwrap_or_else(|error| panic!("{url}: {error}"));
    let status = answer.status();
    let body = answer.bytes().await.unwrap_or_else(|error| panic!("{url}: {error}"));
    let took = began.elapsed();
    assert!(status.is_success(), "{url} answers {status}: {}", String::from_utf8_lossy(&body));
    took
}

/// Every `GET` of the description, its parameters filled in with what is in stock.
fn routes(openapi: &Value) -> Vec<String> {
    let paths = openapi["paths"].as_object().expect("an OpenAPI document has paths");
    let gets = paths.iter().filter(|(_, methods)| methods.get("get").is_some()).map(|(path, _)| path);
    let filled = gets.filter_map(|path| match path.split_once('{') {
        None => Some(path.clone()),
        Some(("/api/v1/process-servers/", _)) => Some("/api/v1/process-servers/host-0001".to_owned()),
        Some(("/api/v1/destinations/", _)) => Some("/api/v1/destinations/database-0001".to_owned()),
        Some(("/api/v1/failovers/", _)) => Some("/api/v1/failovers/1".to_owned()),
        Some(("/api/v1/users/", rest)) => {
            Some(format!("/api/v1/users/user-000{}", rest.strip_prefix("name}").unwrap_or_default()))
        }
        // A link that works once.
        Some(("/sign-in/once/", _)) => None,
        Some(_) => panic!("the bench knows nothing to ask {path} for"),
    });
    filled.collect()
}
