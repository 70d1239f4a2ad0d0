//! Two links in time: what comes in at one port leaves at the other when it is due.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::impair::{Link, Packet};

/// What is taken in at once before the relay looks what is due.
pub(crate) const BATCH: usize = 64;

/// One end of the relay. Neither reading nor sending ever waits.
pub(crate) trait Port: Send {
    /// Takes what has come, at most [`BATCH`].
    fn receive(&mut self, take: &mut dyn FnMut(Received));

    /// Sends a packet; false when it is not on its way.
    fn send(&mut self, packet: &Packet) -> bool;

    /// What becomes readable when something has come.
    fn descriptor(&self) -> BorrowedFd<'_>;
}

/// What comes in at a port.
pub(crate) enum Received {
    Packet(Packet),
    /// Larger than any packet of a wire.
    Oversize,
}

/// The links there (from the first port to the second) and back.
pub(crate) type Links = Arc<Mutex<[Link; 2]>>;

pub(crate) fn lock(links: &Links) -> MutexGuard<'_, [Link; 2]> {
    links.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Carries packets until `stop` becomes readable.
///
/// # Errors
/// Waiting is refused.
pub(crate) fn carry(mut ports: [Box<dyn Port>; 2], links: &Links, stop: &OwnedFd, began: Instant) -> io::Result<()> {
    let mut due: [Vec<Packet>; 2] = Default::default();
    loop {
        let next = {
            let mut links = lock(links);
            let now = began.elapsed();
            for (link, due) in links.iter_mut().zip(&mut due) {
                due.extend(std::iter::from_fn(|| link.take(now)));
            }
            links.iter().filter_map(Link::next_due).min()
        };
        let [first, second] = &mut ports;
        let [there, back] = &mut due;
        // Sending takes the time that the receiver's stack takes: nobody is kept from looking meanwhile.
        for (direction, (port, packets)) in [(second, there), (first, back)].into_iter().enumerate() {
            let unsent = packets.drain(..).filter(|packet| !port.send(packet)).count();
            for _ in 0..unsent {
                lock(links).get_mut(direction).map(Link::not_sent);
            }
        }
        let timeout = next.map(|next| next.saturating_sub(began.elapsed()));
        let [first_ready, second_ready, stopped] = wait(&ports, stop, timeout)?;
        if stopped {
            return Ok(());
        }
        let mut links = lock(links);
        for ((port, link), is_ready) in ports.iter_mut().zip(links.iter_mut()).zip([first_ready, second_ready]) {
            if is_ready {
                port.receive(&mut |received| match received {
                    Received::Packet(packet) => link.offer(began.elapsed(), packet),
                    Received::Oversize => link.refuse_oversize(),
                });
            }
        }
    }
}

/// Waits for one of the ports or the end; which of them there is something at.
fn wait(ports: &[Box<dyn Port>; 2], stop: &OwnedFd, timeout: Option<Duration>) -> io::Result<[bool; 3]> {
    let [first, second] = ports;
    let watch = |descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN);
    let mut watched = [watch(first.descriptor()), watch(second.descriptor()), watch(stop.as_fd())];
    let timeout = timeout.and_then(|time| Timespec::try_from(time).ok());
    match poll(&mut watched, timeout.as_ref()) {
        Ok(_) => Ok(watched.map(|one| !one.revents().is_empty())),
        Err(rustix::io::Errno::INTR) => Ok([false; 3]),
        Err(errno) => Err(errno.into()),
    }
}
