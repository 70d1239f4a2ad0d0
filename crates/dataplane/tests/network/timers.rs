use crate::world::{ALICE, BOB, World, peer, to_bob, tunnel};
use std::time::Duration;

fn alone() -> World {
    World::new(vec![tunnel(ALICE, 1, &[peer(1, BOB, &["10.0.0.2/32"])])])
}

fn times(world: &World, kind: &str) -> Vec<u128> {
    world.sent.iter().filter(|(_, datagram)| datagram.kind() == kind).map(|(at, _)| at.as_millis()).collect()
}

#[test]
fn hello_backs_off_from_250_ms_to_16_s() {
    let mut world = alone();
    world.run(Duration::from_secs(70));
    assert_eq!(times(&world, "hello"), [0, 250, 750, 1750, 3750, 7750, 15750, 31750, 47750, 63750]);
}

#[test]
fn outbound_traffic_brings_the_next_hello_within_a_second() {
    let mut world = alone();
    world.run(Duration::from_secs(20));
    world.send(0, &to_bob(b"anybody?"));
    world.run(Duration::from_millis(500));
    world.send(0, &to_bob(b"hello?"));
    world.run(Duration::from_secs(10));
    assert_eq!(times(&world, "hello")[7..], [21000]);
}

#[test]
fn established_idle_tunnel_never_wakes() {
    let mut world = World::friends();
    assert_eq!(world.nodes[0].core.next_wake(), None);
    assert_eq!(world.nodes[1].core.next_wake(), None);
    world.run(Duration::from_secs(86_400));
    assert_eq!(world.sent, []);
    world.send(0, &to_bob(b"x"));
    assert_eq!(world.nodes[0].core.next_wake(), None);
}

#[test]
fn keepalive_is_sent_after_its_interval_of_silence_only() {
    let mut bob = peer(1, BOB, &["10.0.0.2/32"]);
    bob.keepalive = Some(Duration::from_secs(10));
    let mut world = World::new(vec![tunnel(ALICE, 1, &[bob]), tunnel(BOB, 1, &[peer(1, ALICE, &["10.0.0.1/32"])])]);
    world.run(Duration::from_secs(1));
    world.sent.clear();
    world.run(Duration::from_secs(4));
    world.send(0, &to_bob(b"at 5 s"));
    world.run(Duration::from_secs(31));
    assert_eq!(times(&world, "keepalive"), [15_000, 25_000, 35_000]);
    assert_eq!(world.nodes[1].received, [to_bob(b"at 5 s")]);
    assert_eq!(world.stats(1).peers[0].rx_packets, 1);
    assert_eq!(world.stats(1).peers[0].last_rx_age, Some(Duration::from_millis(990)));
}

#[test]
fn keepalive_finds_a_restarted_peer() {
    let mut bob = peer(1, BOB, &["10.0.0.2/32"]);
    bob.keepalive = Some(Duration::from_secs(10));
    let from_alice = peer(1, ALICE, &["10.0.0.1/32"]);
    let mut world = World::new(vec![tunnel(ALICE, 1, &[bob]), tunnel(BOB, 1, std::slice::from_ref(&from_alice))]);
    world.run(Duration::from_secs(1));
    let bobs_address = BOB.parse().unwrap();
    world.lose = Box::new(move |datagram| datagram.from == bobs_address && datagram.kind() == "hello");
    world.restart(1, tunnel(BOB, 2, &[from_alice]));
    world.run(Duration::from_secs(11));
    assert_eq!(world.stats(0).peers[0].remote_epoch, Some(2));
}

#[test]
fn cookie_that_became_too_old_is_replaced_at_once() {
    let mut world = alone();
    let bob = tunnel(BOB, 1, &[peer(1, ALICE, &["10.0.0.1/32"])]);
    let mut other = World::new(vec![tunnel(ALICE, 1, &[peer(1, BOB, &["10.0.0.2/32"])]), bob.clone()]);
    std::mem::swap(&mut world, &mut other);
    world.lose = Box::new(move |datagram| {
        datagram.kind() == "welcome" || datagram.from == bob.local && datagram.kind() == "hello"
    });
    world.run(Duration::from_millis(100));
    world.restart(1, tunnel(BOB, 2, &[peer(1, ALICE, &["10.0.0.1/32"])]));
    let bobs_address = BOB.parse().unwrap();
    world.lose = Box::new(move |datagram| datagram.from == bobs_address && datagram.kind() == "hello");
    world.run(Duration::from_millis(200));
    assert!(world.established());
    assert_eq!(world.drops(1), [("bad_cookie", 1)]);
}
