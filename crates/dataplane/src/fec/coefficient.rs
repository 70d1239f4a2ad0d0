//! By which number a repair multiplies each packet. Nothing of it is sent: both ends calculate it from the repair's number (the counter in
//! its header) and the packet's sequence number.
//!
//! `coefficient(number, sequence)` is one step of splitmix64, its upper half mapped to 1 to 255; all numbers are unsigned, `+` and `*` of
//! 64 bits are modulo 2^64, `>>` shifts zeros in:
//!
//! ```text
//! x = number * 2^32 + sequence
//! z = x + 0x9e3779b97f4a7c15
//! z = (z xor (z >> 30)) * 0xbf58476d1ce4e5b9
//! z = (z xor (z >> 27)) * 0x94d049bb133111eb
//! z = z xor (z >> 31)
//! coefficient = 1 + (((z >> 32) * 255) >> 32)
//! ```
//!
//! No coefficient is 0, so that a repair recovers a packet that alone is missing; each of the 255 values has its share of 2^32 to within
//! one.
//!
//! | number | sequence | coefficient |
//! |---|---|---|
//! | 0 | 0 | 0xe2 |
//! | 0 | 1 | 0x91 |
//! | 1 | 0 | 0xc4 |
//! | 7 | 0xfffffffe | 0x5e |
//! | 7 | 0xffffffff | 0xe9 |
//! | 7 | 0 | 0xbd |
//! | 7 | 1 | 0x1b |
//! | 0xdeadbeef | 0x12345678 | 0x4e |
//! | 0xffffffff | 0xffffffff | 0xe4 |

/// The repair's coefficient of one packet; never 0.
pub(crate) const fn coefficient(number: u32, sequence: u32) -> u8 {
    let x = (number as u64) << 32 | sequence as u64;
    let z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    let z = z ^ z >> 31;
    let scaled = ((z >> 32).wrapping_mul(255) >> 32) as u8;
    scaled.wrapping_add(1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects, reason = "a test that panics has failed, as it should")]
    use super::*;
    use crate::fec::gf;

    #[test]
    fn coefficients_are_as_documented() {
        let vectors =
            include_str!("coefficient.rs").lines().filter_map(|line| line.strip_prefix("//! | ")?.strip_suffix(" |"));
        let number = |text: &str| match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        };
        let mut count = 0;
        for cells in vectors.map(|line| line.split(" | ").map(number).collect::<Vec<_>>()) {
            if let [Some(number), Some(sequence), Some(expected)] = cells[..] {
                assert_eq!(u32::from(coefficient(number, sequence)), expected, "{number} {sequence}");
                count += 1;
            }
        }
        assert_eq!(count, 9);
    }

    #[test]
    fn the_mixer_is_splitmix64() {
        // Its first output for the seed 0 is 0xe220a8397b1dcdaf.
        assert_eq!(coefficient(0, 0), (1 + ((0xe220_a839_u64 * 255) >> 32)) as u8);
    }

    #[test]
    fn each_value_but_zero_is_as_frequent() {
        let mut counts = [0_u32; 256];
        for number in 0..1000 {
            for sequence in 0..2550 {
                counts[usize::from(coefficient(number, sequence))] += 1;
            }
        }
        assert_eq!(counts[0], 0);
        // 10,000 each, with a standard deviation of 100.
        assert!(counts[1..].iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }

    fn is_singular(mut rows: Vec<Vec<u8>>) -> bool {
        for column in 0..rows.len() {
            let Some(pivot) = (column..rows.len()).find(|row| rows[*row][column] != 0) else { return true };
            rows.swap(column, pivot);
            let inverse = gf::inverse(rows[column][column]);
            for row in column + 1..rows.len() {
                let share = gf::product(rows[row][column], inverse);
                let pivot = rows[column].clone();
                gf::add_scaled(&mut rows[row], &pivot, share);
            }
        }
        false
    }

    #[test]
    fn repairs_that_cannot_solve_as_many_losses_are_as_rare_as_chance_has_it() {
        let mut random = 1_u64;
        let mut singular = 0;
        for matrix in 0..50_000_u32 {
            let size = 2 + matrix % 11;
            let sequences: Vec<u32> = (0..size)
                .map(|place| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    // A burst, or here and there.
                    matrix.wrapping_mul(1009) + if matrix & 1 == 0 { place } else { place * 40 + (random >> 59) as u32 }
                })
                .collect();
            // Repairs are numbered among the packets.
            let numbers = (0..size).map(|repair| matrix.wrapping_mul(733) + repair * 11);
            let rows = numbers.map(|number| sequences.iter().map(|sequence| coefficient(number, *sequence)).collect());
            singular += u32::from(is_singular(rows.collect()));
        }
        // 1 in 255: 196, with a standard deviation of 14.
        assert!((140..252).contains(&singular), "{singular}");
    }
}
