//! One stream's way through this agent as spans: `stream`, and within it `dial`: the allow-list, the look-up and the
//! connecting. `stream` stands under the span that central begins the trace with.

use std::time::SystemTime;

use proto::{
    driver::{RelayEnd, RelayEnded},
    frame::Open,
};
use traces::{Kind, Span, SpanId, Traces, random_id, root};

/// A stream that is told of once it has ended, or nothing: nobody wants to know.
pub(super) struct Way(Option<Box<Told>>);

/// Dropped, it tells how far it came.
struct Told {
    traces: Traces,
    trace: [u8; 16],
    id: SpanId,
    began: SystemTime,
    destination: String,
    /// To the site, from it.
    bytes: Option<(u64, u64)>,
    failed: Option<String>,
}

impl Way {
    /// Central has just opened this stream. Its trace id may be anything.
    pub(super) fn begin(traces: &Traces, open: &Open) -> Self {
        let trace = *open.trace().as_bytes();
        Self(traces.wants(trace).then(|| {
            Box::new(Told {
                traces: traces.clone(),
                trace,
                id: random_id(),
                began: SystemTime::now(),
                destination: open.destination().to_owned(),
                bytes: None,
                // Until it is known better.
                failed: Some("the tunnel let go of it".to_owned()),
            })
        }))
    }

    /// The destination accepted, or it did not: so.
    pub(super) fn dialled(&mut self, open: &Open, refused: Option<&str>) {
        let Some(told) = &mut self.0 else { return };
        let times = (told.began, SystemTime::now());
        let dial = Span::new(told.trace, random_id(), Some(told.id), ("dial", Kind::Client), times)
            .with("postern.destination", open.destination())
            .with("server.address", open.host())
            .with("server.port", u64::from(open.port()));
        told.traces.offer(match refused {
            Some(why) => dial.failed(why),
            None => dial,
        });
        if let Some(why) = refused {
            told.failed = Some(why.to_owned());
        }
    }

    pub(super) fn relayed(&mut self, end: &RelayEnd) {
        let Some(told) = &mut self.0 else { return };
        told.bytes = Some((end.received_bytes, end.sent_bytes));
        told.failed = match &end.ended {
            RelayEnded::Finished => None,
            RelayEnded::Socket(error) => Some(format!("the destination's connection broke: {error}")),
            RelayEnded::Stream(reset) => Some(reset.to_string()),
        };
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let times = (self.began, SystemTime::now());
        let span = Span::new(self.trace, self.id, root(self.trace), ("stream", Kind::Server), times)
            .with("postern.destination", std::mem::take(&mut self.destination));
        let span = match self.bytes {
            Some((to_site, to_cloud)) => {
                span.with("postern.bytes_to_site", to_site).with("postern.bytes_to_cloud", to_cloud)
            }
            None => span,
        };
        self.traces.offer(match self.failed.take() {
            Some(why) => span.failed(why),
            None => span,
        });
    }
}
