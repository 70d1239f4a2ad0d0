//! Looking again for a moment before going to sleep. Waking a sleeping thread costs a packet more time than everything else on its way,
//! most of all on a virtual CPU that has been halted meanwhile.

use std::time::Duration;

/// How long a thread looks again, at most.
const LONGEST: Duration = Duration::from_micros(50);
/// Work in one round, in bytes, above which packets come in bulk: then a round more or less changes no packet's time, and the
/// CPU is better spent elsewhere.
const BULK_BYTES: usize = 16 * 1024;
/// So long it lasts that packets come in bulk: bulk in one direction has small answers in the other.
const BULK_ROUNDS: u32 = 32;
/// Scores are parts of this.
const CERTAIN: u32 = 256;
/// A look that succeeds once in four times is worth it.
const WORTHWHILE: u32 = CERTAIN / 4;

/// Whether it is worth it, learned from how long the last pauses were.
#[derive(Debug, Default)]
pub(crate) struct Polling {
    score: u32,
    /// Rounds for which packets will be thought to come in bulk.
    bulk_rounds: u32,
}

impl Polling {
    /// How long to look again after a round of this much work.
    pub(crate) fn after(&mut self, work_bytes: usize) -> Duration {
        self.bulk_rounds = if work_bytes > BULK_BYTES { BULK_ROUNDS } else { self.bulk_rounds.saturating_sub(1) };
        if self.bulk_rounds > 0 || work_bytes == 0 || self.score < WORTHWHILE { Duration::ZERO } else { LONGEST }
    }

    /// The pause after that round was so long.
    pub(crate) const fn learn(&mut self, pause: Duration) {
        if self.bulk_rounds > 0 {
            return;
        }
        let outcome = if pause.as_nanos() <= LONGEST.as_nanos() { CERTAIN } else { 0 };
        // A moving average of eight.
        self.score = self.score.saturating_mul(7).saturating_add(outcome).div_ceil(8);
        if outcome == 0 && self.score < 8 {
            self.score = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(20);
    const LONG: Duration = Duration::from_millis(1);

    #[test]
    fn questions_and_answers_are_waited_for() {
        let mut polling = Polling::default();
        assert_eq!(polling.after(100), Duration::ZERO);
        for _ in 0..20 {
            polling.learn(SHORT);
            polling.after(100);
            polling.learn(LONG);
            polling.after(100);
        }
        assert_eq!(polling.after(100), LONGEST);
    }

    #[test]
    fn silence_bulk_and_single_packets_are_not() {
        let mut polling = Polling::default();
        for _ in 0..20 {
            polling.after(100);
            polling.learn(SHORT);
        }
        assert_eq!(polling.after(BULK_BYTES + 1), Duration::ZERO);
        polling.learn(LONG);
        for _ in 1..BULK_ROUNDS {
            assert_eq!(polling.after(100), Duration::ZERO);
            polling.learn(SHORT);
        }
        assert_eq!(polling.after(0), Duration::ZERO);
        assert_eq!(polling.after(100), LONGEST);
        for _ in 0..100 {
            polling.learn(LONG);
        }
        assert_eq!(polling.after(100), Duration::ZERO);
        assert_eq!(polling.score, 0);
    }
}
