//! What the sender of a packet that does not pass the tunnel is told: ICMP "fragmentation needed and DF set" (RFC 792, RFC 1191) and
//! ICMPv6 "packet too big" (RFC 4443 section 3.2).

use crate::inner::{Upper, addresses, complete_checksum_at, folded, pseudo_header, write_ipv4_checksum};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const DONT_FRAGMENT: u8 = 0x40;
const HOPS: u8 = 64;
const ICMP_HEADER_BYTES: usize = 8;
const ICMP_CHECKSUM_OFFSET: usize = 2;
const ICMPV6_REDIRECT: u8 = 137;

const IPV4_HEADER_BYTES: usize = 20;
const IPV4_ANSWER_BYTES: usize = 548;
/// The least that every link carries (RFC 791 section 3.2).
const IPV4_LEAST_MTU_BYTES: u16 = 68;

const IPV6_HEADER_BYTES: usize = 40;
const IPV6_ANSWER_BYTES: usize = 1280;
/// The least that every link carries (RFC 8200 section 5); a source goes no lower (RFC 8201 section 4).
const IPV6_LEAST_MTU_BYTES: u16 = 1280;

/// The packet that tells the source of `packet`, in the name of its destination, to send no more than `mtu_bytes`. Its checksums are
/// complete. Of a packet that stands for several, the head is quoted. The MTU told is never below the least of the protocol.
///
/// `None` where the source may not be told: it lets its packet be fragmented (IPv4), the packet is an ICMP error, a fragment but the
/// first, from or to more or less than one host, or not an IP packet at all (RFC 1122 section 3.2.2, RFC 4443 section 2.4).
///
/// Nothing here limits how often, or looks at the packet's length: both are the caller's.
pub(crate) fn answer(packet: &[u8], mtu_bytes: u16) -> Option<Vec<u8>> {
    let addresses = addresses(packet)?;
    let upper = Upper::of(packet)?;
    if !is_one_host(addresses.source) || !is_one_host(addresses.destination) || is_icmp_error(packet, upper)? {
        return None;
    }
    match (addresses.destination, addresses.source) {
        (IpAddr::V4(from), IpAddr::V4(to)) if packet.get(6)? & DONT_FRAGMENT != 0 => {
            fragmentation_needed(packet, mtu_bytes, from, to)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => packet_too_big(packet, mtu_bytes, from, to),
        _ => None,
    }
}

const fn is_one_host(address: IpAddr) -> bool {
    let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || address.is_loopback() || is_broadcast)
}

/// `None`: it is ICMP, and ends before it says.
fn is_icmp_error(packet: &[u8], upper: Upper) -> Option<bool> {
    let is_v4 = packet.first()? >> 4 == 4;
    if upper.protocol != if is_v4 { ICMP } else { ICMPV6 } {
        return Some(false);
    }
    let kind = *packet.get(upper.start)?;
    Some(match is_v4 {
        // Unreachable, source quench, redirect, time exceeded, parameter problem.
        true => matches!(kind, 3 | 4 | 5 | 11 | 12),
        false => kind < 128 || kind == ICMPV6_REDIRECT,
    })
}

fn fragmentation_needed(packet: &[u8], mtu_bytes: u16, from: Ipv4Addr, to: Ipv4Addr) -> Option<Vec<u8>> {
    let quoted = head(packet, IPV4_ANSWER_BYTES.checked_sub(IPV4_HEADER_BYTES)?.checked_sub(ICMP_HEADER_BYTES)?);
    let total = IPV4_HEADER_BYTES.checked_add(ICMP_HEADER_BYTES)?.checked_add(quoted.len())?;
    let [l0, l1] = u16::try_from(total).ok()?.to_be_bytes();
    let [m0, m1] = mtu_bytes.max(IPV4_LEAST_MTU_BYTES).to_be_bytes();
    let mut answer = Vec::with_capacity(total);
    // Errors have the precedence of internetwork control (RFC 1812 section 4.3.2.5).
    answer.extend([0x45, 0xc0, l0, l1, 0, 0, DONT_FRAGMENT, 0, HOPS, ICMP, 0, 0]);
    answer.extend(from.octets());
    answer.extend(to.octets());
    write_ipv4_checksum(&mut answer);
    answer.extend([3, 4, 0, 0, 0, 0, m0, m1]);
    answer.extend(quoted);
    complete_checksum_at(&mut answer, IPV4_HEADER_BYTES, ICMP_CHECKSUM_OFFSET).then_some(answer)
}

fn packet_too_big(packet: &[u8], mtu_bytes: u16, from: Ipv6Addr, to: Ipv6Addr) -> Option<Vec<u8>> {
    let quoted = head(packet, IPV6_ANSWER_BYTES.checked_sub(IPV6_HEADER_BYTES)?.checked_sub(ICMP_HEADER_BYTES)?);
    let payload_bytes = u16::try_from(ICMP_HEADER_BYTES.checked_add(quoted.len())?).ok()?;
    let [l0, l1] = payload_bytes.to_be_bytes();
    let mut answer = Vec::with_capacity(IPV6_HEADER_BYTES.checked_add(payload_bytes.into())?);
    answer.extend([0x60, 0, 0, 0, l0, l1, ICMPV6, HOPS]);
    answer.extend(from.octets());
    answer.extend(to.octets());
    let [c0, c1] = folded(pseudo_header(&answer, ICMPV6).checked_add(payload_bytes.into())?).to_be_bytes();
    answer.extend([2, 0, c0, c1]);
    answer.extend(u32::from(mtu_bytes.max(IPV6_LEAST_MTU_BYTES)).to_be_bytes());
    answer.extend(quoted);
    complete_checksum_at(&mut answer, IPV6_HEADER_BYTES, ICMP_CHECKSUM_OFFSET).then_some(answer)
}

fn head(packet: &[u8], most_bytes: usize) -> &[u8] {
    packet.get(..most_bytes).unwrap_or(packet)
}

#[cfg(test)]
mod tests;
