//! Both ends of a tunnel in one engine, with leave to skip the network.

use crate::ends::{End, config, message, passes, read, socket, tun, wait_for, write};
use adit_dataplane::{Engine, Gso, GsoKind, Vnet, wire};
use std::net::UdpSocket;

fn tunnel(engine: &Engine, allowed: [bool; 2]) -> [End; 2] {
    let (sockets, tuns) = ([socket(), socket()], [tun(), tun()]);
    let addresses = sockets.each_ref().map(|(_, address)| *address);
    let mut tuns = tuns.into_iter().enumerate();
    let ends = sockets.map(|(udp, address)| {
        let (number, (tun, pod)) = tuns.next().unwrap();
        let mut config = config(number, address, addresses[1 - number]);
        (config.shortcut, config.epoch) = (allowed[number], number as u64 + 5);
        End { id: engine.add(config, tun, udp).unwrap(), pod, udp: address }
    });
    for end in &ends {
        wait_for(engine, end, |stats| stats.peers[0].established);
    }
    ends
}

fn takes_shortcut(engine: &Engine, end: &End) -> bool {
    engine.stats(end.id).unwrap().peers[0].shortcut
}

/// Sends until both ends have noticed each other.
fn found(engine: &Engine, ends: &[End; 2]) {
    for end in ends {
        wait_for(engine, end, |stats| {
            passes(ends);
            stats.peers[0].shortcut
        });
    }
}

#[test]
fn packets_go_from_tun_to_tun_and_are_counted() {
    for workers in [1, 2] {
        let engine = Engine::start(workers).unwrap();
        let ends = tunnel(&engine, [true, true]);
        found(&engine, &ends);
        // No socket that a datagram could reach is left.
        for end in &ends {
            engine.replace_udp(end.id, UdpSocket::bind("127.0.0.1:0").unwrap().into()).unwrap();
        }
        let before = ends.each_ref().map(|end| engine.stats(end.id).unwrap().peers[0].clone());
        passes(&ends);
        for (end, before) in ends.iter().zip(&before) {
            let after = engine.stats(end.id).unwrap();
            assert_eq!(after.peers[0].rx_packets, before.rx_packets + 1);
            assert_eq!(after.peers[0].tx_packets, before.tx_packets + 1);
            assert_eq!(after.peers[0].rx_bytes - before.rx_bytes, after.peers[0].tx_bytes - before.tx_bytes);
            assert_eq!(after.drops, []);
        }
    }
}

#[test]
fn packet_that_stands_for_several_stays_one() {
    let engine = Engine::start(1).unwrap();
    let ends = tunnel(&engine, [true, true]);
    found(&engine, &ends);
    let mut several = message(0, &[7; 1000]);
    let gso = Gso { kind: GsoKind::Udp, header_bytes: 28, segment_bytes: 300 };
    let header = Vnet { checksum: Some((20, 6)), segments: Some(gso) };
    several[..wire::VNET_HEADER_BYTES].copy_from_slice(&header.encode());
    let before = engine.stats(ends[1].id).unwrap().peers[0].rx_packets;
    assert!(write(&ends[0].pod, &several));
    assert_eq!(read(&ends[1].pod), Some(several));
    assert_eq!(engine.stats(ends[1].id).unwrap().peers[0].rx_packets, before + 4);
}

#[test]
fn one_end_that_does_not_want_it_is_enough() {
    let engine = Engine::start(1).unwrap();
    for allowed in [[true, false], [false, true], [false, false]] {
        let ends = tunnel(&engine, allowed);
        (0..10).for_each(|_| passes(&ends));
        assert!(!ends.iter().any(|end| takes_shortcut(&engine, end)), "{allowed:?}");
    }
}

#[test]
fn source_that_is_not_the_peers_is_dropped() {
    let engine = Engine::start(1).unwrap();
    let ends = tunnel(&engine, [true, true]);
    found(&engine, &ends);
    let mut forged = message(0, b"not from here");
    forged[wire::VNET_HEADER_BYTES + 15] = 77;
    assert!(write(&ends[0].pod, &forged));
    wait_for(&engine, &ends[0], |stats| stats.drops == [("source_not_allowed", 1)]);
    passes(&ends);
}

#[test]
fn removed_end_is_closed_and_comes_back() {
    let engine = Engine::start(2).unwrap();
    let [one, other] = tunnel(&engine, [true, true]);
    let ends = [one, other];
    found(&engine, &ends);
    let [one, other] = ends;
    engine.remove(other.id).unwrap();
    assert_eq!(read(&other.pod), None);
    assert!(write(&one.pod, &message(0, b"into the void")));
    wait_for(&engine, &one, |stats| !stats.peers[0].shortcut);

    let (tun, pod) = tun();
    let mut config = config(1, other.udp, one.udp);
    (config.shortcut, config.epoch) = (true, 9);
    let udp = UdpSocket::bind(other.udp).unwrap().into();
    let other = End { id: engine.add(config, tun, udp).unwrap(), pod, udp: other.udp };
    wait_for(&engine, &other, |stats| stats.peers[0].established);
    wait_for(&engine, &one, |stats| stats.peers[0].handshakes > 1);
    found(&engine, &[one, other]);
}
