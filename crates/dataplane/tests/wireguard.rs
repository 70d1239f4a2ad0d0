//! WireGuard's protocol, spoken with another implementation of it, in memory.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    missing_docs,
    reason = "a test that panics has failed, as it should"
)]

#[path = "network/world.rs"]
#[allow(dead_code, reason = "shared with the tests of the core")]
mod world;

use adit_dataplane::{
    Checksum, Core, FromTun, Identity, PeerConfig, PeerKeys, Secret, Security, Sink, TunnelConfig, Vnet, wire,
};
use boringtun::{
    noise::{Tunn, TunnResult},
    x25519::{PublicKey, StaticSecret},
};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use world::{ALICE, BOB, peer, to_alice, to_bob, tunnel, with_room};

const OURS: [u8; 32] = [1; 32];
const THEIRS: [u8; 32] = [2; 32];

#[derive(Default)]
struct Said {
    datagrams: Vec<Vec<u8>>,
    packets: Vec<Vec<u8>>,
}

impl<'p> Sink<'p> for Said {
    fn network(&mut self, _: SocketAddr, head: &[u8], payload: &'p [u8]) {
        self.datagrams.push([head, payload].concat());
    }
    fn datagram(&mut self, _: SocketAddr, length: usize, write: impl FnOnce(&mut [u8]) -> bool) {
        let mut place = vec![0; length];
        assert!(write(&mut place));
        self.datagrams.push(place);
    }
    fn tun_now(&mut self, packet: &mut [u8], _: Checksum) {
        self.packets.push(packet[wire::HEADER_BYTES..].to_vec());
    }
}

/// Alice is ours, Bob is not.
struct Pair {
    alice: Core,
    bob: Tunn,
    now: Instant,
    to_alice: Vec<Vec<u8>>,
    to_bob: Vec<Vec<u8>>,
    alice_got: Vec<Vec<u8>>,
    bob_got: Vec<Vec<u8>>,
}

impl Pair {
    fn new(alice_knows_bobs_address: bool, preshared: Option<[u8; 32]>) -> Self {
        let now = Instant::now();
        let keys =
            PeerKeys { public: Secret::new(THEIRS).public_key(), also: None, preshared: preshared.map(Secret::new) };
        let bob = PeerConfig { keys: Some(keys), ..peer(1, BOB, &["10.0.0.2/32"]) };
        let bob = PeerConfig { endpoint: bob.endpoint.filter(|_| alice_knows_bobs_address), ..bob };
        let identity = Identity { private: Secret::new(OURS), also: None };
        let epoch = 1_700_000_000_000_000;
        let config = TunnelConfig { security: Security::WireGuard(identity), ..tunnel(ALICE, epoch, &[bob]) };
        let public = PublicKey::from(&StaticSecret::from(OURS));
        Self {
            alice: Core::new(config, now, [5; 32]).unwrap(),
            bob: Tunn::new(StaticSecret::from(THEIRS), public, preshared, None, 7, None),
            now,
            to_alice: Vec::new(),
            to_bob: Vec::new(),
            alice_got: Vec::new(),
            bob_got: Vec::new(),
        }
    }

    fn alice_acts(&mut self, act: impl FnOnce(&mut Core, Instant, &mut Said)) {
        let mut said = Said::default();
        act(&mut self.alice, self.now, &mut said);
        self.to_bob.extend(said.datagrams);
        self.alice_got.extend(said.packets);
    }

    fn bob_said(&mut self, result: &TunnResult<'_>) -> bool {
        match result {
            TunnResult::WriteToNetwork(datagram) => self.to_alice.push(datagram.to_vec()),
            TunnResult::WriteToTunnelV4(packet, _) => self.bob_got.push(packet.to_vec()),
            TunnResult::Done => {}
            other => panic!("{other:?}"),
        }
        matches!(result, TunnResult::WriteToNetwork(_))
    }

    fn bob_acts(&mut self, act: impl for<'a> FnOnce(&mut Tunn, &'a mut [u8]) -> TunnResult<'a>) -> bool {
        let mut place = [0; 2048];
        let mut bob = std::mem::replace(
            &mut self.bob,
            Tunn::new(StaticSecret::from(THEIRS), PublicKey::from([9; 32]), None, None, 8, None),
        );
        let result = act(&mut bob, &mut place);
        let more = self.bob_said(&result);
        self.bob = bob;
        more
    }

    /// Until nobody says anything any more.
    fn settle(&mut self) {
        loop {
            self.alice_acts(|alice, now, said| alice.tick(now, said));
            let (to_bob, to_alice) = (std::mem::take(&mut self.to_bob), std::mem::take(&mut self.to_alice));
            if to_bob.is_empty() && to_alice.is_empty() {
                return;
            }
            for datagram in to_bob {
                let mut more = self.bob_acts(|bob, place| bob.decapsulate(None, &datagram, place));
                while more {
                    more = self.bob_acts(|bob, place| bob.decapsulate(None, &[], place));
                }
            }
            for mut datagram in to_alice {
                self.alice_acts(|alice, now, said| alice.inbound(BOB.parse().unwrap(), &mut datagram, now, said));
            }
        }
    }

    fn alice_sends(&mut self, packet: &[u8]) {
        let mut packet = with_room(packet);
        self.alice_acts(|alice, now, said| {
            alice.outbound(FromTun { packet: &mut packet, header: Vnet::default() }, now, said);
        });
    }

    fn bob_sends(&mut self, packet: &[u8]) {
        self.bob_acts(|bob, place| bob.encapsulate(packet, place));
    }

    fn packets_of_all_lengths_pass(&mut self) {
        let lengths = [0, 1, 3, 4, 5, 100, 1411, 1412, 1428];
        let ours: Vec<_> = lengths.iter().map(|length| to_bob(&vec![7; *length])).collect();
        let theirs: Vec<_> = lengths.iter().map(|length| to_alice(&vec![8; *length])).collect();
        ours.iter().for_each(|packet| self.alice_sends(packet));
        theirs.iter().for_each(|packet| self.bob_sends(packet));
        self.settle();
        assert_eq!((std::mem::take(&mut self.bob_got), std::mem::take(&mut self.alice_got)), (ours, theirs));
        assert_eq!(self.alice.stats(self.now).drops, []);
    }
}

#[test]
fn we_begin_and_packets_of_all_lengths_pass() {
    for preshared in [None, Some([9; 32])] {
        let mut pair = Pair::new(true, preshared);
        pair.settle();
        assert!(pair.alice.stats(pair.now).peers[0].established);
        pair.packets_of_all_lengths_pass();
        assert_eq!(pair.alice.stats(pair.now).peers[0].handshakes, 1);
    }
}

#[test]
fn the_other_end_begins_and_packets_of_all_lengths_pass() {
    for preshared in [None, Some([9; 32])] {
        let mut pair = Pair::new(false, preshared);
        pair.bob_sends(&to_alice(b"first"));
        pair.settle();
        assert_eq!(std::mem::take(&mut pair.alice_got), [to_alice(b"first")]);
        pair.packets_of_all_lengths_pass();
        assert_eq!(pair.alice.stats(pair.now).peers[0].endpoint, Some(BOB.parse().unwrap()));
    }
}

#[test]
fn sessions_are_renewed_by_either_end_while_packets_are_under_way() {
    let mut pair = Pair::new(true, None);
    pair.settle();
    // The other end takes ten handshakes a second, by the real clock.
    for round in 0..8 {
        pair.alice_sends(&to_bob(b"before"));
        pair.bob_sends(&to_alice(b"before"));
        if round % 2 == 0 {
            pair.bob_acts(|bob, place| bob.format_handshake_initiation(place, true));
        } else {
            // Ours, because the session is worn.
            pair.now += Duration::from_secs(121);
            pair.alice_sends(&to_bob(b"renews"));
            pair.settle();
            pair.bob_got.clear();
            pair.alice_got.clear();
            pair.packets_of_all_lengths_pass();
            continue;
        }
        pair.alice_sends(&to_bob(b"after"));
        pair.settle();
        assert_eq!(std::mem::take(&mut pair.bob_got), [to_bob(b"before"), to_bob(b"after")]);
        assert_eq!(std::mem::take(&mut pair.alice_got), [to_alice(b"before")]);
        pair.packets_of_all_lengths_pass();
    }
    assert_eq!(pair.alice.stats(pair.now).drops, []);
}
