//! The header before every packet on the TUN: `struct virtio_net_hdr_mrg_rxbuf` (include/uapi/linux/virtio_net.h), in the
//! machine's byte order as `TUNSETVNETLE` was never asked for. Its last field, the number of buffers, has no use on a TUN.

use crate::{
    segment::put,
    wire::{HEADER_BYTES, VNET_HEADER_BYTES},
};

/// Where the header is within the room before a packet.
const AT: usize = HEADER_BYTES - VNET_HEADER_BYTES;

/// The checksum field covers the pseudo header only: `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CHECKSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
const GSO_UDP: u8 = 5;
/// Among the segments is one with CWR. Each segment gets its flags from the packet itself.
const GSO_ECN: u8 = 0x80;

/// What the kernel says of a packet from the TUN, or is told of one for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vnet {
    /// Where the checksum that is left to be completed begins to cover the packet, and where its field is from there.
    pub checksum: Option<(u16, u16)>,
    /// The packet stands for several.
    pub segments: Option<Gso>,
}

/// One packet that stands for several of one flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gso {
    /// What it is cut by.
    pub kind: GsoKind,
    /// Length of the headers that every packet repeats, in bytes. The kernel's hint only.
    pub header_bytes: u16,
    /// Payload of every packet but the last, in bytes.
    pub segment_bytes: u16,
}

/// What a packet that stands for several is cut by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP (`VIRTIO_NET_HDR_GSO_UDP_L4`).
    Udp,
}

impl Vnet {
    /// Reads a header; `None` for a kind of packet that was never asked for.
    #[must_use]
    pub fn decode(bytes: &[u8; VNET_HEADER_BYTES]) -> Option<Self> {
        let &[flags, kind, h0, h1, s0, s1, c0, c1, o0, o1, _, _] = bytes;
        let segment_bytes = u16::from_ne_bytes([s0, s1]);
        let gso = |kind| Some(Gso { kind, header_bytes: u16::from_ne_bytes([h0, h1]), segment_bytes });
        let segments = match kind & !GSO_ECN {
            GSO_NONE => None,
            GSO_TCP4 => gso(GsoKind::Tcp4),
            GSO_TCP6 => gso(GsoKind::Tcp6),
            GSO_UDP => gso(GsoKind::Udp),
            _ => return None,
        };
        let checksum = match flags & NEEDS_CHECKSUM {
            0 => None,
            _ => Some((u16::from_ne_bytes([c0, c1]), u16::from_ne_bytes([o0, o1]))),
        };
        Some(Self { checksum, segments })
    }

    /// The header as it is written.
    #[must_use]
    pub const fn encode(&self) -> [u8; VNET_HEADER_BYTES] {
        let (flags, (start, offset)) = match self.checksum {
            Some(place) => (NEEDS_CHECKSUM, place),
            None => (0, (0, 0)),
        };
        let (kind, header, segment) = match self.segments {
            None => (GSO_NONE, 0, 0),
            Some(Gso { kind: GsoKind::Tcp4, header_bytes, segment_bytes }) => (GSO_TCP4, header_bytes, segment_bytes),
            Some(Gso { kind: GsoKind::Tcp6, header_bytes, segment_bytes }) => (GSO_TCP6, header_bytes, segment_bytes),
            Some(Gso { kind: GsoKind::Udp, header_bytes, segment_bytes }) => (GSO_UDP, header_bytes, segment_bytes),
        };
        let [h0, h1] = header.to_ne_bytes();
        let [s0, s1] = segment.to_ne_bytes();
        let [c0, c1] = start.to_ne_bytes();
        let [o0, o1] = offset.to_ne_bytes();
        [flags, kind, h0, h1, s0, s1, c0, c1, o0, o1, 0, 0]
    }

    /// Writes the header at the end of the [`HEADER_BYTES`] of room before a packet.
    pub(crate) fn write_before(&self, packet: &mut [u8]) {
        put(packet, AT, &self.encode());
    }

    /// The packet with the header that [`write_before`](Self::write_before) wrote.
    pub(crate) fn with(packet: &[u8]) -> &[u8] {
        packet.get(AT..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn header_is_as_the_kernel_has_it() {
        let gso = Gso { kind: GsoKind::Tcp6, header_bytes: 72, segment_bytes: 1404 };
        let header = Vnet { checksum: Some((40, 16)), segments: Some(gso) };
        let [h0, h1] = 72_u16.to_ne_bytes();
        let [s0, s1] = 1404_u16.to_ne_bytes();
        let [c0, c1] = 40_u16.to_ne_bytes();
        let [o0, o1] = 16_u16.to_ne_bytes();
        assert_eq!(header.encode(), [1, 4, h0, h1, s0, s1, c0, c1, o0, o1, 0, 0]);
        assert_eq!(Vnet::default().encode(), [0; VNET_HEADER_BYTES]);
    }

    #[test]
    fn ecn_bit_changes_nothing_and_other_kinds_are_refused() {
        assert_eq!(
            Vnet::decode(&[0, 0x80 | GSO_TCP4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap().segments.unwrap().kind,
            GsoKind::Tcp4
        );
        // UFO, and what no kernel knows.
        assert_eq!(Vnet::decode(&[0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(Vnet::decode(&[0, 0x7f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(start: u16, offset: u16, segment_bytes: u16, header_bytes: u16, number in 0..4_usize, partial: bool) {
            let kinds = [None, Some(GsoKind::Tcp4), Some(GsoKind::Tcp6), Some(GsoKind::Udp)];
            let segments = kinds[number].map(|kind| Gso { kind, header_bytes, segment_bytes });
            let header = Vnet { checksum: partial.then_some((start, offset)), segments };
            prop_assert_eq!(Vnet::decode(&header.encode()), Some(header));
        }
    }
}
