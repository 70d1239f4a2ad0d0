//! Packets in a ring, each in a place of its own.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What all rings of the process take together, and the most that they may: who comes later keeps nothing until others have forgotten.
static TAKEN_BYTES: AtomicUsize = AtomicUsize::new(0);
const MOST_BYTES: usize = 256 << 20;

/// Vectors are at most so long: sums are fastest over sources that reach to a multiple of this.
const VECTOR_BYTES: usize = 64;

/// The length, with the zeros that every kept packet has behind it.
pub(super) const fn padded(length: usize) -> usize {
    length.next_multiple_of(VECTOR_BYTES)
}

/// The last so many packets by their sequence numbers.
#[derive(Debug)]
pub(super) struct Slots<const COUNT: usize> {
    longest_bytes: u16,
    /// The distance of two places.
    stride: usize,
    /// Nothing while none is kept.
    bytes: Box<[u8]>,
    lengths: Box<[u16]>,
}

impl<const COUNT: usize> Slots<COUNT> {
    /// So that numbers of 32 bits go round without a seam.
    const MASK: u32 = {
        assert!(COUNT.is_power_of_two());
        (COUNT as u32).wrapping_sub(1)
    };

    pub(super) fn new(longest_bytes: u16) -> Self {
        let lines = (longest_bytes as usize).div_ceil(VECTOR_BYTES);
        // An odd number of cache lines, so that the beginnings of packets do not all fall to the same few sets of the cache.
        let stride = (lines | 1).wrapping_mul(VECTOR_BYTES);
        Self { longest_bytes, stride, bytes: Box::new([]), lengths: Box::new([]) }
    }

    pub(super) const fn longest_bytes(&self) -> u16 {
        self.longest_bytes
    }

    /// Keeps a packet, given in two pieces, instead of the one that was in its place. False: it is too long.
    pub(super) fn put(&mut self, sequence: u32, head: &[u8], payload: &[u8]) -> bool {
        let length = head.len().saturating_add(payload.len());
        if length > usize::from(self.longest_bytes) {
            return false;
        }
        if self.bytes.is_empty() && !self.take_memory() {
            return false;
        }
        let place = Self::place(sequence);
        let Some(kept) = self.lengths.get_mut(place) else { return false };
        let start = place.wrapping_mul(self.stride);
        let Some(slot) = self.bytes.get_mut(start..).and_then(|slots| slots.get_mut(..padded(length))) else {
            return false;
        };
        let (first, rest) = slot.split_at_mut(head.len());
        let (second, zeros) = rest.split_at_mut(payload.len());
        first.copy_from_slice(head);
        second.copy_from_slice(payload);
        zeros.fill(0);
        *kept = length as u16;
        true
    }

    pub(super) fn length(&self, sequence: u32) -> u16 {
        self.lengths.get(Self::place(sequence)).copied().unwrap_or_default()
    }

    /// What was put there, with the zeros behind it.
    pub(super) fn padded(&self, sequence: u32) -> &[u8] {
        self.bytes(sequence, padded(self.length(sequence).into()))
    }

    /// What was put there.
    pub(super) fn packet(&self, sequence: u32) -> &[u8] {
        self.bytes(sequence, self.length(sequence).into())
    }

    fn bytes(&self, sequence: u32, length: usize) -> &[u8] {
        let start = Self::place(sequence).wrapping_mul(self.stride);
        self.bytes.get(start..).and_then(|slots| slots.get(..length)).unwrap_or_default()
    }

    /// False: others have taken all that there is for it.
    fn take_memory(&mut self) -> bool {
        let size = self.stride.saturating_mul(COUNT);
        if TAKEN_BYTES.fetch_add(size, Relaxed) > MOST_BYTES.saturating_sub(size) {
            TAKEN_BYTES.fetch_sub(size, Relaxed);
            return false;
        }
        self.bytes = vec![0; size].into();
        self.lengths = vec![0; COUNT].into();
        true
    }

    /// Gives the memory back.
    pub(super) fn forget(&mut self) {
        *self = Self::new(self.longest_bytes);
    }

    const fn place(sequence: u32) -> usize {
        (sequence & Self::MASK) as usize
    }
}

impl<const COUNT: usize> Drop for Slots<COUNT> {
    fn drop(&mut self) {
        TAKEN_BYTES.fetch_sub(self.bytes.len(), Relaxed);
    }
}
