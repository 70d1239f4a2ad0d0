//! What the tunnel reads of an inner packet: addresses, lengths, and where TCP or UDP begins.

mod upper;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
pub(crate) use upper::{DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, ROUTING, Upper};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const IPV6_HEADER_BYTES: usize = 40;
pub(crate) const IPV4_CHECKSUM_OFFSET: usize = 10;

/// The addresses of an IPv4 or IPv6 packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
}

/// Reads a packet whose length fields (RFC 791 section 3.1, RFC 8200 section 3) agree with its length.
pub(crate) fn addresses(packet: &[u8]) -> Option<Addresses> {
    match packet.first()? >> 4 {
        4 => {
            let &[first, _, l0, l1, _, _, _, _, _, _, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = packet.first_chunk()?;
            let header = usize::from(first & 0x0f).checked_mul(4)?;
            let total = usize::from(u16::from_be_bytes([l0, l1]));
            (header >= 20 && header <= total && total == packet.len()).then_some(Addresses {
                source: Ipv4Addr::new(s0, s1, s2, s3).into(),
                destination: Ipv4Addr::new(d0, d1, d2, d3).into(),
            })
        }
        6 => {
            let (fixed, addresses) = packet.split_first_chunk::<8>()?;
            let &[_, _, _, _, l0, l1, _, _] = fixed;
            let (source, addresses) = addresses.split_first_chunk::<16>()?;
            let (destination, payload) = addresses.split_first_chunk::<16>()?;
            (usize::from(u16::from_be_bytes([l0, l1])) == payload.len()).then_some(Addresses {
                source: Ipv6Addr::from(*source).into(),
                destination: Ipv6Addr::from(*destination).into(),
            })
        }
        _ => None,
    }
}

/// The length that a packet's header gives it.
pub(crate) fn length(packet: &[u8]) -> Option<usize> {
    match packet.first()? >> 4 {
        4 => {
            let &[_, _, high, low] = packet.first_chunk()?;
            Some(usize::from(u16::from_be_bytes([high, low])))
        }
        6 => {
            let &[_, _, _, _, high, low] = packet.first_chunk()?;
            usize::from(u16::from_be_bytes([high, low])).checked_add(IPV6_HEADER_BYTES)
        }
        _ => None,
    }
}

/// TCP or UDP right behind the IP header of a packet that is no fragment: what offloads work on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Transport {
    /// [`TCP`] or [`UDP`].
    pub(crate) protocol: u8,
    /// Where it begins, bytes.
    pub(crate) start: usize,
    /// Where the payload begins, bytes.
    pub(crate) payload: usize,
}

impl Transport {
    /// Finds it; the header lies within the packet.
    pub(crate) fn of(packet: &[u8]) -> Option<Self> {
        let (protocol, start) = match packet.first()? >> 4 {
            4 => {
                let &[first, _, _, _, _, _, f0, f1, _, protocol] = packet.first_chunk()?;
                // More fragments, or a fragment offset.
                let fragment = u16::from_be_bytes([f0, f1]) & 0x3fff != 0;
                let start = usize::from(first & 0x0f).checked_mul(4)?;
                (!fragment && start >= 20).then_some((protocol, start))?
            }
            6 => (*packet.get(6)?, IPV6_HEADER_BYTES),
            _ => return None,
        };
        Self::at(packet, protocol, start)
    }

    /// The same, behind IPv6 extension headers, or wherever whoever knows says.
    pub(crate) fn at(packet: &[u8], protocol: u8, start: usize) -> Option<Self> {
        let header = match protocol {
            TCP => usize::from(packet.get(start.checked_add(12)?)? >> 4).checked_mul(4).filter(|bytes| *bytes >= 20)?,
            UDP => 8,
            _ => return None,
        };
        let payload = start.checked_add(header)?;
        (payload <= packet.len()).then_some(Self { protocol, start, payload })
    }

    /// Where the checksum begins to cover the packet, and where it is from there, in bytes.
    pub(crate) const fn checksum_place(&self) -> (u16, u16) {
        (self.start as u16, self.checksum_offset() as u16)
    }

    /// Whether the headers before the payload say what is so: a damaged IPv4 header, or UDP that ends before its packet, must not be
    /// written anew as if it were right.
    pub(crate) fn headers_are_right(&self, packet: &[u8]) -> bool {
        let ip = match packet.first().map(|first| first >> 4) {
            Some(4) => packet.get(..self.start).is_some_and(|header| folded(add(0, header)) == 0xffff),
            _ => true,
        };
        ip && (self.protocol != UDP
            || self.number_at(packet, 4).map(usize::from) == packet.len().checked_sub(self.start))
    }

    /// The part of a checksum that does not depend on the packet's length, where the field covers the pseudo header only. Whoever wrote
    /// it knew the address at the end of a routing header or source route, which [`pseudo_header`] does not.
    pub(crate) fn sum_without_length(&self, packet: &[u8]) -> Option<u16> {
        let length = packet.len().checked_sub(self.start)?;
        let field = self.number_at(packet, self.checksum_offset())?;
        Some(folded(u64::from(field).wrapping_add(u64::from(!(length as u16)))))
    }

    fn number_at(&self, packet: &[u8], offset: usize) -> Option<u16> {
        let bytes = packet.get(self.start.checked_add(offset)?..)?.first_chunk()?;
        Some(u16::from_be_bytes(*bytes))
    }

    /// Where its checksum is, from its beginning, in bytes.
    pub(crate) const fn checksum_offset(&self) -> usize {
        if self.protocol == TCP { 16 } else { 6 }
    }
}

/// The part of the transport's checksum that does not depend on the packet's length: addresses and protocol
/// (RFC 9293 section 3.1, RFC 8200 section 8.1).
pub(crate) fn pseudo_header(packet: &[u8], protocol: u8) -> u64 {
    let addresses = match packet.first().map(|first| first >> 4) {
        Some(4) => packet.get(12..20),
        _ => packet.get(8..40),
    };
    add(u64::from(protocol), addresses.unwrap_or_default())
}

/// Completes the checksum of a packet whose TCP or UDP checksum field holds the sum of the pseudo
/// header only, as the kernel leaves it with `VIRTIO_NET_HDR_F_NEEDS_CSUM`. False, and nothing
/// changed, when it is not an unfragmented packet with TCP or UDP right behind the IP header.
#[must_use]
pub(crate) fn complete_checksum(packet: &mut [u8]) -> bool {
    let Some(transport) = Transport::of(packet) else { return false };
    complete_checksum_at(packet, transport.start, transport.checksum_offset())
}

/// Completes whatever sum begins at `start` and has its field `offset` bytes from there. False, and nothing changed, when
/// the field is not within the packet, or is within its IP header.
#[must_use]
pub(crate) fn complete_checksum_at(packet: &mut [u8], start: usize, offset: usize) -> bool {
    let Some(covered) = packet.get_mut(start..).filter(|_| start >= 20) else { return false };
    // Zero would say that there is none (RFC 768), and is the same number.
    let sum = match !folded(add(0, covered)) {
        0 => 0xffff,
        sum => sum,
    };
    let Some(field) = covered.get_mut(offset..).and_then(<[u8]>::first_chunk_mut::<2>) else { return false };
    *field = sum.to_be_bytes();
    true
}

/// Replaces a TCP or UDP checksum that is right by the sum of the pseudo header, so that the packet may be joined with others. False,
/// and nothing changed, when there is none or it is not right.
#[must_use]
pub(crate) fn make_partial(packet: &mut [u8]) -> bool {
    let Some(transport) = Transport::of(packet) else { return false };
    let Some(covered) = packet.get(transport.start..) else { return false };
    let pseudo_header = pseudo_header(packet, transport.protocol).wrapping_add(covered.len() as u64);
    let is_absent = transport.protocol == UDP && transport.number_at(packet, transport.checksum_offset()) == Some(0);
    if is_absent || folded(add(pseudo_header, covered)) != 0xffff {
        return false;
    }
    let place = transport.start.saturating_add(transport.checksum_offset());
    match packet.get_mut(place..).and_then(<[u8]>::first_chunk_mut::<2>) {
        Some(field) => {
            *field = folded(pseudo_header).to_be_bytes();
            true
        }
        None => false,
    }
}

/// Replaces a TCP or UDP checksum, right or not, by the sum of the pseudo header. False, and nothing changed, when there is none.
#[must_use]
pub(crate) fn forget_checksum(packet: &mut [u8]) -> bool {
    let Some(transport) = Transport::of(packet) else { return false };
    let length = packet.len().saturating_sub(transport.start);
    let is_absent = transport.protocol == UDP && transport.number_at(packet, transport.checksum_offset()) == Some(0);
    if is_absent {
        return false;
    }
    let sum = folded(pseudo_header(packet, transport.protocol).wrapping_add(length as u64));
    let place = transport.start.saturating_add(transport.checksum_offset());
    let Some(field) = packet.get_mut(place..).and_then(<[u8]>::first_chunk_mut::<2>) else { return false };
    *field = sum.to_be_bytes();
    true
}

/// Writes the checksum of an IPv4 header, whose length is that of `header`.
pub(crate) fn write_ipv4_checksum(header: &mut [u8]) {
    if let Some(field) = header.get_mut(10..12) {
        field.fill(0);
    }
    let sum = !folded(add(0, header));
    if let Some(field) = header.get_mut(10..12) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
}

/// The ones' complement sum of RFC 1071, not folded yet.
pub(crate) fn add(sum: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let sum = words.iter().map(|word| u64::from(u32::from_be_bytes(*word))).fold(sum, u64::wrapping_add);
    let mut last = [0; 4];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    sum.wrapping_add(u64::from(u32::from_be_bytes(last)))
}

/// A checksum once one word of what it covers has changed from the first to the second (RFC 1624 equation 3): a wrong one stays wrong.
pub(crate) fn updated_checksum(checksum: u16, (old, new): (u16, u16)) -> u16 {
    let sum = [!checksum, !old, new].into_iter().map(u64::from).fold(0, u64::wrapping_add);
    !folded(sum)
}

/// A sum in 16 bits.
pub(crate) fn folded(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff).wrapping_add(sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const V4_UDP: [u8; 31] = [
        0x45, 0, 0, 31, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, // IPv4
        0, 7, 0, 9, 0, 11, 0, 0, b'a', b'b', b'c', // UDP
    ];

    #[test]
    fn ipv4_addresses_are_read() {
        let expected = Addresses { source: "10.0.0.1".parse().unwrap(), destination: "10.0.0.2".parse().unwrap() };
        assert_eq!(addresses(&V4_UDP), Some(expected));
    }

    #[test]
    fn ipv6_addresses_are_read() {
        let mut packet = vec![0x60, 0, 0, 0, 0, 2, 17, 64];
        packet.extend_from_slice(&"fd00::1".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend_from_slice(&"fd00::2".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend_from_slice(b"hi");
        let expected = Addresses { source: "fd00::1".parse().unwrap(), destination: "fd00::2".parse().unwrap() };
        assert_eq!(addresses(&packet), Some(expected));
        packet.push(0);
        assert_eq!(addresses(&packet), None);
    }

    #[test]
    fn lying_length_fields_are_refused() {
        let change = |at: usize, value| {
            let mut packet = V4_UDP;
            packet[at] = value;
            addresses(&packet)
        };
        assert_eq!(change(3, 30), None);
        assert_eq!(change(3, 32), None);
        assert_eq!(change(0, 0x44), None);
        assert_eq!(change(0, 0x4f), None);
        assert_eq!(change(0, 0x55), None);
        assert_eq!(addresses(&V4_UDP[..19]), None);
        assert_eq!(addresses(&[]), None);
    }

    #[test]
    fn partial_udp_checksum_becomes_a_valid_one() {
        let mut packet = V4_UDP;
        // 10.0.0.1 + 10.0.0.2 + protocol 17 + length 11
        let pseudo: u16 = 0x0a00 + 0x0001 + 0x0a00 + 0x0002 + 17 + 11;
        assert_eq!(folded(pseudo_header(&packet, UDP) + 11), pseudo);
        packet[26..28].copy_from_slice(&pseudo.to_be_bytes());
        assert!(complete_checksum(&mut packet));
        assert_eq!(folded(add(pseudo.into(), &packet[20..])), 0xffff);
    }

    #[test]
    fn other_protocols_and_fragments_have_no_partial_checksum() {
        let refused = |at: usize, value| {
            let mut packet = V4_UDP;
            packet[at] = value;
            let before = packet;
            !complete_checksum(&mut packet) && packet == before
        };
        assert!(refused(9, 1));
        assert!(refused(9, TCP));
        assert!(refused(6, 0x20));
        assert!(refused(7, 1));
        assert!(!complete_checksum(&mut []));
    }

    #[test]
    fn checksum_of_the_ipv4_header_is_that_of_rfc_1071() {
        // The example of RFC 1071's users everywhere: 45 00 00 73 … has the checksum b861.
        let mut header = [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 9, 9, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
        write_ipv4_checksum(&mut header);
        assert_eq!(header[10..12], [0xb8, 0x61]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut packet in proptest::collection::vec(any::<u8>(), 0..100), start: usize, offset: usize) {
            addresses(&packet);
            let length = packet.len();
            let _ = Transport::of(&packet);
            let _ = complete_checksum(&mut packet);
            let _ = complete_checksum_at(&mut packet, start, offset);
            prop_assert_eq!(packet.len(), length);
        }

        #[test]
        fn sum_in_words_of_four_is_the_sum_in_words_of_two(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let slow = bytes.chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))).sum();
            prop_assert_eq!(folded(add(0, &bytes)), folded(slow));
        }
    }
}
