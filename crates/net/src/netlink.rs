//! A synchronous netlink route socket: one request, its answers, one at a time.
//!
//! Strict checking makes the kernel refuse what it would otherwise ignore, and filter dumps;
//! extended acknowledgements make it say why it refused.

use std::{
    io::IoSliceMut,
    os::fd::AsRawFd,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, NetlinkAddr, recvmsg},
};
use socket2::SockRef;

use crate::{
    Error, Netns, Result, cookie,
    frame::{Content, Refusal, frames},
};

/// More than the kernel puts into one datagram of a dump (32 KiB).
const BUFFER_BYTES: usize = 64 * 1024;

/// How long one answer may take. On a busy node another process may hold the kernel's RTNL lock for
/// seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// How often a dump is repeated whose objects changed while it ran.
const DUMP_ATTEMPTS: u32 = 10;

/// A netlink route socket of one network namespace.
///
/// It keeps acting in the namespace it was opened in, whatever thread uses it afterwards, and keeps
/// that namespace alive.
#[derive(Debug)]
pub struct Netlink {
    netns: Netns,
    channel: Mutex<Channel>,
}

impl Netlink {
    /// A socket in the calling thread's namespace.
    ///
    /// # Errors
    /// When the system refuses a socket.
    pub fn open() -> Result<Self> {
        let netns = Netns::current()?;
        let channel = Channel::open().map_err(|e| Error::io("open", "netlink socket", e))?;
        Ok(Self { netns, channel: Mutex::new(channel) })
    }

    /// A socket in `ns`; the calling thread is there only for a moment.
    ///
    /// # Errors
    /// As [`Netlink::open`] and [`Netns::enter`].
    pub fn open_in(ns: &Netns) -> Result<Self> {
        let channel = ns.run(Channel::open)?.map_err(|e| Error::io("open", "netlink socket", e))?;
        Ok(Self { netns: ns.try_clone()?, channel: Mutex::new(channel) })
    }

    /// The namespace it acts in.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The kernel's own number of the namespace, which it gives to no other until the node restarts (`SO_NETNS_COOKIE`,
    /// `net/core/sock.c`). `None` on kernels before 5.14.
    #[must_use]
    pub fn netns_cookie(&self) -> Option<u64> {
        let channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        cookie::of_namespace(channel.socket.as_raw_fd())
    }

    /// A request that is answered by success or refusal.
    pub(crate) fn acked(
        &self,
        action: &'static str,
        object: impl Fn() -> String,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<()> {
        self.transact(message, NLM_F_ACK | flags).map(drop).map_err(|failure| failure.into_error(action, object()))
    }

    /// A request that is answered by one object.
    pub(crate) fn get(
        &self,
        action: &'static str,
        object: impl Fn() -> String,
        message: RouteNetlinkMessage,
    ) -> Result<RouteNetlinkMessage> {
        // With an acknowledgement asked for, the end of the answer is never in doubt.
        let mut answers = self.transact(message, NLM_F_ACK).map_err(|failure| failure.into_error(action, object()))?;
        answers.pop().ok_or_else(|| Error::answer(action, object(), "it is empty"))
    }

    /// A request that is answered by any number of objects.
    pub(crate) fn dump(
        &self,
        action: &'static str,
        object: impl Fn() -> String,
        message: &RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..DUMP_ATTEMPTS {
            match self.transact(message.clone(), NLM_F_DUMP) {
                Err(Failure::Interrupted) => {}
                other => return other.map_err(|failure| failure.into_error(action, object())),
            }
        }
        Err(Failure::Interrupted.into_error(action, object()))
    }

    fn transact(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> std::result::Result<Vec<RouteNetlinkMessage>, Failure> {
        // A panic elsewhere leaves nothing half done that the sequence number would not sort out.
        let mut channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        let sequence = channel.send(message, flags | NLM_F_REQUEST)?;
        channel.receive(sequence, flags & NLM_F_DUMP == NLM_F_DUMP)
    }
}

/// Why a request came to nothing.
#[derive(Debug)]
enum Failure {
    Refused(Refusal),
    Socket(Errno),
    Answer(String),
    Interrupted,
}

impl Failure {
    fn into_error(self, action: &'static str, object: String) -> Error {
        match self {
            Self::Refused(Refusal { errno, message }) => {
                Error::Kernel { action, object, errno, message, remedy: crate::error::remedy(errno) }
            }
            Self::Socket(Errno::EAGAIN) => Error::TimedOut {
                what: format!("the kernel's answer to: {action} {object}"),
                after: ANSWER_TIMEOUT,
                state: "no answer".into(),
            },
            Self::Socket(errno) => Error::kernel(action, object, errno),
            Self::Answer(detail) => Error::answer(action, object, detail),
            Self::Interrupted => {
                Error::answer(action, object, format!("the objects changed during each of {DUMP_ATTEMPTS} attempts"))
            }
        }
    }
}

#[derive(Debug)]
struct Channel {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Channel {
    fn open() -> std::io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        // Each of the three is missing on old kernels only, and only makes answers poorer there.
        let options = [
            ("strict checking", socket.set_netlink_get_strict_chk(true)),
            ("extended acknowledgements", socket.set_ext_ack(true)),
            ("short acknowledgements", socket.set_cap_ack(true)),
        ];
        for (option, outcome) in options {
            if let Err(error) = outcome {
                tracing::debug!(option, %error, "netlink socket option is not available");
            }
        }
        SockRef::from(&socket).set_read_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER_BYTES] })
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> std::result::Result<u32, Failure> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = serialize(message, self.sequence, flags);
        let kernel = SocketAddr::new(0, 0);
        loop {
            match self.socket.send_to(&bytes, &kernel, 0) {
                Ok(_) => return Ok(self.sequence),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(Failure::Socket(Errno::from_raw(error.raw_os_error().unwrap_or_default())));
                }
            }
        }
    }

    /// The objects of the answer to request `sequence`; what is left of earlier requests that were
    /// given up is skipped.
    fn receive(&mut self, sequence: u32, dump: bool) -> std::result::Result<Vec<RouteNetlinkMessage>, Failure> {
        let mut objects = Vec::new();
        let mut interrupted = false;
        loop {
            let datagram = self.receive_datagram()?;
            for frame in frames(datagram) {
                let frame = frame.map_err(Failure::Answer)?;
                if frame.sequence != sequence {
                    continue;
                }
                interrupted |= frame.interrupted;
                match frame.content {
                    Content::Nothing => {}
                    Content::Success if interrupted => return Err(Failure::Interrupted),
                    Content::Success => return Ok(objects),
                    Content::Refusal(refusal) => return Err(Failure::Refused(refusal)),
                    Content::Object(bytes) => match deserialize(bytes) {
                        Ok(object) => objects.push(object),
                        // One odd object must not hide all others.
                        Err(error) if dump => {
                            tracing::warn!(error, "an object of a netlink dump is left out");
                        }
                        Err(error) => return Err(Failure::Answer(error)),
                    },
                }
            }
        }
    }

    fn receive_datagram(&mut self) -> std::result::Result<&[u8], Failure> {
        let length = loop {
            let mut parts = [IoSliceMut::new(&mut self.buffer)];
            let fd = self.socket.as_raw_fd();
            match recvmsg::<NetlinkAddr>(fd, &mut parts, None, MsgFlags::empty()) {
                // Processes with CAP_NET_ADMIN in the namespace could send here too.
                Ok(received) if received.address.is_none_or(|from| from.pid() != 0) => {}
                Ok(received) if received.flags.contains(MsgFlags::MSG_TRUNC) => {
                    return Err(Failure::Answer("a datagram is longer than 64 KiB".into()));
                }
                Ok(received) => break received.bytes,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Failure::Socket(errno)),
            }
        };
        Ok(self.buffer.get(..length).unwrap_or_default())
    }
}

fn serialize(message: RouteNetlinkMessage, sequence: u32, flags: u16) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.sequence_number = sequence;
    header.flags = flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn deserialize(bytes: &[u8]) -> std::result::Result<RouteNetlinkMessage, String> {
    match NetlinkMessage::deserialize(bytes).map_err(|e| e.to_string())?.payload {
        NetlinkPayload::InnerMessage(message) => Ok(message),
        other => Err(format!("{other:?} where an object was expected")),
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::{LinkAttribute, LinkMessage};

    use super::*;

    #[test]
    fn a_request_is_written_as_the_kernel_reads_it() {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName("lo".into()));
        let bytes = serialize(RouteNetlinkMessage::GetLink(link), 7, NLM_F_REQUEST | NLM_F_ACK);
        let mut expected = vec![40, 0, 0, 0, 18, 0, 5, 0, 7, 0, 0, 0, 0, 0, 0, 0];
        expected.extend([0; 16]); // struct ifinfomsg
        expected.extend([7, 0, 3, 0, b'l', b'o', 0, 0]); // IFLA_IFNAME
        assert_eq!(bytes, expected);
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mut link = LinkMessage::default();
        link.header.index = 3;
        let message = RouteNetlinkMessage::NewLink(link);
        let bytes = serialize(message.clone(), 9, 0);
        let frame = frames(&bytes).next().unwrap().unwrap();
        assert_eq!(frame.sequence, 9);
        let Content::Object(object) = frame.content else { panic!("{frame:?}") };
        assert_eq!(deserialize(object).unwrap(), message);
    }

    #[test]
    fn a_link_that_does_not_exist_is_refused_in_words() {
        // Reading the own namespace needs no privilege.
        let netlink = Netlink::open().unwrap();
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName("adit-no-such-l".into()));
        let error =
            netlink.get("look up link", || "adit-no-such-l".into(), RouteNetlinkMessage::GetLink(link)).unwrap_err();
        assert_eq!(error.to_string(), "look up link adit-no-such-l: No such device (ENODEV)");
    }

    #[test]
    fn a_socket_is_shared_between_threads() {
        let netlink = Netlink::open().unwrap();
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let links = netlink.dump("list", || "links".into(), &request).unwrap();
                        assert!(!links.is_empty());
                    }
                });
            }
        });
    }
}
