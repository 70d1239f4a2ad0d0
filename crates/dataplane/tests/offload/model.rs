//! What the packet path is compared with: packets made field by field, and one that stands for several cut as plainly as
//! possible, one packet at a time and with every byte of it written, as the kernel's software segmentation does. Nothing of the
//! crate is used here.

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const URG: u8 = 0x20;
pub const ECE: u8 = 0x40;
pub const CWR: u8 = 0x80;

/// Ones' complement sum of 16-bit words (RFC 1071), the last one padded.
pub fn sum(bytes: &[u8]) -> u32 {
    fold(bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum())
}

pub fn fold(mut sum: u32) -> u32 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum
}

/// The field that makes a sum right. Zero would say "none" in UDP and is the same number.
pub fn checksum(sum: u32) -> [u8; 2] {
    match !(fold(sum) as u16) {
        0 => [0xff, 0xff],
        sum => sum.to_be_bytes(),
    }
}

pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(bytes[at..at + 2].try_into().unwrap())
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

pub fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// Everything before the payload of a TCP or UDP packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Headers {
    pub protocol: u8,
    pub is_v6: bool,
    /// Last byte of source and destination.
    pub hosts: (u8, u8),
    pub tos: u8,
    pub ttl: u8,
    pub label: u32,
    pub identification: u16,
    /// Reserved, DF, MF and offset.
    pub fragment: u16,
    /// Whole words.
    pub ip_options: Vec<u8>,
    /// IPv6: the kind of the first extension header, and all of them.
    pub extensions: Option<(u8, Vec<u8>)>,
    /// IPv6: the last byte of the destination at the end of a routing header.
    pub final_host: Option<u8>,
    pub ports: (u16, u16),
    pub sequence: u32,
    pub acknowledged: u32,
    pub flags: u8,
    pub window: u16,
    pub urgent: u16,
    /// Whole words.
    pub tcp_options: Vec<u8>,
}

impl Headers {
    pub fn plain(protocol: u8, is_v6: bool) -> Self {
        Self {
            protocol,
            is_v6,
            hosts: (1, 2),
            tos: 0,
            ttl: 64,
            label: 0,
            identification: 7,
            fragment: 0,
            ip_options: vec![],
            extensions: None,
            final_host: None,
            ports: (4000, 5000),
            sequence: 1000,
            acknowledged: 77,
            flags: ACK,
            window: 500,
            urgent: 0,
            tcp_options: vec![],
        }
    }

    pub fn ip_bytes(&self) -> usize {
        match self.is_v6 {
            true => 40 + self.extensions.as_ref().map_or(0, |(_, bytes)| bytes.len()),
            false => 20 + self.ip_options.len(),
        }
    }

    pub fn bytes(&self) -> usize {
        self.ip_bytes() + if self.protocol == TCP { 20 + self.tcp_options.len() } else { 8 }
    }

    /// Where the checksum starts to cover the packet, and its field from there.
    pub fn checksum_place(&self) -> (usize, usize) {
        (self.ip_bytes(), if self.protocol == TCP { 16 } else { 6 })
    }

    /// The packet, its checksum field holding the sum of the pseudo header: as the kernel makes it for a device that completes it.
    pub fn partial(&self, payload: &[u8]) -> Vec<u8> {
        let transport = self.bytes() - self.ip_bytes() + payload.len();
        let address = |host: u8| match self.is_v6 {
            true => [&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &[host]].concat(),
            false => vec![10, 0, 0, host],
        };
        let (source, destination) = (address(self.hosts.0), address(self.hosts.1));
        let mut packet = Vec::new();
        if self.is_v6 {
            let (next, extensions) = self.extensions.clone().unwrap_or((self.protocol, vec![]));
            packet.extend((6_u32 << 28 | u32::from(self.tos) << 20 | self.label).to_be_bytes());
            packet.extend(((extensions.len() + transport) as u16).to_be_bytes());
            packet.extend([next, self.ttl]);
            packet.extend([&source[..], &destination].concat());
            packet.extend(extensions);
        } else {
            packet.extend([0x40 | ((20 + self.ip_options.len()) / 4) as u8, self.tos]);
            packet.extend(((20 + self.ip_options.len() + transport) as u16).to_be_bytes());
            packet.extend(self.identification.to_be_bytes());
            packet.extend(self.fragment.to_be_bytes());
            packet.extend([self.ttl, self.protocol, 0, 0]);
            packet.extend([&source[..], &destination, &self.ip_options].concat());
            write_ip_checksum(&mut packet, 20 + self.ip_options.len());
        }
        let start = packet.len();
        packet.extend([self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes()].concat());
        if self.protocol == TCP {
            packet.extend(self.sequence.to_be_bytes());
            packet.extend(self.acknowledged.to_be_bytes());
            packet.extend([(((20 + self.tcp_options.len()) / 4) as u8) << 4, self.flags]);
            packet.extend(self.window.to_be_bytes());
            packet.extend([0, 0]);
            packet.extend(self.urgent.to_be_bytes());
            packet.extend(&self.tcp_options);
        } else {
            packet.extend((transport as u16).to_be_bytes());
            packet.extend([0, 0]);
        }
        packet.extend(payload);
        let last = self.final_host.map_or(destination, address);
        let pseudo = sum(&source) + sum(&last) + u32::from(self.protocol) + transport as u32;
        put_u16(&mut packet, start + self.checksum_place().1, fold(pseudo) as u16);
        packet
    }

    /// The packet as it is on the wire.
    pub fn complete(&self, payload: &[u8]) -> Vec<u8> {
        let mut packet = self.partial(payload);
        complete(&mut packet, self.checksum_place());
        packet
    }
}

pub fn write_ip_checksum(packet: &mut [u8], header_bytes: usize) {
    put_u16(packet, 10, 0);
    let field = checksum(sum(&packet[..header_bytes]));
    // The kernel writes a zero here as it is.
    packet[10..12].copy_from_slice(&if field == [0xff, 0xff] { [0, 0] } else { field });
}

/// Completes a checksum as a device would (skb_checksum_help).
pub fn complete(packet: &mut [u8], (start, offset): (usize, usize)) {
    let field = checksum(sum(&packet[start..]));
    packet[start + offset..start + offset + 2].copy_from_slice(&field);
}

/// Cuts a packet as the kernel does: the fields that differ are counted from the packet's own.
pub fn cut(packet: &[u8], protocol: u8, place: (usize, usize), segment_bytes: usize) -> Vec<Vec<u8>> {
    let (start, offset) = place;
    let headers = start + if protocol == TCP { usize::from(packet[start + 12] >> 4) * 4 } else { 8 };
    let payload = &packet[headers..];
    let count = payload.len().div_ceil(segment_bytes);
    // What is left of the sum once the length is taken out of it.
    let base = u32::from(u16_at(packet, start + offset)) + 0xffff - (packet.len() - start) as u32;
    let segments = payload.chunks(segment_bytes).enumerate().map(|(number, payload)| {
        let mut segment = [&packet[..headers], payload].concat();
        let transport = segment.len() - start;
        if packet[0] >> 4 == 4 {
            let length = segment.len() as u16;
            put_u16(&mut segment, 2, length);
            put_u16(&mut segment, 4, u16_at(packet, 4).wrapping_add(number as u16));
            write_ip_checksum(&mut segment, start);
        } else {
            let length = (segment.len() - 40) as u16;
            put_u16(&mut segment, 4, length);
        }
        if protocol == TCP {
            let skipped = (number * segment_bytes) as u32;
            put_u32(&mut segment, start + 4, u32_at(packet, start + 4).wrapping_add(skipped));
            if number != 0 {
                segment[start + 13] &= !CWR;
            }
            if number + 1 != count {
                segment[start + 13] &= !(FIN | PSH);
            }
        } else {
            put_u16(&mut segment, start + 4, transport as u16);
        }
        put_u16(&mut segment, start + offset, fold(base + transport as u32) as u16);
        complete(&mut segment, place);
        segment
    });
    segments.collect()
}

/// Bytes of which no two places look alike.
pub fn payload(length: usize, seed: u32) -> Vec<u8> {
    let words = (0..length.div_ceil(4) as u32).map(|word| (word ^ seed << 15).wrapping_mul(2_654_435_761) ^ seed);
    words.flat_map(u32::to_be_bytes).take(length).collect()
}

/// The packet as whoever looks at it sees it, once its checksum is completed. A partial one must be of TCP or UDP that begins right behind
/// the IP header, which is all that the kernel is told.
pub fn seen(packet: &[u8], is_partial: bool) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if is_partial {
        let (start, protocol) = match packet[0] >> 4 {
            4 => (usize::from(packet[0] & 15) * 4, packet[9]),
            _ => (40, packet[6]),
        };
        complete(&mut packet, (start, if protocol == TCP { 16 } else { 6 }));
    }
    packet
}

/// A packet as the kernel takes it apart: its bytes, and which one it is of those that were written together.
pub type Seen = (Vec<u8>, usize);

/// Reads what was written to the TUN as the kernel does (struct virtio_net_hdr), and cuts it. Whatever it could object to fails.
pub fn take_apart(written: &[u8]) -> Vec<Seen> {
    let (header, packet) = written.split_at(12);
    let field = |at: usize| usize::from(u16::from_ne_bytes([header[at], header[at + 1]]));
    let (flags, kind) = (header[0], header[1]);
    let (header_bytes, segment_bytes, place) = (field(2), field(4), (field(6), field(8)));
    assert!(packet.len() <= 65_535);
    assert!(flags <= 1 && field(10) == 0);
    let mut packet = packet.to_vec();
    if kind == 0 {
        assert_eq!((header_bytes, segment_bytes), (0, 0));
        if flags == 1 {
            assert!(place.0 + place.1 + 2 <= packet.len());
            complete(&mut packet, place);
        } else {
            assert_eq!(place, (0, 0));
        }
        return vec![(packet, 0)];
    }
    let (is_v6, protocol, start) = match packet[0] >> 4 {
        4 => (false, packet[9], usize::from(packet[0] & 15) * 4),
        _ => (true, packet[6], 40),
    };
    let (expected_kind, offset, transport_bytes) = match (protocol, is_v6) {
        (UDP, _) => (5, 6, 8),
        (_, false) => (1, 16, usize::from(packet[start + 12] >> 4) * 4),
        (_, true) => (4, 16, usize::from(packet[start + 12] >> 4) * 4),
    };
    assert_eq!((flags, kind, place), (1, expected_kind, (start, offset)));
    assert_eq!(header_bytes, start + transport_bytes);
    let length = if is_v6 { usize::from(u16_at(&packet, 4)) + 40 } else { usize::from(u16_at(&packet, 2)) };
    assert_eq!(length, packet.len());
    if protocol == UDP {
        assert_eq!(usize::from(u16_at(&packet, start + 4)), packet.len() - start);
    }
    assert!(segment_bytes > 0 && packet.len() > header_bytes + segment_bytes);
    let packets = cut(&packet, protocol, place, segment_bytes);
    assert!((2..=64).contains(&packets.len()));
    packets.into_iter().enumerate().map(|(number, packet)| (packet, number)).collect()
}

/// The identification of a packet that may not be fragmented says nothing (RFC 6864, section 4.1), and counts up when it is cut from
/// several. Nothing else may differ.
pub fn same((seen, number): &Seen, original: &[u8]) -> bool {
    let mut expected = original.to_vec();
    if *number > 0 && expected[0] >> 4 == 4 && expected[6] & 0x40 != 0 {
        put_u16(&mut expected, 4, u16_at(seen, 4));
        let header_bytes = usize::from(expected[0] & 15) * 4;
        write_ip_checksum(&mut expected, header_bytes);
    }
    *seen == expected
}
