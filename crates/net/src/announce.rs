//! Telling the neighbours on a link where an address lives now.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    libc,
    sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket},
};

use crate::{Error, MacAddress, Netns, Result};

const ROUNDS: u32 = 3;
/// A port that has just come up loses its first frames now and then.
const BETWEEN_ROUNDS: Duration = Duration::from_millis(5);

const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];

/// ff02::1 and the Ethernet group it maps to (RFC 2464 section 7).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: MacAddress = MacAddress([0x33, 0x33, 0, 0, 0, 1]);

const PROTOCOL_ICMPV6: u8 = 58;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const OPTION_TARGET_LINK_ADDRESS: u8 = 2;
const FLAG_OVERRIDE: u8 = 0x20;
/// Receivers drop a neighbour advertisement that could have crossed a router.
const HOP_LIMIT: u8 = 255;

/// Announces that `addresses` are at `mac`, on the Ethernet link `ifname` of `ns`.
///
/// IPv4 by ARP announcements as request and as reply (RFC 5227 section 3, RFC 826), IPv6 by
/// unsolicited neighbour advertisements with the override flag (RFC 4861 section 4.4), each in
/// three rounds within ten milliseconds. Tentative IPv6 addresses must not be announced: see
/// [`crate::Netlink::wait_addresses_usable`].
///
/// # Errors
/// When there is no such link, it is no Ethernet, it is down, or raw sockets are not allowed.
pub fn announce(ns: &Netns, ifname: &str, mac: MacAddress, addresses: &[IpAddr]) -> Result<()> {
    let frames: Vec<Vec<u8>> = addresses.iter().flat_map(|address| announcements(mac, *address)).collect();
    if frames.is_empty() {
        return Ok(());
    }
    let (socket, link) = ns.run(|| open(ifname))??;
    for round in 0..ROUNDS {
        if round > 0 {
            thread::sleep(BETWEEN_ROUNDS);
        }
        for frame in &frames {
            sendto(socket.as_raw_fd(), frame, &link, MsgFlags::empty()).map_err(|errno| {
                Error::kernel("announce addresses on", ifname, errno)
                    .with_remedy(Errno::ENETDOWN, "the link must be up")
            })?;
        }
    }
    Ok(())
}

/// A raw socket of the calling thread's namespace that receives nothing, and the link to send to.
fn open(ifname: &str) -> Result<(OwnedFd, LinkAddr)> {
    let link = getifaddrs()
        .map_err(|e| Error::kernel("list links for", ifname, e))?
        .filter(|entry| entry.interface_name == ifname)
        .find_map(|entry| entry.address.as_ref().and_then(|a| a.as_link_addr().copied()))
        .ok_or_else(|| Error::kernel("announce addresses on", ifname, Errno::ENODEV))?;
    if link.hatype() != libc::ARPHRD_ETHER {
        return Err(Error::answer("announce addresses on", ifname, "the link is no Ethernet"));
    }
    // Protocol 0: nothing is ever delivered to the socket.
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|e| Error::kernel("open raw socket for", ifname, e))?;
    Ok((socket, link))
}

fn announcements(mac: MacAddress, address: IpAddr) -> Vec<Vec<u8>> {
    match address {
        IpAddr::V4(ip) => vec![arp(mac, ip, ArpForm::Request), arp(mac, ip, ArpForm::Reply)],
        IpAddr::V6(ip) => vec![neighbour_advertisement(mac, ip)],
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ArpForm {
    Request = 1,
    Reply = 2,
}

/// Sender and target protocol address are both the announced one.
fn arp(mac: MacAddress, ip: Ipv4Addr, form: ArpForm) -> Vec<u8> {
    let target = match form {
        ArpForm::Request => MacAddress([0; 6]),
        ArpForm::Reply => mac,
    };
    let mut frame = ethernet(MacAddress::BROADCAST, mac, ETHERTYPE_ARP);
    frame.extend([0, 1]); // Ethernet
    frame.extend([8, 0]); // IPv4
    frame.extend([6, 4]); // lengths of the two kinds of addresses
    frame.extend([0, form as u8]);
    frame.extend(mac.0);
    frame.extend(ip.octets());
    frame.extend(target.0);
    frame.extend(ip.octets());
    frame
}

fn neighbour_advertisement(mac: MacAddress, ip: Ipv6Addr) -> Vec<u8> {
    let mut icmp = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, FLAG_OVERRIDE, 0, 0, 0];
    icmp.extend(ip.octets());
    icmp.extend([OPTION_TARGET_LINK_ADDRESS, 1]); // length in units of eight bytes
    icmp.extend(mac.0);
    let length: u16 = 32;
    let checksum = icmpv6_checksum(ip, ALL_NODES, &icmp);
    if let Some(field) = icmp.get_mut(2..4) {
        field.copy_from_slice(&checksum.to_be_bytes());
    }

    let mut frame = ethernet(ALL_NODES_MAC, mac, ETHERTYPE_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([PROTOCOL_ICMPV6, HOP_LIMIT]);
    frame.extend(ip.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(icmp);
    frame
}

fn ethernet(to: MacAddress, from: MacAddress, ethertype: [u8; 2]) -> Vec<u8> {
    [to.0.as_slice(), &from.0, &ethertype].concat()
}

/// RFC 4443 section 2.3 over the pseudo-header of RFC 8200 section 8.1.
fn icmpv6_checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let next_header = u32::from(PROTOCOL_ICMPV6);
    let pseudo =
        [from.octets().as_slice(), &to.octets(), &length.to_be_bytes(), &next_header.to_be_bytes(), message].concat();
    // Fewer than 2^16 words of 16 bits do not overflow 32.
    let sum = pseudo
        .chunks(2)
        .map(|pair| match *pair {
            [high, low] => u32::from(u16::from_be_bytes([high, low])),
            [high] => u32::from(u16::from_be_bytes([high, 0])),
            _ => 0,
        })
        .fold(0u32, u32::wrapping_add);
    let folded = (sum & 0xffff).wrapping_add(sum >> 16);
    let folded = (folded & 0xffff).wrapping_add(folded >> 16);
    !u16::try_from(folded).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddress = MacAddress([2, 0, 0, 0xaa, 0xbb, 0xcc]);

    #[test]
    fn an_arp_announcement_is_byte_exact() {
        let request = arp(MAC, Ipv4Addr::new(10, 1, 2, 3), ArpForm::Request);
        #[rustfmt::skip]
        let expected = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0xaa, 0xbb, 0xcc, 0x08, 0x06,
            0, 1, 8, 0, 6, 4, 0, 1,
            2, 0, 0, 0xaa, 0xbb, 0xcc, 10, 1, 2, 3,
            0, 0, 0, 0, 0, 0, 10, 1, 2, 3,
        ];
        assert_eq!(request, expected);
        let reply = arp(MAC, Ipv4Addr::new(10, 1, 2, 3), ArpForm::Reply);
        assert_eq!(reply[..21], expected[..21]);
        assert_eq!(reply[21], 2);
        assert_eq!(reply[32..38], MAC.0);
    }

    #[test]
    fn a_neighbour_advertisement_is_byte_exact() {
        let frame = neighbour_advertisement(MAC, "fd00::5".parse().unwrap());
        #[rustfmt::skip]
        let expected = [
            0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0xaa, 0xbb, 0xcc, 0x86, 0xdd,
            0x60, 0, 0, 0, 0, 32, 58, 255,
            0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5,
            0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
            136, 0, 0x9e, 0x1d, 0x20, 0, 0, 0,
            0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5,
            2, 1, 2, 0, 0, 0xaa, 0xbb, 0xcc,
        ];
        assert_eq!(frame, expected);
    }

    #[test]
    fn a_checksum_over_its_own_message_is_zero() {
        let from: Ipv6Addr = "2001:db8::ffff:1".parse().unwrap();
        let frame = neighbour_advertisement(MAC, from);
        assert_eq!(icmpv6_checksum(from, ALL_NODES, &frame[54..]), 0);
    }

    #[test]
    fn without_addresses_nothing_is_opened() {
        let own = Netns::current().unwrap();
        announce(&own, "no-such-link", MAC, &[]).unwrap();
    }
}
