//! A malformed frame on a live tunnel: that tunnel ends, with a reason, and comes back; the process
//! and every other Environment go on.
#![expect(clippy::expect_used, reason = "panicking is how a test fails")]

mod wiretap;

use std::time::Duration;

use postern_tests::{Central, Conversation, Partner, Site, holds_for, wait_until};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

use wiretap::{Ear, Wiretap};

const SOON: Duration = Duration::from_secs(30);
/// A websocket that lived this long counts as one that worked, and its successor comes at once.
const STABLE: Duration = Duration::from_millis(300);

/// What no agent and no central says: a description, the message, and what is said of it.
fn nonsense() -> Vec<(&'static str, Message, &'static str)> {
    let ping = |seq: u64| {
        let mut frame = vec![16, 0, 0, 8, 0, 0, 0, 0];
        frame.extend(seq.to_be_bytes());
        frame.extend([0; 8]);
        frame
    };
    vec![
        ("an unknown kind of frame", Message::binary(vec![0xff; 64]), "no frame has the type 255"),
        ("half a header", Message::binary(vec![16, 0, 0]), "a frame was cut off"),
        ("a number where none belongs", Message::binary(ping(9)), "a PING frame has the number 9"),
        ("text", Message::text("hello"), "text message"),
        ("a message beyond every bound", Message::binary(vec![0; 4 << 20]), "a message has more than"),
    ]
}

#[tokio::test]
async fn a_malformed_frame_ends_its_tunnel_alone_whoever_hears_it() {
    let (partner, other_partner) = (Partner::start().await, Partner::start().await);
    let central = Central::start_with(&["north", "south"], "").await;
    let north = Site::start_in(central.clone(), &["alpha"], partner.addr(), &[]).await;
    let south = Site::start_in(central.as_seen_in("south"), &["omega"], other_partner.addr(), &[]).await;
    let undisturbed = south.api().gateway().await;
    let boat = Traffic::start(south.listen());
    let connections = south.link("omega").connections();

    let wiretap = Wiretap::between(north.host("alpha"), &central).await;
    north.link("alpha").lead_to(wiretap.addr());
    north.link("alpha").cut_all();
    wait_until("the tunnel crosses the wiretap", SOON, async || (wiretap.tunnels() > 0).then_some(())).await;
    until_serving(&north, "at first").await;

    for ear in [Ear::Centrals, Ear::Agents] {
        for (what, message, said) in nonsense() {
            let (tunnels, seen) = (wiretap.tunnels(), newest_event(&north).await);
            holds_for(STABLE, async || assert_eq!(wiretap.tunnels(), tunnels, "it was lost by itself")).await;
            wiretap.whisper(ear, message).await;

            wait_until(&format!("{what} in {ear:?} ear ends the tunnel"), SOON, async || {
                (wiretap.tunnels() > tunnels).then_some(())
            })
            .await;
            until_serving(&north, what).await;
            // Whoever heard it says what; the other one may learn no more than that it is over.
            let reason = lost_because(&north, seen).await;
            let heard = match ear {
                Ear::Centrals => reason,
                Ear::Agents => north.log_tail("alpha"),
            };
            assert!(heard.contains(said), "of {what} in {ear:?} ear it was said: {heard}");
        }
    }

    // The other Environment heard nothing of it: same connections, same epoch, every byte.
    assert!(connections.iter().all(|one| one.is_open()), "omega lost a connection");
    assert_eq!(south.api().gateway().await, undisturbed);
    let held = boat.stop().await;
    assert!(held > 0, "nothing was said in the other Environment");
    wait_until("both sides count the same", SOON, async || (other_partner.held() == held).then_some(()))
        .await;
    assert_eq!(other_partner.faults(), [""; 0]);
}

/// A new conversation comes to its proper end.
async fn until_serving(site: &Site, after: &str) {
    let talk =
        Conversation { seed: 1, up_bytes: 100_000, down_bytes: 100_000, pause: Duration::ZERO, turns: 0 };
    wait_until(&format!("the gateway serves again after {after}"), SOON, async || {
        talk.hold(site.listen()).await.ok()
    })
    .await;
}

async fn newest_event(site: &Site) -> u64 {
    let events = site.api().get("/events").await;
    let newest = events.as_array().and_then(|events| events.last()?["seq"].as_u64());
    newest.expect("something has happened already")
}

/// Why the tunnel was lost since the event `seen`, as an administrator reads it.
async fn lost_because(site: &Site, seen: u64) -> String {
    let events = site.api().get(&format!("/events?after={seen}")).await;
    let events = events.as_array().cloned().unwrap_or_default();
    let mut lost = events.iter().filter(|event| event["code"] == "tunnel_lost");
    let text = lost.next().map(ToString::to_string);
    text.unwrap_or_else(|| panic!("no event tells that the tunnel was lost: {events:?}"))
}

/// One conversation after the other, until stopped.
struct Traffic {
    over: watch::Sender<bool>,
    task: JoinHandle<usize>,
}

impl Traffic {
    fn start(at: std::net::SocketAddr) -> Self {
        let over = watch::Sender::new(false);
        let stopped = over.subscribe();
        let task = tokio::spawn(async move {
            let mut held = 0;
            while !*stopped.borrow() {
                let pause = Duration::from_millis(5);
                let talk =
                    Conversation { seed: held, up_bytes: 300_000, down_bytes: 500_000, pause, turns: 0 };
                talk.hold(at).await.expect("nobody disturbs this Environment");
                held += 1;
            }
            usize::try_from(held).expect("these are few")
        });
        Self { over, task }
    }

    async fn stop(self) -> usize {
        self.over.send_replace(true);
        self.task.await.expect("the conversations went well")
    }
}
