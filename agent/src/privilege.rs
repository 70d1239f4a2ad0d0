//! What the agent may do: as many descriptors as the node allows, and no capability that re-opening does not need. And what
//! nobody may do with it: read its keys.

use std::io;

use caps::{CapSet, Capability, CapsHashSet};
use nix::{
    errno::Errno,
    libc,
    sys::{
        mman::{MlockAllFlags, mlockall},
        prctl::set_dumpable,
        resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit},
    },
};

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
    let failed = |errno: Errno| Error::start("raise the limit of open descriptors", io::Error::from(errno));
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(failed)?;
    if hard < COMFORTABLE_DESCRIPTORS {
        tracing::warn!("only {hard} descriptors are allowed, two a tunnel; raise the service's LimitNOFILE");
    }
    Ok(())
}

/// Keeps this process's memory out of files: no core dump, and where the node allows it no swap. Comes before [`reduce`].
///
/// # Errors
/// The kernel refuses to leave out core dumps.
pub fn keep_secrets() -> Result<()> {
    let failed = |errno: Errno| Error::start("leave out core dumps", io::Error::from(errno));
    // A program that takes dumps from a pipe gets them whatever the limit is, so it takes both (core(5)).
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(failed)?;
    set_dumpable(false).map_err(failed)?;
    if let Err(errno) = lock_memory() {
        tracing::info!(
            "memory may be swapped to disk, with keys in it: {errno}; set LimitMEMLOCK=infinity for the service, or have no swap"
        );
    }
    Ok(())
}

/// Locks what is used of this process's memory, now and later.
fn lock_memory() -> nix::Result<()> {
    // With a limit, memory that is only reserved would count, and one day there would be none.
    setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY)?;
    let on_fault = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault)
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
