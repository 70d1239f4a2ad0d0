//! What protects handshakes before any of their keys is worked out: a code that only who knows our public key can make, and, while too
//! many come, a cookie that proves the sender's address (WireGuard, sections 5.3 and 5.4.4 to 5.4.7).

use crate::PublicKey;
use blake2::{
    Blake2s256, Blake2sMac, Digest,
    digest::{FixedOutput, KeyInit, Update, typenum::U16},
};
use chacha20poly1305::{AeadInPlace, XChaCha20Poly1305, XNonce};

/// Length of each of the two codes at the end of a handshake message.
pub(crate) const MAC_BYTES: usize = 16;
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
        keyed(&self.mac1, message)
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
    keyed(cookie, message)
}

/// Whether two codes are the same, in a time that does not depend on where they differ.
pub(crate) fn is_same(one: &Mac, other: &Mac) -> bool {
    one.iter().zip(other).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

fn keyed(key: &[u8], message: &[u8]) -> Mac {
    // Keys of up to 32 bytes are taken.
    let Ok(mac) = <Blake2sMac<U16> as KeyInit>::new_from_slice(key) else { return [0; MAC_BYTES] };
    mac.chain(message).finalize_fixed().into()
}

#[cfg(test)]
mod tests {
    use super::*;

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
