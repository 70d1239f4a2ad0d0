//! Arithmetic in GF(2^8) with the polynomial x^8 + x^4 + x^3 + x^2 + 1 (0x11D). A sum is an exclusive or.
//!
//! What takes time is one operation, a sum of many products of a coefficient and a packet. Which kernel does it is decided once, by what
//! the processor has.

mod scalar;
mod tables;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[expect(unsafe_code, reason = "instructions that not every processor has")]
mod vector;

#[cfg(target_arch = "aarch64")]
#[expect(unsafe_code, reason = "instructions that not every processor has")]
mod neon;
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "instructions that not every processor has")]
mod x86;

use std::sync::LazyLock;
#[cfg(target_arch = "x86_64")]
use tables::MATRICES;
use tables::{INVERSES, PRODUCTS, Products};

/// A packet and the coefficient that it is multiplied by.
pub(crate) type Term<'a> = (&'a [u8], u8);

/// So many of a [`Sum`]'s terms are added at a time.
const TERMS: usize = 64;

/// Adds the sum of the terms. A source that is shorter has zeros behind it, what is longer than `to` is left out.
///
/// Fastest where each source reaches to a multiple of 64 bytes.
pub(crate) fn combine(to: &mut [u8], terms: &[Term<'_>]) {
    (FASTEST.combine)(to, terms);
}

/// A sum under way, for which the terms are collected. It is complete when this is dropped.
pub(crate) struct Sum<'t, 'a> {
    to: &'t mut [u8],
    terms: [Term<'a>; TERMS],
    count: usize,
    combine: fn(&mut [u8], &[Term<'_>]),
}

impl<'t, 'a> Sum<'t, 'a> {
    /// What will be added is added to this.
    pub(crate) fn new(to: &'t mut [u8]) -> Self {
        Self::with(FASTEST.combine, to)
    }

    /// Calculated so.
    pub(super) const fn with(combine: fn(&mut [u8], &[Term<'_>]), to: &'t mut [u8]) -> Self {
        Self { to, terms: [(&[], 0); TERMS], count: 0, combine }
    }

    /// Adds `coefficient * bytes`.
    pub(crate) fn add(&mut self, bytes: &'a [u8], coefficient: u8) {
        if self.count == TERMS {
            self.flush();
        }
        if let Some(term) = self.terms.get_mut(self.count) {
            *term = (bytes, coefficient);
            self.count = self.count.wrapping_add(1);
        }
    }

    fn flush(&mut self) {
        (self.combine)(self.to, self.terms.get(..self.count).unwrap_or_default());
        self.count = 0;
    }
}

impl Drop for Sum<'_, '_> {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Adds `coefficient * from`.
pub(crate) fn add_scaled(to: &mut [u8], from: &[u8], coefficient: u8) {
    combine(to, &[(from, coefficient)]);
}

/// Multiplies bytes.
pub(crate) fn scale(bytes: &mut [u8], coefficient: u8) {
    let products = products(coefficient);
    bytes.iter_mut().for_each(|byte| *byte = products.with(*byte));
}

/// `a * b`.
pub(crate) fn product(a: u8, b: u8) -> u8 {
    products(a).with(b)
}

/// What gives 1 when multiplied by this. 0 has no inverse; it gives 0.
pub(crate) fn inverse(element: u8) -> u8 {
    INVERSES.get(usize::from(element)).copied().unwrap_or_default()
}

/// How many packets a second may be added up beyond what is needed: that takes a fiftieth of a processor.
pub(crate) fn terms_to_spare() -> f64 {
    if FASTEST.name == scalar::KERNEL.name { 8000.0 } else { 400_000.0 }
}

static FASTEST: LazyLock<Kernel> = LazyLock::new(|| {
    let kernel = kernels().next().unwrap_or(scalar::KERNEL);
    tracing::debug!(kernel = kernel.name, "arithmetic of loss recovery");
    kernel
});

/// One way to calculate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kernel {
    pub(super) name: &'static str,
    pub(super) combine: fn(&mut [u8], &[Term<'_>]),
}

/// Those that this processor can do, the fastest first.
pub(super) fn kernels() -> impl Iterator<Item = Kernel> {
    #[cfg(target_arch = "x86_64")]
    let vectors = [x86::gfni_512(), x86::gfni_256(), x86::avx2()];
    #[cfg(target_arch = "aarch64")]
    let vectors = [neon::neon()];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let vectors = [None];
    vectors.into_iter().flatten().chain([scalar::KERNEL])
}

fn products(coefficient: u8) -> &'static Products {
    static NONE: Products = Products { low: [0; 16], high: [0; 16] };
    PRODUCTS.get(usize::from(coefficient)).unwrap_or(&NONE)
}

impl Products {
    fn with(&self, byte: u8) -> u8 {
        let of = |half: &[u8; 16], place: u8| half.get(usize::from(place)).copied().unwrap_or_default();
        of(&self.low, byte & 0x0f) ^ of(&self.high, byte >> 4)
    }
}

/// For `gf2p8affineqb`.
#[cfg(target_arch = "x86_64")]
fn matrix(coefficient: u8) -> u64 {
    MATRICES.get(usize::from(coefficient)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests;
