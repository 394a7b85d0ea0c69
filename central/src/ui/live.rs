//! `/live`: says that something changed, and nothing more. The script then asks for its page again, with
//! all the rights and words that page has.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http_body::Frame;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{MissedTickBehavior, interval, sleep},
};

use super::visitor::Visitor;
use crate::admin::AppState;

/// Changes come in bursts: a failover writes a dozen records within a blink.
const GATHER: Duration = Duration::from_millis(150);
/// Proxies and browsers forget a silent connection.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
/// A look by itself, for what is not announced: ages of what was heard, listeners that failed.
const LOOK: Duration = Duration::from_secs(10);
/// Browsers that may follow at a time. Each costs a task and a connection.
const FOLLOWERS_MAX: usize = 256;

static FOLLOWERS: std::sync::LazyLock<Arc<Semaphore>> =
    std::sync::LazyLock::new(|| Arc::new(Semaphore::new(FOLLOWERS_MAX)));

/// Server-sent events, each named `change`. They end with the gateway's own task, so that no open page keeps
/// central from stopping.
pub(super) async fn follow(State(app): State<AppState>, visitor: Visitor) -> Response {
    let gateway = visitor.environment.parse().ok().and_then(|name| app.gateways.of(&name).cloned());
    let Some(gateway) = gateway else { return StatusCode::NOT_FOUND.into_response() };
    let Ok(place) = FOLLOWERS.clone().try_acquire_owned() else {
        // The page still works; it is merely not kept current.
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let (mut view, mut changes) = (gateway.watch(), app.store.changes());
    let (say, said) = mpsc::channel::<Bytes>(4);
    // Ends when the browser goes, which drops `said`, or with the gateway.
    tokio::spawn(async move {
        let mut alive = interval(SIGN_OF_LIFE);
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let line: &'static [u8] = tokio::select! {
                changed = view.changed() => if changed.is_ok() { CHANGE } else { return },
                changed = changes.changed() => if changed.is_ok() { CHANGE } else { return },
                _ = look.tick() => CHANGE,
                _ = alive.tick() => b": still here\n\n",
                () = say.closed() => return,
            };
            if line == CHANGE {
                sleep(GATHER).await;
                view.borrow_and_update();
                changes.borrow_and_update();
            }
            if say.send(Bytes::from_static(line)).await.is_err() {
                return;
            }
        }
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::new(Lines { said, _place: place })).into_response()
}

const CHANGE: &[u8] = b"event: change\ndata: {}\n\n";

/// The lines as they come, for as long as somebody reads.
struct Lines {
    said: mpsc::Receiver<Bytes>,
    _place: OwnedSemaphorePermit,
}

impl http_body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.said.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}
