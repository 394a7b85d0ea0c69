//! Spans as OTLP writes them in JSON (opentelemetry-proto 1.x): ids in hexadecimal digits, 64-bit numbers as texts.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::{Value as Json, json};

use crate::{Service, Span, Value};

/// `STATUS_CODE_ERROR`.
const FAILED: u8 = 2;

/// The body of one request.
pub(crate) fn body(service: &Service, spans: &[Span]) -> Bytes {
    let mut resource = vec![
        attribute("service.name", &service.name.into()),
        attribute("service.version", &service.version.into()),
    ];
    resource.extend(service.attributes.iter().map(|(key, text)| attribute(key, &text.as_str().into())));
    let spans: Vec<Json> = spans.iter().map(span).collect();
    let scope = json!({ "name": "postern", "version": service.version });
    let body = json!({
        "resourceSpans": [{
            "resource": { "attributes": resource },
            "scopeSpans": [{ "scope": scope, "spans": spans }],
        }],
    });
    body.to_string().into()
}

fn span(span: &Span) -> Json {
    let attributes: Vec<Json> = span.attributes().iter().map(|(key, value)| attribute(key, value)).collect();
    let mut json = json!({
        "traceId": hex(&span.trace),
        "spanId": hex(&span.id),
        "name": span.name,
        "kind": span.kind as u8,
        "startTimeUnixNano": nanos(span.began),
        "endTimeUnixNano": nanos(span.ended),
        "attributes": attributes,
    });
    if let Some(parent) = &span.parent {
        json["parentSpanId"] = hex(parent).into();
    }
    if let Some(error) = span.error() {
        json["status"] = json!({ "code": FAILED, "message": error });
    }
    json
}

fn attribute(key: &str, value: &Value) -> Json {
    let value = match value {
        Value::Text(text) => json!({ "stringValue": text }),
        Value::Number(number) => json!({ "intValue": number.to_string() }),
    };
    json!({ "key": key, "value": value })
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // A String takes everything.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn nanos(at: SystemTime) -> String {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Kind;

    #[test]
    fn a_span_is_written_as_a_collector_reads_it() {
        let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        let named = ("dial", Kind::Client);
        let span = Span::new([0xab; 16], [1; 8], Some([2; 8]), named, (at(1_000), at(1_250)))
            .with("postern.destination", "db")
            .with("postern.bytes", u64::MAX)
            .failed("refused");
        let service =
            Service { name: "postern-agent", version: "1.2.3", attributes: vec![("host.name", "gw".into())] };
        let written: Json = serde_json::from_slice(&body(&service, &[span])).unwrap();
        let text = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
        assert_eq!(
            written,
            json!({ "resourceSpans": [{
                "resource": { "attributes": [
                    text("service.name", "postern-agent"), text("service.version", "1.2.3"), text("host.name", "gw"),
                ] },
                "scopeSpans": [{
                    "scope": { "name": "postern", "version": "1.2.3" },
                    "spans": [{
                        "traceId": "abababababababababababababababab",
                        "spanId": "0101010101010101",
                        "parentSpanId": "0202020202020202",
                        "name": "dial",
                        "kind": 3,
                        "startTimeUnixNano": "1000000000",
                        "endTimeUnixNano": "1250000000",
                        "attributes": [
                            text("postern.destination", "db"),
                            { "key": "postern.bytes", "value": { "intValue": "18446744073709551615" } },
                        ],
                        "status": { "code": 2, "message": "refused" },
                    }],
                }],
            }] })
        );
    }
}
