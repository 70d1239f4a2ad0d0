//! The handshake: how two ends learn each other's session index, epoch, MTU and abilities.
//!
//! Each message is the payload of a HANDSHAKE datagram, 48 bytes, big endian, so that no answer is
//! longer than what it answers. Longer bodies are read up to there: later versions may append.
//!
//! ```text
//!        0                   1                   2                   3
//!        0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//!       +---------------+---------------+---------------+---------------+
//!     0 |     kind      |  min version  |  max version  |   reserved    |
//!       +---------------+---------------+---------------+---------------+
//!     4 |                    sender's session index                     |
//!       +---------------------------------------------------------------+
//!     8 |                                                               |
//!       |                             epoch                             |
//!       +---------------------------------------------------------------+
//!    16 |                         capabilities                          |
//!       +-------------------------------+-------------------------------+
//!    20 |        sender's inner MTU     |           reserved            |
//!       +-------------------------------+-------------------------------+
//!    24 |                                                               |
//!       |                             nonce                             |
//!       +---------------------------------------------------------------+
//!    32 |                                                               |
//!       |                             cookie                            |
//!       |                           (16 bytes)                          |
//!       +---------------------------------------------------------------+
//! ```
//!
//! | kind | header's index | body |
//! |---|---|---|
//! | 1 HELLO | 0 | everything; the cookie is zero as long as the sender has none |
//! | 2 COOKIE | the HELLO's sender | the HELLO's nonce and the cookie to repeat it with; else 0 |
//! | 3 WELCOME | the HELLO's sender | everything but a cookie: the HELLO's nonce, the chosen version twice, the capabilities that both have |
//!
//! A nonce's high 32 bits count the handshakes that its sender has begun in this epoch, with any peer;
//! its low 32 bits are random. So (epoch, nonce) only grows, and an old HELLO is known as such.
//!
//! A cookie is SipHash-2-4-128 of the HELLO's source address (16 bytes, IPv4 mapped), port, sender's
//! index and nonce under a secret that changes every 120 s; the previous secret counts too. Making one
//! costs its maker no memory, so nobody can be made to keep state by a forged source address.

use crate::DropReason;
pub use crate::cookie::{COOKIE_SECRET_LIFETIME, Cookie};

/// Length of a handshake message behind the header.
pub const BODY_BYTES: usize = 48;
/// Capability: DATA with [`FLAG_PARTIAL_CHECKSUM`](crate::wire::FLAG_PARTIAL_CHECKSUM) is understood.
pub const CAPABILITY_PARTIAL_CHECKSUM: u32 = 1;
/// Capability: [probes](crate::probe) are answered.
pub const CAPABILITY_PROBES: u32 = 4;
/// Capability: REPAIR is understood and answered by REPORT. 2 is of sealed tunnels.
pub const CAPABILITY_FEC: u32 = 8;
/// Capability: what outer headers say of congestion is handed on to packets (RFC 6040).
pub const CAPABILITY_ECN: u32 = 16;
/// What this implementation can always do.
pub const CAPABILITIES: u32 = CAPABILITY_PARTIAL_CHECKSUM | CAPABILITY_PROBES | CAPABILITY_ECN;

/// What each end tells the other about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Lowest version of the format that is spoken; in a WELCOME, the chosen one.
    pub min_version: u8,
    /// Highest version of the format that is spoken; in a WELCOME, the chosen one.
    pub max_version: u8,
    /// The index under which the sender wants to receive.
    pub index: u32,
    /// The sender's incarnation.
    pub epoch: u64,
    /// What the sender can do; in a WELCOME, what both can do.
    pub capabilities: u32,
    /// The sender's inner MTU.
    pub mtu_bytes: u16,
    /// HELLO: names this handshake. WELCOME: the HELLO's.
    pub nonce: u64,
}

/// A handshake message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// I am here.
    Hello(Offer, Cookie),
    /// Say that again with this cookie. The number is the HELLO's nonce.
    Cookie(u64, Cookie),
    /// So am I.
    Welcome(Offer),
}

impl Offer {
    /// What a HELLO's cookie depends on beside its sender's address.
    pub(crate) fn for_cookie(&self) -> [u8; 12] {
        let mut bytes = [0; 12];
        let fields = self.index.to_be_bytes().into_iter().chain(self.nonce.to_be_bytes());
        bytes.iter_mut().zip(fields).for_each(|(place, byte)| *place = byte);
        bytes
    }
}

impl Message {
    /// The message as it is on the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; BODY_BYTES] {
        const NOTHING: Offer =
            Offer { min_version: 0, max_version: 0, index: 0, epoch: 0, capabilities: 0, mtu_bytes: 0, nonce: 0 };
        let (kind, offer, cookie) = match *self {
            Self::Hello(offer, cookie) => (1, offer, cookie),
            Self::Cookie(nonce, cookie) => (2, Offer { nonce, ..NOTHING }, cookie),
            Self::Welcome(offer) => (3, offer, [0; 16]),
        };
        let fields = [
            &[kind, offer.min_version, offer.max_version, 0][..],
            &offer.index.to_be_bytes(),
            &offer.epoch.to_be_bytes(),
            &offer.capabilities.to_be_bytes(),
            &offer.mtu_bytes.to_be_bytes(),
            &[0; 2],
            &offer.nonce.to_be_bytes(),
            &cookie,
        ];
        let mut body = [0; BODY_BYTES];
        for (place, byte) in body.iter_mut().zip(fields.into_iter().flatten()) {
            *place = *byte;
        }
        body
    }

    /// Reads a message from the wire; what follows it is ignored.
    ///
    /// # Errors
    /// [`DropReason::Runt`] and [`DropReason::UnknownType`].
    pub fn decode(body: &[u8]) -> Result<Self, DropReason> {
        let mut fields = Fields(body);
        let [kind, min_version, max_version, _] = fields.next()?;
        let index = u32::from_be_bytes(fields.next()?);
        let epoch = u64::from_be_bytes(fields.next()?);
        let capabilities = u32::from_be_bytes(fields.next()?);
        let mtu_bytes = u16::from_be_bytes(fields.next()?);
        let [_, _] = fields.next()?;
        let nonce = u64::from_be_bytes(fields.next()?);
        let cookie = fields.next()?;
        let offer = Offer { min_version, max_version, index, epoch, capabilities, mtu_bytes, nonce };
        match kind {
            1 => Ok(Self::Hello(offer, cookie)),
            2 => Ok(Self::Cookie(nonce, cookie)),
            3 => Ok(Self::Welcome(offer)),
            _ => Err(DropReason::UnknownType),
        }
    }
}

/// What is left to read of a message.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn next<const N: usize>(&mut self) -> Result<[u8; N], DropReason> {
        let (field, rest) = self.0.split_first_chunk().ok_or(DropReason::Runt)?;
        self.0 = rest;
        Ok(*field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OFFER: Offer = Offer {
        min_version: 1,
        max_version: 2,
        index: 0x0102_0304,
        epoch: 0x1112_1314_1516_1718,
        capabilities: 0x2122_2324,
        mtu_bytes: 1456,
        nonce: 0x3132_3334_3536_3738,
    };
    const COOKIE: Cookie = *b"sixteen bytes 16";

    #[test]
    fn hello_is_as_documented() {
        let wire = Message::Hello(OFFER, COOKIE).encode();
        assert_eq!(wire[..8], [1, 1, 2, 0, 1, 2, 3, 4]);
        assert_eq!(wire[8..16], [0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]);
        assert_eq!(wire[16..24], [0x21, 0x22, 0x23, 0x24, 0x05, 0xb0, 0, 0]);
        assert_eq!(wire[24..32], [0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38]);
        assert_eq!(wire[32..], COOKIE);
        assert_eq!(Message::decode(&wire), Ok(Message::Hello(OFFER, COOKIE)));
    }

    #[test]
    fn cookie_carries_nonce_and_cookie_only() {
        let wire = Message::Cookie(OFFER.nonce, COOKIE).encode();
        assert_eq!(wire[0], 2);
        assert_eq!(wire[1..24], [0; 23]);
        assert_eq!(wire[24..32], OFFER.nonce.to_be_bytes());
        assert_eq!(wire[32..], COOKIE);
        assert_eq!(Message::decode(&wire), Ok(Message::Cookie(OFFER.nonce, COOKIE)));
    }

    #[test]
    fn welcome_carries_no_cookie() {
        let wire = Message::Welcome(OFFER).encode();
        let hello = Message::Hello(OFFER, [0; 16]).encode();
        assert_eq!((wire[0], &wire[1..]), (3, &hello[1..]));
        assert_eq!(Message::decode(&wire), Ok(Message::Welcome(OFFER)));
    }

    #[test]
    fn longer_bodies_are_read_and_shorter_ones_refused() {
        let mut wire = Message::Welcome(OFFER).encode().to_vec();
        wire.extend_from_slice(b"of a later version");
        assert_eq!(Message::decode(&wire), Ok(Message::Welcome(OFFER)));
        assert_eq!(Message::decode(&wire[..47]), Err(DropReason::Runt));
        wire[0] = 4;
        assert_eq!(Message::decode(&wire), Err(DropReason::UnknownType));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(body in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(message) = Message::decode(&body) {
                prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
            }
        }
    }
}
