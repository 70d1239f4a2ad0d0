//! Sealed tunnels, in Adit's format and in WireGuard's.

use crate::world::{ALICE, BOB, Datagram, World, peer, to_alice, to_bob, tunnel};
use adit_dataplane::{Identity, PeerConfig, PeerKeys, Secret, Security, TunnelConfig};
use blake2::{
    Blake2s256, Blake2sMac, Digest,
    digest::{FixedOutput, KeyInit, Mac, typenum::U16},
};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const ROUND_TRIP: Duration = Duration::from_millis(21);
const ALICES: u8 = 1;
const BOBS: u8 = 2;
const EVES: u8 = 3;
const FORMATS: [fn(Identity) -> Security; 2] = [Security::Noise, Security::WireGuard];

fn secret(number: u8) -> Secret {
    Secret::new([number; 32])
}

fn identity(number: u8) -> Identity {
    Identity { private: secret(number), also: None }
}

fn keys(number: u8) -> PeerKeys {
    PeerKeys { public: secret(number).public_key(), also: None, preshared: None }
}

fn alice_of(format: fn(Identity) -> Security, epoch: u64) -> TunnelConfig {
    let bob = PeerConfig { keys: Some(keys(BOBS)), ..peer(1, BOB, &["10.0.0.2/32"]) };
    TunnelConfig { security: format(identity(ALICES)), ..tunnel(ALICE, epoch, &[bob]) }
}

fn bob_of(format: fn(Identity) -> Security, epoch: u64) -> TunnelConfig {
    let alice = PeerConfig { keys: Some(keys(ALICES)), ..peer(1, ALICE, &["10.0.0.1/32"]) };
    TunnelConfig { security: format(identity(BOBS)), ..tunnel(BOB, epoch, &[alice]) }
}

/// Bob knows nobody's address.
fn waiting_bob(format: fn(Identity) -> Security) -> TunnelConfig {
    let mut bob = bob_of(format, 200);
    bob.peers[0].endpoint = None;
    bob
}

/// Alice begins, Bob answers; nothing is in flight and nothing was counted so far.
fn friends(format: fn(Identity) -> Security) -> World {
    let mut world = World::new(vec![alice_of(format, 100), waiting_bob(format)]);
    world.run(SECOND);
    assert!(world.established(), "{:?}", world.sent_kinds());
    assert_eq!((world.drops(0), world.drops(1)), (vec![], vec![]));
    world.sent.clear();
    world
}

fn packets_pass(world: &mut World) {
    for node in &mut world.nodes {
        node.received.clear();
    }
    world.send(0, &to_bob(b"ping"));
    world.send(1, &to_alice(b"pong"));
    world.run(ROUND_TRIP);
    assert_eq!(world.nodes[1].received, [to_bob(b"ping")], "{:?}", world.drops(1));
    assert_eq!(world.nodes[0].received, [to_alice(b"pong")], "{:?}", world.drops(0));
}

#[test]
fn handshake_takes_one_round_trip_and_packets_pass_both_ways() {
    for format in FORMATS {
        let mut world = World::new(vec![alice_of(format, 100), waiting_bob(format)]);
        world.run(ROUND_TRIP);
        assert_eq!(world.sent_kinds(), ["initiation", "answer", "data"]);
        world.run(ROUND_TRIP);
        packets_pass(&mut world);
        let stats = world.stats(1);
        let bobs = &stats.peers[0];
        assert_eq!((bobs.endpoint, bobs.handshakes), (Some(ALICE.parse().unwrap()), 1));
        assert_eq!((bobs.rx_packets, bobs.tx_packets), (1, 1));
        assert!(bobs.last_handshake_age.is_some());
    }
}

#[test]
fn both_may_begin_at_once() {
    for format in FORMATS {
        let mut world = World::new(vec![alice_of(format, 100), bob_of(format, 200)]);
        world.run(SECOND);
        assert!(world.established());
        packets_pass(&mut world);
        world.run(SECOND * 5);
        packets_pass(&mut world);
        assert_eq!((world.drops(0), world.drops(1)), (vec![], vec![]));
    }
}

#[test]
fn each_end_learns_what_the_other_offers() {
    let world = friends(Security::Noise);
    let (alice, bob) = (world.stats(0), world.stats(1));
    assert_eq!((alice.peers[0].remote_epoch, bob.peers[0].remote_epoch), (Some(200), Some(100)));
    assert_eq!(alice.peers[0].remote_mtu_bytes, Some(1456));
    assert_eq!(alice.peers[0].cipher, bob.peers[0].cipher);
    assert_eq!(friends(Security::WireGuard).stats(0).peers[0].cipher, Some("chacha20-poly1305"));
}

#[test]
fn no_inner_byte_is_on_the_wire() {
    for format in FORMATS {
        let mut world = World::new(vec![alice_of(format, 100), waiting_bob(format)]);
        // Also what is sent before the handshake.
        world.send(0, &to_bob(b"a long and telling secret"));
        world.run(SECOND);
        world.send(1, &to_alice(b"a long and telling answer"));
        world.run(SECOND);
        assert_eq!((world.nodes[0].received.len(), world.nodes[1].received.len()), (1, 1));
        for (_, datagram) in &world.sent {
            for telling in [&b"telling"[..], &[10, 0, 0, 1], &[10, 0, 0, 2]] {
                assert!(!datagram.bytes.windows(telling.len()).any(|bytes| bytes == telling));
            }
        }
    }
}

#[test]
fn packets_that_wait_for_the_handshake_arrive_in_order() {
    for format in FORMATS {
        let mut world = World::new(vec![alice_of(format, 100), waiting_bob(format)]);
        let packets: Vec<_> = (0..10).map(|number| to_bob(&[number; 9])).collect();
        packets.iter().for_each(|packet| world.send(0, packet));
        world.run(SECOND);
        assert_eq!(world.nodes[1].received, packets);
    }
}

#[test]
fn packets_wait_also_for_a_peer_whose_address_is_not_known_yet() {
    for format in FORMATS {
        let mut world = World::new(vec![alice_of(format, 100), waiting_bob(format)]);
        let packets: Vec<_> = (0..10).map(|number| to_alice(&[number; 9])).collect();
        packets.iter().for_each(|packet| world.send(1, packet));
        world.run(SECOND);
        assert_eq!(world.nodes[0].received, packets);
    }
}

/// What one datagram that Eve sends to Bob does: what he counts for it.
fn provoked(world: &mut World, bytes: &[u8]) -> Vec<(&'static str, u64)> {
    let (before, received) = (world.stats(1), world.nodes[1].received.len());
    let sent = world.sent.len();
    world.inject("203.0.113.9:9", BOB, bytes);
    world.run(ROUND_TRIP);
    let after = world.stats(1);
    assert_eq!(world.nodes[1].received.len(), received);
    assert_eq!(world.sent.len(), sent, "{:?}", world.sent_kinds());
    assert_eq!(
        (after.peers[0].endpoint, after.peers[0].rx_packets),
        (before.peers[0].endpoint, before.peers[0].rx_packets)
    );
    assert_eq!((after.peers[0].handshakes, after.peers[0].established), (before.peers[0].handshakes, true));
    let counted =
        |stats: &[(&'static str, u64)], name: &str| stats.iter().find(|(n, _)| *n == name).map_or(0, |(_, c)| *c);
    let changed = after.drops.iter().map(|(name, count)| (*name, count - counted(&before.drops, name)));
    changed.filter(|(_, count)| *count > 0).collect()
}

#[test]
fn what_eve_does_to_packets_is_counted_by_name_and_does_nothing_else() {
    for format in FORMATS {
        let mut world = friends(format);
        world.send(0, &to_bob(b"hello"));
        world.run(ROUND_TRIP);
        let genuine = world.last_sent("data").bytes;
        assert_eq!(provoked(&mut world, &genuine), [("replayed", 1)]);
        let is_noise = genuine[0] != 4;
        for at in 16..genuine.len() {
            let mut flipped = genuine.clone();
            flipped[at] ^= 0x10;
            // A number that has not been there: else it would be known as a repetition.
            flipped[if is_noise { 11 } else { 8 }] ^= 0x40;
            assert_eq!(provoked(&mut world, &flipped), [("bad_tag", 1)], "{at}");
        }
        let mut ahead = genuine.clone();
        ahead[if is_noise { 10 } else { 9 }] ^= 0x40;
        assert_eq!(provoked(&mut world, &ahead), [("bad_tag", 1)]);
        for length in 16..genuine.len() {
            let truncated = &ahead[..length];
            assert_eq!(provoked(&mut world, truncated), [("bad_tag", 1)], "{length}");
        }
        assert_eq!(provoked(&mut world, &genuine[..7]), [("runt", 1)]);
        let mut stranger = genuine.clone();
        stranger[6] ^= 1;
        assert_eq!(provoked(&mut world, &stranger), [("unknown_index", 1)]);
        packets_pass(&mut world);
    }
}

#[test]
fn every_bit_of_the_header_is_authenticated() {
    let mut world = friends(Security::Noise);
    world.send(0, &to_bob(b"hello"));
    world.run(ROUND_TRIP);
    let genuine = world.last_sent("data").bytes;
    for (at, bit) in (1..16).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        let mut flipped = genuine.clone();
        flipped[at] ^= 1 << bit;
        let expected = if (4..8).contains(&at) { "unknown_index" } else { "bad_tag" };
        // Its number has been there, unless that is what was changed (to another one than that of the packet before it).
        let is_other = (8..12).contains(&at) && (at, bit) != (11, 0);
        let expected = if is_other || (4..8).contains(&at) { expected } else { "replayed" };
        assert_eq!(provoked(&mut world, &flipped), [(expected, 1)], "byte {at}, bit {bit}");
    }
}

#[test]
fn foreign_keys_are_told_apart() {
    for format in FORMATS {
        let handshake = |config: TunnelConfig| {
            let mut eve = World::new(vec![config]);
            eve.run(SECOND / 10);
            eve.last_sent("initiation").bytes
        };
        let mut world = friends(format);
        // Eve knows Bob's key, but is nobody to him.
        let eve = TunnelConfig { security: format(identity(EVES)), ..alice_of(format, 300) };
        assert_eq!(provoked(&mut world, &handshake(eve)), [("unknown_key", 1)]);
        // Alice means somebody else.
        let mut astray = alice_of(format, 300);
        astray.peers[0].keys = Some(keys(EVES));
        assert_eq!(provoked(&mut world, &handshake(astray)), [("bad_mac", 1)]);
        // A handshake of Alice's with its payload changed.
        let mut damaged = handshake(alice_of(format, 300));
        let end = damaged.len();
        damaged[end - 40] ^= 1;
        assert_eq!(provoked(&mut world, &damaged), [("bad_mac", 1)]);
        packets_pass(&mut world);
    }
}

#[test]
fn old_handshake_is_known_as_such() {
    for format in FORMATS {
        let mut world = World::new(vec![alice_of(format, 100), waiting_bob(format)]);
        world.run(SECOND);
        let old = world.last_sent("initiation").bytes;
        assert_eq!(provoked(&mut world, &old), [("replayed_hello", 1)]);
        packets_pass(&mut world);
    }
}

#[test]
fn preshared_keys_must_agree() {
    for format in FORMATS {
        let (mut alice, mut bob) = (alice_of(format, 100), waiting_bob(format));
        alice.peers[0].keys = Some(PeerKeys { preshared: Some(secret(7)), ..keys(BOBS) });
        bob.peers[0].keys = Some(PeerKeys { preshared: Some(secret(8)), ..keys(ALICES) });
        let mut world = World::new(vec![alice.clone(), bob.clone()]);
        world.run(SECOND);
        assert!(!world.established());
        assert!(world.drops(0).iter().any(|(name, _)| *name == "bad_handshake"), "{:?}", world.drops(0));
        bob.peers[0].keys = Some(PeerKeys { preshared: Some(secret(7)), ..keys(ALICES) });
        let mut world = World::new(vec![alice, bob]);
        world.run(SECOND);
        packets_pass(&mut world);
    }
}

/// Packets every 10 ms both ways for this long: all arrive, in order.
fn lossless_for(world: &mut World, seconds: u32, mut meanwhile: impl FnMut(&mut World, u32)) {
    for node in &mut world.nodes {
        node.received.clear();
    }
    let (mut to_bobs, mut to_alices) = (Vec::new(), Vec::new());
    for number in 0..seconds * 100 {
        to_bobs.push(to_bob(&number.to_be_bytes()));
        to_alices.push(to_alice(&number.to_be_bytes()));
        world.send(0, &to_bobs[number as usize]);
        world.send(1, &to_alices[number as usize]);
        world.run(Duration::from_millis(10));
        meanwhile(world, number);
    }
    world.run(ROUND_TRIP);
    assert_eq!(world.nodes[1].received.len(), to_bobs.len(), "{:?} {:?}", world.drops(0), world.drops(1));
    assert!(world.nodes[1].received == to_bobs && world.nodes[0].received == to_alices);
}

#[test]
fn sessions_are_renewed_without_a_lost_packet() {
    for format in FORMATS {
        let mut world = friends(format);
        lossless_for(&mut world, 400, |_, _| {});
        let (alice, bob) = (world.stats(0), world.stats(1));
        assert_eq!((alice.peers[0].handshakes, bob.peers[0].handshakes), (4, 4));
        assert_eq!((alice.drops, bob.drops), (vec![], vec![]));
    }
}

#[test]
fn whoever_only_receives_renews_the_session_in_time() {
    for format in FORMATS {
        let mut world = friends(format);
        for number in 0..400_u32 {
            world.send(1, &to_alice(&number.to_be_bytes()));
            world.run(SECOND);
        }
        assert_eq!(world.nodes[0].received.len(), 400);
    }
}

#[test]
fn keepalives_keep_a_session_that_carries_nothing_else() {
    for format in FORMATS {
        let mut alice = alice_of(format, 100);
        alice.peers[0].keepalive = Some(SECOND * 20);
        let mut world = World::new(vec![alice, waiting_bob(format)]);
        world.run(SECOND);
        for minute in 1..20 {
            world.run(SECOND * 60);
            let handshakes = world.stats(1).peers[0].handshakes;
            // One each two minutes and the twenty seconds until the next keepalive, at the latest.
            assert!(handshakes > minute * 60 / 140, "{handshakes} in {minute} minutes");
        }
        assert_eq!((world.drops(0), world.drops(1)), (vec![], vec![]));
    }
}

#[test]
fn idle_session_ends_and_the_next_packet_begins_another() {
    for format in FORMATS {
        let mut world = friends(format);
        world.run(SECOND * 600);
        assert_eq!(world.sent_kinds(), [""; 0]);
        // Nothing waits for anything.
        assert!(world.nodes.iter().all(|node| node.core.next_wake().is_none()));
        world.send(0, &to_bob(b"anybody there?"));
        world.run(ROUND_TRIP * 3);
        assert_eq!(world.nodes[1].received, [to_bob(b"anybody there?")]);
        packets_pass(&mut world);
    }
}

#[test]
fn what_is_received_is_acknowledged_after_10_seconds_of_silence_once() {
    for format in FORMATS {
        let mut world = friends(format);
        world.send(0, &to_bob(b"one way"));
        world.run(SECOND * 100);
        let (sent, datagram) = world.sent.last().unwrap().clone();
        assert_eq!((world.sent.len(), datagram.from), (2, BOB.parse().unwrap()));
        assert!(sent >= SECOND * 11 && sent < SECOND * 12, "{sent:?}");
    }
}

#[test]
fn restarted_peer_is_found_again() {
    for format in FORMATS {
        // Alice begins anew by herself; Bob, who waits, is found by her next packets.
        let mut world = friends(format);
        world.restart(0, alice_of(format, 101));
        world.run(SECOND);
        packets_pass(&mut world);
        world.restart(1, waiting_bob(format));
        for _ in 0..20 {
            world.send(0, &to_bob(b"ping"));
            world.run(SECOND);
        }
        packets_pass(&mut world);
    }
}

#[test]
fn adits_own_format_notices_a_restarted_peer_at_once() {
    let mut world = friends(Security::Noise);
    world.run(SECOND * 2);
    world.restart(1, bob_of(Security::Noise, 201));
    world.lose = Box::new(|datagram| datagram.kind() == "initiation" && datagram.from == BOB.parse().unwrap());
    world.send(0, &to_bob(b"lost"));
    world.run(ROUND_TRIP * 2);
    packets_pass(&mut world);
}

#[test]
fn peer_may_move() {
    for format in FORMATS {
        let mut world = friends(format);
        let moved = "198.51.100.7:4242";
        world.nodes[0].address = moved.parse().unwrap();
        world.send(0, &to_bob(b"from elsewhere"));
        world.run(ROUND_TRIP);
        assert_eq!(world.nodes[1].received, [to_bob(b"from elsewhere")]);
        assert_eq!(world.stats(1).peers[0].endpoint, Some(moved.parse().unwrap()));
        packets_pass(&mut world);
    }
}

#[test]
fn old_packets_from_elsewhere_move_nobody() {
    for format in FORMATS {
        let mut world = friends(format);
        // Eve holds one back and lets it go from elsewhere, when newer ones have passed.
        world.lose = Box::new(|_| true);
        world.send(0, &to_bob(b"held back"));
        let held: Datagram = world.last_sent("data");
        world.lose = Box::new(|_| false);
        packets_pass(&mut world);
        world.inject("203.0.113.9:9", BOB, &held.bytes);
        world.run(ROUND_TRIP);
        assert_eq!(world.nodes[1].received.last(), Some(&to_bob(b"held back")));
        assert_eq!(world.stats(1).peers[0].endpoint, Some(ALICE.parse().unwrap()));
    }
}

#[test]
fn peer_that_is_heard_from_nowhere_any_more_is_looked_for_where_it_is_configured() {
    for format in FORMATS {
        let mut world = World::new(vec![alice_of(format, 100), bob_of(format, 200)]);
        world.run(SECOND);
        // Both ends move, and so are known elsewhere; then both are back without a word.
        let elsewhere = ["198.51.100.7:1", "198.51.100.8:1"].map(|address| address.parse().unwrap());
        for (node, address) in elsewhere.into_iter().enumerate() {
            world.nodes[node].address = address;
            let packet = if node == 0 { to_bob(b"moved") } else { to_alice(b"moved") };
            world.send(node, &packet);
            world.run(ROUND_TRIP);
        }
        assert_eq!(world.stats(0).peers[0].endpoint, Some(elsewhere[1]));
        assert_eq!(world.stats(1).peers[0].endpoint, Some(elsewhere[0]));
        for (node, address) in [ALICE, BOB].into_iter().enumerate() {
            world.nodes[node].address = address.parse().unwrap();
        }
        for _ in 0..40 {
            world.send(0, &to_bob(b"where are you?"));
            world.run(SECOND);
        }
        packets_pass(&mut world);
        assert_eq!(world.stats(0).peers[0].endpoint, Some(BOB.parse().unwrap()));
    }
}

#[test]
fn handshake_completes_however_long_the_way_is_while_packets_wait() {
    for format in FORMATS {
        let mut world = World::new(vec![alice_of(format, 100), waiting_bob(format)]);
        world.latency = Duration::from_millis(1200);
        for _ in 0..100 {
            world.send(0, &to_bob(b"ping"));
            world.run(SECOND / 2);
        }
        assert!(world.established());
    }
}

/// What anybody can compute who knows the receiver's public key (WireGuard, section 5.4.4).
fn mac1(message: &[u8], receiver: &[u8]) -> [u8; 16] {
    let key = Blake2s256::new().chain_update(b"mac1----").chain_update(receiver).finalize();
    let mac = <Blake2sMac<U16> as KeyInit>::new_from_slice(&key).unwrap();
    Mac::chain_update(mac, message).finalize_fixed().into()
}

#[test]
fn forged_answers_are_worked_out_a_few_times_only() {
    for format in FORMATS {
        let mut world = World::new(vec![alice_of(format, 100), waiting_bob(format)]);
        // Another Bob, who has another key, answers in his place.
        let mut answer = {
            let mut other = World::new(vec![alice_of(format, 100), waiting_bob(format)]);
            other.run(SECOND);
            other.last_sent("answer").bytes
        };
        world.lose = Box::new(|datagram| datagram.kind() == "answer");
        world.run(SECOND * 3 / 2);
        let pending = world.last_sent("initiation").bytes;
        let (own, others) = if pending[0] == 1 { (4..8, 8..12) } else { (20..24, 4..8) };
        answer[others].copy_from_slice(&pending[own]);
        let covered = answer.len() - 32;
        let code = mac1(&answer[..covered], &secret(ALICES).public_key());
        answer[covered..covered + 16].copy_from_slice(&code);
        for _ in 0..30 {
            world.inject(BOB, ALICE, &answer);
        }
        world.run(ROUND_TRIP);
        assert_eq!(world.drops(0), [("bad_handshake", 8), ("rate_limited", 22)]);
    }
}

#[test]
fn flood_of_handshakes_costs_a_cookie_and_locks_nobody_out() {
    for format in FORMATS {
        let mut world = World::new(vec![alice_of(format, 100), waiting_bob(format)]);
        let mut floods: Vec<Vec<u8>> = Vec::new();
        for epoch in 0..60 {
            let eve = TunnelConfig { security: format(identity(EVES)), ..alice_of(format, epoch) };
            let mut eve = World::new(vec![eve]);
            eve.run(SECOND / 10);
            floods.push(eve.last_sent("initiation").bytes);
        }
        for flood in &floods {
            world.inject("203.0.113.9:9", BOB, flood);
        }
        world.run(Duration::from_millis(100));
        assert!(world.sent_kinds().contains(&"sealed cookie"));
        assert!(
            world.drops(1).iter().any(|(name, count)| *name == "rate_limited" && *count > 30),
            "{:?}",
            world.drops(1)
        );
        // Alice's own first message was among them, maybe; she proves her address and is let in while the flood goes on.
        for _ in 0..10 {
            for flood in &floods {
                world.inject("203.0.113.9:9", BOB, flood);
            }
            world.run(Duration::from_millis(100));
        }
        assert!(world.established());
        packets_pass(&mut world);
    }
}

#[test]
fn plain_handshake_gets_nowhere() {
    let mut plain = World::strangers();
    plain.run(SECOND);
    let mut world = friends(Security::Noise);
    for kind in ["hello", "cookie", "welcome"] {
        let bytes = plain.last_sent(kind).bytes;
        assert_eq!(provoked(&mut world, &bytes), [("unknown_type", 1)]);
    }
    plain.send(0, &to_bob(b"in the clear"));
    let data = plain.last_sent("data").bytes;
    // Its index may be one of Bob's by chance.
    assert!(matches!(provoked(&mut world, &data)[..], [("unknown_index" | "bad_tag" | "replayed", 1)]));
}

#[test]
fn keys_are_changed_without_a_lost_packet() {
    for format in FORMATS {
        let mut world = friends(format);
        let (mut number, mut old) = (10, ALICES);
        lossless_for(&mut world, 120, |world, step| {
            if step % 500 != 499 {
                return;
            }
            let now = world.now;
            // Bob accepts the new key beside the old one; then Alice uses it; then Bob forgets the old one.
            let both = PeerKeys { also: Some(secret(number).public_key()), ..keys(old) };
            let mut alice = waiting_bob(format).peers.remove(0);
            alice.keys = Some(both);
            world.nodes[1].core.change_peer(alice.clone(), now).unwrap();
            let identity = Identity { private: secret(number), also: Some(secret(old)) };
            world.nodes[0].core.set_identity(identity, now).unwrap();
            (old, number) = (number, number + 1);
        });
        assert!(world.stats(0).peers[0].handshakes > 20, "{:?}", world.stats(0));
        assert_eq!((world.drops(0), world.drops(1)), (vec![], vec![]));
    }
}

#[test]
fn a_peer_that_has_changed_its_key_is_addressed_by_the_new_one() {
    for format in FORMATS {
        let mut world = friends(format);
        let now = world.now;
        let mut alice = waiting_bob(format).peers.remove(0);
        alice.keys = Some(PeerKeys { also: Some(secret(10).public_key()), ..keys(ALICES) });
        world.nodes[1].core.change_peer(alice, now).unwrap();
        let both = Identity { private: secret(10), also: Some(secret(ALICES)) };
        world.nodes[0].core.set_identity(both, now).unwrap();
        world.run(SECOND);
        // The old key is forgotten; then Bob begins, after the session has ended.
        world.nodes[0].core.set_identity(Identity { private: secret(10), also: None }, world.now).unwrap();
        world.run(SECOND * 600);
        world.sent.clear();
        world.send(1, &to_alice(b"to the new key"));
        world.run(SECOND);
        assert_eq!(world.sent[0].1.kind(), "initiation");
        assert_eq!(world.nodes[0].received.last(), Some(&to_alice(b"to the new key")));
        assert_eq!(world.drops(0), []);
    }
}

#[test]
fn own_and_shared_keys_are_refused_by_name() {
    for format in FORMATS {
        let mut alice = alice_of(format, 100);
        alice.peers[0].keys = Some(keys(ALICES));
        let refused = |config: TunnelConfig| {
            let now = std::time::Instant::now();
            adit_dataplane::Core::new(config, now, [0; 32]).map(drop).unwrap_err().to_string()
        };
        assert_eq!(refused(alice.clone()), "the public key of peer 1 is this end's own: write the other end's");
        alice.peers = vec![
            PeerConfig { keys: Some(keys(BOBS)), ..peer(1, BOB, &[]) },
            PeerConfig { keys: Some(keys(BOBS)), ..peer(2, BOB, &[]) },
        ];
        assert!(refused(alice.clone()).starts_with("the public key of peer 2 belongs to peer 1 already"));
        alice.peers.pop();
        alice.peers[0].keys = None;
        assert!(refused(alice).starts_with("peer 1 has no public key"));
    }
}
