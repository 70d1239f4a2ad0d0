//! Sealed tunnels: how their sessions begin, are renewed, and end. Adit's own format and WireGuard's share everything but the looks
//! of their datagrams: the handshake, the timers, the keys, the replay window.
//!
//! A peer has several sessions: the `current` one, in which packets leave; `previous` ones, whose last packets may still be under way;
//! and the `next`, which the peer began and has not shown yet to know. So no packet is lost
//! when one follows the other.

pub(crate) mod format;
mod handshake;
pub(crate) mod keypair;
pub(crate) mod mac;
mod noise;
mod receive;
pub(crate) mod replay;
mod send;
mod state;

pub(crate) use noise::public_key;
#[cfg(feature = "fuzzing")]
pub(crate) use send::seal_anything;
pub(crate) use send::{send_body, send_keepalive, send_one, send_packets, send_repair};
pub(crate) use state::Sealed;

use crate::{
    Error, Identity, PublicKey, Result, Secret, Security,
    budget::Budget,
    sealed::{format::Format, mac::MacKeys},
    wire::VERSION,
};
use std::time::{Duration, Instant};

/// Capability: this CPU has AES in hardware, and AES-256-GCM is spoken.
const CAPABILITY_AES: u32 = 2;
/// How many handshakes that strangers began are worked out without a proof of their address: so many at once, and one more each interval.
const UNPROVEN_BURST: u32 = 20;
const UNPROVEN_INTERVAL: Duration = Duration::from_millis(100);
/// The same with a proof, for each of so many groups of addresses.
const PROVEN_BURST: u32 = 5;
const PROVEN_INTERVAL: Duration = Duration::from_millis(50);
const PROVEN_GROUPS: usize = 64;
/// Between 1970 and the epoch of TAI64N labels, seconds.
const TAI64_EPOCH: u64 = (1 << 62) + 10;

/// What a handshake's first message is ordered by, so that an old one is known as such.
pub(crate) type Stamp = [u8; 16];

/// Who this end of a tunnel is, and what protects it from strangers.
pub(crate) struct Realm {
    pub(crate) format: Format,
    /// The keys that may be addressed; new sessions use the first.
    pub(crate) identities: Vec<Own>,
    /// What this end can do.
    pub(crate) capabilities: u32,
    /// Handshakes that may be worked out, without and with a proof of the address. With one, each address has a part of its own, so that
    /// none can take what others need.
    pub(crate) unproven: Budget,
    proven: Vec<Budget>,
}

/// A private key of ours and what follows from it.
pub(crate) struct Own {
    pub(crate) private: Secret,
    pub(crate) public: PublicKey,
    pub(crate) macs: MacKeys,
}

impl Own {
    fn new(private: Secret) -> Result<Self> {
        let public = public_key(&private).ok_or(Error::BadPrivateKey)?;
        Ok(Self { private, public, macs: MacKeys::of(&public) })
    }

    pub(crate) fn all(identity: Identity) -> Result<Vec<Self>> {
        [Some(identity.private), identity.also].into_iter().flatten().map(Self::new).collect()
    }
}

impl Realm {
    /// `None` for a plain tunnel.
    pub(crate) fn new(security: Security, capabilities: u32, now: Instant) -> Result<Option<Self>> {
        let (format, identity) = match security {
            Security::Plain => return Ok(None),
            Security::Noise(identity) => (Format::Adit, identity),
            Security::WireGuard(identity) => (Format::WireGuard, identity),
        };
        Ok(Some(Self {
            format,
            identities: Own::all(identity)?,
            capabilities: capabilities | if has_aes() { CAPABILITY_AES } else { 0 },
            unproven: Budget::new(UNPROVEN_BURST, UNPROVEN_INTERVAL, now),
            proven: (0..PROVEN_GROUPS).map(|_| Budget::new(PROVEN_BURST, PROVEN_INTERVAL, now)).collect(),
        }))
    }

    /// The part of the address that has this hash, which nobody outside can compute.
    pub(crate) fn proven(&mut self, [hash, ..]: [u8; 16]) -> &mut Budget {
        let group = usize::from(hash).checked_rem(self.proven.len()).unwrap_or_default();
        self.proven.get_mut(group).unwrap_or(&mut self.unproven)
    }

    /// The key of new sessions.
    pub(crate) fn own(&self) -> Option<&Own> {
        self.identities.first()
    }

    pub(crate) fn is_own(&self, public: &PublicKey) -> bool {
        self.identities.iter().any(|own| own.public == *public)
    }
}

/// What an end tells of itself under the seal of the handshake. WireGuard's tells the time only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) epoch: u64,
    pub(crate) nonce: u64,
    pub(crate) capabilities: u32,
    pub(crate) mtu_bytes: u16,
}

impl Offer {
    const BYTES: usize = 24;

    fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let fields = [
            &self.epoch.to_be_bytes()[..],
            &self.nonce.to_be_bytes(),
            &self.capabilities.to_be_bytes(),
            &self.mtu_bytes.to_be_bytes(),
            &[VERSION, VERSION],
        ];
        for (place, byte) in bytes.iter_mut().zip(fields.into_iter().flatten()) {
            *place = *byte;
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (epoch, rest) = bytes.split_first_chunk()?;
        let (nonce, rest) = rest.split_first_chunk()?;
        let (capabilities, rest) = rest.split_first_chunk()?;
        let (mtu_bytes, rest) = rest.split_first_chunk()?;
        let &[min_version, max_version] = rest.first_chunk()?;
        (min_version..=max_version).contains(&VERSION).then_some(Self {
            epoch: u64::from_be_bytes(*epoch),
            nonce: u64::from_be_bytes(*nonce),
            capabilities: u32::from_be_bytes(*capabilities),
            mtu_bytes: u16::from_be_bytes(*mtu_bytes),
        })
    }
}

/// A TAI64N label: seconds and nanoseconds, which only grow while the clock that `epoch_us` was taken from does.
fn tai64n(epoch_us: u64, since: Duration) -> [u8; 12] {
    let time = Duration::from_micros(epoch_us).saturating_add(since);
    let mut label = [0; 12];
    let fields =
        TAI64_EPOCH.wrapping_add(time.as_secs()).to_be_bytes().into_iter().chain(time.subsec_nanos().to_be_bytes());
    for (place, byte) in label.iter_mut().zip(fields) {
        *place = byte;
    }
    label
}

/// The payload of an initiation.
pub(crate) fn first_payload(realm: &Realm, offer: Offer, since: Duration) -> Vec<u8> {
    match realm.format {
        Format::Adit => offer.encode().to_vec(),
        Format::WireGuard => tai64n(offer.epoch, since).to_vec(),
    }
}

/// What an initiation's payload says, and where it stands in their order.
pub(crate) fn read_first_payload(format: Format, payload: &[u8]) -> Option<(Stamp, Option<Offer>)> {
    let mut stamp = [0; 16];
    let (bytes, offer) = match format {
        Format::Adit => (payload.get(..16)?, Some(Offer::decode(payload)?)),
        Format::WireGuard => (payload.get(..12)?, None),
    };
    stamp.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
    Some((stamp, offer))
}

/// Whether the CPU does AES-GCM in hardware.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offer_is_read_as_it_is_written() {
        let offer = Offer { epoch: 1, nonce: 2, capabilities: 3, mtu_bytes: 1440 };
        let bytes = offer.encode();
        assert_eq!(bytes[..8], [0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(bytes[16..], [0, 0, 0, 3, 0x05, 0xa0, VERSION, VERSION]);
        assert_eq!(Offer::decode(&bytes), Some(offer));
        assert_eq!(Offer::decode(&bytes[..23]), None);
        let mut later = bytes;
        later[22..].fill(VERSION + 1);
        assert_eq!(Offer::decode(&later), None);
    }

    #[test]
    fn labels_grow_with_time() {
        let label = tai64n(1_700_000_000_000_000, Duration::from_nanos(5));
        assert_eq!(label[..8], (TAI64_EPOCH + 1_700_000_000).to_be_bytes());
        assert_eq!(label[8..], 5_u32.to_be_bytes());
        assert!(tai64n(1, Duration::from_secs(1)) < tai64n(2, Duration::from_secs(1)));
        assert!(tai64n(1, Duration::from_micros(1)) < tai64n(1, Duration::from_micros(2)));
    }
}
