//! The one question that a netlink socket is asked outside of netlink: which namespace it is in.

use std::os::fd::RawFd;

use nix::libc;

/// The cookie of the namespace of the open socket `socket`; `None` where the kernel has none (before 5.14).
pub(crate) fn of_namespace(socket: RawFd) -> Option<u64> {
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of_val(&cookie)).ok()?;
    // SAFETY: both pointers are those of live values, and `length` is the size of the first.
    let outcome = unsafe {
        libc::getsockopt(socket, libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut length)
    };
    (outcome == 0).then_some(cookie)
}
