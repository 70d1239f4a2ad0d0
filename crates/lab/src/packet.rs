//! Packets as they are on the wire: read from a capture, and made to be sent.

use std::net::{IpAddr, SocketAddr};

use etherparse::{LaxNetSlice, LaxSlicedPacket, PacketBuilder, TransportSlice};

use crate::{Error, Result};

/// UDP's protocol number.
pub const UDP: u8 = 17;
/// TCP's protocol number.
pub const TCP: u8 = 6;
/// ICMP's protocol number.
pub const ICMP: u8 = 1;
/// ICMPv6's protocol number.
pub const ICMPV6: u8 = 58;

/// An IP packet that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TappedPacket {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Protocol of the payload: [`UDP`], [`TCP`], [`ICMP`], …
    pub protocol: u8,
    /// Source port of UDP and TCP.
    pub src_port: Option<u16>,
    /// Destination port of UDP and TCP.
    pub dst_port: Option<u16>,
    /// Checksum field of UDP and TCP as it was; 0 in UDP over IPv4 means none.
    pub checksum: Option<u16>,
    /// ttl, or hop limit.
    pub ttl: u8,
    /// Type of service, or traffic class.
    pub tos: u8,
    /// Don't-fragment flag; always true for IPv6.
    pub df: bool,
    /// Whether it is a fragment.
    pub fragment: bool,
    /// Length of the IP packet in bytes.
    pub length: usize,
    /// What UDP or TCP carries; for other protocols what IP carries.
    pub payload: Vec<u8>,
    /// Whether it left through the interface, rather than arrived.
    pub outgoing: bool,
}

impl TappedPacket {
    /// Whether source or destination port is this.
    #[must_use]
    pub fn has_port(&self, port: u16) -> bool {
        self.src_port == Some(port) || self.dst_port == Some(port)
    }

    /// Reads an Ethernet frame; `None` if it carries no IP.
    pub(crate) fn from_ethernet(frame: &[u8], outgoing: bool) -> Option<Self> {
        let sliced = LaxSlicedPacket::from_ethernet(frame).ok()?;
        let net = sliced.net?;
        let payload = net.ip_payload_ref()?;
        let (src, dst, ttl, tos, df, length) = match &net {
            LaxNetSlice::Ipv4(v4) => {
                let header = v4.header();
                let tos = header.dcp().value() << 2 | header.ecn().value();
                let (src, dst) = (header.source_addr().into(), header.destination_addr().into());
                (src, dst, header.ttl(), tos, header.dont_fragment(), usize::from(header.total_len()))
            }
            LaxNetSlice::Ipv6(v6) => {
                let header = v6.header();
                let (src, dst) = (header.source_addr().into(), header.destination_addr().into());
                let length = usize::from(header.payload_length()).saturating_add(40);
                (src, dst, header.hop_limit(), header.traffic_class(), true, length)
            }
            LaxNetSlice::Arp(_) => return None,
        };
        let mut packet = Self {
            src,
            dst,
            protocol: payload.ip_number.0,
            src_port: None,
            dst_port: None,
            checksum: None,
            ttl,
            tos,
            df,
            fragment: payload.fragmented,
            length,
            payload: payload.payload.to_vec(),
            outgoing,
        };
        match &sliced.transport {
            Some(TransportSlice::Udp(udp)) => {
                packet.src_port = Some(udp.source_port());
                packet.dst_port = Some(udp.destination_port());
                packet.checksum = Some(udp.checksum());
                packet.payload = udp.payload().to_vec();
            }
            Some(TransportSlice::Tcp(tcp)) => {
                packet.src_port = Some(tcp.source_port());
                packet.dst_port = Some(tcp.destination_port());
                packet.checksum = Some(tcp.checksum());
                packet.payload = tcp.payload().to_vec();
            }
            _ => (),
        }
        Some(packet)
    }
}

/// The checksum of a datagram to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// The right one.
    #[default]
    Right,
    /// The field is 0: over IPv4 "no checksum" (RFC 768), over IPv6 forbidden (RFC 8200 8.1).
    Zero,
    /// A wrong one, not 0.
    Wrong,
}

/// A UDP datagram from whomever the test likes.
#[derive(Debug, Clone)]
pub struct Datagram {
    /// Source address and port.
    pub from: SocketAddr,
    /// Destination address and port.
    pub to: SocketAddr,
    /// What it carries.
    pub payload: Vec<u8>,
    /// Its checksum.
    pub checksum: Checksum,
    /// ttl, or hop limit.
    pub ttl: u8,
}

impl Datagram {
    /// A correct datagram with ttl 64.
    #[must_use]
    pub fn new(from: SocketAddr, to: SocketAddr, payload: impl Into<Vec<u8>>) -> Self {
        Self { from, to, payload: payload.into(), checksum: Checksum::Right, ttl: 64 }
    }

    /// The same with another checksum.
    #[must_use]
    pub fn with_checksum(mut self, checksum: Checksum) -> Self {
        self.checksum = checksum;
        self
    }

    /// The same with another ttl.
    #[must_use]
    pub fn with_ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// The IP packet.
    ///
    /// # Errors
    /// The addresses are of two families, or the payload does not fit.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let (builder, checksum_at) = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => (PacketBuilder::ipv4(from.octets(), to.octets(), self.ttl), 26_usize),
            (IpAddr::V6(from), IpAddr::V6(to)) => (PacketBuilder::ipv6(from.octets(), to.octets(), self.ttl), 46),
            (from, to) => {
                return Err(Error::Unexpected(format!("a datagram from {from} to {to}: two address families")));
            }
        };
        let mut bytes = Vec::new();
        builder
            .udp(self.from.port(), self.to.port())
            .write(&mut bytes, &self.payload)
            .map_err(|error| Error::Unexpected(format!("make a datagram: {error}")))?;
        let field = bytes.get_mut(checksum_at..).and_then(<[u8]>::first_chunk_mut::<2>);
        let field = field.ok_or_else(|| Error::Unexpected("make a datagram: it has no UDP header".to_owned()))?;
        *field = match (self.checksum, u16::from_be_bytes(*field)) {
            (Checksum::Right, right) => right,
            (Checksum::Zero, _) => 0,
            (Checksum::Wrong, right) => right.wrapping_add(1).max(1),
        }
        .to_be_bytes();
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tapped(datagram: &Datagram) -> TappedPacket {
        let ethertype: [u8; 2] = if datagram.to.is_ipv4() { [8, 0] } else { [0x86, 0xdd] };
        let frame = [&[2; 12], ethertype.as_slice(), &datagram.to_bytes().unwrap()].concat();
        TappedPacket::from_ethernet(&frame, true).unwrap()
    }

    #[test]
    fn what_is_sent_is_read_back() {
        for (from, to, length) in [("10.9.9.9:7", "10.20.1.200:6090", 33), ("[fd00::9]:7", "[fd10:20:1::200]:6090", 53)]
        {
            let datagram = Datagram::new(from.parse().unwrap(), to.parse().unwrap(), *b"hello").with_ttl(9);
            let packet = tapped(&datagram);
            assert_eq!(SocketAddr::new(packet.src, packet.src_port.unwrap()), datagram.from);
            assert_eq!(SocketAddr::new(packet.dst, packet.dst_port.unwrap()), datagram.to);
            assert_eq!((packet.protocol, packet.ttl, packet.length), (UDP, 9, length));
            assert_eq!(packet.payload, b"hello");
            assert!(!packet.fragment);
        }
    }

    #[test]
    fn the_checksum_is_what_was_asked_for() {
        let datagram = Datagram::new("10.9.9.9:7".parse().unwrap(), "10.20.1.200:6090".parse().unwrap(), *b"hello");
        let right = tapped(&datagram).checksum.unwrap();
        let with = |checksum| tapped(&datagram.clone().with_checksum(checksum)).checksum.unwrap();
        assert_eq!(with(Checksum::Zero), 0);
        assert!(![0, right].contains(&with(Checksum::Wrong)));
    }
}
