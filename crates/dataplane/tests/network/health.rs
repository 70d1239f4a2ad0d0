//! What is concluded of a peer from its answers, from its silence and from the numbers of its packets.

use crate::world::{ALICE, BOB, Datagram, World, peer, to_alice, to_bob, tunnel};
use adit_dataplane::{Health, HealthState, Identity, PeerConfig, PeerKeys, Probing, Secret, Security, TunnelConfig};
use std::{cell::Cell, net::SocketAddr, rc::Rc, time::Duration};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn pair(probing: Probing) -> [TunnelConfig; 2] {
    let mut configs =
        [tunnel(ALICE, 100, &[peer(1, BOB, &["10.0.0.2/32"])]), tunnel(BOB, 200, &[peer(1, ALICE, &["10.0.0.1/32"])])];
    configs.iter_mut().for_each(|config| config.probing = probing);
    configs
}

/// Alice and Bob, who ask each other.
fn world(probing: Probing) -> World {
    let mut world = World::new(pair(probing).to_vec());
    world.run(SECOND);
    assert_eq!(states(&world), [HealthState::Up; 2]);
    world
}

fn every_200_ms() -> Probing {
    Probing { interval: Some(MS * 200), ..Probing::default() }
}

fn health(world: &World, node: usize) -> Health {
    world.stats(node).peers[0].health.clone()
}

fn states(world: &World) -> [HealthState; 2] {
    [health(world, 0).state, health(world, 1).state]
}

/// Lets time pass in steps until Alice's peer is in this state: how long that took.
fn until(world: &mut World, state: HealthState, mut step: impl FnMut(&mut World)) -> Duration {
    let start = world.now;
    while health(world, 0).state != state {
        assert!(world.now - start < SECOND * 30, "still {:?}", health(world, 0));
        step(world);
        world.run(MS * 10);
    }
    world.now - start
}

fn from(address: &str) -> impl Fn(&Datagram) -> bool + use<> {
    let address: SocketAddr = address.parse().unwrap();
    move |datagram| datagram.from == address
}

#[test]
fn a_peer_that_was_never_heard_is_waited_for() {
    let mut world = World::new(vec![pair(Probing::default())[0].clone()]);
    world.run(SECOND * 2);
    let health = health(&world, 0);
    assert_eq!(health.state, HealthState::Waiting);
    assert_eq!(health.reason, "no handshake was answered yet; 4 messages left, none came back");
}

#[test]
fn round_trips_are_measured() {
    let world = world(Probing::default());
    let health = health(&world, 0);
    let rtt = health.rtt.unwrap();
    assert_eq!((rtt.last, rtt.min, rtt.p99), (MS * 20, MS * 20, MS * 20));
    assert_eq!((health.probes_sent, health.probes_answered), (1, 1));
    assert_eq!(health.reason, "");
}

#[test]
fn a_dead_peer_is_down_within_a_second_while_traffic_flows() {
    for probing in [Probing::default(), every_200_ms()] {
        let mut world = world(probing);
        for _ in 0..300 {
            world.send(0, &to_bob(b"x"));
            world.run(MS * 10);
        }
        world.lose = Box::new(|_| true);
        let time = until(&mut world, HealthState::Down, |world| world.send(0, &to_bob(b"x")));
        assert!(time <= MS * 950, "{probing:?}: {time:?}");
        let reason = health(&world, 0).reason;
        assert!(
            reason.starts_with("no answer since 0.") && reason.ends_with("outer packets leave, none come back"),
            "{reason}"
        );
        world.lose = Box::new(|_| false);
        let time = until(&mut world, HealthState::Up, |world| world.send(0, &to_bob(b"x")));
        assert!(time <= SECOND + MS * 100, "{time:?}");
    }
}

#[test]
fn a_dead_peer_of_an_idle_tunnel_is_down_by_its_interval() {
    let mut asked = world(every_200_ms());
    asked.lose = Box::new(|_| true);
    assert!(until(&mut asked, HealthState::Down, |_| ()) <= SECOND);
    let mut idle = world(Probing::default());
    idle.run(SECOND * 12);
    idle.lose = Box::new(|_| true);
    let time = until(&mut idle, HealthState::Down, |_| ());
    assert!(time > SECOND && time <= SECOND * 12, "{time:?}");
}

#[test]
fn an_idle_tunnel_costs_a_request_and_an_answer_in_ten_seconds_each_way() {
    let mut world = world(Probing::default());
    world.run(SECOND * 20);
    world.sent.clear();
    world.run(SECOND * 100);
    assert!((32..=44).contains(&world.sent.len()), "{}", world.sent.len());
}

#[test]
fn what_this_end_was_late_for_never_counts_against_a_peer() {
    for (probing, stop) in [(Probing::default(), 5), (every_200_ms(), 5), (every_200_ms(), 1)] {
        let mut world = world(probing);
        for _ in 0..20 {
            world.send(0, &to_bob(b"x"));
            world.run(MS * 10);
        }
        // Alice stands still: her timers do not run, and what comes waits.
        world.pause(0, SECOND * stop);
        for _ in 0..300 {
            assert_eq!(health(&world, 0).state, HealthState::Up, "{:?}", health(&world, 0));
            world.run(MS * 10);
        }
        assert!(health(&world, 0).late_intervals > 0);
        let rtt = health(&world, 0).rtt.unwrap();
        assert!(rtt.p99 <= MS * 21, "{rtt:?}");
    }
}

#[test]
fn a_way_that_only_one_end_has_lost_is_told_from_a_dead_peer() {
    let mut world = world(every_200_ms());
    world.lose = Box::new(from(ALICE));
    let time = until(&mut world, HealthState::Down, |world| world.send(1, &to_alice(b"x")));
    assert!(time <= SECOND * 4, "{time:?}");
    let reason = health(&world, 0).reason;
    assert!(reason.contains("packets come from it, those that leave here do not arrive there"), "{reason}");
    assert!(health(&world, 1).reason.ends_with("outer packets leave, none come back"), "{}", health(&world, 1).reason);
    world.lose = Box::new(|_| false);
    world.run(SECOND * 15);
    assert_eq!(states(&world), [HealthState::Up; 2]);
}

#[test]
fn loss_is_counted_exactly_and_in_its_direction() {
    let mut world = world(Probing::default());
    let before = [health(&world, 0), health(&world, 1)];
    let (count, lost) = (Rc::new(Cell::new(0_u64)), Rc::new(Cell::new(0_u64)));
    let (counting, losing, alice) = (count.clone(), lost.clone(), from(ALICE));
    world.lose = Box::new(move |datagram| {
        let number = counting.get() + u64::from(alice(datagram));
        counting.set(number);
        let loses = alice(datagram) && number % 20 == 7;
        losing.set(losing.get() + u64::from(loses));
        loses
    });
    for _ in 0..4000 {
        world.send(0, &to_bob(b"x"));
        world.send(1, &to_alice(b"x"));
        world.run(MS * 2);
    }
    let (alice, bob) = (health(&world, 0), health(&world, 1));
    assert_eq!((alice.state, bob.state), (HealthState::Degraded, HealthState::Degraded));
    assert!(alice.reason.ends_with(" % of what is sent to it is lost"), "{}", alice.reason);
    assert!(bob.reason.ends_with(" % of what it sends is lost"), "{}", bob.reason);
    for recent in [alice.sent.unwrap(), bob.received] {
        assert!((45_000..=51_000).contains(&recent.recent_loss_ppm), "{recent:?}");
    }
    world.lose = Box::new(|_| false);
    world.run(SECOND * 30);
    let (alice, bob) = (health(&world, 0), health(&world, 1));
    assert_eq!(bob.received.lost - before[1].received.lost, lost.get());
    assert_eq!(alice.sent.unwrap().lost - before[0].sent.map_or(0, |sent| sent.lost), lost.get());
    assert_eq!((alice.received.lost, bob.sent.unwrap().lost), (0, 0));
    assert_eq!(states(&world), [HealthState::Up; 2]);
}

#[test]
fn a_lossy_path_is_never_called_down() {
    for percent in [1, 5, 10] {
        let mut world = world(Probing::default());
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        world.lose = Box::new(move |_| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % 100 < percent
        });
        for step in 0..60_000 {
            if step % 2 == 0 {
                world.send(0, &to_bob(b"x"));
            }
            world.run(MS * 10);
            assert_ne!(health(&world, 0).state, HealthState::Down, "{percent} %, step {step}: {:?}", health(&world, 0));
        }
    }
}

#[test]
fn a_restarted_peer_is_no_loss() {
    let mut world = world(every_200_ms());
    for _ in 0..100 {
        world.send(1, &to_alice(b"x"));
        world.run(MS * 5);
    }
    let before = health(&world, 0).received;
    let again = TunnelConfig { epoch: 300, ..pair(every_200_ms())[1].clone() };
    world.restart(1, again);
    world.run(SECOND * 3);
    let after = health(&world, 0);
    assert_eq!((after.state, after.received.lost), (HealthState::Up, before.lost));
    assert!(after.received.packets > before.packets);
}

#[test]
fn renewed_keys_are_no_loss() {
    let secrets = [Secret::new([1; 32]), Secret::new([2; 32])];
    let sealed = |own: usize, config: TunnelConfig| {
        let keys = PeerKeys { public: secrets[1 - own].public_key(), also: None, preshared: None };
        let peer = PeerConfig { keys: Some(keys), ..config.peers[0].clone() };
        let identity = Identity { private: secrets[own].clone(), also: None };
        TunnelConfig { security: Security::Noise(identity), peers: vec![peer], ..config }
    };
    let [alice, bob] = pair(Probing::default());
    let mut world = World::new(vec![sealed(0, alice), sealed(1, bob)]);
    for _ in 0..8_000 {
        world.send(0, &to_bob(b"x"));
        world.send(1, &to_alice(b"x"));
        world.run(MS * 50);
        assert_ne!(states(&world), [HealthState::Down; 2]);
    }
    world.run(SECOND);
    assert!(world.stats(0).peers[0].handshakes >= 4);
    for node in 0..2 {
        let health = health(&world, node);
        assert_eq!((health.state, health.received.lost, health.sent.unwrap().lost), (HealthState::Up, 0, 0));
        assert!(health.received.packets >= 8_000);
    }
}
