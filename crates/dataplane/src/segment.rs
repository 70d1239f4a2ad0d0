//! Cutting what the kernel left in one piece: a packet of up to 64 KB from the TUN becomes complete packets of one flow, each with
//! its own headers, without its payload being touched (net/ipv4/tcp_offload.c and udp_offload.c do the same).

use crate::{
    DropReason,
    inner::{
        TCP, Transport, UDP, add, complete_checksum, complete_checksum_at, folded, pseudo_header, write_ipv4_checksum,
    },
    vnet::{Gso, GsoKind, Vnet},
};
use std::ops::Range;

const FIN: u8 = 0x01;
const PUSH: u8 = 0x08;
const CONGESTION_WINDOW_REDUCED: u8 = 0x80;
/// The longest headers: IPv4 with options and TCP with options. IPv6 with more extension headers than that is not cut.
pub(crate) const LONGEST_HEADERS_BYTES: usize = 120;

/// What the checksum field of an inner TCP or UDP packet holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// The checksum, or whatever the sender of the packet put there.
    Complete,
    /// The sum of the pseudo header only. Allowed while something else protects the packet.
    Partial,
}

/// A packet from the TUN that is one packet: what its checksum field holds when this is done with it.
///
/// # Errors
/// [`DropReason::BadChecksumOffload`]: it is to be completed, and cannot be.
pub(crate) fn settle_checksum(packet: &mut [u8], header: &Vnet) -> Result<Checksum, DropReason> {
    let Some((start, offset)) = header.checksum else { return Ok(Checksum::Complete) };
    let (start, offset) = (usize::from(start), usize::from(offset));
    let plain =
        Transport::of(packet).filter(|transport| (transport.start, transport.checksum_offset()) == (start, offset));
    match plain {
        Some(_) => Ok(Checksum::Partial),
        None if complete_checksum_at(packet, start, offset) => Ok(Checksum::Complete),
        None => Err(DropReason::BadChecksumOffload),
    }
}

/// A copy of a packet that is one, with its checksum complete.
pub(crate) fn completed(packet: &[u8], checksum: Checksum) -> Box<[u8]> {
    let mut packet = Box::from(packet);
    if checksum == Checksum::Partial {
        // It was found to be possible when it was called partial.
        let _ = complete_checksum(&mut packet);
    }
    packet
}

/// A packet that stands for several.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Several {
    transport: Transport,
    segment_bytes: usize,
    payload_bytes: usize,
    /// Of every packet.
    pub(crate) checksum: Checksum,
    /// The part of the transport's checksum that all packets share.
    pseudo_header: u64,
}

/// One of several: its number, and its payload within what it is cut from.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    number: usize,
    pub(crate) payload: Range<usize>,
    pub(crate) is_last: bool,
}

impl Several {
    /// Reads how `packet` is to be cut.
    ///
    /// # Errors
    /// [`DropReason::BadSegmentation`]: headers and offload do not agree.
    pub(crate) fn new(packet: &[u8], header: &Vnet, gso: &Gso) -> Result<Self, DropReason> {
        Self::read(packet, header, gso).ok_or(DropReason::BadSegmentation)
    }

    fn read(packet: &[u8], header: &Vnet, gso: &Gso) -> Option<Self> {
        let protocol = if gso.kind == GsoKind::Udp { UDP } else { TCP };
        let version = packet.first()? >> 4;
        match gso.kind {
            GsoKind::Tcp4 if version != 4 => return None,
            GsoKind::Tcp6 if version != 6 => return None,
            _ => {}
        }
        let plain = Transport::of(packet).filter(|transport| transport.protocol == protocol);
        let (transport, checksum) = match (plain, header.checksum) {
            (Some(transport), _) => (transport, Checksum::Partial),
            // Behind extension headers: the receiver, which believes nothing but its own parse, would not find it.
            (None, Some((start, _))) if version == 6 && usize::from(start) >= 40 => {
                (Transport::at(packet, protocol, start.into())?, Checksum::Complete)
            }
            _ => return None,
        };
        let payload_bytes = packet.len().checked_sub(transport.payload)?;
        let segment_bytes = usize::from(gso.segment_bytes);
        let pseudo_header = match header.checksum {
            Some(place) if place == transport.checksum_place() => transport.sum_without_length(packet)?.into(),
            _ => pseudo_header(packet, protocol),
        };
        (segment_bytes > 0 && payload_bytes > 0 && transport.payload <= LONGEST_HEADERS_BYTES).then_some(Self {
            transport,
            segment_bytes,
            payload_bytes,
            checksum,
            pseudo_header,
        })
    }

    /// The same as packets no longer than this. `None`: they are not a stream's, and cannot be cut smaller.
    pub(crate) fn cut_smaller(&self, room_bytes: u16) -> Option<Self> {
        let segment_bytes = usize::from(room_bytes).checked_sub(self.transport.payload).filter(|bytes| *bytes > 0)?;
        (self.transport.protocol == TCP).then(|| Self { segment_bytes: segment_bytes.min(self.segment_bytes), ..*self })
    }

    /// A packet that is one, as packets no longer than this. `None`: it is no stream's, or has a checksum already, which would be lost.
    pub(crate) fn of_one(packet: &[u8], header: &Vnet, room_bytes: u16) -> Option<Self> {
        let transport = Transport::of(packet).filter(|transport| transport.protocol == TCP)?;
        header.checksum.filter(|place| *place == transport.checksum_place())?;
        let kind = if packet.first()? >> 4 == 4 { GsoKind::Tcp4 } else { GsoKind::Tcp6 };
        let segment_bytes = room_bytes.checked_sub(u16::try_from(transport.payload).ok()?)?;
        Self::read(packet, header, &Gso { kind, header_bytes: 0, segment_bytes })
    }

    /// Length of the longest packet, bytes.
    pub(crate) fn longest_bytes(&self) -> usize {
        self.transport.payload.saturating_add(self.segment_bytes.min(self.payload_bytes))
    }

    /// Length of the headers that every packet begins with, bytes.
    pub(crate) const fn header_bytes(&self) -> usize {
        self.transport.payload
    }

    /// How many packets it stands for.
    pub(crate) const fn count(&self) -> usize {
        self.payload_bytes.div_ceil(self.segment_bytes)
    }

    /// Length of all packets, bytes.
    pub(crate) const fn total_bytes(&self) -> usize {
        self.count().saturating_mul(self.header_bytes()).saturating_add(self.payload_bytes)
    }

    /// Where the checksum begins to cover each packet, and where it is from there.
    pub(crate) const fn checksum_place(&self) -> (u16, u16) {
        self.transport.checksum_place()
    }

    pub(crate) fn segments(self) -> impl Iterator<Item = Segment> {
        let Self { segment_bytes, payload_bytes, .. } = self;
        (0..payload_bytes).step_by(segment_bytes.max(1)).enumerate().map(move |(number, at)| {
            let left = payload_bytes.saturating_sub(at);
            let start = self.transport.payload.saturating_add(at);
            let end = start.saturating_add(left.min(segment_bytes));
            Segment { number, payload: start..end, is_last: left <= segment_bytes }
        })
    }

    /// All packets, copied, with complete checksums.
    pub(crate) fn packets(mut self, packet: &[u8]) -> Vec<Box<[u8]>> {
        self.checksum = Checksum::Complete;
        let cut = |segment: Segment| {
            let mut head = vec![0; self.header_bytes()];
            self.write_head(packet, &segment, &mut head);
            head.extend(packet.get(segment.payload).unwrap_or_default());
            head.into()
        };
        self.segments().map(cut).collect()
    }

    /// Writes the headers of a segment into `head`, which is as long as they are; `packet` is what it is cut from.
    pub(crate) fn write_head(&self, packet: &[u8], segment: &Segment, head: &mut [u8]) {
        let Transport { protocol, start, payload } = self.transport;
        let Some(original) = packet.get(..payload).filter(|original| original.len() == head.len()) else { return };
        head.copy_from_slice(original);
        let Some((ip, transport)) = head.split_at_mut_checked(start) else { return };
        let payload_bytes = segment.payload.len();
        let transport_bytes = transport.len().saturating_add(payload_bytes);
        write_ip(ip, transport_bytes, segment.number);
        let skipped = segment.number.saturating_mul(self.segment_bytes);
        match protocol {
            TCP => write_tcp(transport, skipped, segment),
            _ => put(transport, 4, &(transport_bytes as u16).to_be_bytes()),
        }
        let offset = self.transport.checksum_offset();
        put(transport, offset, &[0, 0]);
        let pseudo = self.pseudo_header.wrapping_add(transport_bytes as u64);
        let sum = match self.checksum {
            Checksum::Partial => folded(pseudo),
            Checksum::Complete => {
                let payload = packet.get(segment.payload.clone()).unwrap_or_default();
                // The header's length is even, so the payload's bytes stay in their columns.
                match !folded(add(add(pseudo, transport), payload)) {
                    0 => 0xffff,
                    sum => sum,
                }
            }
        };
        put(transport, offset, &sum.to_be_bytes());
    }
}

fn write_ip(ip: &mut [u8], transport_bytes: usize, number: usize) {
    if ip.first().is_some_and(|first| first >> 4 == 4) {
        let total = ip.len().saturating_add(transport_bytes);
        put(ip, 2, &(total as u16).to_be_bytes());
        let identification = ip.get(4..).and_then(<[u8]>::first_chunk).map_or(0, |id| u16::from_be_bytes(*id));
        put(ip, 4, &identification.wrapping_add(number as u16).to_be_bytes());
        write_ipv4_checksum(ip);
    } else {
        let payload = ip.len().saturating_sub(40).saturating_add(transport_bytes);
        put(ip, 4, &(payload as u16).to_be_bytes());
    }
}

fn write_tcp(tcp: &mut [u8], skipped: usize, segment: &Segment) {
    let sequence = tcp.get(4..).and_then(<[u8]>::first_chunk).map_or(0, |number| u32::from_be_bytes(*number));
    put(tcp, 4, &sequence.wrapping_add(skipped as u32).to_be_bytes());
    let Some(flags) = tcp.get_mut(13) else { return };
    if !segment.is_last {
        *flags &= !(FIN | PUSH);
    }
    if segment.number > 0 {
        *flags &= !CONGESTION_WINDOW_REDUCED;
    }
}

/// Overwrites bytes that are there.
pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..).and_then(|rest| rest.get_mut(..value.len())) {
        place.copy_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1000 bytes of payload behind 40 bytes of headers.
    fn tcp() -> Vec<u8> {
        let mut packet = vec![0; 1040];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&1040_u16.to_be_bytes());
        packet[9] = TCP;
        packet[32] = 0x50;
        packet[33] = PUSH;
        packet
    }

    #[test]
    fn a_stream_s_packet_is_cut_to_what_passes() {
        let header = Vnet { checksum: Some((20, 16)), segments: None };
        let packets = Several::of_one(&tcp(), &header, 640).unwrap().packets(&tcp());
        let read = |packet: &[u8]| (packet.len(), u32::from_be_bytes(packet[24..28].try_into().unwrap()), packet[33]);
        assert_eq!(packets.iter().map(|packet| read(packet)).collect::<Vec<_>>(), [(640, 0, 0), (440, 600, PUSH)]);
    }

    #[test]
    fn several_are_cut_smaller_and_never_larger() {
        let gso = Gso { kind: GsoKind::Tcp4, header_bytes: 40, segment_bytes: 500 };
        let header = Vnet { checksum: Some((20, 16)), segments: Some(gso) };
        let several = Several::new(&tcp(), &header, &gso).unwrap();
        let longest = |room| several.cut_smaller(room).map(|several| (several.longest_bytes(), several.count()));
        assert_eq!((longest(440), longest(900), longest(40)), (Some((440, 3)), Some((540, 2)), None));
    }

    #[test]
    fn what_has_its_checksum_already_is_not_cut() {
        assert!(Several::of_one(&tcp(), &Vnet::default(), 640).is_none());
    }
}
