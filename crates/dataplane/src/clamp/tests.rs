#![allow(clippy::arithmetic_side_effects, reason = "a test that panics has failed, as it should")]

use super::*;
use crate::inner::{add, complete_checksum, folded, pseudo_header};
use proptest::prelude::*;

const ACK: u8 = 0x10;
const PAYLOAD: &[u8] = b"early";

/// A TCP packet whose checksum field holds the sum of the pseudo header.
fn partial(network: &[u8], flags: u8, options: &[u8]) -> Vec<u8> {
    let mut packet = network.to_vec();
    let options_bytes = options.len().next_multiple_of(4);
    let tcp_bytes = OPTIONS_OFFSET + options_bytes + PAYLOAD.len();
    packet.extend([15, 160, 19, 136, 0, 0, 3, 232, 0, 0, 0, 0, ((OPTIONS_OFFSET + options_bytes) * 4) as u8, flags]);
    packet.extend([1, 244, 0, 0, 0, 0]);
    packet.extend(options);
    packet.resize(network.len() + OPTIONS_OFFSET + options_bytes, END);
    packet.extend(PAYLOAD);
    match network[0] >> 4 {
        4 => {
            let total = packet.len() as u16;
            packet[2..4].copy_from_slice(&total.to_be_bytes());
        }
        _ => {
            let payload = packet.len() as u16 - 40;
            packet[4..6].copy_from_slice(&payload.to_be_bytes());
        }
    }
    let sum = folded(pseudo_header(&packet, TCP) + tcp_bytes as u64);
    packet[network.len() + 16..network.len() + 18].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn complete(network: &[u8], flags: u8, options: &[u8]) -> Vec<u8> {
    let mut packet = partial(network, flags, options);
    let sum = !folded(add(0, &packet[network.len()..]));
    packet[network.len() + 16..network.len() + 18].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn is_right(packet: &[u8], start: usize) -> bool {
    let length = (packet.len() - start) as u64;
    folded(add(pseudo_header(packet, TCP) + length, &packet[start..])) == 0xffff
}

fn ipv4(options: &[u8]) -> Vec<u8> {
    let first = 0x40 | ((20 + options.len()) as u8 / 4);
    [&[first, 0, 0, 0, 0, 7, 0, 0, 64, TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2], options].concat()
}

fn ipv6(first: u8, extensions: &[u8]) -> Vec<u8> {
    let mut network = vec![0x60, 0, 0, 0, 0, 0, first, 64];
    for host in [1, 2] {
        network.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
    }
    network.extend(extensions);
    network
}

const fn segment_size(bytes: u16) -> [u8; 4] {
    let [high, low] = bytes.to_be_bytes();
    [SEGMENT_SIZE, 4, high, low]
}

fn clamped(packet: &[u8], mtu_bytes: u16, checksum: Checksum) -> Vec<u8> {
    let mut clamped = packet.to_vec();
    clamp_mss(&mut clamped, mtu_bytes, checksum);
    clamped
}

fn is_left_alone(packet: &[u8]) -> bool {
    [Checksum::Complete, Checksum::Partial].iter().all(|checksum| clamped(packet, 1280, *checksum) == packet)
}

#[test]
fn syn_and_syn_ack_are_lowered_by_40_and_60_bytes() {
    for flags in [SYN, SYN | ACK] {
        for (network, limit) in [(ipv4(&[]), 1240), (ipv6(TCP, &[]), 1220)] {
            let packet = complete(&network, flags, &segment_size(1460));
            assert_eq!(clamped(&packet, 1280, Checksum::Complete), complete(&network, flags, &segment_size(limit)));
        }
    }
}

#[test]
fn it_is_never_raised_or_added() {
    for announced in [0, 1, 536, 1239, 1240] {
        assert!(is_left_alone(&complete(&ipv4(&[]), SYN, &segment_size(announced))), "{announced}");
    }
    assert!(!is_left_alone(&complete(&ipv4(&[]), SYN, &segment_size(1241))));
    assert!(is_left_alone(&complete(&ipv4(&[]), SYN, &[])));
    assert!(is_left_alone(&complete(&ipv4(&[]), SYN, &[4, 2, 3, 3, 7])));
}

#[test]
fn an_mtu_without_room_for_headers_lowers_nothing() {
    for (network, headers_bytes) in [(ipv4(&[]), 40), (ipv6(TCP, &[]), 60)] {
        let packet = complete(&network, SYN, &segment_size(1460));
        for mtu_bytes in [0, headers_bytes - 1, headers_bytes] {
            assert_eq!(clamped(&packet, mtu_bytes, Checksum::Complete), packet);
        }
        assert_ne!(clamped(&packet, headers_bytes + 1, Checksum::Complete), packet);
    }
}

#[test]
fn partial_checksum_stays_as_it_is() {
    let packet = partial(&ipv4(&[]), SYN, &segment_size(1460));
    assert_eq!(clamped(&packet, 1280, Checksum::Partial), partial(&ipv4(&[]), SYN, &segment_size(1240)));
}

#[test]
fn wrong_checksum_stays_wrong() {
    let mut packet = complete(&ipv4(&[]), SYN, &segment_size(1460));
    packet[36] ^= 1;
    let packet = clamped(&packet, 1280, Checksum::Complete);
    assert_eq!(packet[40..44], segment_size(1240));
    assert!(!is_right(&packet, 20));
}

#[test]
fn a_change_that_brings_the_sum_to_zero_is_that_of_rfc_1624() {
    // The example of its section 4: 0x5555 becomes 0x3285 under the checksum 0xdd2f.
    assert_eq!(updated_checksum(0xdd2f, (0x5555, 0x3285)), 0x0000);
}

#[test]
fn first_fragments_are_lowered_and_others_are_not() {
    let options = segment_size(1460);
    let v4 = |fragment: u16| {
        let mut network = ipv4(&[]);
        network[6..8].copy_from_slice(&fragment.to_be_bytes());
        complete(&network, SYN, &options)
    };
    let v6 = |fragment: u16| {
        let [high, low] = fragment.to_be_bytes();
        complete(&ipv6(44, &[TCP, 0, high, low, 0, 0, 0, 7]), SYN, &options)
    };
    assert!(!is_left_alone(&v4(0x2000)) && is_left_alone(&v4(0x2001)) && is_left_alone(&v4(1)));
    assert!(!is_left_alone(&v6(1)) && is_left_alone(&v6(9)) && is_left_alone(&v6(8)));
}

#[test]
fn what_opens_no_connection_is_left_alone() {
    let options = segment_size(1460);
    for flags in [0, ACK, 0x01 | ACK, 0x04, 0xff ^ SYN] {
        assert!(is_left_alone(&complete(&ipv4(&[]), flags, &options)), "{flags}");
    }
    let other = |network: Vec<u8>| is_left_alone(&complete(&network, SYN, &options));
    let mut udp = ipv4(&[]);
    udp[9] = 17;
    assert!(other(udp));
    assert!(other(ipv6(17, &[])));
    // What an authentication header covers is not to be changed.
    assert!(other(ipv6(51, &[TCP, 0, 0, 0, 0, 0, 0, 0])));
}

#[test]
fn malformed_options_change_nothing() {
    let announced = segment_size(1460);
    let lists: [&[u8]; 8] = [
        &[SEGMENT_SIZE, 3, 5, 180],
        &[SEGMENT_SIZE, 0, 5, 180],
        &[SEGMENT_SIZE, 6, 5, 180, 0, 0, 0, 0],
        &[1, SEGMENT_SIZE, 4, 5],
        &[&announced[..], &[8, 1, 0, 0]].concat(),
        &[&announced[..], &[8, 0, 0, 0]].concat(),
        &[&announced[..], &[1, 1, 1, 8]].concat(),
        &[&announced[..], &[8, 5, 0, 0]].concat(),
    ];
    for list in lists {
        assert!(is_left_alone(&complete(&ipv4(&[]), SYN, list)), "{list:?}");
    }
    assert!(is_left_alone(&complete(&ipv4(&[]), SYN, &[announced, announced].concat())));
    assert!(!is_left_alone(&complete(&ipv4(&[]), SYN, &[&announced[..], &[END, 8, 1, 0]].concat())));
}

#[test]
fn options_behind_the_end_of_the_list_are_none() {
    assert!(is_left_alone(&complete(&ipv4(&[]), SYN, &[&[END, 0, 0, 0][..], &segment_size(1460)].concat())));
}

#[test]
fn options_that_an_authentication_covers_are_left_alone() {
    let covered = [&segment_size(1460)[..], &[AUTHENTICATION, 4, 1, 1]].concat();
    assert!(is_left_alone(&complete(&ipv4(&[]), SYN, &covered)));
}

#[test]
fn a_header_that_the_packet_does_not_hold_changes_nothing() {
    let packet = complete(&ipv4(&[]), SYN, &segment_size(1460));
    for length in 0..44 {
        assert!(is_left_alone(&packet[..length]), "{length}");
    }
    assert!(!is_left_alone(&packet[..44]));
}

fn networks() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (0..=10_usize).prop_map(|words| ipv4(&[1, 1, 1, 1].repeat(words))),
        (0..4_usize).prop_map(|count| match count {
            0 => ipv6(TCP, &[]),
            _ => {
                let mut extensions = [60, 0, 1, 4, 0, 0, 0, 0].repeat(count);
                extensions[count * 8 - 8] = TCP;
                ipv6(0, &extensions)
            }
        }),
    ]
}

proptest! {
    #[test]
    fn checksum_is_right_wherever_the_option_is(
        network in networks(),
        before in 0..12_usize,
        after in 0..12_usize,
        announced: u16,
        mtu_bytes in 61_u16..,
    ) {
        let limit = mtu_bytes - if network[0] >> 4 == 4 { 40 } else { 60 };
        let with = |size| [&[1].repeat(before)[..], &segment_size(size), &[1].repeat(after)].concat();
        let packet = complete(&network, SYN, &with(announced));
        let packet = clamped(&packet, mtu_bytes, Checksum::Complete);
        prop_assert!(is_right(&packet, network.len()));
        let mut expected = complete(&network, SYN, &with(announced.min(limit)));
        let field = network.len() + 16..network.len() + 18;
        expected[field.clone()].copy_from_slice(&packet[field]);
        prop_assert_eq!(packet, expected);
    }

    #[test]
    fn partial_and_complete_become_the_same(is_v6: bool, before in 0..12_usize, announced: u16, mtu_bytes in 1280_u16..) {
        let network = if is_v6 { ipv6(TCP, &[]) } else { ipv4(&[]) };
        let options = [&[1].repeat(before)[..], &segment_size(announced)].concat();
        let mut one = clamped(&partial(&network, SYN, &options), mtu_bytes, Checksum::Partial);
        prop_assert!(complete_checksum(&mut one));
        let other = clamped(&complete(&network, SYN, &options), mtu_bytes, Checksum::Complete);
        prop_assert!(is_right(&one, network.len()) && is_right(&other, network.len()));
        let field = network.len() + 16;
        prop_assert_eq!(&one[..field], &other[..field]);
        prop_assert_eq!(&one[field + 2..], &other[field + 2..]);
    }

    #[test]
    fn any_options_stay_options(options in proptest::collection::vec(0..9_u8, 0..40), mtu_bytes: u16) {
        let packet = complete(&ipv4(&[]), SYN, &options);
        let after = clamped(&packet, mtu_bytes, Checksum::Complete);
        prop_assert!(is_right(&after, 20));
        let changed: Vec<_> = (0..packet.len()).filter(|at| packet[*at] != after[*at]).collect();
        prop_assert!(changed.iter().filter(|at| !(36..38).contains(*at)).count() <= 2);
    }

    #[test]
    fn any_bytes_are_taken(
        mut packet in proptest::collection::vec(any::<u8>(), 0..120),
        first in prop_oneof![0x45..=0x4f_u8, Just(0x60)],
        mtu_bytes: u16,
        is_tcp: bool,
    ) {
        if let Some(byte) = packet.first_mut() {
            *byte = first;
        }
        let protocol = if first == 0x60 { 6 } else { 9 };
        if let Some(byte) = packet.get_mut(protocol).filter(|_| is_tcp) {
            *byte = TCP;
        }
        for checksum in [Checksum::Complete, Checksum::Partial] {
            prop_assert_eq!(clamped(&packet, mtu_bytes, checksum).len(), packet.len());
        }
    }
}
