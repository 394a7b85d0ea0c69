//! Knows which places are central itself.
//!
//! Whoever may edit alerts could have central call its own admin door, or send a stream round in a circle through one
//! of its own listeners. Nothing that central dials may lead back to it, whatever the operator's file allows.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
};

use crate::{destination::DestinationUrl, listener::Listeners};

/// Everything that central listens on. Cheap to clone.
#[derive(Clone, Default)]
pub struct OwnListeners(Arc<Own>);

#[derive(Default)]
struct Own {
    doors: Vec<SocketAddr>,
    /// As others call them: host in lower case, and port.
    names: Vec<(String, u16)>,
    listeners: Option<Arc<Listeners>>,
}

impl OwnListeners {
    /// Central's doors, the public addresses that lead to them, and the listeners of its destinations.
    pub fn new<'a>(
        doors: impl IntoIterator<Item = SocketAddr>,
        public: impl IntoIterator<Item = &'a DestinationUrl>,
        listeners: Arc<Listeners>,
    ) -> Self {
        let names = public.into_iter().map(|url| (url.host().to_owned(), url.port())).collect();
        Self(Arc::new(Own { doors: doors.into_iter().collect(), names, listeners: Some(listeners) }))
    }

    /// Whether a connection of central to `address`, which it knows as `host`, would come back to central.
    pub fn are_at(&self, host: &str, address: SocketAddr) -> bool {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        self.are_named(host, address.port())
            || self.0.doors.iter().any(|door| is_behind(address, *door))
            || self.0.listeners.as_ref().is_some_and(|all| all.any_bound(|bound| is_behind(address, bound)))
    }

    /// Whether somebody elsewhere who dials `host` gets to central: the names and addresses that mean central there
    /// too. Loopback means the host of whoever dials.
    pub fn are_seen_at(&self, host: &str, port: u16) -> bool {
        let seen = |ip: IpAddr| !ip.is_loopback() && !ip.is_unspecified();
        self.are_named(host, port)
            || host.parse().is_ok_and(|ip: IpAddr| seen(ip) && self.are_at(host, SocketAddr::new(ip, port)))
    }

    fn are_named(&self, host: &str, port: u16) -> bool {
        let host = host.trim_end_matches('.');
        self.0.names.iter().any(|(name, at)| *at == port && name.eq_ignore_ascii_case(host))
    }
}

/// Whether whoever dials `address` on this host is taken in at `bound`.
fn is_behind(address: SocketAddr, bound: SocketAddr) -> bool {
    let (dialled, bound_ip) = (address.ip(), bound.ip().to_canonical());
    // The unspecified address, dialled, is loopback on most systems.
    let meets = dialled == bound_ip
        || bound_ip.is_unspecified() && is_ours(dialled)
        || dialled.is_unspecified() && (bound_ip.is_loopback() || bound_ip.is_unspecified());
    address.port() == bound.port() && meets
}

/// Whether this host has that address: no other can be bound.
fn is_ours(ip: IpAddr) -> bool {
    ip.is_unspecified() || UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_is_met_at_its_own_address_and_at_each_of_ours_where_it_takes_all() {
        let own = own(&["127.0.0.1:7443", "0.0.0.0:8443"]);
        for (address, ours) in [
            ("127.0.0.1:7443", true),
            ("[::ffff:127.0.0.1]:7443", true),
            ("0.0.0.0:7443", true),
            ("127.0.0.1:7444", false),
            ("127.0.0.1:8443", true),
            ("127.9.9.9:8443", true),
            ("203.0.113.9:8443", false),
            ("203.0.113.9:7443", false),
        ] {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(own.are_at(&address.ip().to_string(), address), ours, "{address}");
        }
    }

    #[test]
    fn a_public_name_is_ours_wherever_it_leads() {
        let own = own(&[]);
        let behind_a_balancer = "203.0.113.9:443".parse().unwrap();
        for (host, ours) in [("gw.example", true), ("GW.example.", true), ("other.example", false)] {
            assert_eq!(own.are_at(host, behind_a_balancer), ours, "{host}");
            assert_eq!(own.are_seen_at(host, 443), ours, "{host}");
        }
        assert!(!own.are_seen_at("gw.example", 444));
    }

    #[test]
    fn loopback_is_another_host_for_whoever_dials_from_elsewhere() {
        let own = own(&["127.0.0.1:7443", "0.0.0.0:8443"]);
        for host in ["127.0.0.1", "localhost", "::1", "0.0.0.0"] {
            assert!(!own.are_seen_at(host, 7443) && !own.are_seen_at(host, 8443), "{host}");
        }
    }

    fn own(doors: &[&str]) -> OwnListeners {
        OwnListeners(Arc::new(Own {
            doors: doors.iter().map(|door| door.parse().unwrap()).collect(),
            names: vec![("gw.example".into(), 443)],
            listeners: None,
        }))
    }
}
