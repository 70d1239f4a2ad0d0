//! Tunnels whose pods are in this process.

use adit_dataplane::{
    Engine, FecPolicy, PeerConfig, PeerId, Probing, Security, TunnelConfig, TunnelId, TunnelStats, wire,
};
use nix::sys::{
    socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, socketpair, sockopt},
    time::TimeVal,
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

pub const DEADLINE: Duration = Duration::from_secs(10);
pub const INSIDE: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];

/// One end of a tunnel and the pod's side of its TUN.
pub struct End {
    pub id: TunnelId,
    pub pod: OwnedFd,
    pub udp: SocketAddr,
}

pub fn socket() -> (OwnedFd, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    (socket.into(), address)
}

pub fn tun() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
}

pub fn config(own: usize, local: SocketAddr, remote: SocketAddr) -> TunnelConfig {
    TunnelConfig {
        local,
        mtu_bytes: 1456,
        epoch: 1,
        shortcut: false,
        security: Security::Plain,
        probing: Probing { interval: Some(Duration::ZERO), ..Probing::default() },
        fec: FecPolicy::default(),
        peers: vec![peer(remote, 1 - own)],
    }
}

pub fn peer(endpoint: SocketAddr, number: usize) -> PeerConfig {
    PeerConfig {
        id: PeerId(0),
        endpoint: Some(endpoint),
        heard_from: None,
        allowed_ips: vec![IpAddr::from(INSIDE[number]).into()],
        keepalive: None,
        keys: None,
    }
}

/// A tunnel with both ends in this engine, up.
pub fn tunnel(engine: &Engine) -> [End; 2] {
    tunnel_that_asks(engine, Probing { interval: Some(Duration::ZERO), ..Probing::default() })
}

/// The same, with ends that ask each other.
pub fn tunnel_that_asks(engine: &Engine, probing: Probing) -> [End; 2] {
    let (sockets, tuns) = ([socket(), socket()], [tun(), tun()]);
    let addresses = sockets.each_ref().map(|(_, address)| *address);
    let mut number = 0;
    let mut tuns = tuns.into_iter();
    let ends = sockets.map(|(udp, address)| {
        let (tun, pod) = tuns.next().unwrap();
        let config = TunnelConfig { probing, ..config(number, address, addresses[1 - number]) };
        number += 1;
        End { id: engine.add(config, tun, udp).unwrap(), pod, udp: address }
    });
    for end in &ends {
        wait_for(engine, end, |stats| stats.peers[0].established);
    }
    ends
}

pub fn wait_for(engine: &Engine, end: &End, condition: impl Fn(&TunnelStats) -> bool) -> TunnelStats {
    let start = Instant::now();
    loop {
        let stats = engine.stats(end.id).unwrap();
        if condition(&stats) {
            return stats;
        }
        assert!(start.elapsed() < DEADLINE, "{stats:?}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A message on the TUN: zero virtio-net header and a UDP packet from this end to the other.
pub fn message(from: usize, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![0; wire::VNET_HEADER_BYTES];
    message.extend([0x45, 0]);
    message.extend((28 + payload.len() as u16).to_be_bytes());
    message.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    message.extend(INSIDE[from].octets());
    message.extend(INSIDE[1 - from].octets());
    message.extend([0, 7, 0, 7]);
    message.extend((8 + payload.len() as u16).to_be_bytes());
    message.extend([0, 0]);
    message.extend(payload);
    message
}

pub fn write(pod: &OwnedFd, message: &[u8]) -> bool {
    send(pod.as_raw_fd(), message, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL).is_ok()
}

/// The next message, or `None` at the end of the file.
pub fn read(pod: &OwnedFd) -> Option<Vec<u8>> {
    setsockopt(pod, sockopt::ReceiveTimeout, &TimeVal::new(DEADLINE.as_secs() as i64, 0)).unwrap();
    let mut bytes = [0; 2000];
    match recv(pod.as_raw_fd(), &mut bytes, MsgFlags::empty()).unwrap() {
        0 => None,
        length => Some(bytes[..length].to_vec()),
    }
}

pub fn passes(ends: &[End; 2]) {
    for (from, to) in [(0, 1), (1, 0)] {
        assert!(write(&ends[from].pod, &message(from, b"passes")));
        assert_eq!(read(&ends[to].pod), Some(message(from, b"passes")));
    }
}
