//! What is counted of what one peer sends.

use super::RUN_CLASSES;
use crate::parcel::carry;
use std::time::Duration;

/// How many classes of recovery delays there are: up to 1, 2, 4 … 1024 ms, and longer.
const DELAY_CLASSES: usize = 12;

/// What was counted of what one peer sends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MeterCounts {
    /// DATA with a payload.
    pub(crate) received: u64,
    /// Of them, those around which a loss would have been called congestion.
    pub(crate) received_in_queue: u64,
    pub(crate) lost_random: u64,
    pub(crate) lost_congestion: u64,
    /// Lost in gaps longer than any window.
    pub(crate) lost_outage: u64,
    /// Of the lost ones, those that came back out of repairs.
    pub(crate) recovered: u64,
    /// Of the lost ones, those that cannot any more.
    pub(crate) unrecoverable: u64,
    /// Runs of random loss, by length: 1, 2, 3 to 4, 5 to 8, 9 to 16, 17 and more.
    pub(crate) runs: [u64; RUN_CLASSES],
    pub(crate) congestion_experienced: u64,
    /// From when a gap was seen until the packet was recovered: up to 1, 2, 4 … 1024 ms, and longer.
    pub(crate) recovery_delays: [u64; DELAY_CLASSES],
    /// The sum of those delays, in microseconds.
    pub(crate) recovery_delay_us: u64,
    /// DATA that came after one with a higher number.
    pub(crate) reordered: u64,
    /// By how many places at most, lately.
    pub(crate) reordering_extent: u64,
}

carry!(MeterCounts {
    received,
    received_in_queue,
    lost_random,
    lost_congestion,
    lost_outage,
    recovered,
    unrecoverable,
    runs,
    congestion_experienced,
    recovery_delays,
    recovery_delay_us,
    reordered,
    reordering_extent,
});

impl MeterCounts {
    /// A packet was recovered so long after it was missed.
    pub(super) fn note_recovery(&mut self, delay: Duration) {
        let class = delay.as_micros().div_ceil(1000).max(1).next_power_of_two().trailing_zeros() as usize;
        if let Some(count) = self.recovery_delays.get_mut(class.min(DELAY_CLASSES.saturating_sub(1))) {
            *count = count.wrapping_add(1);
        }
        self.recovery_delay_us = self.recovery_delay_us.wrapping_add(delay.as_micros() as u64);
    }

    /// A delay that this share of the recoveries did not exceed, as exact as the classes are. `None`: there was none, or it is above all of them.
    pub(crate) fn recovery_delay(&self, share_ppm: u32) -> Option<Duration> {
        let all: u64 = self.recovery_delays.iter().sum();
        let wanted = all.saturating_mul(share_ppm.into()).div_ceil(1_000_000).max(1);
        let mut below = 0_u64;
        let class = self.recovery_delays.iter().position(|count| {
            below = below.saturating_add(*count);
            below >= wanted
        })?;
        (class < DELAY_CLASSES.saturating_sub(1)).then(|| Duration::from_millis(1 << class))
    }
}
