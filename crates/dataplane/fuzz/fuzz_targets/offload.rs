//! `cargo +nightly fuzz run offload` in `crates/dataplane`: whatever a TUN hands over passes two cores and is joined for the other TUN.
//! Nothing is longer than may be, and what the other kernel makes of it is what the datagrams were, in their order.
#![no_main]

#[path = "../../tests/offload/model.rs"]
#[allow(dead_code)]
mod model;

use adit_dataplane::{Checksum, Core, FromTun, PeerConfig, PeerId, FecMode, FecPolicy, Probing, Security, Sink, TunnelConfig, Vnet, fuzz, wire};
use libfuzzer_sys::fuzz_target;
use std::{net::SocketAddr, time::Instant};

const ALICE: ([u8; 4], u16) = ([192, 0, 2, 1], 6090);
const BOB: ([u8; 4], u16) = ([192, 0, 2, 2], 6090);
const MTU_BYTES: u16 = 1456;

#[derive(Default)]
struct Output {
    datagrams: Vec<Vec<u8>>,
    packets: Vec<(Vec<u8>, Checksum)>,
}

impl<'p> Sink<'p> for Output {
    fn network(&mut self, _: SocketAddr, head: &[u8], payload: &'p [u8]) {
        self.datagrams.push([head, payload].concat());
    }
    fn datagram(&mut self, to: SocketAddr, length: usize, write: impl FnOnce(&mut [u8]) -> bool) {
        let mut place = vec![0; length];
        if write(&mut place) {
            self.network(to, &place, &[]);
        }
    }
    fn tun_now(&mut self, packet: &mut [u8], checksum: Checksum) {
        self.packets.push((packet.to_vec(), checksum));
    }
}

fn core(local: ([u8; 4], u16), remote: ([u8; 4], u16), now: Instant) -> Core {
    // Any inner address, so that bytes seldom go to nobody.
    let allowed_ips = ["0.0.0.0/0", "::/0"].map(|prefix| prefix.parse().unwrap()).to_vec();
    let peer = PeerConfig {
        id: PeerId(1),
        endpoint: Some(remote.into()),
        heard_from: None,
        allowed_ips,
        keepalive: None,
        keys: None,
    };
    let config = TunnelConfig {
        local: local.into(),
        mtu_bytes: MTU_BYTES,
        epoch: 9,
        shortcut: false,
        security: Security::Plain,
        probing: Probing::default(),
        fec: FecPolicy { mode: FecMode::Off, ..FecPolicy::default() },
        peers: vec![peer],
    };
    Core::new(config, now, [local.0[3]; 32]).unwrap()
}

fn shake_hands(alice: &mut Core, bob: &mut Core, now: Instant) {
    let mut from_alice = Output::default();
    alice.tick(now, &mut from_alice);
    while !from_alice.datagrams.is_empty() {
        let mut from_bob = Output::default();
        for mut datagram in from_alice.datagrams.drain(..) {
            bob.inbound(ALICE.into(), &mut datagram, now, &mut from_bob);
        }
        for mut datagram in from_bob.datagrams {
            alice.inbound(BOB.into(), &mut datagram, now, &mut from_alice);
        }
    }
}

/// Makes bytes a packet whose length fields, addresses and protocol are right as far as `shape` wants.
fn shaped(mut packet: Vec<u8>, shape: u8) -> Vec<u8> {
    let length = packet.len() as u16;
    if packet.len() < 60 || shape & 1 == 0 {
        return packet;
    }
    let protocol = if shape & 4 == 0 { model::TCP } else { model::UDP };
    let start = if shape & 2 == 0 {
        packet[0] = 0x45;
        packet[9] = protocol;
        packet[6] &= 0x40;
        packet[7] = 0;
        model::put_u16(&mut packet, 2, length);
        model::write_ip_checksum(&mut packet, 20);
        20
    } else {
        packet[0] = 0x60;
        packet[6] = protocol;
        model::put_u16(&mut packet, 4, length - 40);
        40
    };
    if protocol == model::UDP {
        model::put_u16(&mut packet, start + 4, length - start as u16);
    } else if shape & 8 == 0 {
        packet[start + 12] = 0x50;
        packet[start + 13] &= model::ACK | model::PSH;
    }
    packet
}

// Packets: shape, virtio-net header, length of what comes from the input and of what is added, bytes.
fuzz_target!(|input: &[u8]| {
    let now = Instant::now();
    let (mut alice, mut bob) = (core(ALICE, BOB, now), core(BOB, ALICE, now));
    shake_hands(&mut alice, &mut bob, now);
    let mut rest = input;
    let mut arrived = Output::default();
    let mut which = 0_u64;
    while let [shape, a, b, c, d, e, f, g, h, i, j, k, l, length, more, bytes @ ..] = rest {
        let Some(header) = Vnet::decode(&[*a, *b, *c, *d, *e, *f, *g, *h, *i, *j, *k, *l]) else { return };
        let (packet, behind) = bytes.split_at(usize::from(*length).min(bytes.len()));
        rest = behind;
        which = which << 1 | u64::from(shape >> 7);
        let mut packet = packet.to_vec();
        packet.extend((0..usize::from(*more) * if shape & 16 == 0 { 1 } else { 200 }).map(|number| number as u8));
        let packet = shaped(packet, *shape);
        let mut sent = Output::default();
        let mut packet = [&[0; wire::HEADER_BYTES][..], &packet].concat();
        alice.outbound(FromTun { packet: &mut packet, header }, now, &mut sent);
        let mut numbers: Vec<_> = sent.datagrams.iter().map(|datagram| model::u32_at(datagram, 8)).collect();
        numbers.dedup();
        assert_eq!(numbers.len(), sent.datagrams.len(), "a number was used twice");
        for mut datagram in sent.datagrams {
            assert!(datagram.len() <= usize::from(MTU_BYTES) + wire::HEADER_BYTES);
            bob.inbound(ALICE.into(), &mut datagram, now, &mut arrived);
        }
    }
    let originals: Vec<_> = arrived
        .packets
        .iter()
        .map(|(packet, checksum)| model::seen(&packet[wire::HEADER_BYTES..], *checksum == Checksum::Partial))
        .collect();
    let (mut seen, mut number) = (Vec::new(), 0);
    fuzz::join(&mut arrived.packets, |written| {
        let refused = written[1] != 0 && which >> (number % 64) & 1 == 1;
        number += 1;
        if !refused {
            seen.extend(model::take_apart(written));
        }
        !refused
    });
    assert_eq!(seen.len(), originals.len());
    for (seen, original) in seen.iter().zip(&originals) {
        assert!(model::same(seen, original), "{original:02x?} became {seen:02x?}");
    }
});
