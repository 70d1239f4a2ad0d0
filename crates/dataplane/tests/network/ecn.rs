//! Marks of congestion: what outer headers take from packets, and packets from outer headers (RFC 6040).

use crate::world::{ALICE, ALICE_INSIDE, BOB, BOB_INSIDE, Datagram, World, packet, peer, tunnel};
use adit_dataplane::{
    Ecn, Gso, GsoKind, Identity, PeerKeys, Probing, Secret, Security, TunnelConfig, Vnet, handshake::CAPABILITY_ECN,
    wire,
};
use std::{cell::RefCell, rc::Rc, time::Duration};

const SECOND: Duration = Duration::from_secs(1);
const FIELDS: [Ecn; 4] = [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce];
const ALICE_INSIDE_6: &str = "fd00::1";
const BOB_INSIDE_6: &str = "fd00::2";
/// The expedited forwarding of some flow.
const DSCP: u8 = 0xb8;

type Format = fn(Identity) -> Security;
const FORMATS: [Format; 3] = [|_| Security::Plain, Security::Noise, Security::WireGuard];

fn config(format: Format, own: u8, local: &str, remote: &str, inside: &[&str]) -> TunnelConfig {
    let secret = |number: u8| Secret::new([number; 32]);
    let security = format(Identity { private: secret(own), also: None });
    let keys = PeerKeys { public: secret(3 - own).public_key(), also: None, preshared: None };
    let mut other = peer(1, remote, inside);
    other.keys = (!matches!(security, Security::Plain)).then_some(keys);
    TunnelConfig { security, ..tunnel(local, own.into(), &[other]) }
}

/// Alice and Bob, whose tunnel is not up yet.
fn strangers(format: Format) -> World {
    World::new(vec![
        config(format, 1, ALICE, BOB, &["10.0.0.2/32", "fd00::2/128"]),
        config(format, 2, BOB, ALICE, &["10.0.0.1/32", "fd00::1/128"]),
    ])
}

fn friends(format: Format) -> World {
    let mut world = strangers(format);
    world.run(SECOND);
    assert!(world.established());
    world.sent.clear();
    world
}

fn class(field: Ecn) -> u8 {
    DSCP | field as u8
}

/// Packets of both families from Alice to Bob with this field.
fn packets(field: Ecn) -> [Vec<u8>; 2] {
    let mut four = packet(ALICE_INSIDE, BOB_INSIDE, b"four");
    four[1] = class(field);
    four[10..12].fill(0);
    let sum: u32 = four[..20].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    four[10..12].copy_from_slice(&checksum.to_be_bytes());
    let mut six = packet(ALICE_INSIDE_6, BOB_INSIDE_6, b"six");
    six[0] |= class(field) >> 4;
    six[1] |= class(field) << 4;
    [four, six]
}

/// The outer marks of what carried packets.
fn carried(world: &World) -> Vec<Ecn> {
    world.sent.iter().filter(|(_, datagram)| datagram.kind() == "data").map(|(_, datagram)| datagram.ecn).collect()
}

#[test]
fn outer_header_takes_the_field_of_the_packet_and_no_more_of_its_class() {
    for format in FORMATS {
        let mut world = friends(format);
        for field in FIELDS {
            world.sent.clear();
            packets(field).iter().for_each(|packet| world.send(0, packet));
            assert_eq!(carried(&world), [field, field]);
        }
    }
}

#[test]
fn packets_that_waited_for_the_session_take_theirs_along() {
    for format in FORMATS {
        let mut world = strangers(format);
        let waiting = FIELDS.map(|field| packets(field)[0].clone());
        waiting.iter().for_each(|packet| world.send(0, packet));
        world.run(SECOND);
        assert_eq!(world.nodes[1].received, waiting);
        let from_alice = world.sent.iter().filter(|(_, datagram)| datagram.from == ALICE.parse().unwrap());
        let marked: Vec<_> = from_alice.map(|(_, datagram)| datagram.ecn).filter(|ecn| *ecn != Ecn::NotEct).collect();
        assert_eq!(marked, FIELDS[1..]);
    }
}

#[test]
fn nothing_is_marked_for_a_peer_that_would_not_hand_it_on() {
    let mut world = strangers(FORMATS[0]);
    let held = Rc::new(RefCell::new(Vec::new()));
    let holds = Rc::clone(&held);
    world.lose = Box::new(move |datagram| {
        let has_offer = matches!(datagram.kind(), "hello" | "welcome");
        if has_offer {
            holds.borrow_mut().push(datagram.clone());
        }
        has_offer
    });
    // Both ends hear what an older release would say.
    for _ in 0..20 {
        world.run(SECOND / 20);
        for datagram in held.take() {
            let mut offer = datagram.bytes;
            let capabilities = offer[wire::HEADER_BYTES + 16..].first_chunk_mut::<4>().unwrap();
            *capabilities = (u32::from_be_bytes(*capabilities) & !CAPABILITY_ECN).to_be_bytes();
            world.inject(&datagram.from.to_string(), &datagram.to.to_string(), &offer);
        }
    }
    assert!(world.established());
    world.sent.clear();
    packets(Ecn::Ect0).iter().for_each(|packet| world.send(0, packet));
    assert_eq!(carried(&world), [Ecn::NotEct; 2]);
}

#[test]
fn every_segment_of_a_stream_has_the_field_of_the_whole() {
    for format in FORMATS {
        let mut world = friends(format);
        for field in FIELDS {
            world.sent.clear();
            let mut whole = packet(ALICE_INSIDE, BOB_INSIDE, &[0; 12 + 3000]);
            (whole[1], whole[9], whole[32]) = (class(field), 6, 0x50);
            let segments = Some(Gso { kind: GsoKind::Tcp4, header_bytes: 40, segment_bytes: 1000 });
            world.send_with(0, &whole, Vnet { checksum: Some((20, 16)), segments });
            assert_eq!(carried(&world), [field; 3]);
        }
    }
}

#[test]
fn datagrams_that_are_no_packets_have_no_mark() {
    for format in FORMATS {
        let mut world = strangers(format);
        world.run(SECOND);
        // Also right after a packet that had one.
        packets(Ecn::Ect0).iter().for_each(|packet| world.send(0, packet));
        world.run(120 * SECOND);
        let mut others: Vec<_> = world.sent.iter().map(|(_, datagram)| datagram.ecn).collect();
        others.retain(|ecn| *ecn == Ecn::NotEct);
        assert_eq!(world.sent.len(), others.len() + 2, "{:?}", world.sent_kinds());
        assert!(others.len() >= 3, "{:?}", world.sent_kinds());
    }
}

#[test]
fn packet_has_behind_the_tunnel_what_the_table_of_rfc_6040_says() {
    // Figure 4, a row for each inner field, in the order of `FIELDS`.
    let table = [
        [Some(Ecn::NotEct), Some(Ecn::NotEct), Some(Ecn::NotEct), None],
        [Some(Ecn::Ect0), Some(Ecn::Ect0), Some(Ecn::Ect1), Some(Ecn::Ce)],
        [Some(Ecn::Ect1), Some(Ecn::Ect1), Some(Ecn::Ect1), Some(Ecn::Ce)],
        [Some(Ecn::Ce), Some(Ecn::Ce), Some(Ecn::Ce), Some(Ecn::Ce)],
    ];
    for format in FORMATS {
        let mut world = friends(format);
        for (inner, row) in FIELDS.into_iter().zip(table) {
            for (outer, expected) in FIELDS.into_iter().zip(row) {
                world.nodes[1].received.clear();
                world.mark = Box::new(move |_| outer);
                let before = world.stats(1);
                packets(inner).iter().for_each(|packet| world.send(0, packet));
                world.run(SECOND);
                let expected = expected.map(|field| packets(field).to_vec()).unwrap_or_default();
                assert_eq!(world.nodes[1].received, expected, "{inner:?} behind {outer:?}");
                let after = world.stats(1);
                let passed = after.peers[0].rx_packets - before.peers[0].rx_packets;
                assert_eq!(passed, expected.len() as u64, "what is dropped is not counted as received");
            }
        }
        assert_eq!(world.drops(1), [("congestion_marked", 2)]);
    }
}

#[test]
fn mark_on_a_datagram_that_is_no_packet_changes_nothing() {
    for format in FORMATS {
        let mut configs = vec![
            config(format, 1, ALICE, BOB, &["10.0.0.2/32", "fd00::2/128"]),
            config(format, 2, BOB, ALICE, &["10.0.0.1/32", "fd00::1/128"]),
        ];
        let has_probes = !matches!(configs[0].security, Security::WireGuard(_));
        configs.iter_mut().for_each(|config| {
            config.probing = Probing { interval: Some(SECOND), ..Probing::default() };
            config.peers[0].keepalive = Some(3 * SECOND);
        });
        let mut world = World::new(configs);
        world.mark = Box::new(|_: &Datagram| Ecn::Ce);
        world.run(30 * SECOND);
        assert!(world.established() && world.sent.len() > 10, "{:?}", world.sent_kinds());
        assert!((0..2).all(|node| world.drops(node).is_empty()));
        if has_probes {
            let trips = world.stats(0).peers[0].health.rtt.is_some();
            assert!(trips, "{:?}", world.sent_kinds());
        }
    }
}
