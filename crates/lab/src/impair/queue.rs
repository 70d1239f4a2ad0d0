//! The bottleneck: when a packet has left it, or that it finds no room.

use std::time::Duration;

use crate::impair::{Bottleneck, Limit};

const NANOSECONDS_PER_SECOND: u64 = 1_000_000_000;

/// A queue that is served at a rate. All that it is, is when the line will be free.
#[derive(Debug)]
pub(crate) struct Queue {
    bottleneck: Bottleneck,
    room: Duration,
    mark_from: Duration,
    free_at: Duration,
}

/// What becomes of a packet that found room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Served {
    /// When its last bit has left.
    pub(crate) at: Duration,
    /// How long it waited before its first bit.
    pub(crate) waited: Duration,
    /// Whether the queue was long enough for a mark.
    pub(crate) is_marked: bool,
}

impl Queue {
    pub(crate) fn new(bottleneck: Bottleneck) -> Self {
        let room = as_time(&bottleneck, bottleneck.queue);
        let mark_from = bottleneck.ecn.map_or(Duration::MAX, |limit| as_time(&bottleneck, limit));
        Self { bottleneck, room, mark_from, free_at: Duration::ZERO }
    }

    /// Takes a packet of `bytes` that comes at `now`; `None` when there is no room. Onto a free line there always is.
    pub(crate) fn admit(&mut self, now: Duration, bytes: usize) -> Option<Served> {
        let waited = self.free_at.saturating_sub(now);
        let takes = transmission(&self.bottleneck, u64::try_from(bytes).unwrap_or(u64::MAX));
        if !waited.is_zero() && waited.saturating_add(takes) > self.room {
            return None;
        }
        self.free_at = self.free_at.max(now).saturating_add(takes);
        Some(Served { at: self.free_at, waited, is_marked: waited >= self.mark_from })
    }
}

fn as_time(bottleneck: &Bottleneck, limit: Limit) -> Duration {
    match limit {
        Limit::Time(time) => time,
        Limit::Bytes(bytes) => transmission(bottleneck, bytes),
    }
}

fn transmission(bottleneck: &Bottleneck, bytes: u64) -> Duration {
    let bits_and_scale = u128::from(bytes).saturating_mul(8).saturating_mul(u128::from(NANOSECONDS_PER_SECOND));
    let nanoseconds = bits_and_scale.checked_div(u128::from(bottleneck.bits_per_second.get())).unwrap_or_default();
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}
