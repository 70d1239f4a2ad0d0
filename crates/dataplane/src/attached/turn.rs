//! A tunnel's turn: what it takes from its descriptors, and when it leaves off for the others.

use super::Attached;
use crate::{
    Core, DropReason,
    io::{Inbox, Received, Shell, TunReader, Ways},
};
use nix::{
    errno::Errno,
    sys::epoll::{Epoll, EpollFlags},
};
use std::{
    os::fd::{AsFd, BorrowedFd},
    time::Instant,
};

/// What a tunnel may take from a descriptor in one turn, in bytes, where each packet counts for [`PACKET_COST_BYTES`] more. Descriptors
/// that are still readable then come again after all the others (epoll's ready list is a queue).
pub(super) const TURN_BYTES: usize = 256 * 1024;
pub(super) const PACKET_COST_BYTES: usize = 1024;
/// For packets from the TUN that are read before any of them leaves.
const TUN_BUFFER_BYTES: usize = 256 * 1024;
/// For the headers of the datagrams that they become, or the whole of sealed ones, and what of it must be left for one more: enough for
/// the smallest segments that the kernel's own TCP makes (48 bytes), each with the longest headers, sealed.
const HEADS_BYTES: usize = 640 * 1024;
const HEADS_LEFT_BYTES: usize = 288 * 1024;

/// What all tunnels of a worker share. Pages of it that no packet ever reached take no memory.
pub(crate) struct Buffers {
    tun: Box<[u8]>,
    heads: Box<[u8]>,
    inbox: Inbox,
}

impl Buffers {
    pub(crate) fn new() -> Self {
        Self { tun: vec![0; TUN_BUFFER_BYTES].into(), heads: vec![0; HEADS_BYTES].into(), inbox: Inbox::new() }
    }
}

impl Attached {
    /// The TUN has something to say. Returns how much was taken, as [`TURN_BYTES`] counts it.
    pub(crate) fn serve_tun(&mut self, events: EpollFlags, epoll: &Epoll, buffers: &mut Buffers) -> usize {
        let readable = events.contains(EpollFlags::EPOLLIN) && self.parked.is_empty();
        let (left, end) = if readable { self.take_from_tun(epoll, buffers) } else { (TURN_BYTES, None) };
        let hung_up = events.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP);
        match end {
            Some(Errno::EAGAIN) if hung_up => self.break_down(epoll, "watch the TUN device", Errno::EBADFD),
            // Out of memory passes.
            Some(Errno::EAGAIN | Errno::ENOMEM | Errno::ENOBUFS) => {}
            Some(errno) => self.break_down(epoll, "read from the TUN device", errno),
            None if hung_up && !readable => self.break_down(epoll, "watch the TUN device", Errno::EBADFD),
            None => {}
        }
        TURN_BYTES.saturating_sub(left)
    }

    /// One turn. Returns what is left of it, and what the TUN said instead of handing over a packet.
    fn take_from_tun(&mut self, epoll: &Epoll, buffers: &mut Buffers) -> (usize, Option<Errno>) {
        let now = Instant::now();
        let (mut left, mut end) = (TURN_BYTES, None);
        while left > 0 && end.is_none() && self.parked.is_empty() {
            let Some((tun, core, mut shell)) = self.open(&mut buffers.heads) else { break };
            let mut reader = TunReader::new(&mut buffers.tun);
            while left > 0 && reader.has_room() && shell.room_bytes() >= HEADS_LEFT_BYTES && !shell.is_stalled() {
                match reader.read(tun) {
                    Ok(Ok(from_tun)) => {
                        left = left.saturating_sub(from_tun.packet.len());
                        core.outbound(from_tun, now, &mut shell);
                    }
                    Ok(Err(reason)) => core.count(reason, 1),
                    Err(Errno::EINTR) => {}
                    Err(errno) => {
                        end = Some(errno);
                        break;
                    }
                }
                left = left.saturating_sub(PACKET_COST_BYTES);
            }
            let trouble = shell.finish();
            self.settle(&trouble, epoll);
        }
        (left, end)
    }

    /// The socket has something to say. Returns how much was taken, as [`TURN_BYTES`] counts it.
    pub(crate) fn serve_udp(&mut self, events: EpollFlags, epoll: &Epoll, buffers: &mut Buffers) -> usize {
        if events.contains(EpollFlags::EPOLLOUT) {
            self.resume(epoll);
        }
        if !events.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP) {
            return 0;
        }
        let now = Instant::now();
        let mut left = TURN_BYTES;
        while left > 0 {
            let Some(udp) = &self.udp else { break };
            match buffers.inbox.receive(udp.as_fd()) {
                Ok(received) => {
                    self.strikes = 0;
                    left = left.saturating_sub(received.datagrams.len().saturating_add(PACKET_COST_BYTES));
                    self.take_from_network(received, now, epoll, &mut buffers.heads);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    if events.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP) {
                        self.strike(epoll, None);
                    }
                    break;
                }
                Err(errno) => {
                    self.core.count(DropReason::ReceiveFailed, 1);
                    self.strike(epoll, Some(errno));
                    break;
                }
            }
        }
        TURN_BYTES.saturating_sub(left)
    }

    /// One receive: a datagram, or several of one length but for the last.
    fn take_from_network(&mut self, received: Received<'_>, now: Instant, epoll: &Epoll, heads: &mut [u8]) {
        let Received { from, ecn, segment_bytes, datagrams } = received;
        let (Some(from), Some((_, core, mut shell))) = (from, self.open(heads)) else { return };
        if datagrams.is_empty() {
            core.count(DropReason::Runt, 1);
        }
        for datagram in datagrams.chunks_mut(segment_bytes.max(1)) {
            core.inbound_marked(from, ecn, datagram, now, &mut shell);
        }
        let trouble = shell.finish();
        self.settle(&trouble, epoll);
    }

    /// Lets the core act outside of a packet's turn.
    pub(crate) fn with_core(
        &mut self,
        epoll: &Epoll,
        buffers: &mut Buffers,
        act: impl for<'p> FnOnce(&mut Core, &mut Shell<'p>),
    ) {
        let Some((_, core, mut shell)) = self.open(&mut buffers.heads) else { return };
        act(core, &mut shell);
        let trouble = shell.finish();
        self.settle(&trouble, epoll);
    }

    /// The core and its way out, while there is a TUN.
    fn open<'p>(&'p mut self, heads: &'p mut [u8]) -> Option<(BorrowedFd<'p>, &'p mut Core, Shell<'p>)> {
        let tun = self.tun.as_ref()?.as_fd();
        let udp = self.udp.as_ref().map(AsFd::as_fd);
        let shortcuts = self.shortcuts.as_mut();
        let ways = Ways { tun, udp, offload: &mut self.offload, parked: &mut self.parked, shortcuts };
        Some((tun, &mut self.core, Shell::new(ways, heads)))
    }
}
