//! What came of the datagrams of one direction, told by the numbers that they carry.

use crate::{parcel::carry, sealed::replay::Window};
use std::time::{Duration, Instant};

/// How much later than a higher number one may come and still count as reordered only, not first as lost.
pub(crate) const SETTLE_AFTER: Duration = Duration::from_millis(300);

/// Datagrams of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Arrived, each counted once.
    pub(crate) received: u64,
    /// Did not arrive.
    pub(crate) lost: u64,
    /// Arrived after one with a higher number.
    pub(crate) reordered: u64,
    /// Arrived again.
    pub(crate) duplicated: u64,
}

carry!(Tally { received, lost, reordered, duplicated });

impl Tally {
    pub(crate) const fn plus(self, other: Self) -> Self {
        Self {
            received: self.received.wrapping_add(other.received),
            lost: self.lost.wrapping_add(other.lost),
            reordered: self.reordered.wrapping_add(other.reordered),
            duplicated: self.duplicated.wrapping_add(other.duplicated),
        }
    }

    /// What came since `earlier`, of which each count is at most as large.
    pub(crate) const fn since(self, earlier: Self) -> Self {
        Self {
            received: self.received.saturating_sub(earlier.received),
            lost: self.lost.saturating_sub(earlier.lost),
            reordered: self.reordered.saturating_sub(earlier.reordered),
            duplicated: self.duplicated.saturating_sub(earlier.duplicated),
        }
    }
}

/// The datagrams of one session that came, and by that those that did not. A datagram costs an increment and a comparison: what is
/// missing below a number is the difference of two counts, not looked for.
///
/// What is missing counts as lost [`SETTLE_AFTER`] a higher number came. The count of the lost never falls: one that came even later
/// makes the next loss count for nothing.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    /// The lowest number that is expected; higher than any while the first datagram decides.
    first: u64,
    /// The highest number that came, plus one.
    next: u64,
    tally: Tally,
    /// What is missing below this number is lost once it has settled.
    boundary: u64,
    boundary_at: Option<Instant>,
    /// How many came of those below the boundary.
    below: u64,
}

carry!(Ledger { first, next, tally, boundary, boundary_at, below });

impl Ledger {
    /// Of a session whose first datagram has the number 0.
    pub(crate) const fn new() -> Self {
        Self {
            first: 0,
            next: 0,
            tally: Tally { received: 0, lost: 0, reordered: 0, duplicated: 0 },
            boundary: 0,
            boundary_at: None,
            below: 0,
        }
    }

    /// Of a session that was under way before it was listened to.
    pub(crate) const fn joined() -> Self {
        Self { first: u64::MAX, ..Self::new() }
    }

    /// A datagram that has not been there.
    pub(crate) const fn take(&mut self, number: u64) {
        self.tally.received = self.tally.received.wrapping_add(1);
        if number >= self.next {
            self.next = number.saturating_add(1);
            if self.first == u64::MAX {
                (self.first, self.boundary) = (number, number);
            }
            return;
        }
        self.tally.reordered = self.tally.reordered.wrapping_add(1);
        if number < self.boundary {
            self.below = self.below.saturating_add(1);
        }
        if number < self.first {
            self.first = number;
        }
    }

    /// A datagram that has been there.
    pub(crate) const fn repeat(&mut self) {
        self.tally.duplicated = self.tally.duplicated.wrapping_add(1);
    }

    /// Counts as lost what has been missing for long enough. To be called now and then.
    pub(crate) fn settle(&mut self, now: Instant) {
        if let Some(at) = self.boundary_at {
            if now.saturating_duration_since(at) < SETTLE_AFTER {
                return;
            }
            self.count_missing();
        }
        (self.boundary, self.below, self.boundary_at) = (self.next, self.tally.received, Some(now));
    }

    /// The session is over: whatever is missing is lost. What its sender sent last, and nothing after it came, is not known here.
    pub(crate) fn close(mut self) -> Tally {
        (self.boundary, self.below) = (self.next, self.tally.received);
        self.count_missing();
        self.tally
    }

    fn count_missing(&mut self) {
        let missing = self.boundary.saturating_sub(self.first).saturating_sub(self.below);
        self.tally.lost = self.tally.lost.max(missing);
    }

    pub(crate) const fn tally(&self) -> Tally {
        self.tally
    }
}

/// The datagrams of a plain peer's incarnation. Plain tunnels deliver what comes twice; here it is told apart.
#[derive(Debug)]
pub(crate) struct PlainSession {
    pub(crate) epoch: u64,
    window: Window,
    ledger: Ledger,
}

carry!(PlainSession { epoch, window, ledger });

impl PlainSession {
    pub(crate) const fn new(epoch: u64) -> Self {
        Self { epoch, window: Window::new(), ledger: Ledger::joined() }
    }

    /// A datagram with these low 32 bits of its number.
    pub(crate) fn take(&mut self, low: u32) {
        /// Far enough from zero that one before the first has a number too.
        const START: u64 = 1 << 32;
        let number = match self.window.next() {
            0 => START | u64::from(low),
            expected => expected.saturating_add_signed(i64::from(low.wrapping_sub(expected as u32) as i32)),
        };
        if self.window.is_new(number) {
            self.window.mark(number);
            self.ledger.take(number);
        } else if self.window.remembers(number) {
            self.ledger.repeat();
        }
    }

    pub(crate) fn settle(&mut self, now: Instant) {
        self.ledger.settle(now);
    }

    pub(crate) const fn tally(&self) -> Tally {
        self.ledger.tally()
    }

    pub(crate) fn close(self) -> Tally {
        self.ledger.close()
    }
}

/// How many counts of the last seconds are kept, and how far apart they are.
const KEPT: usize = 12;
const APART: Duration = Duration::from_secs(1);
/// How long ago is recent.
pub(crate) const RECENT: Duration = Duration::from_secs(10);

/// Counts of a direction in the last seconds.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    kept: [Option<(Instant, Tally)>; KEPT],
    newest: usize,
}

carry!(Recent { kept, newest });

impl Recent {
    /// The counts now; kept unless others were, a moment ago.
    pub(crate) fn note(&mut self, tally: Tally, now: Instant) {
        let newest = self.kept.get(self.newest).copied().flatten();
        if newest.is_some_and(|(at, _)| now.saturating_duration_since(at) < APART) {
            return;
        }
        self.newest = self.newest.wrapping_add(1).checked_rem(KEPT).unwrap_or_default();
        if let Some(place) = self.kept.get_mut(self.newest) {
            *place = Some((now, tally));
        }
    }

    /// What came since [`RECENT`] ago, or since the counts began.
    pub(crate) fn of(&self, tally: Tally, now: Instant) -> Tally {
        let age = |at: Instant| now.saturating_duration_since(at);
        let kept = || self.kept.iter().flatten();
        let before = kept().filter(|(at, _)| age(*at) >= RECENT).min_by_key(|(at, _)| age(*at));
        let base = before.or_else(|| kept().max_by_key(|(at, _)| age(*at)));
        tally.since(base.map_or(Tally::default(), |(_, base)| *base))
    }
}

/// The share of the lost, in parts per million.
pub(crate) fn loss_ppm(tally: Tally) -> u32 {
    let sent = tally.received.saturating_add(tally.lost);
    let ppm = tally.lost.saturating_mul(1_000_000).checked_div(sent).unwrap_or_default();
    u32::try_from(ppm).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
