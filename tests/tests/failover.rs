//! Two agents, nothing else, and what happens to one of them.
#![expect(clippy::expect_used, reason = "panicking is how a test fails")]

use std::collections::BTreeMap;
use std::io;
use std::process::Stdio;
use std::time::{Duration, Instant};

use postern_tests::servers::{Mirror, Postgres};
use postern_tests::{Dev, Gateway, Link, Site, holds_for, suite, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A closed socket is noticed at once; the rest is an election.
const TAKEOVER_AFTER_KILL: Duration = Duration::from_secs(10);
/// Silence is noticed after `tunnel.dead_after`, 15 s.
const TAKEOVER_AFTER_SILENCE: Duration = Duration::from_secs(40);
const RETURN_WITHIN: Duration = Duration::from_secs(30);
const LOAD_WITHIN: Duration = Duration::from_secs(60);
/// Longer than `tunnel.dead_after` (15 s) and `agent.give_way_after` (10 s): whatever would switch
/// for want of control websockets has switched by then.
const LONG_ENOUGH_TO_SWITCH: Duration = Duration::from_secs(20);
const LOOK_WITHIN: Duration = Duration::from_secs(2);

#[tokio::test]
async fn the_active_killed_under_load_is_replaced_at_once_and_returns_as_standby() {
    let (postgres, mirror) = (Postgres::start().await, Mirror::start().await);
    let database = format!("postgresql://{}", postgres.addr());
    let mut dev =
        Dev::start(&[("database", &database), ("mirror", &format!("tcp://{}", mirror.addr()))]).await;
    dev.until_all_configured().await;
    postgres.prepare_pgbench(dev.listen("database"), 5).await;
    let before = dev.api().gateway().await;
    let killed = before.active.clone().expect("a gateway that is up has an active");
    let other = dev.other_than(&killed).clone();

    let load = postgres
        .pgbench(dev.listen("database"), 16, 120)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("pgbench can be started");
    wait_until("pgbench is at work", LOAD_WITHIN, async || {
        (postgres.pgbench_clients().await == 16).then_some(())
    })
    .await;
    dev.kill(&killed);

    // A connection opened before central notices may still die with the killed agent.
    let (_connection, visit) = wait_until("a new connection is served", TAKEOVER_AFTER_KILL, async || {
        mirror.look_into(dev.listen("mirror"), LOOK_WITHIN).await
    })
    .await;
    assert_eq!(visit.dialled_by(&dev.agent_pids()), Some(other.pid));
    let after = dev.api().gateway().await;
    assert_eq!(after.active.as_deref(), Some(other.name.as_str()));
    assert!(after.epoch > before.epoch, "{after:?} after {before:?}");

    // What the killed agent carried is cut, not left hanging; new clients work.
    let ended = timeout(LOAD_WITHIN, load.wait_with_output()).await;
    let ended = ended.expect("pgbench notices that its connections are gone").expect("pgbench was started");
    assert!(!ended.status.success(), "pgbench cannot have outlived the agent it went through");
    let mut again = postgres.pgbench(dev.listen("database"), 16, 3);
    let report = suite::output("pgbench", &mut again, LOAD_WITHIN).await;
    assert!(report.contains("number of failed transactions: 0 "), "{report}");

    let _returned = dev.restart(&killed);
    wait_until("the killed agent is back as standby", RETURN_WITHIN, async || {
        let server = dev.api().process_server(&killed).await;
        (server.connected && server.configured && !server.active).then_some(())
    })
    .await;
    assert_eq!(dev.api().gateway().await, after);
}

#[tokio::test]
async fn a_tunnel_carries_on_while_every_control_websocket_is_cut() {
    let mirror = Mirror::start().await;
    let site = Site::start(&["alpha", "beta"], mirror.addr()).await;
    let before = site.api().gateway().await;
    let active = before.active.clone().expect("a gateway that is up has an active");
    let (mut stream, _) = mirror.look_into(site.listen(), LOOK_WITHIN).await.expect("the gateway is up");

    // The connection that carries the bulk is the tunnel; all others are not.
    echo(&mut stream, 8 << 20).await;
    let connections = site.link(&active).connections();
    let tunnel = connections.iter().max_by_key(|one| one.bytes()).expect("the active is connected").clone();
    assert!(tunnel.bytes() > 16 << 20, "no connection of {active} carried the bulk");
    for link in site.links() {
        link.refuse_new(true);
        for connection in link.connections() {
            if !connection.is(&tunnel) {
                connection.cut();
            }
        }
    }
    wait_until("central hears nobody on a control websocket", RETURN_WITHIN, async || {
        let all = site.api().process_servers().await;
        all.iter().all(|server| !server.connected).then_some(())
    })
    .await;

    holds_for(LONG_ENOUGH_TO_SWITCH, async || {
        echo(&mut stream, 64 << 10).await;
        assert!(
            mirror.look_into(site.listen(), LOOK_WITHIN).await.is_some(),
            "a new connection was not served"
        );
        assert_eq!(site.api().gateway().await, before);
        assert_eq!(site.links().map(|link| link.connections().len()).sum::<usize>(), 1);
    })
    .await;

    site.links().for_each(|link: &Link| link.refuse_new(false));
    wait_until("every agent is connected again", RETURN_WITHIN, async || {
        let all = site.api().process_servers().await;
        all.iter().all(|server| server.connected).then_some(())
    })
    .await;
    echo(&mut stream, 64 << 10).await;
    assert_eq!(site.api().gateway().await, before);
}

#[tokio::test]
async fn an_active_frozen_for_a_minute_never_makes_two() {
    let mirror = Mirror::start().await;
    let dev = Dev::start(&[("mirror", &format!("tcp://{}", mirror.addr()))]).await;
    dev.until_all_configured().await;
    let before = dev.api().gateway().await;
    let frozen = before.active.clone().expect("a gateway that is up has an active");
    let other = dev.other_than(&frozen).clone();
    let (mut held, held_visit) =
        mirror.look_into(dev.listen("mirror"), LOOK_WITHIN).await.expect("the gateway is up");
    let mut oracle = OneActive::new(&mirror, &dev);

    dev.freeze(&frozen).await;
    let frozen_at = Instant::now();
    let delivered = held_visit.bytes();
    // These bytes lie in front of the frozen agent: written out late, they would betray it.
    held.write_all(b"too late").await.expect("nobody has noticed yet");
    wait_until("the other agent serves", TAKEOVER_AFTER_SILENCE, async || {
        (oracle.look().await.as_deref() == Some(other.name.as_str())).then_some(())
    })
    .await;
    let end = held.read(&mut [0; 64]).await;
    assert_eq!(end.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionReset));

    let rest = Duration::from_secs(60).saturating_sub(frozen_at.elapsed());
    holds_for(rest, async || assert_eq!(oracle.look().await.as_deref(), Some(other.name.as_str()))).await;
    dev.thaw(&frozen);
    holds_for(LONG_ENOUGH_TO_SWITCH, async || {
        assert_eq!(oracle.look().await.as_deref(), Some(other.name.as_str()));
        assert_eq!(
            held_visit.bytes(),
            delivered,
            "{frozen} wrote to a destination when it was no longer active"
        );
    })
    .await;
    wait_until("the thawed agent is standby", RETURN_WITHIN, async || {
        let server = dev.api().process_server(&frozen).await;
        (server.connected && server.configured && !server.active).then_some(())
    })
    .await;
}

/// Looks at the gateway through its API and through its listener, and compares.
struct OneActive<'a> {
    mirror: &'a Mirror,
    dev: &'a Dev,
    newest: Epoch,
    active_of: BTreeMap<Epoch, String>,
}

/// Generation and claim; the none before the first is the smallest.
type Epoch = (u64, u64);

impl<'a> OneActive<'a> {
    fn new(mirror: &'a Mirror, dev: &'a Dev) -> Self {
        Self { mirror, dev, newest: (0, 0), active_of: BTreeMap::new() }
    }

    /// Which agent served a new connection just now? `None` when none did.
    async fn look(&mut self) -> Option<String> {
        let before = self.dev.api().gateway().await;
        let looked = self.mirror.look_into(self.dev.listen("mirror"), LOOK_WITHIN).await;
        let served_by = looked.map(|(_open, visit)| {
            let pid = visit.dialled_by(&self.dev.agent_pids()).expect("one of the agents dialled");
            self.dev.agent_with(pid).to_owned()
        });
        let after = self.dev.api().gateway().await;
        self.note(&before);
        self.note(&after);
        if let Some(name) = &served_by
            && before == after
        {
            assert_eq!(after.active.as_ref(), Some(name), "served by another than the active of {after:?}");
        }
        served_by
    }

    fn note(&mut self, gateway: &Gateway) {
        let epoch = (gateway.group_epoch, gateway.epoch);
        assert!(epoch >= self.newest, "the epoch went back from {:?} to {epoch:?}", self.newest);
        self.newest = epoch;
        if let Some(active) = &gateway.active {
            let first = self.active_of.entry(epoch).or_insert_with(|| active.clone());
            assert_eq!(first, active, "two agents were active in epoch {epoch:?}");
        }
    }
}

/// Sends `count` bytes to the mirror and gets them back as they were.
async fn echo(stream: &mut TcpStream, count: usize) {
    let sent: Vec<u8> = (0..count).map(|at| (at % 251) as u8).collect();
    let mut back = vec![0; count];
    let (mut read, mut write) = stream.split();
    let both = async { tokio::try_join!(write.write_all(&sent), read.read_exact(&mut back)) };
    timeout(LOAD_WITHIN, both).await.expect("the echo comes within a minute").expect("the stream lives");
    assert!(back == sent, "the echo came back altered");
}
