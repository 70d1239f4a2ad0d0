//! The steady path allocates nothing. Alone in its process, which has an allocator that counts.
#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a test that panics has failed, as it should"
)]

#[path = "network/world.rs"]
#[allow(dead_code, clippy::panic, clippy::indexing_slicing, reason = "shared with the tests of the core")]
mod world;

use adit_dataplane::{Checksum, FromTun, Identity, PeerConfig, PeerKeys, Secret, Security, Sink, TunnelConfig, Vnet};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    net::SocketAddr,
    time::Duration,
};
use world::{ALICE, BOB, World, peer, to_bob, tunnel, with_room};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract that is the same here.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract that is the same here.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Keeps the last datagram and counts packets.
struct Wire {
    datagram: [u8; 2000],
    length: usize,
    received: u64,
}

impl<'p> Sink<'p> for Wire {
    fn network(&mut self, _: SocketAddr, head: &[u8], payload: &'p [u8]) {
        self.length = head.len() + payload.len();
        for (to, byte) in self.datagram.iter_mut().zip(head.iter().chain(payload)) {
            *to = *byte;
        }
    }
    fn datagram(&mut self, _: SocketAddr, length: usize, write: impl FnOnce(&mut [u8]) -> bool) {
        self.length = if self.datagram.get_mut(..length).is_some_and(write) { length } else { 0 };
    }
    fn tun_now(&mut self, _: &mut [u8], _: Checksum) {
        self.received += 1;
    }
}

#[test]
fn packets_of_a_session_cost_no_allocation() {
    for world in [World::friends(), sealed(Security::Noise), sealed(Security::WireGuard)] {
        let mut packet = with_room(&to_bob(&[0; 1400]));
        let (now, mut wire) = (world.now, Wire { datagram: [0; 2000], length: 0, received: 0 });
        let mut nodes = world.nodes.into_iter();
        let (mut alice, mut bob) = (nodes.next().unwrap(), nodes.next().unwrap());
        let before = ALLOCATIONS.get();
        for number in 0..10_000 {
            let now = now + Duration::from_micros(number);
            alice.core.outbound(FromTun { packet: &mut packet, header: Vnet::default() }, now, &mut wire);
            let (mut datagram, length) = (wire.datagram, wire.length);
            bob.core.inbound(alice.address, datagram.get_mut(..length).unwrap(), now, &mut wire);
            bob.core.tick(now, &mut wire);
        }
        assert_eq!(ALLOCATIONS.get(), before);
        assert_eq!(wire.received, 10_000);
    }
}

/// Alice and Bob with a session in this format.
fn sealed(format: fn(Identity) -> Security) -> World {
    let secrets = [Secret::new([1; 32]), Secret::new([2; 32])];
    let config = |own: usize, address: &str, other: &str, inside: &str| {
        let keys = PeerKeys { public: secrets[1 - own].public_key(), also: None, preshared: None };
        let peer = PeerConfig { keys: Some(keys), ..peer(1, other, &[inside]) };
        let identity = Identity { private: secrets[own].clone(), also: None };
        TunnelConfig { security: format(identity), ..tunnel(address, 1, &[peer]) }
    };
    let mut world = World::new(vec![config(0, ALICE, BOB, "10.0.0.2/32"), config(1, BOB, ALICE, "10.0.0.1/32")]);
    world.run(Duration::from_secs(1));
    assert!(world.established());
    world
}
