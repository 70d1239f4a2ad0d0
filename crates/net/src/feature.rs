//! What this kernel can do, found out without making anything.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt},
};

use crate::{
    Error, Netlink, Result, link_message,
    request::{NEW_LINK, Request},
    vxlan::refused_for,
};

const NO_SUCH_KIND: &str = "the kernel is built without it, or its module is not installed";

impl Netlink {
    /// Whether the kernel can make links of this kind (`bridge`, `macvlan`); where that is a module, this makes it load it. It is asked by
    /// a request that it refuses in any case, for an MTU that no device can have: only the reason differs.
    ///
    /// # Errors
    /// It cannot; or there is no privilege to ask.
    pub fn require_link_kind(&self, kind: &str) -> Result<()> {
        let impossible = Request::new(NEW_LINK, link_message::impossible("adit-probe", kind));
        let made = self.acked("ask the kernel for", || kind.to_owned(), &impossible, NLM_F_CREATE | NLM_F_EXCL);
        refused_for(Errno::EINVAL, made).map_err(|error| error.with_remedy(Errno::EOPNOTSUPP, NO_SUCH_KIND))
    }
}

/// Whether UDP sockets can send several datagrams as one, and receive them so (udp(7)).
///
/// # Errors
/// Which of the two the kernel refuses.
pub fn require_udp_offload() -> Result<()> {
    const DATAGRAM_BYTES: i32 = 1400;
    let failed = |what: &str, errno| Error::kernel("ask the kernel for", what, errno);
    let opened = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    let socket = opened.map_err(|errno| failed("UDP", errno))?;
    setsockopt(&socket, sockopt::UdpGsoSegment, &DATAGRAM_BYTES).map_err(|errno| failed("UDP_SEGMENT", errno))?;
    setsockopt(&socket, sockopt::UdpGroSegment, &true).map_err(|errno| failed("UDP_GRO", errno))
}
