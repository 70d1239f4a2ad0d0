//! The steady path allocates nothing. Alone in its process, which has an allocator that counts.
#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    missing_docs,
    reason = "a test that panics has failed, as it should"
)]

#[path = "network/world.rs"]
#[allow(dead_code, clippy::panic, clippy::indexing_slicing, reason = "shared with the tests of the core")]
mod world;

use adit_dataplane::{Checksum, FromTun, Sink, Vnet};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    net::SocketAddr,
    time::Duration,
};

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
    fn tun(&mut self, _: &'p mut [u8], _: Checksum) {
        self.received += 1;
    }
}

#[test]
fn packets_of_a_session_cost_no_allocation() {
    let world = world::World::friends();
    let mut packet = world::with_room(&world::to_bob(&[0; 1400]));
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
