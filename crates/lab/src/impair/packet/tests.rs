use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};

use super::*;

fn udp(is_ipv6: bool, ecn: u8) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let builder =
        if is_ipv6 { builder.ipv6([1; 16], [2; 16], 64) } else { builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64) };
    let mut bytes = Vec::new();
    builder.udp(7, 9).write(&mut bytes, &[0x5a; 101]).unwrap();
    if is_ipv6 {
        bytes[15] |= ecn << 4;
    } else {
        let before = u16::from_be_bytes([bytes[14], bytes[15]]);
        bytes[15] |= ecn;
        let after = u16::from_be_bytes([bytes[14], bytes[15]]);
        let checksum = changed_checksum(u16::from_be_bytes([bytes[24], bytes[25]]), before, after);
        bytes[24..26].copy_from_slice(&checksum.to_be_bytes());
    }
    bytes
}

fn sum_of(bytes: &[u8]) -> u16 {
    Sum16BitWords::new().add_slice(bytes).ones_complement()
}

/// Whether header and transport checksum fit, as the receiving kernel looks at them.
fn has_right_checksums(bytes: &[u8]) -> bool {
    let sliced = SlicedPacket::from_ethernet(bytes).unwrap();
    let Some(TransportSlice::Udp(udp)) = &sliced.transport else { return false };
    let (header, wanted) = match sliced.net.as_ref().unwrap() {
        etherparse::NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            (sum_of(ip.header().slice()) == 0, udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap())
        }
        etherparse::NetSlice::Ipv6(ip) => {
            (true, udp.to_header().calc_checksum_ipv6(&ip.header().to_header(), udp.payload()).unwrap())
        }
        _ => return false,
    };
    header && udp.checksum() == wanted
}

#[test]
fn only_packets_that_allow_it_are_marked_and_their_headers_stay_right() {
    for is_ipv6 in [false, true] {
        for (ecn, marked) in [(0, 0), (1, 3), (2, 3), (3, 3)] {
            let mut packet = Packet::ethernet(udp(is_ipv6, ecn));
            assert_eq!(packet.ecn(), Some(ecn));
            assert_eq!(packet.mark(), ecn == 1 || ecn == 2);
            assert_eq!(packet.ecn(), Some(marked));
            assert!(has_right_checksums(packet.bytes()), "{is_ipv6} {ecn}");
        }
    }
}

#[test]
fn every_flipped_bit_is_found_by_the_checksum() {
    let mut random = Rng::with_seed(1);
    for is_ipv6 in [false, true] {
        let sent = udp(is_ipv6, 0);
        for _ in 0..500 {
            let mut packet = Packet::ethernet(sent.clone());
            assert!(packet.flip_a_bit(&mut random));
            let differing: u32 = sent.iter().zip(packet.bytes()).map(|(a, b)| (a ^ b).count_ones()).sum();
            assert_eq!(differing, 1);
            let headers = if is_ipv6 { 54 } else { 34 };
            assert_eq!(sent[..headers], packet.bytes()[..headers]);
            // A flip in the UDP length leaves no packet to look at.
            let length_differs = sent[headers + 4..headers + 6] != packet.bytes()[headers + 4..headers + 6];
            assert!(length_differs || !has_right_checksums(packet.bytes()));
        }
    }
}

#[test]
fn a_checksum_that_was_left_to_a_card_is_completed_and_no_other_is_touched() {
    for is_ipv6 in [false, true] {
        let right = udp(is_ipv6, 0);
        assert_eq!(Packet::ethernet(right.clone()).bytes(), right);

        let at: usize = if is_ipv6 { 54 } else { 34 };
        let addresses = if is_ipv6 { 22..54 } else { 26..34 };
        let length = u16::try_from(right.len() - at).unwrap();
        let pseudo =
            Sum16BitWords::new().add_slice(&right[addresses]).add_2bytes([0, UDP]).add_2bytes(length.to_be_bytes());
        let mut partial = right.clone();
        partial[at + 6..at + 8].copy_from_slice(&(!pseudo.ones_complement()).to_be().to_be_bytes());
        // An Ethernet frame may be longer than its packet.
        partial.extend([9, 9]);
        let completed = Packet::ethernet(partial);
        assert_eq!(completed.bytes()[..right.len()], right);

        let mut wrong = right.clone();
        wrong[at + 6] ^= 1;
        assert_eq!(Packet::ethernet(wrong.clone()).bytes(), wrong);
    }
}

#[test]
fn what_is_not_ip_is_exempt_and_nothing_that_is_short_panics() {
    let mut arp = vec![0xff; 42];
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    assert!(Packet::ethernet(arp).is_exempt());
    let mut solicitation = Vec::new();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6([1; 16], [2; 16], 255);
    builder.icmpv6_raw(135, 0, [0; 4]).write(&mut solicitation, &[0; 16]).unwrap();
    assert!(Packet::ethernet(solicitation).is_exempt());
    let mut report = udp(false, 0);
    report[30..34].copy_from_slice(&[224, 0, 0, 22]);
    assert!(Packet::ethernet(report).is_exempt());
    let mut report = udp(true, 0);
    report[38..40].copy_from_slice(&[0xff, 0x02]);
    assert!(Packet::ethernet(report).is_exempt());
    for sent in [udp(false, 1), udp(true, 1)] {
        assert!(!Packet::ethernet(sent.clone()).is_exempt());
        for length in 0..sent.len() {
            let mut packet = Packet::ethernet(sent[..length].to_vec());
            packet.mark();
            packet.flip_a_bit(&mut Rng::with_seed(2));
        }
    }
}

#[test]
fn a_payload_counts_with_the_headers_that_it_will_have() {
    assert_eq!(Packet::payload(vec![0; 100], false).wire_bytes(), 142);
    assert_eq!(Packet::payload(vec![0; 100], true).ip_bytes(), 148);
}
