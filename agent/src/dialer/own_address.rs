//! Whether an address is this host's own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// Asks the routing table: the way to an own address starts at that very address.
///
/// No packet is sent: connecting a UDP socket only picks its local address. That works alike on
/// Linux and Windows, and without listing interfaces.
pub fn is_this_host(address: IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified() || local_address_towards(address) == Some(address)
}

/// The address this host would use to reach `there`, if it has a route.
pub fn local_address_towards(there: IpAddr) -> Option<IpAddr> {
    let anywhere: IpAddr = match there {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((anywhere, 0)).ok()?;
    // Any port but 0 will do: nothing is sent.
    socket.connect((there, 9)).ok()?;
    socket.local_addr().ok().map(|addr| addr.ip()).filter(|ip| !ip.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_the_address_towards_the_network_are_this_host() {
        assert!(is_this_host(Ipv4Addr::LOCALHOST.into()));
        assert!(is_this_host("127.9.9.9".parse().unwrap()));
        assert!(is_this_host(Ipv6Addr::UNSPECIFIED.into()));
        assert!(!is_this_host("192.0.2.1".parse().unwrap()));
        if let Some(own) = local_address_towards("192.0.2.1".parse().unwrap()) {
            assert!(is_this_host(own));
        }
    }
}
