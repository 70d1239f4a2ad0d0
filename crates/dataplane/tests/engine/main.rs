//! The engine over real descriptors that need no privilege: a socket pair in place of each TUN (one
//! message is one virtio-net header and one packet), UDP on the loopback interface.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    missing_docs,
    reason = "a test that panics has failed, as it should"
)]

mod ends;
mod handover;
mod shortcut;

use adit_dataplane::{Engine, Error, PeerId, Vnet, wire};
use ends::{DEADLINE, config, message, passes, peer, read, socket, tun, tunnel, wait_for, write};
use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

#[test]
fn packets_pass_both_ways_whole_and_in_order() {
    let engine = Engine::start(2).unwrap();
    let ends = tunnel(&engine);
    passes(&ends);
    for number in 0..200_u8 {
        let message = message(0, &vec![number; usize::from(number) * 7]);
        assert!(write(&ends[0].pod, &message));
        if number % 10 == 9 {
            for number in number - 9..=number {
                let length = wire::VNET_HEADER_BYTES + 28 + usize::from(number) * 7;
                assert_eq!(read(&ends[1].pod).unwrap().len(), length);
            }
        }
    }
    let (sent, received) = (engine.stats(ends[0].id).unwrap(), engine.stats(ends[1].id).unwrap());
    assert_eq!((sent.peers[0].tx_packets, received.peers[0].rx_packets), (201, 201));
    assert_eq!(sent.peers[0].tx_bytes, received.peers[0].rx_bytes);
    assert_eq!((sent.drops, received.drops), (vec![], vec![]));
    assert!(sent.tun_attached && sent.udp_attached && sent.last_error.is_none());
}

#[test]
fn packets_sent_before_the_peer_exists_arrive_when_it_does() {
    let engine = Engine::start(1).unwrap();
    let ((udp_a, a), (udp_b, b)) = (socket(), socket());
    let ((tun_a, pod_a), (tun_b, pod_b)) = (tun(), tun());
    engine.add(config(0, a, b), tun_a, udp_a).unwrap();
    for number in 0..5 {
        assert!(write(&pod_a, &message(0, &[number])));
    }
    thread::sleep(Duration::from_millis(50));
    engine.add(config(1, b, a), tun_b, udp_b).unwrap();
    for number in 0..5 {
        assert_eq!(read(&pod_b), Some(message(0, &[number])));
    }
}

#[test]
fn datagrams_that_the_filter_cut_are_counted() {
    let engine = Engine::start(1).unwrap();
    let ends = tunnel(&engine);
    let eve = UdpSocket::bind("127.0.0.1:0").unwrap();
    eve.send_to(&[], ends[0].udp).unwrap();
    eve.send_to(&[1], ends[0].udp).unwrap();
    eve.send_to(&[2; 100], ends[0].udp).unwrap();
    let stats = wait_for(&engine, &ends[0], |stats| stats.drops.len() == 3);
    assert_eq!(stats.drops, [("zero_checksum", 1), ("runt", 1), ("unknown_version", 1)]);
    passes(&ends);
}

#[test]
fn partial_checksum_stays_partial_up_to_the_other_tun() {
    let engine = Engine::start(1).unwrap();
    let ends = tunnel(&engine);
    let mut partial = message(0, b"sum me up");
    let header = Vnet { checksum: Some((20, 6)), segments: None };
    partial[..wire::VNET_HEADER_BYTES].copy_from_slice(&header.encode());
    assert!(write(&ends[0].pod, &partial));
    assert_eq!(read(&ends[1].pod), Some(partial.clone()));
    // Somewhere else than where TCP and UDP have it: nobody else would know.
    let header = Vnet { checksum: Some((24, 2)), segments: None };
    partial[..wire::VNET_HEADER_BYTES].copy_from_slice(&header.encode());
    assert!(write(&ends[0].pod, &partial));
    let received = read(&ends[1].pod).unwrap();
    assert_eq!(received[..wire::VNET_HEADER_BYTES], [0; wire::VNET_HEADER_BYTES]);
    assert_ne!(received[wire::VNET_HEADER_BYTES + 26..][..2], [0, 0]);
}

#[test]
fn removed_tunnel_has_closed_its_descriptors() {
    let engine = Engine::start(1).unwrap();
    let [one, other] = tunnel(&engine);
    engine.remove(one.id).unwrap();
    assert_eq!(read(&one.pod), None);
    UdpSocket::bind(one.udp).unwrap();
    assert_eq!(engine.stats(one.id), Err(Error::UnknownTunnel(one.id)));
    assert_eq!(engine.remove(one.id), Err(Error::UnknownTunnel(one.id)));
    assert!(engine.stats(other.id).unwrap().tun_attached);
}

#[test]
fn broken_tun_breaks_only_its_own_tunnel_and_is_told() {
    let (tell, told) = mpsc::channel();
    let engine =
        Engine::start_confined(1, || Ok(()), Arc::new(move || tell.send(()).unwrap()), Arc::new(|_, _| {})).unwrap();
    let (broken, whole) = (tunnel(&engine), tunnel(&engine));
    let [one, other] = broken;
    assert_eq!(engine.broken(), []);
    drop(one.pod);
    let start = Instant::now();
    let stats = loop {
        let stats = engine.stats(one.id).unwrap();
        if !stats.tun_attached {
            break stats;
        }
        assert!(start.elapsed() < DEADLINE);
    };
    assert!(!stats.udp_attached);
    told.recv_timeout(DEADLINE).unwrap();
    assert_eq!(engine.broken(), [one.id]);
    assert!(stats.last_error.unwrap().contains("TUN device"));
    UdpSocket::bind(one.udp).unwrap();
    let replaced = engine.replace_udp(one.id, socket().0);
    assert!(matches!(replaced, Err(Error::Broken { tunnel, .. }) if tunnel == one.id));
    assert!(engine.stats(other.id).unwrap().tun_attached);
    passes(&whole);
    engine.remove(one.id).unwrap();
    assert_eq!(engine.broken(), []);
    assert!(told.try_recv().is_err());
}

#[test]
fn peers_come_and_go_while_the_tunnel_runs() {
    let engine = Engine::start(1).unwrap();
    let ends = tunnel(&engine);
    let [one, other] = &ends;
    engine.remove_peer(one.id, PeerId(0)).unwrap();
    assert_eq!(engine.remove_peer(one.id, PeerId(0)), Err(Error::UnknownPeer(PeerId(0))));
    assert!(write(&one.pod, &message(0, b"to nobody")));
    wait_for(&engine, one, |stats| stats.drops.contains(&("no_peer", 1)));
    engine.add_peer(one.id, peer(other.udp, 1)).unwrap();
    wait_for(&engine, one, |stats| stats.peers[0].established);
    passes(&ends);
    let mut changed = peer(other.udp, 1);
    changed.keepalive = Some(Duration::from_millis(50));
    engine.change_peer(one.id, changed).unwrap();
    thread::sleep(Duration::from_millis(300));
    let age = engine.stats(other.id).unwrap().peers[0].last_rx_age.unwrap();
    assert!(age < Duration::from_millis(250), "{age:?}");
    passes(&ends);
}

#[test]
fn replaced_socket_carries_the_session_on() {
    let engine = Engine::start(1).unwrap();
    let ends = tunnel(&engine);
    let (fresh, address) = socket();
    engine.replace_udp(ends[0].id, fresh).unwrap();
    UdpSocket::bind(ends[0].udp).unwrap();
    engine.change_peer(ends[1].id, peer(address, 0)).unwrap();
    wait_for(&engine, &ends[1], |stats| stats.peers[0].established);
    passes(&ends);
}

#[test]
fn flooded_tunnel_does_not_keep_another_from_progressing() {
    let engine = Engine::start(1).unwrap();
    let (loud, quiet) = (tunnel(&engine), tunnel(&engine));
    let (stop, flooded) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let message = message(0, &[0; 1400]);
            while !stop.load(Relaxed) {
                if write(&loud[0].pod, &message) {
                    flooded.fetch_add(1, Relaxed);
                } else {
                    thread::yield_now();
                }
            }
        });
        while flooded.load(Relaxed) < 1000 {
            thread::yield_now();
        }
        let mut slowest = Duration::ZERO;
        for _ in 0..200 {
            let start = Instant::now();
            passes(&quiet);
            slowest = slowest.max(start.elapsed());
        }
        stop.store(true, Relaxed);
        assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    });
    assert!(engine.stats(loud[0].id).unwrap().peers[0].tx_packets > 1000);
}

#[test]
fn clashing_peers_are_refused_and_the_descriptors_closed() {
    let engine = Engine::start(1).unwrap();
    let ((udp, local), (tun, pod)) = (socket(), tun());
    let mut config = config(0, local, "127.0.0.1:9".parse().unwrap());
    config.peers.push(config.peers[0].clone());
    assert_eq!(engine.add(config, tun, udp), Err(Error::DuplicatePeer(PeerId(0))));
    assert_eq!(read(&pod), None);
}

#[test]
fn shut_down_engine_answers_so() {
    let engine = Engine::start(2).unwrap();
    let ends = tunnel(&engine);
    let other_handle = engine.clone();
    engine.shutdown();
    assert_eq!(read(&ends[0].pod), None);
    assert_eq!(read(&ends[1].pod), None);
    assert_eq!(other_handle.stats(ends[0].id), Err(Error::Stopped));
    let (tun, _pod) = tun();
    let added = other_handle.add(config(0, ends[0].udp, ends[1].udp), tun, socket().0);
    assert_eq!(added, Err(Error::Stopped));
}

#[test]
fn last_handle_takes_the_threads_along() {
    let engine = Engine::start(1).unwrap();
    let ends = tunnel(&engine);
    drop(engine);
    assert_eq!(read(&ends[0].pod), None);
}
