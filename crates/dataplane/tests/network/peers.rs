use crate::world::{ALICE, ALICE_INSIDE, BOB, World, packet, peer, to_alice, to_bob, tunnel};
use adit_dataplane::{Error, PeerId};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const CAROL: &str = "192.0.2.3:7000";

/// Alice has two peers; Carol's prefix is the longer one.
fn three() -> World {
    let mut world = World::new(vec![
        tunnel(ALICE, 1, &[peer(1, BOB, &["0.0.0.0/0"]), peer(2, CAROL, &["10.3.0.0/16"])]),
        tunnel(BOB, 1, &[peer(1, ALICE, &["10.0.0.1/32"])]),
        tunnel(CAROL, 1, &[peer(1, ALICE, &["10.0.0.1/32"])]),
    ]);
    world.run(SECOND);
    assert!(world.established());
    world
}

#[test]
fn longest_prefix_chooses_the_peer() {
    let mut world = three();
    let (for_bob, for_carol) = (packet(ALICE_INSIDE, "10.2.0.9", b"b"), packet(ALICE_INSIDE, "10.3.0.9", b"c"));
    world.send(0, &for_bob);
    world.send(0, &for_carol);
    world.run(SECOND);
    assert_eq!(world.nodes[1].received, [for_bob]);
    assert_eq!(world.nodes[2].received, [for_carol]);
}

#[test]
fn a_peer_may_not_use_addresses_of_another() {
    let mut world = three();
    world.send(1, &packet("10.3.0.9", ALICE_INSIDE, b"I am Carol"));
    world.send(1, &packet("10.2.0.9", ALICE_INSIDE, b"I am Bob"));
    world.run(SECOND);
    assert_eq!(world.nodes[0].received, [packet("10.2.0.9", ALICE_INSIDE, b"I am Bob")]);
    assert_eq!(world.drops(0), [("source_not_allowed", 1)]);
}

#[test]
fn packets_to_nobody_are_counted() {
    let mut world = World::friends();
    world.send(0, &packet(ALICE_INSIDE, "198.51.100.1", b"?"));
    world.send(0, &packet("fd00::1", "ff02::2", b"router?"));
    assert_eq!(world.drops(0), [("no_peer", 2)]);
}

#[test]
fn malformed_and_oversized_packets_do_not_leave() {
    let mut world = World::friends();
    world.send(0, b"");
    world.send(0, b"not an IP packet at all");
    world.send(0, &to_bob(b"cut")[..29]);
    world.send(0, &to_bob(&[0; 1456 - 28]));
    world.send(0, &to_bob(&[0; 1456 - 27]));
    assert_eq!(world.sent_kinds(), ["data"]);
    assert_eq!(world.drops(0), [("malformed_inner", 3), ("too_big", 1)]);
}

#[test]
fn both_families_inside_and_outside() {
    let (alice, bob) = ("[2001:db8::1]:6090", "[2001:db8::2]:6090");
    let mut world = World::new(vec![
        tunnel(alice, 1, &[peer(1, bob, &["10.0.0.2/32", "fd00:2::/64"])]),
        tunnel(bob, 1, &[peer(1, alice, &["10.0.0.1/32", "fd00:1::/64"])]),
    ]);
    world.run(SECOND);
    let packets = [to_bob(b"four in six"), packet("fd00:1::1", "fd00:2::2", b"six in six")];
    for packet in &packets {
        world.send(0, packet);
    }
    world.run(SECOND);
    assert_eq!(world.nodes[1].received, packets);

    let mut world = World::new(vec![
        tunnel(ALICE, 1, &[peer(1, BOB, &["fd00:2::/64"])]),
        tunnel(BOB, 1, &[peer(1, ALICE, &["fd00:1::/64"])]),
    ]);
    world.run(SECOND);
    world.send(0, &packet("fd00:1::1", "fd00:2::2", b"six in four"));
    world.run(SECOND);
    assert_eq!(world.nodes[1].received, [packet("fd00:1::1", "fd00:2::2", b"six in four")]);
}

#[test]
fn added_peer_gets_a_session_of_its_own() {
    let mut world = World::new(vec![tunnel(ALICE, 1, &[]), tunnel(BOB, 1, &[peer(1, ALICE, &["10.0.0.1/32"])])]);
    world.run(SECOND);
    let now = world.now;
    world.nodes[0].core.add_peer(peer(5, BOB, &["10.0.0.2/32"]), now).unwrap();
    world.run(SECOND);
    world.send(0, &to_bob(b"hi"));
    world.run(SECOND);
    assert_eq!(world.nodes[1].received, [to_bob(b"hi")]);
    let again = world.nodes[0].core.add_peer(peer(5, CAROL, &[]), now);
    assert_eq!(again, Err(Error::DuplicatePeer(PeerId(5))));
}

#[test]
fn removed_peer_that_returns_is_welcome_at_once() {
    let mut world = World::friends();
    for _ in 0..20 {
        let now = world.now;
        world.nodes[0].core.remove_peer(PeerId(1)).unwrap();
        world.nodes[0].core.add_peer(peer(1, BOB, &["10.0.0.2/32"]), now).unwrap();
        world.run(Duration::from_millis(50));
        world.send(0, &to_bob(b"back"));
        world.run(Duration::from_millis(20));
        assert_eq!(world.nodes[1].received.pop(), Some(to_bob(b"back")));
    }
    assert_eq!(world.drops(1), []);
}

#[test]
fn changed_addresses_keep_the_session() {
    let mut world = World::friends();
    let now = world.now;
    world.nodes[0].core.change_peer(peer(1, BOB, &["10.7.0.0/16"]), now).unwrap();
    world.send(0, &to_bob(b"gone"));
    world.send(0, &packet(ALICE_INSIDE, "10.7.0.1", b"new"));
    world.run(SECOND);
    assert_eq!(world.nodes[1].received, [packet(ALICE_INSIDE, "10.7.0.1", b"new")]);
    assert_eq!(world.drops(0), [("no_peer", 1)]);
    assert_eq!(world.stats(0).peers[0].handshakes, 1);
}

#[test]
fn changed_endpoint_begins_a_new_session() {
    let mut world = World::friends();
    let moved = "192.0.2.9:6090";
    world.nodes[1].address = moved.parse().unwrap();
    let now = world.now;
    world.nodes[0].core.change_peer(peer(1, moved, &["10.0.0.2/32"]), now).unwrap();
    world.send(0, &to_bob(b"queued"));
    world.run(SECOND);
    assert_eq!(world.nodes[1].received, [to_bob(b"queued")]);
    assert_eq!(world.stats(0).peers[0].endpoint, Some(moved.parse().unwrap()));
    world.send(1, &to_alice(b"from the new place"));
    world.run(SECOND);
    assert_eq!(world.nodes[0].received, [to_alice(b"from the new place")]);
}

#[test]
fn removed_peer_is_a_stranger() {
    let mut world = World::friends();
    world.nodes[0].core.remove_peer(PeerId(1)).unwrap();
    world.send(0, &to_bob(b"x"));
    world.send(1, &to_alice(b"x"));
    world.run(SECOND);
    assert_eq!(world.drops(0), [("wrong_source", 1), ("no_peer", 1)]);
    assert!(world.nodes[0].received.is_empty());
    assert_eq!(world.nodes[0].core.next_wake(), None);
    assert_eq!(world.nodes[0].core.remove_peer(PeerId(1)), Err(Error::UnknownPeer(PeerId(1))));
}

#[test]
fn removed_peer_takes_its_queue_along() {
    let mut world = World::new(vec![tunnel(ALICE, 1, &[peer(1, BOB, &["10.0.0.2/32"])])]);
    world.send(0, &to_bob(b"x"));
    world.nodes[0].core.remove_peer(PeerId(1)).unwrap();
    assert_eq!(world.drops(0), [("no_session", 1)]);
}
