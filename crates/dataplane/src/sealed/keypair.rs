//! The keys of one session, and what they have sealed and opened.

use super::replay::Window;
use crate::{
    health::delivery::Ledger,
    parcel::{Carry, Reader, Writer},
    wire::HEADER_BYTES,
};
use ring::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Length of the tag behind each packet.
pub(crate) const TAG_BYTES: usize = 16;
/// How old a session may get before its initiator begins the next (WireGuard's REKEY-AFTER-TIME).
pub(crate) const REKEY_AFTER: Duration = Duration::from_secs(120);
/// The same, when it only receives.
pub(crate) const REKEY_AFTER_SILENT: Duration = Duration::from_secs(165);
/// How old a session may get at all (REJECT-AFTER-TIME).
pub(crate) const REJECT_AFTER: Duration = Duration::from_secs(180);
/// How many packets it may carry before the next is begun. AES-GCM's bounds are far away (RFC 8446, section 5.5, allows 2^24.5
/// records of 16 KiB: 2^28 of ours), and a session of two minutes does not get here.
pub(crate) const REKEY_AFTER_PACKETS: u64 = 1 << 28;
/// How many packets it may carry at all.
pub(crate) const REJECT_AFTER_PACKETS: u64 = 1 << 29;

/// What seals packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cipher {
    /// Where both CPUs have it in hardware.
    Aes256Gcm,
    /// Everywhere.
    ChaCha20Poly1305,
}

impl Cipher {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "aes-256-gcm",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
        }
    }
}

/// Keys of both directions, as a handshake yields them.
pub(crate) struct Keys {
    pub(crate) send: Zeroizing<[u8; 32]>,
    pub(crate) receive: Zeroizing<[u8; 32]>,
}

/// A session's keys at work.
pub(crate) struct Keypair {
    /// The index under which we receive.
    pub(crate) our_index: u32,
    /// The index under which the peer receives.
    pub(crate) their_index: u32,
    /// Whether this end began the handshake: it begins the next one, too.
    pub(crate) is_initiator: bool,
    pub(crate) born: Instant,
    pub(crate) cipher: Cipher,
    /// The peer's incarnation and inner MTU, where the handshake tells them.
    pub(crate) remote: Option<(u64, u16)>,
    /// What both ends can do; 0 where the handshake does not tell.
    pub(crate) capabilities: u32,
    send: LessSafeKey,
    receive: LessSafeKey,
    /// The library does not give back what it was told, and the next carrier must be told it.
    keys: Keys,
    counter: u64,
    window: Window,
    /// What came in it.
    pub(crate) ledger: Ledger,
}

/// What a handshake says about a session, beside its keys.
pub(crate) struct About {
    pub(crate) our_index: u32,
    pub(crate) their_index: u32,
    pub(crate) is_initiator: bool,
    pub(crate) cipher: Cipher,
    pub(crate) remote: Option<(u64, u16)>,
    pub(crate) capabilities: u32,
}

impl Keypair {
    /// `None`: the library refuses keys of the right length, which it does not.
    pub(crate) fn new(about: About, keys: Keys, now: Instant) -> Option<Self> {
        let algorithm = match about.cipher {
            Cipher::Aes256Gcm => &AES_256_GCM,
            Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        let key = |bytes: &[u8; 32]| UnboundKey::new(algorithm, bytes).ok().map(LessSafeKey::new);
        let About { our_index, their_index, is_initiator, cipher, remote, capabilities } = about;
        Some(Self {
            our_index,
            their_index,
            is_initiator,
            born: now,
            cipher,
            remote,
            capabilities,
            send: key(&keys.send)?,
            receive: key(&keys.receive)?,
            keys,
            counter: 0,
            window: Window::new(),
            ledger: Ledger::new(),
        })
    }

    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.born)
    }

    /// Whether packets may still leave in it.
    pub(crate) fn may_send(&self, now: Instant) -> bool {
        self.age(now) < REJECT_AFTER && self.counter < REJECT_AFTER_PACKETS
    }

    /// Whether packets may still come in it.
    pub(crate) fn may_receive(&self, now: Instant) -> bool {
        self.age(now) < REJECT_AFTER
    }

    /// Whether sending a packet should begin the next session.
    pub(crate) fn is_worn(&self, now: Instant) -> bool {
        (self.is_initiator && self.age(now) >= REKEY_AFTER) || self.counter >= REKEY_AFTER_PACKETS
    }

    /// The number of the next packet.
    pub(crate) const fn next_counter(&mut self) -> u64 {
        let counter = self.counter;
        self.counter = counter.wrapping_add(1);
        counter
    }

    /// Seals what lies between the header and the room for the tag. `authenticated` is covered by the tag as well. `None`: there is
    /// no such place, or the library refuses.
    pub(crate) fn seal(&self, counter: u64, authenticated: &[u8], place: &mut [u8]) -> Option<()> {
        let (packet, tag) = place.get_mut(HEADER_BYTES..)?.split_last_chunk_mut::<TAG_BYTES>()?;
        let sealed = self.send.seal_in_place_separate_tag(nonce(counter), Aad::from(authenticated), packet).ok()?;
        tag.copy_from_slice(sealed.as_ref());
        Some(())
    }

    /// Opens a packet in place, whose tag is behind it: how long it is without.
    pub(crate) fn open(&self, counter: u64, authenticated: &[u8], sealed: &mut [u8]) -> Option<usize> {
        let opened = self.receive.open_in_place(nonce(counter), Aad::from(authenticated), sealed).ok()?;
        Some(opened.len())
    }

    /// The whole counter of a packet of which the low 32 bits are known: the nearest to what is expected next, so at most 2^31 away
    /// from it.
    pub(crate) const fn whole_counter(&self, low: u32) -> u64 {
        let expected = self.window.next();
        let ahead = low.wrapping_sub(expected as u32) as i32;
        expected.saturating_add_signed(ahead as i64)
    }

    /// Whether a packet has not been there.
    pub(crate) fn is_new(&self, counter: u64) -> bool {
        self.window.is_new(counter)
    }

    /// A packet that is not new came.
    pub(crate) fn repeat(&mut self, counter: u64) {
        if self.window.remembers(counter) {
            self.ledger.repeat();
        }
    }

    /// Lets a packet in that was opened. Returns whether it is the newest.
    pub(crate) fn mark(&mut self, counter: u64) -> bool {
        let is_newest = counter >= self.window.next();
        self.window.mark(counter);
        self.ledger.take(counter);
        is_newest
    }
}

impl Carry for Keypair {
    fn encode(&self, to: &mut Writer) {
        let Self {
            our_index,
            their_index,
            is_initiator,
            born,
            cipher,
            remote,
            capabilities,
            send: _,
            receive: _,
            keys: Keys { send, receive },
            counter,
            window,
            ledger,
        } = self;
        (*our_index, *their_index).encode(to);
        (*is_initiator, *born).encode(to);
        (*cipher == Cipher::Aes256Gcm).encode(to);
        (*remote, *capabilities).encode(to);
        send.encode(to);
        receive.encode(to);
        counter.encode(to);
        window.encode(to);
        ledger.encode(to);
    }

    fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let (our_index, their_index) = Carry::decode(from)?;
        let (is_initiator, born) = Carry::decode(from)?;
        let cipher = if bool::decode(from)? { Cipher::Aes256Gcm } else { Cipher::ChaCha20Poly1305 };
        let (remote, capabilities) = Carry::decode(from)?;
        let about = About { our_index, their_index, is_initiator, cipher, remote, capabilities };
        let keys = Keys { send: Carry::decode(from)?, receive: Carry::decode(from)? };
        let mut keypair = Self::new(about, keys, born)?;
        keypair.counter = Carry::decode(from)?;
        keypair.window = Carry::decode(from)?;
        keypair.ledger = Carry::decode(from)?;
        Some(keypair)
    }
}

/// Four bytes of zero and the counter (WireGuard, section 5.4.6); no counter is used twice with a key.
fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    if let Some(place) = bytes.last_chunk_mut::<8>() {
        *place = counter.to_le_bytes();
    }
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects, reason = "a test that panics has failed, as it should")]
    use super::*;

    fn pair(cipher: Cipher) -> (Keypair, Keypair) {
        let now = Instant::now();
        let about =
            |is_initiator| About { our_index: 1, their_index: 2, is_initiator, cipher, remote: None, capabilities: 0 };
        let (one, two) = (Zeroizing::new([1; 32]), Zeroizing::new([2; 32]));
        let alice = Keys { send: one.clone(), receive: two.clone() };
        let bob = Keys { send: two, receive: one };
        (Keypair::new(about(true), alice, now).unwrap(), Keypair::new(about(false), bob, now).unwrap())
    }

    #[test]
    fn what_one_end_seals_the_other_opens_and_nothing_else() {
        for cipher in [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
            let (mut alice, bob) = pair(cipher);
            let mut place = [&[9; HEADER_BYTES][..], b"a packet", &[0; TAG_BYTES]].concat();
            let counter = alice.next_counter();
            alice.seal(counter, b"header", &mut place).unwrap();
            assert!(!place.windows(8).any(|bytes| bytes == b"a packet"));
            let sealed = &place[HEADER_BYTES..];
            assert_eq!(bob.open(counter, b"header", &mut sealed.to_vec()), Some(8));
            for at in 0..sealed.len() {
                let mut flipped = sealed.to_vec();
                flipped[at] ^= 1;
                assert_eq!(bob.open(counter, b"header", &mut flipped), None);
            }
            assert_eq!(bob.open(counter + 1, b"header", &mut sealed.to_vec()), None);
            assert_eq!(bob.open(counter, b"Header", &mut sealed.to_vec()), None);
            assert_eq!(alice.open(counter, b"header", &mut sealed.to_vec()), None);
            assert_eq!(bob.open(counter, b"header", &mut sealed[..15].to_vec()), None);
        }
    }

    #[test]
    fn session_is_renewed_by_time_and_by_count_and_ends_by_both() {
        let (mut alice, mut bob) = pair(Cipher::Aes256Gcm);
        let at = |secs| alice.born + Duration::from_secs(secs);
        assert!(!alice.is_worn(at(119)) && alice.is_worn(at(120)) && !bob.is_worn(at(150)));
        assert!(alice.may_send(at(179)) && !alice.may_send(at(180)) && !bob.may_receive(at(180)));
        let start = at(0);
        for end in [&mut alice, &mut bob] {
            end.counter = REKEY_AFTER_PACKETS - 1;
            assert!(!end.is_worn(start));
            end.next_counter();
            assert!(end.is_worn(start) && end.may_send(start));
            end.counter = REJECT_AFTER_PACKETS;
            assert!(!end.may_send(start));
        }
    }

    #[test]
    fn counters_are_made_whole_from_their_low_half() {
        let (_, mut bob) = pair(Cipher::Aes256Gcm);
        assert_eq!(bob.whole_counter(7), 7);
        // Before the first there is nothing.
        assert_eq!(bob.whole_counter(u32::MAX), 0);
        bob.mark(0x1_ffff_fff0);
        assert_eq!(bob.whole_counter(0xffff_ffe0), 0x1_ffff_ffe0);
        assert_eq!(bob.whole_counter(5), 0x2_0000_0005);
    }
}
