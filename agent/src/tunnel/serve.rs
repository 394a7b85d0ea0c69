//! Serves the streams that central opens on a lane: the allow-list, the dial, the relay.

use std::sync::Arc;

use program::explain;
use proto::driver::{self, Incoming, IncomingStream};
use tokio::task::JoinSet;
use traces::Traces;

use super::{Surroundings, traced::Way};
use crate::dialer::{Dialer, Placed};

/// Every stream of a lane, until it has ended: an aborted lane has no more. Dropped, all of them are reset.
pub(super) async fn serve_all(mut incoming: Incoming, Surroundings { dialer, traces, .. }: Surroundings) {
    let mut serving = JoinSet::new();
    loop {
        tokio::select! {
            stream = incoming.next() => match stream {
                Some(stream) => drop(serving.spawn(serve(stream, dialer.clone(), traces.clone()))),
                None => break,
            },
            Some(_finished) = serving.join_next() => {}
        }
    }
}

/// One stream: the allow-list, the dial, the relay.
async fn serve(stream: IncomingStream, dialer: Arc<Dialer>, traces: Traces) {
    let open = stream.open().clone();
    let began = tokio::time::Instant::now();
    let trace_id = open.trace();
    let mut way = Way::begin(&traces, &open);
    // Boxed: what dialling needs would otherwise stay with the stream for as long as it is relayed.
    match Box::pin(dialer.dial(&open)).await {
        // The place is the socket's for as long as bytes may move.
        Ok(Placed { socket, place: _held }) => {
            let took = began.elapsed();
            way.dialled(&open, None);
            tracing::debug!(%trace_id, destination = open.destination(), ?took, "A stream was connected");
            let end = driver::relay(socket, stream.accept()).await;
            way.relayed(&end);
            tracing::debug!(%trace_id, destination = open.destination(), ?end, "A stream ended");
        }
        Err(error) => {
            let why = explain(&error);
            way.dialled(&open, Some(&why));
            tracing::warn!(
                %trace_id,
                destination = open.destination(),
                host = open.host(),
                port = open.port(),
                why,
                "A stream was refused"
            );
            stream.refuse(error.code(), &why);
        }
    }
}
