#![allow(clippy::arithmetic_side_effects, reason = "a test that panics has failed, as it should")]

use super::*;
use crate::inner::{Addresses, add};
use proptest::prelude::*;

const UDP: u8 = 17;

fn ipv4(fragment: u16, protocol: u8, source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let [l0, l1] = (20 + payload.len() as u16).to_be_bytes();
    let [f0, f1] = fragment.to_be_bytes();
    let mut packet = vec![0x45, 0, l0, l1, 0, 7, f0, f1, 63, protocol, 0, 0];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    write_ipv4_checksum(&mut packet);
    packet.extend(payload);
    packet
}

fn ipv6(first: u8, source: Ipv6Addr, destination: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let [l0, l1] = (payload.len() as u16).to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, l0, l1, first, 63];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

const A4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const B4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const A6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const B6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

fn v4(payload: &[u8]) -> Vec<u8> {
    ipv4(0x4000, UDP, A4, B4, payload)
}

fn v6(payload: &[u8]) -> Vec<u8> {
    ipv6(UDP, A6, B6, payload)
}

/// What every receiver looks at before it believes the message.
fn is_right(answer: &[u8]) -> bool {
    match answer[0] >> 4 {
        4 => folded(add(0, &answer[..20])) == 0xffff && folded(add(0, &answer[20..])) == 0xffff,
        _ => folded(add(pseudo_header(answer, ICMPV6) + answer.len() as u64 - 40, &answer[40..])) == 0xffff,
    }
}

#[test]
fn fragmentation_needed_quotes_548_bytes_in_all() {
    let packet = v4(&[7; 1400]);
    let answer = answer(&packet, 1300).unwrap();
    assert_eq!(answer.len(), 548);
    assert_eq!(addresses(&answer), Some(Addresses { source: B4.into(), destination: A4.into() }));
    assert_eq!((answer[8], answer[9]), (64, 1));
    assert_eq!((&answer[20..22], &answer[24..28]), (&[3, 4][..], &[0, 0, 5, 20][..]));
    assert_eq!(answer[28..], packet[..520]);
    assert!(is_right(&answer));
}

#[test]
fn packet_too_big_quotes_1280_bytes_in_all() {
    let packet = v6(&[7; 1400]);
    let answer = answer(&packet, 1300).unwrap();
    assert_eq!(answer.len(), 1280);
    assert_eq!(addresses(&answer), Some(Addresses { source: B6.into(), destination: A6.into() }));
    assert_eq!((answer[6], answer[7]), (58, 64));
    assert_eq!((&answer[40..42], &answer[44..48]), (&[2, 0][..], &[0, 0, 5, 20][..]));
    assert_eq!(answer[48..], packet[..1232]);
    assert!(is_right(&answer));
}

#[test]
fn the_answer_is_byte_for_byte_what_was_computed_by_hand() {
    // Header: 45c0 + 0038 + 4000 + 4001 + 0a00 + 0002 + 0a00 + 0001 = d9fc. Message: 0304 + 0514 = 0818, and what is quoted sums to
    // ffff for its header and to 0 + 0 + 0008 + 0 for UDP, together 0820.
    let packet = v4(&[0, 0, 0, 0, 0, 8, 0, 0]);
    let expected = [
        &[0x45, 0xc0, 0, 0x38, 0, 0, 0x40, 0, 0x40, 1, 0x26, 0x03, 10, 0, 0, 2, 10, 0, 0, 1][..],
        &[3, 4, 0xf7, 0xdf, 0, 0, 5, 0x14],
        &packet,
    ]
    .concat();
    assert_eq!(answer(&packet, 1300), Some(expected));
}

#[test]
fn short_packets_are_quoted_whole() {
    assert_eq!(answer(&v4(b"hi"), 1300).unwrap()[28..], v4(b"hi"));
    assert_eq!(answer(&v6(b"hi"), 1300).unwrap()[48..], v6(b"hi"));
}

#[test]
fn a_packet_that_stands_for_several_is_quoted_by_its_head() {
    for packet in [v4(&[7; 65_000]), v6(&[7; 65_000])] {
        let answer = answer(&packet, 1300).unwrap();
        let quoted = answer.len() - if packet[0] >> 4 == 4 { 28 } else { 48 };
        assert_eq!(answer[answer.len() - quoted..], packet[..quoted]);
        assert!(is_right(&answer));
    }
}

#[test]
fn the_mtu_told_is_never_below_the_least_of_the_protocol() {
    assert_eq!(answer(&v4(b"hi"), 0).unwrap()[26..28], [0, 68]);
    assert_eq!(answer(&v4(b"hi"), 576).unwrap()[26..28], [2, 64]);
    assert_eq!(answer(&v6(b"hi"), 1279).unwrap()[44..48], [0, 0, 5, 0]);
}

#[test]
fn who_lets_its_packets_be_fragmented_is_not_told() {
    assert_eq!(answer(&ipv4(0, UDP, A4, B4, &[7; 1400]), 1300), None);
    assert_eq!(answer(&ipv4(0x2000, UDP, A4, B4, &[7; 1400]), 1300), None);
}

#[test]
fn of_fragments_only_the_first_is_answered() {
    assert!(answer(&ipv4(0x6000, UDP, A4, B4, &[7; 1400]), 1300).is_some());
    assert_eq!(answer(&ipv4(0x4001, UDP, A4, B4, &[7; 1400]), 1300), None);
    let v6 = |offset| answer(&ipv6(44, A6, B6, &[UDP, 0, 0, offset, 0, 0, 0, 7, 1, 2, 3, 4]), 1300);
    assert!(v6(1).is_some());
    assert_eq!(v6(8), None);
}

#[test]
fn icmp_errors_are_not_answered_and_other_icmp_is() {
    let v4 = |kind| answer(&ipv4(0x4000, ICMP, A4, B4, &[kind, 0, 0, 0, 0, 0, 0, 0]), 1300);
    assert!([3, 4, 5, 11, 12].into_iter().all(|kind| v4(kind).is_none()));
    assert!([0, 8, 13, 42].into_iter().all(|kind| v4(kind).is_some()));
    let v6 = |kind| answer(&ipv6(ICMPV6, A6, B6, &[kind, 0, 0, 0, 0, 0, 0, 0]), 1300);
    assert!([0, 1, 2, 3, 4, 127, 137].into_iter().all(|kind| v6(kind).is_none()));
    assert!([128, 129, 135, 255].into_iter().all(|kind| v6(kind).is_some()));
    let behind_options = [[ICMPV6, 0, 1, 4, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0, 5, 0]].concat();
    assert_eq!(answer(&ipv6(0, A6, B6, &behind_options), 1300), None);
    // The numbers mean nothing in the other protocol.
    assert!(answer(&ipv6(ICMP, A6, B6, &[3; 8]), 1300).is_some());
    assert!(answer(&ipv4(0x4000, ICMPV6, A4, B4, &[3; 8]), 1300).is_some());
}

#[test]
fn icmp_that_does_not_say_its_type_is_not_answered() {
    assert_eq!(answer(&ipv4(0x4000, ICMP, A4, B4, &[]), 1300), None);
    assert_eq!(answer(&ipv6(ICMPV6, A6, B6, &[]), 1300), None);
}

#[test]
fn an_answer_is_never_answered() {
    for packet in [v4(&[7; 1400]), v6(&[7; 1400])] {
        assert_eq!(answer(&answer(&packet, 1300).unwrap(), 100), None);
    }
}

#[test]
fn only_one_host_is_told_in_the_name_of_one_host() {
    for several in ["0.0.0.0", "224.0.0.1", "239.1.2.3", "255.255.255.255", "127.0.0.1"] {
        let several = several.parse().unwrap();
        assert_eq!(answer(&ipv4(0x4000, UDP, several, B4, &[7; 1400]), 1300), None, "{several}");
        assert_eq!(answer(&ipv4(0x4000, UDP, A4, several, &[7; 1400]), 1300), None, "{several}");
    }
    for several in ["::", "ff02::1", "ff0e::1", "::1"] {
        let several = several.parse().unwrap();
        assert_eq!(answer(&ipv6(UDP, several, B6, &[7; 1400]), 1300), None, "{several}");
        assert_eq!(answer(&ipv6(UDP, A6, several, &[7; 1400]), 1300), None, "{several}");
    }
}

#[test]
fn a_packet_whose_length_is_not_what_it_says_is_not_answered() {
    for packet in [v4(b"hello"), v6(b"hello")] {
        assert_eq!(answer(&packet[..packet.len() - 1], 1300), None);
        assert_eq!(answer(&[&packet[..], &[0]].concat(), 1300), None);
    }
}

proptest! {
    #[test]
    fn answers_parse_and_their_checksums_are_right(
        payload in proptest::collection::vec(any::<u8>(), 0..3000),
        hosts: ([u8; 3], [u8; 3]),
        mtu_bytes: u16,
        is_v6: bool,
    ) {
        let packet = if is_v6 {
            let address = |[a, b, c]: [u8; 3]| Ipv6Addr::new(0xfd00, a.into(), 0, 0, b.into(), 0, c.into(), 1);
            ipv6(UDP, address(hosts.0), address(hosts.1), &payload)
        } else {
            let address = |[a, b, c]: [u8; 3]| Ipv4Addr::new(10, a, b, c);
            ipv4(0x4000, UDP, address(hosts.0), address(hosts.1), &payload)
        };
        let answer = answer(&packet, mtu_bytes);
        prop_assert!(answer.is_some());
        let answer = answer.unwrap_or_default();
        let of_packet = addresses(&packet).unwrap();
        let expected = Addresses { source: of_packet.destination, destination: of_packet.source };
        prop_assert_eq!(addresses(&answer), Some(expected));
        prop_assert!(is_right(&answer));
        let (headers, most) = if is_v6 { (48, 1280) } else { (28, 548) };
        prop_assert_eq!(answer.len(), (headers + packet.len()).min(most));
        prop_assert_eq!(&answer[headers..], &packet[..answer.len() - headers]);
    }

    #[test]
    fn any_bytes_are_answered_rightly_or_not_at_all(
        mut packet in proptest::collection::vec(any::<u8>(), 0..120),
        first in prop_oneof![0x45..=0x4f_u8, Just(0x60)],
        mtu_bytes: u16,
        says_its_length: bool,
    ) {
        if let Some(byte) = packet.first_mut() {
            *byte = first;
        }
        let (place, fixed) = if first == 0x60 { (4, 40) } else { (2, 0) };
        let length = (packet.len() as u16).saturating_sub(fixed).to_be_bytes();
        if let Some(bytes) = packet.get_mut(place..place + 2).filter(|_| says_its_length) {
            bytes.copy_from_slice(&length);
        }
        if let Some(answer) = answer(&packet, mtu_bytes) {
            prop_assert!(addresses(&answer).is_some());
            prop_assert!(is_right(&answer));
        }
    }
}
