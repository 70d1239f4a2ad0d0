//! Round trips: the figures that people read, and the time after which an answer is overdue.

use super::RoundTrip;
use crate::parcel::carry;
use std::time::Duration;

/// How many of the last round trips are told of.
const KEPT: usize = 128;
/// An answer is never overdue earlier: the other end may be busy.
const LEAST_PATIENCE: Duration = Duration::from_millis(100);

/// The last round trips, in microseconds.
#[derive(Debug)]
pub(crate) struct RoundTrips {
    kept: [u32; KEPT],
    count: usize,
    next: usize,
    last_us: u32,
    /// RFC 3550, section 6.4.1, times 16 as in its appendix A.8.
    jitter_x16_us: u64,
    /// RFC 6298: smoothed round trip and its variation.
    smooth: Option<(Duration, Duration)>,
}

carry!(RoundTrips { kept, count, next, last_us, jitter_x16_us, smooth });

impl RoundTrips {
    pub(crate) const fn new() -> Self {
        Self { kept: [0; KEPT], count: 0, next: 0, last_us: 0, jitter_x16_us: 0, smooth: None }
    }

    pub(crate) fn note(&mut self, time: Duration) {
        let us = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        if self.count > 0 {
            let change = u64::from(us.abs_diff(self.last_us));
            self.jitter_x16_us =
                self.jitter_x16_us.saturating_add(change).saturating_sub(self.jitter_x16_us.saturating_add(8) >> 4);
        }
        self.last_us = us;
        if let Some(place) = self.kept.get_mut(self.next) {
            *place = us;
        }
        self.next = self.next.wrapping_add(1).checked_rem(KEPT).unwrap_or_default();
        self.count = self.count.saturating_add(1).min(KEPT);
        self.smooth = Some(match self.smooth {
            None => (time, part(time, 2)),
            Some((smooth, variation)) => {
                let variation = part(variation.saturating_mul(3).saturating_add(smooth.abs_diff(time)), 4);
                (part(smooth.saturating_mul(7).saturating_add(time), 8), variation)
            }
        });
    }

    /// Smoothed round trip and its variation.
    pub(crate) const fn smooth(&self) -> Option<(Duration, Duration)> {
        self.smooth
    }

    /// After how long an answer is overdue.
    pub(crate) fn patience(&self) -> Duration {
        // RFC 6298, section 2.1: a second as long as nothing is known.
        let known = self.smooth.map(|(smooth, variation)| smooth.saturating_add(variation.saturating_mul(4)));
        known.unwrap_or(Duration::from_secs(1)).max(LEAST_PATIENCE)
    }

    /// `None` while there is no round trip.
    pub(crate) fn figures(&self) -> Option<RoundTrip> {
        let mut sorted = self.kept;
        let sorted = sorted.get_mut(..self.count).filter(|kept| !kept.is_empty())?;
        sorted.sort_unstable();
        let us = |us: u32| Duration::from_micros(us.into());
        let sum: u64 = sorted.iter().map(|us| u64::from(*us)).sum();
        let rank = self.count.saturating_mul(99).div_ceil(100).saturating_sub(1);
        Some(RoundTrip {
            last: us(self.last_us),
            min: us(sorted.first().copied()?),
            average: Duration::from_micros(sum.checked_div(self.count as u64)?),
            p99: us(sorted.get(rank).copied()?),
            jitter: Duration::from_micros(self.jitter_x16_us >> 4),
        })
    }
}

fn part(time: Duration, of: u32) -> Duration {
    time.checked_div(of).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects, reason = "a test that panics has failed, as it should")]
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn figures_are_of_the_last_round_trips() {
        let mut trips = RoundTrips::new();
        assert_eq!(trips.figures(), None);
        assert_eq!(trips.patience(), Duration::from_secs(1));
        for ms in 1..=100 {
            trips.note(MS * ms);
        }
        let figures = trips.figures().unwrap();
        assert_eq!((figures.last, figures.min, figures.average, figures.p99), (MS * 100, MS, MS * 101 / 2, MS * 99));
        assert!(figures.jitter > MS * 99 / 100 && figures.jitter <= MS, "{figures:?}");
        for _ in 0..KEPT {
            trips.note(MS * 7);
        }
        let figures = trips.figures().unwrap();
        assert_eq!((figures.min, figures.average, figures.p99), (MS * 7, MS * 7, MS * 7));
        assert!(figures.jitter < MS / 10, "{figures:?}");
    }

    #[test]
    fn patience_grows_with_the_round_trip_and_how_it_varies() {
        let mut trips = RoundTrips::new();
        (0..50).for_each(|_| trips.note(MS / 2));
        assert_eq!(trips.patience(), LEAST_PATIENCE);
        (0..100).for_each(|_| trips.note(MS * 600));
        assert!(trips.patience() >= MS * 600 && trips.patience() < MS * 700, "{:?}", trips.patience());
        (0..100).for_each(|number| trips.note(MS * (400 + 400 * (number % 2))));
        assert!(trips.patience() > MS * 1200, "{:?}", trips.patience());
    }
}
