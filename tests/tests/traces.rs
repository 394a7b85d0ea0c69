//! Traces with real programs: what both tell a collector of one connection is one tree, and a collector that does not
//! answer costs a connection nothing.

#![expect(clippy::expect_used, reason = "panicking is how a test fails")]

use std::{net::SocketAddr, time::Duration};

use postern_tests::servers::Receiver;
use postern_tests::{Central, Host, Process, wait_until};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const START_WITHIN: Duration = Duration::from_secs(30);
const UP_WITHIN: Duration = Duration::from_secs(60);
/// A batch waits a few seconds for more.
const TOLD_WITHIN: Duration = Duration::from_secs(30);

#[tokio::test]
async fn both_ends_tell_the_collector_of_one_connection_as_one_trace() {
    let collector = Receiver::start().await;
    let stage = Stage::up(&collector).await;

    stage.echo("db", b"hello").await;
    let closed = stage.closed("db").await;
    assert_eq!(closed["outcome"], "finished", "{closed:#}");
    let spans = until_told(&collector, &closed, &["connection", "open", "stream", "dial"]).await;

    let connection = span(&spans, "connection");
    let (open, stream, dial) = (span(&spans, "open"), span(&spans, "stream"), span(&spans, "dial"));
    assert_eq!(connection["parentSpanId"], Value::Null);
    assert_eq!(open["parentSpanId"], connection["spanId"]);
    assert_eq!(stream["parentSpanId"], connection["spanId"], "the agent stands under central");
    assert_eq!(dial["parentSpanId"], stream["spanId"]);
    assert_eq!((service(connection), service(dial)), ("postern-central", "postern-agent"));
    assert_eq!(attribute(connection, "postern.destination"), "db");
    assert_eq!(attribute(connection, "postern.process_server"), "alpha");
    assert_eq!(attribute(connection, "postern.bytes_to_site"), "5");
    assert_eq!(attribute(stream, "postern.bytes_to_cloud"), "5");
    assert!(spans.iter().all(|span| span["status"].is_null()), "{spans:#?}");

    // A refusal by the site stands in both, with its reason.
    stage.refused("forbidden").await;
    let closed = stage.closed("forbidden").await;
    let spans = until_told(&collector, &closed, &["connection", "dial"]).await;
    for name in ["connection", "dial"] {
        let why = span(&spans, name)["status"]["message"].as_str().unwrap_or_default();
        assert!(why.contains("allow-list"), "{name}: {why}");
    }

    let authorized = |heard: &str| heard == "Bearer hush";
    assert!(
        collector.heard().iter().all(|one| one.headers.get("authorization").is_some_and(|it| authorized(it)))
    );
    let metrics = stage.central.api().text("/metrics").await;
    assert!(metrics.contains("postern_trace_spans_total{outcome=\"exported\"}"), "{metrics}");
}

#[tokio::test]
async fn a_collector_that_hangs_or_is_away_costs_a_connection_nothing() {
    let collector = Receiver::start().await;
    collector.hang();
    let stage = Stage::up(&collector).await;
    for _ in 0..5 {
        stage.echo("db", b"while it hangs").await;
    }
    wait_until("the collector was asked", TOLD_WITHIN, async || {
        (!collector.heard().is_empty()).then_some(())
    })
    .await;
    drop(collector);
    for _ in 0..5 {
        stage.echo("db", b"while it is away").await;
    }
    wait_until("central has said so", TOLD_WITHIN, async || {
        stage.central.log_tail().contains("Spans do not reach the collector").then_some(())
    })
    .await;
    assert!(!stage.central.log_tail().contains("hush"));
    let gateway = stage.central.api().gateway().await;
    assert_eq!(gateway.active.as_deref(), Some("alpha"));
}

/// Central and one active agent that tell the same collector, a destination that gives back what it gets, and one that
/// the site does not allow.
struct Stage {
    central: Central,
    _host: Host,
    _agent: Process,
    _echo: tokio::task::JoinHandle<()>,
}

impl Stage {
    async fn up(collector: &Receiver) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port can be listened on");
        let there = listener.local_addr().expect("a listener has an address");
        let folder = postern_tests::Folder::new("collector");
        let headers = folder.write_private("headers", "# for the test\nAuthorization: Bearer hush\n");
        // The collector appends its path to whatever stands before it.
        let traces = format!("[traces]\nendpoint = \"{}\"\nheaders_file = {headers:?}\n", collector.url());
        let central = Central::start_with(&["main"], &traces).await;
        let host = Host::enrolled("alpha", &[("127.0.0.1", there.port())], &central, central.tunnel()).await;
        host.set(&traces);
        let mut agent = host.start();
        central.until_connected("alpha", START_WITHIN).await;
        central.api().patch("/process-servers/alpha", json!({"candidate": true})).await;
        agent.stop();
        let agent = host.start();
        wait_until("alpha is active", UP_WITHIN, async || {
            (central.api().gateway().await.active.as_deref() == Some("alpha")).then_some(())
        })
        .await;
        for (name, port) in [("db", there.port()), ("forbidden", 1)] {
            let wanted = json!({"name": name, "url": format!("tcp://127.0.0.1:{port}")});
            central.api().post("/destinations", wanted).await;
        }
        Self { central, _host: host, _agent: agent, _echo: tokio::spawn(echo(listener)) }
    }

    async fn listens(&self, destination: &str) -> SocketAddr {
        let path = format!("/destinations/{destination}");
        wait_until("the destination listens", START_WITHIN, async || {
            self.central.api().get(&path).await["listen"].as_str().and_then(|at| at.parse().ok())
        })
        .await
    }

    async fn echo(&self, destination: &str, words: &[u8]) {
        let mut client = TcpStream::connect(self.listens(destination).await).await.expect("it listens");
        client.write_all(words).await.expect("it reads");
        client.shutdown().await.expect("it is open");
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.expect("it answers and ends");
        assert_eq!(heard, words);
    }

    async fn refused(&self, destination: &str) {
        let mut client = TcpStream::connect(self.listens(destination).await).await.expect("it listens");
        let heard = client.read(&mut [0; 1]).await;
        assert!(heard.is_err(), "a refusal is a reset: {heard:?}");
    }

    /// The newest stream to this destination that has ended.
    async fn closed(&self, destination: &str) -> Value {
        wait_until("it stands in the ledger", START_WITHIN, async || {
            let all = self.central.api().get("/streams/closed").await;
            all.as_array().into_iter().flatten().find(|one| one["destination"] == destination).cloned()
        })
        .await
    }
}

async fn echo(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let (mut read, mut write) = stream.split();
            if tokio::io::copy(&mut read, &mut write).await.is_ok() {
                let _ = write.shutdown().await;
            }
        });
    }
}

/// What the collector has heard of this connection's trace, once all these are there.
async fn until_told(collector: &Receiver, closed: &Value, names: &[&str]) -> Vec<Value> {
    let trace = closed["trace_id"].as_str().expect("a stream has a trace id");
    wait_until(&format!("the collector heard of {trace}"), TOLD_WITHIN, async || {
        let told: Vec<Value> = spans(collector).into_iter().filter(|span| span["traceId"] == trace).collect();
        names.iter().all(|name| told.iter().any(|span| span["name"] == **name)).then_some(told)
    })
    .await
}

/// Every span heard so far, with the name of who told it as `service`.
fn spans(collector: &Receiver) -> Vec<Value> {
    let mut all = Vec::new();
    for heard in collector.heard() {
        for resource in heard.body["resourceSpans"].as_array().into_iter().flatten() {
            let service = attribute(&resource["resource"], "service.name");
            for scope in resource["scopeSpans"].as_array().into_iter().flatten() {
                for span in scope["spans"].as_array().into_iter().flatten() {
                    let mut span = span.clone();
                    span["service"] = service.clone().into();
                    all.push(span);
                }
            }
        }
    }
    all
}

fn span<'a>(spans: &'a [Value], name: &str) -> &'a Value {
    let mut named = spans.iter().filter(|span| span["name"] == name);
    let one = named.next().unwrap_or_else(|| panic!("no {name} in {spans:#?}"));
    assert_eq!(named.next(), None, "one connection has one {name}");
    one
}

fn service(span: &Value) -> &str {
    span["service"].as_str().unwrap_or_default()
}

fn attribute(of: &Value, key: &str) -> String {
    let mut all = of["attributes"].as_array().into_iter().flatten();
    let value = all.find(|one| one["key"] == key).map(|one| &one["value"]);
    let text = value.and_then(|value| value["stringValue"].as_str().or(value["intValue"].as_str()));
    text.unwrap_or_default().to_owned()
}
