//! Finds a recorded namespace again, and opens a tunnel's descriptors inside it, from the record alone.
//!
//! The kernel gives a dead namespace's inode number to a new one, often at once. Its cookie it never gives twice, but the
//! cookie is to be read inside only. So a namespace is found by its inode and then asked for its cookie.

use std::{cell::OnceCell, collections::HashSet, os::fd::OwnedFd};

use adit_net::{
    Netlink, Netns, NetnsId,
    tun::open_tun,
    udp::{UdpSpec, open_udp},
};
use adit_tunnel::{Record, Underlay, record::NetnsRef};

use crate::{Error, Result, registry::mtu::present};

/// The TUN device and the outer socket.
pub struct Descriptors {
    /// The pod's device.
    pub tun: OwnedFd,
    /// Bound outside.
    pub udp: OwnedFd,
    /// The MTU that the device has, if it was asked.
    pub mtu_bytes: Option<u16>,
}

/// Opens both descriptors of `record`'s tunnel. Whoever `is_inside` its pod's namespace already need not enter it.
///
/// # Errors
/// The namespace is gone, another process holds the device or the port, or the device was deleted.
pub fn reopen(record: &Record, is_inside: bool) -> Result<Descriptors> {
    let spec = &record.spec;
    let open = || {
        let tun = open_tun(&spec.if_name)?;
        let udp = match spec.underlay {
            Underlay::Pod => Some(open_udp(&UdpSpec { local: spec.local, device: Some(&spec.device) })?),
            Underlay::Host => None,
        };
        Ok((tun, udp, present(record)))
    };
    match if is_inside { open() } else { within(&record.netns, open) }? {
        (tun, Some(udp), mtu_bytes) => Ok(Descriptors { tun, udp, mtu_bytes }),
        (tun, None, mtu_bytes) => {
            let udp = open_udp(&UdpSpec { local: spec.local, device: None })?;
            Ok(Descriptors { tun, udp, mtu_bytes })
        }
    }
}

/// Does something in the recorded namespace, on a thread of its own: those of the control plane must never change theirs, or the next
/// task would run in the pod's.
///
/// # Errors
/// The namespace is gone, or what is done there fails.
pub fn within<T: Send>(netns: &NetnsRef, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let gone = || Error::NamespaceGone(netns.path.clone());
    let namespace = find(netns)?.ok_or_else(gone)?;
    namespace.run_on_thread(|| if is_inside(netns)? { work() } else { Err(gone()) })?
}

/// Whether this process can find the namespace, at its path or through a process that lives in it.
///
/// # Errors
/// `/proc` cannot be listed.
pub fn is_visible(netns: &NetnsRef) -> Result<bool> {
    Ok(find(netns)?.is_some())
}

/// Where processes live, as far as one look needs to know: `/proc` is scanned once, or not at all.
#[derive(Default)]
pub struct Inhabited {
    scanned: OnceCell<Result<HashSet<NetnsId>>>,
}

impl Inhabited {
    /// Whether the pod of a carried tunnel is gone: its path is gone or names another namespace, and no process lives in
    /// its own. The tunnel's descriptors keep the namespace, so nothing else can have its inode number.
    pub fn has_left(&self, netns: &NetnsRef) -> bool {
        in_place(netns).is_none() && self.nobody_in(netns.id)
    }

    /// Whether the pod of a tunnel that is not carried is gone. The inode number may be another namespace's by now.
    pub fn is_gone(&self, netns: &NetnsRef) -> bool {
        self.has_left(netns) || is_replaced(netns)
    }

    /// Why the scan says nothing, if there was one.
    pub fn trouble(&self) -> Option<&Error> {
        self.scanned.get()?.as_ref().err()
    }

    /// A scan that failed, or that missed this very process, proves nothing: a tunnel of a living pod must never be let go.
    /// (Processes of other owners are seen thanks to `CAP_SYS_PTRACE`, which the agent keeps.)
    fn nobody_in(&self, id: NetnsId) -> bool {
        let scanned = self.scanned.get_or_init(|| {
            let own = Netns::current()?.id();
            let inhabited = Netns::inhabited()?;
            if inhabited.contains(&own) { Ok(inhabited) } else { Err(Error::Blind) }
        });
        scanned.as_ref().is_ok_and(|inhabited| !inhabited.contains(&id))
    }
}

/// Whether the namespace is at its path, and is so because it was mounted there: then its end shows in the path's directory.
pub fn is_mounted(netns: &NetnsRef) -> bool {
    let is_file = netns.path.symlink_metadata().is_ok_and(|metadata| metadata.is_file());
    is_file && !netns.path.starts_with("/proc") && in_place(netns).is_some()
}

/// The namespace at the recorded path, if it has the recorded inode.
fn in_place(netns: &NetnsRef) -> Option<Netns> {
    Netns::open(&netns.path).ok().filter(|found| found.id() == netns.id)
}

/// The namespace that has the recorded inode now.
fn find(netns: &NetnsRef) -> Result<Option<Netns>> {
    match in_place(netns) {
        Some(found) => Ok(Some(found)),
        None => Ok(Netns::find(netns.id)?),
    }
}

/// Whether another namespace has the recorded inode now. One that cannot be entered proves nothing.
fn is_replaced(netns: &NetnsRef) -> bool {
    let Ok(Some(found)) = find(netns) else { return false };
    matches!(found.run_on_thread(|| is_inside(netns)), Ok(Ok(false)))
}

/// Whether the calling thread is in the recorded namespace.
fn is_inside(netns: &NetnsRef) -> Result<bool> {
    let here = Netlink::open()?;
    Ok(netns.is(here.netns().id(), here.netns_cookie()))
}

#[cfg(test)]
mod tests {
    use adit_dataplane::wire;
    use adit_net::{tun, udp};

    /// The room that opens descriptors and the one that reads them know nothing of each other.
    #[test]
    fn descriptors_are_opened_as_the_data_plane_reads_them() {
        assert_eq!(tun::VNET_HEADER_BYTES, wire::VNET_HEADER_BYTES);
        assert_eq!(udp::ZERO_CHECKSUM_LEN, wire::ZERO_CHECKSUM_BYTES);
        assert_eq!(udp::MIN_PAYLOAD_BYTES, wire::HEADER_BYTES);
        assert_eq!(udp::RUNT_LEN, 0);
    }
}
