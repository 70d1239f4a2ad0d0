#![allow(clippy::arithmetic_side_effects, reason = "a test that panics has failed, as it should")]
use super::*;
use crate::{io::Inbox, offload::tell_marks, wire::HEADER_BYTES};
use nix::sys::socket::{setsockopt, sockopt};
use std::{
    net::UdpSocket,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

/// A sender and a receiver, with everything that sending needs.
struct Place {
    udp: OwnedFd,
    receiver: UdpSocket,
    to: SocketAddr,
    ecn: Ecn,
    offload: Offload,
    parked: Parked,
    trouble: Trouble,
}

impl Place {
    fn new() -> Self {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Self {
            udp: UdpSocket::bind("127.0.0.1:0").unwrap().into(),
            to: receiver.local_addr().unwrap(),
            ecn: Ecn::NotEct,
            receiver,
            offload: Offload { segmented_sends: true, ..Offload::default() },
            parked: Parked::default(),
            trouble: Trouble::default(),
        }
    }

    fn outer(&self) -> Outer {
        Outer { to: self.to, ecn: self.ecn }
    }

    /// Sends datagrams of these lengths, each with a head of its own; their first byte is their number.
    fn send(&mut self, lengths: &[usize]) {
        let payloads: Vec<Vec<u8>> =
            lengths.iter().enumerate().map(|(number, length)| vec![number as u8; length - 1]).collect();
        let mut heads = vec![0; 64 * HEADER_BYTES];
        let mut batch = Batch::new(&mut heads);
        for payload in &payloads {
            let head = [payload.first().copied().unwrap_or_default()];
            if !batch.takes(self.outer(), payload.len() + 1) {
                batch.flush(Some(self.udp.as_fd()), &mut self.offload, &mut self.parked, &mut self.trouble);
            }
            assert!(batch.push(self.outer(), &head, payload));
        }
        batch.flush(Some(self.udp.as_fd()), &mut self.offload, &mut self.parked, &mut self.trouble);
    }

    fn received(&self, count: usize) -> Vec<usize> {
        let mut bytes = vec![0; 70_000];
        (0..count).map(|_| self.receiver.recv(&mut bytes).unwrap()).collect()
    }
}

#[test]
fn datagrams_of_any_lengths_leave_whole_and_in_order() {
    let mut place = Place::new();
    for lengths in [
        vec![1],
        vec![100, 100, 100],
        vec![100, 100, 50, 100],
        vec![50, 100, 100, 99, 1, 2],
        vec![900; 64],
        vec![1; 70],
        vec![1400; 60],
    ] {
        place.send(&lengths);
        assert_eq!(place.received(lengths.len()), lengths);
    }
    assert_eq!(place.trouble.last, None);
    assert!(place.offload.segmented_sends && place.parked.is_empty());
}

#[test]
fn equal_lengths_are_cut_by_the_kernel() {
    let mut place = Place::new();
    setsockopt(&place.receiver, sockopt::UdpGroSegment, &true).unwrap();
    place.send(&[500; 40]);
    let mut bytes = vec![0; 70_000];
    // Over the loopback nothing is cut before the receiver asks for it.
    assert_eq!(place.receiver.recv(&mut bytes).unwrap(), 40 * 500);
}

#[test]
fn datagrams_written_in_place_leave_by_one_call_and_unwritten_ones_not_at_all() {
    let mut place = Place::new();
    setsockopt(&place.receiver, sockopt::UdpGroSegment, &true).unwrap();
    let mut heads = vec![0; 64 * 500];
    let mut batch = Batch::new(&mut heads);
    for number in 0..40 {
        assert!(batch.takes(place.outer(), 500));
        let written = number % 8 != 7;
        let push = batch.push_written(place.outer(), 500, |bytes| {
            bytes.fill(number);
            written
        });
        assert_eq!(push, written);
    }
    batch.flush(Some(place.udp.as_fd()), &mut place.offload, &mut place.parked, &mut place.trouble);
    let mut bytes = vec![0; 70_000];
    assert_eq!(place.receiver.recv(&mut bytes).unwrap(), 35 * 500);
    assert!(bytes[..35 * 500].iter().all(|byte| byte % 8 != 7));
}

#[test]
fn kernel_that_cuts_nothing_is_asked_once() {
    let mut place = Place::new();
    // No kernel sends a segment of nothing, and none refuses these one by one.
    let pieces = [IoSlice::new(b"one"), IoSlice::new(b"two")];
    let datagrams = Pieces { pieces: &pieces, ends: &[1, 2] };
    let too_short = 1;
    let long = vec![7_u8; 600];
    let many: Vec<IoSlice<'_>> = long.chunks(3).map(IoSlice::new).collect();
    let ends: Vec<u8> = (1..=many.len()).map(|end| end as u8).collect();
    assert_eq!(
        send(place.udp.as_fd(), place.outer(), too_short, &datagrams, &mut place.offload, &mut place.trouble),
        None
    );
    assert_eq!(place.received(6), [1; 6]);
    assert!(place.offload.segmented_sends);
    // More segments than any kernel takes in one call.
    let all = Pieces { pieces: &many, ends: &ends };
    assert_eq!(send(place.udp.as_fd(), place.outer(), 1, &all, &mut place.offload, &mut place.trouble), None);
    assert_eq!(place.received(many.len()), vec![3; many.len()]);
    assert!(!place.offload.segmented_sends);
    assert_eq!(place.offload.refusal, Some(("send datagrams as one", Errno::EINVAL)));
    place.send(&[10, 10]);
    assert_eq!(place.received(2), [10, 10]);
}

#[test]
fn refused_datagram_does_not_hold_up_the_others() {
    let mut place = Place::new();
    place.send(&[1]);
    place.send(&[65_530]);
    let elsewhere = "[::1]:9".parse().unwrap();
    let own = mem::replace(&mut place.to, elsewhere);
    place.send(&[3]);
    place.to = own;
    place.send(&[4]);
    assert_eq!(place.received(2), [1, 4]);
    assert_eq!(place.trouble.counts(), (1, 1));
}

#[test]
fn full_socket_makes_datagrams_wait_in_order_and_too_many_are_given_up() {
    let mut place = Place::new();
    // Something waits already, so nothing may overtake it.
    assert!(place.parked.push(place.outer(), 3, &[IoSlice::new(b"one"), IoSlice::new(b"two"), IoSlice::new(b"3")]));
    place.send(&[5, 5]);
    let udp = place.udp.as_fd().try_clone_to_owned().unwrap();
    place.parked.flush(Some(udp.as_fd()), &mut place.offload, &mut place.trouble);
    assert_eq!(place.received(5), [3, 3, 1, 5, 5]);
    assert!(place.parked.is_empty() && place.parked.bytes == 0);
    let large = vec![0; PARKED_BYTES - 1];
    assert!(place.parked.push(place.outer(), 1000, &[IoSlice::new(&large)]));
    place.send(&[2, 2]);
    assert_eq!(place.trouble.counts(), (0, 2));
    place.parked.give_up(&mut place.trouble);
    assert!(place.parked.is_empty());
    assert_eq!(place.trouble.counts(), (0, 2 + (PARKED_BYTES as u64 - 1).div_ceil(1000)));
}

#[test]
fn no_socket_is_counted_and_not_waited_for() {
    let mut place = Place::new();
    let mut heads = [0; 64];
    let mut batch = Batch::new(&mut heads);
    assert!(batch.push(place.outer(), b"head", &[]));
    batch.flush(None, &mut place.offload, &mut place.parked, &mut place.trouble);
    assert_eq!(place.trouble.counts(), (0, 1));
    assert!(place.parked.is_empty());
}

/// Over this address, with marks told to the receiver.
fn told(address: &str) -> Place {
    let receiver = UdpSocket::bind(address).unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    tell_marks(&receiver);
    Place {
        udp: UdpSocket::bind(address).unwrap().into(),
        to: receiver.local_addr().unwrap(),
        receiver,
        ..Place::new()
    }
}

/// Datagrams as they come: their lengths, how many came as one, and their marks.
fn marks(place: &Place, count: usize) -> Vec<(usize, Ecn)> {
    let mut inbox = Inbox::new();
    let mut marks = Vec::new();
    for _ in 0..count {
        // Over the loopback they are there when the sender's call returns.
        let received = inbox.receive(place.receiver.as_fd()).unwrap();
        marks.push((received.datagrams.len(), received.ecn));
    }
    marks
}

#[test]
fn mark_of_a_datagram_is_in_the_outer_header_of_either_family() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let mut place = told(address);
        for ecn in [Ecn::Ect0, Ecn::NotEct, Ecn::Ect1, Ecn::Ce] {
            place.ecn = ecn;
            place.send(&[7]);
            assert_eq!(marks(&place, 1), [(7, ecn)], "{address}");
        }
        assert_eq!(place.trouble.last, None);
    }
}

#[test]
fn datagrams_that_understand_marks_leave_by_one_call_like_all_others() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let mut place = told(address);
        setsockopt(&place.receiver, sockopt::UdpGroSegment, &true).unwrap();
        for ecn in [Ecn::NotEct, Ecn::Ect0] {
            place.ecn = ecn;
            place.send(&[500; 40]);
            assert_eq!(marks(&place, 1), [(40 * 500, ecn)], "{address}");
        }
        assert!(place.offload.segmented_sends);
    }
}

#[test]
fn datagrams_with_different_marks_leave_apart() {
    let mut heads = [0; 64];
    let mut batch = Batch::new(&mut heads);
    let outer = Outer { to: "127.0.0.1:9".parse().unwrap(), ecn: Ecn::Ect0 };
    assert!(batch.push(outer, b"head", &[]));
    assert!(batch.takes(outer, 4));
    for ecn in [Ecn::NotEct, Ecn::Ect1, Ecn::Ce] {
        assert!(!batch.takes(Outer { ecn, ..outer }, 4), "{ecn:?}");
    }
}

#[test]
fn what_waits_keeps_its_mark_also_with_the_next_carrier() {
    let mut place = told("127.0.0.1:0");
    for ecn in [Ecn::Ce, Ecn::NotEct, Ecn::Ect1] {
        let outer = Outer { to: place.to, ecn };
        assert!(place.parked.push(outer, 3, &[IoSlice::new(b"one"), IoSlice::new(b"two")]));
    }
    let mut writer = Writer::new();
    place.parked.encode(&mut writer);
    place.parked = Parked::decode(&mut Reader::new(&writer.finish())).unwrap();
    place.parked.flush(Some(place.udp.as_fd()), &mut place.offload, &mut place.trouble);
    let expected = [Ecn::Ce, Ecn::Ce, Ecn::NotEct, Ecn::NotEct, Ecn::Ect1, Ecn::Ect1].map(|ecn| (3, ecn));
    assert_eq!(marks(&place, 6), expected);
}
