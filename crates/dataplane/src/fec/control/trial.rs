//! Whether the losses are our own: where a path drops whatever is too much without delaying it first, each repair makes one loss more.
//!
//! When repairs do not help, half of them is left out for a while. If less is lost then, by about what was left out, it stays at that, and is
//! tried again from there; so it does if they do not help at all. Otherwise the losses are the path's.

use crate::{parcel::carry, peer::later};
use std::time::{Duration, Instant};

/// The share of losses that are not repaired from which it is asked, and from which repairs are of no use.
const SUSPICIOUS_SHARE: f64 = 0.2;
const USELESS_SHARE: f64 = 0.9;
/// A figure is of at least so many packets and so long.
const LEAST_PACKETS: u64 = 500;
const LEAST_TIME: Duration = Duration::from_secs(2);
/// A change takes a round trip to be seen, and the losses that were under way do not count.
const BLIND: Duration = Duration::from_millis(300);
/// By what part of the repairs that were left out the losses have to fall.
const OWN_PART: f64 = 0.4;
/// How long an answer holds.
const HELD_FOR: Duration = Duration::from_secs(30);
const BELIEVED_FOR: Duration = Duration::from_secs(120);
/// Less redundancy than this is not asked about.
const LEAST_REDUNDANCY: f64 = 0.02;

/// Packets and losses since some moment.
#[derive(Debug, Clone, Copy)]
struct Sum {
    from: Option<Instant>,
    sent: u64,
    lost: u64,
    recovered: u64,
}

carry!(Sum { from, sent, lost, recovered });

impl Sum {
    const fn from(at: Option<Instant>) -> Self {
        Self { from: at, sent: 0, lost: 0, recovered: 0 }
    }

    fn is_enough(&self, now: Instant) -> bool {
        let is_long = self.from.is_some_and(|from| now >= later(from, LEAST_TIME));
        is_long && self.sent >= LEAST_PACKETS
    }

    fn loss(&self) -> f64 {
        self.lost as f64 / self.sent.max(1) as f64
    }

    fn unrepaired(&self) -> f64 {
        self.lost.saturating_sub(self.recovered) as f64 / self.lost.max(1) as f64
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Trial {
    sum: Sum,
    /// While half is left out: the loss and the redundancy before.
    before: Option<(f64, f64)>,
    /// No more than this.
    ceiling: Option<f64>,
    /// Until then the ceiling holds; without one, it is not asked before.
    held_until: Option<Instant>,
}

carry!(Trial { sum, before, ceiling, held_until });

impl Trial {
    pub(super) const fn new() -> Self {
        Self { sum: Sum::from(None), before: None, ceiling: None, held_until: None }
    }

    /// The redundancy that is not to be exceeded.
    pub(super) fn ceiling(&self) -> f64 {
        self.ceiling.unwrap_or(1.0)
    }

    /// A report came: so many packets more were sent, lost and recovered while the redundancy was `redundancy` of at most `cap`.
    pub(super) fn note(&mut self, sent: u32, lost: u32, recovered: u32, redundancy: f64, cap: f64, now: Instant) {
        let from = *self.sum.from.get_or_insert(now);
        if from > now {
            return;
        }
        self.sum.sent = self.sum.sent.saturating_add(sent.into());
        self.sum.lost = self.sum.lost.saturating_add(lost.into());
        self.sum.recovered = self.sum.recovered.saturating_add(recovered.into());
        if !self.sum.is_enough(now) {
            return;
        }
        let sum = std::mem::replace(&mut self.sum, Sum::from(Some(now)));
        let is_held = self.held_until.is_some_and(|until| now < until);
        if let Some((loss, from)) = self.before.take() {
            let is_own = loss - sum.loss() >= OWN_PART * (from - redundancy) || sum.unrepaired() >= USELESS_SHARE;
            if !is_own {
                self.ceiling = None;
            }
            self.held_until = Some(later(now, if is_own { HELD_FOR } else { BELIEVED_FOR }));
        } else if self.ceiling.is_some() && !is_held {
            // Half as much again, which is asked about as it is felt.
            self.ceiling = self.ceiling.map(|ceiling| ceiling * 1.5).filter(|ceiling| *ceiling < cap);
            self.held_until = None;
        } else {
            let is_asked = self.ceiling.is_some() || !is_held;
            let is_lost = sum.lost > 0 && sum.unrepaired() >= SUSPICIOUS_SHARE;
            if is_asked && is_lost && redundancy >= LEAST_REDUNDANCY {
                self.before = Some((sum.loss(), redundancy));
                self.ceiling = Some(redundancy / 2.0);
                self.sum = Sum::from(Some(later(now, BLIND)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects, reason = "a test that panics has failed, as it should")]
    use super::*;

    /// A minute of reports every 100 ms, 200 packets each, of which `loss` of the redundancy is lost and `repaired` of that recovered.
    fn minute(loss: impl Fn(f64) -> f64, repaired: f64) -> (Trial, Vec<f64>) {
        let (mut trial, mut now) = (Trial::new(), Instant::now());
        let redundancies = (0..600).map(|_| {
            let redundancy = trial.ceiling().min(0.25);
            let lost = (200.0 * loss(redundancy)).round();
            trial.note(200, lost as u32, (lost * repaired) as u32, redundancy, 0.25, now);
            now += Duration::from_millis(100);
            redundancy
        });
        let redundancies = redundancies.collect();
        (trial, redundancies)
    }

    #[test]
    fn losses_that_repairs_make_end_the_repairs() {
        // What passes is 99 % of what DATA alone would take.
        let (_, redundancies) = minute(|redundancy| 1.0 - 0.99 / (1.0 + redundancy), 0.3);
        assert!(redundancies[250] < 0.05, "{redundancies:?}");
        let mean = redundancies.iter().skip(100).sum::<f64>() / 500.0;
        assert!(mean < 0.07, "{mean}");
    }

    #[test]
    fn losses_of_the_path_do_not() {
        let (trial, redundancies) = minute(|_| 0.2, 0.5);
        assert!(redundancies.contains(&0.125), "it is tried");
        let mean = redundancies.iter().sum::<f64>() / 600.0;
        assert!(mean > 0.22 && trial.ceiling() >= 0.125, "{mean}");
    }

    #[test]
    fn repairs_that_help_are_left_alone() {
        let (_, redundancies) = minute(|_| 0.05, 0.95);
        assert!(redundancies.iter().all(|redundancy| *redundancy >= 0.25));
    }
}
