//! Hosts in network namespaces of their own, joined by one switch in this process.
//!
//! ```text
//!   namespace "cloud"            this process             namespace "alpha"
//!   10.77.0.1 ── tun ──► path cloud→alpha (delay, loss, cut …) ──► tun ── 10.77.0.2
//!             ◄── tun ── path alpha→cloud ◄──────────────────────── tun
//! ```
//!
//! The kernels that tests run on have no netem; this needs nothing but TUN devices and root. Each direction
//! between two hosts is a [`Path`](path::Path) of its own, so that a cut can be one-way.

pub mod path;
mod switch;
mod tun;

use std::{
    fs::File,
    io,
    net::Ipv4Addr,
    os::fd::AsFd,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use path::Impairment;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use switch::{Port, Switch};

/// Networks made by this process, so that their namespaces have names of their own.
static NETWORKS: AtomicU32 = AtomicU32::new(0);

/// Hosts and the paths between them. Everything goes when it is dropped; end the processes in it before.
pub struct Network {
    switch: Switch,
    hosts: Vec<Host>,
}

struct Host {
    name: String,
    address: Ipv4Addr,
    namespace: Namespace,
}

/// Deletes the namespace at the end.
struct Namespace(String);

impl Network {
    /// Makes these hosts. What their paths leave to chance follows from `seed`.
    ///
    /// # Errors
    /// Where this process may not: it needs root, `ip` of iproute2 and /dev/net/tun.
    pub fn new(hosts: &[&str], seed: u64) -> io::Result<Self> {
        let network = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let mut made = Vec::new();
        let mut ports = Vec::new();
        for (number, name) in (1..=u8::MAX).zip(hosts) {
            let namespace = Namespace(format!("postern-{}-{network}-{name}", std::process::id()));
            let address = Ipv4Addr::new(10, 77, 0, number);
            ip(&["netns", "add", &namespace.0])?;
            let inside = namespace.open()?;
            // Namespaces are a thread's: this one is left behind with its thread.
            let device = thread::scope(|scope| {
                let making = scope.spawn(|| {
                    enter(&inside)?;
                    let device = tun::create("wan")?;
                    ip(&["link", "set", "lo", "up"])?;
                    ip(&["address", "add", &format!("{address}/24"), "dev", "wan"])?;
                    ip(&["link", "set", "wan", "up"])?;
                    Ok::<_, io::Error>(device)
                });
                making.join().unwrap_or_else(|_| Err(io::Error::other("a host could not be made")))
            })?;
            ports.push(Port { address, device });
            made.push(Host { name: (*name).to_owned(), address, namespace });
        }
        Ok(Self { switch: Switch::start(ports, seed)?, hosts: made })
    }

    /// A host's address in the network.
    pub fn address(&self, host: &str) -> io::Result<Ipv4Addr> {
        Ok(self.find(host)?.1.address)
    }

    /// The name of a host's network namespace, for `ip netns exec`.
    pub fn namespace(&self, host: &str) -> io::Result<&str> {
        Ok(&self.find(host)?.1.namespace.0)
    }

    /// From now on this thread is on that host: its sockets, and the processes and threads that it starts.
    pub fn enter(&self, host: &str) -> io::Result<()> {
        enter(&self.find(host)?.1.namespace.open()?)
    }

    /// What the path from one host to another does from now on.
    pub fn impair(&self, from: &str, to: &str, does: Impairment) -> io::Result<()> {
        self.on_path(from, to, |path| path.set(does))
    }

    /// The same for both directions.
    pub fn impair_both(&self, one: &str, other: &str, does: &Impairment) -> io::Result<()> {
        self.impair(one, other, does.clone())?;
        self.impair(other, one, does.clone())
    }

    /// What runs between two hosts vanishes from now on and nobody is told, as when a NAT restarts; new
    /// connections pass.
    pub fn forget_flows(&self, one: &str, other: &str) -> io::Result<()> {
        self.on_path(one, other, path::Path::forget_flows)?;
        self.on_path(other, one, path::Path::forget_flows)
    }

    fn on_path(&self, from: &str, to: &str, change: impl FnOnce(&mut path::Path)) -> io::Result<()> {
        let (from, to) = (self.find(from)?.0, self.find(to)?.0);
        // Both were found, so there is a path between them.
        if let Some(mut path) = self.switch.path(from, to) {
            change(&mut path);
        }
        Ok(())
    }

    fn find(&self, name: &str) -> io::Result<(usize, &Host)> {
        let found = self.hosts.iter().enumerate().find(|(_, host)| host.name == name);
        found.ok_or_else(|| io::Error::other(format!("the network has no host {name}")))
    }
}

impl Namespace {
    fn open(&self) -> io::Result<File> {
        File::open(format!("/run/netns/{}", self.0))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "delete", &self.0]) {
            eprintln!("{error}");
        }
    }
}

fn enter(namespace: &File) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
}

fn ip(arguments: &[&str]) -> io::Result<()> {
    let ran = Command::new("ip").args(arguments).output()?;
    let said = String::from_utf8_lossy(&ran.stderr);
    let failed = || io::Error::other(format!("ip {}: {}", arguments.join(" "), said.trim()));
    ran.status.success().then_some(()).ok_or_else(failed)
}
