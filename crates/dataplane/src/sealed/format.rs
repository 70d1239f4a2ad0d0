//! How sealed datagrams look: in Adit's format, and in WireGuard's.
//!
//! **Adit.** Every datagram begins with the header of [`wire`](crate::wire). DATA: the header is authenticated with the packet, the
//! tag of 16 bytes comes behind it. The bodies of HANDSHAKE, big endian, of fixed lengths:
//!
//! ```text
//! INITIATION, 4 (160 bytes, header's index 0)      ANSWER, 5 (112 bytes)             COOKIE, 6 (60 bytes)
//!   0  kind, min version, max version, 0             0  kind, version, version, 0      0  kind, 0, 0, 0
//!   4  sender's session index                        4  sender's session index         4  nonce (24)
//!   8  Noise: e (32), s (48), offer (24 + 16)        8  Noise: e (32), offer (24+16)  28  sealed cookie (32)
//! 128  mac1 (16), mac2 (16)                         80  mac1 (16), mac2 (16)
//! ```
//!
//! The offer, which the handshake seals: epoch (8), nonce (8), capabilities (4), inner MTU (2), minimum and maximum version (1 each).
//! In an ANSWER the nonce is 0, and the capabilities are those that both have. (epoch, nonce) grows with each INITIATION of an end.
//!
//! **WireGuard.** The messages of its paper, section 5.4, to the byte. Data is padded to a multiple of 16 bytes.
//!
//! Both: mac1, mac2 and cookies are WireGuard's, over everything before them.

use super::mac::{COOKIE_NONCE_BYTES, MAC_BYTES, Mac, SEALED_COOKIE_BYTES};
use crate::{
    DropReason,
    wire::{HEADER_BYTES, Header, Type, VERSION},
};

const MACS_BYTES: usize = 2 * MAC_BYTES;
const INITIATION: u8 = 4;
const ANSWER: u8 = 5;
const COOKIE: u8 = 6;
const INITIATION_BYTES: usize = HEADER_BYTES + 160;
const ANSWER_BYTES: usize = HEADER_BYTES + 112;
const COOKIE_BYTES: usize = HEADER_BYTES + 60;

const WG_INITIATION_BYTES: usize = 148;
const WG_ANSWER_BYTES: usize = 92;
const WG_COOKIE_BYTES: usize = 64;
const WG_DATA: u32 = 4;
/// WireGuard's data is padded to multiples of this.
pub(crate) const WG_PADDING_BYTES: usize = 16;

/// Whose datagrams they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Adit,
    WireGuard,
}

/// A datagram as it was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming<'a> {
    Initiation(Handshake<'a>),
    Answer(Handshake<'a>),
    Cookie {
        receiver: u32,
        nonce: &'a [u8; COOKIE_NONCE_BYTES],
        sealed: &'a [u8; SEALED_COOKIE_BYTES],
    },
    Packet(Packet),
    /// The sender does not know this index.
    Unknown(u32),
}

/// A packet within a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) counter: Counter,
    /// What it is; of WireGuard's format, data, and nothing more is said.
    pub(crate) header: Header,
}

/// A handshake message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Handshake<'a> {
    /// The index that it is for; 0 in an initiation.
    pub(crate) receiver: u32,
    /// The index under which its sender wants to receive.
    pub(crate) sender: u32,
    pub(crate) noise: &'a [u8],
    /// The message up to the first code, and that; up to the second, and that.
    pub(crate) macs: [(&'a [u8], Mac); 2],
}

/// The number of a packet, as far as the datagram says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counter {
    Low(u32),
    Whole(u64),
}

impl Format {
    /// What both ends mix into the handshake first.
    pub(crate) const fn prologue(self) -> &'static [u8] {
        match self {
            Self::Adit => b"adit udp 1",
            Self::WireGuard => b"WireGuard v1 zx2c4 Jason@zx2c4.com",
        }
    }

    /// Reads a datagram.
    ///
    /// # Errors
    /// [`DropReason::Runt`], [`DropReason::UnknownType`], [`DropReason::UnknownVersion`].
    pub(crate) fn read(self, datagram: &[u8]) -> Result<Incoming<'_>, DropReason> {
        match self {
            Self::Adit => read_adit(datagram),
            Self::WireGuard => read_wireguard(datagram),
        }
    }

    /// A handshake message without its codes.
    pub(crate) fn initiation(self, sender: u32, noise: &[u8]) -> Vec<u8> {
        match self {
            Self::Adit => adit_handshake(0, [INITIATION, VERSION, VERSION, 0], sender, noise),
            Self::WireGuard => [&1_u32.to_le_bytes(), &sender.to_le_bytes(), noise].concat(),
        }
    }

    /// The answer to one, without its codes.
    pub(crate) fn answer(self, receiver: u32, sender: u32, noise: &[u8]) -> Vec<u8> {
        match self {
            Self::Adit => adit_handshake(receiver, [ANSWER, VERSION, VERSION, 0], sender, noise),
            Self::WireGuard => [&2_u32.to_le_bytes(), &sender.to_le_bytes(), &receiver.to_le_bytes(), noise].concat(),
        }
    }

    pub(crate) fn cookie(self, receiver: u32, nonce: &[u8; 24], sealed: &[u8; 32]) -> Vec<u8> {
        match self {
            Self::Adit => {
                let header = Header::new(Type::Handshake, receiver).encode();
                [header.as_slice(), &[COOKIE, 0, 0, 0], nonce, sealed].concat()
            }
            Self::WireGuard => [&3_u32.to_le_bytes()[..], &receiver.to_le_bytes(), nonce, sealed].concat(),
        }
    }

    /// The first bytes of WireGuard's data.
    pub(crate) const fn wireguard_header(receiver: u32, counter: u64) -> [u8; HEADER_BYTES] {
        let [k0, k1, k2, k3] = WG_DATA.to_le_bytes();
        let [r0, r1, r2, r3] = receiver.to_le_bytes();
        let [c0, c1, c2, c3, c4, c5, c6, c7] = counter.to_le_bytes();
        [k0, k1, k2, k3, r0, r1, r2, r3, c0, c1, c2, c3, c4, c5, c6, c7]
    }
}

fn adit_handshake(receiver: u32, kind: [u8; 4], sender: u32, noise: &[u8]) -> Vec<u8> {
    let header = Header::new(Type::Handshake, receiver).encode();
    [header.as_slice(), &kind, &sender.to_be_bytes(), noise].concat()
}

fn read_adit(datagram: &[u8]) -> Result<Incoming<'_>, DropReason> {
    let (header, body) = datagram.split_first_chunk::<HEADER_BYTES>().ok_or(DropReason::Runt)?;
    let header = Header::decode(header)?;
    let receiver = header.index;
    match header.kind {
        Type::Data | Type::Repair | Type::Report | Type::Probe => {
            Ok(Incoming::Packet(Packet { counter: Counter::Low(header.counter), header }))
        }
        Type::Unknown => Ok(Incoming::Unknown(receiver)),
        Type::Handshake => {
            let (&[kind, min_version, max_version, _], rest) = body.split_first_chunk().ok_or(DropReason::Runt)?;
            match kind {
                INITIATION if !(min_version..=max_version).contains(&VERSION) => Err(DropReason::UnknownVersion),
                INITIATION => handshake(datagram, INITIATION_BYTES, rest, 0).map(Incoming::Initiation),
                ANSWER => handshake(datagram, ANSWER_BYTES, rest, receiver).map(Incoming::Answer),
                COOKIE => cookie(datagram, COOKIE_BYTES, rest, receiver),
                _ => Err(DropReason::UnknownType),
            }
        }
    }
}

fn handshake<'a>(
    datagram: &'a [u8],
    length: usize,
    rest: &'a [u8],
    receiver: u32,
) -> Result<Handshake<'a>, DropReason> {
    let (sender, rest) = rest.split_first_chunk().ok_or(DropReason::Runt)?;
    coded(datagram, length, rest, receiver, u32::from_be_bytes(*sender))
}

/// The noise message and the codes of a handshake message; `rest` is what follows the indices.
fn coded<'a>(
    datagram: &'a [u8],
    length: usize,
    rest: &'a [u8],
    receiver: u32,
    sender: u32,
) -> Result<Handshake<'a>, DropReason> {
    let runt = DropReason::Runt;
    if datagram.len() != length {
        return Err(runt);
    }
    let (before_mac2, mac2) = datagram.split_last_chunk::<MAC_BYTES>().ok_or(runt)?;
    let (before_mac1, mac1) = before_mac2.split_last_chunk::<MAC_BYTES>().ok_or(runt)?;
    let noise = rest.len().checked_sub(MACS_BYTES).and_then(|end| rest.get(..end)).ok_or(runt)?;
    Ok(Handshake { receiver, sender, noise, macs: [(before_mac1, *mac1), (before_mac2, *mac2)] })
}

fn cookie<'a>(datagram: &[u8], length: usize, rest: &'a [u8], receiver: u32) -> Result<Incoming<'a>, DropReason> {
    let (nonce, rest) = rest.split_first_chunk().ok_or(DropReason::Runt)?;
    let (sealed, _) = rest.split_first_chunk().ok_or(DropReason::Runt)?;
    if datagram.len() != length {
        return Err(DropReason::Runt);
    }
    Ok(Incoming::Cookie { receiver, nonce, sealed })
}

fn read_wireguard(datagram: &[u8]) -> Result<Incoming<'_>, DropReason> {
    let (kind, rest) = number(datagram)?;
    let (index, rest) = number(rest)?;
    match kind {
        1 => coded(datagram, WG_INITIATION_BYTES, rest, 0, index).map(Incoming::Initiation),
        2 => {
            let (receiver, rest) = number(rest)?;
            coded(datagram, WG_ANSWER_BYTES, rest, receiver, index).map(Incoming::Answer)
        }
        3 => cookie(datagram, WG_COOKIE_BYTES, rest, index),
        WG_DATA => {
            let (counter, _) = rest.split_first_chunk().ok_or(DropReason::Runt)?;
            let counter = Counter::Whole(u64::from_le_bytes(*counter));
            Ok(Incoming::Packet(Packet { counter, header: Header::new(Type::Data, index) }))
        }
        _ => Err(DropReason::UnknownType),
    }
}

fn number(bytes: &[u8]) -> Result<(u32, &[u8]), DropReason> {
    let (number, rest) = bytes.split_first_chunk().ok_or(DropReason::Runt)?;
    Ok((u32::from_le_bytes(*number), rest))
}

/// Completes a message by its codes. Returns the first.
pub(crate) fn append_macs(message: &mut Vec<u8>, mac1: Mac, mac2: impl FnOnce(&[u8]) -> Mac) -> Mac {
    message.extend(mac1);
    let mac2 = mac2(message);
    message.extend(mac2);
    mac1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn handshakes_are_read_as_they_are_written() {
        for (format, first, second) in [(Format::Adit, 120, 72), (Format::WireGuard, 108, 48)] {
            let noise = [7; 120];
            let mut message = format.initiation(5, &noise[..first]);
            append_macs(&mut message, [1; 16], |_| [2; 16]);
            let Ok(Incoming::Initiation(read)) = format.read(&message) else { panic!("{format:?}") };
            assert_eq!((read.receiver, read.sender, read.noise), (0, 5, &noise[..first]));
            assert_eq!(
                read.macs,
                [(&message[..message.len() - 32], [1; 16]), (&message[..message.len() - 16], [2; 16])]
            );
            assert_eq!(format.read(&message[..message.len() - 1]), Err(DropReason::Runt));
            message.push(0);
            assert_eq!(format.read(&message), Err(DropReason::Runt));

            let mut message = format.answer(9, 5, &noise[..second]);
            append_macs(&mut message, [1; 16], |_| [2; 16]);
            let Ok(Incoming::Answer(read)) = format.read(&message) else { panic!("{format:?}") };
            assert_eq!((read.receiver, read.sender, read.noise), (9, 5, &noise[..second]));

            let message = format.cookie(9, &[3; 24], &[4; 32]);
            let expected = Incoming::Cookie { receiver: 9, nonce: &[3; 24], sealed: &[4; 32] };
            assert_eq!(format.read(&message), Ok(expected));
        }
    }

    #[test]
    fn wireguards_data_is_as_documented() {
        let header = Format::wireguard_header(0x0403_0201, 0x0807_0605_0403_0201);
        assert_eq!(header, [4, 0, 0, 0, 1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 7, 8]);
        let counter = Counter::Whole(0x0807_0605_0403_0201);
        let expected = Incoming::Packet(Packet { counter, header: Header::new(Type::Data, 0x0403_0201) });
        assert_eq!(Format::WireGuard.read(&header), Ok(expected));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..8_u8) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            let _ = Format::WireGuard.read(&bytes);
            if let Some(first) = bytes.first_mut() {
                *first = kind << 4 | 1;
            }
            let _ = Format::Adit.read(&bytes);
        }
    }
}
