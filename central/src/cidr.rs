//! Networks as operators write them: `10.0.0.0/8`, `::1/128`, or a single address.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

/// A checked network: no bit is set behind the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

/// Why a string is no [`Cidr`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    #[error("{0:?} is no network: write an address and a prefix length, as in 10.0.0.0/8 or ::1/128")]
    Syntax(String),
    #[error("{given} has address bits behind its prefix: did you mean {meant}?")]
    HostBits { given: String, meant: Cidr },
}

impl Cidr {
    /// Whether `address` lies in this network. An IPv4 address that is written as IPv6
    /// (`::ffff:10.0.0.1`) is judged as the IPv4 address it stands for.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                same_prefix(network.to_bits().into(), address.to_bits().into(), 32, self.prefix)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                same_prefix(network.to_bits(), address.to_bits(), 128, self.prefix)
            }
            _ => false,
        }
    }
}

fn same_prefix(a: u128, b: u128, width: u8, prefix: u8) -> bool {
    // A shift by the whole width would overflow; with no prefix everything is the same.
    prefix == 0 || (a ^ b) >> (width - prefix) == 0
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let syntax = || CidrError::Syntax(text.chars().take(64).collect());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| syntax())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            // `parse` would also take "+8".
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().ok().filter(|prefix| *prefix <= width).ok_or_else(syntax)?
            }
            Some(_) => return Err(syntax()),
            None => width,
        };
        let network = match address {
            IpAddr::V4(v4) => IpAddr::from(std::net::Ipv4Addr::from_bits(
                v4.to_bits() & u32::MAX.checked_shl(u32::from(32 - prefix)).unwrap_or(0),
            )),
            IpAddr::V6(v6) => IpAddr::from(std::net::Ipv6Addr::from_bits(
                v6.to_bits() & u128::MAX.checked_shl(u32::from(128 - prefix)).unwrap_or(0),
            )),
        };
        let cidr = Self { network, prefix };
        if network == address {
            Ok(cidr)
        } else {
            Err(CidrError::HostBits { given: text.into(), meant: cidr })
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl TryFrom<String> for Cidr {
    type Error = CidrError;

    fn try_from(text: String) -> Result<Self, CidrError> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_its_addresses_and_no_others() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("0.0.0.0/0", "203.0.113.9", "2001:db8::1"),
            ("::/0", "2001:db8::1", "203.0.113.9"),
            ("fe80::/10", "febf::1", "fec0::1"),
            ("::1/128", "::1", "::2"),
        ] {
            let network: Cidr = network.parse().unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{network} {inside}");
            assert!(!network.contains(outside.parse().unwrap()), "{network} {outside}");
        }
    }

    #[test]
    fn an_ipv4_address_in_ipv6_clothes_is_known() {
        let network: Cidr = "10.0.0.0/8".parse().unwrap();
        assert!(network.contains("::ffff:10.1.2.3".parse().unwrap()));
    }

    #[test]
    fn what_is_no_network_is_refused_with_the_right_spelling() {
        for odd in
            ["", "10.0.0.0/33", "10.0.0.0/+8", "10.0.0.0/", "10/8", "::/129", "example.com", "1.2.3.4/8/8"]
        {
            assert!(matches!(odd.parse::<Cidr>(), Err(CidrError::Syntax(_))), "{odd}");
        }
        let error = "10.1.2.3/8".parse::<Cidr>().unwrap_err();
        assert!(error.to_string().ends_with("did you mean 10.0.0.0/8?"), "{error}");
        assert!("10.1.2.3/0".parse::<Cidr>().unwrap_err().to_string().contains("0.0.0.0/0"));
    }
}
