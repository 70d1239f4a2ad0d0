//! Probes: what one end asks the other to answer at once.
//!
//! The payload of PROBE, big endian. It is numbered by the session's counter like DATA, and sealed like it; the datagram's sequence is 0.
//! A REQUEST may be followed by zeros, up to the size that is to be tried.
//!
//! ```text
//!        0                   1                   2                   3
//!        0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//!       +---------------+---------------+-------------------------------+
//!     0 |     kind      |   reserved    |       request's length        |
//!       +---------------+---------------+-------------------------------+
//!     4 |                            number                             |
//!       +---------------------------------------------------------------+
//!     8 |                                                               |
//!       |                             clock                             |
//!       +---------------------------------------------------------------+
//!    16 |                                                               |
//!       |                      datagrams received                       |
//!       +---------------------------------------------------------------+
//!    24 |                                                               |
//!       |                        datagrams lost                         |
//!       +---------------------------------------------------------------+
//!    32 |                      datagrams reordered                      |
//!       +---------------------------------------------------------------+
//!    36 |                     datagrams duplicated                      |
//!       +-------------------------------+-------------------------------+
//!    40 |           path MTU            |                               |
//!       +-------------------------------+           reserved            |
//!    44 |                                                               |
//!       +---------------------------------------------------------------+
//! ```
//!
//! | field | meaning |
//! |---|---|
//! | kind | 0 REQUEST, 1 ANSWER |
//! | request's length | ANSWER: of the whole datagram (UDP payload) that it answers, as it came, bytes; else 0 |
//! | number, clock | the request's, in units and from a start that its sender alone knows; the ANSWER repeats them |
//! | datagrams | of DATA, REPAIR, REPORT and PROBE from the end that reads this, as its sender counts them since it carries the tunnel; modulo the field |
//! | path MTU | the largest outer packet, bytes with all headers, that its sender knows to pass to the end that reads this; 0 unknown |
//!
//! An ANSWER is never longer than its REQUEST, and is not answered.

use crate::DropReason;

/// Length of a probe's payload without padding.
pub const BODY_BYTES: usize = 48;

/// Which half of the exchange it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// To be answered at once.
    Request,
    /// The answer to a request whose datagram was this long, in bytes.
    Answer(u16),
}

/// What a probe carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Which half of the exchange it is.
    pub kind: Kind,
    /// The request's number.
    pub number: u32,
    /// The clock of the request's sender.
    pub clock: u64,
    /// What came of what the reader sent.
    pub counts: Counts,
    /// The largest outer packet that passes to the reader, in bytes; 0 unknown.
    pub path_mtu_bytes: u16,
}

/// What came of the datagrams of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Arrived, each counted once.
    pub received: u64,
    /// Did not arrive.
    pub lost: u64,
    /// Arrived after one that was sent later.
    pub reordered: u32,
    /// Arrived again.
    pub duplicated: u32,
}

impl Probe {
    /// A probe as it is on the wire, without padding.
    #[must_use]
    pub fn encode(&self) -> [u8; BODY_BYTES] {
        let (kind, length) = match self.kind {
            Kind::Request => (0, 0),
            Kind::Answer(length) => (1, length),
        };
        let fields = [
            &[kind, 0][..],
            &length.to_be_bytes(),
            &self.number.to_be_bytes(),
            &self.clock.to_be_bytes(),
            &self.counts.received.to_be_bytes(),
            &self.counts.lost.to_be_bytes(),
            &self.counts.reordered.to_be_bytes(),
            &self.counts.duplicated.to_be_bytes(),
            &self.path_mtu_bytes.to_be_bytes(),
        ];
        let mut body = [0; BODY_BYTES];
        for (place, byte) in body.iter_mut().zip(fields.into_iter().flatten()) {
            *place = *byte;
        }
        body
    }

    /// Reads a probe; padding behind it is ignored.
    ///
    /// # Errors
    /// [`DropReason::Runt`], [`DropReason::UnknownType`].
    pub fn decode(payload: &[u8]) -> Result<Self, DropReason> {
        let body = payload.first_chunk::<BODY_BYTES>().ok_or(DropReason::Runt)?;
        let [kind, _, l0, l1, n0, n1, n2, n3, rest @ ..] = *body;
        let (clock, rest) = take(&rest)?;
        let (received, rest) = take(rest)?;
        let (lost, rest) = take(rest)?;
        let (reordered, rest) = take(rest)?;
        let (duplicated, rest) = take(rest)?;
        let (path_mtu, _) = take(rest)?;
        let kind = match kind {
            0 => Kind::Request,
            1 => Kind::Answer(u16::from_be_bytes([l0, l1])),
            _ => return Err(DropReason::UnknownType),
        };
        Ok(Self {
            kind,
            number: u32::from_be_bytes([n0, n1, n2, n3]),
            clock: u64::from_be_bytes(clock),
            counts: Counts {
                received: u64::from_be_bytes(received),
                lost: u64::from_be_bytes(lost),
                reordered: u32::from_be_bytes(reordered),
                duplicated: u32::from_be_bytes(duplicated),
            },
            path_mtu_bytes: u16::from_be_bytes(path_mtu),
        })
    }
}

fn take<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), DropReason> {
    bytes.split_first_chunk::<N>().map(|(field, rest)| (*field, rest)).ok_or(DropReason::Runt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn probe_is_as_documented() {
        let probe = Probe {
            kind: Kind::Answer(0x0102),
            number: 0x0304_0506,
            clock: 7,
            counts: Counts { received: 8, lost: 9, reordered: 10, duplicated: 11 },
            path_mtu_bytes: 1500,
        };
        let mut wire = vec![1, 0, 1, 2, 3, 4, 5, 6];
        for number in [7_u64, 8, 9] {
            wire.extend(number.to_be_bytes());
        }
        wire.extend([0, 0, 0, 10, 0, 0, 0, 11, 0x05, 0xdc, 0, 0, 0, 0, 0, 0]);
        assert_eq!(probe.encode()[..], wire);
        assert_eq!(Probe::decode(&wire), Ok(probe));
        wire.extend([9; 100]);
        assert_eq!(Probe::decode(&wire), Ok(probe));
        assert_eq!(Probe::decode(&wire[..BODY_BYTES - 1]), Err(DropReason::Runt));
        wire[0] = 2;
        assert_eq!(Probe::decode(&wire), Err(DropReason::UnknownType));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(probe) = Probe::decode(&bytes) {
                prop_assert_eq!(Probe::decode(&probe.encode()), Ok(probe));
            }
        }
    }
}
