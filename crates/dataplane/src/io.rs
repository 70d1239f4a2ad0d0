//! The thin shell over the descriptors: what is read from them and how, what the kernel's refusals mean.

use crate::{Core, DropReason, Sink, inner::complete_checksum, wire::VNET_HEADER_BYTES};
use nix::{
    errno::Errno,
    sys::{
        socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg},
        uio::writev,
    },
    unistd,
};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg, sendto};
use std::{
    array,
    io::{IoSlice, IoSliceMut},
    net::SocketAddr,
    os::fd::{AsRawFd, BorrowedFd},
};

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`, include/uapi/linux/virtio_net.h.
const NEEDS_CHECKSUM: u8 = 1;
const PACKET_BYTES: usize = 65_535;
const RECEIVE_BATCH: usize = 32;
const SEND_BATCH: usize = 64;
const SEND_BYTES: usize = 256 * 1024;

/// Room for one packet from a TUN.
pub(crate) struct TunBuffer(Box<[u8]>);

impl TunBuffer {
    pub(crate) fn new() -> Self {
        Self(vec![0; PACKET_BYTES.saturating_add(VNET_HEADER_BYTES)].into())
    }

    /// Reads one packet. `Ok(Err(_))`: there was one, and it is of no use.
    ///
    /// # Errors
    /// The kernel's; `EPIPE` at the end of the file.
    pub(crate) fn read(&mut self, tun: BorrowedFd<'_>) -> Result<Result<&[u8], DropReason>, Errno> {
        let length = unistd::read(tun, &mut self.0)?;
        if length == 0 {
            return Err(Errno::EPIPE);
        }
        let Some(([flags, ..], packet)) =
            self.0.get_mut(..length).and_then(|bytes| bytes.split_first_chunk_mut::<VNET_HEADER_BYTES>())
        else {
            return Ok(Err(DropReason::MalformedInner));
        };
        // No offload is switched on, but the device belongs to the pod's administrator as well.
        if *flags & NEEDS_CHECKSUM != 0 && !complete_checksum(packet) {
            return Ok(Err(DropReason::BadChecksumOffload));
        }
        Ok(Ok(packet))
    }
}

/// Room for a batch of datagrams from the network.
pub(crate) struct Inbox {
    buffer: Box<[u8]>,
    headers: MultiHeaders<SockaddrStorage>,
    received: [(usize, Option<SocketAddr>); RECEIVE_BATCH],
}

impl Inbox {
    /// The most datagrams that come at once; fewer mean that the socket is empty.
    pub(crate) const CAPACITY: usize = RECEIVE_BATCH;

    pub(crate) fn new() -> Self {
        Self {
            buffer: vec![0; RECEIVE_BATCH.saturating_mul(PACKET_BYTES)].into(),
            headers: MultiHeaders::preallocate(RECEIVE_BATCH, None),
            received: [(0, None); RECEIVE_BATCH],
        }
    }

    /// Receives up to a batch; returns how many datagrams came.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn receive(&mut self, udp: BorrowedFd<'_>) -> Result<usize, Errno> {
        let mut chunks = self.buffer.chunks_mut(PACKET_BYTES);
        let mut slices: [_; RECEIVE_BATCH] = array::from_fn(|_| [IoSliceMut::new(chunks.next().unwrap_or_default())]);
        let results = recvmmsg(udp.as_raw_fd(), &mut self.headers, &mut slices, MsgFlags::MSG_DONTWAIT, None)?;
        let mut count = 0_usize;
        for (entry, message) in self.received.iter_mut().zip(results) {
            *entry = (message.bytes, message.address.as_ref().and_then(socket_address));
            count = count.saturating_add(1);
        }
        Ok(count)
    }

    /// The datagrams of the last batch.
    pub(crate) fn datagrams(&mut self, count: usize) -> impl Iterator<Item = (SocketAddr, &mut [u8])> {
        self.received
            .iter()
            .take(count)
            .zip(self.buffer.chunks_mut(PACKET_BYTES))
            .filter_map(|((length, from), bytes)| Some(((*from)?, bytes.get_mut(..*length)?)))
    }
}

/// Datagrams on their way to the network, sent in batches.
pub(crate) struct Outbox {
    buffer: Box<[u8]>,
    used: usize,
    entries: Vec<(SocketAddrAny, usize)>,
    sent: usize,
    sent_bytes: usize,
}

impl Outbox {
    pub(crate) fn new() -> Self {
        Self {
            buffer: vec![0; SEND_BYTES].into(),
            used: 0,
            entries: Vec::with_capacity(SEND_BATCH),
            sent: 0,
            sent_bytes: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sent == self.entries.len()
    }

    /// Appends a datagram unless the batch is full.
    fn push(&mut self, to: SocketAddr, head: &[u8], payload: &[u8]) -> bool {
        if self.entries.len() >= SEND_BATCH {
            return false;
        }
        let Some(room) = self.buffer.get_mut(self.used..) else { return false };
        let Some((head_room, room)) = room.split_at_mut_checked(head.len()) else { return false };
        let Some(payload_room) = room.get_mut(..payload.len()) else { return false };
        head_room.copy_from_slice(head);
        payload_room.copy_from_slice(payload);
        let length = head.len().saturating_add(payload.len());
        self.used = self.used.saturating_add(length);
        self.entries.push((to.into(), length));
        true
    }

    /// Sends what is there. A datagram that the kernel refuses is given up and counted.
    ///
    /// Returns false when the socket's buffer is full; what is left then waits for the next call.
    pub(crate) fn flush(&mut self, udp: Option<BorrowedFd<'_>>, trouble: &mut Trouble) -> bool {
        while !self.is_empty() {
            let result = match udp {
                Some(udp) => self.send_batch(udp),
                None => Err(Errno::EBADF),
            };
            match result {
                Ok(count) => self.advance(count.max(1)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return false,
                Err(Errno::EMSGSIZE) => {
                    trouble.note(DropReason::TooBig, "send to the network", Errno::EMSGSIZE);
                    self.advance(1);
                }
                Err(errno) => {
                    trouble.note(DropReason::SendFailed, "send to the network", errno);
                    self.advance(1);
                }
            }
        }
        self.clear();
        true
    }

    /// Gives up what is left.
    pub(crate) fn give_up(&mut self, trouble: &mut Trouble) {
        while !self.is_empty() {
            trouble.note(DropReason::SendFailed, "send to the network", Errno::EAGAIN);
            self.advance(1);
        }
        self.clear();
    }

    fn send_batch(&self, udp: BorrowedFd<'_>) -> Result<usize, Errno> {
        let entries = self.entries.get(self.sent..).unwrap_or_default();
        let mut rest = self.buffer.get(self.sent_bytes..).unwrap_or_default();
        if let [(to, length)] = entries {
            let datagram = rest.get(..*length).unwrap_or_default();
            return sendto(udp, datagram, SendFlags::DONTWAIT, to).map(|_| 1).map_err(errno);
        }
        let slices: [_; SEND_BATCH] = array::from_fn(|number| {
            let length = entries.get(number).map_or(0, |(_, length)| *length);
            let (datagram, behind) = rest.split_at_checked(length).unwrap_or_default();
            rest = behind;
            [IoSlice::new(datagram)]
        });
        let mut controls: [SendAncillaryBuffer<'_, '_, '_>; SEND_BATCH] = array::from_fn(|_| Default::default());
        let mut datagrams = entries.iter().zip(&slices);
        let mut messages = controls.each_mut().map(|control| match datagrams.next() {
            Some(((to, _), slice)) => MMsgHdr::new_with_addr(to, slice, control),
            None => MMsgHdr::new(&[], control),
        });
        let messages = messages.get_mut(..entries.len()).unwrap_or_default();
        sendmmsg(udp, messages, SendFlags::DONTWAIT).map_err(errno)
    }

    /// The next `count` datagrams are done with.
    fn advance(&mut self, count: usize) {
        let done = self.entries.iter().skip(self.sent).take(count);
        let bytes = done.map(|(_, length)| *length).fold(0, usize::saturating_add);
        self.sent_bytes = self.sent_bytes.saturating_add(bytes);
        self.sent = self.sent.saturating_add(count).min(self.entries.len());
    }

    fn clear(&mut self) {
        self.entries.clear();
        (self.used, self.sent, self.sent_bytes) = (0, 0, 0);
    }
}

/// What went wrong while the core was at work, to be told to it afterwards.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    too_big: u64,
    send_failed: u64,
    tun_write_failed: u64,
    /// The last refusal: what was attempted, and the kernel's answer.
    pub(crate) last: Option<(&'static str, Errno)>,
    /// The TUN device is gone.
    pub(crate) tun_gone: Option<Errno>,
}

impl Trouble {
    fn note(&mut self, reason: DropReason, action: &'static str, errno: Errno) {
        let counter = match reason {
            DropReason::TooBig => &mut self.too_big,
            DropReason::TunWriteFailed => &mut self.tun_write_failed,
            _ => &mut self.send_failed,
        };
        *counter = counter.saturating_add(1);
        self.last = Some((action, errno));
    }

    pub(crate) fn count_in(&self, core: &mut Core) {
        core.count(DropReason::TooBig, self.too_big);
        core.count(DropReason::SendFailed, self.send_failed);
        core.count(DropReason::TunWriteFailed, self.tun_write_failed);
    }
}

/// The core's way out: packets enter the TUN at once, datagrams are collected.
pub(crate) struct Shell<'a> {
    tun: BorrowedFd<'a>,
    udp: Option<BorrowedFd<'a>>,
    outbox: &'a mut Outbox,
    stalled: bool,
    trouble: Trouble,
}

impl<'a> Shell<'a> {
    pub(crate) fn new(tun: BorrowedFd<'a>, udp: Option<BorrowedFd<'a>>, outbox: &'a mut Outbox) -> Self {
        Self { tun, udp, outbox, stalled: false, trouble: Trouble::default() }
    }

    /// Nothing more can be taken until the socket has room again.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// Sends what was collected. False: the socket's buffer is full, and the rest is still in the outbox.
    pub(crate) fn finish(mut self) -> (bool, Trouble) {
        let sent = !self.stalled && self.outbox.flush(self.udp, &mut self.trouble);
        (sent, self.trouble)
    }
}

impl Sink for Shell<'_> {
    fn network(&mut self, to: SocketAddr, head: &[u8], payload: &[u8]) {
        if self.outbox.push(to, head, payload) {
            return;
        }
        if !self.stalled {
            self.stalled = !self.outbox.flush(self.udp, &mut self.trouble);
        }
        if self.stalled || !self.outbox.push(to, head, payload) {
            self.trouble.note(DropReason::SendFailed, "send to the network", Errno::EAGAIN);
        }
    }

    fn tun(&mut self, packet: &[u8]) {
        let header = [0; VNET_HEADER_BYTES];
        match writev(self.tun, &[IoSlice::new(&header), IoSlice::new(packet)]) {
            Ok(_) => {}
            Err(errno) => {
                if is_gone(errno) {
                    self.trouble.tun_gone = Some(errno);
                }
                self.trouble.note(DropReason::TunWriteFailed, "write to the TUN device", errno);
            }
        }
    }
}

/// Whether a TUN device that answers this has been deleted (`EBADFD`, drivers/net/tun.c), or its other end closed.
fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::EBADFD | Errno::EPIPE)
}

/// Whether a UDP socket that answers this cannot be used any more: it was destroyed (`ECONNABORTED`,
/// `ss -K`), or is none.
pub(crate) fn is_dead(errno: Errno) -> bool {
    matches!(errno, Errno::ECONNABORTED | Errno::EBADF | Errno::ENOTSOCK | Errno::EINVAL)
}

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => Some((*v4).into()),
        (_, Some(v6)) => Some((*v6).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects, reason = "a test that panics has failed, as it should")]
    use super::*;
    use crate::wire::HEADER_BYTES;
    use std::{
        net::UdpSocket,
        os::fd::{AsFd, OwnedFd},
        time::Duration,
    };

    fn pair() -> (OwnedFd, UdpSocket, SocketAddr) {
        let ours = UdpSocket::bind("127.0.0.1:0").unwrap();
        let theirs = UdpSocket::bind("127.0.0.1:0").unwrap();
        theirs.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let to = theirs.local_addr().unwrap();
        (ours.into(), theirs, to)
    }

    #[test]
    fn batches_leave_whole_and_in_order() {
        let (udp, receiver, to) = pair();
        let (mut outbox, mut trouble) = (Outbox::new(), Trouble::default());
        for count in [1, 2, SEND_BATCH] {
            for number in 0..count {
                assert!(outbox.push(to, &[number as u8; HEADER_BYTES], &vec![7; number * 10]));
            }
            assert_eq!(outbox.push(to, &[0], &[]), count < SEND_BATCH);
            assert!(outbox.flush(Some(udp.as_fd()), &mut trouble));
            assert!(outbox.is_empty());
            let mut bytes = [0; 2000];
            for number in 0..count {
                assert_eq!(receiver.recv(&mut bytes).unwrap(), HEADER_BYTES + number * 10);
                assert_eq!(bytes[0], number as u8);
            }
            if count < SEND_BATCH {
                assert_eq!(receiver.recv(&mut bytes).unwrap(), 1);
            }
        }
        assert_eq!(trouble.last, None);
    }

    #[test]
    fn refused_datagram_does_not_hold_up_the_others() {
        let (udp, receiver, to) = pair();
        let (mut outbox, mut trouble) = (Outbox::new(), Trouble::default());
        assert!(outbox.push(to, &[1], &[]));
        assert!(outbox.push(to, &[2], &[0; 65_535]));
        assert!(outbox.push("[::1]:9".parse().unwrap(), &[3], &[]));
        assert!(outbox.push(to, &[4], &[]));
        assert!(outbox.flush(Some(udp.as_fd()), &mut trouble));
        let mut bytes = [0; 10];
        for number in [1, 4] {
            assert_eq!(receiver.recv(&mut bytes).unwrap(), 1);
            assert_eq!(bytes[0], number);
        }
        assert_eq!((trouble.too_big, trouble.send_failed), (1, 1));
    }

    #[test]
    fn outbox_takes_no_more_than_its_room() {
        let (mut outbox, to) = (Outbox::new(), "127.0.0.1:9".parse().unwrap());
        let taken = (0..10).filter(|_| outbox.push(to, &[0; 16], &[0; 65_000])).count();
        assert_eq!(taken, SEND_BYTES / 65_016);
        let mut trouble = Trouble::default();
        outbox.give_up(&mut trouble);
        assert_eq!(trouble.send_failed as usize, taken);
        assert!(outbox.push(to, &[0; 16], &[0; 65_000]));
    }

    #[test]
    fn inbox_tells_who_sent_what() {
        let (udp, sender, from) = pair();
        sender.connect(UdpSocket::from(udp.try_clone().unwrap()).local_addr().unwrap()).unwrap();
        let mut inbox = Inbox::new();
        assert_eq!(inbox.receive(udp.as_fd()), Err(Errno::EAGAIN));
        for length in [0, 1, 1500, 60_000] {
            sender.send(&vec![9; length]).unwrap();
        }
        let count = inbox.receive(udp.as_fd()).unwrap();
        let lengths: Vec<_> = inbox.datagrams(count).map(|(source, bytes)| (source, bytes.len())).collect();
        assert_eq!(lengths, [(from, 0), (from, 1), (from, 1500), (from, 60_000)]);
    }
}
