//! A port on an interface: frames as they are on the wire.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use adit_net::Netlink;
use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvfrom, send, setsockopt, socket,
        sockopt::RcvBufForce,
    },
};

use crate::{
    Error, Result,
    impair::{
        Packet,
        relay::{BATCH, Port, Received},
    },
};

/// PACKET_OUTGOING, include/uapi/linux/if_packet.h.
const OUTGOING: u8 = 4;
const BUFFER_BYTES: usize = 32 << 20;
/// An Ethernet header with a VLAN tag.
const HEADER_BYTES: usize = 18;

pub(crate) struct EthernetPort {
    socket: OwnedFd,
    interface: usize,
    /// A byte more than the largest frame of the interface: what segmentation offload leaves whole does not fit.
    frame: Vec<u8>,
}

impl EthernetPort {
    /// Opens a port on an interface of the calling thread's network namespace.
    pub(crate) fn open(name: &str) -> Result<Self> {
        let failed = |what: &str| Error::errno(format!("{what} for interface {name}"));
        // An address with the interface's number in it and no protocol: binding to it keeps the socket's own.
        let address = getifaddrs()
            .map_err(failed("list the interfaces"))?
            .filter(|interface| interface.interface_name == name)
            .find_map(|interface| interface.address?.as_link_addr().copied())
            .ok_or_else(|| Error::Impairment(format!("there is no interface {name} here; look with `ip link`")))?;
        let link = Netlink::open()?.link(name)?;
        let mtu = link.and_then(|link| usize::try_from(link.mtu).ok()).unwrap_or(1500);
        let frame = vec![0; mtu.saturating_add(HEADER_BYTES).saturating_add(1)];
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)
            .map_err(failed("open a packet socket (it needs CAP_NET_RAW)"))?;
        setsockopt(&socket, RcvBufForce, &BUFFER_BYTES)
            .map_err(failed("enlarge the buffer (it needs CAP_NET_ADMIN)"))?;
        bind(socket.as_raw_fd(), &address).map_err(failed("bind a packet socket"))?;
        Ok(Self { socket, interface: address.ifindex(), frame })
    }
}

impl Port for EthernetPort {
    fn receive(&mut self, take: &mut dyn FnMut(Received)) {
        for _ in 0..BATCH {
            let Ok((length, Some(address))) = recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut self.frame) else {
                return;
            };
            // Before it was bound the socket heard the others too; and this end's own stack may send.
            if address.ifindex() != self.interface || address.pkttype() == OUTGOING {
                continue;
            }
            match self.frame.get(..length) {
                Some(frame) if length < self.frame.len() => take(Received::Packet(Packet::ethernet(frame.to_vec()))),
                _ => take(Received::Oversize),
            }
        }
    }

    fn send(&mut self, packet: &Packet) -> bool {
        send(self.socket.as_raw_fd(), packet.bytes(), MsgFlags::MSG_DONTWAIT).is_ok()
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
