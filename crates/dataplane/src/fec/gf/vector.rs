//! Sums of products, several vectors of them at a time in registers while every source goes by.

use super::Term;

/// Eight vectors, of which no processor's are longer than 64 bytes.
const LONGEST_BLOCK_BYTES: usize = 8 * 64;

/// Bytes that a processor works on at once.
///
/// # Safety
/// The functions that are `unsafe` are so for processors without the instructions, and for what they do with pointers: there are
/// [`BYTES`](Self::BYTES) bytes behind each. `BYTES` is at most 64.
pub(super) unsafe trait Vector: Copy {
    const BYTES: usize;
    /// A coefficient, made ready.
    type Factor: Copy;

    unsafe fn zero() -> Self;
    unsafe fn load(from: *const u8) -> Self;
    unsafe fn store(self, to: *mut u8);
    unsafe fn factor(coefficient: u8) -> Self::Factor;
    unsafe fn add(self, other: Self) -> Self;
    /// This and `factor * other`.
    unsafe fn add_product(self, other: Self, factor: Self::Factor) -> Self;
}

/// Adds the sum of the terms. What calls this has the vector's instructions enabled, and all of this is part of it.
///
/// # Safety
/// The processor has the vector's instructions.
#[inline(always)]
pub(super) unsafe fn combine<V: Vector>(to: &mut [u8], terms: &[Term<'_>]) {
    let (mut left, mut offset) = (to, 0_usize);
    while !left.is_empty() {
        let vectors = left.len().div_ceil(V::BYTES);
        let count = if vectors < 8 { 1 << vectors.ilog2() } else { 8 };
        let length = V::BYTES.wrapping_mul(count).min(left.len());
        let (block, behind) = left.split_at_mut(length);
        // SAFETY: the caller's word.
        unsafe {
            match count {
                1 => add_block::<V, 1>(block, offset, terms),
                2 => add_block::<V, 2>(block, offset, terms),
                4 => add_block::<V, 4>(block, offset, terms),
                _ => add_block::<V, 8>(block, offset, terms),
            }
        }
        (left, offset) = (behind, offset.wrapping_add(length));
    }
}

/// Adds the terms' bytes from `offset` on to a block of at most `N` vectors, all of whose sums are in registers meanwhile.
///
/// # Safety
/// The processor has the vector's instructions.
#[inline(always)]
unsafe fn add_block<V: Vector, const N: usize>(block: &mut [u8], offset: usize, terms: &[Term<'_>]) {
    let length = N.wrapping_mul(V::BYTES);
    let mut part = [0; LONGEST_BLOCK_BYTES];
    // SAFETY: the processor is the caller's word; behind each pointer are at least N vectors, and `number` is less than N.
    unsafe {
        let mut sums = [V::zero(); N];
        for (bytes, coefficient) in terms {
            let bytes = bytes.get(offset..).unwrap_or_default();
            if bytes.is_empty() {
                continue;
            }
            let from = if bytes.len() >= length { bytes.as_ptr() } else { padded(bytes, length, &mut part).as_ptr() };
            let factor = V::factor(*coefficient);
            for (number, sum) in sums.iter_mut().enumerate() {
                *sum = sum.add_product(V::load(from.add(number.wrapping_mul(V::BYTES))), factor);
            }
        }
        let is_whole = block.len() == length;
        let to = if is_whole { block.as_mut_ptr() } else { padded(block, length, &mut part).as_mut_ptr() };
        for (number, sum) in sums.into_iter().enumerate() {
            let to = to.add(number.wrapping_mul(V::BYTES));
            V::load(to).add(sum).store(to);
        }
        if !is_whole {
            block.iter_mut().zip(part).for_each(|(place, byte)| *place = byte);
        }
    }
}

/// Bytes with zeros behind them, up to `length`.
#[inline]
fn padded<'p>(
    bytes: &[u8],
    length: usize,
    part: &'p mut [u8; LONGEST_BLOCK_BYTES],
) -> &'p mut [u8; LONGEST_BLOCK_BYTES] {
    part.iter_mut().take(length).for_each(|place| *place = 0);
    part.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
    part
}
