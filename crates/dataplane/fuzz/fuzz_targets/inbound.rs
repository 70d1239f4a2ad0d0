//! `cargo +nightly fuzz run inbound` in `crates/dataplane`: whatever the network sends, the core stays
//! whole, and answers nobody with more bytes than it was sent.
#![no_main]

use adit_dataplane::{Checksum, Core, Ecn, FecPolicy, PeerConfig, PeerId, Probing, Security, Sink, TunnelConfig, wire};
use libfuzzer_sys::fuzz_target;
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

const ALICE: ([u8; 4], u16) = ([192, 0, 2, 1], 6090);
const BOB: ([u8; 4], u16) = ([192, 0, 2, 2], 6090);
const EVE: ([u8; 4], u16) = ([192, 0, 2, 3], 6090);
const INSIDE: [&str; 2] = ["10.0.0.1/32", "10.0.0.2/32"];

#[derive(Default)]
struct Output(Vec<Vec<u8>>);

impl<'p> Sink<'p> for Output {
    fn network(&mut self, to: SocketAddr, head: &[u8], payload: &'p [u8]) {
        assert_ne!(to, SocketAddr::from(EVE));
        self.0.push([head, payload].concat());
    }
    fn datagram(&mut self, to: SocketAddr, length: usize, write: impl FnOnce(&mut [u8]) -> bool) {
        let mut place = vec![0; length];
        if write(&mut place) {
            self.network(to, &place, &[]);
        }
    }
    fn tun_now(&mut self, packet: &mut [u8], _: Checksum) {
        assert!(packet.len() >= wire::HEADER_BYTES + 20);
    }
}

fn core(local: ([u8; 4], u16), remote: ([u8; 4], u16), theirs: &str, now: Instant) -> Core {
    let peer = PeerConfig {
        id: PeerId(1),
        endpoint: Some(remote.into()),
        heard_from: None,
        allowed_ips: vec![theirs.parse().unwrap()],
        keepalive: Some(Duration::from_secs(1)),
        keys: None,
    };
    let config = TunnelConfig {
        local: local.into(),
        mtu_bytes: 1456,
        epoch: 9,
        shortcut: false,
        security: Security::Plain,
        probing: Probing::default(),
        fec: FecPolicy::default(),
        peers: vec![peer],
    };
    Core::new(config, now, [local.0[3]; 32]).unwrap()
}

/// Runs the handshake, up to `steps` exchanges; returns the index under which Alice receives.
fn shake_hands(alice: &mut Core, bob: &mut Core, steps: u8, now: Instant) -> [u8; 4] {
    let mut index = [0; 4];
    let mut from_alice = Output::default();
    alice.tick(now, &mut from_alice);
    for _ in 0..steps {
        let mut from_bob = Output::default();
        for mut datagram in from_alice.0.drain(..) {
            bob.inbound(ALICE.into(), &mut datagram, now, &mut from_bob);
        }
        for mut datagram in from_bob.0 {
            index.copy_from_slice(&datagram[4..8]);
            alice.inbound(BOB.into(), &mut datagram, now, &mut from_alice);
        }
    }
    index
}

// First byte: how far the handshake got. Then datagrams: length, shape, bytes.
fuzz_target!(|input: &[u8]| {
    let Some((steps, mut rest)) = input.split_first() else { return };
    let mut now = Instant::now();
    let mut alice = core(ALICE, BOB, INSIDE[1], now);
    let mut bob = core(BOB, ALICE, INSIDE[0], now);
    let index = shake_hands(&mut alice, &mut bob, steps % 4, now);
    while let [length, shape, bytes @ ..] = rest {
        let length = usize::from(*length).min(bytes.len());
        let (datagram, behind) = bytes.split_at(length);
        rest = behind;
        let mut datagram = datagram.to_vec();
        // Random bytes seldom guess the index.
        if shape & 1 == 0 && datagram.len() >= 8 {
            datagram[4..8].copy_from_slice(&index);
        }
        let from = if shape & 2 == 0 { BOB } else { EVE };
        let mark = [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce][usize::from(shape >> 2 & 3)];
        now += Duration::from_millis(u64::from(shape >> 4) * 40);
        let mut output = Output::default();
        alice.inbound_marked(from.into(), mark, &mut datagram, now, &mut output);
        let answered: usize = output.0.iter().filter(|answer| answer[0] >> 4 >= 4).map(Vec::len).sum();
        assert!(answered <= datagram.len());
        alice.tick(now, &mut output);
        assert!(alice.next_wake().is_none_or(|at| at > now));
        alice.stats(now);
    }
});
