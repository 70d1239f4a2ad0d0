//! How large a packet inside a tunnel may be.
//!
//! The inner packet plus the outer headers has to fit the outer path with DF set, so the interface's MTU is the MTU of
//! the outer route less the exact overhead that the codec reports.

use adit_dataplane::wire::{self, Seal};

use crate::{Encap, Encryption, Error, Result};

/// Below this the kernel drops every IPv6 address of an interface (RFC 8200 section 5).
pub const FLOOR_WITH_IPV6_BYTES: u16 = 1280;
/// The smallest MTU of a tunnel without IPv6 inside: every IPv4 host takes datagrams of this size (RFC 791 section 3.1).
pub const FLOOR_BYTES: u16 = 576;

/// Outer IPv4 or IPv6 header, UDP header and the 8 bytes of VXLAN.
const VXLAN_BYTES: [u16; 2] = [20 + 8 + 8, 40 + 8 + 8];

/// Bytes that are added to an inner packet: outer IP header, UDP header, the encapsulation's own header, and the seal's tag
/// where there is one.
#[must_use]
pub const fn overhead_bytes(encap: Encap, outer_is_ipv6: bool, encryption: Encryption) -> u16 {
    let seal = match encryption {
        Encryption::None => Seal::Plain,
        Encryption::Noise => Seal::Sealed,
    };
    let [vxlan_over_ipv4, vxlan_over_ipv6] = VXLAN_BYTES;
    match encap {
        // A data message of WireGuard has as much around its packet: 16 bytes before it, a tag behind it. It is padded up to
        // a multiple of 16 bytes, but never beyond the MTU.
        Encap::Udp | Encap::Wireguard => wire::overhead_bytes(outer_is_ipv6, seal),
        Encap::Vxlan if outer_is_ipv6 => vxlan_over_ipv6,
        Encap::Vxlan => vxlan_over_ipv4,
    }
}

/// How many of the longest packets leave by one call of the agent. The kernel should leave no more of them in one piece, or each piece would take
/// a second call for the rest.
#[must_use]
pub fn packets_per_send(mtu_bytes: u16, outer_is_ipv6: bool, encryption: Encryption) -> u32 {
    let outer_bytes = if outer_is_ipv6 { 40 + 8 } else { 20 + 8 };
    let overhead = overhead_bytes(Encap::Udp, outer_is_ipv6, encryption).saturating_sub(outer_bytes);
    let datagram_bytes = usize::from(mtu_bytes).saturating_add(usize::from(overhead)).max(1);
    let packets = wire::LONGEST_SEND_BYTES.checked_div(datagram_bytes).unwrap_or(1);
    u32::try_from(packets).unwrap_or(1).max(1)
}

/// The interface's MTU: `wanted`, or else the largest that fits `path_bytes`, the smallest MTU among the outer routes, with
/// `overhead` bytes around it.
///
/// # Errors
/// `wanted` does not fit the path or lies below [`FLOOR_BYTES`]; the path is too small for any tunnel.
pub fn interface_mtu(wanted: Option<u32>, path_bytes: u32, overhead: u16) -> Result<u16> {
    let largest =
        u16::try_from(path_bytes.saturating_sub(u32::from(overhead)).min(u32::from(u16::MAX))).unwrap_or(u16::MAX);
    if largest < FLOOR_BYTES {
        return Err(Error::invalid(
            "device",
            path_bytes,
            format!("bytes is an outer MTU that leaves {largest} for the tunnel after {overhead} bytes of overhead"),
            format!("use an outer interface with an MTU of at least {}", FLOOR_BYTES.saturating_add(overhead)),
        ));
    }
    match wanted {
        None => Ok(largest),
        Some(mtu) if mtu > u32::from(largest) => Err(Error::invalid(
            "mtu",
            mtu,
            format!("does not fit: the outer path takes {path_bytes} bytes and the encapsulation adds {overhead}"),
            format!("write at most {largest}, or leave mtu out"),
        )),
        Some(mtu) if mtu < u32::from(FLOOR_BYTES) => {
            Err(Error::invalid("mtu", mtu, "is too small", format!("write at least {FLOOR_BYTES}, or leave mtu out")))
        }
        Some(mtu) => Ok(u16::try_from(mtu).unwrap_or(largest)),
    }
}

/// Refuses an MTU with which the kernel would drop the tunnel's IPv6 addresses.
///
/// # Errors
/// `has_ipv6` and `mtu_bytes` below [`FLOOR_WITH_IPV6_BYTES`].
pub fn check_ipv6_floor(mtu_bytes: u16, has_ipv6: bool) -> Result<()> {
    if has_ipv6 && mtu_bytes < FLOOR_WITH_IPV6_BYTES {
        return Err(Error::invalid(
            "mtu",
            mtu_bytes,
            "is below what IPv6 needs inside the tunnel",
            format!(
                "give the tunnel at least {FLOOR_WITH_IPV6_BYTES} (by \"mtu\", or by an outer interface that leaves as much), \
                 or no IPv6 address or route"
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_packets_of_one_send_fit_and_one_more_would_not() {
        for (mtu, ipv6, count) in
            [(1456, false, 44), (1436, true, 45), (8956, false, 7), (65_491, false, 1), (576, true, 110)]
        {
            assert_eq!(packets_per_send(mtu, ipv6, Encryption::None), count, "{mtu}");
        }
        assert_eq!(packets_per_send(1440, false, Encryption::Noise), 44);
        assert_eq!(packets_per_send(1420, true, Encryption::Noise), 45);
    }

    fn of(encap: Encap, wanted: Option<u32>, path_bytes: u32, outer_is_ipv6: bool) -> Result<u16> {
        interface_mtu(wanted, path_bytes, overhead_bytes(encap, outer_is_ipv6, Encryption::None))
    }

    #[test]
    fn defaults_follow_the_outer_family() {
        assert_eq!(of(Encap::Udp, None, 1500, false).unwrap(), 1456);
        assert_eq!(of(Encap::Udp, None, 1500, true).unwrap(), 1436);
        assert_eq!(of(Encap::Udp, None, 8901, false).unwrap(), 8857);
        assert_eq!(of(Encap::Vxlan, None, 1500, false).unwrap(), 1464);
        assert_eq!(of(Encap::Vxlan, None, 1500, true).unwrap(), 1444);
        for encap in [Encap::Udp, Encap::Wireguard] {
            let sealed = |ipv6| interface_mtu(None, 1500, overhead_bytes(encap, ipv6, Encryption::Noise)).unwrap();
            assert_eq!((sealed(false), sealed(true)), (1440, 1420));
        }
    }

    #[test]
    fn a_smaller_mtu_is_taken_and_a_larger_one_is_refused() {
        assert_eq!(of(Encap::Udp, Some(1452), 1500, false).unwrap(), 1452);
        let error = of(Encap::Udp, Some(1457), 1500, false).unwrap_err().to_string();
        assert_eq!(
            error,
            "mtu: 1457 does not fit: the outer path takes 1500 bytes and the encapsulation adds 44; write at most 1456, or leave mtu out"
        );
        assert!(of(Encap::Udp, Some(575), 1500, false).is_err());
        assert!(of(Encap::Udp, None, 600, false).is_err());
    }

    #[test]
    fn ipv6_inside_needs_1280() {
        assert!(check_ipv6_floor(1279, true).is_err());
        assert!(check_ipv6_floor(1279, false).is_ok());
        assert!(check_ipv6_floor(1280, true).is_ok());
    }
}
