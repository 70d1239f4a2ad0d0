//! The largest packet that passes to a peer: found by probes of every size (RFC 8899), believed only as long as they are answered.
//!
//! The search starts with what the route says and *confirms* it: while larger packets are sent, one request of the present size each
//! [`CONFIRM_INTERVAL`], which at 1500 bytes are 3 KB/s out, 0.2 KB/s back, and nothing at all while the tunnel is idle. When requests of that
//! size go unanswered in three rounds (one, three and three of them) while small ones beside them are answered, something on the path swallows
//! large packets. Then the largest of the usual sizes that was answered counts at once, and the sizes up to the next are searched. A path
//! on which nothing is answered says nothing about sizes. Larger sizes are tried rarely, and count when they were answered in two rounds.
//!
//! All sizes are those of outer packets with all their headers.

use crate::peer::later;
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Sizes that paths usually have: the minimum of IPv4 and IPv6, tunnels of several kinds, Ethernet, jumbo frames of AWS and of Ethernet.
const USUAL_BYTES: [u16; 20] = [
    576, 800, 1024, 1152, 1280, 1296, 1332, 1368, 1400, 1420, 1440, 1460, 1472, 1480, 1492, 1500, 4096, 8901, 9000,
    9216,
];
/// No IPv4 link has to carry more than 68 bytes, but below this no tunnel is made.
const LEAST_IPV4_BYTES: u16 = 576;
/// Every IPv6 link carries this (RFC 8200, section 5).
const LEAST_IPV6_BYTES: u16 = 1280;
/// Between two requests that confirm the present size.
pub(crate) const CONFIRM_INTERVAL: Duration = Duration::from_millis(500);
/// How long the answer of a round may take, whatever the round trip was.
const SHORTEST_ROUND: Duration = Duration::from_millis(200);
const LONGEST_ROUND: Duration = Duration::from_secs(2);
/// A round trip before one was measured.
const FIRST_ROUND_TRIP: Duration = Duration::from_millis(150);
/// Who looks at a round's answers this late may not have read them all: they are waited for once more.
const LATE: Duration = Duration::from_millis(100);
/// Before larger sizes are tried again: twice as long each time in vain.
const FIRST_RAISE: Duration = Duration::from_secs(60);
const LAST_RAISE: Duration = Duration::from_secs(600);
/// Between the two rounds that a larger size has to pass.
const RAISE_PAUSE: Duration = Duration::from_secs(1);
/// While nothing at all is answered.
const LONGEST_SILENCE: Duration = Duration::from_secs(8);
/// How many points of an interval without usual sizes are tried at once.
const POINTS: u16 = 4;

/// Marks the numbers of these requests, which others count as well; and what is left for them.
const OF_SEARCH: u32 = 1 << 31;
const NUMBERS: u32 = OF_SEARCH - 1;

/// Whether a request with this number is the search's.
pub(crate) const fn is_of_search(number: u32) -> bool {
    number & OF_SEARCH != 0
}

/// What is known of the path to one peer.
#[derive(Debug)]
pub(crate) struct Search {
    least: u16,
    most: u16,
    size: u16,
    phase: Phase,
    /// Judges the round that waits, or begins the next.
    at: Option<Instant>,
    round: Round,
    /// Larger packets were sent since the last round began.
    used: bool,
    to: Option<SocketAddr>,
    confirmed_at: Option<Instant>,
    round_trip: Duration,
    silence: Duration,
    raise_at: Option<Instant>,
    raise_interval: Duration,
    /// Number of the next probe.
    number: u32,
    pub(crate) sent: u64,
    pub(crate) answered: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Rest,
    /// So many rounds of the present size were not answered.
    Confirm(u8),
    /// `low` passes, `high` does not, as far as is known.
    Hunt {
        low: u16,
        high: u16,
        raises: bool,
    },
    Verify(u16),
}

/// What was asked last, and what came of it.
#[derive(Debug, Default)]
struct Round {
    waits: bool,
    sizes: Vec<u16>,
    /// The first number of this round and of the one before.
    first: u32,
    previous: u32,
    largest: u16,
    small: bool,
    extended: bool,
}

/// What is to be sent at once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    /// Sizes of requests, 0 for one without padding, with their numbers.
    pub(crate) requests: Vec<(u16, u32)>,
    /// The size that counts is another one.
    pub(crate) changed: bool,
}

impl Search {
    /// Nothing was tried yet: `most` is what the route says, `start` what the path took when it was last known.
    pub(crate) fn new(is_ipv6: bool, most: u16, start: Option<u16>, now: Instant) -> Self {
        let least = Self::least_bytes(is_ipv6).min(most);
        let size = start.unwrap_or(most).clamp(least, most);
        Self {
            least,
            most,
            size,
            phase: Phase::Rest,
            at: None,
            round: Round::default(),
            used: false,
            to: None,
            confirmed_at: None,
            round_trip: FIRST_ROUND_TRIP,
            silence: CONFIRM_INTERVAL,
            raise_at: (size < most).then(|| later(now, RAISE_PAUSE)),
            raise_interval: FIRST_RAISE,
            number: 0,
            sent: 0,
            answered: 0,
        }
    }

    /// The least size that is looked for, bytes.
    pub(crate) const fn least_bytes(is_ipv6: bool) -> u16 {
        if is_ipv6 { LEAST_IPV6_BYTES } else { LEAST_IPV4_BYTES }
    }

    /// The size that counts.
    pub(crate) const fn size(&self) -> u16 {
        self.size
    }

    /// The size that is known to pass.
    pub(crate) fn known(&self) -> Option<u16> {
        self.confirmed_at.map(|_| self.size)
    }

    pub(crate) const fn next_wake(&self) -> Option<Instant> {
        self.at
    }

    /// A larger packet leaves. Whether a timer was set.
    pub(crate) fn note_sent(&mut self, to: SocketAddr, now: Instant) -> bool {
        self.used = true;
        if self.to != Some(to) {
            self.moved(to, now);
        }
        if self.at.is_some() {
            return false;
        }
        let next = self.confirmed_at.map_or(now, |at| later(at, CONFIRM_INTERVAL));
        self.at = Some(next.max(now));
        true
    }

    /// It is another path: what was found out may be wrong, in both directions.
    fn moved(&mut self, to: SocketAddr, now: Instant) {
        let is_first = self.to.replace(to).is_none();
        if is_first {
            return;
        }
        self.confirmed_at = None;
        self.raise_interval = FIRST_RAISE;
        self.raise_at = (self.size < self.most).then(|| later(now, RAISE_PAUSE));
        (self.phase, self.round.waits, self.at) = (Phase::Rest, false, None);
    }

    /// This host refused a datagram as too large for its own device or route: a path that is to be looked at now. Whether a timer was set.
    pub(crate) fn refused(&mut self, now: Instant) -> bool {
        if self.phase != Phase::Rest {
            return false;
        }
        (self.phase, self.used, self.at) = (Phase::Confirm(1), true, Some(now));
        true
    }

    /// The answer to a request that was this large, and how long it took.
    pub(crate) fn answer(&mut self, number: u32, size: u16, took: Duration, now: Instant) -> bool {
        let since = |number: u32| self.number.wrapping_sub(number) & NUMBERS;
        if since(number) == 0 || since(number) > since(self.round.previous) || size > self.most {
            return false;
        }
        self.answered = self.answered.wrapping_add(1);
        self.silence = CONFIRM_INTERVAL;
        let smoothed = self.round_trip.saturating_mul(7).saturating_add(took).checked_div(8).unwrap_or(took);
        self.round_trip = took.max(smoothed).min(LONGEST_ROUND);
        if size < self.least {
            self.round.small = true;
            return false;
        }
        self.round.largest = self.round.largest.max(size);
        if matches!(self.phase, Phase::Confirm(_)) && size >= self.size {
            self.confirmed(now);
            return true;
        }
        false
    }

    fn confirmed(&mut self, now: Instant) {
        self.confirmed_at = Some(now);
        self.rest(later(now, CONFIRM_INTERVAL));
    }

    fn rest(&mut self, until: Instant) {
        (self.phase, self.round.waits, self.at) = (Phase::Rest, false, Some(until));
    }

    /// What is due by `now`.
    pub(crate) fn tick(&mut self, now: Instant) -> Due {
        let Some(at) = self.at.filter(|at| *at <= now) else { return Due::default() };
        let before = self.size;
        if self.round.waits {
            let is_late = now.saturating_duration_since(at) > LATE;
            match (is_late, self.round.extended) {
                (false, _) => self.judge(now),
                (true, false) => {
                    self.round.extended = true;
                    self.at = Some(later(now, SHORTEST_ROUND));
                }
                // It says nothing, and is asked again.
                (true, true) => (self.round.waits, self.at) = (false, Some(now)),
            }
        } else if self.phase == Phase::Rest {
            self.wake(now);
        }
        let requests = if !self.round.waits && self.at.is_some_and(|at| at <= now) && self.phase != Phase::Rest {
            self.ask(now)
        } else {
            Vec::new()
        };
        Due { requests, changed: self.size != before }
    }

    fn wake(&mut self, now: Instant) {
        if !self.used {
            self.at = None;
            return;
        }
        self.used = false;
        let raises = self.size < self.most && self.raise_at.is_some_and(|at| at <= now);
        self.phase = if raises {
            Phase::Hunt { low: self.size, high: self.most.saturating_add(1), raises }
        } else {
            Phase::Confirm(0)
        };
    }

    /// Begins a round.
    fn ask(&mut self, now: Instant) -> Vec<(u16, u32)> {
        let mut requests = Vec::new();
        let mut times = |sizes: &[u16], times: usize| {
            (0..times).for_each(|_| requests.extend_from_slice(sizes));
        };
        let sizes = match self.phase {
            Phase::Rest => Vec::new(),
            Phase::Confirm(0) => vec![self.size],
            Phase::Confirm(misses) => {
                times(&[0], 2);
                times(&[self.size], 2);
                let below =
                    if misses > 1 { self.candidates(self.least.saturating_sub(1), self.size) } else { Vec::new() };
                [below, vec![self.size]].concat()
            }
            Phase::Hunt { low, high, .. } => {
                let candidates = self.candidates(low, high);
                times(&[0], 2);
                times(&candidates, 1);
                candidates
            }
            Phase::Verify(size) => {
                times(&[size], 1);
                vec![size]
            }
        };
        times(&sizes, 1);
        let first = self.number;
        self.round = Round { waits: true, sizes, first, previous: self.round.first, ..Round::default() };
        let took = self.round_trip.saturating_mul(2).clamp(SHORTEST_ROUND, LONGEST_ROUND);
        self.at = Some(later(now, took));
        self.sent = self.sent.wrapping_add(requests.len() as u64);
        let numbers = (0..).map(|more| first.wrapping_add(more) | OF_SEARCH);
        let numbered: Vec<(u16, u32)> = requests.into_iter().zip(numbers).collect();
        self.number = first.wrapping_add(numbered.len() as u32);
        numbered
    }

    /// Sizes above `low` and below `high` that are worth trying.
    fn candidates(&self, low: u16, high: u16) -> Vec<u16> {
        let usual = USUAL_BYTES
            .into_iter()
            .chain([self.least, self.most])
            .filter(|size| (self.least..=self.most).contains(size));
        let mut sizes: Vec<u16> = usual.filter(|size| *size > low && *size < high).collect();
        if sizes.is_empty() {
            let gap = high.saturating_sub(low).saturating_sub(1);
            let step = gap.div_ceil(POINTS.saturating_add(1)).max(1);
            sizes =
                (1..=POINTS).map(|n| low.saturating_add(n.saturating_mul(step))).filter(|size| *size < high).collect();
        }
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    /// The round is over.
    fn judge(&mut self, now: Instant) {
        self.round.waits = false;
        let Round { largest, small, .. } = self.round;
        match self.phase {
            Phase::Rest => {}
            Phase::Confirm(0) => (self.phase, self.at) = (Phase::Confirm(1), Some(now)),
            // Nobody answers at all, or small ones are lost as well.
            Phase::Confirm(_) | Phase::Hunt { .. } if !small && largest == 0 => {
                self.used = true;
                self.rest(later(now, self.silence));
                self.silence = self.silence.saturating_mul(2).min(LONGEST_SILENCE);
            }
            Phase::Confirm(1) => (self.phase, self.at) = (Phase::Confirm(2), Some(now)),
            Phase::Confirm(_) => {
                let high = self.size;
                self.size = largest.clamp(self.least, high);
                self.confirmed_at = Some(now);
                (self.raise_at, self.raise_interval) = (Some(later(now, FIRST_RAISE)), FIRST_RAISE);
                self.hunt(Phase::Hunt { low: self.size, high, raises: false }, now);
            }
            Phase::Hunt { low, high, raises } => {
                let low = if largest < high { low.max(largest) } else { low };
                let high = self.round.sizes.iter().copied().filter(|size| *size > low).fold(high, u16::min);
                if !raises {
                    self.size = low;
                }
                self.hunt(Phase::Hunt { low, high, raises }, now);
            }
            Phase::Verify(size) => {
                if largest >= size {
                    self.size = size;
                    self.confirmed_at = Some(now);
                    self.raise_interval = FIRST_RAISE;
                }
                self.raised(now);
            }
        }
    }

    /// Goes on with a hunt, or is at its end.
    fn hunt(&mut self, hunt: Phase, now: Instant) {
        let Phase::Hunt { low, high, raises } = hunt else { return };
        if !self.candidates(low, high).is_empty() {
            (self.phase, self.at) = (hunt, Some(now));
        } else if raises && low > self.size {
            (self.phase, self.at) = (Phase::Verify(low), Some(later(now, RAISE_PAUSE)));
        } else if raises {
            self.raised(now);
        } else {
            self.rest(later(now, CONFIRM_INTERVAL));
        }
    }

    /// When the next larger sizes are tried.
    fn raised(&mut self, now: Instant) {
        self.raise_at = Some(later(now, self.raise_interval));
        self.raise_interval = self.raise_interval.saturating_mul(2).min(LAST_RAISE);
        self.rest(later(now, CONFIRM_INTERVAL));
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "the numbers of the tests are small")]
mod tests;
