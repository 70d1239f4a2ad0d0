use crate::world::{ALICE, BOB, Datagram, World, peer, to_alice, to_bob, tunnel};
use adit_dataplane::{
    Checksum,
    wire::{FLAG_PARTIAL_CHECKSUM, Header, Type},
};
use proptest::prelude::*;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const EVE: &str = "203.0.113.66:6090";

/// Eve sends one datagram to Alice; exactly this is counted, nothing is delivered, the session lives.
fn is_dropped_as(world: &mut World, from: &str, bytes: &[u8], name: &'static str) {
    let (received, before) = (world.nodes[0].received.len(), world.drops(0));
    world.inject(from, ALICE, bytes);
    world.run(Duration::from_millis(50));
    let mut expected = before;
    match expected.iter_mut().find(|(known, _)| *known == name) {
        Some((_, count)) => *count += 1,
        None => expected.push((name, 1)),
    }
    let mut drops = world.drops(0);
    drops.sort_unstable();
    expected.sort_unstable();
    assert_eq!(drops, expected);
    assert_eq!(world.nodes[0].received.len(), received);
    works(world);
}

fn works(world: &mut World) {
    for (from, to, packet) in [(0, 1, to_bob(b"works")), (1, 0, to_alice(b"works"))] {
        let before = world.nodes[to].received.len();
        world.send(from, &packet);
        world.run(Duration::from_millis(15));
        assert_eq!(world.nodes[to].received[before..], [packet]);
    }
}

/// A DATA datagram that Bob sent to Alice.
fn bobs_data(world: &mut World) -> Datagram {
    world.send(1, &to_alice(b"seen by Eve"));
    world.run(Duration::from_millis(15));
    let datagram = world.last_sent("data");
    assert_eq!(datagram.to, ALICE.parse().unwrap());
    datagram
}

#[test]
fn wrong_source_address_or_port() {
    let mut world = World::friends();
    let data = bobs_data(&mut world);
    is_dropped_as(&mut world, EVE, &data.bytes, "wrong_source");
    is_dropped_as(&mut world, "192.0.2.2:6091", &data.bytes, "wrong_source");
    is_dropped_as(&mut world, "[2001:db8::2]:6090", &data.bytes, "wrong_source");
}

#[test]
fn strangers_get_no_answer() {
    let mut world = World::friends();
    let mut unknown_index = bobs_data(&mut world).bytes;
    unknown_index[4] ^= 1;
    let mut restarted = World::strangers();
    restarted.run(SECOND);
    let hello = restarted.last_sent("hello").bytes;
    world.sent.clear();
    for bytes in [&unknown_index, &hello] {
        world.inject(EVE, ALICE, bytes);
        world.inject("192.0.2.2:1", ALICE, bytes);
    }
    world.run(SECOND);
    assert_eq!(world.sent, []);
    assert_eq!(world.drops(0), [("wrong_source", 4)]);
}

#[test]
fn wrong_index_is_answered_by_unknown() {
    let mut world = World::friends();
    let mut data = bobs_data(&mut world);
    data.bytes[4] ^= 1;
    world.sent.clear();
    is_dropped_as(&mut world, BOB, &data.bytes, "unknown_index");
    let unknown = world.last_sent("unknown");
    assert_eq!((unknown.bytes.len(), unknown.index()), (16, data.index()));
    // Bob sends under another index, so he does not believe it.
    assert_eq!(world.drops(1), [("unexpected_answer", 1)]);
}

#[test]
fn runts_and_zero_checksums() {
    let mut world = World::friends();
    let data = bobs_data(&mut world);
    is_dropped_as(&mut world, BOB, &[], "runt");
    is_dropped_as(&mut world, BOB, &data.bytes[..15], "runt");
    is_dropped_as(&mut world, BOB, &data.bytes[..2], "runt");
    is_dropped_as(&mut world, BOB, &data.bytes[..1], "zero_checksum");
    let handshake = Header::new(Type::Handshake, 0).encode();
    is_dropped_as(&mut world, BOB, &handshake, "runt");
}

#[test]
fn unknown_versions_and_types() {
    let mut world = World::friends();
    let data = bobs_data(&mut world).bytes;
    let first_byte = |byte| [&[byte], &data[1..]].concat();
    is_dropped_as(&mut world, BOB, &first_byte(0x00), "unknown_version");
    is_dropped_as(&mut world, BOB, &first_byte(0x02), "unknown_version");
    is_dropped_as(&mut world, BOB, &first_byte(0x61), "unknown_type");
    is_dropped_as(&mut world, BOB, &first_byte(0x11), "unknown_type");
    is_dropped_as(&mut world, BOB, &first_byte(0x21), "runt");
    is_dropped_as(&mut world, BOB, &first_byte(0x31), "runt");
    let mut handshake = Header::new(Type::Handshake, 0).encode().to_vec();
    handshake.extend([9; 48]);
    let mut ours = handshake.clone();
    ours[4..8].copy_from_slice(&data[4..8]);
    is_dropped_as(&mut world, BOB, &ours, "unknown_type");
}

#[test]
fn bits_without_a_use_are_ignored() {
    let mut world = World::friends();
    let mut data = bobs_data(&mut world).bytes;
    data[1] |= 0xf6;
    world.inject(BOB, ALICE, &data);
    world.run(SECOND);
    assert_eq!(world.nodes[0].received, [to_alice(b"seen by Eve"), to_alice(b"seen by Eve")]);
}

#[test]
fn spoofed_inner_source() {
    let mut world = World::friends();
    let mut data = bobs_data(&mut world).bytes;
    data[16 + 15] = 9;
    is_dropped_as(&mut world, BOB, &data, "source_not_allowed");
}

#[test]
fn inner_packets_whose_lengths_lie() {
    let mut world = World::friends();
    let data = bobs_data(&mut world).bytes;
    is_dropped_as(&mut world, BOB, &data[..data.len() - 1], "malformed_inner");
    is_dropped_as(&mut world, BOB, &[&data[..], b"x"].concat(), "malformed_inner");
    is_dropped_as(&mut world, BOB, &data[..17], "malformed_inner");
}

#[test]
fn partial_checksum_is_left_to_the_kernel_or_refused() {
    let mut world = World::friends();
    let mut data = bobs_data(&mut world).bytes;
    data[1] |= FLAG_PARTIAL_CHECKSUM;
    let received = world.nodes[0].received.len();
    world.inject(BOB, ALICE, &data);
    world.run(SECOND);
    assert_eq!(world.nodes[0].received[received], data[16..]);
    assert_eq!(world.nodes[0].checksums[received - 1..], [Checksum::Complete, Checksum::Partial]);
    data[16 + 9] = 1;
    is_dropped_as(&mut world, BOB, &data, "bad_checksum_offload");
}

#[test]
fn cookies_in_a_row_are_answered_once() {
    let mut world = World::strangers();
    world.lose = Box::new(|datagram| datagram.has_cookie() || datagram.kind() == "welcome");
    world.run(Duration::from_millis(30));
    let cookie = world.last_sent("cookie");
    let alices = |world: &World| world.sent.iter().filter(|(_, d)| d.from == cookie.to && d.kind() == "hello").count();
    assert_eq!(alices(&world), 2);
    for _ in 0..100 {
        world.inject(&cookie.from.to_string(), &cookie.to.to_string(), &cookie.bytes);
    }
    world.run(Duration::from_millis(100));
    assert_eq!(alices(&world), 2);
}

/// The HELLO with which Bob's session was made, from a world where only Bob begins.
fn bob_began() -> (World, Datagram) {
    let mut world = World::strangers();
    let alice = ALICE.parse().unwrap();
    world.lose = Box::new(move |datagram| datagram.from == alice && datagram.kind() == "hello");
    world.run(SECOND);
    assert!(world.established());
    world.lose = Box::new(|_| false);
    let hello = world.last_sent("hello");
    let hello = if hello.from == alice {
        let mut sent = world.sent.iter().rev().map(|(_, datagram)| datagram);
        sent.find(|datagram| datagram.has_cookie() && datagram.from != alice).unwrap().clone()
    } else {
        hello
    };
    assert!(hello.has_cookie());
    (world, hello)
}

#[test]
fn bad_cookie() {
    let (mut world, mut hello) = bob_began();
    hello.bytes[63] ^= 1;
    is_dropped_as(&mut world, BOB, &hello.bytes, "bad_cookie");
    let cookie = world.last_sent("cookie");
    assert_eq!(cookie.to, BOB.parse().unwrap());
}

#[test]
fn replayed_hello() {
    let (mut world, hello) = bob_began();
    is_dropped_as(&mut world, BOB, &hello.bytes, "replayed_hello");
    world.run(SECOND * 100);
    is_dropped_as(&mut world, BOB, &hello.bytes, "replayed_hello");
    world.run(SECOND * 200);
    is_dropped_as(&mut world, BOB, &hello.bytes, "bad_cookie");
    assert_eq!(world.stats(0).peers[0].handshakes, 1);
}

#[test]
fn hello_of_an_earlier_incarnation() {
    let (mut world, hello) = bob_began();
    world.restart(1, tunnel(BOB, 201, &[peer(1, ALICE, &["10.0.0.1/32"])]));
    world.run(SECOND);
    assert_eq!(world.stats(0).peers[0].remote_epoch, Some(201));
    works(&mut world);
    is_dropped_as(&mut world, BOB, &hello.bytes, "stale_epoch");
    // Replayed into silence it is taken, and the next packet puts things right.
    world.run(SECOND * 10);
    world.inject(BOB, ALICE, &hello.bytes);
    world.run(SECOND);
    assert_eq!(world.stats(0).peers[0].remote_epoch, Some(200));
    world.send(0, &to_bob(b"lost"));
    world.run(SECOND);
    assert_eq!(world.stats(0).peers[0].remote_epoch, Some(201));
    works(&mut world);
}

#[test]
fn answers_to_nothing() {
    let (mut world, _) = bob_began();
    let welcome = world.sent.iter().rev().map(|(_, d)| d).find(|d| d.kind() == "welcome").unwrap().clone();
    let mut forged = welcome.bytes;
    let alices_index = bobs_data(&mut world).bytes[4..8].to_vec();
    forged[4..8].copy_from_slice(&alices_index);
    is_dropped_as(&mut world, BOB, &forged, "unexpected_answer");
    forged[16] = 2;
    is_dropped_as(&mut world, BOB, &forged, "unexpected_answer");
    forged[4] ^= 1;
    is_dropped_as(&mut world, BOB, &forged, "unknown_index");
    is_dropped_as(&mut world, BOB, &Header::new(Type::Unknown, 5).encode(), "unexpected_answer");
    is_dropped_as(&mut world, EVE, &Header::new(Type::Unknown, 5).encode(), "wrong_source");
}

#[test]
fn hello_of_a_version_that_is_not_spoken() {
    let (mut world, mut hello) = bob_began();
    hello.bytes[17..19].copy_from_slice(&[2, 9]);
    is_dropped_as(&mut world, BOB, &hello.bytes, "unknown_version");
    hello.bytes[17..19].copy_from_slice(&[9, 1]);
    is_dropped_as(&mut world, BOB, &hello.bytes, "unknown_version");
}

#[test]
fn unknown_is_rate_limited() {
    let mut world = World::friends();
    let mut data = bobs_data(&mut world);
    data.bytes[4] ^= 1;
    let unknowns = |world: &World| world.sent_kinds().iter().filter(|kind| **kind == "unknown").count();
    for _ in 0..1000 {
        world.inject(BOB, ALICE, &data.bytes);
    }
    world.run(Duration::from_millis(50));
    assert_eq!(unknowns(&world), 10);
    for _ in 0..100 {
        world.inject(BOB, ALICE, &data.bytes);
        world.run(Duration::from_millis(50));
    }
    assert!((58..=62).contains(&unknowns(&world)), "{}", unknowns(&world));
    let limited = world.drops(0).iter().find(|(name, _)| *name == "rate_limited").unwrap().1;
    assert_eq!(limited as usize, 1100 - unknowns(&world));
    works(&mut world);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn no_datagram_breaks_the_core(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        shape in 0_u8..4,
    ) {
        let mut world = World::strangers();
        world.run(Duration::from_millis(15));
        let index = world.last_sent("cookie").bytes[4..8].to_vec();
        if shape > 0 && bytes.len() > 24 {
            bytes[0] = [0x01, 0x41, 0x51][usize::from(shape) - 1];
            bytes[4..8].copy_from_slice(&index);
            bytes[16] = if shape == 1 { 0x45 } else { bytes[16] % 4 };
        }
        world.inject(BOB, ALICE, &bytes);
        world.inject(ALICE, BOB, &bytes);
        world.run(SECOND);
        works(&mut world);
    }
}
