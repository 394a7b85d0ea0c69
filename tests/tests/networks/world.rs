//! Central in the cloud, agents at the site, a destination beside them, and the paths between all of them.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use emulator::{Network, path::Impairment};
use postern_tests::{Hosts, Place, holds_for};
use rustix::process::{Pid, Signal, kill_process};

use crate::Talk;

const TUNNEL_PORT: u16 = 8443;
const ECHO_PORT: u16 = 5000;

/// The hosts' names; `cloud` is central's and `site` the destination's.
const CLOUD: &str = "cloud";
const SITE: &str = "site";

pub(crate) struct World {
    // First, so that the processes end before their network.
    pub(crate) hosts: Hosts,
    listen: SocketAddr,
    heard: Arc<AtomicU64>,
    names: Vec<String>,
    pub(crate) network: Network,
}

impl World {
    /// A gateway of these agents, the first of them active, with one destination at the site.
    pub(crate) async fn up(agents: &[&str]) -> Self {
        postern_tests::needs::root("network namespaces");
        let seed = env::var("NETWORK_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| u64::from(since.subsec_nanos()))
        });
        println!("NETWORK_SEED={seed}");
        let names: Vec<&str> = [CLOUD, SITE].into_iter().chain(agents.iter().copied()).collect();
        let network = Network::new(&names, seed).unwrap();
        // This thread, with everything it starts, is in the cloud from here on.
        network.enter(CLOUD).unwrap();
        let heard = Arc::new(AtomicU64::new(0));
        echo_at_the_site(&network, heard.clone());

        let place = |name: &&str| {
            let namespace = network.namespace(name).unwrap().to_owned();
            ((*name).to_owned(), Place::new(namespace, network.address(name).unwrap()))
        };
        let places: BTreeMap<String, Place> = agents.iter().map(place).collect();
        let tunnel = SocketAddr::from((network.address(CLOUD).unwrap(), TUNNEL_PORT));
        // An outage is to be served as soon as somebody can.
        let mut hosts = Hosts::central_across(tunnel, places, "[gateway]\npark_timeout = \"1m\"\n").await;
        hosts.form(agents).await;
        let target = SocketAddr::from((network.address(SITE).unwrap(), ECHO_PORT));
        let listen = hosts.destination("echo", target).await;
        let names = names.into_iter().map(str::to_owned).collect();
        let world = Self { hosts, listen, heard, names, network };
        world.until_served(Duration::from_secs(30)).await;
        world
    }

    /// A stream through the gateway.
    pub(crate) async fn talk(&self) -> Talk {
        self.until_served(Duration::from_secs(30)).await
    }

    /// Connects until something comes back, as a client does that tries again.
    pub(crate) async fn until_served(&self, limit: Duration) -> Talk {
        let until = Instant::now() + limit;
        while Instant::now() < until {
            if let Some(talk) =
                Talk::begin(self.listen, until.saturating_duration_since(Instant::now())).await
            {
                return talk;
            }
            // Refused at once, as while the destination's listener is on its way.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("nobody was served within {limit:?}")
    }

    /// Every path does this.
    pub(crate) fn spoil_all(&self, does: &Impairment) {
        for (number, one) in self.names.iter().enumerate() {
            for other in &self.names[number + 1..] {
                self.network.impair_both(one, other, does).unwrap();
            }
        }
    }

    pub(crate) fn heal(&self) {
        self.spoil_all(&Impairment::default());
    }

    /// A stream talks all the time; the same agent stays active in the same epoch. Answers with how many
    /// bytes came back.
    pub(crate) async fn nothing_moves_for(&self, span: Duration) -> u64 {
        let before = self.hosts.gateway().await;
        let mut talk = self.talk().await;
        let until = Instant::now() + span;
        while Instant::now() < until {
            talk.says_on().await;
            let now = self.hosts.gateway().await;
            assert_eq!((now.active, now.epoch), (before.active.clone(), before.epoch), "it flapped");
        }
        talk.bytes
    }

    /// How often another epoch became active in this time, whoever holds it.
    pub(crate) async fn moves_in(&self, span: Duration) -> usize {
        let mut epochs = vec![self.hosts.gateway().await.epoch];
        holds_for(span, async || {
            let now = self.hosts.gateway().await;
            if now.active.is_some() && epochs.last() != Some(&now.epoch) {
                epochs.push(now.epoch);
            }
        })
        .await;
        epochs.len() - 1
    }

    /// Two streams at the same time go through the same agent: the one that is shown as active.
    pub(crate) async fn dialled_by_one(&self) {
        let active = self.hosts.gateway().await.active.expect("somebody is active");
        let mut talk = self.talk().await;
        talk.says_on().await;
        assert_eq!(self.hosts.role(&active).as_deref(), Some("active"));
        let others = self.names.iter().skip(2).filter(|name| **name != active);
        for other in others {
            self.hosts.until_role(other, "standby").await;
        }
    }

    /// These hosts look for the largest packet their paths carry when large ones vanish, from their next
    /// connection or retransmission on.
    pub(crate) fn probe_paths(&self, hosts: &[&str]) {
        for host in hosts {
            thread::scope(|scope| {
                scope.spawn(|| {
                    self.network.enter(host).unwrap();
                    fs::write("/proc/sys/net/ipv4/tcp_mtu_probing", "1").unwrap();
                });
            });
        }
    }

    /// Bytes that reached the destination so far.
    pub(crate) fn heard_at_the_destination(&self) -> u64 {
        self.heard.load(Ordering::SeqCst)
    }
}

/// SIGSTOP, or SIGCONT.
pub(crate) fn pause(pid: u32, pause: bool) {
    let pid = Pid::from_raw(pid.cast_signed()).unwrap();
    kill_process(pid, if pause { Signal::STOP } else { Signal::CONT }).unwrap();
}

/// How often something is done: more with `NETWORK_LONG=1`.
pub(crate) fn rounds(short: usize, long: usize) -> usize {
    if env::var_os("NETWORK_LONG").is_some() { long } else { short }
}

/// Printed, never asserted: machines differ.
pub(crate) fn figure(fault: &str, what: &str, took: Duration) {
    println!("figure {fault} {what}: {:.2} s", took.as_secs_f64());
}

/// An echo on the site's host, for as long as this process lives.
fn echo_at_the_site(network: &Network, heard: Arc<AtomicU64>) {
    let listener = thread::scope(|scope| {
        let there = scope.spawn(|| {
            network.enter(SITE).unwrap();
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, ECHO_PORT)).unwrap()
        });
        there.join().unwrap()
    });
    // Ends with the process: it may wait for a connection for ever.
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let heard = heard.clone();
            thread::spawn(move || {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    heard.fetch_add(length as u64, Ordering::SeqCst);
                    if stream.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}
