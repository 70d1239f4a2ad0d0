//! Outer packets that may be fragmented, while all others leave with DF set: for a path that takes less than the smallest packets that the
//! interface can be told to send.

use nix::{
    errno::Errno,
    libc::{self, c_int},
};
use std::os::fd::{AsRawFd, BorrowedFd};

/// From now on datagrams of this socket may be fragmented: over IPv4 wherever it is needed, over IPv6 here, into packets of at most
/// `outer_bytes` (ip(7) `IP_MTU_DISCOVER`, ipv6(7) `IPV6_MTU`).
///
/// # Errors
/// The kernel's.
pub(crate) fn allow(udp: BorrowedFd<'_>, is_ipv6: bool, outer_bytes: u16) -> Result<(), Errno> {
    if is_ipv6 {
        set(udp, libc::IPPROTO_IPV6, libc::IPV6_MTU, outer_bytes.into())?;
        return set(udp, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT);
    }
    set(udp, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)
}

/// From now on they may not.
///
/// # Errors
/// The kernel's.
pub(crate) fn forbid(udp: BorrowedFd<'_>, is_ipv6: bool) -> Result<(), Errno> {
    if is_ipv6 {
        set(udp, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
        return set(udp, libc::IPPROTO_IPV6, libc::IPV6_MTU, 0);
    }
    set(udp, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
}

fn set(udp: BorrowedFd<'_>, level: c_int, option: c_int, value: c_int) -> Result<(), Errno> {
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the descriptor is open, and pointer and length are those of a live int.
    let outcome = unsafe { libc::setsockopt(udp.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    Errno::result(outcome).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::UdpSocket, os::fd::AsFd};

    #[test]
    fn a_datagram_larger_than_the_path_leaves_only_while_it_may_be_fragmented() {
        let [socket, receiver] = [(); 2].map(|()| UdpSocket::bind("[::1]:0").unwrap());
        let to = receiver.local_addr().unwrap();
        let send = || socket.send_to(&[7; 3000], to).map_err(|error| error.raw_os_error());
        forbid(socket.as_fd(), true).unwrap();
        set(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_MTU, 1300).unwrap();
        assert_eq!(send(), Err(Some(libc::EMSGSIZE)));
        allow(socket.as_fd(), true, 1300).unwrap();
        assert_eq!(send(), Ok(3000));
        forbid(socket.as_fd(), true).unwrap();
        assert_eq!(send(), Ok(3000), "the bound is gone with the permission");
    }
}
