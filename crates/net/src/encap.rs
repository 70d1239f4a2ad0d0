//! Routes that encapsulate (`ip route … encap ip id N src A dst B`): what a device that leaves its tunnel to routes
//! (`external`) puts around each packet (include/uapi/linux/lwtunnel.h).

use std::{fmt, net::IpAddr};

use crate::{
    attribute::{Attributes, find, long_number},
    ip,
};

const RTA_ENCAP_TYPE: u16 = 21;
pub(crate) const RTA_ENCAP: u16 = 22;

// enum lwtunnel_encap_types
const ENCAP_IP: u16 = 2;
const ENCAP_IP6: u16 = 4;

// enum lwtunnel_ip_t; that of IPv6 has the same numbers.
const LWTUNNEL_ID: u16 = 1;
const LWTUNNEL_DESTINATION: u16 = 2;
const LWTUNNEL_SOURCE: u16 = 3;
const LWTUNNEL_TTL: u16 = 4;
const LWTUNNEL_TOS: u16 = 5;
const LWTUNNEL_FLAGS: u16 = 6;

// TUNNEL_*, include/uapi/linux/if_tunnel.h
const FLAG_CHECKSUM: u16 = 1;
const FLAG_DONT_FRAGMENT: u16 = 1 << 8;

/// The outer header of a route's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Encapsulation {
    /// The tunnel's number; a VXLAN device's VNI.
    pub id: u32,
    /// Outer source; of the destination's family.
    pub source: IpAddr,
    /// Outer destination. The port is the device's.
    pub destination: IpAddr,
    /// Outer TTL or hop limit; 0 is the namespace's default.
    pub ttl: u8,
    /// Outer TOS or traffic class; its two ECN bits are the kernel's.
    pub tos: u8,
    /// With a checksum of the outer UDP datagram. Whatever the device says (`udpcsum`), a route without is sent without,
    /// which receivers drop over IPv6.
    pub checksum: bool,
    /// With DF in the outer IPv4 header.
    pub dont_fragment: bool,
}

impl Encapsulation {
    pub(crate) fn write(&self, message: &mut Attributes) {
        let kind = if self.destination.is_ipv4() { ENCAP_IP } else { ENCAP_IP6 };
        let flag = |bit: u16, on: bool| if on { bit } else { 0 };
        let flags = flag(FLAG_CHECKSUM, self.checksum) | flag(FLAG_DONT_FRAGMENT, self.dont_fragment);
        message.bytes(RTA_ENCAP_TYPE, &kind.to_ne_bytes()).nested(RTA_ENCAP, |tunnel| {
            tunnel.u64(LWTUNNEL_ID, self.id.into());
            tunnel.bytes(LWTUNNEL_DESTINATION, &ip::bytes(self.destination));
            tunnel.bytes(LWTUNNEL_SOURCE, &ip::bytes(self.source));
            tunnel.u8(LWTUNNEL_TTL, self.ttl).u8(LWTUNNEL_TOS, self.tos);
            tunnel.bytes(LWTUNNEL_FLAGS, &flags.to_be_bytes());
        });
    }

    /// The encapsulation among the `attributes` of a route, whose `RTA_ENCAP` is `tunnel`; `None` when it is another kind.
    pub(crate) fn read(attributes: &[u8], tunnel: &[u8]) -> Option<Self> {
        let kind = u16::from_ne_bytes(find(attributes, RTA_ENCAP_TYPE)?.try_into().ok()?);
        let family = match kind {
            ENCAP_IP => ip::IPV4,
            ENCAP_IP6 => ip::IPV6,
            _ => return None,
        };
        let address = |kind| ip::read(family, find(tunnel, kind)?);
        let byte = |kind| find(tunnel, kind).and_then(|value| value.first().copied()).unwrap_or_default();
        let flags = find(tunnel, LWTUNNEL_FLAGS).and_then(|value| value.try_into().ok()).map_or(0, u16::from_be_bytes);
        Some(Self {
            id: u32::try_from(long_number(find(tunnel, LWTUNNEL_ID)?)?).ok()?,
            source: address(LWTUNNEL_SOURCE)?,
            destination: address(LWTUNNEL_DESTINATION)?,
            ttl: byte(LWTUNNEL_TTL),
            tos: byte(LWTUNNEL_TOS),
            checksum: flags & FLAG_CHECKSUM != 0,
            dont_fragment: flags & FLAG_DONT_FRAGMENT != 0,
        })
    }
}

impl fmt::Display for Encapsulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "encap id {} src {} dst {}", self.id, self.source, self.destination)
    }
}
