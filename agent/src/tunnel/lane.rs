//! Keeps one further lane of a tunnel up, beside its first.
//!
//! ```text
//!   the first lane is up ─► connect ─► hello ─► admitted ─► runs ─► lost ─┐
//!            ▲                            └ refused                       │ the same streams go on while they may
//!            └────────────────────────────────────────────────────────────┘
//! ```
//!
//! A lane has streams of its own. When its websocket breaks they wait for its next one, as long as the first lane's would
//! for theirs; what happens to the tunnel is decided elsewhere, and ends the lane.

use std::time::Duration;

use program::explain;
use proto::{
    Backoff, LaneId,
    driver::{self, BootClock, LaneEnd, Lanes, SystemBootClock, Tunnel},
    hello::{LANE_PATH, LANE_SUBPROTOCOL, LaneHello, LinkSettings, Resume, TunnelHello},
    mux::ResetCode,
};
use tokio::{sync::watch, task::JoinSet};

use super::{
    Failed, Knocked, RETRY_FIRST, RETRY_MAX, Success, Surroundings, admitted, ends_session, knock, pause,
    serve::serve_all, stood_still, tunnel_config,
};

/// A further lane. Dropping [`FurtherLane::run`] drops its websocket; its streams end with the tunnel's [`Lanes`].
pub(super) struct FurtherLane {
    number: u8,
    /// The tunnel's own.
    hello: TunnelHello,
    settings: LinkSettings,
    surroundings: Surroundings,
    lanes: Lanes,
    first_up: watch::Receiver<bool>,
    streams: Option<Streams>,
}

/// The lane's streams, and when the websocket under them was lost, on a clock that counts sleep.
struct Streams {
    id: LaneId,
    of: driver::Lane,
    lost_at: Option<Duration>,
    _served: JoinSet<()>,
}

impl FurtherLane {
    pub(super) fn new(
        number: u8,
        hello: TunnelHello,
        settings: LinkSettings,
        surroundings: Surroundings,
        lanes: Lanes,
        first_up: watch::Receiver<bool>,
    ) -> Self {
        Self { number, hello, settings, surroundings, lanes, first_up, streams: None }
    }

    /// Never returns. Ends with the session, which drops it.
    pub(super) async fn run(mut self) {
        let (epoch, lane) = (self.hello.epoch, self.number);
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        loop {
            let left = self.left();
            let attempt = tokio::select! {
                attempt = self.attempt() => attempt,
                // An attempt may hang for long; whoever waits for these streams must not.
                () = pause(left) => {
                    self.expire();
                    continue;
                }
            };
            match attempt {
                Ok((tunnel, Knocked { socket, line })) => {
                    tracing::info!(%epoch, lane, "A further lane is up");
                    let success = Success::of(&tunnel);
                    let end = tunnel.run(socket).await;
                    if stood_still(&end) {
                        line.stood_still();
                    }
                    if success.came(&tunnel) {
                        backoff.reset();
                    }
                    tunnel.detach();
                    tracing::warn!(%epoch, lane, %end, "A further lane was lost");
                    if tunnel.is_over() || matches!(end, LaneEnd::Closed { code: driver::CLOSE_OVER, .. }) {
                        self.give_up("the lane was ended");
                    } else if let Some(streams) = &mut self.streams {
                        streams.lost_at = Some(SystemBootClock.now());
                    }
                }
                Err(error) => {
                    let why = explain(&error);
                    // Once in a row; what does not change need not be said again.
                    match backoff.failures() {
                        0 => tracing::warn!(%epoch, lane, why, "A further lane is not up"),
                        _ => tracing::debug!(%epoch, lane, why, "A further lane is not up"),
                    }
                    if matches!(error, Failed::Refused(refusal) if ends_session(refusal.code)) {
                        self.give_up("central will not continue the lane");
                    }
                }
            }
            self.expire();
            tokio::select! {
                () = tokio::time::sleep(backoff.next(rand::random())) => {}
                () = pause(self.left()) => self.expire(),
            }
        }
    }

    async fn attempt(&mut self) -> Result<(Tunnel, Knocked), Failed> {
        if self.first_up.wait_for(|up| *up).await.is_err() {
            // The session is going, and this with it.
            std::future::pending::<()>().await;
        }
        let mut knocked = knock(&self.surroundings, LANE_PATH, LANE_SUBPROTOCOL).await?;
        let resume = |streams: &Streams| Resume { received_through: streams.of.tunnel.received_through() };
        let id = self.streams.as_ref().map_or_else(LaneId::random, |streams| streams.id);
        let hello = LaneHello {
            tunnel: TunnelHello { resume: self.streams.as_ref().map(resume), ..self.hello.clone() },
            lane: self.number,
            id,
        };
        let (_, resume) = admitted(knocked.greet(&hello).await?)?;
        match (resume, &mut self.streams) {
            (Some(resume), Some(streams)) => {
                if let Err(error) = streams.of.tunnel.reattach(resume.received_through) {
                    self.give_up("central continued from a place that cannot be");
                    return Err(Failed::Resume(error));
                }
                streams.lost_at = None;
                Ok((streams.of.tunnel.clone(), knocked))
            }
            (_, _) => {
                self.give_up("central began the lane anew");
                Ok((self.begin(id), knocked))
            }
        }
    }

    fn begin(&mut self, id: LaneId) -> Tunnel {
        let (tunnel, incoming) = Tunnel::new(tunnel_config(&self.settings));
        let of = self.lanes.add(tunnel.clone());
        let mut served = JoinSet::new();
        served.spawn(serve_all(incoming, self.surroundings.clone()));
        self.streams = Some(Streams { id, of, lost_at: None, _served: served });
        tunnel
    }

    fn give_up(&mut self, why: &str) {
        if let Some(streams) = self.streams.take() {
            self.lanes.end(streams.of.serial, ResetCode::TUNNEL_LOST, why);
        }
    }

    /// Central keeps a lane's streams for the resume window and no longer; nor do we.
    fn expire(&mut self) {
        if self.left() == Some(Duration::ZERO) {
            self.give_up("the resume window has passed");
        }
    }

    /// How long streams that have lost their websocket may still wait for another.
    fn left(&self) -> Option<Duration> {
        let lost_at = self.streams.as_ref()?.lost_at?;
        let lost_for = SystemBootClock.now().saturating_sub(lost_at);
        Some(self.settings.resume_window().saturating_sub(lost_for))
    }
}
