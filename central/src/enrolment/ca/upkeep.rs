//! Looks after the authority of a running central, and tells people when its owner had it followed by another.

use std::time::Duration;

use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::{Ca, Looked};
use crate::events::{Events, NewEvent, Severity};

/// Between two looks, which read one small file: whoever rotates it wants to see that it was noticed.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Runs until `stop`. Cancel-safe: a look changes everything at once.
pub async fn keep(ca: &Ca, environments: &[Events], stop: &CancellationToken) {
    // A broken file is told once, not every few seconds.
    let mut told = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let now = OffsetDateTime::now_utc();
        match ca.look(now) {
            Ok(looked) => {
                told = None;
                tell(looked, environments, now).await;
            }
            Err(error) => {
                let problem = program::explain(&error);
                if told.as_ref() != Some(&problem) {
                    tracing::error!(
                        problem,
                        "The certificate authority's files cannot be used; what was read before holds on"
                    );
                }
                told = Some(problem);
            }
        }
    }
}

async fn tell(looked: Looked, environments: &[Events], now: OffsetDateTime) {
    if looked.server_renewed {
        tracing::info!("Renewed central's own certificate");
    }
    if looked.overlap_over {
        tracing::info!("Certificates of the last authority count no more");
    }
    if !looked.followed {
        return;
    }
    tracing::info!("Another certificate authority certifies from now on");
    for events in environments {
        let told = NewEvent {
            code: "ca_rotated",
            severity: Severity::Info,
            text: "central's certificate authority was replaced on its host; agents take the new one with their next \
                   certificate"
                .into(),
            sender: "enrolment".into(),
        };
        if let Err(error) = events.append(told, now).await {
            tracing::warn!(%error, "An Environment could not be told that the authority was replaced");
        }
    }
}
