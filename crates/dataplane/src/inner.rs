//! What the tunnel reads of an inner packet: addresses, and whether its length fields are true.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const TCP: u8 = 6;
const UDP: u8 = 17;

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

/// Completes the checksum of a packet whose TCP or UDP checksum field holds the sum of the pseudo
/// header only, as the kernel leaves it with `VIRTIO_NET_HDR_F_NEEDS_CSUM`. False, and nothing
/// changed, when it is not an unfragmented packet with TCP or UDP right behind the IP header.
#[must_use]
pub(crate) fn complete_checksum(packet: &mut [u8]) -> bool {
    let Some((protocol, transport)) = transport(packet) else {
        return false;
    };
    let (offset, shortest) = match protocol {
        TCP => (16, 20),
        UDP => (6, 8),
        _ => return false,
    };
    if transport.len() < shortest {
        return false;
    }
    let sum = match !fold(transport) {
        0 if protocol == UDP => 0xffff,
        sum => sum,
    };
    let Some(field) = transport.get_mut(offset..).and_then(<[u8]>::first_chunk_mut::<2>) else {
        return false;
    };
    *field = sum.to_be_bytes();
    true
}

fn transport(packet: &mut [u8]) -> Option<(u8, &mut [u8])> {
    match packet.first()? >> 4 {
        4 => {
            let &[first, _, _, _, _, _, f0, f1, _, protocol] = packet.first_chunk()?;
            let header = usize::from(first & 0x0f).checked_mul(4)?;
            // More fragments, or a fragment offset.
            let fragment = u16::from_be_bytes([f0, f1]) & 0x3fff != 0;
            let transport = packet.get_mut(header..)?;
            (header >= 20 && !fragment).then_some((protocol, transport))
        }
        6 => {
            let &[_, _, _, _, _, _, next_header] = packet.first_chunk()?;
            Some((next_header, packet.get_mut(40..)?))
        }
        _ => None,
    }
}

/// The ones' complement sum of RFC 1071.
fn fold(bytes: &[u8]) -> u16 {
    let (words, last) = bytes.as_chunks::<2>();
    let mut sum = words.iter().map(|word| u64::from(u16::from_be_bytes(*word))).fold(0_u64, u64::wrapping_add);
    if let [byte] = last {
        sum = sum.wrapping_add(u64::from(u16::from_be_bytes([*byte, 0])));
    }
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
        packet[26..28].copy_from_slice(&pseudo.to_be_bytes());
        assert!(complete_checksum(&mut packet));
        assert_eq!(fold(&packet[20..]).wrapping_add(pseudo), 0xffff);
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

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut packet in proptest::collection::vec(any::<u8>(), 0..100)) {
            addresses(&packet);
            let length = packet.len();
            let _ = complete_checksum(&mut packet);
            prop_assert_eq!(packet.len(), length);
        }
    }
}
