//! The segment size that TCP announces is lowered to what passes the tunnel, so that connections work where "too big" never arrives.

use crate::{
    inner::{TCP, Transport, Upper, updated_checksum},
    segment::Checksum,
};

const SYN: u8 = 0x02;
const FLAGS_OFFSET: usize = 13;
const OPTIONS_OFFSET: usize = 20;

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const SEGMENT_SIZE: u8 = 2;
const SEGMENT_SIZE_BYTES: usize = 4;
const AUTHENTICATION: u8 = 29;

/// Lowers the maximum segment size that a SYN or SYN-ACK announces to what fits `mtu_bytes` with fixed headers (RFC 6691): 40 bytes
/// less over IPv4, 60 over IPv6. It is never raised, and never added where there is none. Everything else stays as it is: other
/// packets, options that are malformed or announce a size twice, and options that TCP-AO covers (RFC 5925 section 5.1).
///
/// `checksum` is what the TCP checksum holds; a complete one is updated (RFC 1624), so that a wrong one stays wrong. A packet that
/// stands for several is given as [`Checksum::Partial`].
pub(crate) fn clamp_mss(packet: &mut [u8], mtu_bytes: u16, checksum: Checksum) {
    if let Some(tcp) = opening(packet) {
        let _ = lower(packet, tcp, mtu_bytes, checksum);
    }
}

/// Where TCP is in a packet that opens a connection.
fn opening(packet: &[u8]) -> Option<Transport> {
    let Upper { protocol: TCP, start } = Upper::of(packet)? else { return None };
    let flags = packet.get(start.checked_add(FLAGS_OFFSET)?)?;
    if flags & SYN == 0 { None } else { Transport::at(packet, TCP, start) }
}

/// `None`: there is nothing to lower, and nothing changed.
fn lower(packet: &mut [u8], tcp: Transport, mtu_bytes: u16, checksum: Checksum) -> Option<()> {
    let headers_bytes = if packet.first()? >> 4 == 4 { 40 } else { 60 };
    let limit = mtu_bytes.checked_sub(headers_bytes).filter(|limit| *limit > 0)?;
    let options = tcp.start.checked_add(OPTIONS_OFFSET)?;
    let place = options.checked_add(segment_size_place(packet.get(options..tcp.payload)?)?)?;
    let value = two_bytes(packet, place)?;
    let announced = u16::from_be_bytes(*value);
    if announced <= limit {
        return None;
    }
    *value = limit.to_be_bytes();
    if checksum == Checksum::Complete {
        // Options may begin anywhere: across two words of the sum, its bytes count the other way round (RFC 1071 section 2).
        let is_across = (place ^ tcp.start) & 1 == 1;
        let change = if is_across { (announced.swap_bytes(), limit.swap_bytes()) } else { (announced, limit) };
        let field = two_bytes(packet, tcp.start.checked_add(tcp.checksum_offset())?)?;
        *field = updated_checksum(u16::from_be_bytes(*field), change).to_be_bytes();
    }
    Some(())
}

/// Where the announced size is in a list of options that is well formed and has one.
fn segment_size_place(options: &[u8]) -> Option<usize> {
    let mut found = None;
    let mut place: usize = 0;
    while let Some((kind, rest)) = options.get(place..)?.split_first() {
        let length = match *kind {
            END => break,
            NO_OPERATION => 1,
            AUTHENTICATION => return None,
            _ => usize::from(*rest.first()?),
        };
        if *kind == SEGMENT_SIZE && (length != SEGMENT_SIZE_BYTES || found.replace(place.checked_add(2)?).is_some()) {
            return None;
        }
        let is_too_short = *kind != NO_OPERATION && length < 2;
        place = place.checked_add(length).filter(|end| !is_too_short && *end <= options.len())?;
    }
    found
}

fn two_bytes(packet: &mut [u8], place: usize) -> Option<&mut [u8; 2]> {
    packet.get_mut(place..)?.first_chunk_mut()
}

#[cfg(test)]
mod tests;
