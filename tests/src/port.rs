//! Loopback ports: finding a free one, and asking the kernel who owns one.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below Linux' ephemeral ports (from 32768), so that no outgoing connection takes a port between
/// our finding it free and a server's binding it.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A loopback address that nobody listens on, for a server that cannot pick one itself.
/// No two calls in this process get the same; another process starts its search elsewhere.
pub fn free() -> SocketAddr {
    let offset = (process::id() % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let turn = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (u32::from(offset) * 7 + u32::from(turn)).rem_euclid(u32::from(COUNT)) as u16;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(addr).is_ok() {
            return addr;
        }
    }
    panic!("no port from {FIRST} to {} is free on 127.0.0.1", FIRST + COUNT - 1);
}

/// Which of `pids` owns the TCP connection from `local` to `remote` (both 127.0.0.1)? This is how a
/// destination learns which agent a connection came from, without trusting anybody's word.
///
/// Both ends are needed: the kernel gives one local port to several connections at a time, as long as
/// they lead to different places.
pub fn owner(local: SocketAddr, remote: SocketAddr, pids: &[u32]) -> Option<u32> {
    let inode = socket_inode(local, remote)?;
    let wanted = format!("socket:[{inode}]");
    pids.iter().copied().find(|pid| {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        descriptors
            .flatten()
            .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
            .any(|target| target.as_os_str() == wanted.as_str())
    })
}

fn socket_inode(local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let (local, remote) = (as_kernel_prints(local)?, as_kernel_prints(remote)?);
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux has /proc/net/tcp");
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        // Inode 0: a socket that no process owns any more.
        (columns.get(1..3) == Some(&[local.as_str(), remote.as_str()]))
            .then(|| columns.get(9)?.parse().ok())?
            .filter(|&inode| inode != 0)
    })
}

/// The address as a little-endian word, the port big-endian, both in hex.
fn as_kernel_prints(addr: SocketAddr) -> Option<String> {
    let SocketAddr::V4(addr) = addr else { return None };
    Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(addr.ip().octets()), addr.port()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn two_free_ports_differ() {
        assert_ne!(free(), free());
    }

    #[test]
    fn a_connection_is_traced_to_the_process_that_dialled() {
        let listener = TcpListener::bind(free()).unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_accepted, peer) = listener.accept().unwrap();

        assert_eq!(peer, dialled.local_addr().unwrap());
        let remote = listener.local_addr().unwrap();
        assert_eq!(owner(peer, remote, &[1, process::id()]), Some(process::id()));
        assert_eq!(owner(peer, remote, &[1]), None);
        assert_eq!(owner(peer, peer, &[1, process::id()]), None);
    }
}
