//! What the receiver of DATA measures: what came, what did not, why not, and how long it took to bring it back.
//!
//! A gap in the sequence counts as lost once it has been open for a while; what comes later than that is taken off the next loss. A loss is
//! called congestion when the packets around it were held up by a queue, or when a router has just said so by ECN; all others are random.
//! A gap longer than any window is an outage, which no repair can help, and no estimate is to follow.

mod counts;
mod delay;

use super::{
    LONGEST_WINDOW,
    report::{RUN_CLASSES, Report, run_class},
};
use crate::{parcel::carry, peer::later, session::TIMESTAMP_SHIFT};
pub(crate) use counts::MeterCounts;
use delay::{Delay, Recent};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// A gap counts as lost no earlier, and no later than an eighth of the round trip if that is longer.
const LEAST_PATIENCE: Duration = Duration::from_millis(10);
/// Where packets come late often, a gap waits for them; no longer than this.
const MOST_PATIENCE: Duration = Duration::from_millis(250);
/// A queue that holds packets up for less is none.
const LEAST_QUEUE: Duration = Duration::from_millis(5);
/// And a queue stands for so long: a machine that pauses holds packets up, too, but they all come at once then.
const QUEUE_STANDS: Duration = Duration::from_millis(10);
/// How many gaps are remembered: open ones, and as many that were counted.
const GAPS: usize = 64;
/// A jump in the sequence that is as long or longer is another numbering.
const LONGEST_JUMP: u32 = 1 << 16;

/// How often it is reported what was lost and recovered, and how often only that DATA comes.
const NEWS_INTERVAL: Duration = Duration::from_millis(20);
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// A report is always allowed after so long, even where DATA is too little to pay for it.
const LONGEST_INTERVAL: Duration = Duration::from_secs(1);
/// What a report takes on the wire: IPv4, UDP, header, payload, tag.
const REPORT_BYTES: u64 = 20 + 8 + 16 + super::report::BODY_BYTES as u64 + 16;
/// Reports take at most this share of the bytes that came, and may save up so much.
const BYTES_PER_BYTE_OF_REPORT: u64 = 100;
const SAVED_BYTES: u64 = 8 * REPORT_BYTES;
/// What is missing is asked for during so many round trips, or so long.
const ASKED_ROUND_TRIPS: u32 = 4;
const ASKED_FOR_AT_LEAST: Duration = Duration::from_millis(200);

/// DATA that is missing between two that came.
#[derive(Debug, Clone, Copy)]
struct Gap {
    first: u32,
    count: u32,
    /// How many of them came out of repairs.
    recovered: u32,
    seen_at: Instant,
    is_congestion: bool,
    /// Repairs may cover it.
    is_protected: bool,
}

carry!(Gap { first, count, recovered, seen_at, is_congestion, is_protected });

impl Gap {
    const fn has(&self, sequence: u32) -> bool {
        sequence.wrapping_sub(self.first) < self.count
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Meter {
    /// The number that follows the highest that came.
    expected: Option<u32>,
    /// Of the last DATA.
    is_protected: bool,
    echo: u16,
    echo_at: Option<Instant>,
    delay: Delay,
    /// Not counted yet; by sequence, and by when they were seen.
    open: VecDeque<Gap>,
    /// Counted.
    settled: VecDeque<Gap>,
    /// How late packets come that are not lost.
    lateness_us: Recent,
    reordering: Recent,
    /// Counted as lost, and came.
    overcounted: u64,
    marked_at: Option<Instant>,
    /// Since when a queue has held packets up.
    queue_since: Option<Instant>,
    round_trip: Duration,
    counts: MeterCounts,
    /// The counts when the sender's epoch began.
    base: MeterCounts,
    /// As the decoder has said.
    deficit: Option<(u16, u32)>,
    /// Something was missing that repairs would help, when it was last looked at.
    is_missing: bool,
    /// There is something new to say: of losses; or only that protected DATA came.
    news: bool,
    progress: bool,
    reported_at: Option<Instant>,
    /// What was saved up for reports, times [`BYTES_PER_BYTE_OF_REPORT`].
    saved_bytes: u64,
}

carry!(Meter {
    expected,
    is_protected,
    echo,
    echo_at,
    delay,
    open,
    settled,
    lateness_us,
    reordering,
    overcounted,
    marked_at,
    queue_since,
    round_trip,
    counts,
    base,
    deficit,
    is_missing,
    news,
    progress,
    reported_at,
    saved_bytes,
});

impl Meter {
    pub(crate) fn new() -> Self {
        Self {
            expected: None,
            is_protected: false,
            echo: 0,
            echo_at: None,
            delay: Delay::new(),
            open: VecDeque::new(),
            settled: VecDeque::new(),
            lateness_us: Recent::NONE,
            reordering: Recent::NONE,
            overcounted: 0,
            marked_at: None,
            queue_since: None,
            round_trip: Duration::ZERO,
            counts: MeterCounts::default(),
            base: MeterCounts::default(),
            deficit: None,
            is_missing: false,
            news: false,
            progress: false,
            reported_at: None,
            saved_bytes: SAVED_BYTES.saturating_mul(BYTES_PER_BYTE_OF_REPORT),
        }
    }

    /// DATA with a payload came, `bytes` long on the wire; `is_protected`: with the flag that repairs may cover it. Returns
    /// whether [`next_wake`](Self::next_wake) may say something else than before.
    pub(crate) fn take(
        &mut self,
        sequence: u32,
        timestamp: u16,
        bytes: usize,
        is_protected: bool,
        now: Instant,
    ) -> bool {
        let mut is_news = is_protected && !self.progress;
        if self.expected == Some(sequence) {
            self.expected = Some(sequence.wrapping_add(1));
            // What left and came together was under way as long.
            if self.echo != timestamp || self.echo_at != Some(now) {
                self.time(timestamp, now);
            }
        } else if self.take_other(sequence, timestamp, is_protected, now) {
            is_news = true;
        } else {
            return false;
        }
        (self.echo, self.echo_at) = (timestamp, Some(now));
        self.counts.received = self.counts.received.wrapping_add(1);
        let is_in_queue = self.is_congested(now);
        self.counts.received_in_queue = self.counts.received_in_queue.wrapping_add(is_in_queue.into());
        self.is_protected = is_protected;
        self.progress |= is_protected;
        let most = SAVED_BYTES.saturating_mul(BYTES_PER_BYTE_OF_REPORT);
        self.saved_bytes = self.saved_bytes.saturating_add(bytes as u64).min(most);
        is_news
    }

    /// Not the one that was expected. False: it was there already.
    fn take_other(&mut self, sequence: u32, timestamp: u16, is_protected: bool, now: Instant) -> bool {
        let Some(expected) = self.expected else {
            self.expected = Some(sequence.wrapping_add(1));
            self.delay.take(timestamp, now);
            return true;
        };
        let ahead = sequence.wrapping_sub(expected);
        let behind = expected.wrapping_sub(sequence);
        if ahead < LONGEST_JUMP {
            let before = self.is_congested(now);
            self.time(timestamp, now);
            let is_congestion = before || self.is_congested(now);
            let is_protected = is_protected || self.is_protected;
            self.open(Gap { first: expected, count: ahead, recovered: 0, seen_at: now, is_congestion, is_protected });
            self.expected = Some(sequence.wrapping_add(1));
            return true;
        }
        if behind <= LONGEST_JUMP {
            return self.take_late(sequence, behind.saturating_sub(1), now);
        }
        self.settle_all();
        self.expected = Some(sequence.wrapping_add(1));
        (self.delay, self.queue_since) = (Delay::new(), None);
        self.delay.take(timestamp, now);
        true
    }

    /// So many places after its own.
    fn take_late(&mut self, sequence: u32, places: u32, now: Instant) -> bool {
        let place = self.open.iter().position(|gap| gap.has(sequence));
        let seen_at = match place {
            Some(place) => {
                let seen_at = self.open.get(place).map(|gap| gap.seen_at);
                self.fill(place, sequence);
                seen_at
            }
            None => match self.settled.iter_mut().find(|gap| gap.has(sequence)) {
                Some(gap) if gap.recovered < gap.count => {
                    // It may come again, or have been recovered: then one loss too few is counted.
                    gap.recovered = gap.recovered.saturating_add(1);
                    if !gap.is_congestion && gap.count <= LONGEST_WINDOW.into() {
                        self.overcounted = self.overcounted.saturating_add(1);
                    }
                    Some(gap.seen_at)
                }
                _ => None,
            },
        };
        let Some(seen_at) = seen_at else { return false };
        self.counts.reordered = self.counts.reordered.wrapping_add(1);
        let late_us = now.saturating_duration_since(seen_at).as_micros() as u64;
        self.lateness_us.note(late_us, u64::max, LONGEST_INTERVAL.saturating_mul(15), now);
        self.reordering.note(places.into(), u64::max, LONGEST_INTERVAL.saturating_mul(15), now);
        true
    }

    /// Takes one packet out of an open gap, of which two may be left.
    fn fill(&mut self, place: usize, sequence: u32) {
        let Some(gap) = self.open.get_mut(place) else { return };
        let before = sequence.wrapping_sub(gap.first);
        let after = gap.count.saturating_sub(before).saturating_sub(1);
        let rest = Gap { first: sequence.wrapping_add(1), count: after, recovered: 0, ..*gap };
        gap.count = before;
        match (before, after) {
            (0, 0) => drop(self.open.remove(place)),
            (0, _) => *gap = Gap { recovered: gap.recovered.min(after), ..rest },
            (_, 0) => {}
            _ => {
                self.open.insert(place.saturating_add(1), rest);
                self.bound_gaps();
            }
        }
    }

    fn open(&mut self, gap: Gap) {
        if gap.count > 0 {
            self.open.push_back(gap);
            self.bound_gaps();
        }
    }

    fn bound_gaps(&mut self) {
        while self.open.len() > GAPS {
            self.settle_first();
        }
    }

    /// Whether what is lost now is lost in a queue.
    fn is_congested(&self, now: Instant) -> bool {
        let is_marked = |at: Instant| now.saturating_duration_since(at) <= self.round_trip.max(LEAST_PATIENCE);
        let stands = |since: Instant| now.saturating_duration_since(since) >= QUEUE_STANDS;
        self.marked_at.is_some_and(is_marked) || self.queue_since.is_some_and(stands)
    }

    /// Measures the delay, and with it whether a queue holds packets up.
    fn time(&mut self, timestamp: u16, now: Instant) {
        self.delay.take(timestamp, now);
        let queue = LEAST_QUEUE.max(self.part_of_round_trip(8));
        let above = self.delay.above_least();
        let is_held_up = above > units(queue) && above.saturating_mul(10) > self.delay.spread().saturating_mul(7);
        self.queue_since = is_held_up.then(|| self.queue_since.unwrap_or(now));
    }

    /// A repair came that covers packets up to this one: those that lie behind the highest that came are missing.
    pub(crate) fn covered(&mut self, last: u32, now: Instant) {
        let Some(expected) = self.expected else { return };
        let count = last.wrapping_sub(expected).wrapping_add(1);
        if (1..=u32::from(LONGEST_WINDOW)).contains(&count) {
            let is_congestion = self.is_congested(now);
            self.open(Gap { first: expected, count, recovered: 0, seen_at: now, is_congestion, is_protected: true });
            self.expected = Some(last.wrapping_add(1));
        }
    }

    /// A packet came out of repairs. It did not come by itself, so that it goes on counting as lost.
    pub(crate) fn recovered(&mut self, sequence: u32, now: Instant) {
        self.covered(sequence, now);
        self.counts.recovered = self.counts.recovered.wrapping_add(1);
        self.news = true;
        let Some(gap) = self.open.iter_mut().chain(&mut self.settled).find(|gap| gap.has(sequence)) else { return };
        gap.recovered = gap.recovered.saturating_add(1).min(gap.count);
        let delay = now.saturating_duration_since(gap.seen_at);
        self.counts.note_recovery(delay);
    }

    /// What the decoder says: how many repairs more it needs and for what, the first of which has this number; and how many packets it has
    /// given up since it exists.
    pub(crate) fn decoder(&mut self, deficit: Option<(u16, u32)>, given_up: u64) {
        self.news |= given_up != self.counts.unrecoverable;
        self.counts.unrecoverable = given_up;
        self.deficit = deficit.filter(|(deficit, _)| *deficit > 0);
    }

    /// A datagram came with the outer ECN mark CE.
    pub(crate) fn congestion_experienced(&mut self, now: Instant) {
        self.counts.congestion_experienced = self.counts.congestion_experienced.wrapping_add(1);
        self.marked_at = Some(now);
    }

    /// Whether the loss of this packet was called congestion.
    #[cfg(test)]
    pub(crate) fn is_congestion(&self, sequence: u32) -> bool {
        self.open.iter().chain(&self.settled).any(|gap| gap.is_congestion && gap.has(sequence))
    }

    /// Counts what has been missing for long enough. `Some`: this is to be reported now.
    pub(crate) fn due(&mut self, round_trip: Option<Duration>, now: Instant) -> Option<Report> {
        self.round_trip = round_trip.unwrap_or(self.round_trip);
        let patience = self.patience();
        while self.open.front().is_some_and(|gap| now.saturating_duration_since(gap.seen_at) >= patience) {
            self.settle_first();
        }
        let missing = self.missing(now);
        self.is_missing = missing.is_some();
        self.report_at().is_some_and(|at| at.is_none_or(|at| at <= now)).then(|| {
            (self.news, self.progress, self.reported_at) = (false, false, Some(now));
            self.saved_bytes = self.saved_bytes.saturating_sub(REPORT_BYTES.saturating_mul(BYTES_PER_BYTE_OF_REPORT));
            self.report(missing, now)
        })
    }

    /// When [`due`](Self::due) has something to do; `None` as long as nothing more comes.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        let settle_at = self.open.front().map(|gap| later(gap.seen_at, self.patience()));
        // What is due already and was not reported yet is due whenever it is looked at.
        let report_at = self.report_at().and_then(|at| at.or(self.echo_at));
        settle_at.into_iter().chain(report_at).min()
    }

    pub(crate) fn counts(&self) -> MeterCounts {
        MeterCounts { reordering_extent: self.reordering.of_both(u64::max), ..self.counts }
    }

    /// The sender's numbering and clock begin anew.
    pub(crate) fn restart(&mut self) {
        self.settle_all();
        self.settled.clear();
        (self.expected, self.echo_at, self.deficit) = (None, None, None);
        (self.is_protected, self.is_missing, self.news, self.progress) = (false, false, false, false);
        (self.delay, self.queue_since) = (Delay::new(), None);
        self.base = self.counts;
    }

    /// How long a gap may still be filled.
    fn patience(&self) -> Duration {
        let late = Duration::from_micros(self.lateness_us.of_both(u64::max));
        let late = late.saturating_add(late.checked_div(4).unwrap_or_default()).min(MOST_PATIENCE);
        LEAST_PATIENCE.max(self.part_of_round_trip(8)).max(late)
    }

    fn part_of_round_trip(&self, part: u32) -> Duration {
        self.round_trip.checked_div(part).unwrap_or_default()
    }

    fn settle_all(&mut self) {
        while !self.open.is_empty() {
            self.settle_first();
        }
    }

    fn settle_first(&mut self) {
        let Some(gap) = self.open.pop_front() else { return };
        let counts = &mut self.counts;
        let lost = u64::from(gap.count);
        if gap.is_congestion {
            counts.lost_congestion = counts.lost_congestion.wrapping_add(lost);
        } else if gap.count > LONGEST_WINDOW.into() {
            counts.lost_outage = counts.lost_outage.wrapping_add(lost);
        } else {
            let excess = self.overcounted.min(lost);
            self.overcounted = self.overcounted.saturating_sub(excess);
            let lost = lost.saturating_sub(excess);
            counts.lost_random = counts.lost_random.wrapping_add(lost);
            if let Some(runs) = counts.runs.get_mut(run_class(lost as u32)).filter(|_| lost > 0) {
                *runs = runs.wrapping_add(1);
            }
        }
        self.news = true;
        self.settled.push_back(gap);
        if self.settled.len() > GAPS {
            self.settled.pop_front();
        }
    }

    /// How many repairs more would help, and the lowest number that is missing: as the decoder says, or by the gaps that no repair has covered.
    fn missing(&self, now: Instant) -> Option<(u16, u32)> {
        let patience = ASKED_FOR_AT_LEAST.max(self.round_trip.saturating_mul(ASKED_ROUND_TRIPS));
        let is_asked_for = |gap: &&Gap| {
            let is_near =
                self.expected.is_some_and(|expected| expected.wrapping_sub(gap.first) <= LONGEST_WINDOW.into());
            gap.is_protected
                && !gap.is_congestion
                && gap.recovered < gap.count
                && is_near
                && now.saturating_duration_since(gap.seen_at) < patience
        };
        let mut gaps = self.settled.iter().filter(is_asked_for).peekable();
        let lowest = gaps.peek()?.first;
        let missing: u32 = gaps.map(|gap| gap.count.saturating_sub(gap.recovered)).fold(0, u32::saturating_add);
        self.deficit.or(Some((u16::try_from(missing).unwrap_or(u16::MAX), lowest)))
    }

    /// When the next report is due: `Some(None)` at once, `None` not at all.
    fn report_at(&self) -> Option<Option<Instant>> {
        let interval = match (self.news || self.is_missing, self.progress) {
            (true, _) => NEWS_INTERVAL,
            (false, true) => PROGRESS_INTERVAL,
            (false, false) => return None,
        };
        let is_paid = self.saved_bytes >= REPORT_BYTES.saturating_mul(BYTES_PER_BYTE_OF_REPORT);
        let interval = if is_paid { interval.max(self.part_of_round_trip(4)) } else { LONGEST_INTERVAL };
        Some(self.reported_at.map(|at| later(at, interval)))
    }

    fn report(&self, missing: Option<(u16, u32)>, now: Instant) -> Report {
        let (counts, base) = (&self.counts, &self.base);
        let since = |count: fn(&MeterCounts) -> u64| count(counts).wrapping_sub(count(base)) as u32;
        let mut runs = [0; RUN_CLASSES];
        for (place, (count, base)) in runs.iter_mut().zip(counts.runs.iter().zip(&base.runs)) {
            *place = count.wrapping_sub(*base) as u16;
        }
        let (deficit, lowest_missing) = missing.unwrap_or_default();
        let age = self.echo_at.map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        Report {
            highest: self.expected.unwrap_or_default().wrapping_sub(1),
            received: since(|counts| counts.received),
            received_in_queue: since(|counts| counts.received_in_queue),
            lost_random: since(|counts| counts.lost_random),
            lost_congestion: since(|counts| counts.lost_congestion),
            recovered: since(|counts| counts.recovered),
            unrecoverable: since(|counts| counts.unrecoverable),
            congestion_experienced: since(|counts| counts.congestion_experienced),
            runs,
            lowest_missing,
            deficit,
            reordering: saturated(self.reordering.of_both(u64::max)),
            delay_above_minimum: saturated(self.delay.above_least()),
            echo: self.echo,
            echo_age: saturated(units(age)),
        }
    }
}

fn units(time: Duration) -> u64 {
    u64::try_from(time.as_micros() >> TIMESTAMP_SHIFT).unwrap_or(u64::MAX)
}

fn saturated(value: u64) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests;
