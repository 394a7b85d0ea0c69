//! A tunnel of several websockets: each lane is lost and comes back by itself, and all of them end with the tunnel.

use std::time::{SystemTime, UNIX_EPOCH};

use postern_tests::{Connection, Dice, Partner, Site, wait_until};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::crowd::{Crowd, Manner};
use super::{SOON, setting, site};

const LANES: usize = 4;
/// Silence is noticed soon, streams may wait long, and there are four lanes.
const FOUR_LANES: &str = "ping_interval = \"1s\"\ndead_after = \"3s\"\nresume_window = \"60s\"\nlanes = 4\n";
/// The other lanes have answered long before.
const NOTICED_LATE: &str =
    "ping_interval = \"3s\"\ndead_after = \"10s\"\nresume_window = \"60s\"\nlanes = 4\n";
/// A lane is given up soon.
const GIVEN_UP_SOON: &str =
    "ping_interval = \"1s\"\ndead_after = \"3s\"\nresume_window = \"3s\"\nlanes = 4\n";
/// A standby takes over before streams give up.
const TAKE_OVER_FIRST: &str = "ping_interval = \"1s\"\ndead_after = \"3s\"\nresume_window = \"30s\"\nlanes = 4\n\
                               \n[agent]\ngive_way_after = \"2s\"\n";
const PEOPLE: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_that_are_lost_at_random_under_twenty_streams_lose_and_repeat_nothing() {
    let by_the_clock = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
    let seed = setting("RESUME_SEED", by_the_clock.subsec_nanos().into());
    let rounds = setting("RESUME_CUTS", 100) / 5;
    println!("RESUME_SEED={seed}, {rounds} rounds");
    let partner = Partner::start().await;
    let site = site(&["alpha", "beta"], FOUR_LANES, partner.addr()).await;
    until_lanes(&site, LANES).await;
    let before = site.api().gateway().await;
    let mut dice = Dice::new(seed);
    let mut crowd = Crowd::gather(PEOPLE, Manner::Calm, seed, site.listen());
    crowd.goes_on().await;
    wait_until("every lane carries", SOON, async || {
        lanes(&site, "alpha").iter().all(|lane| lane.bytes() > 100_000).then_some(())
    })
    .await;

    for round in 1..=rounds {
        let lanes = lanes(&site, "alpha");
        for _ in 0..=dice.below(3) {
            let lane = &lanes[usize::try_from(dice.below(lanes.len() as u64)).expect("a few")];
            match dice.below(8) {
                0 => lane.freeze(),
                1 => lane.close(),
                2..=4 => lane.cut_after(1 + dice.below(1 << 18)),
                _ => lane.cut(),
            }
        }
        wait_until(&format!("round {round} is over"), SOON, async || {
            crowd.no_faults();
            // A lane whose offset has not come yet is up, and is lost in a later round.
            (up(&site).await == LANES).then_some(())
        })
        .await;
    }
    crowd.goes_on().await;
    let held = crowd.disperse(&partner).await;
    println!("{rounds} rounds: {held} conversations of {} bytes", partner.bytes());
    // The last cut may have fallen a moment ago.
    until_lanes(&site, LANES).await;
    assert_eq!(site.api().gateway().await, before);
}

#[tokio::test]
async fn a_lane_that_is_lost_holds_up_its_own_streams_and_no_others() {
    let site = site(&["alpha"], NOTICED_LATE, echo().await).await;
    until_lanes(&site, LANES).await;
    let mut talks = Talks::begin(&site, 2 * LANES).await;

    lanes(&site, "alpha")[2].freeze();
    talks.ask(2 * LANES - 2).await;
    // Nobody has found out yet that one of them is lost, so nobody has taken its streams over.
    assert_eq!(up(&site).await, LANES);
    assert!(talks.asking.try_join_next().is_none(), "two streams are on that lane");
    talks.rest().await;
    talks.ask(2 * LANES).await;
    until_lanes(&site, LANES).await;
}

#[tokio::test]
async fn a_lane_that_does_not_come_back_in_time_is_told_once_and_so_is_its_return() {
    let site = site(&["alpha"], GIVEN_UP_SOON, echo().await).await;
    until_lanes(&site, LANES).await;
    let talks = Talks::begin(&site, 2 * LANES).await;

    site.link("alpha").refuse_new(true);
    lanes(&site, "alpha")[2].cut();
    until_told(&site, "lane_lost").await;
    let mut ended = 0;
    for mut stream in talks.quiet {
        // One whose reset is here already refuses the question, the others answer it.
        let asked = stream.write_all(b"ping").await;
        let answered = timeout(SOON, stream.read_exact(&mut [0; 4])).await.expect("an answer or an end");
        ended += usize::from(asked.and(answered.map(drop)).is_err());
    }
    assert_eq!(ended, 2, "the streams of that lane ended, those of the others go on");
    assert_eq!(up(&site).await, LANES - 1);

    site.link("alpha").refuse_new(false);
    until_told(&site, "lane_back").await;
    until_lanes(&site, LANES).await;
    Talks::begin(&site, 2 * LANES).await.ask(2 * LANES).await;
    let events = site.api().get("/events").await.to_string();
    let told = ["\"lane_lost\"", "\"lane_back\""].map(|code| events.matches(code).count());
    assert_eq!(told, [1, 1], "{events}");
}

#[tokio::test]
async fn a_planned_switch_moves_a_tunnel_of_many_lanes_and_loses_nothing() {
    let site = site(&["alpha", "beta"], FOUR_LANES, echo().await).await;
    until_lanes(&site, LANES).await;
    let mut old = Talks::begin(&site, 2 * LANES).await;
    site.api().post("/gateway/switch", json!({"to": "beta"})).await;
    wait_until("beta is active", SOON, async || {
        (site.api().gateway().await.active.as_deref() == Some("beta")).then_some(())
    })
    .await;
    until_lanes(&site, LANES).await;
    let mut new = Talks::begin(&site, LANES).await;

    old.ask(2 * LANES).await;
    // Its lanes may come back while it drains.
    lanes(&site, "alpha")[1..].iter().for_each(Connection::cut);
    old.ask(2 * LANES).await;
    new.ask(LANES).await;
    drop(old);
    wait_until("alpha has drained", SOON, async || {
        let draining = &site.api().get("/gateway").await["draining"];
        draining.as_array().is_some_and(Vec::is_empty).then_some(())
    })
    .await;
    wait_until("its lanes are gone", SOON, async || lanes(&site, "alpha").is_empty().then_some(())).await;
    new.ask(LANES).await;
}

#[tokio::test]
async fn a_take_over_ends_the_streams_of_every_lane_and_none_of_them_comes_back() {
    let site = site(&["alpha", "beta"], TAKE_OVER_FIRST, echo().await).await;
    until_lanes(&site, LANES).await;
    let before = site.api().gateway().await;
    let old = Talks::begin(&site, 2 * LANES).await;

    // Alpha's first lane and its control websocket are frozen; its other lanes are well.
    let link = site.link("alpha");
    link.refuse_new(true);
    link.connections().iter().take(2).for_each(Connection::freeze);
    wait_until("beta is active", SOON, async || {
        let gateway = site.api().gateway().await;
        (gateway.active.as_deref() == Some("beta") && gateway.epoch > before.epoch).then_some(())
    })
    .await;
    old.end_with_resets().await;

    link.cut_all();
    link.refuse_new(false);
    site.central().until_connected("alpha", SOON).await;
    // Nobody could tell alpha's frozen first lane, so alpha may be asking for its session again just now: central refuses,
    // and what it asked over is closed. A lane that had come back would stay.
    wait_until("no lane of alpha's superseded tunnel came back", SOON, async || {
        lanes(&site, "alpha").is_empty().then_some(())
    })
    .await;
    until_lanes(&site, LANES).await;
    Talks::begin(&site, LANES).await.ask(LANES).await;
}

#[tokio::test]
async fn one_lane_is_what_nobody_asked_otherwise_for() {
    let site = site(&["alpha"], super::QUICK, echo().await).await;
    Talks::begin(&site, 8).await.ask(8).await;
    assert_eq!((up(&site).await, lanes(&site, "alpha").len()), (1, 1));
}

/// The agent's connections but for its control websocket, which it opened first: the tunnel's first lane, then others
/// as they came.
fn lanes(site: &Site, agent: &str) -> Vec<Connection> {
    site.link(agent).connections().into_iter().skip(1).collect()
}

async fn up(site: &Site) -> usize {
    let lanes = site.api().get("/gateway").await["lanes"].as_u64();
    usize::try_from(lanes.expect("the gateway says how many lanes it has")).expect("a few")
}

async fn until_lanes(site: &Site, count: usize) {
    wait_until(&format!("there are {count} lanes"), SOON, async || (up(site).await == count).then_some(()))
        .await;
}

async fn until_told(site: &Site, code: &str) {
    wait_until(&format!("{code} is told"), SOON, async || {
        let events = site.api().get("/events").await.to_string();
        events.contains(&format!("\"{code}\"")).then_some(())
    })
    .await;
}

/// A destination that says everything back.
async fn echo() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = socket.split();
                // Ends with its client.
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    addr
}

/// Streams that are open and quiet, and are asked something now and then.
struct Talks {
    quiet: Vec<TcpStream>,
    asking: JoinSet<TcpStream>,
}

impl Talks {
    async fn begin(site: &Site, count: usize) -> Self {
        let mut talks = Self { quiet: Vec::new(), asking: JoinSet::new() };
        for _ in 0..count {
            talks.quiet.push(TcpStream::connect(site.listen()).await.unwrap());
            // One by one, so that each lane has got its share before the next is opened.
            let open = talks.quiet.len();
            talks.ask(open).await;
        }
        talks
    }

    /// Asks on every stream, and waits until so many were answered. The rest goes on waiting.
    async fn ask(&mut self, answers: usize) {
        for mut stream in self.quiet.drain(..) {
            self.asking.spawn(async move {
                stream.write_all(b"ping").await.unwrap();
                let mut said = [0; 4];
                stream.read_exact(&mut said).await.unwrap();
                assert_eq!(&said, b"ping");
                stream
            });
        }
        for _ in 0..answers {
            let answered = timeout(SOON, self.asking.join_next()).await.expect("an answer comes");
            self.quiet.push(answered.unwrap().unwrap());
        }
    }

    /// Waits for the answers that were still to come.
    async fn rest(&mut self) {
        while let Some(answered) = timeout(SOON, self.asking.join_next()).await.expect("an answer comes") {
            self.quiet.push(answered.unwrap());
        }
    }

    async fn end_with_resets(self) {
        for mut stream in self.quiet {
            let end = timeout(SOON, stream.read(&mut [0; 1])).await.expect("it ends");
            assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
}
