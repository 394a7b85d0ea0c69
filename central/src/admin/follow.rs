//! `/events` as a stream (server-sent events): what happens, as it happens, from where a follower stopped.
//!
//! Each event's `id` is its number; a follower that comes back says the last one it saw (`Last-Event-ID`). A
//! stream ends when central stops, and after [`FOLLOW_MAX`], so that a revoked token does not follow for ever:
//! whoever follows comes back by itself.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    http::{HeaderMap, HeaderName, header},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event as Sent, KeepAlive},
    },
};
use futures_util::stream::unfold;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::problem::Problem;
use crate::{
    events::{Event, Events},
    store::Revision,
};

/// How many may follow at once; each holds a connection and reads a page for each change.
pub const FOLLOWERS_MAX: usize = 128;
/// How long one stream lasts at most.
const FOLLOW_MAX: Duration = Duration::from_secs(15 * 60);
/// Proxies close what is silent for longer.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Events read at once.
const PAGE: usize = 100;
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The places for followers, and when they all have to go. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Following {
    places: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Following {
    /// Everybody goes when `stop` is cancelled.
    pub fn new(stop: CancellationToken) -> Self {
        Self { places: Arc::new(Semaphore::new(FOLLOWERS_MAX)), stop }
    }

    /// The stream behind event number `after`.
    ///
    /// # Errors
    /// 503 when too many follow.
    pub(super) fn stream(
        &self,
        events: Events,
        changes: watch::Receiver<Revision>,
        after: u64,
    ) -> Result<Response, Problem> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| {
            Problem::unavailable(
                "too_many_followers",
                format!("{FOLLOWERS_MAX} follow the events already: ask for pages, or try again later"),
            )
        })?;
        let follower = Follower {
            events,
            changes,
            after,
            read: Vec::new().into_iter(),
            until: Instant::now() + FOLLOW_MAX,
            stop: self.stop.clone(),
            _place: place,
        };
        let stream = unfold(follower, async |mut follower| {
            let event = follower.next().await?;
            Some((Ok::<_, Infallible>(sent(&event)), follower))
        });
        Ok(Sse::new(Box::pin(stream)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
    }
}

/// Whether the caller wants a stream.
pub(super) fn wants_stream(headers: &HeaderMap) -> bool {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accept.flat_map(|value| value.split(',')).any(|kind| {
        kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
    })
}

/// The last event a follower that comes back has seen.
pub(super) fn last_seen(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(LAST_EVENT_ID) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    number
        .map(Some)
        .ok_or_else(|| Problem::bad_request("invalid_last_event_id", "Last-Event-ID is an event's number"))
}

struct Follower {
    events: Events,
    changes: watch::Receiver<Revision>,
    after: u64,
    read: std::vec::IntoIter<Event>,
    until: Instant,
    stop: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Follower {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.read.next() {
                self.after = event.seq;
                return Some(event);
            }
            // Before the read, so that what comes during it is seen by the next one.
            self.changes.borrow_and_update();
            match self.events.list(self.after, PAGE).await {
                Ok(page) if !page.is_empty() => {
                    self.read = page.into_iter();
                    continue;
                }
                Ok(_) => {}
                Err(error) => {
                    warn!(%error, "Followers of the events are sent away: the store cannot be read");
                    return None;
                }
            }
            tokio::select! {
                changed = self.changes.changed() => changed.ok()?,
                () = self.stop.cancelled() => return None,
                () = tokio::time::sleep_until(self.until) => return None,
            }
        }
    }
}

fn sent(event: &Event) -> Sent {
    let named = Sent::default().id(event.seq.to_string()).event(&event.code);
    // An event is a record of strings: it serialises. If not, its number still tells that there was one.
    named.json_data(event).unwrap_or_else(|_| Sent::default().id(event.seq.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_wanted_by_its_media_type() {
        let wants =
            |accept: &str| wants_stream(&HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]));
        assert!(wants("text/event-stream"));
        assert!(wants("application/json, text/event-stream;q=0.5"));
        assert!(!wants("application/json") && !wants_stream(&HeaderMap::new()));
    }

    #[test]
    fn what_a_follower_has_seen_is_a_number() {
        let seen = |text: &str| last_seen(&HeaderMap::from_iter([(LAST_EVENT_ID, text.parse().unwrap())]));
        assert_eq!(seen("42").unwrap(), Some(42));
        assert!(seen("moon").is_err());
        assert_eq!(last_seen(&HeaderMap::new()).unwrap(), None);
    }
}
