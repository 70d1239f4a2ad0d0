//! What protects handshakes before any of their keys is worked out: a code that only who knows our public key can make, and, while too
//! many come, a cookie that proves the sender's address (WireGuard, sections 5.3 and 5.4.4 to 5.4.7).

use crate::PublicKey;
use blake2::{
    Blake2s256, Blake2sMac, Digest,
    digest::{FixedOutput, KeyInit, Update, typenum::U16},
};
use chacha20poly1305::{AeadInPlace, XChaCha20Poly1305, XNonce};
use siphasher::sip128::SipHasher24;
use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// Length of each of the two codes at the end of a handshake message.
pub(crate) const MAC_BYTES: usize = 16;
/// How long a cookie's secret is the current one; it is accepted for as long again.
pub(crate) const COOKIE_LIFETIME: Duration = Duration::from_secs(120);
/// Length of a cookie's nonce, and of a cookie with its tag.
pub(crate) const COOKIE_NONCE_BYTES: usize = 24;
pub(crate) const SEALED_COOKIE_BYTES: usize = 32;

/// A code of 16 bytes.
pub(crate) type Mac = [u8; MAC_BYTES];

/// What is derived from a public key, for messages to its owner.
#[derive(Debug, Clone)]
pub(crate) struct MacKeys {
    mac1: [u8; 32],
    cookie: [u8; 32],
}

impl MacKeys {
    pub(crate) fn of(public: &PublicKey) -> Self {
        let derive = |label: &[u8; 8]| Blake2s256::new().chain_update(label).chain_update(public).finalize().into();
        Self { mac1: derive(b"mac1----"), cookie: derive(b"cookie--") }
    }

    pub(crate) fn mac1(&self, message: &[u8]) -> Mac {
        keyed(&self.mac1, &[message])
    }

    /// Wraps a cookie for whoever sent the message with this first code.
    pub(crate) fn seal_cookie(&self, cookie: &Mac, nonce: &[u8; 24], mac1: &Mac) -> Option<[u8; SEALED_COOKIE_BYTES]> {
        let cipher = XChaCha20Poly1305::new(&self.cookie.into());
        let mut sealed = [0; SEALED_COOKIE_BYTES];
        let (place, tag) = sealed.split_first_chunk_mut::<MAC_BYTES>()?;
        *place = *cookie;
        tag.copy_from_slice(&cipher.encrypt_in_place_detached(XNonce::from_slice(nonce), mac1, place).ok()?);
        Some(sealed)
    }

    /// Unwraps a cookie that answers the message with this first code.
    pub(crate) fn open_cookie(&self, sealed: &[u8; SEALED_COOKIE_BYTES], nonce: &[u8; 24], mac1: &Mac) -> Option<Mac> {
        let cipher = XChaCha20Poly1305::new(&self.cookie.into());
        let (cookie, tag) = sealed.split_first_chunk::<MAC_BYTES>()?;
        let mut cookie = *cookie;
        cipher.decrypt_in_place_detached(XNonce::from_slice(nonce), mac1, &mut cookie, tag.into()).ok()?;
        Some(cookie)
    }
}

/// The second code, which only who got the cookie can make.
pub(crate) fn mac2(cookie: &Mac, message: &[u8]) -> Mac {
    keyed(cookie, &[message])
}

/// Whether two codes are the same, in a time that does not depend on where they differ.
pub(crate) fn is_same(one: &Mac, other: &Mac) -> bool {
    one.iter().zip(other).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

fn keyed(key: &[u8], parts: &[&[u8]]) -> Mac {
    // Keys of up to 32 bytes are taken.
    let Ok(mut mac) = <Blake2sMac<U16> as KeyInit>::new_from_slice(key) else { return [0; MAC_BYTES] };
    for part in parts {
        mac.update(part);
    }
    mac.finalize_fixed().into()
}

/// Makes cookies for addresses and knows its own, without remembering any.
pub(crate) struct CookieJar {
    key: [u8; 16],
    start: Instant,
}

impl CookieJar {
    pub(crate) const fn new(key: [u8; 16], start: Instant) -> Self {
        Self { key, start }
    }

    pub(crate) fn cookie(&self, from: SocketAddr, now: Instant) -> Mac {
        self.of_generation(self.generation(now), from)
    }

    /// Whether the second code of a message was made with a cookie of ours for this address.
    pub(crate) fn is_mine(&self, mac2_of_message: &Mac, message: &[u8], from: SocketAddr, now: Instant) -> bool {
        let current = self.generation(now);
        [Some(current), current.checked_sub(1)]
            .into_iter()
            .flatten()
            .any(|generation| is_same(mac2_of_message, &mac2(&self.of_generation(generation, from), message)))
    }

    fn generation(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs().checked_div(COOKIE_LIFETIME.as_secs()).unwrap_or_default()
    }

    fn of_generation(&self, generation: u64, from: SocketAddr) -> Mac {
        let secret = SipHasher24::new_with_key(&self.key).hash(&generation.to_be_bytes()).as_bytes();
        let address = match from.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        keyed(&secret, &[&address.octets(), &from.port().to_be_bytes()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookie_is_bound_to_address_port_and_time() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let jar = CookieJar::new([7; 16], start);
        let from: SocketAddr = "192.0.2.1:6090".parse().unwrap();
        let code = mac2(&jar.cookie(from, at(100)), b"message");
        assert!(jar.is_mine(&code, b"message", from, at(100)) && jar.is_mine(&code, b"message", from, at(239)));
        assert!(!jar.is_mine(&code, b"message", from, at(240)));
        assert!(!jar.is_mine(&code, b"massage", from, at(100)));
        for elsewhere in ["192.0.2.2:6090", "192.0.2.1:6091"] {
            assert!(!jar.is_mine(&code, b"message", elsewhere.parse().unwrap(), at(100)));
        }
        assert!(!CookieJar::new([8; 16], start).is_mine(&code, b"message", from, at(100)));
    }

    #[test]
    fn wrapped_cookie_opens_for_the_message_that_it_answers_only() {
        let keys = MacKeys::of(&[1; 32]);
        let sealed = keys.seal_cookie(&[5; 16], &[6; 24], &[7; 16]).unwrap();
        assert_eq!(keys.open_cookie(&sealed, &[6; 24], &[7; 16]), Some([5; 16]));
        assert_eq!(keys.open_cookie(&sealed, &[6; 24], &[8; 16]), None);
        assert_eq!(keys.open_cookie(&sealed, &[7; 24], &[7; 16]), None);
        assert_eq!(MacKeys::of(&[2; 32]).open_cookie(&sealed, &[6; 24], &[7; 16]), None);
    }
}
