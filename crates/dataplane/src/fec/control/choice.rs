//! Redundancy and window for a path, out of the table.

use crate::fec::table::{BURSTS, LOSSES, TABLE, TARGETS, WINDOWS};

/// The unit of the table's redundancies.
const PARTS: f64 = 10_000.0;

/// The redundancy, and the window in packets, with which at most `target` of the packets stays lost: for this share of losses in runs of
/// this mean length, where repairs may cover `longest` packets.
pub(in crate::fec) fn choose(target: f64, loss: f64, burst: f64, longest: f64) -> (f64, u16) {
    // Independent losses come in runs, too.
    let burst = (burst * (1.0 - loss)).max(1.0);
    let (windows, longest_step) = (WINDOWS.map(|window| f64::from(window).log2()), longest.max(1.0).log2());
    let axes = [
        between(&TARGETS.map(f64::log2), target.max(f64::MIN_POSITIVE).log2()),
        between(&LOSSES.map(f64::log2), loss.max(f64::MIN_POSITIVE).log2()),
        between(&BURSTS, burst),
        between(&windows, longest_step),
    ];
    let (mut redundancy, mut window) = (0.0, 0.0);
    for corner in 0..1_u8 << axes.len() {
        let mut weight = 1.0;
        let places = axes.map(|(place, share)| (place, share));
        let mut at = [0_usize; 4];
        for (axis, ((place, share), at)) in places.into_iter().zip(&mut at).enumerate() {
            let is_next = corner >> axis & 1 != 0;
            weight *= if is_next { share } else { 1.0 - share };
            *at = place.saturating_add(is_next.into());
        }
        let [target, loss, burst, longest] = at;
        let cell = TABLE.get(target).and_then(|table| table.get(loss)?.get(burst)?.get(longest));
        if let Some((parts, packets)) = cell.filter(|_| weight > 0.0) {
            redundancy += weight * f64::from(*parts) / PARTS;
            window += weight * f64::from(*packets);
        }
    }
    (redundancy, window.min(longest).max(1.0) as u16)
}

/// Between which places of an axis a value lies, and how far from the lower one; what lies outside is moved to the end.
fn between(axis: &[f64], value: f64) -> (usize, f64) {
    let is_rising = axis.first() < axis.last();
    let is_before = |point: &f64| if is_rising { *point <= value } else { *point >= value };
    let lower = axis.iter().take_while(|point| is_before(point)).count().saturating_sub(1);
    let (Some(from), Some(to)) = (axis.get(lower), axis.get(lower.saturating_add(1))) else { return (lower, 0.0) };
    (lower, ((value - from) / (to - from)).clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lie_between_places_and_none_outside() {
        assert_eq!(between(&[1.0, 2.0, 4.0], 0.5), (0, 0.0));
        assert_eq!(between(&[1.0, 2.0, 4.0], 3.0), (1, 0.5));
        assert_eq!(between(&[1.0, 2.0, 4.0], 9.0), (2, 0.0));
        assert_eq!(between(&[4.0, 2.0, 1.0], 3.0), (0, 0.5));
    }

    #[test]
    fn places_of_the_table_are_found() {
        let (redundancy, window) = choose(1e-5, 0.02, 1.0 / 0.98, 128.0);
        let (parts, packets) = TABLE[1][5][0][2];
        assert!((redundancy - f64::from(parts) / PARTS).abs() < 1e-9 && window.abs_diff(packets) <= 1);
    }

    #[test]
    fn more_loss_and_longer_runs_take_more() {
        let of = |loss, burst| choose(1e-5, loss, burst, 100.0).0;
        assert!(of(0.001, 1.0) < of(0.01, 1.0) && of(0.01, 1.0) < of(0.03, 1.0) && of(0.03, 1.0) < of(0.06, 1.0));
        assert!(of(0.01, 1.0) < of(0.01, 2.0) && of(0.01, 2.0) < of(0.01, 4.0));
    }

    #[test]
    fn nothing_outside_the_table_is_out_of_bounds() {
        for value in [0.0, 1e-12, 1.0, 1e12] {
            let (redundancy, window) = choose(value, value, value, value);
            assert!((0.0..=0.31).contains(&redundancy) && (1..=512).contains(&window), "{redundancy} {window}");
        }
    }
}
