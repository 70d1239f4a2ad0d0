//! NEON looks halves of bytes up in two tables.

use super::{Kernel, Term, products, vector, vector::Vector};
use std::arch::{
    aarch64::{uint8x16_t, vandq_u8, vdupq_n_u8, veorq_u8, vld1q_u8, vqtbl1q_u8, vshrq_n_u8, vst1q_u8},
    is_aarch64_feature_detected,
};

pub(super) fn neon() -> Option<Kernel> {
    is_aarch64_feature_detected!("neon").then_some(Kernel {
        name: "NEON",
        // SAFETY: the processor has what the function needs.
        combine: |to, terms| unsafe { combine(to, terms) },
    })
}

#[target_feature(enable = "neon")]
fn combine(to: &mut [u8], terms: &[Term<'_>]) {
    // SAFETY: this function has the vector's instructions.
    unsafe { vector::combine::<Neon>(to, terms) }
}

#[derive(Clone, Copy)]
struct Neon(uint8x16_t);

// SAFETY: a vector has 16 bytes; all below are NEON.
unsafe impl Vector for Neon {
    const BYTES: usize = 16;
    type Factor = (uint8x16_t, uint8x16_t);

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: as the trait says.
        Self(unsafe { vdupq_n_u8(0) })
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: as the trait says.
        Self(unsafe { vld1q_u8(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: as the trait says.
        unsafe { vst1q_u8(to, self.0) }
    }

    #[inline(always)]
    unsafe fn factor(coefficient: u8) -> Self::Factor {
        let products = products(coefficient);
        // SAFETY: as the trait says, and each table has 16 bytes.
        unsafe { (vld1q_u8(products.low.as_ptr()), vld1q_u8(products.high.as_ptr())) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as the trait says.
        Self(unsafe { veorq_u8(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn add_product(self, other: Self, (low, high): Self::Factor) -> Self {
        // SAFETY: as the trait says.
        Self(unsafe {
            let lower = vqtbl1q_u8(low, vandq_u8(other.0, vdupq_n_u8(0x0f)));
            let upper = vqtbl1q_u8(high, vshrq_n_u8::<4>(other.0));
            veorq_u8(self.0, veorq_u8(lower, upper))
        })
    }
}
