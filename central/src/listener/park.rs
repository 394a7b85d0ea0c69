//! Where a new connection waits for a tunnel, and how it gets its stream once there is one.
//!
//! ```text
//!   ready() ──► a tunnel is there ──────────────► Tunnel::open ──► stream
//!      └─► none: a place in the lot ─► tunnel() ──┘      └─► it is just moving: tunnel() gives the next one
//! ```
//!
//! Waiting is cheap but not free (a socket each), so an Environment has a bounded number of places.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use proto::{
    Name, TraceId,
    driver::{Lane, Open, OpenError, Reset, Transport, TunnelStream},
};
use tokio::{sync::watch, time::timeout};

use crate::{destination::Destination, gateway::environment::ActiveTunnel};

/// Connections of one Environment that may wait for a tunnel at a time.
pub const PARKED_MAX: usize = 1024;

/// Opens streams through one Environment's active tunnel. Cheap to clone.
#[derive(Clone)]
pub struct Opener {
    tunnel: watch::Receiver<Option<ActiveTunnel>>,
}

/// A stream that the destination has accepted.
pub struct Through {
    pub stream: TunnelStream,
    /// The Process Server whose tunnel carries it.
    pub via: Name,
}

/// Why there is no stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotOpened {
    #[error("no tunnel came up within {0:?}")]
    NoTunnel(Duration),
    /// The tunnel itself takes no more streams.
    #[error("the tunnel through {via} takes no more streams: {reason}")]
    Full { via: Name, reason: String },
    /// The agent answered no, or the stream broke before it could answer.
    #[error("{reset}")]
    Refused { via: Name, reset: Reset },
}

impl Opener {
    pub fn new(tunnel: watch::Receiver<Option<ActiveTunnel>>) -> Self {
        Self { tunnel }
    }

    /// The tunnel that takes new streams now.
    pub fn active(&self) -> Option<ActiveTunnel> {
        self.tunnel.borrow().clone()
    }

    /// Starts to look for a tunnel.
    pub fn begin(&self) -> Opening {
        Opening { tunnel: self.tunnel.clone(), tried: false }
    }

    /// Opens a stream to `destination` and waits for the destination's answer. The tunnel may take up to
    /// `limit` to come up; how long the answer may take is the agent's business. Cancel-safe: what was
    /// opened is reset.
    ///
    /// # Errors
    /// See [`NotOpened`].
    pub async fn open(&self, destination: &Destination, limit: Duration) -> Result<Through, NotOpened> {
        let mut opening = self.begin();
        loop {
            let active = match opening.ready() {
                Some(active) => active,
                None => timeout(limit, opening.tunnel()).await.map_err(|_| NotOpened::NoTunnel(limit))?,
            };
            let opened = opening.try_open(&active, destination, TraceId::random(), Bytes::new())?;
            let Some((_, stream)) = opened else { continue };
            let via = active.name;
            return match stream.opened().await {
                Ok(()) => Ok(Through { stream, via }),
                Err(reset) => Err(NotOpened::Refused { via, reset }),
            };
        }
    }
}

/// One search for a tunnel. It gives each tunnel once: who comes back for another was refused by the last.
pub struct Opening {
    tunnel: watch::Receiver<Option<ActiveTunnel>>,
    tried: bool,
}

impl Opening {
    /// The tunnel there is now, if it was not tried yet.
    pub fn ready(&mut self) -> Option<ActiveTunnel> {
        if self.tried && !self.tunnel.has_changed().unwrap_or(false) {
            return None;
        }
        let active = self.tunnel.borrow_and_update().clone();
        self.tried = active.is_some();
        active
    }

    /// The next tunnel that was not tried yet. Waits for ever if none comes, also when the gateway's room is
    /// gone: central is stopping then, and whoever waits has a limit. Cancel-safe.
    pub async fn tunnel(&mut self) -> ActiveTunnel {
        loop {
            if let Some(active) = self.ready() {
                return active;
            }
            if self.tunnel.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            self.tried = false;
        }
    }

    /// Opens a stream on one of the tunnel's lanes, not waiting for the destination. `None`: this tunnel is on its way out, look for the next.
    ///
    /// # Errors
    /// [`NotOpened::Full`].
    pub fn try_open(
        &self,
        active: &ActiveTunnel,
        destination: &Destination,
        trace_id: TraceId,
        first: Bytes,
    ) -> Result<Option<(Lane, TunnelStream)>, NotOpened> {
        let full = |reason: String| NotOpened::Full { via: active.name.clone(), reason };
        let open = Open::new(
            Transport::Tcp,
            destination.name.as_str(),
            destination.url.host(),
            destination.url.port(),
            *trace_id.as_bytes(),
        );
        // Names and hosts were checked when the destination entered, with tighter bounds than a frame's.
        let open = open.map_err(|odd| full(odd.to_string()))?;
        match active.tunnel.open(open, first) {
            Ok(opened) => Ok(Some(opened)),
            Err(OpenError::GoingAway(_) | OpenError::Over(_)) => Ok(None),
            Err(
                error @ (OpenError::TooManyStreams(_)
                | OpenError::StreamsExhausted
                | OpenError::FirstBytesTooLong { .. }),
            ) => Err(full(error.to_string())),
        }
    }
}

/// The places of an Environment's waiting connections.
#[derive(Debug, Clone)]
pub struct Lot {
    taken: Arc<AtomicUsize>,
    places: usize,
}

impl Lot {
    pub fn new(places: usize) -> Self {
        Self { taken: Arc::default(), places }
    }

    /// A place until it is dropped, or `None` if all are taken.
    pub fn enter(&self) -> Option<Place> {
        let taken = self.taken.fetch_add(1, Ordering::Relaxed);
        // Made before the check, so that leaving gives back what was taken.
        let place = Place(Arc::clone(&self.taken));
        (taken < self.places).then_some(place)
    }

    pub fn places(&self) -> usize {
        self.places
    }
}

/// One waiting connection's place.
#[derive(Debug)]
pub struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use proto::driver::ResetCode;

    use super::*;
    use crate::listener::stage::{Gate, destination};

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_opened_through_the_tunnel_and_names_who_carries_it() {
        let gate = Gate::default();
        let _agent = gate.connect("agent-1", |incoming| async move {
            assert_eq!((incoming.open().host(), incoming.open().port()), ("db.example", 5432));
            let _stream = incoming.accept();
            pending::<()>().await;
        });
        let through = gate.opener().open(&destination("db", "tcp://db.example:5432"), SECOND).await.unwrap();
        assert_eq!(through.via.as_str(), "agent-1");
    }

    #[tokio::test(start_paused = true)]
    async fn the_destinations_refusal_is_told_in_the_agents_words() {
        let gate = Gate::default();
        let _agent = gate.connect("agent-1", |incoming| async move {
            incoming.refuse(ResetCode::NOT_ALLOWED, "db.example:5432 is not on the allow-list");
        });
        let refused = gate.opener().open(&destination("db", "tcp://db.example:5432"), SECOND).await;
        let Err(NotOpened::Refused { via, reset }) = refused else { panic!("it was opened") };
        assert_eq!((via.as_str(), reset.code), ("agent-1", ResetCode::NOT_ALLOWED));
        assert_eq!(reset.reason(), "db.example:5432 is not on the allow-list");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_tunnel_the_opener_waits_as_long_as_it_may() {
        let gate = Gate::default();
        let began = tokio::time::Instant::now();
        let nobody = gate.opener().open(&destination("db", "tcp://db:1"), SECOND).await;
        assert!(matches!(nobody, Err(NotOpened::NoTunnel(SECOND))));
        assert_eq!(began.elapsed(), SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_on_its_way_out_is_passed_over_for_the_next_one() {
        let gate = Gate::default();
        let old = gate.connect("agent-1", |incoming| async move { drop(incoming.accept()) });
        old.tunnel.abort(ResetCode::TUNNEL_LOST, "test");
        let opener = gate.opener();
        let target = destination("db", "tcp://db:1");
        let waiting =
            tokio::spawn(async move { opener.open(&target, SECOND).await.map(|through| through.via) });
        tokio::task::yield_now().await;
        let _new = gate.connect("agent-2", |incoming| async move {
            let _stream = incoming.accept();
            pending::<()>().await;
        });
        assert_eq!(waiting.await.unwrap().unwrap().as_str(), "agent-2");
    }

    #[test]
    fn a_place_in_the_lot_is_free_again_once_it_is_left() {
        let lot = Lot::new(1);
        let place = lot.enter().unwrap();
        assert!(lot.enter().is_none());
        drop(place);
        assert!(lot.enter().is_some());
    }

    const SECOND: Duration = Duration::from_secs(1);
}
