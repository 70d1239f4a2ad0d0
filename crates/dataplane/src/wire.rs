//! The wire format of `udp`. Every datagram begins with the same 16 bytes, big endian:
//!
//! ```text
//!        0                   1                   2                   3
//!        0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//!       +-------+-------+-+-----+-+---+-+-------------------------------+
//!     0 | type  |version|K| path|C|ECN|P|           timestamp           |
//!       +-------+-------+-+-----+-+---+-+-------------------------------+
//!     4 |                   receiver's session index                    |
//!       +---------------------------------------------------------------+
//!     8 |                  packet counter, low 32 bits                  |
//!       +---------------------------------------------------------------+
//!    12 |                           sequence                            |
//!       +---------------------------------------------------------------+
//!    16 | payload ...
//! ```
//!
//! | field | meaning |
//! |---|---|
//! | type | 0 DATA, 1 REPAIR, 2 REPORT, 3 PROBE, 4 HANDSHAKE, 5 UNKNOWN |
//! | version | 1 |
//! | K | 0: every sealed session has indices of its own, so none needs a key phase |
//! | path | number of the path, for a tunnel over several |
//! | C | DATA: the inner TCP or UDP checksum covers the pseudo header only and is to be completed |
//! | ECN | the outer ECN bits last received, echoed |
//! | P | DATA: the sender keeps this packet, and repairs may cover it: whoever receives it keeps it, too |
//! | timestamp | DATA: the sender's clock in units of 64 µs, modulo 2^16; REPAIR: length of its window; else 0 |
//! | index | the index that the receiver chose for the session; 0 in a HELLO; UNKNOWN: the index that is not known |
//! | counter | low 32 bits of the 64-bit count of DATA, REPAIR, REPORT and PROBE of this direction and epoch; else 0 |
//! | sequence | DATA: number for loss recovery; REPAIR: the last number it covers; else 0 |
//!
//! The payload of DATA is one whole IP packet, whose own length fields give its length, or nothing: a
//! DATA of 16 bytes is a keepalive (it has a counter and no sequence). Sealed, a tag of 16 bytes follows.
//! The payload of PROBE, sealed like DATA's, is in [`probe`](crate::probe), that of HANDSHAKE in
//! [`handshake`](crate::handshake), of sealed tunnels in `sealed::format`; those of REPAIR and REPORT, sealed like DATA's, in `fec`.
//! UNKNOWN has none. Bits without a use are sent as zero and ignored
//! on receipt. Unknown versions and types are counted and dropped.

use crate::DropReason;

/// The version of the format.
pub const VERSION: u8 = 1;
/// Length of the header of every datagram.
pub const HEADER_BYTES: usize = 16;
/// Length of the virtio-net header before every packet on the TUN (`struct virtio_net_hdr_mrg_rxbuf`,
/// include/uapi/linux/virtio_net.h); set by `TUNSETVNETHDRSZ`.
pub const VNET_HEADER_BYTES: usize = 12;

/// The most that one call of `UDP_SEGMENT` sends, bytes: what fits into an IPv6 packet behind its header and UDP's.
pub const LONGEST_SEND_BYTES: usize = 65_535 - 40 - 8;

/// The socket's filter cuts a datagram to this length when its outer UDP checksum is zero.
pub const ZERO_CHECKSUM_BYTES: usize = 1;
/// Flag of DATA: the inner TCP or UDP checksum covers the pseudo header only.
pub const FLAG_PARTIAL_CHECKSUM: u8 = 0b0000_1000;
/// Flag of DATA: repairs may cover it.
pub const FLAG_PROTECTED: u8 = 0b0000_0001;

/// Whether datagrams carry an authentication tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seal {
    /// No encryption, no tag.
    Plain,
    /// A 16-byte AEAD tag behind the payload.
    Sealed,
}

/// Bytes that the tunnel adds to an inner packet: outer IP (20 or 40), UDP (8), header (16), tag (0 or 16).
pub const fn overhead_bytes(outer_is_ipv6: bool, seal: Seal) -> u16 {
    match (outer_is_ipv6, seal) {
        (false, Seal::Plain) => 44,
        (true, Seal::Plain) => 64,
        (false, Seal::Sealed) => 60,
        (true, Seal::Sealed) => 80,
    }
}

/// What a datagram is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Type {
    /// One inner packet, or none (keepalive).
    Data = 0,
    /// A combination of earlier packets, for loss recovery.
    Repair = 1,
    /// The receiver's report on what arrived.
    Report = 2,
    /// A health probe or its answer.
    Probe = 3,
    /// See [`handshake`](crate::handshake).
    Handshake = 4,
    /// The session index in the header is not known to the sender of this datagram.
    Unknown = 5,
}

/// The first 16 bytes of every datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the datagram is for.
    pub kind: Type,
    /// The second byte.
    pub flags: u8,
    /// DATA: the sender's clock in units of 64 µs. REPAIR: how many packets it covers.
    pub timestamp: u16,
    /// The index that the receiver chose for the session.
    pub index: u32,
    /// The low 32 bits of the packet counter.
    pub counter: u32,
    /// DATA: number for loss recovery. REPAIR: the last number it covers.
    pub sequence: u32,
}

impl Header {
    /// A header of this kind for this index, everything else zero.
    pub const fn new(kind: Type, index: u32) -> Self {
        Self { kind, flags: 0, timestamp: 0, index, counter: 0, sequence: 0 }
    }

    /// The header as it is on the wire.
    pub const fn encode(&self) -> [u8; HEADER_BYTES] {
        let [t0, t1] = self.timestamp.to_be_bytes();
        let [i0, i1, i2, i3] = self.index.to_be_bytes();
        let [c0, c1, c2, c3] = self.counter.to_be_bytes();
        let [s0, s1, s2, s3] = self.sequence.to_be_bytes();
        let first = (self.kind as u8) << 4 | VERSION;
        [first, self.flags, t0, t1, i0, i1, i2, i3, c0, c1, c2, c3, s0, s1, s2, s3]
    }

    /// Reads a header from the wire.
    ///
    /// # Errors
    /// [`DropReason::UnknownVersion`] and [`DropReason::UnknownType`].
    pub const fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, DropReason> {
        let [first, flags, t0, t1, i0, i1, i2, i3, c0, c1, c2, c3, s0, s1, s2, s3] = *bytes;
        if first & 0x0f != VERSION {
            return Err(DropReason::UnknownVersion);
        }
        let kind = match first >> 4 {
            0 => Type::Data,
            1 => Type::Repair,
            2 => Type::Report,
            3 => Type::Probe,
            4 => Type::Handshake,
            5 => Type::Unknown,
            _ => return Err(DropReason::UnknownType),
        };
        Ok(Self {
            kind,
            flags,
            timestamp: u16::from_be_bytes([t0, t1]),
            index: u32::from_be_bytes([i0, i1, i2, i3]),
            counter: u32::from_be_bytes([c0, c1, c2, c3]),
            sequence: u32::from_be_bytes([s0, s1, s2, s3]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DATA: Header = Header {
        kind: Type::Data,
        flags: FLAG_PARTIAL_CHECKSUM,
        timestamp: 0x1234,
        index: 0xdead_beef,
        counter: 7,
        sequence: 5,
    };

    #[test]
    fn data_header_is_as_documented() {
        let wire = [0x01, 0x08, 0x12, 0x34, 0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 7, 0, 0, 0, 5];
        assert_eq!(DATA.encode(), wire);
        assert_eq!(Header::decode(&wire), Ok(DATA));
    }

    #[test]
    fn each_type_has_its_number() {
        let first = |kind| Header::new(kind, 0x0102_0304).encode()[..8].to_vec();
        assert_eq!(first(Type::Data), [0x01, 0, 0, 0, 1, 2, 3, 4]);
        assert_eq!(first(Type::Repair), [0x11, 0, 0, 0, 1, 2, 3, 4]);
        assert_eq!(first(Type::Report), [0x21, 0, 0, 0, 1, 2, 3, 4]);
        assert_eq!(first(Type::Probe), [0x31, 0, 0, 0, 1, 2, 3, 4]);
        assert_eq!(first(Type::Handshake), [0x41, 0, 0, 0, 1, 2, 3, 4]);
        assert_eq!(first(Type::Unknown), [0x51, 0, 0, 0, 1, 2, 3, 4]);
    }

    #[test]
    fn unknown_versions_and_types_are_told_apart() {
        let mut wire = DATA.encode();
        wire[0] = 0x02;
        assert_eq!(Header::decode(&wire), Err(DropReason::UnknownVersion));
        wire[0] = 0xf1;
        assert_eq!(Header::decode(&wire), Err(DropReason::UnknownType));
    }

    #[test]
    fn overhead_is_ip_udp_header_and_tag() {
        for (ipv6, seal, bytes) in [
            (false, Seal::Plain, 20 + 8 + 16),
            (true, Seal::Plain, 40 + 8 + 16),
            (false, Seal::Sealed, 20 + 8 + 16 + 16),
            (true, Seal::Sealed, 40 + 8 + 16 + 16),
        ] {
            assert_eq!(overhead_bytes(ipv6, seal), bytes);
        }
    }

    proptest! {
        #[test]
        fn any_16_bytes_decode_or_are_refused(wire: [u8; HEADER_BYTES]) {
            if let Ok(header) = Header::decode(&wire) {
                prop_assert_eq!(header.encode(), wire);
            }
        }
    }
}
