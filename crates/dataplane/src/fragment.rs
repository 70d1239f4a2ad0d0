//! Fragments of inner packets (RFC 791 section 3.2, RFC 8200 section 4.5): for a path that takes less than the smallest packets that the
//! interface can be told to send. Whom a packet is for joins them.
//!
//! Fragments of outer packets would be the lower layer's affair that RFC 8200 section 5 asks for. But IPv6 cuts no datagram that the
//! route is said to take, and where the path does not take it no router has said so; and who drops ICMP often drops fragments as well.
//! What is cut here is whole UDP outside.

use crate::{
    inner::{DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, IPV6_HEADER_BYTES, ROUTING, write_ipv4_checksum},
    segment::put,
};

const IPV4_HEADER_BYTES: usize = 20;
const IPV4_DONT_FRAGMENT: u16 = 0x4000;
const IPV4_MORE: u16 = 0x2000;
const IPV4_OFFSET: u16 = 0x1fff;
const IPV6_MORE: u16 = 1;
const FRAGMENT_HEADER_BYTES: usize = 8;
/// What offsets count in, bytes.
const UNIT_BYTES: usize = 8;
/// Extension headers up to the one that says what the fragments carry.
const MOST_EXTENSIONS: usize = 5;

/// What the fragments of a packet have in common.
struct Cut<'a> {
    is_v4: bool,
    /// The headers that each begins with.
    head: Vec<u8>,
    /// Where they hold offset and flags, bytes.
    field: usize,
    /// What the packet itself is, if it is a fragment: its offset in units, and whether more follow.
    offset: u16,
    more: bool,
    payload: &'a [u8],
}

/// A packet in fragments of at most so many bytes; all its checksums have to be complete. Packets that carry an identification keep it,
/// others get this one: also IPv4 with DF set, which is not set any more then.
///
/// `None`: it is no IP packet, has IPv4 options, or headers that leave no room.
pub(crate) fn fragments(packet: &[u8], room_bytes: u16, identification: u32) -> Option<Vec<Box<[u8]>>> {
    let cut = match packet.first()? >> 4 {
        4 => Cut::ipv4(packet, identification),
        6 => Cut::ipv6(packet, identification),
        _ => None,
    }?;
    let units =
        usize::from(room_bytes).checked_sub(cut.head.len())?.checked_div(UNIT_BYTES).filter(|units| *units > 0)?;
    let chunks = cut.payload.chunks(units.checked_mul(UNIT_BYTES)?);
    let last = chunks.len().checked_sub(1)?;
    chunks.enumerate().map(|(number, chunk)| cut.fragment(number.checked_mul(units)?, chunk, number == last)).collect()
}

impl<'a> Cut<'a> {
    fn ipv4(packet: &'a [u8], identification: u32) -> Option<Self> {
        let (head, payload) = packet.split_at_checked(IPV4_HEADER_BYTES)?;
        // Options: some belong to the first fragment only.
        if head.first()? & 0x0f != 5 {
            return None;
        }
        let field = u16::from_be_bytes(*head.get(6..)?.first_chunk()?);
        let mut head = head.to_vec();
        if field == IPV4_DONT_FRAGMENT {
            put(&mut head, 4, &(identification as u16).to_be_bytes());
        }
        Some(Self { is_v4: true, head, field: 6, offset: field & IPV4_OFFSET, more: field & IPV4_MORE != 0, payload })
    }

    fn ipv6(packet: &'a [u8], identification: u32) -> Option<Self> {
        // Where the next header's number is, and where that header begins.
        let (mut place, mut start) = (6, IPV6_HEADER_BYTES);
        let mut end = (place, start);
        for _ in 0..MOST_EXTENSIONS {
            let kind = *packet.get(place)?;
            if kind == FRAGMENT {
                return Self::ipv6_again(packet, start);
            }
            if !matches!(kind, HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS) {
                break;
            }
            let eights = usize::from(*packet.get(start.checked_add(1)?)?).checked_add(1)?;
            (place, start) = (start, start.checked_add(eights.checked_mul(8)?)?);
            // Destination options count only where a routing header follows: those behind it are for the last destination.
            if kind != DESTINATION_OPTIONS {
                end = (place, start);
            }
        }
        let (place, start) = end;
        let (head, payload) = packet.split_at_checked(start)?;
        let mut head = head.to_vec();
        let kind = std::mem::replace(head.get_mut(place)?, FRAGMENT);
        head.extend([kind, 0, 0, 0]);
        head.extend(identification.to_be_bytes());
        Some(Self { is_v4: false, head, field: start.checked_add(2)?, offset: 0, more: false, payload })
    }

    /// Of a fragment whose fragment header begins there.
    fn ipv6_again(packet: &'a [u8], start: usize) -> Option<Self> {
        let (head, payload) = packet.split_at_checked(start.checked_add(FRAGMENT_HEADER_BYTES)?)?;
        let place = start.checked_add(2)?;
        let field = u16::from_be_bytes(*head.get(place..)?.first_chunk()?);
        let (offset, more) = (field >> 3, field & IPV6_MORE != 0);
        Some(Self { is_v4: false, head: head.to_vec(), field: place, offset, more, payload })
    }

    fn fragment(&self, offset: usize, payload: &[u8], is_last: bool) -> Option<Box<[u8]>> {
        let offset = u16::try_from(offset).ok()?.checked_add(self.offset).filter(|offset| *offset <= IPV4_OFFSET)?;
        let more = self.more || !is_last;
        let mut fragment = [&self.head[..], payload].concat();
        let total = u16::try_from(fragment.len()).ok()?;
        if self.is_v4 {
            put(&mut fragment, 2, &total.to_be_bytes());
            put(&mut fragment, self.field, &(offset | if more { IPV4_MORE } else { 0 }).to_be_bytes());
            write_ipv4_checksum(fragment.get_mut(..IPV4_HEADER_BYTES)?);
        } else {
            put(&mut fragment, 4, &total.checked_sub(IPV6_HEADER_BYTES as u16)?.to_be_bytes());
            put(&mut fragment, self.field, &(offset << 3 | if more { IPV6_MORE } else { 0 }).to_be_bytes());
        }
        Some(fragment.into())
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "the numbers of the tests are small")]
mod tests;
