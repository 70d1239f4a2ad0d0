//! Asking the neighbours on a link whether an IPv4 address is taken, before it is used (RFC 5227, section 2.1).

use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{LinkAddr, MsgFlags, recvfrom, sendto},
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{Error, Link, MacAddress, Netns, Result};

/// `PROBE_NUM` of RFC 5227: one lost frame, or two, hide nobody.
const PROBES: u32 = 3;

/// Between two probes. RFC 5227 (section 1.1) asks for 1 to 2 s, for every link that there may be; a host on the same
/// switch, which is where pods are, answers within a few milliseconds, and a busy one within tens.
const INTERVAL: Duration = Duration::from_millis(200);

/// After the last probe. With it an ADD waits 0.7 s, where RFC 5227 would have it wait for 5 s and more.
const LAST_WAIT: Duration = Duration::from_millis(300);

const ETHERTYPE_ARP: u16 = 0x0806;
const OPERATION_REQUEST: u16 = 1;
/// Ethernet header and ARP for Ethernet and IPv4 (RFC 826), bytes.
const FRAME_BYTES: usize = 42;

/// An address that somebody else has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The address.
    pub address: Ipv4Addr,
    /// Who said so.
    pub holder: MacAddress,
}

/// Probes `addresses` on the Ethernet link `link` of `ns`: three times within 0.7 s, and hears of a conflict as soon as one
/// is announced. `None`: nobody has any of them. They must not be on the link yet.
///
/// A conflict is any ARP message from another MAC whose sender address is one of them, and a probe for one of them: two
/// hosts that begin to use an address at once must both give way.
///
/// # Errors
/// When the link is gone, is no Ethernet, or is down, or raw sockets are not allowed.
pub fn probe(ns: &Netns, link: &Link, addresses: &[Ipv4Addr]) -> Result<Option<Conflict>> {
    let failed = |errno: Errno| {
        Error::kernel("probe for address conflicts on", &link.name, errno)
            .with_remedy(Errno::ENETDOWN, "the link must be up")
            .with_remedy(Errno::EPERM, "raw sockets need CAP_NET_RAW")
    };
    let mac =
        link.mac.ok_or_else(|| Error::answer("probe for address conflicts on", &link.name, "it is no Ethernet"))?;
    if addresses.is_empty() {
        return Ok(None);
    }
    let (socket, target) = ns.run(|| open(&link.name))??;
    for number in 1..=PROBES {
        for address in addresses {
            sendto(socket.as_raw_fd(), &frame(mac, *address), &target, MsgFlags::empty()).map_err(failed)?;
        }
        let wait = if number == PROBES { LAST_WAIT } else { INTERVAL };
        let heard = listen(&socket, target.ifindex(), wait, |frame| conflict(frame, mac, addresses));
        if let Some(conflict) = heard.map_err(failed)? {
            return Ok(Some(conflict));
        }
    }
    Ok(None)
}

/// A socket that hears ARP in the calling thread's namespace, and the link to send to.
fn open(ifname: &str) -> Result<(OwnedFd, LinkAddr)> {
    let target = getifaddrs()
        .map_err(|errno| Error::kernel("list links for", ifname, errno))?
        .filter(|entry| entry.interface_name == ifname)
        .find_map(|entry| entry.address.as_ref().and_then(|address| address.as_link_addr().copied()))
        .ok_or_else(|| Error::kernel("probe for address conflicts on", ifname, Errno::ENODEV))?;
    if target.hatype() != libc::ARPHRD_ETHER {
        return Err(Error::answer("probe for address conflicts on", ifname, "the link is no Ethernet"));
    }
    let arp = Protocol::from(i32::from(ETHERTYPE_ARP.to_be()));
    let failed = |error: io::Error| Error::io("open raw socket for", ifname, error);
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(arp)).map_err(failed)?;
    // A frame that poll saw may be gone when it is read.
    socket.set_nonblocking(true).map_err(failed)?;
    Ok((socket.into(), target))
}

/// Reads frames of link `index` until one is what is looked for, or the time is over.
fn listen<T>(
    socket: &OwnedFd,
    index: usize,
    wait: Duration,
    mut look_for: impl FnMut(&[u8]) -> Option<T>,
) -> nix::Result<Option<T>> {
    let started = Instant::now();
    let mut buffer = [0; FRAME_BYTES];
    loop {
        let left = wait.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Ok(None);
        }
        // Whole milliseconds, rounded up: the last one would be spent spinning otherwise.
        let timeout = PollTimeout::try_from(left.saturating_add(Duration::from_millis(1))).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(errno) => return Err(errno),
        }
        match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) {
            Ok((length, from)) if from.is_some_and(|from| from.ifindex() == index) => {
                if let Some(found) = buffer.get(..length).and_then(&mut look_for) {
                    return Ok(Some(found));
                }
            }
            Ok(_) | Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// An ARP probe: a request whose sender address is zero, so that nobody remembers it.
fn frame(mac: MacAddress, address: Ipv4Addr) -> Vec<u8> {
    [
        MacAddress::BROADCAST.0.as_slice(),
        &mac.0,
        &ETHERTYPE_ARP.to_be_bytes(),
        &[0, 1, 8, 0, 6, 4], // Ethernet, IPv4, lengths of their addresses
        &OPERATION_REQUEST.to_be_bytes(),
        &mac.0,
        &Ipv4Addr::UNSPECIFIED.octets(),
        &[0; 6],
        &address.octets(),
    ]
    .concat()
}

/// Whether a frame says that somebody other than `own` has, or is about to take, one of `addresses`.
fn conflict(frame: &[u8], own: MacAddress, addresses: &[Ipv4Addr]) -> Option<Conflict> {
    let field = |from: usize, to: usize| frame.get(from..to);
    if field(12, 20)? != [0x08, 0x06, 0, 1, 8, 0, 6, 4] {
        return None;
    }
    let operation = u16::from_be_bytes(field(20, 22)?.try_into().ok()?);
    let holder = MacAddress(field(22, 28)?.try_into().ok()?);
    let address = |from: usize, to: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(field(from, to)?).ok()?));
    let (sender, target) = (address(28, 32)?, address(38, 42)?);
    let is_probe = operation == OPERATION_REQUEST && sender.is_unspecified();
    let claimed = if is_probe { target } else { sender };
    (holder != own && addresses.contains(&claimed)).then_some(Conflict { address: claimed, holder })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWN: MacAddress = MacAddress([2, 0, 0, 0xaa, 0xbb, 0xcc]);
    const OTHER: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
    const WANTED: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 3);

    /// An ARP message from `OTHER`.
    fn arp(operation: u8, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
        let mut bytes = frame(OTHER, WANTED);
        bytes[21] = operation;
        bytes[28..32].copy_from_slice(&sender);
        bytes[38..42].copy_from_slice(&target);
        bytes
    }

    #[test]
    fn a_probe_is_byte_exact() {
        #[rustfmt::skip]
        let expected = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0xaa, 0xbb, 0xcc, 0x08, 0x06,
            0, 1, 8, 0, 6, 4, 0, 1,
            2, 0, 0, 0xaa, 0xbb, 0xcc, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 10, 1, 2, 3,
        ];
        assert_eq!(frame(OWN, WANTED), expected);
    }

    #[test]
    fn whoever_answers_announces_or_probes_for_the_address_is_in_conflict() {
        let wanted = WANTED.octets();
        for (case, message) in [
            ("an answer", arp(2, wanted, [0; 4])),
            ("an announcement", arp(1, wanted, wanted)),
            ("a question to somebody else", arp(1, wanted, [10, 1, 2, 9])),
            ("a simultaneous probe", arp(1, [0; 4], wanted)),
        ] {
            let found = conflict(&message, OWN, &[Ipv4Addr::new(10, 1, 2, 2), WANTED]);
            assert_eq!(found, Some(Conflict { address: WANTED, holder: OTHER }), "{case}");
            assert_eq!(conflict(&message, OTHER, &[WANTED]), None, "{case} of our own");
        }
    }

    #[test]
    fn other_traffic_is_no_conflict() {
        let question = arp(1, [10, 1, 2, 9], WANTED.octets());
        assert_eq!(conflict(&question, OWN, &[WANTED]), None, "somebody asks for the address");
        let mut other_protocol = arp(2, WANTED.octets(), [0; 4]);
        other_protocol[16] = 0x86;
        assert_eq!(conflict(&other_protocol, OWN, &[WANTED]), None);
        assert_eq!(conflict(&arp(2, WANTED.octets(), [0; 4])[..41], OWN, &[WANTED]), None, "a frame cut short");
    }

    proptest! {
        #[test]
        fn no_frame_is_too_strange(frame in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = conflict(&frame, OWN, &[WANTED]);
        }
    }
}
