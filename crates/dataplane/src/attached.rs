//! A tunnel with its descriptors, as its worker keeps it.

use crate::{
    Core, DropReason, Error, Result, TunnelId, TunnelStats,
    io::{Inbox, Outbox, Shell, Trouble, TunBuffer, is_dead},
};
use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollEvent, EpollFlags},
        socket::{getsockopt, sockopt},
    },
};
use std::{
    collections::BTreeSet,
    mem,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Instant,
};

/// Packets that a tunnel may take from a descriptor in one turn. Descriptors that are still readable
/// then come again after all the others (epoll's ready list is a queue).
const TURN_PACKETS: usize = 64;
/// A socket that reports errors this often in a row, with no datagram between, is given up.
const SOCKET_STRIKES: u32 = 64;

/// What all tunnels of a worker share.
pub(crate) struct Buffers {
    tun: TunBuffer,
    inbox: Inbox,
    outbox: Box<Outbox>,
}

impl Buffers {
    pub(crate) fn new() -> Self {
        Self { tun: TunBuffer::new(), inbox: Inbox::new(), outbox: Box::new(Outbox::new()) }
    }
}

/// A tunnel with its descriptors.
pub(crate) struct Attached {
    id: TunnelId,
    pub(crate) core: Core,
    /// Gone once the tunnel is broken; so is the socket then.
    tun: Option<OwnedFd>,
    udp: Option<OwnedFd>,
    /// What did not fit into the socket's buffer. Meanwhile the TUN is not read.
    stalled: Option<Box<Outbox>>,
    strikes: u32,
    pub(crate) timer: Option<Instant>,
    last_trouble: Option<(&'static str, Errno)>,
}

impl Attached {
    pub(crate) fn new(id: TunnelId, core: Core, tun: OwnedFd, udp: OwnedFd) -> Self {
        Self { id, core, tun: Some(tun), udp: Some(udp), stalled: None, strikes: 0, timer: None, last_trouble: None }
    }

    pub(crate) fn serve_tun(&mut self, events: EpollFlags, epoll: &Epoll, buffers: &mut Buffers) {
        let now = Instant::now();
        let Some(tun) = &self.tun else { return };
        let mut shell = Shell::new(tun.as_fd(), self.udp.as_ref().map(AsFd::as_fd), &mut buffers.outbox);
        let mut end = None;
        let readable = events.contains(EpollFlags::EPOLLIN) && self.stalled.is_none();
        if readable {
            for _ in 0..TURN_PACKETS {
                if shell.is_stalled() {
                    break;
                }
                match buffers.tun.read(tun.as_fd()) {
                    Ok(Ok(packet)) => self.core.outbound(packet, now, &mut shell),
                    Ok(Err(reason)) => self.core.count(reason, 1),
                    Err(Errno::EINTR) => {}
                    Err(errno) => {
                        end = Some(errno);
                        break;
                    }
                }
            }
        }
        let done = shell.finish();
        self.settle(done, epoll, &mut buffers.outbox);
        let hung_up = events.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP);
        match end {
            Some(Errno::EAGAIN) if hung_up => self.break_down(epoll, "watch the TUN device", Errno::EBADFD),
            // Out of memory passes.
            Some(Errno::EAGAIN | Errno::ENOMEM | Errno::ENOBUFS) => {}
            Some(errno) => self.break_down(epoll, "read from the TUN device", errno),
            None if hung_up && !readable => self.break_down(epoll, "watch the TUN device", Errno::EBADFD),
            None => {}
        }
    }

    pub(crate) fn serve_udp(&mut self, events: EpollFlags, epoll: &Epoll, buffers: &mut Buffers) {
        if events.contains(EpollFlags::EPOLLOUT) {
            self.resume(epoll);
        }
        if !events.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP) {
            return;
        }
        let now = Instant::now();
        let mut left = TURN_PACKETS;
        while left > 0 {
            let (Some(tun), Some(udp)) = (&self.tun, &self.udp) else { return };
            match buffers.inbox.receive(udp.as_fd()) {
                Ok(count) => {
                    self.strikes = 0;
                    left = left.saturating_sub(count.max(1));
                    let mut shell = Shell::new(tun.as_fd(), Some(udp.as_fd()), &mut buffers.outbox);
                    for (from, datagram) in buffers.inbox.datagrams(count) {
                        self.core.inbound(from, datagram, now, &mut shell);
                    }
                    let done = shell.finish();
                    self.settle(done, epoll, &mut buffers.outbox);
                    if count < Inbox::CAPACITY {
                        return;
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    if events.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP) {
                        self.strike(epoll, None);
                    }
                    return;
                }
                Err(errno) => {
                    self.core.count(DropReason::ReceiveFailed, 1);
                    return self.strike(epoll, Some(errno));
                }
            }
        }
    }

    /// Lets the core act outside of a packet's turn.
    pub(crate) fn with_core(
        &mut self,
        epoll: &Epoll,
        buffers: &mut Buffers,
        act: impl FnOnce(&mut Core, &mut Shell<'_>),
    ) {
        let Some(tun) = &self.tun else { return };
        let mut shell = Shell::new(tun.as_fd(), self.udp.as_ref().map(AsFd::as_fd), &mut buffers.outbox);
        act(&mut self.core, &mut shell);
        let done = shell.finish();
        self.settle(done, epoll, &mut buffers.outbox);
    }

    /// After a turn: keeps what could not be sent, counts what was refused.
    fn settle(&mut self, (sent, mut trouble): (bool, Trouble), epoll: &Epoll, outbox: &mut Box<Outbox>) {
        if !sent {
            if self.stalled.is_none() {
                self.stalled = Some(mem::replace(outbox, Box::new(Outbox::new())));
                self.set_interest(epoll);
            } else {
                outbox.give_up(&mut trouble);
            }
        }
        trouble.count_in(&mut self.core);
        self.last_trouble = trouble.last.or(self.last_trouble);
        if let Some(errno) = trouble.tun_gone {
            self.break_down(epoll, "write to the TUN device", errno);
        }
    }

    /// The socket's buffer has room again.
    fn resume(&mut self, epoll: &Epoll) {
        let Some(mut outbox) = self.stalled.take() else { return };
        let mut trouble = Trouble::default();
        if outbox.flush(self.udp.as_ref().map(AsFd::as_fd), &mut trouble) {
            self.set_interest(epoll);
        } else {
            self.stalled = Some(outbox);
        }
        trouble.count_in(&mut self.core);
        self.last_trouble = trouble.last.or(self.last_trouble);
    }

    /// The socket reported an error. Most pass; one that does not must not keep the worker busy.
    fn strike(&mut self, epoll: &Epoll, errno: Option<Errno>) {
        let Some(udp) = &self.udp else { return };
        self.strikes = self.strikes.saturating_add(1);
        // Reading the pending error also clears it.
        let pending = getsockopt(udp, sockopt::SocketError).unwrap_or_default();
        let errno = errno.unwrap_or(Errno::from_raw(pending));
        self.last_trouble = Some(("receive from the network", errno));
        if is_dead(errno) || self.strikes >= SOCKET_STRIKES {
            tracing::warn!(tunnel = %self.id, %errno, "the UDP socket is of no use any more");
            self.close_udp(epoll);
        }
    }

    /// Without its TUN a tunnel is no more. Its socket goes as well: it would keep the namespace alive
    /// and answer the peer as if there were somebody behind it.
    fn break_down(&mut self, epoll: &Epoll, action: &'static str, errno: Errno) {
        tracing::warn!(tunnel = %self.id, %errno, "cannot {action}: the tunnel is broken");
        self.last_trouble = Some((action, errno));
        self.close(epoll);
    }

    pub(crate) fn close(&mut self, epoll: &Epoll) {
        self.close_udp(epoll);
        if let Some(tun) = self.tun.take() {
            // Somebody may hold a duplicate, so closing alone would not end the watch.
            let _ = epoll.delete(tun);
        }
    }

    fn close_udp(&mut self, epoll: &Epoll) {
        if let Some(udp) = self.udp.take() {
            let _ = epoll.delete(udp);
        }
        if let Some(mut outbox) = self.stalled.take() {
            let mut trouble = Trouble::default();
            outbox.give_up(&mut trouble);
            trouble.count_in(&mut self.core);
            self.set_interest(epoll);
        }
    }

    pub(crate) fn replace_udp(&mut self, epoll: &Epoll, udp: OwnedFd) -> Result<()> {
        if self.tun.is_none() {
            return Err(Error::Broken { tunnel: self.id, reason: self.last_error().unwrap_or_default() });
        }
        let event = EpollEvent::new(EpollFlags::EPOLLIN, self.id.key(true));
        epoll.add(&udp, event).map_err(|errno| Error::Os { action: "watch the UDP socket", errno })?;
        self.close_udp(epoll);
        self.strikes = 0;
        self.udp = Some(udp);
        Ok(())
    }

    pub(crate) fn watch(&self, epoll: &Epoll) -> Result<()> {
        let add = |fd: Option<BorrowedFd<'_>>, is_udp, action| match fd {
            Some(fd) => epoll
                .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, self.id.key(is_udp)))
                .map_err(|errno| Error::Os { action, errno }),
            None => Ok(()),
        };
        add(self.tun.as_ref().map(AsFd::as_fd), false, "watch the TUN device")?;
        add(self.udp.as_ref().map(AsFd::as_fd), true, "watch the UDP socket")
    }

    /// While the socket is full, its room is waited for and the TUN is left alone.
    fn set_interest(&self, epoll: &Epoll) {
        let (tun, udp) = if self.stalled.is_some() {
            (EpollFlags::empty(), EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT)
        } else {
            (EpollFlags::EPOLLIN, EpollFlags::EPOLLIN)
        };
        for (fd, is_udp, flags) in [(&self.tun, false, tun), (&self.udp, true, udp)] {
            if let Some(fd) = fd
                && let Err(errno) = epoll.modify(fd, &mut EpollEvent::new(flags, self.id.key(is_udp)))
            {
                tracing::error!(tunnel = %self.id, %errno, "cannot change what epoll waits for");
            }
        }
    }

    pub(crate) fn rearm(&mut self, timers: &mut BTreeSet<(Instant, TunnelId)>) {
        let wanted = self.core.next_wake().filter(|_| self.tun.is_some());
        if wanted == self.timer {
            return;
        }
        if let Some(at) = self.timer {
            timers.remove(&(at, self.id));
        }
        if let Some(at) = wanted {
            timers.insert((at, self.id));
        }
        self.timer = wanted;
    }

    pub(crate) fn stats(&self, now: Instant) -> TunnelStats {
        TunnelStats {
            tun_attached: self.tun.is_some(),
            udp_attached: self.udp.is_some(),
            last_error: self.last_error(),
            ..self.core.stats(now)
        }
    }

    fn last_error(&self) -> Option<String> {
        self.last_trouble.map(|(action, errno)| format!("cannot {action}: {errno}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Sink, TunnelConfig};
    use nix::{
        sys::{
            epoll::{EpollCreateFlags, EpollTimeout},
            socket::{AddressFamily, SockFlag, SockType, socketpair},
        },
        unistd::write,
    };
    use std::net::UdpSocket;

    fn attached(epoll: &Epoll) -> (Attached, OwnedFd) {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (tun, pod) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_NONBLOCK).unwrap();
        let local = udp.local_addr().unwrap();
        let config = TunnelConfig { local, mtu_bytes: 1456, epoch: 1, peers: vec![] };
        let core = Core::new(config, Instant::now(), [0; 32]).unwrap();
        let attached = Attached::new(TunnelId::from_key(0).0, core, tun, udp.into());
        attached.watch(epoll).unwrap();
        (attached, pod)
    }

    fn ready(epoll: &Epoll) -> Vec<(u64, EpollFlags)> {
        let mut events = [EpollEvent::empty(); 4];
        let count = epoll.wait(&mut events, EpollTimeout::ZERO).unwrap();
        events[..count].iter().map(|event| (event.data(), event.events())).collect()
    }

    #[test]
    fn one_turn_takes_no_more_than_its_share() {
        let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
        let (mut attached, pod) = attached(&epoll);
        let mut buffers = Buffers::new();
        let to = UdpSocket::from(attached.udp.as_ref().unwrap().try_clone().unwrap()).local_addr().unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..100 {
            write(&pod, b"not even a virtio-net header").unwrap();
            sender.send_to(b"", to).unwrap();
        }
        attached.serve_tun(EpollFlags::EPOLLIN, &epoll, &mut buffers);
        attached.serve_udp(EpollFlags::EPOLLIN, &epoll, &mut buffers);
        assert_eq!(attached.core.stats(Instant::now()).drops, [("runt", 64), ("malformed_inner", 64)]);
        assert_eq!(ready(&epoll).len(), 2);
    }

    #[test]
    fn full_socket_holds_the_tun_back_until_it_has_room() {
        let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
        let (mut attached, pod) = attached(&epoll);
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut buffers = Buffers::new();
        let mut shell = Shell::new(pod.as_fd(), None, &mut buffers.outbox);
        shell.network(receiver.local_addr().unwrap(), b"head", b"payload");
        attached.settle((false, Trouble::default()), &epoll, &mut buffers.outbox);
        assert!(buffers.outbox.is_empty());
        write(&pod, b"not even a virtio-net header").unwrap();

        // Only the socket's room is reported, and a TUN event that was under way is not acted upon.
        assert_eq!(ready(&epoll), [(1, EpollFlags::EPOLLOUT)]);
        attached.serve_tun(EpollFlags::EPOLLIN, &epoll, &mut buffers);
        assert_eq!(attached.core.stats(Instant::now()).drops, []);

        attached.serve_udp(EpollFlags::EPOLLOUT, &epoll, &mut buffers);
        let mut bytes = [0; 100];
        assert_eq!(receiver.recv(&mut bytes).unwrap(), 11);
        assert_eq!(ready(&epoll), [(0, EpollFlags::EPOLLIN)]);
        attached.serve_tun(EpollFlags::EPOLLIN, &epoll, &mut buffers);
        assert_eq!(attached.core.stats(Instant::now()).drops, [("malformed_inner", 1)]);
    }

    #[test]
    fn second_batch_for_a_full_socket_is_given_up() {
        let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
        let (mut attached, pod) = attached(&epoll);
        let mut buffers = Buffers::new();
        for _ in 0..2 {
            let mut shell = Shell::new(pod.as_fd(), None, &mut buffers.outbox);
            shell.network("127.0.0.1:9".parse().unwrap(), b"head", b"payload");
            attached.settle((false, Trouble::default()), &epoll, &mut buffers.outbox);
        }
        assert_eq!(attached.core.stats(Instant::now()).drops, [("send_failed", 1)]);
        attached.close(&epoll);
        assert_eq!(attached.core.stats(Instant::now()).drops, [("send_failed", 2)]);
    }

    #[test]
    fn socket_that_only_reports_errors_is_given_up() {
        let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
        let (mut attached, _pod) = attached(&epoll);
        let mut buffers = Buffers::new();
        for _ in 0..SOCKET_STRIKES {
            assert!(attached.udp.is_some());
            attached.serve_udp(EpollFlags::EPOLLERR, &epoll, &mut buffers);
        }
        let stats = attached.stats(Instant::now());
        assert!(stats.tun_attached && !stats.udp_attached);
        let fresh = UdpSocket::bind("127.0.0.1:0").unwrap();
        attached.replace_udp(&epoll, fresh.into()).unwrap();
        assert!(attached.stats(Instant::now()).udp_attached);
    }
}
