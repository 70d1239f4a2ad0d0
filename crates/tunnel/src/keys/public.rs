use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// What 32 bytes are in base64.
pub(super) const TEXT_BYTES: usize = 44;
/// What the decoder wants room for.
pub(super) const ROOM_BYTES: usize = 33;

/// An X25519 public key (RFC 7748). Its text is the base64 of its bytes, as WireGuard's tools write it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The key with these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(self) -> [u8; 32] {
        self.0
    }
}

impl FromStr for PublicKey {
    /// What is wrong with the text, to stand behind it.
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut room = [0; ROOM_BYTES];
        decode(text.as_bytes(), &mut room)?;
        match room.first_chunk() {
            Some(bytes) if *bytes != [0; 32] => Ok(Self(*bytes)),
            _ => Err("is all zeroes, which is nobody's key"),
        }
    }
}

/// Decodes 32 bytes. Only the one text that stands for them is taken.
pub(super) fn decode(text: &[u8], room: &mut [u8; ROOM_BYTES]) -> Result<(), &'static str> {
    match STANDARD.decode_slice(text, room) {
        Ok(32) if text.len() == TEXT_BYTES => Ok(()),
        Ok(_) => Err("is of another length than a key: 32 bytes, which are 44 characters of base64"),
        Err(_) => Err("is not the base64 of a key: 44 characters, the last of them '='"),
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
