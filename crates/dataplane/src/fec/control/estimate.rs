//! How much is lost at random, and in how long runs: counts of which old ones weigh less and less.

use crate::parcel::carry;

/// Over how many packets an estimate reaches back: one that is quick, and one that is exact.
const QUICK_PACKETS: f64 = 500.0;
const EXACT_PACKETS: f64 = 8000.0;
/// What is taken to have come before the first loss, so that one loss is not taken for many.
const PRIOR_PACKETS: f64 = 50.0;
/// How many deviations the exact estimate is raised, and the quick one lowered, before the higher of both is believed.
const EXACT_DEVIATIONS: f64 = 0.5;
const QUICK_DEVIATIONS: f64 = 2.0;
/// What a run of each class is taken to be long.
const RUN_LENGTHS: [f64; super::RUN_CLASSES] = [1.0, 2.0, 3.4, 6.2, 12.0, 24.0];

/// Packets and losses, fading.
#[derive(Debug, Clone, Copy)]
struct Share {
    sent: f64,
    lost: f64,
    /// Lost ones, and each times the length of its run, as the classes of the runs say.
    in_runs: f64,
    weighted: f64,
}

carry!(Share { sent, lost, in_runs, weighted });

impl Share {
    const NONE: Self = Self { sent: PRIOR_PACKETS, lost: 0.0, in_runs: 0.0, weighted: 0.0 };

    fn add(&mut self, over: f64, sent: f64, lost: f64, runs: &[u16; super::RUN_CLASSES]) {
        let kept = (-sent / over).exp();
        // What is new fades within itself, too.
        let new = if sent > 0.0 { (1.0 - kept) * over / sent } else { 1.0 };
        let in_runs = |power: i32| -> f64 {
            RUN_LENGTHS.iter().zip(runs).map(|(length, runs)| length.powi(power) * f64::from(*runs)).sum()
        };
        self.sent = self.sent * kept + sent * new;
        self.lost = self.lost * kept + lost * new;
        self.in_runs = self.in_runs * kept + in_runs(1) * new;
        self.weighted = self.weighted * kept + in_runs(2) * new;
    }

    /// The mean run, if the lengths of runs fall geometrically: by the run in which the average lost packet lies.
    fn burst(&self) -> f64 {
        if self.in_runs > 0.0 { f64::midpoint(self.weighted / self.in_runs, 1.0).max(1.0) } else { 1.0 }
    }

    /// The share of the lost, so many deviations up (or down): Wilson's bounds, for losses of which each brings others along.
    fn bound(&self, deviations: f64) -> f64 {
        let spread = deviations * deviations * (2.0 * self.burst() - 1.0);
        let middle = self.lost + spread / 2.0;
        let room = (spread * (self.lost + spread / 4.0)).sqrt();
        let count = if deviations > 0.0 { middle + room } else { middle - room };
        (count / (self.sent + spread)).clamp(0.0, 1.0)
    }
}

/// What is known of the random losses of a path.
#[derive(Debug, Clone, Copy)]
pub(super) struct Estimate {
    quick: Share,
    exact: Share,
}

carry!(Estimate { quick, exact });

impl Estimate {
    pub(super) const fn new() -> Self {
        Self { quick: Share::NONE, exact: Share::NONE }
    }

    /// So many packets were sent since the last time, so many of them lost, in runs of these classes.
    pub(super) fn add(&mut self, sent: u32, lost: u32, runs: &[u16; super::RUN_CLASSES]) {
        self.quick.add(QUICK_PACKETS, sent.into(), lost.into(), runs);
        self.exact.add(EXACT_PACKETS, sent.into(), lost.into(), runs);
    }

    /// The share of packets that is lost, rather too high than too low.
    pub(super) fn loss(&self) -> f64 {
        if self.exact.lost <= 0.0 {
            return 0.0;
        }
        self.exact.bound(EXACT_DEVIATIONS).max(self.quick.bound(-QUICK_DEVIATIONS))
    }

    /// The same, as likely too high as too low.
    pub(super) fn mean_loss(&self) -> f64 {
        self.exact.lost / self.exact.sent
    }

    /// The mean length of runs of losses.
    pub(super) fn burst(&self) -> f64 {
        self.exact.burst()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(reports: u32, sent: u32, lost: u32, runs: [u16; 6]) -> Estimate {
        let mut estimate = Estimate::new();
        (0..reports).for_each(|_| estimate.add(sent, lost, &runs));
        estimate
    }

    #[test]
    fn steady_loss_is_estimated_little_too_high() {
        let estimate = after(400, 100, 1, [1, 0, 0, 0, 0, 0]);
        assert!((0.0095..0.0105).contains(&estimate.mean_loss()), "{estimate:?}");
        assert!((0.0105..0.0120).contains(&estimate.loss()), "{}", estimate.loss());
        assert!((1.0..1.01).contains(&estimate.burst()));
    }

    #[test]
    fn one_loss_is_no_more_than_a_few_percent_and_many_are_believed_soon() {
        let mut estimate = after(1, 20, 1, [1, 0, 0, 0, 0, 0]);
        assert!((0.005..0.03).contains(&estimate.loss()), "{}", estimate.loss());
        (0..3).for_each(|_| estimate.add(100, 5, &[5, 0, 0, 0, 0, 0]));
        assert!((0.03..0.07).contains(&estimate.loss()), "{}", estimate.loss());
    }

    #[test]
    fn loss_that_begins_after_a_long_better_time_is_believed_within_hundreds_of_packets() {
        let mut estimate = after(200, 100, 1, [1, 0, 0, 0, 0, 0]);
        (0..4).for_each(|_| estimate.add(100, 8, &[8, 0, 0, 0, 0, 0]));
        assert!(estimate.loss() > 0.025, "{}", estimate.loss());
    }

    #[test]
    fn bursts_are_as_long_as_the_average_lost_packet_sees_them() {
        // Geometric with a mean of 5: of 1000 runs, 200 of 1, 160 of 2, 230 of 3 to 4, 242 of 5 to 8, 140 of 9 to 16, 28 of more.
        let estimate = after(1, 250_000, 5000, [200, 160, 230, 242, 140, 28]);
        assert!((4.5..5.5).contains(&estimate.burst()), "{}", estimate.burst());
    }
}
