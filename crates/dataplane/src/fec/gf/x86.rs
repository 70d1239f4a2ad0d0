//! AVX2 looks halves of bytes up in two tables; GFNI multiplies each byte by a matrix of bits, which knows no polynomial and thus fits
//! ours.

use super::{Kernel, Term, matrix, products, vector, vector::Vector};
use std::arch::x86_64::{
    __m256i, __m512i, _mm_loadu_si128, _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_gf2p8affine_epi64_epi8,
    _mm256_loadu_si256, _mm256_set1_epi8, _mm256_set1_epi64x, _mm256_setzero_si256, _mm256_shuffle_epi8,
    _mm256_srli_epi16, _mm256_storeu_si256, _mm256_xor_si256, _mm512_gf2p8affine_epi64_epi8, _mm512_loadu_si512,
    _mm512_set1_epi64, _mm512_setzero_si512, _mm512_storeu_si512, _mm512_xor_si512,
};

pub(super) fn avx2() -> Option<Kernel> {
    is_x86_feature_detected!("avx2").then_some(Kernel {
        name: "AVX2",
        // SAFETY: the processor has what the function needs.
        combine: |to, terms| unsafe { combine_avx2(to, terms) },
    })
}

pub(super) fn gfni_256() -> Option<Kernel> {
    (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("gfni")).then_some(Kernel {
        name: "GFNI, 256 bits",
        // SAFETY: the processor has what the function needs.
        combine: |to, terms| unsafe { combine_gfni_256(to, terms) },
    })
}

pub(super) fn gfni_512() -> Option<Kernel> {
    (is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("gfni")).then_some(Kernel {
        name: "GFNI, 512 bits",
        // SAFETY: the processor has what the function needs.
        combine: |to, terms| unsafe { combine_gfni_512(to, terms) },
    })
}

#[target_feature(enable = "avx2")]
fn combine_avx2(to: &mut [u8], terms: &[Term<'_>]) {
    // SAFETY: this function has the vector's instructions.
    unsafe { vector::combine::<Avx2>(to, terms) }
}

#[target_feature(enable = "avx2,gfni")]
fn combine_gfni_256(to: &mut [u8], terms: &[Term<'_>]) {
    // SAFETY: this function has the vector's instructions.
    unsafe { vector::combine::<Gfni256>(to, terms) }
}

#[target_feature(enable = "avx512f,gfni")]
fn combine_gfni_512(to: &mut [u8], terms: &[Term<'_>]) {
    // SAFETY: this function has the vector's instructions.
    unsafe { vector::combine::<Gfni512>(to, terms) }
}

#[derive(Clone, Copy)]
struct Avx2(__m256i);

// SAFETY: a vector has 32 bytes; all below are AVX and AVX2.
unsafe impl Vector for Avx2 {
    const BYTES: usize = 32;
    type Factor = (__m256i, __m256i);

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: as the trait says.
        Self(unsafe { _mm256_setzero_si256() })
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: as the trait says.
        Self(unsafe { _mm256_loadu_si256(from.cast()) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: as the trait says.
        unsafe { _mm256_storeu_si256(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn factor(coefficient: u8) -> Self::Factor {
        let products = products(coefficient);
        // SAFETY: as the trait says, and each table has 16 bytes.
        unsafe {
            let [low, high] = [&products.low, &products.high]
                .map(|half| _mm256_broadcastsi128_si256(_mm_loadu_si128(half.as_ptr().cast())));
            (low, high)
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as the trait says.
        Self(unsafe { _mm256_xor_si256(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn add_product(self, other: Self, (low, high): Self::Factor) -> Self {
        // SAFETY: as the trait says.
        Self(unsafe {
            let half = _mm256_set1_epi8(0x0f);
            let lower = _mm256_shuffle_epi8(low, _mm256_and_si256(other.0, half));
            let upper = _mm256_shuffle_epi8(high, _mm256_and_si256(_mm256_srli_epi16::<4>(other.0), half));
            _mm256_xor_si256(self.0, _mm256_xor_si256(lower, upper))
        })
    }
}

#[derive(Clone, Copy)]
struct Gfni256(__m256i);

// SAFETY: a vector has 32 bytes; all below are AVX, AVX2 and GFNI.
unsafe impl Vector for Gfni256 {
    const BYTES: usize = 32;
    type Factor = __m256i;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: as the trait says.
        Self(unsafe { _mm256_setzero_si256() })
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: as the trait says.
        Self(unsafe { _mm256_loadu_si256(from.cast()) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: as the trait says.
        unsafe { _mm256_storeu_si256(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn factor(coefficient: u8) -> Self::Factor {
        // SAFETY: as the trait says.
        unsafe { _mm256_set1_epi64x(matrix(coefficient).cast_signed()) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as the trait says.
        Self(unsafe { _mm256_xor_si256(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn add_product(self, other: Self, factor: Self::Factor) -> Self {
        // SAFETY: as the trait says.
        Self(unsafe { _mm256_xor_si256(self.0, _mm256_gf2p8affine_epi64_epi8::<0>(other.0, factor)) })
    }
}

#[derive(Clone, Copy)]
struct Gfni512(__m512i);

// SAFETY: a vector has 64 bytes; all below are AVX-512F and GFNI.
unsafe impl Vector for Gfni512 {
    const BYTES: usize = 64;
    type Factor = __m512i;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: as the trait says.
        Self(unsafe { _mm512_setzero_si512() })
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: as the trait says.
        Self(unsafe { _mm512_loadu_si512(from.cast()) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: as the trait says.
        unsafe { _mm512_storeu_si512(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn factor(coefficient: u8) -> Self::Factor {
        // SAFETY: as the trait says.
        unsafe { _mm512_set1_epi64(matrix(coefficient).cast_signed()) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as the trait says.
        Self(unsafe { _mm512_xor_si512(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn add_product(self, other: Self, factor: Self::Factor) -> Self {
        // SAFETY: as the trait says.
        Self(unsafe { _mm512_xor_si512(self.0, _mm512_gf2p8affine_epi64_epi8::<0>(other.0, factor)) })
    }
}
