//! How fast DATA leaves, and how much repairs may take.

use crate::{parcel::carry, peer::later};
use std::time::{Duration, Instant};

/// How often the rate is looked at.
const PERIOD: Duration = Duration::from_millis(100);
/// Who sends nothing for longer is idle, and idle time is not counted.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// How much a period weighs.
const WEIGHT: f64 = 0.2;
/// Over about how long bytes are compared with bytes, in periods.
const OVERHEAD_PERIODS: f64 = 100.0;
/// How many bytes repairs may be ahead of their share: some of the longest.
const SAVED_BYTES: u64 = 24_000;
const MILLION: u64 = 1_000_000;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Pace {
    last_at: Option<Instant>,
    period_ends: Option<Instant>,
    /// In this period.
    packets: u64,
    bytes: u64,
    repairs: u64,
    repair_bytes: u64,
    active: Duration,
    /// Time in which DATA left since the last report.
    unreported: Duration,
    /// Packets a second, while they are sent at all.
    pub(super) rate: f64,
    /// Recent bytes and numbers, fading.
    recent_packets: f64,
    recent_bytes: f64,
    recent_repairs: f64,
    recent_repair_bytes: f64,
    /// What repairs may still take, times a million.
    saved: u64,
}

carry!(Pace {
    last_at,
    period_ends,
    packets,
    bytes,
    repairs,
    repair_bytes,
    active,
    unreported,
    rate,
    recent_packets,
    recent_bytes,
    recent_repairs,
    recent_repair_bytes,
    saved,
});

impl Pace {
    pub(super) const fn new() -> Self {
        Self {
            last_at: None,
            period_ends: None,
            packets: 0,
            bytes: 0,
            repairs: 0,
            repair_bytes: 0,
            active: Duration::ZERO,
            unreported: Duration::ZERO,
            rate: 0.0,
            recent_packets: 0.0,
            recent_bytes: 0.0,
            recent_repairs: 0.0,
            recent_repair_bytes: 0.0,
            saved: SAVED_BYTES * MILLION,
        }
    }

    /// DATA left, of which repairs may take this share. True: the rate is known anew.
    pub(super) fn sent(&mut self, packets: u32, bytes: u64, share_ppm: u32, now: Instant) -> bool {
        let pause = self.last_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at)).min(LONGEST_PAUSE);
        self.last_at = Some(now);
        self.active = self.active.saturating_add(pause);
        self.unreported = self.unreported.saturating_add(pause);
        self.packets = self.packets.saturating_add(packets.into());
        self.bytes = self.bytes.saturating_add(bytes);
        let share = bytes.saturating_mul(share_ppm.into());
        self.saved = self.saved.saturating_add(share).min(SAVED_BYTES.saturating_mul(MILLION));
        let is_over = self.period_ends.is_none_or(|at| now >= at);
        if is_over {
            self.end_period(now);
        }
        is_over
    }

    /// Time in which DATA left since this was asked last.
    pub(super) fn active_since_report(&mut self) -> Duration {
        std::mem::take(&mut self.unreported)
    }

    fn end_period(&mut self, now: Instant) {
        self.period_ends = Some(later(now, PERIOD));
        let active = self.active.as_secs_f64();
        if active > 0.0 {
            let rate = self.packets as f64 / active;
            self.rate = if self.rate > 0.0 { self.rate + WEIGHT * (rate - self.rate) } else { rate };
        }
        let kept = 1.0 - 1.0 / OVERHEAD_PERIODS;
        self.recent_packets = self.recent_packets * kept + self.packets as f64;
        self.recent_bytes = self.recent_bytes * kept + self.bytes as f64;
        self.recent_repairs = self.recent_repairs * kept + self.repairs as f64;
        self.recent_repair_bytes = self.recent_repair_bytes * kept + self.repair_bytes as f64;
        (self.packets, self.bytes, self.repairs, self.repair_bytes) = (0, 0, 0, 0);
        self.active = Duration::ZERO;
    }

    pub(super) fn repair_sent(&mut self, bytes: usize) {
        self.saved = self.saved.saturating_sub((bytes as u64).saturating_mul(MILLION));
        self.repairs = self.repairs.saturating_add(1);
        self.repair_bytes = self.repair_bytes.saturating_add(bytes as u64);
    }

    /// Whether repairs may take so many bytes more.
    pub(super) const fn allows(&self, bytes: u64) -> bool {
        self.saved >= bytes.saturating_mul(MILLION)
    }

    /// Length of the average repair; of the average packet, as long as there was none.
    pub(super) fn repair_bytes(&self) -> f64 {
        let of = |bytes: f64, count: f64| (count >= 1.0).then(|| bytes / count);
        let packet = of(self.recent_bytes, self.recent_packets).unwrap_or_default();
        of(self.recent_repair_bytes, self.recent_repairs).unwrap_or(packet).max(packet)
    }

    /// How many times as long repairs are as packets on average: where packets differ, a repair is as long as the longest.
    pub(super) fn stretch(&self) -> f64 {
        let packet = self.recent_bytes / self.recent_packets.max(1.0);
        if packet > 0.0 { (self.repair_bytes() / packet).max(1.0) } else { 1.0 }
    }

    /// Bytes of repairs as a share of those of DATA, over about the last 10 s of sending.
    pub(super) fn overhead(&self) -> f64 {
        let bytes = self.recent_bytes + self.bytes as f64;
        if bytes > 0.0 { (self.recent_repair_bytes + self.repair_bytes as f64) / bytes } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects, reason = "a test that panics has failed, as it should")]
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn rate_is_of_the_time_in_which_packets_leave() {
        let (mut pace, mut now) = (Pace::new(), Instant::now());
        for second in 0..6 {
            for _ in 0..1000 {
                pace.sent(1, 1000, 250_000, now);
                now += MS;
            }
            now += MS * 1000 * second;
        }
        assert!((800.0..1100.0).contains(&pace.rate), "{}", pace.rate);
        let active = pace.active_since_report();
        assert!(active > MS * 5900 && active < MS * 8000, "{active:?}");
        assert_eq!(pace.active_since_report(), Duration::ZERO);
    }

    #[test]
    fn repairs_take_no_more_than_their_share() {
        let (mut pace, mut now) = (Pace::new(), Instant::now());
        let (mut sent, mut repaired) = (0_u64, 0_u64);
        for _ in 0..10_000 {
            pace.sent(1, 1000, 250_000, now);
            sent += 1000;
            now += MS;
            if pace.allows(1400) {
                pace.repair_sent(1400);
                repaired += 1400;
            }
        }
        assert!(repaired <= sent / 4 + SAVED_BYTES && repaired >= sent / 5, "{repaired} of {sent}");
        assert!((0.2..0.27).contains(&pace.overhead()), "{}", pace.overhead());
        assert!((1.39..1.41).contains(&pace.stretch()), "{}", pace.stretch());
    }
}
