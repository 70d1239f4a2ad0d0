//! A tunnel on its way from one process to another: both descriptors, which go on holding what the kernel keeps for them, and all that the
//! next carrier must know to go on as if nothing had happened.
//!
//! Who gives a tunnel away has stopped: it reads and sends nothing in it any more, so that no number is used twice with a key. What
//! arrives meanwhile waits in the device's and the socket's queues. Not taken along are handshakes under way, which begin anew, and what
//! bounds strangers' requests, which starts full.

mod codec;

pub(crate) use codec::{Carry, Reader, Writer, carry};

use std::{
    fmt,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};
use zeroize::Zeroizing;

/// The form of a [`Parcel`]'s state. Whatever changes the order or the kinds of its fields changes this.
const VERSION: u16 = 2;

/// A tunnel that nobody carries, as [`Engine::release`](crate::Engine::release) gives it.
pub struct Parcel {
    pub(crate) tun: OwnedFd,
    pub(crate) udp: OwnedFd,
    /// Keys of sessions are in it.
    state: Zeroizing<Vec<u8>>,
}

impl Parcel {
    /// Puts together what came from another process.
    #[must_use]
    pub const fn new(tun: OwnedFd, udp: OwnedFd, state: Zeroizing<Vec<u8>>) -> Self {
        Self { tun, udp, state }
    }

    pub(crate) fn of(tun: OwnedFd, udp: OwnedFd, write: impl FnOnce(&mut Writer)) -> Self {
        let mut writer = Writer::new();
        VERSION.encode(&mut writer);
        write(&mut writer);
        Self { tun, udp, state: writer.finish() }
    }

    /// The TUN device, then the UDP socket.
    #[must_use]
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.tun.as_fd(), self.udp.as_fd()]
    }

    /// The tunnel's state, with the keys of its sessions: for nobody's eyes but the next carrier's.
    #[must_use]
    pub fn state(&self) -> &[u8] {
        &self.state
    }

    /// The TUN device and the UDP socket alone.
    #[must_use]
    pub fn into_descriptors(self) -> (OwnedFd, OwnedFd) {
        (self.tun, self.udp)
    }

    /// Reads the whole state. `None`: another release wrote it, or it is none.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&mut Reader<'_>) -> Option<T>) -> Option<T> {
        let mut reader = Reader::new(&self.state);
        (u16::decode(&mut reader)? == VERSION).then_some(())?;
        let value = read(&mut reader)?;
        reader.is_at_end().then_some(value)
    }
}

impl fmt::Debug for Parcel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parcel").field("tun", &self.tun).field("udp", &self.udp).finish_non_exhaustive()
    }
}
