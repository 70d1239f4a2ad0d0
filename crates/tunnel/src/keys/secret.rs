use std::{fmt, io};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

use super::{
    PublicKey,
    public::{ROOM_BYTES, TEXT_BYTES, decode},
};
use crate::{Error, Result};

/// A private key (X25519) or a preshared one. It is wiped from memory when it is dropped, and never printed.
#[derive(Clone)]
pub struct SecretKey(Zeroizing<[u8; 32]>);

impl SecretKey {
    /// The key with these bytes.
    #[must_use]
    pub const fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }

    /// A key that nobody has.
    ///
    /// # Errors
    /// The kernel has no random numbers to give.
    pub fn generate() -> Result<Self> {
        random().map(Self)
    }

    /// The key itself, for who makes it known to the kernel.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The public key of this private one.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let secret = StaticSecret::from(*self.0);
        PublicKey::new(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }

    /// Reads a key as `wg genkey` writes it: base64, and perhaps a line's end.
    ///
    /// # Errors
    /// What is wrong with the text, to stand behind its name.
    pub fn from_text(text: &[u8]) -> std::result::Result<Self, &'static str> {
        let mut room = Zeroizing::new([0; ROOM_BYTES]);
        decode(text.trim_ascii_end(), &mut room)?;
        match room.first_chunk::<32>() {
            Some(bytes) if *bytes != [0; 32] => Ok(Self(Zeroizing::new(*bytes))),
            _ => Err("holds a key that is all zeroes, which is none"),
        }
    }

    /// The text that [`Self::from_text`] reads, with a line's end.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        // No room to grow: what grows leaves its old place unwiped.
        let mut text = Zeroizing::new(String::with_capacity(TEXT_BYTES.saturating_add(1)));
        STANDARD.encode_string(self.0.as_slice(), &mut text);
        text.push('\n');
        text
    }
}

impl From<SecretKey> for adit_dataplane::Secret {
    fn from(key: SecretKey) -> Self {
        key.0.into()
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey")
    }
}

/// 32 bytes of the kernel's.
pub(super) fn random() -> Result<Zeroizing<[u8; 32]>> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut_slice()).map_err(|error| Error::Random { source: io::Error::from(error) })?;
    Ok(bytes)
}
