//! What a tunnel does about a path that takes less than it was told.

use crate::world::{ALICE, BOB, Datagram, World, packet, peer, to_bob, tunnel};
use adit_dataplane::{HealthState, Probing};
use std::{cell::Cell, net::SocketAddr, rc::Rc, time::Duration};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// Around the datagrams of this network, and in them around a packet.
const OUTER_BYTES: usize = 28;
const OVERHEAD_BYTES: u16 = 44;

/// The size that passes, there and back; everything larger is lost without a word.
#[derive(Clone)]
struct Path([Rc<Cell<usize>>; 2]);

impl Path {
    fn lay(world: &mut World) -> Self {
        let path = Self([1500, 1500].map(|bytes| Rc::new(Cell::new(bytes))));
        let Self([there, back]) = path.clone();
        let alice: SocketAddr = ALICE.parse().unwrap();
        world.lose = Box::new(move |datagram: &Datagram| {
            let limit = if datagram.from == alice { &there } else { &back };
            datagram.bytes.len() + OUTER_BYTES > limit.get()
        });
        path
    }

    fn set(&self, there: usize, back: usize) {
        self.0[0].set(there);
        self.0[1].set(back);
    }
}

fn world(probing: Probing) -> (World, Path) {
    let mut configs =
        [tunnel(ALICE, 100, &[peer(1, BOB, &["10.0.0.2/32"])]), tunnel(BOB, 200, &[peer(1, ALICE, &["10.0.0.1/32"])])];
    configs.iter_mut().for_each(|config| config.probing = probing);
    let mut world = World::new(configs.to_vec());
    let path = Path::lay(&mut world);
    world.run(SECOND);
    (world, path)
}

fn mtu(world: &World, node: usize) -> u16 {
    world.stats(node).mtu_bytes.unwrap()
}

/// A packet of this length for Bob that must not be fragmented.
fn large(bytes: usize) -> Vec<u8> {
    let mut packet = to_bob(&vec![7; bytes - 28]);
    packet[6] = 0x40;
    packet
}

/// Alice sends packets as large as her interface lets her, each 10 ms.
fn transfer(world: &mut World, time: Duration) {
    let end = world.now + time;
    while world.now < end {
        let packet = large(mtu(world, 0).into());
        world.send(0, &packet);
        world.run(MS * 10);
    }
}

/// How long it takes until such packets arrive again.
fn gap(world: &mut World) -> Duration {
    let (start, before) = (world.now, world.nodes[1].received.len());
    while world.nodes[1].received.len() < before + 3 {
        assert!(world.now - start < SECOND * 10, "nothing arrives, MTU {}", mtu(world, 0));
        transfer(world, MS * 10);
    }
    world.now - start
}

#[test]
fn a_path_that_shrinks_in_silence_is_found_out_in_less_than_two_seconds() {
    for size in [1400, 1296, 1001, 700] {
        let (mut world, path) = world(Probing::default());
        transfer(&mut world, SECOND * 3);
        assert_eq!(mtu(&world, 0), 1456);
        assert_eq!(world.stats(0).peers[0].health.path_mtu_bytes, Some(1500));
        path.set(size, size);
        world.run(MS * 30);
        let gap = gap(&mut world);
        assert!(gap < SECOND * 2, "{size}: {gap:?}");
        transfer(&mut world, SECOND * 5);
        assert_eq!(usize::from(mtu(&world, 0) + OVERHEAD_BYTES), size);
        assert_eq!(world.stats(0).peers[0].health.path_mtu_bytes.map(usize::from), Some(size));
        // Bob has sent nothing large: he knows of nothing.
        assert_eq!(mtu(&world, 1), 1456);
    }
}

#[test]
fn each_direction_is_found_out_by_the_end_that_sends() {
    let (mut world, path) = world(Probing::default());
    path.set(1500, 1300);
    transfer(&mut world, SECOND * 10);
    assert_eq!((mtu(&world, 0), mtu(&world, 1)), (1456, 1456));
    for _ in 0..500 {
        let packet = packet("10.0.0.2", "10.0.0.1", &vec![7; usize::from(mtu(&world, 1)) - 28]);
        world.send(1, &packet);
        world.run(MS * 10);
    }
    assert_eq!((mtu(&world, 0), mtu(&world, 1)), (1456, 1300 - OVERHEAD_BYTES));
}

#[test]
fn loss_alone_shrinks_nothing() {
    let (mut world, _) = world(Probing::default());
    let mut dice = 1_u32;
    world.lose = Box::new(move |_| {
        dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        dice >> 16 < (1 << 16) / 20
    });
    for _ in 0..120 {
        transfer(&mut world, SECOND);
        assert_eq!(mtu(&world, 0), 1456);
    }
}

#[test]
fn a_path_that_heals_is_used_again() {
    let (mut world, path) = world(Probing::default());
    path.set(1400, 1400);
    transfer(&mut world, SECOND * 10);
    assert_eq!(mtu(&world, 0), 1400 - OVERHEAD_BYTES);
    path.set(1500, 1500);
    transfer(&mut world, SECOND * 65);
    assert_eq!(mtu(&world, 0), 1456);
}

#[test]
fn a_dead_path_says_nothing_about_sizes() {
    let (mut world, path) = world(Probing::default());
    transfer(&mut world, SECOND);
    path.set(0, 0);
    transfer(&mut world, SECOND * 20);
    assert_eq!(mtu(&world, 0), 1456);
}

#[test]
fn what_is_too_large_is_answered_in_the_name_of_its_destination() {
    let (mut world, path) = world(Probing::default());
    path.set(1400, 1400);
    transfer(&mut world, SECOND * 10);
    world.nodes[0].received.clear();
    world.send(0, &large(1357));
    let [answer] = &world.nodes[0].received[..] else { panic!("{:?}", world.drops(0)) };
    assert_eq!((&answer[12..16], &answer[16..20]), (&[10, 0, 0, 2][..], &[10, 0, 0, 1][..]));
    assert_eq!((answer[20], answer[21], u16::from_be_bytes([answer[26], answer[27]])), (3, 4, 1356));
    assert!(world.drops(0).iter().any(|(name, _)| *name == "too_big"));
    world.send(0, &large(1356));
    assert_eq!(world.nodes[0].received.len(), 1);
}

#[test]
fn below_the_floor_packets_leave_all_the_same_and_the_peer_is_degraded() {
    let (mut world, path) = world(Probing { floor_bytes: 1280, ..Probing::default() });
    path.set(1296, 1296);
    transfer(&mut world, SECOND * 10);
    assert_eq!(mtu(&world, 0), 1280);
    let health = world.stats(0).peers[0].health.clone();
    assert_eq!((health.state, health.path_mtu_bytes), (HealthState::Degraded, Some(1296)));
    let words = "the path takes outer packets of 1296 bytes, the interface cannot go below 1280 (1324 outside): larger ones leave in fragments";
    assert!(health.reason.contains(words), "{}", health.reason);
    let received = world.nodes[1].received.len();
    world.sent.clear();
    world.send(0, &large(1280));
    let lengths: Vec<usize> = world.sent.iter().map(|(_, datagram)| datagram.bytes.len() + OUTER_BYTES).collect();
    assert_eq!(lengths, [1296, 92]);
    world.run(MS * 10);
    let fragments: Vec<_> =
        world.nodes[1].received[received..].iter().map(|packet| (packet.len(), packet[6])).collect();
    assert_eq!(fragments, [(1252, 0x20), (48, 0)]);
}

#[test]
fn who_is_told_not_to_search_does_not() {
    let (mut world, path) = world(Probing { path_mtu: false, ..Probing::default() });
    path.set(1400, 1400);
    world.sent.clear();
    transfer(&mut world, SECOND * 5);
    assert_eq!(mtu(&world, 0), 1456);
    assert!(world.sent.iter().all(|(_, datagram)| datagram.kind() != "probe" || datagram.bytes.len() < 100));
}

#[test]
fn nothing_is_asked_while_nothing_large_is_sent() {
    let (mut world, _) = world(Probing::default());
    transfer(&mut world, SECOND * 2);
    world.run(SECOND);
    world.sent.clear();
    for _ in 0..3000 {
        world.send(0, &to_bob(b"small"));
        world.run(MS * 10);
    }
    assert!(world.sent.iter().all(|(_, datagram)| datagram.bytes.len() < 100));
}
