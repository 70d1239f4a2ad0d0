//! One echo request and its answer (RFC 792, RFC 4443).

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{Error, IfName, Netns, Result};

/// Type, code, checksum, identifier, sequence number; then what tells this request from any other.
const MESSAGE_BYTES: usize = 16;
/// More than an IPv4 header with options and the message.
const BUFFER_BYTES: usize = 128;

/// Asks `to` through interface `device` of `ns` once, and waits at most `wait` for its answer. Returns how long that took; `None`
/// when there was none.
///
/// # Errors
/// When raw sockets are not allowed, or the request cannot be sent.
pub fn ping(ns: &Netns, device: &IfName, to: IpAddr, wait: Duration) -> Result<Option<Duration>> {
    let failed = |error: io::Error| {
        Error::io("ask for an echo of", format!("{to} by {device}"), error)
            .with_remedy(Errno::EPERM, "raw sockets need CAP_NET_RAW")
    };
    let socket = ns.run(|| open(device, to))?.map_err(failed)?;
    let mut mark = [0; 10];
    getrandom::fill(&mut mark).map_err(|error| failed(error.into()))?;
    let started = Instant::now();
    (&socket).write_all(&request(to, mark)).map_err(failed)?;
    loop {
        let left = wait.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left)).map_err(failed)?;
        let mut buffer = [0; BUFFER_BYTES];
        match (&socket).read(&mut buffer) {
            Ok(length) if buffer.get(..length).is_some_and(|packet| answers(packet, to, mark)) => {
                return Ok(Some(started.elapsed()));
            }
            // Of other requests, or an ICMP error told as one of the socket's.
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Ok(None);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

fn open(device: &IfName, to: IpAddr) -> io::Result<Socket> {
    let (domain, protocol) =
        if to.is_ipv4() { (Domain::IPV4, Protocol::ICMPV4) } else { (Domain::IPV6, Protocol::ICMPV6) };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.bind_device(Some(device.as_str().as_bytes()))?;
    // Only what this host sends is heard then.
    socket.connect(&SocketAddr::new(to, 0).into())?;
    Ok(socket)
}

/// Of IPv6 the kernel fills in the checksum (RFC 3542, section 3.1).
fn request(to: IpAddr, mark: [u8; 10]) -> [u8; MESSAGE_BYTES] {
    let kind = if to.is_ipv4() { 8 } else { 128 };
    let [m0, m1, m2, m3, m4, m5, m6, m7, m8, m9] = mark;
    let without = [kind, 0, 0, 0, m0, m1, 0, 1, m2, m3, m4, m5, m6, m7, m8, m9];
    let [c0, c1] = checksum(&without).to_be_bytes();
    [kind, 0, c0, c1, m0, m1, 0, 1, m2, m3, m4, m5, m6, m7, m8, m9]
}

/// RFC 1071.
fn checksum(message: &[u8; MESSAGE_BYTES]) -> u16 {
    let words = message.as_chunks::<2>().0.iter().map(|word| u16::from_be_bytes(*word));
    !words.fold(0_u16, |sum, word| {
        let (sum, carried) = sum.overflowing_add(word);
        sum.wrapping_add(u16::from(carried))
    })
}

/// Raw IPv4 sockets hear packets with their IP header, IPv6 ones without.
fn answers(packet: &[u8], from: IpAddr, mark: [u8; 10]) -> bool {
    let (header, kind) = match (from, packet.first()) {
        (IpAddr::V4(_), Some(first)) => (usize::from(first & 0x0f).saturating_mul(4), 0),
        (IpAddr::V6(_), _) => (0, 129),
        (IpAddr::V4(_), None) => return false,
    };
    let Some(message) = packet.get(header..) else { return false };
    let (identifier, rest) = mark.split_at(2);
    message.get(..2) == Some(&[kind, 0]) && message.get(4..6) == Some(identifier) && message.get(8..16) == Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: [u8; 10] = [0x12, 0x34, 1, 2, 3, 4, 5, 6, 7, 8];

    #[test]
    fn a_request_is_byte_exact() {
        let four = request([10, 4, 0, 2].into(), MARK);
        // 0800 + 1234 + 0001 + 0102 + 0304 + 0506 + 0708 = 2a49
        assert_eq!(four, [8, 0, 0xd5, 0xb6, 0x12, 0x34, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(request([0_u16; 8].into(), MARK)[0], 128);
    }

    #[test]
    fn only_the_answer_to_this_request_counts() {
        let to = IpAddr::from([10, 4, 0, 2]);
        let mut packet = vec![0x46; 24];
        packet.extend(request(to, MARK));
        assert!(!answers(&packet, to, MARK), "a request is no answer");
        packet[24] = 0;
        assert!(answers(&packet, to, MARK));
        assert!(!answers(&packet[..39], to, MARK), "cut short");
        packet[39] = 9;
        assert!(!answers(&packet, to, MARK), "another's");
        assert!(!answers(&[], to, MARK));
        let to = IpAddr::from([0xfd04_u16, 0, 0, 0, 0, 0, 0, 2]);
        let mut packet = request(to, MARK);
        packet[0] = 129;
        assert!(answers(&packet, to, MARK));
    }
}
