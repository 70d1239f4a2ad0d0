use super::*;
use crate::inner::{add, addresses, folded};
use proptest::prelude::*;

const IDENTIFICATION: u32 = 0x1234_5678;

/// UDP's number, ahead of this many bytes that differ.
fn ipv4(field: u16, bytes: usize) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0xab, 0xcd, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    packet[6..8].copy_from_slice(&field.to_be_bytes());
    packet.extend((0..bytes).map(|n| (n % 251) as u8));
    let total = packet.len() as u16;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet
}

fn ipv6(first: u8, chain: &[u8], bytes: usize) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, first, 64];
    packet.resize(IPV6_HEADER_BYTES, 7);
    packet.extend(chain);
    packet.extend((0..bytes).map(|n| (n % 251) as u8));
    let payload = (packet.len() - IPV6_HEADER_BYTES) as u16;
    packet[4..6].copy_from_slice(&payload.to_be_bytes());
    packet
}

/// Offset in bytes, whether more follow, and what is behind the headers.
fn read(fragment: &[u8], header_bytes: usize) -> (usize, bool, &[u8]) {
    assert!(addresses(fragment).is_some(), "{fragment:?}");
    let field = |at: usize| u16::from_be_bytes([fragment[at], fragment[at + 1]]);
    let payload = &fragment[header_bytes..];
    if fragment[0] >> 4 == 4 {
        assert_eq!(folded(add(0, &fragment[..20])), 0xffff, "the header's checksum");
        assert_eq!(field(6) & IPV4_DONT_FRAGMENT, 0);
        return (usize::from(field(6) & IPV4_OFFSET) * 8, field(6) & IPV4_MORE != 0, payload);
    }
    let field = field(header_bytes - 6);
    (usize::from(field >> 3) * 8, field & 1 != 0, payload)
}

/// Puts together what must be a whole.
fn joined(fragments: &[Box<[u8]>], header_bytes: usize, offset: usize, more: bool) -> Vec<u8> {
    let mut whole = Vec::new();
    for (number, fragment) in fragments.iter().enumerate() {
        let (at, follows, payload) = read(fragment, header_bytes);
        assert_eq!(at, offset + whole.len());
        assert_eq!(follows, more || number + 1 < fragments.len());
        assert!(!follows || payload.len() % 8 == 0 || number + 1 == fragments.len());
        whole.extend(payload);
    }
    whole
}

#[test]
fn ipv4_with_df_gets_an_identification_and_may_be_fragmented() {
    let packet = ipv4(IPV4_DONT_FRAGMENT, 1260);
    let fragments = fragments(&packet, 1236, IDENTIFICATION).unwrap();
    assert_eq!(fragments.iter().map(|fragment| fragment.len()).collect::<Vec<_>>(), [1236, 64]);
    assert_eq!(joined(&fragments, 20, 0, false), &packet[20..]);
    assert!(fragments.iter().all(|fragment| fragment[4..6] == [0x56, 0x78] && fragment[8..10] == packet[8..10]));
}

#[test]
fn ipv4_without_df_keeps_its_identification() {
    let fragments = fragments(&ipv4(0, 1260), 1236, IDENTIFICATION).unwrap();
    assert!(fragments.iter().all(|fragment| fragment[4..6] == [0xab, 0xcd]));
}

#[test]
fn a_fragment_of_ipv4_is_cut_into_fragments_of_the_same_packet() {
    for (field, more) in [(IPV4_MORE | 100, true), (IPV4_DONT_FRAGMENT | 100, false)] {
        let packet = ipv4(field, 1256);
        let fragments = fragments(&packet, 700, IDENTIFICATION).unwrap();
        assert_eq!(joined(&fragments, 20, 800, more), &packet[20..]);
        assert!(fragments.iter().all(|fragment| fragment[4..6] == [0xab, 0xcd]));
    }
}

#[test]
fn ipv6_gets_a_fragment_header() {
    let packet = ipv6(17, &[], 1240);
    let fragments = fragments(&packet, 1216, IDENTIFICATION).unwrap();
    assert_eq!(fragments.iter().map(|fragment| fragment.len()).collect::<Vec<_>>(), [1216, 120]);
    assert_eq!(joined(&fragments, 48, 0, false), &packet[40..]);
    for fragment in &fragments {
        assert_eq!((fragment[6], fragment[40], &fragment[44..48]), (FRAGMENT, 17, &[0x12, 0x34, 0x56, 0x78][..]));
        assert_eq!(fragment[8..40], packet[8..40]);
    }
}

#[test]
fn headers_for_the_way_are_in_every_fragment_and_those_for_the_destination_are_not() {
    let options = |next| [next, 0, 1, 4, 0, 0, 0, 0];
    let before = [options(DESTINATION_OPTIONS), options(ROUTING), [DESTINATION_OPTIONS, 0, 4, 0, 0, 0, 0, 0]].concat();
    let packet = ipv6(HOP_BY_HOP, &[before.clone(), options(17).to_vec()].concat(), 1000);
    let fragments = fragments(&packet, 800, IDENTIFICATION).unwrap();
    assert_eq!(joined(&fragments, 40 + 24 + 8, 0, false), &packet[40 + 24..]);
    for fragment in &fragments {
        assert_eq!((fragment[6], fragment[56], fragment[64]), (HOP_BY_HOP, FRAGMENT, DESTINATION_OPTIONS));
        assert_eq!(fragment[40..56], before[..16]);
    }
}

#[test]
fn a_fragment_of_ipv6_is_cut_into_fragments_of_the_same_packet() {
    for more in [true, false] {
        let field = 800_u16 | u16::from(more);
        let header = [17, 0, field.to_be_bytes()[0], field.to_be_bytes()[1], 0, 0, 0, 9];
        let packet = ipv6(FRAGMENT, &header, 1200);
        let fragments = fragments(&packet, 1216, IDENTIFICATION).unwrap();
        assert_eq!(joined(&fragments, 48, 800, more), &packet[48..]);
        assert!(fragments.iter().all(|fragment| fragment[44..48] == [0, 0, 0, 9]));
    }
}

#[test]
fn what_cannot_be_cut_is_not() {
    let mut options = ipv4(0, 1260);
    options[0] = 0x46;
    assert!(fragments(&options, 1236, 1).is_none());
    assert!(fragments(&ipv4(0, 1260), 27, 1).is_none());
    assert!(fragments(&ipv6(17, &[], 1240), 55, 1).is_none());
    assert!(fragments(&ipv6(HOP_BY_HOP, &[17, 200, 0, 0, 0, 0, 0, 0], 1000), 700, 1).is_none());
    // It would end beyond what an IPv4 packet can be.
    assert!(fragments(&ipv4(IPV4_OFFSET, 1260), 700, 1).is_none());
}

proptest! {
    #[test]
    fn any_bytes_are_cut_within_the_room_or_refused(
        mut packet in proptest::collection::vec(any::<u8>(), 0..1500),
        is_v6: bool,
        room_bytes: u16,
    ) {
        if let Some(first) = packet.first_mut() {
            *first = if is_v6 { 0x60 } else { 0x45 };
        }
        for fragment in fragments(&packet, room_bytes, 1).unwrap_or_default() {
            prop_assert!(fragment.len() <= usize::from(room_bytes));
        }
    }

    #[test]
    fn what_is_cut_is_whole_when_it_is_joined(bytes in 1_usize..3000, room_bytes in 68_u16..1500) {
        let packet = ipv6(17, &[], bytes);
        let cut = fragments(&packet, room_bytes, 1).unwrap();
        prop_assert_eq!(joined(&cut, 48, 0, false), &packet[40..]);
        let packet = ipv4(0, bytes);
        let cut = fragments(&packet, room_bytes, 1).unwrap();
        prop_assert_eq!(joined(&cut, 20, 0, false), &packet[20..]);
    }
}
