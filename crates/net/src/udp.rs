//! The outer UDP socket of a tunnel, in the *calling thread's* network namespace.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{setsockopt, sockopt},
};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::{Error, IfName, Result};

/// Length a datagram is received with whose sender left out the UDP checksum: the socket's filter
/// cuts it to this so that the reader can count it without believing it.
pub const ZERO_CHECKSUM_LEN: usize = 1;

/// Length a datagram is received with that is too short to hold a tunnel's header.
pub const RUNT_LEN: usize = 0;

/// Shortest UDP payload in bytes that passes whole.
pub const MIN_PAYLOAD_BYTES: usize = 16;

/// What is asked for in each direction; the kernel doubles it for its own bookkeeping.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;

const UDP_HEADER_BYTES: u32 = 8;

/// Where a socket is bound.
#[derive(Clone, Copy, Debug)]
pub struct UdpSpec<'a> {
    /// Exact address and port.
    pub local: SocketAddr,
    /// The only interface it sends and receives through; `None` leaves that to the routes.
    pub device: Option<&'a IfName>,
}

impl fmt::Display for UdpSpec<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.device {
            Some(device) => write!(f, "{} on {device}", self.local),
            None => self.local.fmt(f),
        }
    }
}

/// Opens and binds the socket: non-blocking, one family only, never fragmenting and never learning
/// a path MTU, with buffers of 4 MiB where the process may have them, and with a filter that marks
/// what a tunnel must not believe ([`ZERO_CHECKSUM_LEN`], [`RUNT_LEN`]).
///
/// # Errors
/// [`Error::PortTaken`]; [`Error::is_not_found`] when there is no such device or the address is not
/// on this host (or still tentative).
pub fn open_udp(spec: &UdpSpec<'_>) -> Result<OwnedFd> {
    let failed = |error: std::io::Error| {
        Error::io("open UDP socket", spec.to_string(), error)
            .with_remedy(Errno::ENODEV, "there is no such interface in this network namespace")
    };
    let domain = Domain::for_address(spec.local);
    let kind = Type::DGRAM.nonblocking().cloexec();
    let socket = Socket::new(domain, kind, Some(Protocol::UDP)).map_err(failed)?;
    if spec.local.is_ipv6() {
        socket.set_only_v6(true).map_err(failed)?;
    }
    socket.bind_device(spec.device.map(|device| device.as_str().as_bytes())).map_err(failed)?;
    // Before the socket is bound: no datagram may come in unfiltered.
    socket.attach_filter(&filter()).map_err(failed)?;
    set_path_mtu_probe(&socket, spec.local.ip()).map_err(|errno| failed(errno.into()))?;
    set_buffers(&socket, spec);
    socket.bind(&spec.local.into()).map_err(|error| bind_error(spec, error))?;
    Ok(socket.into())
}

fn bind_error(spec: &UdpSpec<'_>, error: std::io::Error) -> Error {
    if error.raw_os_error() == Some(libc::EADDRINUSE) {
        return Error::PortTaken { local: spec.local, socket: spec.to_string() };
    }
    Error::io("bind UDP socket", spec.to_string(), error).with_remedy(
        Errno::EADDRNOTAVAIL,
        "the address must be on an interface of this network namespace and, for IPv6, have passed \
         duplicate address detection",
    )
}

/// Datagrams leave with DF set, at whatever size, and learned path MTUs are ignored: the tunnel
/// decides what is too big (ip(7), `IP_PMTUDISC_PROBE`).
fn set_path_mtu_probe(socket: &Socket, local: IpAddr) -> nix::Result<()> {
    let (level, option, value) = match local {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE),
    };
    let length = libc::socklen_t::try_from(size_of_val(&value)).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the descriptor is open, and pointer and length are those of a live int.
    let outcome = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    Errno::result(outcome).map(drop)
}

/// A small buffer costs packets under load, but is no reason to have no tunnel.
fn set_buffers(socket: &Socket, spec: &UdpSpec<'_>) {
    let receive = setsockopt(socket, sockopt::RcvBufForce, &BUFFER_BYTES)
        .or_else(|_| setsockopt(socket, sockopt::RcvBuf, &BUFFER_BYTES));
    let send = setsockopt(socket, sockopt::SndBufForce, &BUFFER_BYTES)
        .or_else(|_| setsockopt(socket, sockopt::SndBuf, &BUFFER_BYTES));
    for (direction, outcome) in [("receive", receive), ("send", send)] {
        if let Err(errno) = outcome {
            tracing::warn!(local = %spec.local, direction, %errno, "socket buffer keeps its size");
        }
    }
}

/// One instruction of a classic BPF program (linux/filter.h): code, jumps if true and if false,
/// operand.
type Instruction = (u16, u8, u8, u32);

/// Load the half word at an offset.
const LOAD_HALF: u16 = 0x28;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

const LENGTH_OFFSET: u32 = 4;
const CHECKSUM_OFFSET: u32 = 6;

/// The filter sees the datagram from its UDP header on and returns how many bytes to keep, the
/// header included (`udp_queue_rcv_one_skb`, net/ipv4/udp.c). A cut datagram keeps its source
/// address and is counted by the reader; a dropped one would vanish in the kernel.
///
/// With checksum 0, IPv4 has not protected the tunnel's header, nor an inner packet whose own
/// checksum is partial. (IPv6 drops such datagrams itself.) Receive offload never merges them.
const PROGRAM: [Instruction; 7] = [
    (LOAD_HALF, 0, 0, CHECKSUM_OFFSET),
    (JUMP_IF_EQUAL, 4, 0, 0),
    (LOAD_HALF, 0, 0, LENGTH_OFFSET),
    (JUMP_IF_GREATER_OR_EQUAL, 1, 0, UDP_HEADER_BYTES + MIN_PAYLOAD_BYTES as u32),
    (RETURN, 0, 0, UDP_HEADER_BYTES + RUNT_LEN as u32),
    (RETURN, 0, 0, u32::MAX),
    (RETURN, 0, 0, UDP_HEADER_BYTES + ZERO_CHECKSUM_LEN as u32),
];

fn filter() -> [SockFilter; PROGRAM.len()] {
    PROGRAM.map(|(code, if_true, if_false, k)| SockFilter::new(code, if_true, if_false, k))
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "the numbers of the tests are small")]
mod tests {
    use super::*;

    /// What the program keeps of a datagram, by the rules of a BPF machine.
    fn kept(datagram: &[u8]) -> u32 {
        let (mut at, mut accumulator) = (0usize, 0u32);
        loop {
            let (code, if_true, if_false, k) = PROGRAM[at];
            let jump = |yes: bool| usize::from(if yes { if_true } else { if_false });
            at += 1;
            match code {
                LOAD_HALF => {
                    let offset = k as usize;
                    let half = [datagram[offset], datagram[offset + 1]];
                    accumulator = u16::from_be_bytes(half).into();
                }
                JUMP_IF_EQUAL => at += jump(accumulator == k),
                JUMP_IF_GREATER_OR_EQUAL => at += jump(accumulator >= k),
                RETURN => return k,
                _ => panic!("instruction {code:#x}"),
            }
        }
    }

    fn datagram(payload: u16, checksum: u16) -> Vec<u8> {
        let mut bytes = vec![0x17, 0xca, 0x17, 0xca];
        bytes.extend((payload + 8).to_be_bytes());
        bytes.extend(checksum.to_be_bytes());
        bytes.resize(usize::from(payload) + 8, 0);
        bytes
    }

    #[test]
    fn the_program_is_as_written() {
        let instructions: Vec<String> =
            PROGRAM.iter().map(|(code, yes, no, k)| format!("{code:#04x} {yes} {no} {k:#x}")).collect();
        assert_eq!(
            instructions,
            [
                "0x28 0 0 0x6",
                "0x15 4 0 0x0",
                "0x28 0 0 0x4",
                "0x35 1 0 0x18",
                "0x06 0 0 0x8",
                "0x06 0 0 0xffffffff",
                "0x06 0 0 0x9",
            ]
        );
    }

    #[test]
    fn a_datagram_passes_whole_from_sixteen_bytes_on() {
        assert_eq!(kept(&datagram(16, 0xabcd)), u32::MAX);
        assert_eq!(kept(&datagram(1456, 1)), u32::MAX);
        assert_eq!(kept(&datagram(65_507, 0xffff)), u32::MAX);
    }

    #[test]
    fn a_short_one_is_cut_to_nothing_and_one_without_checksum_to_one_byte() {
        assert_eq!(kept(&datagram(0, 0xabcd)), 8);
        assert_eq!(kept(&datagram(15, 0xabcd)), 8);
        assert_eq!(kept(&datagram(16, 0)), 9);
        assert_eq!(kept(&datagram(1456, 0)), 9);
    }

    #[test]
    fn a_device_that_does_not_exist_is_named() {
        let device: IfName = "adit-no-such".parse().unwrap();
        let local = "127.0.0.1:0".parse().unwrap();
        let error = open_udp(&UdpSpec { local, device: Some(&device) }).unwrap_err();
        assert!(error.to_string().contains("127.0.0.1:0 on adit-no-such"), "{error}");
    }
}
