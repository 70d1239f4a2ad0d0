//! Two cores, and what leaves them.

use crate::model::{self, Headers, TCP, u32_at};
use adit_dataplane::{
    Checksum, Core, FecMode, FecPolicy, FromTun, Gso, GsoKind, Identity, PeerConfig, PeerId, PeerKeys, Probing, Secret,
    Security, Sink, TunnelConfig, Vnet, wire,
};
use std::{
    net::SocketAddr,
    ops::Range,
    time::{Duration, Instant},
};

pub const MTU_BYTES: u16 = 1456;
const TAG_BYTES: usize = 16;
const ALICE: ([u8; 4], u16) = ([192, 0, 2, 1], 6090);
const BOB: ([u8; 4], u16) = ([192, 0, 2, 2], 6090);

type Format = fn(Identity) -> Security;

/// What a core said.
#[derive(Default)]
pub struct Said {
    pub datagrams: Vec<Vec<u8>>,
    /// Where in memory the payloads lie that were not copied.
    pub payloads: Vec<Range<usize>>,
    pub to_tun: Vec<(Vec<u8>, Checksum)>,
}

impl<'p> Sink<'p> for Said {
    fn network(&mut self, _: SocketAddr, head: &[u8], payload: &'p [u8]) {
        let range = payload.as_ptr_range();
        self.payloads.push(range.start as usize..range.end as usize);
        self.datagrams.push([head, payload].concat());
    }
    fn datagram(&mut self, to: SocketAddr, length: usize, write: impl FnOnce(&mut [u8]) -> bool) {
        let mut place = vec![0; length];
        if write(&mut place) {
            self.network(to, &place, &[]);
        }
    }
    fn tun_now(&mut self, packet: &mut [u8], checksum: Checksum) {
        self.to_tun.push((packet[wire::HEADER_BYTES..].to_vec(), checksum));
    }
}

pub struct Tunnel {
    pub alice: Core,
    pub bob: Core,
    pub now: Instant,
}

impl Tunnel {
    pub fn down() -> Self {
        Self::down_with(None)
    }

    /// Sealed in this format, or not.
    fn down_with(format: Option<Format>) -> Self {
        let now = Instant::now();
        let secret = |address: ([u8; 4], u16)| Secret::new([address.0[3]; 32]);
        let core = |local: ([u8; 4], u16), remote: ([u8; 4], u16), theirs: [&str; 2]| {
            let identity = Identity { private: secret(local), also: None };
            let keys = PeerKeys { public: secret(remote).public_key(), also: None, preshared: None };
            let peer = PeerConfig {
                id: PeerId(1),
                endpoint: Some(remote.into()),
                heard_from: None,
                allowed_ips: theirs.map(|prefix| prefix.parse().unwrap()).to_vec(),
                keepalive: None,
                keys: format.map(|_| keys),
            };
            let config = TunnelConfig {
                local: local.into(),
                mtu_bytes: MTU_BYTES,
                epoch: 9,
                security: format.map_or(Security::Plain, |format| format(identity)),
                probing: Probing::default(),
                // So that what is sent is what a test is about.
                fec: FecPolicy { mode: FecMode::Off, ..FecPolicy::default() },
                peers: vec![peer],
                shortcut: false,
            };
            Core::new(config, now, [local.0[3]; 32]).unwrap()
        };
        Self {
            alice: core(ALICE, BOB, ["10.0.0.2/32", "fd00::2/128"]),
            bob: core(BOB, ALICE, ["10.0.0.1/32", "fd00::1/128"]),
            now,
        }
    }

    pub fn up() -> Self {
        let mut tunnel = Self::down();
        tunnel.shake_hands();
        tunnel
    }

    /// One of each kind: plain, and sealed in both formats.
    pub fn each_up() -> impl Iterator<Item = Self> {
        [None, Some(Security::Noise as Format), Some(Security::WireGuard)].into_iter().map(|format| {
            let mut tunnel = Self::down_with(format);
            tunnel.shake_hands();
            tunnel
        })
    }

    /// Returns the packets that waited for it and have reached Bob's TUN.
    pub fn shake_hands(&mut self) -> Vec<(Vec<u8>, Checksum)> {
        let (mut from_alice, mut to_tun) = (Said::default(), Vec::new());
        self.now += Duration::from_secs(2);
        self.alice.tick(self.now, &mut from_alice);
        while !from_alice.datagrams.is_empty() {
            let mut from_bob = Said::default();
            for mut datagram in from_alice.datagrams.drain(..) {
                self.bob.inbound(ALICE.into(), &mut datagram, self.now, &mut from_bob);
            }
            for mut datagram in from_bob.datagrams {
                self.alice.inbound(BOB.into(), &mut datagram, self.now, &mut from_alice);
            }
            to_tun.extend(from_bob.to_tun);
        }
        assert!(self.alice.stats(self.now).peers[0].established);
        to_tun
    }

    /// Alice's TUN hands over a packet.
    pub fn send(&mut self, packet: &[u8], header: Vnet) -> Said {
        let mut packet = [&[0; wire::HEADER_BYTES], packet].concat();
        let mut said = Said::default();
        self.alice.outbound(FromTun { packet: &mut packet, header }, self.now, &mut said);
        said
    }

    /// The same, all the way: what reaches Bob's TUN. The datagrams are looked at on their way.
    pub fn pass(&mut self, packet: &[u8], header: Vnet) -> Vec<(Vec<u8>, Checksum)> {
        let sent = self.send(packet, header);
        let mut said = Said::default();
        for mut datagram in sent.datagrams {
            assert!(datagram.len() <= usize::from(MTU_BYTES) + wire::HEADER_BYTES + TAG_BYTES);
            self.bob.inbound(ALICE.into(), &mut datagram, self.now, &mut said);
        }
        assert_eq!(said.datagrams, Vec::<Vec<u8>>::new());
        assert_eq!(self.bob.stats(self.now).drops, []);
        said.to_tun
    }

    pub fn drops(&self) -> Vec<(&'static str, u64)> {
        self.alice.stats(self.now).drops
    }
}

/// What the kernel says of a packet with these headers and a partial checksum: that it is one, or several of this payload.
pub fn vnet(headers: &Headers, segment_bytes: Option<usize>) -> Vnet {
    let (start, offset) = headers.checksum_place();
    let kind = match (headers.protocol, headers.is_v6) {
        (TCP, false) => GsoKind::Tcp4,
        (TCP, true) => GsoKind::Tcp6,
        _ => GsoKind::Udp,
    };
    let gso = |bytes| Gso { kind, header_bytes: headers.bytes() as u16, segment_bytes: bytes as u16 };
    Vnet { checksum: Some((start as u16, offset as u16)), segments: segment_bytes.map(gso) }
}

/// The packet as whoever looks at it sees it.
pub fn seen((packet, checksum): (Vec<u8>, Checksum)) -> Vec<u8> {
    model::seen(&packet, checksum == Checksum::Partial)
}

/// Count and sequence number of a datagram.
pub fn numbers(datagram: &[u8]) -> (u32, u32) {
    assert_eq!(datagram[0], 0x01, "DATA of version 1");
    (u32_at(datagram, 8), u32_at(datagram, 12))
}
