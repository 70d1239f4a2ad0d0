//! A port on a UDP socket: payloads, their headers are the kernel's.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::{AsFd as _, BorrowedFd},
};

use nix::sys::socket::{
    setsockopt,
    sockopt::{RcvBuf, SndBuf},
};

use crate::{
    Error, Result,
    impair::{
        Packet,
        relay::{BATCH, Port, Received},
    },
};

const BUFFER_BYTES: usize = 4 << 20;
const LARGEST_DATAGRAM_BYTES: usize = 65_536;

pub(crate) struct DatagramPort {
    socket: UdpSocket,
    /// Whom to send to: whoever wrote last, or the one that the socket is connected to.
    to: To,
    is_ipv6: bool,
    datagram: Vec<u8>,
}

enum To {
    Connected,
    Learned(Option<SocketAddr>),
}

impl DatagramPort {
    /// A port that others write to; it answers whoever wrote last.
    pub(crate) fn listen(address: SocketAddr) -> Result<Self> {
        Self::bound(address, To::Learned(None))
    }

    /// A port that writes to `target`, and hears it alone.
    pub(crate) fn connect(target: SocketAddr) -> Result<Self> {
        let any = if target.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let port = Self::bound(SocketAddr::new(any, 0), To::Connected)?;
        port.socket.connect(target).map_err(Error::io(format!("connect a UDP socket to {target}")))?;
        Ok(port)
    }

    /// Where it is bound to.
    pub(crate) fn local(&self) -> Result<SocketAddr> {
        self.socket.local_addr().map_err(Error::io("ask where a UDP socket is bound to"))
    }

    fn bound(address: SocketAddr, to: To) -> Result<Self> {
        let socket = UdpSocket::bind(address).map_err(Error::io(format!("bind a UDP socket to {address}")))?;
        socket.set_nonblocking(true).map_err(Error::io("make a UDP socket non-blocking"))?;
        let failed = || Error::errno("enlarge the buffers of a UDP socket");
        setsockopt(&socket, RcvBuf, &BUFFER_BYTES).map_err(failed())?;
        setsockopt(&socket, SndBuf, &BUFFER_BYTES).map_err(failed())?;
        Ok(Self { socket, to, is_ipv6: address.is_ipv6(), datagram: vec![0; LARGEST_DATAGRAM_BYTES] })
    }
}

impl Port for DatagramPort {
    fn receive(&mut self, take: &mut dyn FnMut(Received)) {
        for _ in 0..BATCH {
            match self.socket.recv_from(&mut self.datagram) {
                Ok((length, from)) => {
                    if let To::Learned(to) = &mut self.to {
                        *to = Some(from);
                    }
                    let payload = self.datagram.get(..length).unwrap_or_default();
                    take(Received::Packet(Packet::payload(payload.to_vec(), self.is_ipv6)));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // What an earlier datagram came to (nobody listens there).
                Err(_) => (),
            }
        }
    }

    fn send(&mut self, packet: &Packet) -> bool {
        match self.to {
            To::Connected => self.socket.send(packet.bytes()).is_ok(),
            To::Learned(Some(to)) => self.socket.send_to(packet.bytes(), to).is_ok(),
            To::Learned(None) => false,
        }
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
