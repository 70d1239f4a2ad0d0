//! A network in memory: cores with addresses, datagrams that take 10 ms, a clock that jumps. Eve is the
//! test: she reads `sent`, loses datagrams through `lose`, and sends what she likes with `inject`.

use adit_dataplane::{
    Checksum, Core, Ecn, FecMode, FecPolicy, FromTun, PeerConfig, PeerId, Probing, Security, Sink, TunnelConfig,
    TunnelStats, Vnet, wire,
};
use std::{
    collections::VecDeque,
    mem,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

pub const LATENCY: Duration = Duration::from_millis(10);
pub const ALICE: &str = "192.0.2.1:6090";
pub const BOB: &str = "192.0.2.2:6090";
pub const ALICE_INSIDE: &str = "10.0.0.1";
pub const BOB_INSIDE: &str = "10.0.0.2";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
    /// What its outer header says of congestion.
    pub ecn: Ecn,
}

impl Datagram {
    /// `hello`, `cookie`, `welcome`, `data`, `keepalive`, `probe`, `unknown`, or `other`; of sealed ones `initiation`, `answer` and
    /// `sealed cookie`, and `data` for whatever is sealed.
    pub fn kind(&self) -> &'static str {
        match (&self.bytes[..], self.bytes.len()) {
            ([1, 0, 0, 0, ..], 148) => return "initiation",
            ([2, 0, 0, 0, ..], 92) => return "answer",
            ([3, 0, 0, 0, ..], 64) => return "sealed cookie",
            ([4, 0, 0, 0, ..], _) => return "data",
            _ => {}
        }
        match (self.bytes.first().map(|byte| byte >> 4), self.bytes.get(16)) {
            (Some(4), Some(1)) => "hello",
            (Some(4), Some(2)) => "cookie",
            (Some(4), Some(3)) => "welcome",
            (Some(4), Some(4)) => "initiation",
            (Some(4), Some(5)) => "answer",
            (Some(4), Some(6)) => "sealed cookie",
            (Some(0), None) => "keepalive",
            (Some(0), Some(_)) => "data",
            (Some(3), Some(_)) => "probe",
            (Some(5), None) => "unknown",
            _ => "other",
        }
    }

    pub fn index(&self) -> u32 {
        u32::from_be_bytes(self.bytes[4..8].try_into().unwrap())
    }

    pub fn has_cookie(&self) -> bool {
        self.kind() == "hello" && self.bytes[48..64] != [0; 16]
    }
}

pub struct Node {
    pub core: Core,
    pub address: SocketAddr,
    /// Packets that reached the TUN.
    pub received: Vec<Vec<u8>>,
    /// What their checksum fields hold.
    pub checksums: Vec<Checksum>,
}

type Lose = Box<dyn FnMut(&Datagram) -> bool>;
type Mark = Box<dyn FnMut(&Datagram) -> Ecn>;

pub struct World {
    pub start: Instant,
    pub now: Instant,
    pub nodes: Vec<Node>,
    /// Everything that any core ever sent, with the time since the start.
    pub sent: Vec<(Duration, Datagram)>,
    pub lose: Lose,
    /// What the path makes of a datagram's mark.
    pub mark: Mark,
    /// How long datagrams take from now on.
    pub latency: Duration,
    flying: VecDeque<(Instant, Datagram)>,
    /// A node that stands still.
    paused: Option<usize>,
}

struct Output {
    network: Vec<(SocketAddr, Vec<u8>, Ecn)>,
    tun: Vec<(Vec<u8>, Checksum)>,
    /// Of the next datagram.
    ecn: Ecn,
}

impl<'p> Sink<'p> for Output {
    fn network(&mut self, to: SocketAddr, head: &[u8], payload: &'p [u8]) {
        self.network.push((to, [head, payload].concat(), mem::take(&mut self.ecn)));
    }
    fn datagram(&mut self, to: SocketAddr, length: usize, write: impl FnOnce(&mut [u8]) -> bool) {
        let mut place = vec![0; length];
        let ecn = mem::take(&mut self.ecn);
        if write(&mut place) {
            self.network.push((to, place, ecn));
        }
    }
    fn ecn(&mut self, ecn: Ecn) {
        self.ecn = ecn;
    }
    fn tun_now(&mut self, packet: &mut [u8], checksum: Checksum) {
        self.tun.push((packet[wire::HEADER_BYTES..].to_vec(), checksum));
    }
}

/// A packet as it is read from the TUN: with room before it.
pub fn with_room(packet: &[u8]) -> Vec<u8> {
    [&[0; wire::HEADER_BYTES], packet].concat()
}

pub fn peer(id: u32, endpoint: &str, allowed_ips: &[&str]) -> PeerConfig {
    PeerConfig {
        id: PeerId(id),
        endpoint: Some(endpoint.parse().unwrap()),
        heard_from: None,
        allowed_ips: allowed_ips.iter().map(|prefix| prefix.parse().unwrap()).collect(),
        keepalive: None,
        keys: None,
    }
}

pub fn tunnel(local: &str, epoch: u64, peers: &[PeerConfig]) -> TunnelConfig {
    TunnelConfig {
        local: local.parse().unwrap(),
        mtu_bytes: 1456,
        epoch,
        shortcut: false,
        security: Security::Plain,
        // Nobody asks, and nothing is repaired, so that what is sent is what a test is about; health.rs asks, fec.rs repairs.
        probing: Probing { interval: Some(Duration::ZERO), ..Probing::default() },
        fec: FecPolicy { mode: FecMode::Off, ..FecPolicy::default() },
        peers: peers.to_vec(),
    }
}

impl World {
    pub fn new(configs: Vec<TunnelConfig>) -> Self {
        let start = Instant::now();
        let mut world = Self {
            start,
            now: start,
            nodes: Vec::new(),
            sent: Vec::new(),
            lose: Box::new(|_| false),
            mark: Box::new(|datagram| datagram.ecn),
            latency: LATENCY,
            flying: VecDeque::new(),
            paused: None,
        };
        for (number, config) in configs.into_iter().enumerate() {
            let address = config.local;
            let core = Core::new(config, start, [number as u8; 32]).unwrap();
            world.nodes.push(Node { core, address, received: Vec::new(), checksums: Vec::new() });
        }
        world
    }

    /// Alice and Bob, whose tunnel is not up yet.
    pub fn strangers() -> Self {
        Self::new(vec![
            tunnel(ALICE, 100, &[peer(1, BOB, &["10.0.0.2/32"])]),
            tunnel(BOB, 200, &[peer(1, ALICE, &["10.0.0.1/32"])]),
        ])
    }

    /// Alice and Bob, whose tunnel is up; nothing is in flight and nothing was counted so far.
    pub fn friends() -> Self {
        let mut world = Self::strangers();
        world.run(Duration::from_secs(1));
        assert!(world.established());
        assert_eq!((world.drops(0), world.drops(1)), (vec![], vec![]));
        world.sent.clear();
        world
    }

    pub fn established(&self) -> bool {
        (0..self.nodes.len()).all(|node| self.stats(node).peers.iter().all(|peer| peer.established))
    }

    pub fn stats(&self, node: usize) -> TunnelStats {
        self.nodes[node].core.stats(self.now)
    }

    pub fn drops(&self, node: usize) -> Vec<(&'static str, u64)> {
        self.stats(node).drops
    }

    /// The node starts anew, remembering nothing.
    pub fn restart(&mut self, node: usize, config: TunnelConfig) {
        let seed = [config.epoch as u8 ^ 0x80; 32];
        self.nodes[node].core = Core::new(config, self.now, seed).unwrap();
        self.nodes[node].received.clear();
        self.nodes[node].checksums.clear();
    }

    /// A packet leaves the pod of this node.
    pub fn send(&mut self, node: usize, packet: &[u8]) {
        self.send_with(node, packet, Vnet::default());
    }

    /// The same for a packet of which the kernel says this.
    pub fn send_with(&mut self, node: usize, packet: &[u8], header: Vnet) {
        let now = self.now;
        let mut packet = with_room(packet);
        let from_tun = FromTun { packet: &mut packet, header };
        self.act(node, None, |core, out| core.outbound(from_tun, now, out));
    }

    /// Eve puts a datagram on the wire.
    pub fn inject(&mut self, from: &str, to: &str, bytes: &[u8]) {
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        let datagram = Datagram { from, to, bytes: bytes.to_vec(), ecn: Ecn::NotEct };
        self.flying.push_back((self.now + self.latency, datagram));
    }

    /// Lets time pass: timers fire, datagrams arrive.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let paused = self.paused.map(|node| self.nodes[node].address);
            let awake = |to: SocketAddr| paused != Some(to);
            let arrival = self.flying.iter().filter(|(_, datagram)| awake(datagram.to)).map(|(at, _)| *at).min();
            let timer =
                self.nodes.iter().filter(|node| awake(node.address)).filter_map(|node| node.core.next_wake()).min();
            let Some(next) = arrival.into_iter().chain(timer).min().filter(|at| *at <= end) else { break };
            self.now = self.now.max(next);
            // As the worker does: what came is read before timers run.
            while let Some(due) = self.flying.iter().position(|(at, datagram)| *at <= self.now && awake(datagram.to)) {
                let (_, datagram) = self.flying.remove(due).unwrap();
                self.deliver(datagram);
            }
            for node in 0..self.nodes.len() {
                if self.paused == Some(node) {
                    continue;
                }
                let now = self.now;
                self.act(node, None, |core, out| core.tick(now, out));
            }
        }
        self.now = end;
    }

    /// The node stands still for this long, while the others go on; what comes for it waits.
    pub fn pause(&mut self, node: usize, time: Duration) {
        self.paused = Some(node);
        self.run(time);
        self.paused = None;
    }

    pub fn sent_kinds(&self) -> Vec<&'static str> {
        self.sent.iter().map(|(_, datagram)| datagram.kind()).collect()
    }

    pub fn last_sent(&self, kind: &str) -> Datagram {
        let found = self.sent.iter().rev().find(|(_, datagram)| datagram.kind() == kind);
        found.unwrap_or_else(|| panic!("no {kind} was sent")).1.clone()
    }

    fn deliver(&mut self, mut datagram: Datagram) {
        let Some(node) = self.nodes.iter().position(|node| node.address == datagram.to) else { return };
        let (now, from) = (self.now, datagram.from);
        let trigger = datagram.clone();
        self.act(node, Some(&trigger), |core, out| {
            core.inbound_marked(from, datagram.ecn, &mut datagram.bytes, now, out);
        });
    }

    fn act(&mut self, node: usize, trigger: Option<&Datagram>, action: impl FnOnce(&mut Core, &mut Output)) {
        let mut output = Output { network: Vec::new(), tun: Vec::new(), ecn: Ecn::NotEct };
        action(&mut self.nodes[node].core, &mut output);
        for (packet, checksum) in output.tun {
            self.nodes[node].received.push(packet);
            self.nodes[node].checksums.push(checksum);
        }
        for (to, bytes, ecn) in output.network {
            let mut datagram = Datagram { from: self.nodes[node].address, to, bytes, ecn };
            assert!(datagram.bytes.len() >= wire::HEADER_BYTES);
            if let (Some(trigger), "cookie" | "welcome" | "unknown" | "answer" | "sealed cookie") =
                (trigger, datagram.kind())
            {
                assert!(datagram.bytes.len() <= trigger.bytes.len(), "{datagram:?} answers {trigger:?}");
            }
            self.sent.push((self.now - self.start, datagram.clone()));
            if !(self.lose)(&datagram) {
                datagram.ecn = (self.mark)(&datagram);
                self.flying.push_back((self.now + self.latency, datagram));
            }
        }
    }
}

/// A UDP packet of either family whose checksum is absent (IPv4) or zero (never looked at, IPv6).
pub fn packet(source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
    let udp_bytes = (payload.len() + 8) as u16;
    let mut packet = match (source.parse().unwrap(), destination.parse().unwrap()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
            ip[2..4].copy_from_slice(&(udp_bytes + 20).to_be_bytes());
            ip.extend(source.octets());
            ip.extend(destination.octets());
            ip
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut ip = vec![0x60, 0, 0, 0, 0, 0, 17, 64];
            ip[4..6].copy_from_slice(&udp_bytes.to_be_bytes());
            ip.extend(source.octets());
            ip.extend(destination.octets());
            ip
        }
        families => panic!("{families:?}"),
    };
    packet.extend([0, 7, 0, 7]);
    packet.extend(udp_bytes.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

pub fn to_bob(payload: &[u8]) -> Vec<u8> {
    packet(ALICE_INSIDE, BOB_INSIDE, payload)
}

pub fn to_alice(payload: &[u8]) -> Vec<u8> {
    packet(BOB_INSIDE, ALICE_INSIDE, payload)
}
