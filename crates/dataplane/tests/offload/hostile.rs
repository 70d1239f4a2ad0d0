//! Whatever comes from the TUN: nothing panics, nothing is longer than may be, nothing leaves twice.

use crate::{
    generate::headers,
    model::payload,
    tunnel::{MTU_BYTES, Said, Tunnel, numbers, vnet},
};
use adit_dataplane::{Gso, GsoKind, Vnet, wire};
use proptest::{collection::vec, prelude::*};
use std::collections::HashSet;

fn any_vnet() -> impl Strategy<Value = Vnet> {
    let kind = prop_oneof![Just(GsoKind::Tcp4), Just(GsoKind::Tcp6), Just(GsoKind::Udp)];
    let small = || prop_oneof![0..100_u16, any::<u16>()];
    let gso = (kind, any::<u16>(), small()).prop_map(|(kind, header_bytes, segment_bytes)| Gso {
        kind,
        header_bytes,
        segment_bytes,
    });
    (proptest::option::of((small(), small())), proptest::option::of(gso))
        .prop_map(|(checksum, segments)| Vnet { checksum, segments })
}

/// Bytes with a version and lengths that agree, so that more than the first test is passed.
fn any_packet() -> impl Strategy<Value = Vec<u8>> {
    (vec(any::<u8>(), 0..3000), 0..4_u8).prop_map(|(mut packet, kind)| {
        let length = packet.len() as u16;
        if packet.len() >= 60 && kind > 0 {
            if kind == 1 {
                packet[0] = 0x60;
                packet[4..6].copy_from_slice(&(length - 40).to_be_bytes());
                packet[24..40].copy_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
                packet[6] = if packet[7] & 1 == 0 { 6 } else { 17 };
            } else {
                packet[0] = 0x40 | packet[0] & 0x0f;
                packet[2..4].copy_from_slice(&length.to_be_bytes());
                packet[16..20].copy_from_slice(&[10, 0, 0, 2]);
                packet[6] &= 0x40;
                packet[7] = 0;
                packet[9] = if packet[8] & 1 == 0 { 6 } else { 17 };
            }
        }
        packet
    })
}

/// A good packet with some bytes of its headers changed, and a good offload or any.
fn bent() -> impl Strategy<Value = (Vec<u8>, Vnet)> {
    let changes = vec((0..70_usize, any::<u8>()), 0..3);
    let sizes = (0..20_000_usize, 1..1400_usize);
    (headers(), sizes, changes, any_vnet(), 0..3_u8).prop_map(|(headers, (length, segment), changes, any, which)| {
        let mut packet = headers.partial(&payload(length, 3));
        for (at, value) in changes {
            if let Some(byte) = packet.get_mut(at) {
                *byte = value;
            }
        }
        let good = vnet(&headers, Some(segment));
        let header = match which {
            0 => good,
            1 => Vnet { checksum: any.checksum, ..good },
            _ => any,
        };
        (packet, header)
    })
}

fn check(packet: &[u8], said: &Said) -> Result<(), TestCaseError> {
    let mut numbers_seen = HashSet::new();
    let mut payloads = said.payloads.clone();
    payloads.retain(|range| !range.is_empty());
    payloads.sort_by_key(|range| range.start);
    for pair in payloads.windows(2) {
        prop_assert!(pair[0].end <= pair[1].start, "bytes left twice");
    }
    prop_assert!(payloads.iter().map(ExactSizeIterator::len).sum::<usize>() <= packet.len() + wire::HEADER_BYTES);
    for datagram in &said.datagrams {
        prop_assert!(datagram.len() <= usize::from(MTU_BYTES) + wire::HEADER_BYTES, "{} bytes", datagram.len());
        prop_assert!(numbers_seen.insert(numbers(datagram)), "a number was used twice");
        let inner = &datagram[wire::HEADER_BYTES..];
        // Its length fields are right, for this is all that the receiver has.
        let length = match inner[0] >> 4 {
            4 => usize::from(inner[2]) << 8 | usize::from(inner[3]),
            _ => 40 + (usize::from(inner[4]) << 8 | usize::from(inner[5])),
        };
        prop_assert_eq!(length, inner.len());
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_from_the_tun_are_sent_once_or_dropped_and_counted(packet in any_packet(), header in any_vnet()) {
        let mut tunnel = Tunnel::up();
        let said = tunnel.send(&packet, header);
        check(&packet, &said)?;
        let dropped: u64 = tunnel.drops().iter().map(|(_, count)| count).sum();
        prop_assert_eq!(dropped, u64::from(said.datagrams.is_empty()));
    }

    #[test]
    fn bent_packets_are_sent_once_or_dropped_and_counted((packet, header) in bent()) {
        let mut tunnel = Tunnel::up();
        let said = tunnel.send(&packet, header);
        check(&packet, &said)?;
        let dropped: u64 = tunnel.drops().iter().map(|(_, count)| count).sum();
        prop_assert_eq!(dropped, u64::from(said.datagrams.is_empty()));
    }

    #[test]
    fn any_bytes_from_the_tun_may_wait_for_a_peer((packet, header) in bent(), other in any_packet(), any in any_vnet()) {
        let mut tunnel = Tunnel::down();
        tunnel.send(&packet, header);
        tunnel.send(&other, any);
        let arrived = tunnel.shake_hands();
        prop_assert!(arrived.iter().all(|(packet, _)| packet.len() <= usize::from(MTU_BYTES)));
    }

    #[test]
    fn any_virtio_net_header_is_read_or_refused(bytes: [u8; wire::VNET_HEADER_BYTES]) {
        if let Some(header) = Vnet::decode(&bytes) {
            prop_assert_eq!(Vnet::decode(&header.encode()), Some(header));
        }
    }
}
