//! One client's way as spans, told when it has ended: `connection`, and within it `wait` for a tunnel and `open`, until
//! the destination accepted. The agent's own spans stand beside them, under the same `connection`.

use std::time::{Duration, SystemTime};

use proto::EnvironmentName;
use traces::{Kind, Span, Traces, random_id, root};

use super::ledger::{Carried, Closed, Ending};

/// Nobody wants to see that a tunnel was there.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// Where one Environment's clients are told of; by default nowhere.
#[derive(Debug, Default)]
pub(super) struct Traced {
    traces: Traces,
    environment: String,
}

impl Traced {
    pub(super) fn new(traces: Traces, environment: &EnvironmentName) -> Self {
        Self { traces, environment: environment.to_string() }
    }

    pub(super) fn wants(&self, closed: &Closed) -> bool {
        self.traces.wants(*closed.arrival.trace_id.as_bytes())
    }

    pub(super) fn tell(&self, closed: Option<&Closed>) {
        for span in closed.into_iter().flat_map(|closed| self.spans(closed)) {
            self.traces.offer(span);
        }
    }

    fn spans(&self, closed: &Closed) -> Vec<Span> {
        let Closed { arrival, lasted, parked, carried, ending, .. } = closed;
        let trace = *arrival.trace_id.as_bytes();
        let Some(first) = root(trace) else { return Vec::new() };
        let came = SystemTime::from(arrival.since);
        let connection = Span::new(trace, first, None, ("connection", Kind::Server), (came, came + *lasted))
            .with("postern.environment", self.environment.as_str())
            .with("postern.destination", arrival.destination.as_str())
            .with("client.address", arrival.client.ip().to_canonical().to_string())
            .with("client.port", u64::from(arrival.client.port()));
        let within = |named, from: Duration, to: Duration| {
            Span::new(trace, random_id(), Some(first), named, (came + from, came + to))
        };
        let mut spans = Vec::new();
        if *parked >= SHORTEST_WAIT {
            let wait = within(("wait", Kind::Internal), Duration::ZERO, *parked);
            spans.push(match (carried, ending) {
                (None, Ending::Refused(why)) => wait.failed(why.to_string()),
                _ => wait,
            });
        }
        let connection = match carried {
            None => connection,
            Some(Carried { key, via, dial, bytes_to_site, bytes_to_client, .. }) => {
                let open =
                    within(("open", Kind::Client), *parked, dial.map_or(*lasted, |dial| *parked + dial));
                spans.push(match dial {
                    Some(_) => open,
                    None => open.failed(ending.to_string()),
                });
                connection
                    .with("postern.stream", key.to_string())
                    .with("postern.process_server", via.as_str())
                    .with("postern.bytes_to_site", *bytes_to_site)
                    .with("postern.bytes_to_client", *bytes_to_client)
            }
        };
        spans.push(match ending {
            Ending::Finished | Ending::Ended => connection,
            Ending::Dropped | Ending::ClientBroke(_) | Ending::Broke(_) | Ending::Refused(_) => {
                connection.failed(ending.to_string())
            }
        });
        spans
    }
}

#[cfg(test)]
mod tests {
    use proto::{
        Epoch,
        driver::{Reset, ResetCode, StreamId},
    };
    use time::OffsetDateTime;

    use super::*;
    use crate::listener::{
        NotOpened,
        entrance::Refusal,
        ledger::{Arrival, StreamKey},
        stage::destination,
    };

    #[test]
    fn a_connection_is_the_parent_of_its_wait_and_its_opening() {
        let closed = closed(Some(Some(20 * MS)), 50 * MS, Ending::Finished);
        let spans = Traced::default().spans(&closed);
        assert_eq!(names(&spans), ["wait", "open", "connection"]);
        let [wait, open, connection] = &spans[..] else { panic!("{spans:?}") };
        assert_eq!(Some(connection.id), root(*closed.arrival.trace_id.as_bytes()));
        assert_eq!(
            (wait.parent, open.parent, connection.parent),
            (Some(connection.id), Some(connection.id), None)
        );
        assert_eq!(open.began, wait.ended);
        assert_eq!(open.ended.duration_since(open.began).unwrap(), 20 * MS);
        assert!(spans.iter().all(|span| span.error().is_none()));
    }

    #[test]
    fn what_went_wrong_stands_where_it_went_wrong() {
        let no_tunnel = Ending::Refused(Refusal::from(NotOpened::NoTunnel(30_000 * MS)));
        let refused = Traced::default().spans(&closed(None, 30_000 * MS, no_tunnel));
        assert_eq!(names(&refused), ["wait", "connection"]);
        assert!(
            refused.iter().all(|span| span.error().is_some_and(|why| why.contains("no tunnel"))),
            "{refused:?}"
        );

        let reset = Ending::Broke(Reset::new(ResetCode::NOT_ALLOWED, "not on the list"));
        let forbidden = Traced::default().spans(&closed(Some(None), Duration::ZERO, reset));
        assert_eq!(names(&forbidden), ["open", "connection"]);
        assert!(forbidden.iter().all(|span| span.error().is_some()), "{forbidden:?}");
    }

    const MS: Duration = Duration::from_millis(1);

    fn names(spans: &[Span]) -> Vec<&str> {
        spans.iter().map(|span| span.name).collect()
    }

    /// A client that waited so long, and when its stream was accepted, if it got one.
    fn closed(dial: Option<Option<Duration>>, parked: Duration, ending: Ending) -> Closed {
        let carried = dial.map(|dial| Carried {
            key: StreamKey { epoch: Epoch { group: 1, claim: 2 }, lane: 0, stream: StreamId(3) },
            via: "gw-a".parse().unwrap(),
            dial,
            first_byte: None,
            bytes_to_site: 1,
            bytes_to_client: 2,
        });
        Closed {
            number: 1,
            arrival: Arrival::now(&destination("db", "tcp://db:1"), "192.0.2.1:5000".parse().unwrap()),
            ended_at: OffsetDateTime::now_utc(),
            lasted: parked + 100 * MS,
            parked,
            carried,
            ending,
        }
    }
}
