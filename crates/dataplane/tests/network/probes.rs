//! Probes between plain ends: what is answered, and how.

use crate::world::{ALICE, BOB, Datagram, World};
use adit_dataplane::{
    probe::{BODY_BYTES, Counts, Kind, Probe},
    wire::{HEADER_BYTES, Header, Type},
};
use std::time::Duration;

const REQUEST: Probe = Probe { kind: Kind::Request, number: 7, clock: 1_000, counts: ZERO, path_mtu_bytes: 0 };
const ZERO: Counts = Counts { received: 0, lost: 0, reordered: 0, duplicated: 0 };

/// A probe for the session in which Bob sends to Alice, with this many bytes of padding.
fn from_bob(world: &mut World, probe: &Probe, padding: usize) -> Vec<u8> {
    world.send(1, &crate::world::packet("10.0.0.2", "10.0.0.1", b"which index?"));
    let index = world.last_sent("data").index();
    let header = Header { counter: 100, ..Header::new(Type::Probe, index) };
    [&header.encode()[..], &probe.encode(), &vec![0; padding]].concat()
}

fn answers(world: &World) -> Vec<&Datagram> {
    let probes = world.sent.iter().map(|(_, datagram)| datagram).filter(|datagram| datagram.kind() == "probe");
    let of_alice = probes.filter(|datagram| datagram.from == ALICE.parse().unwrap());
    of_alice
        .filter(|probe| matches!(Probe::decode(&probe.bytes[HEADER_BYTES..]), Ok(Probe { kind: Kind::Answer(_), .. })))
        .collect()
}

#[test]
fn a_request_is_answered_once_and_says_how_long_it_was() {
    let mut world = World::friends();
    let request = from_bob(&mut world, &REQUEST, 1000);
    world.inject(BOB, ALICE, &request);
    world.run(Duration::from_millis(100));
    let [answer] = answers(&world)[..] else { panic!("{:?}", world.sent) };
    assert_eq!((answer.to, answer.bytes.len()), (BOB.parse().unwrap(), HEADER_BYTES + BODY_BYTES));
    let read = Probe::decode(&answer.bytes[HEADER_BYTES..]).unwrap();
    assert_eq!((read.kind, read.number, read.clock), (Kind::Answer(request.len() as u16), 7, 1_000));
}

#[test]
fn strangers_are_not_answered_and_answers_neither() {
    let mut world = World::friends();
    let request = from_bob(&mut world, &REQUEST, 0);
    world.inject("192.0.2.9:6090", ALICE, &request);
    let answer = from_bob(&mut world, &Probe { kind: Kind::Answer(64), ..REQUEST }, 0);
    world.inject(BOB, ALICE, &answer);
    world.run(Duration::from_millis(100));
    assert!(answers(&world).is_empty());
    assert_eq!(world.drops(0), [("wrong_source", 1), ("unexpected_answer", 1)]);
}
