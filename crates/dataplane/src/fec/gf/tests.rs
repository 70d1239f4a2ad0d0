#![allow(clippy::arithmetic_side_effects, reason = "a test that panics has failed, as it should")]
use super::*;
use galois_2p8::{Field, IrreducablePolynomial, PrimitivePolynomialField};
use proptest::prelude::*;

fn other_field() -> PrimitivePolynomialField {
    PrimitivePolynomialField::new(IrreducablePolynomial::Poly84320).unwrap()
}

#[test]
fn products_and_inverses_are_those_of_another_implementation() {
    let field = other_field();
    for a in 0..=255 {
        for b in 0..=255 {
            assert_eq!(product(a, b), field.mult(a, b), "{a} * {b}");
        }
        if a != 0 {
            assert_eq!(inverse(a), field.div(1, a), "1 / {a}");
        }
    }
    assert_eq!(inverse(0), 0);
}

#[test]
fn the_polynomial_is_0x11d() {
    assert_eq!(product(0x80, 2), 0x1d);
}

#[test]
fn some_kernel_other_than_the_scalar_one_is_used_where_there_is_one() {
    let names: Vec<_> = kernels().map(|kernel| kernel.name).collect();
    println!("{names:?}");
    assert_eq!(FASTEST.name, names[0]);
    assert_eq!(names.last(), Some(&"scalar"));
}

#[test]
fn scaling_is_adding_to_nothing() {
    let bytes: Vec<u8> = (0..=255).collect();
    let (mut scaled, mut added) = (bytes.clone(), [0; 256]);
    scale(&mut scaled, 0x53);
    add_scaled(&mut added, &bytes, 0x53);
    assert_eq!(scaled, added);
}

proptest! {
    #[test]
    fn every_kernel_gives_the_sum_of_another_implementation(
        seed in proptest::collection::vec(any::<u8>(), 2100),
        to in (0..64_usize, 0..=2000_usize),
        sources in proptest::collection::vec((0..64_usize, 0..=2000_usize, any::<u8>()), 0..20),
    ) {
        let field = other_field();
        let terms: Vec<Term<'_>> = sources.iter().map(|(at, length, c)| (&seed[*at..at + length], *c)).collect();
        let mut expected = seed[to.0..to.0 + to.1].to_vec();
        for (bytes, coefficient) in &terms {
            for (place, byte) in expected.iter_mut().zip(*bytes) {
                *place ^= field.mult(*byte, *coefficient);
            }
        }
        for kernel in kernels() {
            // What lies around the place stays as it is.
            let mut sum = seed.clone();
            (kernel.combine)(&mut sum[to.0..to.0 + to.1], &terms);
            prop_assert_eq!(&sum[to.0..to.0 + to.1], &expected, "{}", kernel.name);
            prop_assert_eq!((&sum[..to.0], &sum[to.0 + to.1..]), (&seed[..to.0], &seed[to.0 + to.1..]), "{}", kernel.name);
        }
    }

    #[test]
    fn every_kernel_multiplies_every_length_of_a_source_into_every_length_of_a_sum(
        seed in proptest::collection::vec(any::<u8>(), 300), at in 0..16_usize, coefficient in any::<u8>(),
    ) {
        for (from, to) in (0..=260).step_by(13).flat_map(|from| (0..=260).step_by(7).map(move |to| (from, to))) {
            let source = &seed[at..at + from];
            let mut expected = vec![0; to];
            expected.iter_mut().zip(source).for_each(|(place, byte)| *place = product(*byte, coefficient));
            for kernel in kernels() {
                let mut sum = vec![0; to];
                (kernel.combine)(&mut sum, &[(source, coefficient)]);
                prop_assert_eq!(&sum, &expected, "{}: {} into {}", kernel.name, from, to);
            }
        }
    }
}
