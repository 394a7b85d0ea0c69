//! The same over HTTP, for supervisors and Prometheus on this host: `/livez`, `/readyz`, `/active`, `/metrics`.
//!
//! Off unless `status.listen` names a loopback address. Nothing can be changed here either.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, sync::atomic::AtomicU64};

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use proto::control::RoleName;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use traces::{Counts, Traces};
use tracing::warn;

use super::{ANSWER_TIMEOUT, ASKERS_MAX, ServeError, Snapshot};

const METRICS_MEDIA: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Opens the port. The future answers askers and never ends; dropping it at any point is safe.
pub(super) fn open(
    address: SocketAddr,
    seen: watch::Receiver<Snapshot>,
    traces: Traces,
) -> Result<impl Future<Output = ()> + Send + use<>, ServeError> {
    let failed = |source| ServeError::Port { address, source };
    let socket = std::net::TcpListener::bind(address).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    let listener = TcpListener::from_std(socket).map_err(failed)?;
    Ok(serve(listener, seen, traces))
}

async fn serve(listener: TcpListener, seen: watch::Receiver<Snapshot>, traces: Traces) {
    let places = Arc::new(Semaphore::new(ASKERS_MAX));
    let mut answers = JoinSet::new();
    loop {
        while answers.try_join_next().is_some() {}
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (seen, traces) = (seen.clone(), traces.clone());
                answers.spawn(async move {
                    let service = service_fn(move |request| {
                        let answer = answer(&request, &seen.borrow(), traces.counts());
                        async move { Ok::<_, Infallible>(answer) }
                    });
                    let connection = http1::Builder::new()
                        .keep_alive(false)
                        .serve_connection(TokioIo::new(stream), service);
                    // Whoever hung up or dawdles gets nothing; that is not our worry.
                    let _ = timeout(ANSWER_TIMEOUT, connection).await;
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "Cannot answer on the status port at the moment");
                sleep(std::time::Duration::from_millis(200)).await;
            }
        }
    }
}

fn answer(request: &Request<Incoming>, seen: &Snapshot, spans: Option<Counts>) -> Response<Full<Bytes>> {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !is_ours(host) {
        // A page in somebody's browser whose name was made to point here.
        return text(StatusCode::MISDIRECTED_REQUEST, "this is asked for by address\n");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "nothing can be changed here\n");
    }
    let verbose =
        request.uri().query().is_some_and(|query| query.split('&').any(|key| key.starts_with("verbose")));
    match request.uri().path() {
        // Never a word on central or the group: restarting the agent would not mend those.
        "/livez" => text(StatusCode::OK, "live\n"),
        "/readyz" => ready(seen, verbose),
        "/active" => match is_active(seen) {
            true => text(StatusCode::OK, "active\n"),
            false => text(StatusCode::SERVICE_UNAVAILABLE, "not active\n"),
        },
        "/metrics" => metrics(seen, spans),
        _ => text(StatusCode::NOT_FOUND, "there are /livez, /readyz, /active and /metrics\n"),
    }
}

/// An address or `localhost`, with or without a port.
fn is_ours(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// It can do its work: it hears central. A standby is ready.
fn ready(seen: &Snapshot, verbose: bool) -> Response<Full<Bytes>> {
    let hears = seen.central.connected || seen.tunnel.up;
    let status = if hears { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = if hears { "ready\n" } else { "not ready\n" };
    if !verbose {
        return text(status, word);
    }
    let check = |good: bool, what: &str| format!("[{}] {what}\n", if good { '+' } else { '-' });
    let lines = [
        check(seen.central.connected, &format!("control connection, since {}", seen.central.since)),
        check(seen.tunnel.up || !is_active(seen), "tunnel, where it is active"),
        check(seen.seat.is_some(), "seat in the gateway group; a host that is no candidate has none"),
        check(seen.allow_list.entries > 0, "allow-list names something"),
    ];
    text(status, &(lines.concat() + word))
}

fn is_active(seen: &Snapshot) -> bool {
    seen.role == RoleName::Active && seen.tunnel.up
}

fn metrics(seen: &Snapshot, spans: Option<Counts>) -> Response<Full<Bytes>> {
    type Value = Gauge<f64, AtomicU64>;
    let gauge = |value: f64| {
        let gauge = Value::default();
        gauge.set(value);
        gauge
    };
    let yes = |is: bool| gauge(if is { 1.0 } else { 0.0 });
    let mut registry = Registry::with_prefix("postern_agent");
    let build: Family<Vec<(&str, String)>, Value> = Family::default();
    build.get_or_create(&vec![("version", seen.version.clone())]).set(1.0);
    registry.register("build_info", "Which agent this is", build);
    registry.register("active", "It carries the tunnel", yes(is_active(seen)));
    registry.register("tunnel_up", "Its tunnel is up", yes(seen.tunnel.up));
    registry.register("central_connected", "Its control connection stands", yes(seen.central.connected));
    registry.register("tunnel_streams_active", "Streams in its tunnel", gauge(seen.tunnel.streams as f64));
    registry.register(
        "tunnel_lanes",
        "Websockets of its tunnel that are up",
        gauge(seen.tunnel.lanes as f64),
    );
    let bytes: Family<Vec<(&str, &str)>, Counter> = Family::default();
    bytes.get_or_create(&vec![("direction", "to_site")]).inc_by(seen.tunnel.bytes_in);
    bytes.get_or_create(&vec![("direction", "to_cloud")]).inc_by(seen.tunnel.bytes_out);
    registry.register("tunnel_bytes", "Carried by the present tunnel; begins anew with the next", bytes);
    if let Some(ms) = seen.tunnel.round_trip_ms {
        registry.register("tunnel_rtt_seconds", "The tunnel's last measured round trip", gauge(ms / 1_000.0));
    }
    registry.register("allow_list_entries", "What the site allows", gauge(seen.allow_list.entries as f64));
    if let Ok(expires) = humantime::parse_rfc3339(&seen.certificate.expires) {
        let at = expires.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        registry.register("certificate_expiry_timestamp_seconds", "When its certificate ends", gauge(at));
    }
    if let Some(Counts { exported, dropped, failed }) = spans {
        let spans: Family<Vec<(&str, &str)>, Counter> = Family::default();
        for (outcome, count) in [("exported", exported), ("dropped", dropped), ("failed", failed)] {
            spans.get_or_create(&vec![("outcome", outcome)]).inc_by(count);
        }
        registry.register("trace_spans", "Spans of streams, by what became of them", spans);
    }
    let mut body = String::new();
    if encode(&mut body, &registry).is_err() {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written\n");
    }
    let mut response = text(StatusCode::OK, &body);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(METRICS_MEDIA));
    response
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::{
        super::tests::{config, snapshot},
        *,
    };

    #[tokio::test]
    async fn a_standby_is_ready_and_only_the_active_is_active() {
        let folder = tempfile::tempdir().unwrap();
        let mut shown = snapshot(&config(folder.path()));
        let (tell, seen) = watch::channel(shown.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(serve(listener, seen, Traces::default()));

        assert_eq!(ask(address, "/livez").await, (200, "live\n".to_owned()));
        assert_eq!(ask(address, "/readyz").await.0, 503);
        shown.central.connected = true;
        shown.role = RoleName::Standby;
        tell.send_replace(shown.clone());
        assert_eq!(ask(address, "/readyz").await, (200, "ready\n".to_owned()));
        assert!(ask(address, "/readyz?verbose").await.1.contains("[+] control connection"));
        assert_eq!(ask(address, "/active").await.0, 503);
        shown.role = RoleName::Active;
        shown.tunnel.up = true;
        shown.tunnel.bytes_in = 42;
        tell.send_replace(shown);
        assert_eq!(ask(address, "/active").await.0, 200);
        let (status, metrics) = ask(address, "/metrics").await;
        assert_eq!(status, 200);
        for line in
            ["postern_agent_active 1", "postern_agent_tunnel_bytes_total{direction=\"to_site\"} 42", "# EOF"]
        {
            assert!(metrics.contains(line), "{line} is missing in {metrics}");
        }
        assert_eq!(ask(address, "/moon").await.0, 404);
        serving.abort();
    }

    #[test]
    fn only_who_asks_by_address_is_answered() {
        for ours in ["127.0.0.1:7432", "localhost", "[::1]:7432", "127.0.0.1"] {
            assert!(is_ours(ours), "{ours}");
        }
        for other in ["evil.example:7432", "", "10.0.0.1", "localhost.evil.example"] {
            assert!(!is_ours(other), "{other}");
        }
    }

    async fn ask(address: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }
}
