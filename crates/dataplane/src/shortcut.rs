//! Two tunnels of one engine that are each other's peers, and both want it: packets go from TUN to TUN, without sockets and without a
//! header. That they are each other's peers is what the handshake over the network has shown: each knows the session index and the epoch
//! of the other, which no third tunnel can have chosen.

use crate::{DropReason, PeerId, ShortcutPacket, Vnet, allowed::AllowedIps, io::Trouble, peers::Slot};
use nix::{errno::Errno, unistd::write};
use std::{
    collections::HashMap,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// One end of a session: the index under which it receives, and its epoch.
pub(crate) type End = (u32, u64);

/// A session as one of its ends sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Session {
    pub(crate) ours: End,
    pub(crate) theirs: End,
}

impl Session {
    const fn mirrored(self) -> Self {
        Self { ours: self.theirs, theirs: self.ours }
    }
}

/// The way into a tunnel's TUN for one of its peers.
#[derive(Debug)]
pub(crate) struct Door {
    /// Gone once the tunnel closed it.
    tun: RwLock<Option<OwnedFd>>,
    sources: AllowedIps<Slot>,
    peer: Slot,
    bytes: AtomicU64,
    packets: AtomicU64,
}

impl Door {
    /// Writes a packet, behind its virtio-net header. `None`: the door is closed.
    fn pass(&self, packet: &[u8], about: &ShortcutPacket, trouble: &mut Trouble) -> Option<()> {
        const ACTION: &str = "write to the peer's TUN device";
        let tun = self.tun.read().unwrap_or_else(PoisonError::into_inner);
        if self.sources.lookup(about.source) != Some(self.peer) {
            trouble.note(DropReason::SourceNotAllowed, ACTION, Errno::EPERM, about.packets);
            return Some(());
        }
        let tun = tun.as_ref()?;
        // Before the pod has it: who sees the packet sees it counted.
        self.bytes.fetch_add(about.bytes, Ordering::Relaxed);
        self.packets.fetch_add(about.packets, Ordering::Relaxed);
        let Err(errno) = write(tun, Vnet::with(packet)) else { return Some(()) };
        self.bytes.fetch_sub(about.bytes, Ordering::Relaxed);
        self.packets.fetch_sub(about.packets, Ordering::Relaxed);
        if matches!(errno, Errno::EBADFD | Errno::EPIPE) {
            return None;
        }
        trouble.note(DropReason::TunWriteFailed, ACTION, errno, about.packets);
        Some(())
    }

    fn close(&self) {
        self.tun.write().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn take_counts(&self) -> (u64, u64) {
        (self.bytes.swap(0, Ordering::Relaxed), self.packets.swap(0, Ordering::Relaxed))
    }
}

/// The doors of an engine's tunnels.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    doors: Mutex<HashMap<Session, Arc<Door>>>,
    /// Counts the changes.
    changes: AtomicU64,
}

impl Exchange {
    fn doors(&self) -> MutexGuard<'_, HashMap<Session, Arc<Door>>> {
        // Each change under the lock is complete by itself.
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<Session, Arc<Door>>)) {
        change(&mut self.doors());
        self.changes.fetch_add(1, Ordering::Release);
    }
}

/// What the core tells of its established peers.
pub(crate) struct Established {
    pub(crate) peer: PeerId,
    pub(crate) slot: Slot,
    pub(crate) session: Session,
}

/// A tunnel's part: its own doors, and those that it found.
#[derive(Debug)]
pub(crate) struct Shortcuts {
    exchange: Arc<Exchange>,
    own: Vec<(PeerId, Session, Arc<Door>)>,
    found: Vec<(PeerId, Arc<Door>)>,
    /// The core's changes and the exchange's that are known.
    seen: Option<(u64, u64)>,
}

impl Shortcuts {
    pub(crate) fn new(exchange: Arc<Exchange>) -> Self {
        Self { exchange, own: Vec::new(), found: Vec::new(), seen: None }
    }

    /// Whether something has changed since the last [`renew`](Self::renew).
    pub(crate) fn are_stale(&self, core_changes: u64) -> bool {
        self.seen != Some((core_changes, self.exchange.changes.load(Ordering::Acquire)))
    }

    /// Opens doors for new sessions, closes those of old ones and looks for the other ends'.
    ///
    /// Returns what came through the closed ones, like [`received`](Self::received).
    pub(crate) fn renew(
        &mut self,
        core_changes: u64,
        tun: BorrowedFd<'_>,
        sources: &AllowedIps<Slot>,
        established: &[Established],
    ) -> Vec<(PeerId, u64, u64)> {
        let is_new_core = self.seen.is_none_or(|(seen, _)| seen != core_changes);
        let received = if is_new_core { self.close() } else { Vec::new() };
        if is_new_core {
            for &Established { peer, slot, session } in established {
                // Without a descriptor to spare the packets take the network.
                let Ok(tun) = tun.try_clone_to_owned() else { continue };
                let door = Arc::new(Door {
                    tun: RwLock::new(Some(tun)),
                    sources: sources.clone(),
                    peer: slot,
                    bytes: AtomicU64::new(0),
                    packets: AtomicU64::new(0),
                });
                self.exchange.change(|doors| drop(doors.insert(session, Arc::clone(&door))));
                self.own.push((peer, session, door));
            }
        }
        // Before the look, so that a change during it is seen next time.
        let exchange_changes = self.exchange.changes.load(Ordering::Acquire);
        let doors = self.exchange.doors();
        let other_end =
            |(peer, session, _): &(PeerId, Session, _)| Some((*peer, doors.get(&session.mirrored())?.clone()));
        self.found = self.own.iter().filter_map(other_end).collect();
        self.seen = Some((core_changes, exchange_changes));
        received
    }

    /// Lets a packet take the shortcut. False: there is none.
    pub(crate) fn pass(&mut self, packet: &mut [u8], about: &ShortcutPacket, trouble: &mut Trouble) -> bool {
        let Some((_, door)) = self.found.iter().find(|(id, _)| *id == about.peer) else { return false };
        about.header.write_before(packet);
        let passed = door.pass(packet, about, trouble).is_some();
        if !passed {
            self.found.retain(|(id, _)| *id != about.peer);
        }
        passed
    }

    /// What came through each door since the last call: bytes and packets.
    pub(crate) fn received(&self) -> Vec<(PeerId, u64, u64)> {
        let counts = self.own.iter().map(|(peer, _, door)| {
            let (bytes, packets) = door.take_counts();
            (*peer, bytes, packets)
        });
        counts.filter(|(_, _, packets)| *packets > 0).collect()
    }

    /// The peers that packets take the shortcut to.
    pub(crate) fn peers(&self) -> impl Iterator<Item = PeerId> {
        self.found.iter().map(|(peer, _)| *peer)
    }

    /// Closes the tunnel's doors; nobody writes to its TUN any more when this returns.
    pub(crate) fn close(&mut self) -> Vec<(PeerId, u64, u64)> {
        for (_, session, door) in &self.own {
            self.exchange.change(|doors| drop(doors.remove(session)));
            door.close();
        }
        let received = self.received();
        self.own.clear();
        self.found.clear();
        self.seen = None;
        received
    }
}

impl Drop for Shortcuts {
    fn drop(&mut self) {
        self.close();
    }
}
