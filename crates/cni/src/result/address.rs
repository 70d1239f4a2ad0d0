//! Addresses in JSON, as Go's `net` reads and writes them.

use std::net::IpAddr;

use ipnetwork::{IpNetwork, Ipv4Network};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// Reads `address/prefix-length` and keeps the host bits. An IPv4 address in IPv6 form is an IPv4 address.
///
/// # Errors
/// In the words of Go's `net.ParseCIDR`.
pub fn parse_cidr(text: &str) -> Result<IpNetwork, String> {
    let invalid = || format!("invalid CIDR address: {text}");
    let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
    let address: IpAddr = address.parse().map_err(|_| invalid())?;
    if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid());
    }
    let prefix: u8 = prefix.parse().map_err(|_| invalid())?;
    let network = match (address, address.to_canonical()) {
        (IpAddr::V6(_), IpAddr::V4(mapped)) if prefix >= 96 => {
            Ipv4Network::new(mapped, prefix.saturating_sub(96)).map(IpNetwork::V4)
        }
        _ => IpNetwork::new(address, prefix),
    };
    network.map_err(|_| invalid())
}

pub(super) fn with_host_bits<'de, D: Deserializer<'de>>(from: D) -> Result<IpNetwork, D::Error> {
    parse_cidr(&String::deserialize(from)?).map_err(D::Error::custom)
}

/// An address; the empty string is none.
pub(super) fn optional<'de, D: Deserializer<'de>>(from: D) -> Result<Option<IpAddr>, D::Error> {
    match Option::<String>::deserialize(from)?.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => text
            .parse::<IpAddr>()
            .map(|address| Some(address.to_canonical()))
            .map_err(|_| D::Error::custom(format!("invalid IP address: {text}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_are_kept() {
        for text in ["10.1.2.3/8", "fd00::1:2/64"] {
            assert_eq!(parse_cidr(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn an_ipv4_address_in_ipv6_form_is_ipv4() {
        assert_eq!(parse_cidr("::ffff:10.0.0.1/120").unwrap().to_string(), "10.0.0.1/24");
    }

    #[test]
    fn only_an_address_with_a_prefix_length_is_accepted() {
        for wrong in ["", "/", "10.0.0.1", "10.0.0.1/", "10.0.0.1/+8", "10.0.0.1/33", "10.0.0.01/8", "a/8"] {
            assert!(parse_cidr(wrong).is_err(), "{wrong}");
        }
    }
}
