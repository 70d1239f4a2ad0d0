use crate::world::{ALICE, BOB, Datagram, World, peer, to_alice, to_bob, tunnel};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const ROUND_TRIP: Duration = Duration::from_millis(21);

/// Only Alice begins: Bob's HELLOs are lost.
fn alice_begins() -> World {
    let mut world = World::strangers();
    let bob = BOB.parse().unwrap();
    world.lose = Box::new(move |datagram| datagram.from == bob && datagram.kind() == "hello");
    world
}

/// Loses the first datagram of a kind that Alice's handshake needs.
fn losing_the_first(kind: &'static str, with_cookie: bool) -> World {
    let mut world = alice_begins();
    let bob = BOB.parse().unwrap();
    let mut lost = false;
    world.lose = Box::new(move |datagram| {
        let bobs_hello = datagram.from == bob && datagram.kind() == "hello";
        let hit = !lost && datagram.kind() == kind && datagram.has_cookie() == with_cookie && !bobs_hello;
        lost |= hit;
        hit || bobs_hello
    });
    world
}

fn is_up(world: &mut World) {
    world.run(SECOND);
    assert!(world.established(), "{:?}", world.sent_kinds());
    world.send(0, &to_bob(b"ping"));
    world.send(1, &to_alice(b"pong"));
    world.run(ROUND_TRIP);
    assert_eq!(world.nodes[1].received, [to_bob(b"ping")]);
    assert_eq!(world.nodes[0].received, [to_alice(b"pong")]);
}

#[test]
fn handshake_takes_two_round_trips() {
    let mut world = alice_begins();
    world.run(ROUND_TRIP * 2);
    let alices: Vec<_> = world.sent.iter().map(|(_, datagram)| datagram).filter(|d| !bobs_hello(d)).collect();
    let kinds: Vec<_> = alices.iter().map(|datagram| datagram.kind()).collect();
    assert_eq!(kinds, ["hello", "cookie", "hello", "welcome", "keepalive"]);
    assert!(!alices[0].has_cookie() && alices[2].has_cookie());
    assert_eq!(alices[0].index(), 0);
    is_up(&mut world);
}

fn bobs_hello(datagram: &Datagram) -> bool {
    datagram.from == BOB.parse().unwrap() && datagram.kind() == "hello"
}

#[test]
fn each_end_learns_epoch_and_mtu_of_the_other() {
    let world = World::friends();
    let (alice, bob) = (world.stats(0), world.stats(1));
    assert_eq!((alice.peers[0].remote_epoch, bob.peers[0].remote_epoch), (Some(200), Some(100)));
    assert_eq!(alice.peers[0].remote_mtu_bytes, Some(1456));
    assert!(alice.peers[0].last_rx_age.is_some() && alice.peers[0].last_tx_age.is_some());
}

#[test]
fn lost_first_hello_is_repeated() {
    is_up(&mut losing_the_first("hello", false));
}

#[test]
fn lost_hello_with_cookie_is_repeated() {
    is_up(&mut losing_the_first("hello", true));
}

#[test]
fn lost_cookie_is_asked_for_again() {
    is_up(&mut losing_the_first("cookie", false));
}

#[test]
fn lost_welcome_is_repeated_without_a_new_session() {
    let mut world = losing_the_first("welcome", false);
    is_up(&mut world);
    assert_eq!(world.stats(1).peers[0].handshakes, 1);
}

#[test]
fn responder_may_send_before_its_welcome_arrives() {
    let mut world = losing_the_first("welcome", false);
    world.run(Duration::from_millis(35));
    world.send(1, &to_alice(b"early"));
    world.run(ROUND_TRIP);
    assert!(!world.stats(0).peers[0].established);
    assert_eq!(world.nodes[0].received, [to_alice(b"early")]);
}

#[test]
fn simultaneous_hellos_converge_on_one_session_each() {
    let mut world = World::strangers();
    is_up(&mut world);
    assert_eq!(world.stats(0).peers[0].handshakes, 1);
    assert_eq!(world.stats(1).peers[0].handshakes, 1);
    assert_eq!((world.drops(0), world.drops(1)), (vec![], vec![]));
    let data: Vec<_> = world.sent.iter().filter(|(_, d)| d.kind() == "data").map(|(_, d)| d.clone()).collect();
    assert_ne!(data[0].index(), data[1].index());
}

#[test]
fn queued_data_leaves_in_order_when_the_session_is_up() {
    let mut world = alice_begins();
    for number in 0..10 {
        world.send(0, &to_bob(&[number]));
    }
    world.run(SECOND);
    let expected: Vec<_> = (0..10).map(|number| to_bob(&[number])).collect();
    assert_eq!(world.nodes[1].received, expected);
}

#[test]
fn queue_that_overflows_keeps_the_newest() {
    let mut world = alice_begins();
    for number in 0..20 {
        world.send(0, &to_bob(&[number]));
    }
    world.run(SECOND);
    let expected: Vec<_> = (4..20).map(|number| to_bob(&[number])).collect();
    assert_eq!(world.nodes[1].received, expected);
    assert_eq!(world.drops(0), [("queue_full", 4)]);
}

/// Bob comes back, and his own HELLOs do not get through: Alice has to notice.
fn bob_restarts_silently(world: &mut World, epoch: u64) {
    let bob = BOB.parse().unwrap();
    world.lose = Box::new(move |datagram| datagram.from == bob && datagram.kind() == "hello");
    world.restart(1, tunnel(BOB, epoch, &[peer(1, ALICE, &["10.0.0.1/32"])]));
}

#[test]
fn restart_loses_no_more_than_what_is_in_flight() {
    let mut world = World::friends();
    bob_restarts_silently(&mut world, 201);
    // One packet each 5 ms: those of the first round trip are in flight when the UNKNOWN arrives.
    let in_flight = 4;
    for number in 0..15 {
        world.send(0, &to_bob(&[number]));
        world.run(Duration::from_millis(5));
    }
    world.run(SECOND);
    let expected: Vec<_> = (in_flight..15).map(|number| to_bob(&[number])).collect();
    assert_eq!(world.nodes[1].received, expected);
    assert!(world.sent_kinds().contains(&"unknown"));
    assert_eq!(world.stats(0).peers[0].remote_epoch, Some(201));
    world.send(1, &to_alice(b"back"));
    world.run(ROUND_TRIP);
    assert_eq!(world.nodes[0].received, [to_alice(b"back")]);
}

#[test]
fn restarted_end_brings_the_session_back_by_itself() {
    let mut world = World::friends();
    world.restart(1, tunnel(BOB, 201, &[peer(1, ALICE, &["10.0.0.1/32"])]));
    is_up(&mut world);
    assert_eq!(world.drops(0), []);
    assert_eq!(world.stats(0).peers[0].handshakes, 2);
}

#[test]
fn restart_with_a_lower_epoch_waits_until_the_old_session_is_silent() {
    let mut world = World::friends();
    world.run(Duration::from_millis(1500));
    world.restart(1, tunnel(BOB, 150, &[peer(1, ALICE, &["10.0.0.1/32"])]));
    world.run(Duration::from_millis(400));
    assert_eq!(world.drops(0), [("stale_epoch", 2)]);
    assert_eq!(world.stats(0).peers[0].remote_epoch, Some(200));
    world.run(SECOND * 4);
    assert_eq!(world.stats(0).peers[0].remote_epoch, Some(150));
    is_up(&mut world);
}

#[test]
fn disowned_session_still_receives_while_packets_wait_for_its_successor() {
    let mut world = World::friends();
    let index = {
        world.send(0, &to_bob(b"x"));
        world.last_sent("data").index()
    };
    // A forged UNKNOWN for the right index: Alice asks, nobody answers, Bob's packets still arrive.
    let unknown = adit_dataplane::wire::Header::new(adit_dataplane::wire::Type::Unknown, index).encode();
    world.lose = Box::new(|datagram| datagram.kind() == "hello");
    world.inject(BOB, ALICE, &unknown);
    world.run(SECOND);
    assert!(!world.stats(0).peers[0].established);
    world.send(1, &to_alice(b"still here"));
    world.send(0, &to_bob(b"held"));
    world.run(ROUND_TRIP);
    assert_eq!(world.nodes[0].received, [to_alice(b"still here")]);
    world.lose = Box::new(|_| false);
    world.run(SECOND * 2);
    assert_eq!(world.nodes[1].received.last(), Some(&to_bob(b"held")));
}
