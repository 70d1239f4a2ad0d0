//! Sending datagrams with any source address.

use std::{net::SocketAddr, os::fd::AsRawFd as _};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, sendto, socket,
};

use crate::{Datagram, Error, Namespace, Result};

pub(crate) fn send(namespace: &Namespace, datagram: &Datagram) -> Result<()> {
    let bytes = datagram.to_bytes()?;
    let sent = namespace.run_inside(|| {
        // IPPROTO_RAW: the packet brings its own IP header, raw(7).
        let open = |family| socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw);
        match datagram.to {
            SocketAddr::V4(to) => {
                sendto(open(AddressFamily::Inet)?.as_raw_fd(), &bytes, &SockaddrIn::from(to), MsgFlags::empty())
            }
            SocketAddr::V6(mut to) => {
                // A raw IPv6 address has no port; the kernel refuses any number but the protocol's.
                to.set_port(0);
                sendto(open(AddressFamily::Inet6)?.as_raw_fd(), &bytes, &SockaddrIn6::from(to), MsgFlags::empty())
            }
        }
    })?;
    sent.map(drop).map_err(Error::errno(format!(
        "send a datagram from {} to {} in {}",
        datagram.from,
        datagram.to,
        namespace.netns_name()
    )))
}
