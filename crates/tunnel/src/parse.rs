//! Addresses, endpoints, networks and durations as users write them.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipnetwork::IpNetwork;

use crate::{Error, Result};

/// An address with an optional port: `192.0.2.1`, `192.0.2.1:6090`, `2001:db8::1`, `[2001:db8::1]:6090`.
///
/// # Errors
/// Names `key` when the text is neither; host names are refused, since nothing on the node resolves them.
pub fn endpoint(key: &str, text: &str, default_port: u16) -> Result<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, default_port));
    }
    match text.parse::<SocketAddr>() {
        Ok(socket) if socket.port() != 0 => Ok(socket),
        Ok(_) => Err(Error::invalid(
            key,
            text,
            "has port 0",
            format!("write a port from 1 to 65535, or none for {default_port}"),
        )),
        Err(_) => Err(Error::invalid(
            key,
            text,
            "is not an IP address with an optional port",
            "write it as 192.0.2.1, 192.0.2.1:6090 or [2001:db8::1]:6090; names are not resolved on the node",
        )),
    }
}

/// The endpoint of a peer: one that a datagram can be sent to.
///
/// # Errors
/// As [`endpoint`], and for an address that is unspecified, multicast, broadcast, loopback or link-local.
pub fn remote_endpoint(key: &str, text: &str, default_port: u16) -> Result<SocketAddr> {
    let parsed = endpoint(key, text, default_port)?;
    match not_of_one_host(parsed.ip()) {
        Some(problem) => {
            Err(Error::invalid(key, text, problem, "write the unicast address of the peer pod's outer interface"))
        }
        None => Ok(parsed),
    }
}

/// This end's own endpoint; an unspecified address (`0.0.0.0:6091`, `[::]:6091`) names only the port.
///
/// # Errors
/// As [`remote_endpoint`], but for the unspecified address.
pub fn local_endpoint(key: &str, text: &str, default_port: u16) -> Result<SocketAddr> {
    let parsed = endpoint(key, text, default_port)?;
    match not_of_one_host(parsed.ip()).filter(|_| !parsed.ip().is_unspecified()) {
        Some(problem) => Err(Error::invalid(
            key,
            text,
            problem,
            "write an address of the pod's own outer interface, or 0.0.0.0:port or [::]:port for the port alone",
        )),
        None => Ok(parsed),
    }
}

fn not_of_one_host(address: IpAddr) -> Option<&'static str> {
    match address {
        ip if ip.is_unspecified() => Some("is the unspecified address"),
        ip if ip.is_multicast() => Some("is a multicast address"),
        ip if ip.is_loopback() => Some("is a loopback address, which never leaves the pod"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("is the broadcast address"),
        IpAddr::V4(v4) if v4.is_link_local() => Some("is a link-local address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("is a link-local address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("is an IPv4-mapped address"),
        _ => None,
    }
}

/// A network in CIDR notation, its host bits cleared.
///
/// # Errors
/// Names `key` when the text is no network.
pub fn network(key: &str, text: &str) -> Result<IpNetwork> {
    let parsed = text.contains('/').then(|| text.parse::<IpNetwork>().ok()).flatten();
    parsed.map(masked).ok_or_else(|| {
        Error::invalid(key, text, "is not a network in CIDR notation", "write it as 10.4.0.0/24 or fd00:4::/64")
    })
}

/// `network` with its host bits cleared.
#[must_use]
pub fn masked(network: IpNetwork) -> IpNetwork {
    IpNetwork::new(network.network(), network.prefix()).unwrap_or(network)
}

/// A duration such as `200ms`, `25s`, `2m`.
///
/// # Errors
/// Names `key` when the text is no duration or is zero.
pub fn duration(key: &str, text: &str) -> Result<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let parsed = digits.parse::<u64>().ok().and_then(|amount| match unit {
        "ms" => Some(Duration::from_millis(amount)),
        "s" => Some(Duration::from_secs(amount)),
        "m" => amount.checked_mul(60).map(Duration::from_secs),
        _ => None,
    });
    parsed.filter(|d| !d.is_zero()).ok_or_else(|| {
        Error::invalid(key, text, "is not a duration", "write a whole number and a unit: 200ms, 25s or 2m")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_in_every_notation() {
        for (text, expected) in [
            ("192.0.2.1", "192.0.2.1:6090"),
            ("192.0.2.1:7000", "192.0.2.1:7000"),
            ("2001:db8::1", "[2001:db8::1]:6090"),
            ("[2001:db8::1]", "[2001:db8::1]:6090"),
            ("[2001:db8::1]:7000", "[2001:db8::1]:7000"),
        ] {
            assert_eq!(endpoint("remote", text, 6090).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn an_endpoint_that_is_no_address_names_key_and_remedy() {
        for text in ["ohio.example", "", "10.0.0", "10.0.0.1:0", "10.0.0.1/24", "[::1", "10.0.0.1:99999"] {
            let message = endpoint("remote", text, 6090).unwrap_err().to_string();
            assert!(message.starts_with("remote: "), "{message}");
        }
    }

    #[test]
    fn addresses_that_no_peer_can_have_are_refused() {
        for text in [
            "0.0.0.0",
            "224.0.0.1",
            "127.0.0.1",
            "255.255.255.255",
            "169.254.1.1",
            "::",
            "ff02::1",
            "::1",
            "fe80::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(remote_endpoint("remote", text, 6090).is_err(), "{text}");
            let is_unspecified = ["0.0.0.0", "::"].contains(&text);
            assert_eq!(local_endpoint("local", text, 6090).is_ok(), is_unspecified, "{text}");
        }
    }

    #[test]
    fn networks_lose_their_host_bits() {
        assert_eq!(network("k", "10.4.0.7/24").unwrap().to_string(), "10.4.0.0/24");
        assert!(network("k", "10.4.0.7").is_err());
        assert!(network("k", "10.4.0.7/33").is_err());
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("k", "200ms").unwrap(), Duration::from_millis(200));
        assert_eq!(duration("k", "2m").unwrap(), Duration::from_secs(120));
        for text in ["25", "", "s", "-1s", "0s", "1h", "99999999999999999999s", "18446744073709551615m"] {
            assert!(duration("k", text).is_err(), "{text}");
        }
    }
}
