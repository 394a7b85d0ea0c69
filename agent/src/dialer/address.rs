//! What counts as an address: canonical spellings only, IPv4 inside IPv6 unwrapped, and the
//! special ranges that no host name may lead to by accident.
//!
//! `127.1`, `0x7f000001` and `2130706433` all mean loopback to some resolver. Nothing here guesses:
//! a spelling that is not the canonical one is refused, whoever sends it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// RFC 1035's limit for a whole name.
const NAME_BYTES_MAX: usize = 253;

/// Where a stream wants to go, as its text says: an address, or a name yet to be resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    Address(IpAddr),
    /// Lower case, without a trailing dot.
    Name(String),
}

/// Why a text is no host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    #[error("it is empty")]
    Empty,
    #[error("it is longer than {NAME_BYTES_MAX} bytes")]
    TooLong,
    #[error("it holds characters that no host name has (write international names as xn--…)")]
    Character,
    #[error("one of its labels is empty, longer than 63 bytes, or begins or ends with '-'")]
    Label,
    #[error("it looks like an IP address but is not written as one: use 10.0.0.1 or 2001:db8::1")]
    Address,
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        if text.is_empty() {
            return Err(HostError::Empty);
        }
        if text.len() > NAME_BYTES_MAX {
            return Err(HostError::TooLong);
        }
        if text.contains(':') {
            let address: Ipv6Addr = text.parse().map_err(|_| HostError::Address)?;
            // Rust prints RFC 5952; any other spelling is somebody's trick or slip.
            return if address.to_string() == text {
                Ok(Self::Address(unwrapped(address.into())))
            } else {
                Err(HostError::Address)
            };
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Address(address.into()));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
            return Err(HostError::Character);
        }
        let wrong = |label: &str| {
            label.is_empty() || label.len() > 63 || label.starts_with('-') || label.ends_with('-')
        };
        if name.split('.').any(wrong) {
            return Err(HostError::Label);
        }
        // Resolvers read a name that ends in a number as an address (WHATWG URL, "ends in a number").
        let last = name.rsplit('.').next().unwrap_or_default();
        let hexadecimal =
            last.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
        if hexadecimal || last.bytes().all(|b| b.is_ascii_digit()) {
            return Err(HostError::Address);
        }
        Ok(Self::Name(name))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// IPv4 written inside IPv6 (`::ffff:10.0.0.1`) is that IPv4 address to every kernel; so it is here.
pub fn unwrapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// A range of addresses. One address is a range of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    prefix: u8,
}

/// Why a text is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    #[error("it is not written as ADDRESS or ADDRESS/BITS with a canonical address")]
    Spelling,
    #[error("bits beyond the first {prefix} are set; did you mean {meant}?")]
    HostBits { prefix: u8, meant: Network },
    #[error("write this IPv4 range without '::ffff:'")]
    Mapped,
}

impl Network {
    pub const fn new(base: IpAddr, prefix: u8) -> Self {
        Self { base, prefix }
    }

    /// Exactly one address.
    pub const fn single(address: IpAddr) -> Self {
        Self { base: address, prefix: if address.is_ipv4() { 32 } else { 128 } }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.contains_network(&Self::single(address))
    }

    /// Whether every address of `other` lies in this network.
    pub fn contains_network(&self, other: &Self) -> bool {
        self.base.is_ipv4() == other.base.is_ipv4()
            && self.prefix <= other.prefix
            && masked(other.base, self.prefix) == self.base
    }

    pub fn is_single(&self) -> bool {
        *self == Self::single(self.base)
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let Ok(Host::Address(base)) = address.parse() else { return Err(NetworkError::Spelling) };
        if base.is_ipv4() && address.contains(':') {
            return Err(NetworkError::Mapped);
        }
        let whole = Self::single(base);
        let Some(prefix) = prefix else { return Ok(whole) };
        let canonical = prefix.len() <= 3 && (prefix == "0" || !prefix.starts_with(['0', '+']));
        let bits = prefix.parse().ok().filter(|bits| canonical && *bits <= whole.prefix);
        let prefix = bits.ok_or(NetworkError::Spelling)?;
        let network = Self { base, prefix };
        if masked(base, prefix) != base {
            let meant = Self { base: masked(base, prefix), prefix };
            return Err(NetworkError::HostBits { prefix, meant });
        }
        Ok(network)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_single() { self.base.fmt(f) } else { write!(f, "{}/{}", self.base, self.prefix) }
    }
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

/// The special ranges an address lies in; empty for an ordinary address.
pub fn special_ranges(address: IpAddr) -> impl Iterator<Item = &'static Network> {
    SPECIAL.iter().filter(move |network| network.contains(address))
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Network {
    Network::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix)
}

const fn v6(head: [u16; 4], tail: [u16; 4], prefix: u8) -> Network {
    let address = Ipv6Addr::new(head[0], head[1], head[2], head[3], tail[0], tail[1], tail[2], tail[3]);
    Network::new(IpAddr::V6(address), prefix)
}

/// This host itself, its link, cloud providers' metadata services, addresses that are nobody's or
/// everybody's, and IPv6 ranges that smuggle an IPv4 address past an IPv4 rule.
static SPECIAL: [Network; 24] = [
    v4(0, 0, 0, 0, 8),                                // this host
    v4(127, 0, 0, 0, 8),                              // loopback
    v4(169, 254, 0, 0, 16),                           // link-local; metadata at 169.254.169.254
    v4(100, 100, 100, 200, 32),                       // Alibaba's metadata
    v4(168, 63, 129, 16, 32),                         // Azure's wire server
    v4(192, 0, 0, 0, 24),                             // IETF protocol assignments; Oracle's metadata
    v4(192, 88, 99, 0, 24),                           // 6to4 relays
    v4(224, 0, 0, 0, 4),                              // multicast
    v4(240, 0, 0, 0, 4),                              // reserved, broadcast
    v6([0; 4], [0, 0, 0, 0], 128),                    // unspecified
    v6([0; 4], [0, 0, 0, 1], 128),                    // loopback
    v6([0; 4], [0, 0, 0, 0], 96),                     // IPv4-compatible
    v6([0; 4], [0, 0xffff, 0, 0], 96),                // IPv4-mapped; unwrapped before, so never met
    v6([0; 4], [0xffff, 0, 0, 0], 96),                // IPv4-translated (RFC 2765)
    v6([0x64, 0xff9b, 0, 0], [0; 4], 96),             // NAT64
    v6([0x64, 0xff9b, 1, 0], [0; 4], 48),             // local NAT64
    v6([0x100, 0, 0, 0], [0; 4], 64),                 // discard
    v6([0x2001, 0, 0, 0], [0; 4], 32),                // Teredo
    v6([0x2002, 0, 0, 0], [0; 4], 16),                // 6to4
    v6([0x5f00, 0, 0, 0], [0; 4], 16),                // segment routing
    v6([0xfd00, 0xec2, 0, 0], [0, 0, 0, 0x254], 128), // AWS' metadata
    v6([0xfe80, 0, 0, 0], [0; 4], 10),                // link-local
    v6([0xfec0, 0, 0, 0], [0; 4], 10),                // site-local
    v6([0xff00, 0, 0, 0], [0; 4], 8),                 // multicast
];

/// `HOST`, `HOST:PORT` or `[HOST]:PORT`, taken apart, or what is wrong with it. Whether the host is one is not looked at.
pub(crate) fn host_and_port(authority: &str) -> Result<(&str, Option<u16>), &'static str> {
    if authority.contains(['/', '?', '#', '@']) {
        return Err("it must hold nothing but a host and a port");
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or("a ']' is missing")?;
            match after.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if after.is_empty() => (host, None),
                None => return Err("after ']' only a port may follow"),
            }
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let Some(digits) = port else { return Ok((host, None)) };
    match digits.parse() {
        Ok(port @ 1..) if digits.bytes().all(|b| b.is_ascii_digit()) => Ok((host, Some(port))),
        Ok(_) | Err(_) => Err("a port lies between 1 and 65535"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_compared_without_case_and_trailing_dot() {
        assert_eq!(host("DB.Corp.Example."), Ok(Host::Name("db.corp.example".into())));
        assert_eq!(host("_sip._tcp.example"), Ok(Host::Name("_sip._tcp.example".into())));
    }

    #[test]
    fn ipv4_inside_ipv6_is_that_ipv4_address() {
        assert_eq!(host("::ffff:127.0.0.1"), Ok(Host::Address(Ipv4Addr::LOCALHOST.into())));
    }

    #[test]
    fn a_network_holds_its_addresses_and_no_others() {
        let network: Network = "10.0.8.0/22".parse().unwrap();
        assert!(network.contains("10.0.11.255".parse().unwrap()));
        assert!(!network.contains("10.0.12.0".parse().unwrap()));
        assert!(!network.contains("::ffff:10.0.8.1".parse().unwrap()));
        let all: Network = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("255.255.255.255".parse().unwrap()));
        assert!(!all.contains("::1".parse().unwrap()));
        assert!("::/0".parse::<Network>().unwrap().contains_network(&"2001:db8::/32".parse().unwrap()));
    }

    #[test]
    fn a_network_with_bits_too_many_is_told_which_was_meant() {
        let error = "10.0.4.5/8".parse::<Network>().unwrap_err().to_string();
        assert!(error.contains("did you mean 10.0.0.0/8"), "{error}");
        for odd in
            ["10.0.0.0/33", "10.0.0.0/", "10.0.0.0/08", "10.0.0.0/+8", "10/8", "db/8", "::ffff:10.0.0.0/104"]
        {
            assert!(odd.parse::<Network>().is_err(), "{odd}");
        }
    }

    #[test]
    fn ordinary_addresses_are_not_special_and_the_special_ones_are() {
        for ordinary in ["10.0.0.1", "172.16.0.1", "192.168.1.1", "8.8.8.8", "2001:db8::1", "fd12::1"] {
            assert_eq!(special_ranges(ordinary.parse().unwrap()).count(), 0, "{ordinary}");
        }
        for special in [
            "127.9.9.9",
            "169.254.169.254",
            "0.0.0.0",
            "::",
            "::1",
            "fe80::1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "255.255.255.255",
        ] {
            assert!(special_ranges(special.parse().unwrap()).count() > 0, "{special}");
        }
    }

    proptest! {
        #[test]
        fn an_address_reads_back_what_it_prints(bits: u128, small: u32) {
            for address in [IpAddr::V6(Ipv6Addr::from_bits(bits)), IpAddr::V4(Ipv4Addr::from_bits(small))] {
                prop_assert_eq!(host(&address.to_string()), Ok(Host::Address(unwrapped(address))));
            }
        }

        #[test]
        fn whatever_is_read_as_a_host_is_read_the_same_again(text in "\\PC{0,80}") {
            if let Ok(read) = host(&text) {
                prop_assert_eq!(host(&read.to_string()), Ok(read));
            }
        }

        #[test]
        fn a_network_and_the_masked_address_agree(bits: u32, prefix in 0u8..=32, other: u32) {
            let base = masked(Ipv4Addr::from_bits(bits).into(), prefix);
            let network: Network = format!("{base}/{prefix}").parse().unwrap();
            let address = Ipv4Addr::from_bits(other);
            let same = prefix == 0 || (bits ^ other) >> (32 - u32::from(prefix)) == 0;
            prop_assert_eq!(network.contains(address.into()), same);
        }
    }

    fn host(text: &str) -> Result<Host, HostError> {
        text.parse()
    }
}
