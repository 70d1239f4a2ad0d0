//! What the agent may do: as many descriptors as the node allows, and no capability that re-opening does not need.

use std::io;

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{Error, Result};

/// Descriptors below which the agent says that it will not carry many tunnels: two each.
const COMFORTABLE_DESCRIPTORS: u64 = 4096;

/// What stays after the start, and why.
const KEPT: [Capability; 5] = [
    // Attach to a TUN device again, exceed the receive buffer's limit.
    Capability::CAP_NET_ADMIN,
    // Bind the outer socket to its device (kernels before 5.7).
    Capability::CAP_NET_RAW,
    // Enter a pod's namespace to open its devices again.
    Capability::CAP_SYS_ADMIN,
    // See which namespace the processes of other users live in.
    Capability::CAP_SYS_PTRACE,
    // Read /proc/PID/ns of processes with other owners.
    Capability::CAP_DAC_READ_SEARCH,
];

/// Raises the soft limit of open descriptors to the hard one.
///
/// # Errors
/// The kernel refuses.
pub fn raise_descriptor_limit() -> Result<()> {
    let failed = |errno: nix::errno::Errno| Error::start("raise the limit of open descriptors", io::Error::from(errno));
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(failed)?;
    if hard < COMFORTABLE_DESCRIPTORS {
        tracing::warn!("only {hard} descriptors are allowed, two a tunnel; raise the service's LimitNOFILE");
    }
    Ok(())
}

/// Gives up every capability that [`KEPT`] does not list, for good. Threads made later inherit the rest.
///
/// # Errors
/// The kernel refuses to lower what this process holds.
pub fn reduce() -> Result<()> {
    let held = caps::read(None, CapSet::Permitted).map_err(refused)?;
    let kept: CapsHashSet = KEPT.into_iter().filter(|capability| held.contains(capability)).collect();
    for capability in caps::read(None, CapSet::Bounding).map_err(refused)? {
        if !kept.contains(&capability) {
            caps::drop(None, CapSet::Bounding, capability).map_err(refused)?;
        }
    }
    caps::set(None, CapSet::Effective, &kept).map_err(refused)?;
    caps::set(None, CapSet::Permitted, &kept).map_err(refused)?;
    caps::clear(None, CapSet::Inheritable).map_err(refused)?;
    Ok(())
}

fn refused(error: caps::errors::CapsError) -> Error {
    Error::start("give up capabilities", io::Error::other(error.to_string()))
}
