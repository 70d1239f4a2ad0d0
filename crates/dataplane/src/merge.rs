//! Joining what belongs together: consecutive packets of one flow enter the TUN as one packet that stands for all of them, which the
//! kernel cuts again, byte for byte, should anybody look. The rules are those of the kernel's own GRO (net/ipv4/tcp_offload.c,
//! udp_offload.c): everything but lengths, checksums, sequence and identification is equal. Only packets whose checksum covers the
//! pseudo header alone are joined: another one would have to be verified first, or damage would be hidden.

use crate::{
    inner::{TCP, Transport, folded, write_ipv4_checksum},
    segment::{Checksum, LONGEST_HEADERS_BYTES, put},
    vnet::{Gso, GsoKind, Vnet},
    wire::HEADER_BYTES,
};
use std::{array, io::IoSlice, mem};

/// As many as UDP_SEGMENT takes everywhere.
pub(crate) const MOST_PACKETS: usize = 64;
const LONGEST_PACKET_BYTES: usize = 65_535;

const FIN: u8 = 0x01;
const PUSH: u8 = 0x08;
const ACK: u8 = 0x10;
const ECHO: u8 = 0x40;
const DONT_FRAGMENT: u8 = 0x40;

/// What may be joined for a TUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mergeable {
    pub(crate) tcp: bool,
    pub(crate) udp: bool,
}

/// Packets on their way into the TUN: none, one, or several that were joined. Each has [`HEADER_BYTES`] of room before it.
pub(crate) struct Merger<'p> {
    mergeable: Mergeable,
    packets: [&'p mut [u8]; MOST_PACKETS],
    count: usize,
    checksum: Checksum,
    /// What others may join; `None` when nothing may.
    flow: Option<Flow>,
}

#[derive(Debug, Clone, Copy)]
struct Flow {
    transport: Transport,
    sum_without_length: u16,
    segment_bytes: usize,
    total_bytes: usize,
    next_sequence: u32,
    /// FIN and PSH of the last packet.
    last_flags: u8,
    is_open: bool,
}

impl<'p> Merger<'p> {
    pub(crate) fn new(mergeable: Mergeable) -> Self {
        Self { mergeable, packets: array::from_fn(|_| &mut [][..]), count: 0, checksum: Checksum::Complete, flow: None }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Appends a packet to those that are there, or to none.
    ///
    /// # Errors
    /// The packet itself, when it does not belong to them.
    pub(crate) fn push(&mut self, packet: &'p mut [u8], checksum: Checksum) -> Result<(), &'p mut [u8]> {
        if self.count == 0 {
            self.checksum = checksum;
            self.flow = self.begin(inner(packet), checksum);
        } else if !self.joins(inner(packet), checksum) {
            return Err(packet);
        }
        match self.packets.get_mut(self.count) {
            Some(place) => *place = packet,
            None => return Err(packet),
        }
        self.count = self.count.saturating_add(1);
        Ok(())
    }

    /// What a packet begins that may be joined by others.
    fn begin(&self, packet: &[u8], checksum: Checksum) -> Option<Flow> {
        let transport = Transport::of(packet)
            .filter(|transport| checksum == Checksum::Partial && transport.headers_are_right(packet))?;
        let segment_bytes = packet.len().checked_sub(transport.payload).filter(|bytes| *bytes > 0)?;
        let mut flow = Flow {
            transport,
            sum_without_length: transport.sum_without_length(packet)?,
            segment_bytes,
            total_bytes: packet.len(),
            next_sequence: 0,
            last_flags: 0,
            is_open: true,
        };
        if transport.protocol == TCP {
            let flags = *packet.get(transport.start.checked_add(13)?)?;
            flow.next_sequence = sequence(packet, &transport)?.wrapping_add(segment_bytes as u32);
            let plain = flags & ACK != 0 && flags & !(ACK | ECHO) == 0;
            (plain && self.mergeable.tcp).then_some(flow)
        } else {
            self.mergeable.udp.then_some(flow)
        }
    }

    /// Whether the packet comes next after those that are there; it is then counted in.
    fn joins(&mut self, packet: &[u8], checksum: Checksum) -> bool {
        let first = self.packets.first().map_or(&[][..], |first| inner(first));
        let Some(flow) = &mut self.flow else { return false };
        let transport = flow.transport;
        if !flow.is_open || checksum != Checksum::Partial || self.count >= MOST_PACKETS {
            return false;
        }
        if Transport::of(packet) != Some(transport) {
            return false;
        }
        let payload_bytes = packet.len().saturating_sub(transport.payload);
        let total_bytes = flow.total_bytes.saturating_add(payload_bytes);
        if payload_bytes == 0 || payload_bytes > flow.segment_bytes || total_bytes > LONGEST_PACKET_BYTES {
            return false;
        }
        if same_ip(first, packet, transport.start, self.count) != Some(true) || !transport.headers_are_right(packet) {
            return false;
        }
        if transport.sum_without_length(packet) != Some(flow.sum_without_length) {
            return false;
        }
        let ends = if transport.protocol == TCP {
            match same_tcp(first, packet, &transport, flow.next_sequence) {
                Some(flags) => {
                    flow.last_flags = flags;
                    flags != 0
                }
                None => return false,
            }
        } else {
            let ports = transport.start..transport.start.saturating_add(4);
            if first.get(ports.clone()) != packet.get(ports) {
                return false;
            }
            false
        };
        flow.total_bytes = total_bytes;
        flow.next_sequence = flow.next_sequence.wrapping_add(payload_bytes as u32);
        flow.is_open = !ends && payload_bytes == flow.segment_bytes;
        true
    }

    /// Hands what is there to `write`, as one packet if it was joined, and is empty then. When `write` refuses a joined one, its packets
    /// are handed over one by one.
    ///
    /// # Errors
    /// What `write` said to a packet that is one; of several, the last.
    pub(crate) fn flush<E>(&mut self, mut write: impl FnMut(&[IoSlice<'_>]) -> Result<(), E>) -> Flushed<E> {
        let count = mem::take(&mut self.count);
        let flow = self.flow.take();
        let packets = self.packets.get_mut(..count).unwrap_or_default();
        let mut flushed = Flushed { refused_joined: None, refused: None, lost: 0 };
        if let (Some(flow), [first, rest @ ..]) = (flow, &mut *packets)
            && !rest.is_empty()
        {
            let mut original = [0; LONGEST_HEADERS_BYTES];
            put(&mut original, 0, inner(first).get(..flow.transport.payload).unwrap_or_default());
            flow.write_head(first);
            let payload = HEADER_BYTES.saturating_add(flow.transport.payload);
            let mut rest = rest.iter();
            let slices: [_; MOST_PACKETS] = array::from_fn(|number| match number {
                0 => IoSlice::new(Vnet::with(first)),
                _ => IoSlice::new(rest.next().and_then(|packet| packet.get(payload..)).unwrap_or_default()),
            });
            match write(slices.get(..count).unwrap_or_default()) {
                Ok(()) => return flushed,
                Err(error) => flushed.refused_joined = Some(error),
            }
            let headers = original.get(..flow.transport.payload).unwrap_or_default();
            put(first, HEADER_BYTES, headers);
        }
        for packet in packets {
            let place = match self.checksum {
                Checksum::Partial => Transport::of(inner(packet)).map(|transport| transport.checksum_place()),
                Checksum::Complete => None,
            };
            Vnet { checksum: place, segments: None }.write_before(packet);
            if let Err(error) = write(&[IoSlice::new(Vnet::with(packet))]) {
                flushed.refused = Some(error);
                flushed.lost = flushed.lost.saturating_add(1);
            }
        }
        flushed
    }
}

/// What became of the packets.
#[derive(Debug)]
pub(crate) struct Flushed<E> {
    /// The joined packet was refused.
    pub(crate) refused_joined: Option<E>,
    /// A packet that is one was refused.
    pub(crate) refused: Option<E>,
    /// How many packets are lost.
    pub(crate) lost: u64,
}

impl Flow {
    /// Makes the first packet's headers, and the virtio-net header before them, those of the whole.
    fn write_head(&self, first: &mut [u8]) {
        let Transport { protocol, start, payload } = self.transport;
        let packet = first.get_mut(HEADER_BYTES..).unwrap_or_default();
        let transport_bytes = self.total_bytes.saturating_sub(start);
        let is_ipv4 = packet.first().is_some_and(|first| first >> 4 == 4);
        if is_ipv4 {
            put(packet, 2, &(self.total_bytes as u16).to_be_bytes());
            write_ipv4_checksum(packet.get_mut(..start).unwrap_or_default());
        } else {
            put(packet, 4, &(transport_bytes as u16).to_be_bytes());
        }
        if protocol == TCP {
            if let Some(flags) = packet.get_mut(start.saturating_add(13)) {
                *flags |= self.last_flags;
            }
        } else {
            put(packet, start.saturating_add(4), &(transport_bytes as u16).to_be_bytes());
        }
        let sum = folded(u64::from(self.sum_without_length).wrapping_add(transport_bytes as u64));
        put(packet, start.saturating_add(self.transport.checksum_offset()), &sum.to_be_bytes());
        let kind = match (protocol, is_ipv4) {
            (TCP, true) => GsoKind::Tcp4,
            (TCP, false) => GsoKind::Tcp6,
            _ => GsoKind::Udp,
        };
        let gso = Gso { kind, header_bytes: payload as u16, segment_bytes: self.segment_bytes as u16 };
        Vnet { checksum: Some(self.transport.checksum_place()), segments: Some(gso) }.write_before(first);
    }
}

/// The packet without the room before it.
fn inner(packet: &[u8]) -> &[u8] {
    packet.get(HEADER_BYTES..).unwrap_or_default()
}

fn sequence(packet: &[u8], transport: &Transport) -> Option<u32> {
    Some(u32::from_be_bytes(*packet.get(transport.start.checked_add(4)?..)?.first_chunk()?))
}

/// Whether the IP header is the first packet's but for length and checksum. Identifications must count up, unless fragmenting is
/// forbidden: then they mean nothing (RFC 6864, section 4.1).
fn same_ip(first: &[u8], packet: &[u8], header_bytes: usize, number: usize) -> Option<bool> {
    let same = |from: usize, to: usize| first.get(from..to) == packet.get(from..to);
    if first.first()? >> 4 != 4 {
        return Some(same(0, 4) && same(6, header_bytes));
    }
    let identification = |packet: &[u8]| Some(u16::from_be_bytes(*packet.get(4..)?.first_chunk()?));
    let counts_up = identification(packet)? == identification(first)?.wrapping_add(number as u16);
    let unfragmentable = first.get(6)? & DONT_FRAGMENT != 0;
    Some(same(0, 2) && same(6, 10) && same(12, header_bytes) && (counts_up || unfragmentable))
}

/// FIN and PSH of a TCP packet that comes next in the first one's flow.
fn same_tcp(first: &[u8], packet: &[u8], transport: &Transport, next_sequence: u32) -> Option<u8> {
    let (ours, theirs) =
        (first.get(transport.start..transport.payload)?, packet.get(transport.start..transport.payload)?);
    let same = |from: usize, to: usize| ours.get(from..to) == theirs.get(from..to);
    let flags = *theirs.get(13)?;
    let rest = flags & !(FIN | PUSH) == *ours.get(13)?;
    // Ports; acknowledgement and header length; window; urgent pointer and options.
    let equal = same(0, 4) && same(8, 13) && same(14, 16) && same(18, ours.len()) && rest;
    (equal && sequence(packet, transport)? == next_sequence).then_some(flags & (FIN | PUSH))
}

#[cfg(test)]
mod tests;
