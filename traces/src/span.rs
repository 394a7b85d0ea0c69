//! A span: what one end did for one connection, from when to when, and under whom.

use std::time::SystemTime;

/// As W3C's trace context has it.
pub type TraceId = [u8; 16];
/// The same.
pub type SpanId = [u8; 8];

/// The longest text of an attribute and of an error, in bytes: a kilobyte a span is enough for anybody.
const TEXT_BYTES_MAX: usize = 512;
/// More attributes are left out.
const ATTRIBUTES_MAX: usize = 16;

/// Which side of a call a span is, as OpenTelemetry counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Internal = 1,
    /// It serves a client.
    Server = 2,
    /// It calls somebody.
    Client = 3,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Number(u64),
}

/// A span that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub trace: TraceId,
    pub id: SpanId,
    pub parent: Option<SpanId>,
    pub name: &'static str,
    pub kind: Kind,
    pub began: SystemTime,
    pub ended: SystemTime,
    attributes: Vec<(&'static str, Value)>,
    /// Why it failed, if it did.
    error: Option<String>,
}

/// The id of the span that a trace begins with: the first half of the trace's. `None`: no trace has this id.
pub fn root(trace: TraceId) -> Option<SpanId> {
    let [first, _] = halves(trace);
    (first != [0; 8]).then_some(first)
}

/// Both halves of a trace's id.
pub(crate) fn halves(trace: TraceId) -> [SpanId; 2] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = trace;
    [[a, b, c, d, e, f, g, h], rest]
}

/// A fresh id for a span that is no trace's first.
pub fn random_id() -> SpanId {
    rand::random()
}

impl Span {
    pub fn new(
        trace: TraceId,
        id: SpanId,
        parent: Option<SpanId>,
        (name, kind): (&'static str, Kind),
        (began, ended): (SystemTime, SystemTime),
    ) -> Self {
        Self { trace, id, parent, name, kind, began, ended, attributes: Vec::new(), error: None }
    }

    /// Also says this of it; texts are shortened to [`TEXT_BYTES_MAX`].
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        if self.attributes.len() < ATTRIBUTES_MAX {
            self.attributes.push((key, value.into()));
        }
        self
    }

    /// It failed, so.
    #[must_use]
    pub fn failed(self, why: impl Into<String>) -> Self {
        Self { error: Some(shortened(why.into())), ..self }
    }

    pub fn attributes(&self) -> &[(&'static str, Value)] {
        &self.attributes
    }

    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(shortened(text))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

fn shortened(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_span_of_a_trace_has_the_first_half_of_its_id() {
        let trace = *b"12345678abcdefgh";
        assert_eq!(root(trace), Some(*b"12345678"));
        assert_eq!(root([0; 16]), None);
        assert_eq!(root(*b"\0\0\0\0\0\0\0\0abcdefgh"), None, "no span has the id 0");
    }

    #[test]
    fn a_span_is_small_whatever_is_said_of_it() {
        let now = SystemTime::UNIX_EPOCH;
        let mut span = Span::new([1; 16], [1; 8], None, ("x", Kind::Server), (now, now));
        for _ in 0..100 {
            span = span.with("key", "ä".repeat(1000));
        }
        let span = span.failed("ü".repeat(1000));
        assert_eq!(span.attributes().len(), ATTRIBUTES_MAX);
        let Value::Text(text) = &span.attributes()[0].1 else { panic!("a text") };
        assert!(text.len() <= TEXT_BYTES_MAX && span.error().unwrap().len() <= TEXT_BYTES_MAX);
    }
}
