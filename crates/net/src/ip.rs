//! IP addresses as netlink has them: a family, and bytes in network byte order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `AF_INET`.
pub(crate) const IPV4: u8 = 2;
/// `AF_INET6`.
pub(crate) const IPV6: u8 = 10;

pub(crate) fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { IPV4 } else { IPV6 }
}

pub(crate) fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().into(),
        IpAddr::V6(address) => address.octets().into(),
    }
}

/// `None` when the family is another, or the length is not the family's.
pub(crate) fn read(family: u8, value: &[u8]) -> Option<IpAddr> {
    match family {
        IPV4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into()),
        IPV6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into()),
        _ => None,
    }
}
