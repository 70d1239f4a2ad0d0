//! Waiting for the kernel to report a change: subscribe first, then look, so that nothing is missed.

use std::{
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv},
};

use crate::{Error, Netlink, Netns, Result};

// enum rtnetlink_groups, include/uapi/linux/rtnetlink.h
pub(crate) const GROUP_LINK: u32 = 1;
pub(crate) const GROUP_IPV6_ADDRESS: u32 = 9;

/// What a look at the state found.
pub(crate) enum Look<T> {
    /// It is as wanted.
    Done(T),
    /// It is not; in words.
    NotYet(String),
}

impl Netlink {
    /// Looks, and looks again after each event of `groups`, until the look says done.
    pub(crate) fn wait_for<T>(
        &self,
        groups: &[u32],
        what: impl Fn() -> String,
        timeout: Duration,
        mut look: impl FnMut() -> Result<Look<T>>,
    ) -> Result<T> {
        let started = Instant::now();
        let monitor = Monitor::open(self.netns(), groups)?;
        loop {
            let state = match look()? {
                Look::Done(value) => return Ok(value),
                Look::NotYet(state) => state,
            };
            let left = timeout.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Err(Error::TimedOut { what: what(), after: timeout, state });
            }
            monitor.wait(left).map_err(|e| Error::kernel("wait for", what(), e))?;
        }
    }
}

/// A socket that hears of changes in a namespace.
#[derive(Debug)]
struct Monitor {
    socket: Socket,
}

impl Monitor {
    fn open(netns: &Netns, groups: &[u32]) -> Result<Self> {
        let subscribe = || -> std::io::Result<Self> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            for group in groups {
                socket.add_membership(*group)?;
            }
            Ok(Self { socket })
        };
        let monitor = if Netns::current()?.id() == netns.id() { subscribe() } else { netns.run(subscribe)? };
        monitor.map_err(|e| Error::io("subscribe to", "events of links and addresses", e))
    }

    /// Waits for an event, at most `timeout`, and forgets all that have come. Lost events (ENOBUFS)
    /// count as one.
    fn wait(&self, timeout: Duration) -> nix::Result<()> {
        // Whole milliseconds, rounded up: the caller would spin through the last one otherwise.
        let timeout = timeout.saturating_add(Duration::from_millis(1));
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) | Err(Errno::EINTR) => return Ok(()),
            Ok(_) => {}
            Err(errno) => return Err(errno),
        }
        // The content does not matter, as the caller looks for itself: one byte of each is enough.
        let mut byte = [0];
        loop {
            match recv(self.socket.as_raw_fd(), &mut byte, MsgFlags::MSG_DONTWAIT) {
                Ok(_) | Err(Errno::ENOBUFS | Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(errno) => return Err(errno),
            }
        }
    }
}
