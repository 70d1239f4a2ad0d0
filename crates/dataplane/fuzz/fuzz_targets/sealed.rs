#![no_main]

use adit_dataplane::{
    Checksum, Core, Identity, PeerConfig, PeerId, PeerKeys, FecPolicy, Probing, Secret, Security, Sink, TunnelConfig, fuzz, wire,
};
use libfuzzer_sys::fuzz_target;
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

const ALICE: ([u8; 4], u16) = ([192, 0, 2, 1], 6090);
const BOB: ([u8; 4], u16) = ([192, 0, 2, 2], 6090);
const EVE: ([u8; 4], u16) = ([192, 0, 2, 3], 6090);

#[derive(Default)]
struct Output(Vec<Vec<u8>>);

impl<'p> Sink<'p> for Output {
    fn network(&mut self, _: SocketAddr, head: &[u8], payload: &'p [u8]) {
        self.0.push([head, payload].concat());
    }
    fn datagram(&mut self, _: SocketAddr, length: usize, write: impl FnOnce(&mut [u8]) -> bool) {
        let mut place = vec![0; length];
        assert!(write(&mut place));
        self.0.push(place);
    }
    fn tun_now(&mut self, packet: &mut [u8], _: Checksum) {
        assert!(packet.len() >= wire::HEADER_BYTES + 20);
    }
}

fn core(format: fn(Identity) -> Security, own: ([u8; 4], u16), other: ([u8; 4], u16), now: Instant) -> Core {
    let secret = |address: ([u8; 4], u16)| Secret::new([address.0[3]; 32]);
    let peer = PeerConfig {
        id: PeerId(1),
        endpoint: Some(other.into()).filter(|_| own == ALICE),
        heard_from: None,
        // Any inner address, so that bytes seldom go to nobody.
        allowed_ips: ["0.0.0.0/0", "::/0"].map(|prefix| prefix.parse().unwrap()).to_vec(),
        keepalive: None,
        keys: Some(PeerKeys { public: secret(other).public_key(), also: None, preshared: None }),
    };
    let security = format(Identity { private: secret(own), also: None });
    let (local, epoch) = (own.into(), 9);
    let config = TunnelConfig { local, mtu_bytes: 1440, epoch, shortcut: false, security, probing: Probing::default(), fec: FecPolicy::default(), peers: vec![peer] };
    Core::new(config, now, [own.0[3]; 32]).unwrap()
}

// First byte: the format, and how far the handshake gets. Then datagrams to Bob: length, shape, bytes.
fuzz_target!(|input: &[u8]| {
    let Some((first, mut rest)) = input.split_first() else { return };
    let format = if first & 1 == 0 { Security::Noise as fn(Identity) -> Security } else { Security::WireGuard };
    let mut now = Instant::now();
    let (mut alice, mut bob) = (core(format, ALICE, BOB, now), core(format, BOB, ALICE, now));
    let (mut initiation, mut index) = (Output::default(), [0; 4]);
    alice.tick(now, &mut initiation);
    let mut first_message = initiation.0.pop().unwrap();
    if first & 2 == 0 {
        let (mut answer, mut confirmation) = (Output::default(), Output::default());
        bob.inbound(ALICE.into(), &mut first_message.clone(), now, &mut answer);
        alice.inbound(BOB.into(), &mut answer.0.pop().unwrap(), now, &mut confirmation);
        let mut confirmation = confirmation.0.pop().unwrap();
        index.copy_from_slice(&confirmation[4..8]);
        bob.inbound(ALICE.into(), &mut confirmation, now, &mut answer);
        assert!(bob.stats(now).peers[0].established);
    }
    while let [length, shape, bytes @ ..] = rest {
        let length = usize::from(*length).min(bytes.len());
        let (bytes, behind) = bytes.split_at(length);
        rest = behind;
        let mut datagram = match shape & 3 {
            // Whatever it is.
            0 => bytes.to_vec(),
            // For the session that there is.
            1 => {
                let mut datagram = bytes.to_vec();
                if let Some(place) = datagram.get_mut(4..8) {
                    place.copy_from_slice(&index);
                }
                datagram
            }
            // What a peer seals that means no good.
            2 => fuzz::seal(&mut alice, bytes, now).unwrap_or_default(),
            // A handshake with some bytes changed.
            _ => {
                first_message.iter_mut().zip(bytes).for_each(|(place, byte)| *place ^= byte);
                first_message.clone()
            }
        };
        let from = if shape & 4 == 0 { ALICE } else { EVE };
        now += Duration::from_millis(u64::from(shape >> 3) * 100);
        let mut output = Output::default();
        bob.inbound(from.into(), &mut datagram, now, &mut output);
        let answered: usize = output.0.iter().map(Vec::len).sum();
        assert!(answered <= datagram.len(), "{answered} bytes answer {}", datagram.len());
        bob.tick(now, &mut output);
        assert!(bob.next_wake().is_none_or(|at| at > now));
        bob.stats(now);
    }
});
