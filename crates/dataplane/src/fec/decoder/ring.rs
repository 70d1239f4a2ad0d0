//! What is known of the last packets.

use crate::fec::{Window, slots::Slots};

/// How many sequence numbers are remembered; twice the longest window.
pub(super) const LENGTH: u32 = 1024;
const WORD_BITS: u32 = 64;
const WORDS: usize = (LENGTH / WORD_BITS) as usize;

/// Where a sequence number lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Position {
    /// Among the last ones.
    Held,
    /// Behind the newest, near enough that the ring goes on to it.
    Ahead,
    /// So far ahead that nothing of what is remembered would remain.
    FarAhead,
    /// Before all that is remembered.
    Old,
}

/// The last [`LENGTH`] sequence numbers: which packets are here, and which are missing for sure, since a repair covers them.
#[derive(Debug)]
pub(super) struct Ring {
    slots: Slots<{ LENGTH as usize }>,
    /// The highest number so far, once there is one.
    newest: Option<u32>,
    here: Bits,
    missing: Bits,
}

impl Ring {
    pub(super) fn new(longest_bytes: u16) -> Self {
        Self { slots: Slots::new(longest_bytes), newest: None, here: Bits::default(), missing: Bits::default() }
    }

    pub(super) const fn longest_bytes(&self) -> u16 {
        self.slots.longest_bytes()
    }

    pub(super) const fn newest(&self) -> Option<u32> {
        self.newest
    }

    /// Before anything came, every number is [`Position::FarAhead`].
    pub(super) const fn position(&self, sequence: u32) -> Position {
        let Some(newest) = self.newest else { return Position::FarAhead };
        let behind = newest.wrapping_sub(sequence);
        let ahead = sequence.wrapping_sub(newest);
        match (behind, ahead) {
            (..LENGTH, _) => Position::Held,
            (_, ..=LENGTH) => Position::Ahead,
            _ if ahead.cast_signed() > 0 => Position::FarAhead,
            _ => Position::Old,
        }
    }

    /// Forgets all and begins with this number as the newest one. Gives how many are missing for ever.
    pub(super) fn begin(&mut self, newest: u32) -> u64 {
        let given_up = self.missing.count();
        (self.here, self.missing, self.newest) = (Bits::default(), Bits::default(), Some(newest));
        given_up
    }

    /// Goes on to a number that is [`Position::Ahead`]. Gives how many are missing for ever.
    pub(super) fn advance(&mut self, newest: u32) -> u64 {
        let steps = newest.wrapping_sub(self.newest.unwrap_or(newest));
        let mut given_up = 0_u64;
        for step in 0..steps.min(LENGTH) {
            let sequence = newest.wrapping_sub(step);
            given_up = given_up.wrapping_add(self.missing.has(sequence).into());
            self.here.unset(sequence);
            self.missing.unset(sequence);
        }
        self.newest = Some(newest);
        given_up
    }

    /// Whether a packet is here whose number is [`Position::Held`].
    pub(super) fn has(&self, sequence: u32) -> bool {
        self.here.has(sequence)
    }

    /// Keeps a packet whose number is [`Position::Held`]. False: it is too long.
    pub(super) fn put(&mut self, sequence: u32, packet: &[u8]) -> bool {
        if !self.slots.put(sequence, packet, &[]) {
            return false;
        }
        self.here.set(sequence);
        self.missing.unset(sequence);
        true
    }

    /// A packet that is here.
    pub(super) fn packet(&self, sequence: u32) -> &[u8] {
        self.slots.packet(sequence)
    }

    /// A packet that is here, and zeros up to a multiple of what vectors hold.
    pub(super) fn padded(&self, sequence: u32) -> &[u8] {
        self.slots.padded(sequence)
    }

    /// A repair covers these, all of which are [`Position::Held`]: those that are not here are missing. Gives how many, and writes as
    /// many of their numbers as there is room for.
    pub(super) fn cover(&mut self, window: Window, absent: &mut [u32]) -> usize {
        let mut places = absent.iter_mut();
        let (mut sequence, mut left, mut count) = (window.first(), u32::from(window.count), 0_usize);
        while left > 0 {
            let at = sequence % WORD_BITS;
            let span = WORD_BITS.wrapping_sub(at).min(left);
            let covered = (u64::MAX >> WORD_BITS.wrapping_sub(span)) << at;
            let mut bits = covered & !self.here.word(sequence);
            self.missing.add(sequence, bits);
            count = count.wrapping_add(bits.count_ones() as usize);
            while bits != 0 {
                if let Some(place) = places.next() {
                    *place = sequence.wrapping_sub(at).wrapping_add(bits.trailing_zeros());
                }
                bits &= bits.wrapping_sub(1);
            }
            (sequence, left) = (sequence.wrapping_add(span), left.wrapping_sub(span));
        }
        count
    }

    /// Gives the memory back, and how many are missing for ever.
    pub(super) fn forget(&mut self) -> u64 {
        let given_up = self.missing.count();
        *self = Self::new(self.longest_bytes());
        given_up
    }

    /// The numbers that are remembered, the oldest first.
    pub(super) fn sequences(&self) -> impl Iterator<Item = u32> + use<> {
        let newest = self.newest;
        (0..LENGTH).rev().filter_map(move |behind| Some(newest?.wrapping_sub(behind)))
    }

    pub(super) fn is_missing(&self, sequence: u32) -> bool {
        self.missing.has(sequence)
    }

    /// A packet whose number is [`Position::Held`], and which is not here, is missing for sure.
    pub(super) fn set_missing(&mut self, sequence: u32) {
        self.missing.set(sequence);
    }
}

/// One bit a sequence number of the ring.
#[derive(Debug, Default)]
struct Bits([u64; WORDS]);

impl Bits {
    fn word(&self, sequence: u32) -> u64 {
        self.0.get(word(sequence)).copied().unwrap_or_default()
    }

    fn has(&self, sequence: u32) -> bool {
        self.word(sequence) & bit(sequence) != 0
    }

    fn set(&mut self, sequence: u32) {
        self.add(sequence, bit(sequence));
    }

    fn unset(&mut self, sequence: u32) {
        if let Some(word) = self.0.get_mut(word(sequence)) {
            *word &= !bit(sequence);
        }
    }

    /// Sets bits in this number's word.
    fn add(&mut self, sequence: u32, bits: u64) {
        if let Some(word) = self.0.get_mut(word(sequence)) {
            *word |= bits;
        }
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

const fn word(sequence: u32) -> usize {
    (sequence / WORD_BITS) as usize % WORDS
}

const fn bit(sequence: u32) -> u64 {
    1 << (sequence % WORD_BITS)
}
