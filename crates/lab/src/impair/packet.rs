//! A packet on the link: its bytes, and as much of its headers as the link looks at.

use etherparse::checksum::Sum16BitWords;
use fastrand::Rng;

const ETHERNET_BYTES: usize = 14;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const IPV6_BYTES: usize = 40;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// Router solicitation to redirect, RFC 4861.
const NEIGHBOUR_DISCOVERY: std::ops::RangeInclusive<u8> = 133..=137;
/// Multicast that no router passes on: 224.0.0.0/24 (IGMP), ff02::/16 (MLD).
const IPV4_OF_THE_LINK: [u8; 3] = [224, 0, 0];
const IPV6_OF_THE_LINK: [u8; 2] = [0xff, 0x02];
const CE: u8 = 3;

/// A packet, as an Ethernet frame or as the payload of a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    bytes: Vec<u8>,
    kind: Kind,
    wire_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// An Ethernet frame with an IP packet; where its transport header begins.
    Ipv4 {
        transport_at: usize,
    },
    Ipv6,
    /// An Ethernet frame that the link needs to work at all.
    Exempt,
    /// The payload of a datagram whose headers are the kernel's.
    Payload,
}

impl Packet {
    /// An Ethernet frame without its checksum. A TCP or UDP checksum that the sender has left to its network card is completed.
    #[must_use]
    pub fn ethernet(bytes: Vec<u8>) -> Self {
        let wire_bytes = bytes.len();
        let kind = kind_of(&bytes);
        let mut packet = Self { bytes, kind, wire_bytes };
        // What else is too short for its headers stays as it came.
        let _ = packet.complete_checksum();
        packet
    }

    /// The payload of a UDP datagram over IPv4, or IPv6.
    #[must_use]
    pub fn payload(bytes: Vec<u8>, is_ipv6: bool) -> Self {
        let headers: usize = if is_ipv6 { 62 } else { 42 };
        let wire_bytes = bytes.len().saturating_add(headers);
        Self { bytes, kind: Kind::Payload, wire_bytes }
    }

    /// What is to be given on.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What it takes on the link: the Ethernet frame's header, no preamble, no checksum.
    #[must_use]
    pub fn wire_bytes(&self) -> usize {
        self.wire_bytes
    }

    /// Size of the IP packet.
    #[must_use]
    pub fn ip_bytes(&self) -> usize {
        self.wire_bytes.saturating_sub(ETHERNET_BYTES)
    }

    /// Whether the link needs it to work at all: ARP, neighbour discovery, multicast of the link alone, everything that is not IP.
    #[must_use]
    pub fn is_exempt(&self) -> bool {
        self.kind == Kind::Exempt
    }

    /// The ECN field, RFC 3168; `None` where there is no IP header to be seen.
    #[must_use]
    pub fn ecn(&self) -> Option<u8> {
        let traffic = self.bytes.get(ETHERNET_BYTES.saturating_add(1))?;
        match self.kind {
            Kind::Ipv4 { .. } => Some(traffic & 3),
            Kind::Ipv6 => Some(traffic >> 4 & 3),
            Kind::Exempt | Kind::Payload => None,
        }
    }

    /// Marks it CE if it allows that (ECT); whether it is marked by this.
    pub fn mark(&mut self) -> bool {
        if !matches!(self.ecn(), Some(1 | 2)) {
            return false;
        }
        let header = self.bytes.get_mut(ETHERNET_BYTES..).and_then(<[u8]>::first_chunk_mut::<12>);
        let Some([first, traffic, .., high, low]) = header else { return false };
        if self.kind == Kind::Ipv6 {
            *traffic |= CE << 4;
            return true;
        }
        let before = u16::from_be_bytes([*first, *traffic]);
        *traffic |= CE;
        let after = u16::from_be_bytes([*first, *traffic]);
        let checksum = u16::from_be_bytes([*high, *low]);
        [*high, *low] = changed_checksum(checksum, before, after).to_be_bytes();
        true
    }

    /// Flips one bit behind the IP header; whether there was one.
    pub fn flip_a_bit(&mut self, random: &mut Rng) -> bool {
        let start = match self.kind {
            Kind::Ipv4 { transport_at } => transport_at,
            Kind::Ipv6 => ETHERNET_BYTES.saturating_add(IPV6_BYTES),
            Kind::Exempt | Kind::Payload => 0,
        };
        let Some(body) = self.bytes.get_mut(start..).filter(|body| !body.is_empty()) else { return false };
        let place = random.usize(..body.len());
        if let Some(byte) = body.get_mut(place) {
            *byte ^= 1_u8.wrapping_shl(random.u32(..8));
        }
        true
    }

    /// Where the field holds nothing but the sum over the pseudo header, the network card was to add the rest.
    fn complete_checksum(&mut self) -> Option<()> {
        let ip = self.bytes.get(ETHERNET_BYTES..)?;
        let (protocol, pseudo, from, to) = match self.kind {
            Kind::Ipv4 { transport_at } => {
                // A fragment's checksum is that of the whole.
                if u16::from_be_bytes(*ip.get(6..)?.first_chunk()?) & 0x3fff != 0 {
                    return None;
                }
                let total = usize::from(u16::from_be_bytes(*ip.get(2..)?.first_chunk()?));
                (*ip.get(9)?, ip.get(12..20)?, transport_at, ETHERNET_BYTES.checked_add(total)?)
            }
            Kind::Ipv6 => {
                let length = usize::from(u16::from_be_bytes(*ip.get(4..)?.first_chunk()?));
                let from = ETHERNET_BYTES.checked_add(IPV6_BYTES)?;
                (*ip.get(6)?, ip.get(8..IPV6_BYTES)?, from, from.checked_add(length)?)
            }
            Kind::Exempt | Kind::Payload => return None,
        };
        let field: usize = match protocol {
            TCP => 16,
            UDP => 6,
            _ => return None,
        };
        let length = u16::try_from(to.checked_sub(from)?).ok()?;
        let header = Sum16BitWords::new().add_slice(pseudo).add_2bytes([0, protocol]).add_2bytes(length.to_be_bytes());
        let transport = self.bytes.get_mut(from..to)?;
        let found = u16::from_be_bytes(*transport.get(field..)?.first_chunk()?);
        // Of the two zeros of ones' complement either may stand there.
        if found == 0 || found != !header.ones_complement().to_be() {
            return None;
        }
        let checksum = Sum16BitWords::new().add_slice(transport).ones_complement().to_be();
        let checksum = if checksum == 0 && protocol == UDP { u16::MAX } else { checksum };
        *transport.get_mut(field..)?.first_chunk_mut()? = checksum.to_be_bytes();
        Some(())
    }
}

fn kind_of(frame: &[u8]) -> Kind {
    let ethertype = frame.get(12..).and_then(<[u8]>::first_chunk).map(|bytes| u16::from_be_bytes(*bytes));
    let ip = frame.get(ETHERNET_BYTES..).unwrap_or_default();
    match (ethertype, ip) {
        (Some(IPV4), [first, ..]) if ip.len() >= 20 && ip.get(16..19) != Some(&IPV4_OF_THE_LINK) => {
            let header = usize::from(first & 15).saturating_mul(4);
            Kind::Ipv4 { transport_at: ETHERNET_BYTES.saturating_add(header) }
        }
        (Some(IPV6), _) if ip.len() >= IPV6_BYTES && ip.get(24..26) != Some(&IPV6_OF_THE_LINK) => {
            let icmp = ip.get(IPV6_BYTES).filter(|_| ip.get(6) == Some(&ICMPV6));
            if icmp.is_some_and(|kind| NEIGHBOUR_DISCOVERY.contains(kind)) { Kind::Exempt } else { Kind::Ipv6 }
        }
        _ => Kind::Exempt,
    }
}

/// A checksum after one of its words has changed, RFC 1624 equation 3.
fn changed_checksum(checksum: u16, before: u16, after: u16) -> u16 {
    let sum = u32::from(!checksum).wrapping_add(u32::from(!before)).wrapping_add(u32::from(after));
    let folded = (sum & 0xffff).wrapping_add(sum >> 16);
    let folded = (folded & 0xffff).wrapping_add(folded >> 16);
    !u16::try_from(folded).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests;
