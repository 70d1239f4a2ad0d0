//! The thin shell over the descriptors: what is read from them and how, what the kernel's refusals mean.

use crate::{
    Checksum, Core, DropReason, Ecn, FromTun, ShortcutPacket, Sink,
    batch::{Batch, Outer, Parked},
    merge::{Flushed, Merger},
    offload::Offload,
    shortcut::Shortcuts,
    vnet::Vnet,
    wire::{HEADER_BYTES, VNET_HEADER_BYTES},
};
use nix::{
    errno::Errno,
    sys::{
        socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg},
        uio::writev,
    },
    unistd,
};
use std::{
    io::{IoSlice, IoSliceMut},
    mem,
    net::SocketAddr,
    os::fd::{AsRawFd, BorrowedFd},
};

const LONGEST_PACKET_BYTES: usize = 65_535;
/// Room that a packet has before it: enough for the tunnel's header, and for a virtio-net header in its place.
const ROOM_BYTES: usize = HEADER_BYTES;

/// Reads packets from a TUN one behind the other, each with [`ROOM_BYTES`] before it.
pub(crate) struct TunReader<'p> {
    left: &'p mut [u8],
}

impl<'p> TunReader<'p> {
    /// What one packet may need, bytes.
    pub(crate) const PACKET_ROOM_BYTES: usize = ROOM_BYTES + LONGEST_PACKET_BYTES;

    pub(crate) fn new(buffer: &'p mut [u8]) -> Self {
        Self { left: buffer }
    }

    /// Whether the longest packet would fit.
    pub(crate) const fn has_room(&self) -> bool {
        self.left.len() >= Self::PACKET_ROOM_BYTES
    }

    /// Reads one packet. `Ok(Err(_))`: there was one, and it is of no use.
    ///
    /// # Errors
    /// The kernel's; `EPIPE` at the end of the file.
    pub(crate) fn read(&mut self, tun: BorrowedFd<'_>) -> Result<Result<FromTun<'p>, DropReason>, Errno> {
        const BEFORE: usize = ROOM_BYTES - VNET_HEADER_BYTES;
        let length = unistd::read(tun, self.left.get_mut(BEFORE..).unwrap_or_default())?;
        if length == 0 {
            return Err(Errno::EPIPE);
        }
        let header = self.left.get(BEFORE..).and_then(<[u8]>::first_chunk).and_then(Vnet::decode);
        let used = BEFORE.saturating_add(length);
        let left = mem::take(&mut self.left);
        let (packet, left) = left.split_at_mut_checked(used).unwrap_or_default();
        self.left = left;
        Ok(match header {
            Some(header) if length > VNET_HEADER_BYTES => Ok(FromTun { packet, header }),
            _ => Err(DropReason::MalformedInner),
        })
    }
}

/// Room for datagrams from the network that come as one.
pub(crate) struct Inbox {
    buffer: Box<[u8]>,
    control: Vec<u8>,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self { buffer: vec![0; LONGEST_PACKET_BYTES].into(), control: nix::cmsg_space!(i32, i32) }
    }

    /// Receives what the socket hands over.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn receive(&mut self, udp: BorrowedFd<'_>) -> Result<Received<'_>, Errno> {
        let mut slices = [IoSliceMut::new(&mut self.buffer)];
        let message =
            recvmsg::<SockaddrStorage>(udp.as_raw_fd(), &mut slices, Some(&mut self.control), MsgFlags::MSG_DONTWAIT)?;
        let length = message.bytes;
        let from = message.address.as_ref().and_then(socket_address);
        let (mut segment_bytes, mut ecn) = (length, Ecn::NotEct);
        for message in message.cmsgs()? {
            match message {
                ControlMessageOwned::UdpGroSegments(bytes) => {
                    segment_bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes > 0).unwrap_or(length);
                }
                ControlMessageOwned::Ipv4Tos(class) => ecn = Ecn::of_class(class),
                ControlMessageOwned::Ipv6TClass(class) => ecn = Ecn::of_class(class as u8),
                _ => {}
            }
        }
        Ok(Received { from, ecn, segment_bytes, datagrams: self.buffer.get_mut(..length).unwrap_or_default() })
    }
}

/// One datagram, or several of one length, sender and mark, but for the last, which may be shorter.
pub(crate) struct Received<'a> {
    /// The sender's address, where it is of any use.
    pub(crate) from: Option<SocketAddr>,
    /// What their outer headers say. The kernel joins none that differ in it (inet_gro_receive, ipv6_gro_receive).
    pub(crate) ecn: Ecn,
    /// Their length.
    pub(crate) segment_bytes: usize,
    /// One behind the other.
    pub(crate) datagrams: &'a mut [u8],
}

/// What went wrong while the core was at work, to be told to it afterwards.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    too_big: u64,
    send_failed: u64,
    tun_write_failed: u64,
    source_not_allowed: u64,
    /// The last refusal: what was attempted, and the kernel's answer.
    pub(crate) last: Option<(&'static str, Errno)>,
    /// The TUN device is gone.
    pub(crate) tun_gone: Option<Errno>,
}

impl Trouble {
    pub(crate) fn note(&mut self, reason: DropReason, action: &'static str, errno: Errno, packets: u64) {
        let counter = match reason {
            DropReason::TooBig => &mut self.too_big,
            DropReason::TunWriteFailed => &mut self.tun_write_failed,
            DropReason::SourceNotAllowed => &mut self.source_not_allowed,
            _ => &mut self.send_failed,
        };
        *counter = counter.saturating_add(packets);
        self.last = Some((action, errno));
    }

    /// What was too big, and what could not be sent for another reason.
    #[cfg(test)]
    pub(crate) const fn counts(&self) -> (u64, u64) {
        (self.too_big, self.send_failed)
    }

    pub(crate) const fn was_too_big(&self) -> bool {
        self.too_big > 0
    }

    pub(crate) const fn refused_to_send(&self) -> bool {
        self.send_failed > 0
    }

    pub(crate) fn count_in(&self, core: &mut Core) {
        core.count(DropReason::TooBig, self.too_big);
        core.count(DropReason::SendFailed, self.send_failed);
        core.count(DropReason::TunWriteFailed, self.tun_write_failed);
        core.count(DropReason::SourceNotAllowed, self.source_not_allowed);
    }
}

/// What of a tunnel its way out needs.
pub(crate) struct Ways<'p> {
    pub(crate) tun: BorrowedFd<'p>,
    pub(crate) udp: Option<BorrowedFd<'p>>,
    pub(crate) offload: &'p mut Offload,
    pub(crate) parked: &'p mut Parked,
    pub(crate) shortcuts: Option<&'p mut Shortcuts>,
}

/// The core's way out: what belongs together is collected, and leaves together.
pub(crate) struct Shell<'p> {
    ways: Ways<'p>,
    batch: Batch<'p>,
    /// Of the next datagram.
    ecn: Ecn,
    merger: Merger<'p>,
    trouble: Trouble,
}

impl<'p> Shell<'p> {
    /// `heads` is room for the headers of the datagrams.
    pub(crate) fn new(ways: Ways<'p>, heads: &'p mut [u8]) -> Self {
        let merger = Merger::new(ways.offload.mergeable());
        Self { ways, batch: Batch::new(heads), ecn: Ecn::NotEct, merger, trouble: Trouble::default() }
    }

    /// Nothing more should be taken until the socket has room again.
    pub(crate) fn is_stalled(&self) -> bool {
        !self.ways.parked.is_empty()
    }

    /// Room for headers that is left, bytes.
    pub(crate) const fn room_bytes(&self) -> usize {
        self.batch.room_bytes()
    }

    /// Lets everything leave.
    pub(crate) fn finish(mut self) -> Trouble {
        self.send();
        self.write();
        self.trouble
    }

    /// What the next datagram's outer header says.
    const fn outer(&mut self, to: SocketAddr) -> Outer {
        Outer { to, ecn: mem::replace(&mut self.ecn, Ecn::NotEct) }
    }

    fn send(&mut self) {
        let Ways { udp, offload, parked, .. } = &mut self.ways;
        self.batch.flush(*udp, offload, parked, &mut self.trouble);
    }

    fn write(&mut self) {
        if self.merger.is_empty() {
            return;
        }
        let tun = self.ways.tun;
        let flushed = self.merger.flush(|pieces| write_once(tun, pieces));
        self.note_written(&flushed);
    }

    fn note_written(&mut self, flushed: &Flushed<Errno>) {
        if let Some(errno) = flushed.refused {
            if is_gone(errno) {
                self.trouble.tun_gone = Some(errno);
            }
            self.trouble.note(DropReason::TunWriteFailed, "write to the TUN device", errno, flushed.lost);
        } else if let Some(errno @ (Errno::EINVAL | Errno::EIO | Errno::EOPNOTSUPP)) = flushed.refused_joined {
            self.ways.offload.refuse_merged(errno);
        }
    }
}

impl<'p> Sink<'p> for Shell<'p> {
    fn network(&mut self, to: SocketAddr, head: &[u8], payload: &'p [u8]) {
        let outer = self.outer(to);
        if !self.batch.takes(outer, head.len().saturating_add(payload.len())) {
            self.send();
        }
        if !self.batch.push(outer, head, payload) {
            self.trouble.note(DropReason::SendFailed, "find room for headers", Errno::ENOBUFS, 1);
        }
    }

    fn datagram(&mut self, to: SocketAddr, length: usize, write: impl FnOnce(&mut [u8]) -> bool) {
        let outer = self.outer(to);
        if !self.batch.takes(outer, length) {
            self.send();
        }
        if !self.batch.push_written(outer, length, write) {
            self.trouble.note(DropReason::SendFailed, "find room for a sealed packet", Errno::ENOBUFS, 1);
        }
    }

    fn ecn(&mut self, ecn: Ecn) {
        self.ecn = ecn;
    }
    fn tun(&mut self, packet: &'p mut [u8], checksum: Checksum) {
        if let Err(packet) = self.merger.push(packet, checksum) {
            self.write();
            // Nothing is there now, so it is taken.
            let _ = self.merger.push(packet, checksum);
        }
    }

    fn tun_now(&mut self, packet: &mut [u8], checksum: Checksum) {
        self.write();
        let tun = self.ways.tun;
        let mut merger = Merger::new(self.ways.offload.mergeable());
        // Nothing is there, so it is taken.
        let _ = merger.push(packet, checksum);
        let flushed = merger.flush(|pieces| write_once(tun, pieces));
        self.note_written(&flushed);
    }

    fn shortcut(&mut self, packet: &mut [u8], about: &ShortcutPacket) -> bool {
        let Some(shortcuts) = &mut self.ways.shortcuts else { return false };
        shortcuts.pass(packet, about, &mut self.trouble)
    }
}

fn write_once(tun: BorrowedFd<'_>, pieces: &[IoSlice<'_>]) -> Result<(), Errno> {
    loop {
        match writev(tun, pieces) {
            Err(Errno::EINTR) => {}
            done => return done.map(drop),
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

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => Some((*v4).into()),
        (_, Some(v6)) => Some((*v6).into()),
        _ => None,
    }
}
