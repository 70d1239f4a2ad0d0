//! How large a packet inside a tunnel may be.
//!
//! The inner packet plus the outer headers has to fit the outer path with DF set, so the interface's MTU is the MTU of
//! the outer route less the exact overhead that the codec reports.

use adit_dataplane::wire::{self, Seal};

use crate::{Encryption, Error, Result};

/// Below this the kernel drops every IPv6 address of an interface (RFC 8200 section 5).
pub const FLOOR_WITH_IPV6_BYTES: u16 = 1280;
/// The smallest MTU of a tunnel without IPv6 inside: every IPv4 host takes datagrams of this size (RFC 791 section 3.1).
pub const FLOOR_BYTES: u16 = 576;

/// Bytes that `udp` adds to an inner packet: outer IP header, UDP header, our header, and the seal's tag where there is one.
#[must_use]
pub const fn overhead_bytes(outer_is_ipv6: bool, encryption: Encryption) -> u16 {
    let seal = match encryption {
        Encryption::None => Seal::Plain,
    };
    wire::overhead_bytes(outer_is_ipv6, seal)
}

/// The interface's MTU: `wanted`, or else the largest that fits `path_bytes`, the smallest MTU among the outer routes.
///
/// # Errors
/// `wanted` does not fit the path or lies below [`FLOOR_BYTES`]; the path is too small for any tunnel.
pub fn interface_mtu(wanted: Option<u32>, path_bytes: u32, outer_is_ipv6: bool, encryption: Encryption) -> Result<u16> {
    let overhead = overhead_bytes(outer_is_ipv6, encryption);
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
    fn defaults_follow_the_outer_family() {
        assert_eq!(interface_mtu(None, 1500, false, Encryption::None).unwrap(), 1456);
        assert_eq!(interface_mtu(None, 1500, true, Encryption::None).unwrap(), 1436);
        assert_eq!(interface_mtu(None, 8901, false, Encryption::None).unwrap(), 8857);
    }

    #[test]
    fn a_smaller_mtu_is_taken_and_a_larger_one_is_refused() {
        assert_eq!(interface_mtu(Some(1452), 1500, false, Encryption::None).unwrap(), 1452);
        let error = interface_mtu(Some(1457), 1500, false, Encryption::None).unwrap_err().to_string();
        assert_eq!(
            error,
            "mtu: 1457 does not fit: the outer path takes 1500 bytes and the encapsulation adds 44; write at most 1456, or leave mtu out"
        );
        assert!(interface_mtu(Some(575), 1500, false, Encryption::None).is_err());
        assert!(interface_mtu(None, 600, false, Encryption::None).is_err());
    }

    #[test]
    fn ipv6_inside_needs_1280() {
        assert!(check_ipv6_floor(1279, true).is_err());
        assert!(check_ipv6_floor(1279, false).is_ok());
        assert!(check_ipv6_floor(1280, true).is_ok());
    }
}
