//! Sums a byte at a time: for a processor that nothing else fits, and what the other kernels are compared with.

use super::{Kernel, Term, products};

pub(super) const KERNEL: Kernel = Kernel { name: "scalar", combine };

fn combine(to: &mut [u8], terms: &[Term<'_>]) {
    for (bytes, coefficient) in terms {
        let products = products(*coefficient);
        to.iter_mut().zip(*bytes).for_each(|(place, byte)| *place ^= products.with(*byte));
    }
}
