//! How much longer than the least a packet was under way, told by two clocks that agree on nothing but how long a second is, nearly.
//!
//! The sender's stamp has 16 bits of 64 µs; packets are less than 2 s apart in delay, so that only the differences are followed.
//! Clocks that drift apart by 100 ppm move the least delay by 3 ms while it is remembered.

use crate::{parcel::carry, peer::later, session::TIMESTAMP_SHIFT};
use std::time::{Duration, Instant};

/// Far enough from zero that no difference of delays gets there.
const START_UNITS: u64 = 1 << 40;
const HALF_OF_LEAST: Duration = Duration::from_secs(15);
const HALF_OF_MOST: Duration = Duration::from_secs(5);

/// The delay of what comes from one sender.
#[derive(Debug, Clone)]
pub(crate) struct Delay {
    origin: Option<Instant>,
    /// The receiver's clock minus the stamp, of the last packet.
    difference: u16,
    /// The same, followed without wrapping.
    units: u64,
    least: Recent,
    most: Recent,
}

carry!(Delay { origin, difference, units, least, most });

impl Delay {
    pub(crate) const fn new() -> Self {
        Self { origin: None, difference: 0, units: START_UNITS, least: Recent::NONE, most: Recent::NONE }
    }

    /// A packet came that left when the sender's clock said `timestamp`.
    pub(crate) fn take(&mut self, timestamp: u16, now: Instant) {
        let origin = *self.origin.get_or_insert(now);
        let clock = (now.saturating_duration_since(origin).as_micros() >> TIMESTAMP_SHIFT) as u16;
        let difference = clock.wrapping_sub(timestamp);
        if self.least.until.is_some() {
            let step = difference.wrapping_sub(self.difference) as i16;
            self.units = self.units.wrapping_add_signed(step.into());
        }
        self.difference = difference;
        self.least.note(self.units, u64::min, HALF_OF_LEAST, now);
        self.most.note(self.units, u64::max, HALF_OF_MOST, now);
    }

    /// Of the last packet above the least of about the last 30 s; units of 64 µs.
    pub(crate) fn above_least(&self) -> u64 {
        self.units.saturating_sub(self.least.of_both(u64::min))
    }

    /// The most of about the last 10 s above the least; units of 64 µs.
    pub(crate) fn spread(&self) -> u64 {
        self.most.of_both(u64::max).saturating_sub(self.least.of_both(u64::min))
    }
}

/// The least or the most of the last while: of one to two halves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recent {
    this: u64,
    before: u64,
    /// When this half ends.
    until: Option<Instant>,
}

carry!(Recent { this, before, until });

impl Recent {
    pub(crate) const NONE: Self = Self { this: 0, before: 0, until: None };

    pub(crate) fn note(&mut self, value: u64, pick: impl Fn(u64, u64) -> u64, half: Duration, now: Instant) {
        match self.until {
            Some(until) if now < until => self.this = pick(self.this, value),
            until => {
                let is_next = until.is_some_and(|until| now < later(until, half));
                self.before = if is_next { self.this } else { value };
                (self.this, self.until) = (value, Some(later(now, half)));
            }
        }
    }

    pub(crate) fn of_both(&self, pick: fn(u64, u64) -> u64) -> u64 {
        pick(self.this, self.before)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects, reason = "a test that panics has failed, as it should")]
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A sender whose clock began at 60,000 and runs 100 ppm slow.
    fn stamp(sent_us: u64) -> u16 {
        (60_000 + ((sent_us - sent_us / 10_000) >> TIMESTAMP_SHIFT)) as u16
    }

    #[test]
    fn delay_is_told_from_the_least_although_both_clocks_wrap_and_drift() {
        let (mut delay, start) = (Delay::new(), Instant::now());
        for ms in 0..120_000_u64 {
            let queue_ms = if ms % 10_000 == 9_999 { 40 } else { 0 };
            delay.take(stamp(ms * 1000), start + MS * (50 + ms + queue_ms) as u32);
            let expected = queue_ms * 1000 / 64;
            assert!(delay.above_least().abs_diff(expected) <= 3200 / 64, "{ms}: {}", delay.above_least());
        }
        assert!(delay.spread().abs_diff(40_000 / 64) <= 3200 / 64, "{}", delay.spread());
    }

    #[test]
    fn least_is_forgotten_after_half_a_minute_and_most_after_ten_seconds() {
        let (mut delay, start) = (Delay::new(), Instant::now());
        let mut take = |sent_ms: u64, delay_ms: u64| {
            delay.take((sent_ms * 1000 / 64) as u16, start + MS * (sent_ms + delay_ms) as u32);
            (delay.above_least(), delay.spread())
        };
        assert_eq!(take(0, 20), (0, 0));
        let (above, spread) = take(100, 52);
        assert!(above.abs_diff(500) <= 1 && spread == above, "{above} {spread}");
        (0..140).for_each(|step| assert!(take(200 + step * 100, 36).0.abs_diff(250) <= 1));
        assert!(take(14_300, 36).1.abs_diff(250) <= 1);
        let last = (0..320).map(|step| take(14_400 + step * 100, 36)).last();
        assert_eq!(last, Some((0, 0)));
    }

    #[test]
    fn after_a_long_silence_it_begins_anew() {
        let (mut delay, start) = (Delay::new(), Instant::now());
        delay.take(0, start);
        delay.take(1000, start + MS * 3_600_000);
        assert_eq!((delay.above_least(), delay.spread()), (0, 0));
    }
}
