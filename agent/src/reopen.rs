//! Opens a tunnel's descriptors again inside the pod's namespace, from its record alone.

use std::os::fd::OwnedFd;

use adit_net::{
    Netns, NetnsId,
    tun::open_tun,
    udp::{UdpSpec, open_udp},
};
use adit_tunnel::{Record, record::NetnsRef};

use crate::{Error, Result};

/// The TUN device and the outer socket.
pub struct Descriptors {
    pub tun: OwnedFd,
    pub udp: OwnedFd,
}

/// Opens both descriptors of `record`'s tunnel.
///
/// # Errors
/// The namespace is gone, another process holds the device or the port, or the device was deleted.
pub fn reopen(record: &Record) -> Result<Descriptors> {
    let namespace = find(&record.netns)?;
    let spec = &record.spec;
    // Threads of the control plane must never change their namespace: the next task would run in the pod's.
    let opened = namespace.run_on_thread(|| {
        let tun = open_tun(&spec.if_name)?;
        let udp = open_udp(&UdpSpec { local: spec.local, device: &spec.device })?;
        Ok::<_, adit_net::Error>(Descriptors { tun, udp })
    })??;
    Ok(opened)
}

/// Whether `netns`'s path still names the namespace that it named at ADD.
pub fn is_in_place(netns: &NetnsRef) -> bool {
    Netns::open(&netns.path).is_ok_and(|found| found.id() == netns.id)
}

/// Whether nothing lives in the namespace any more: its path is gone or names another one, and no process is inside.
pub fn is_dead(netns: &NetnsRef) -> bool {
    !is_in_place(netns) && nobody_inside(netns.id)
}

fn find(netns: &NetnsRef) -> Result<Netns> {
    match Netns::open(&netns.path) {
        Ok(found) if found.id() == netns.id => Ok(found),
        _ => Netns::find(netns.id)?.ok_or_else(|| Error::NamespaceGone(netns.path.clone())),
    }
}

/// When /proc cannot be read nothing is concluded: a tunnel of a living pod must never be let go.
fn nobody_inside(id: NetnsId) -> bool {
    Netns::holders(id).is_ok_and(|pids| pids.is_empty())
}
