//! A tunnel with its descriptors, as its worker keeps it: how they come, break, and go. What is done with them is in [`turn`].

mod turn;

pub(crate) use turn::Buffers;

use crate::{
    Core, Error, Result, TunnelId, TunnelStats,
    batch::Parked,
    io::{Trouble, is_dead},
    offload::Offload,
    parcel::{Carry as _, Parcel},
    shortcut::{Exchange, Shortcuts},
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
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Instant,
};

/// A socket that reports errors this often in a row, with no datagram between, is given up.
const SOCKET_STRIKES: u32 = 64;

/// A tunnel with its descriptors.
pub(crate) struct Attached {
    pub(crate) id: TunnelId,
    pub(crate) core: Core,
    /// Gone once the tunnel is broken; so is the socket then.
    tun: Option<OwnedFd>,
    udp: Option<OwnedFd>,
    offload: Offload,
    shortcuts: Option<Shortcuts>,
    /// What did not fit into the socket's buffer. Meanwhile the TUN is not read.
    parked: Parked,
    /// What epoll was told last.
    waits_for_room: bool,
    strikes: u32,
    pub(crate) timer: Option<Instant>,
    last_trouble: Option<(&'static str, Errno)>,
}

impl Attached {
    pub(crate) fn new(
        id: TunnelId,
        core: Core,
        tun: OwnedFd,
        udp: OwnedFd,
        offload: Offload,
        parked: Parked,
        exchange: &Arc<Exchange>,
    ) -> Self {
        let shortcuts = core.allows_shortcuts().then(|| Shortcuts::new(Arc::clone(exchange)));
        let (tun, udp) = (Some(tun), Some(udp));
        Self {
            id,
            core,
            tun,
            udp,
            offload,
            shortcuts,
            parked,
            waits_for_room: false,
            strikes: 0,
            timer: None,
            last_trouble: None,
        }
    }

    /// After a turn: waits for room where some is needed, counts what was refused.
    fn settle(&mut self, trouble: &Trouble, epoll: &Epoll) {
        if self.waits_for_room == self.parked.is_empty() {
            self.set_interest(epoll);
        }
        trouble.count_in(&mut self.core);
        if let Some((_, errno)) = trouble.last.filter(|_| trouble.refused_to_send()) {
            self.core.refused(errno.desc(), Instant::now());
        }
        if trouble.was_too_big() {
            self.core.refused_as_too_big(Instant::now());
        }
        self.last_trouble = trouble.last.or(self.last_trouble);
        self.renew_shortcuts();
        if let Some(errno) = trouble.tun_gone {
            self.break_down(epoll, "write to the TUN device", errno);
        }
    }

    fn renew_shortcuts(&mut self) {
        let (Some(shortcuts), Some(tun)) = (&mut self.shortcuts, &self.tun) else { return };
        let changes = self.core.changes();
        if shortcuts.are_stale(changes) {
            let (established, sources) = self.core.established();
            let received = shortcuts.renew(changes, tun.as_fd(), sources, &established);
            self.core.count_received(&received, Instant::now());
        }
    }

    /// The socket's buffer has room again.
    fn resume(&mut self, epoll: &Epoll) {
        let mut trouble = Trouble::default();
        self.parked.flush(self.udp.as_ref().map(AsFd::as_fd), &mut self.offload, &mut trouble);
        self.settle(&trouble, epoll);
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
        if let Some(shortcuts) = &mut self.shortcuts {
            let received = shortcuts.close();
            self.core.count_received(&received, Instant::now());
        }
        if let Some(tun) = self.tun.take() {
            // Somebody may hold a duplicate, so closing alone would not end the watch.
            let _ = epoll.delete(tun);
        }
    }

    /// Stops, and puts together what the next carrier needs. The tunnel is left without descriptors.
    ///
    /// # Errors
    /// It has not both of them; then nothing has changed.
    pub(crate) fn release(&mut self, epoll: &Epoll) -> Result<Parcel> {
        let broken = Error::Broken { tunnel: self.id, reason: self.last_error().unwrap_or_default() };
        if !self.is_whole() {
            return Err(broken);
        }
        let (Some(tun), Some(udp)) = (self.tun.take(), self.udp.take()) else { return Err(broken) };
        // The next carrier's duplicates would keep them on the list.
        let _ = epoll.delete(&tun);
        let _ = epoll.delete(&udp);
        if let Some(shortcuts) = &mut self.shortcuts {
            let received = shortcuts.close();
            self.core.count_received(&received, Instant::now());
        }
        let Offload { segmented_sends, merged_tcp, merged_udp, .. } = self.offload;
        Ok(Parcel::of(tun, udp, |to| {
            self.core.save(to);
            (segmented_sends, (merged_tcp, merged_udp)).encode(to);
            self.parked.encode(to);
        }))
    }

    /// Begins with what the carrier before could not send any more.
    pub(crate) fn begin(&mut self, epoll: &Epoll) {
        if !self.parked.is_empty() {
            self.resume(epoll);
        }
    }

    fn close_udp(&mut self, epoll: &Epoll) {
        if let Some(udp) = self.udp.take() {
            let _ = epoll.delete(udp);
        }
        if !self.parked.is_empty() {
            let mut trouble = Trouble::default();
            self.parked.give_up(&mut trouble);
            self.settle(&trouble, epoll);
        }
    }

    pub(crate) fn replace_udp(&mut self, epoll: &Epoll, udp: OwnedFd, merging: nix::Result<()>) -> Result<()> {
        if self.tun.is_none() {
            return Err(Error::Broken { tunnel: self.id, reason: self.last_error().unwrap_or_default() });
        }
        let event = EpollEvent::new(EpollFlags::EPOLLIN, self.id.key(true));
        epoll.add(&udp, event).map_err(|errno| Error::Os { action: "watch the UDP socket", errno })?;
        self.close_udp(epoll);
        self.strikes = 0;
        self.udp = Some(udp);
        self.offload.renew_socket(merging);
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
    fn set_interest(&mut self, epoll: &Epoll) {
        self.waits_for_room = !self.parked.is_empty();
        let (tun, udp) = if self.waits_for_room {
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

    /// Whether it has both descriptors.
    pub(crate) const fn is_whole(&self) -> bool {
        self.tun.is_some() && self.udp.is_some()
    }

    pub(crate) fn stats(&mut self, now: Instant) -> TunnelStats {
        let mut by_shortcut = Vec::new();
        if let Some(shortcuts) = &self.shortcuts {
            self.core.count_received(&shortcuts.received(), now);
            by_shortcut.extend(shortcuts.peers());
        }
        let mut stats = self.core.stats(now);
        stats.peers.iter_mut().for_each(|peer| peer.shortcut = by_shortcut.contains(&peer.id));
        TunnelStats {
            tun_attached: self.tun.is_some(),
            udp_attached: self.udp.is_some(),
            last_error: self.last_error(),
            offload: self.offload.clone(),
            ..stats
        }
    }

    fn last_error(&self) -> Option<String> {
        self.last_trouble.map(|(action, errno)| format!("cannot {action}: {errno}"))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        turn::{PACKET_COST_BYTES, TURN_BYTES},
        *,
    };
    use crate::TunnelConfig;
    use nix::{
        sys::{
            epoll::{EpollCreateFlags, EpollTimeout},
            socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt},
        },
        unistd::write,
    };
    use std::net::UdpSocket;

    fn attached(epoll: &Epoll) -> (Attached, OwnedFd) {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (tun, pod) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_NONBLOCK).unwrap();
        let local = udp.local_addr().unwrap();
        let config = TunnelConfig {
            local,
            mtu_bytes: 1456,
            epoch: 1,
            shortcut: false,
            security: crate::Security::Plain,
            probing: crate::Probing::default(),
            fec: crate::FecPolicy::default(),
            peers: vec![],
        };
        let core = Core::new(config, Instant::now(), [0; 32]).unwrap();
        let attached = Attached::new(
            TunnelId::from_key(0).0,
            core,
            tun,
            udp.into(),
            Offload::default(),
            Parked::default(),
            &Arc::default(),
        );
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
        // The kernel doubles it: room for more than a turn.
        setsockopt(&pod, sockopt::SndBuf, &200_000).unwrap();
        setsockopt(attached.udp.as_ref().unwrap(), sockopt::RcvBuf, &200_000).unwrap();
        for _ in 0..1000 {
            if write(&pod, b"not even a virtio-net header").is_err() {
                break;
            }
            sender.send_to(b"", to).unwrap();
        }
        attached.serve_tun(EpollFlags::EPOLLIN, &epoll, &mut buffers);
        attached.serve_udp(EpollFlags::EPOLLIN, &epoll, &mut buffers);
        let turn = (TURN_BYTES / PACKET_COST_BYTES) as u64;
        assert_eq!(attached.core.stats(Instant::now()).drops, [("runt", turn), ("malformed_inner", turn)]);
        assert_eq!(ready(&epoll).len(), 2);
    }

    #[test]
    fn full_socket_holds_the_tun_back_until_it_has_room() {
        let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
        let (mut attached, pod) = attached(&epoll);
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut buffers = Buffers::new();
        attached.parked.keep(receiver.local_addr().unwrap(), b"head and payload");
        attached.settle(&Trouble::default(), &epoll);
        write(&pod, b"not even a virtio-net header").unwrap();

        // Only the socket's room is reported, and a TUN event that was under way is not acted upon.
        assert_eq!(ready(&epoll), [(1, EpollFlags::EPOLLOUT)]);
        attached.serve_tun(EpollFlags::EPOLLIN, &epoll, &mut buffers);
        assert_eq!(attached.core.stats(Instant::now()).drops, []);

        attached.serve_udp(EpollFlags::EPOLLOUT, &epoll, &mut buffers);
        let mut bytes = [0; 100];
        assert_eq!(receiver.recv(&mut bytes).unwrap(), 16);
        assert_eq!(ready(&epoll), [(0, EpollFlags::EPOLLIN)]);
        attached.serve_tun(EpollFlags::EPOLLIN, &epoll, &mut buffers);
        assert_eq!(attached.core.stats(Instant::now()).drops, [("malformed_inner", 1)]);
    }

    #[test]
    fn what_waits_for_a_socket_is_given_up_with_it() {
        let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
        let (mut attached, _pod) = attached(&epoll);
        attached.parked.keep("127.0.0.1:9".parse().unwrap(), b"datagram");
        attached.settle(&Trouble::default(), &epoll);
        attached.close(&epoll);
        assert_eq!(attached.core.stats(Instant::now()).drops, [("send_failed", 1)]);
    }

    #[test]
    fn socket_that_only_reports_errors_is_given_up() {
        let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
        let (mut attached, _pod) = attached(&epoll);
        let mut buffers = Buffers::new();
        for _ in 0..SOCKET_STRIKES {
            assert!(attached.is_whole());
            attached.serve_udp(EpollFlags::EPOLLERR, &epoll, &mut buffers);
        }
        let stats = attached.stats(Instant::now());
        assert!(stats.tun_attached && !stats.udp_attached);
        let fresh = UdpSocket::bind("127.0.0.1:0").unwrap();
        attached.replace_udp(&epoll, fresh.into(), Ok(())).unwrap();
        assert!(attached.stats(Instant::now()).udp_attached);
    }
}
