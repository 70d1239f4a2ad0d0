//! When a peer is asked for a sign of life, and what is concluded from what comes.
//!
//! A peer is *quiet* when nothing came from it for a moment. Then it is asked at short intervals, and when as many requests are overdue
//! as cannot all be lost by chance, it is down. How many that is follows from the loss that there is anyhow; how fast they follow each
//! other follows from the time within which the answer has to be found.
//!
//! Nothing counts against a peer that happened while this end was late itself: when a timer runs later than it should, everything that
//! waits for an answer is forgotten, and the peer is asked anew.

use super::rtt::RoundTrips;
use crate::{
    Probing,
    parcel::{Carry, Reader, Writer, carry},
    peer::later,
};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// A timer that runs this much later than it should tells of a thread that was held up.
pub(crate) const LATE: Duration = Duration::from_millis(100);
/// How long after a packet of the pod's a tunnel counts as in use: long enough to settle the last packets' loss.
const ACTIVE: Duration = Duration::from_secs(2);
/// Between requests of a tunnel in use, and of one that is not.
const ACTIVE_INTERVAL: Duration = Duration::from_secs(1);
const IDLE_INTERVAL: Duration = Duration::from_secs(10);
/// Timers of idle tunnels are due together.
const GRID: Duration = Duration::from_secs(1);
/// Silence that long makes a peer of a tunnel in use quiet.
const QUIET: Duration = Duration::from_millis(250);
/// Silence that long is needed at least to call it down.
const TIMEOUT: Duration = Duration::from_millis(750);
const FIXED_TIMEOUT: Duration = Duration::from_millis(600);
/// As long as no round trip is known.
const FIRST_TIMEOUT: Duration = Duration::from_secs(3);
/// Between the requests to a quiet peer.
const SHORTEST_SPACING: Duration = Duration::from_millis(25);
/// How unlikely it has to be that all requests were lost by chance.
const BY_CHANCE: f64 = 1e-8;
/// The least loss that is reckoned with, of a request or its answer.
const LEAST_LOSS: f64 = 0.005;
const MOST_REQUESTS: usize = 20;
/// Between requests to a peer that is down: from, to.
const DOWN_INTERVAL: Duration = Duration::from_millis(500);
const LONGEST_DOWN_INTERVAL: Duration = Duration::from_secs(10);
/// How many requests are remembered, and how long.
const REMEMBERED: usize = 32;

/// A request that was not answered.
#[derive(Debug, Clone, Copy)]
struct Asked {
    number: u32,
    at: Instant,
}

carry!(Asked { number, at });

/// Why a peer is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Silence {
    /// Nothing comes.
    Whole,
    /// Something comes, and nothing that leaves here arrives there.
    Outward,
}

impl Carry for Silence {
    fn encode(&self, to: &mut Writer) {
        (*self == Self::Whole).encode(to);
    }

    fn decode(from: &mut Reader<'_>) -> Option<Self> {
        Some(if bool::decode(from)? { Self::Whole } else { Self::Outward })
    }
}

/// What is known of whether a peer lives.
#[derive(Debug)]
pub(crate) struct Liveness {
    probing: Probing,
    /// The peer can be asked: it has a session, and answers probes.
    can_ask: bool,
    pub(crate) is_down: Option<Silence>,
    /// When anything of it came last, when it was last seen that something arrived there.
    pub(crate) heard_at: Option<Instant>,
    pub(crate) arrived_at: Option<Instant>,
    /// When the pod's packets passed last, either way.
    data_at: Option<Instant>,
    answered_at: Option<Instant>,
    asked_at: Option<Instant>,
    asked: VecDeque<Asked>,
    /// What was before counts for nothing.
    judge_from: Option<Instant>,
    down_interval: Duration,
    next_at: Option<Instant>,
    /// Whatever happens next is worth a look at the timer.
    drowsy: bool,
    /// The share of requests whose answer does not come, by the loss both ways.
    loss: f64,
    pub(crate) trips: RoundTrips,
    next_number: u32,
    pub(crate) requests: u64,
    pub(crate) answers: u64,
    pub(crate) late_intervals: u64,
}

carry!(Liveness {
    probing,
    can_ask,
    is_down,
    heard_at,
    arrived_at,
    data_at,
    answered_at,
    asked_at,
    asked,
    judge_from,
    down_interval,
    next_at,
    drowsy,
    loss,
    trips,
    next_number,
    requests,
    answers,
    late_intervals,
});

impl Liveness {
    pub(crate) fn new() -> Self {
        Self {
            probing: Probing::default(),
            can_ask: false,
            is_down: None,
            heard_at: None,
            arrived_at: None,
            data_at: None,
            answered_at: None,
            asked_at: None,
            asked: VecDeque::new(),
            judge_from: None,
            down_interval: DOWN_INTERVAL,
            next_at: None,
            drowsy: false,
            loss: LEAST_LOSS,
            trips: RoundTrips::new(),
            next_number: 0,
            requests: 0,
            answers: 0,
            late_intervals: 0,
        }
    }

    /// When [`due`](Self::due) is wanted next.
    pub(crate) const fn next_at(&self) -> Option<Instant> {
        self.next_at
    }

    /// A handshake has succeeded: packets passed both ways.
    pub(crate) fn established(&mut self, probing: Probing, can_ask: bool, now: Instant) {
        self.probing = probing;
        let can_ask = can_ask && probing.interval != Some(Duration::ZERO);
        self.can_ask = can_ask;
        (self.heard_at, self.arrived_at, self.judge_from) = (Some(now), Some(now), Some(now));
        self.rise();
        if !can_ask {
            self.asked.clear();
        } else if self.answered_at.is_none() {
            self.asked.reserve(REMEMBERED);
            self.asked_at = None;
            self.next_at = Some(now);
            return;
        }
        self.plan(now);
    }

    /// Something authentic came. Returns whether the timer has to be looked at.
    pub(crate) fn heard(&mut self, is_data: bool, now: Instant) -> bool {
        self.heard_at = Some(now);
        if is_data {
            self.data_at = Some(now);
        }
        self.drowsy && self.rouse(now)
    }

    /// A packet of the pod's leaves. Returns whether the timer has to be looked at.
    pub(crate) fn said(&mut self, now: Instant) -> bool {
        self.data_at = Some(now);
        self.drowsy && self.rouse(now)
    }

    #[cold]
    fn rouse(&mut self, now: Instant) -> bool {
        let planned = self.next_at;
        self.plan(now);
        // One that was down is asked at once when it shows itself.
        if self.is_down == Some(Silence::Whole) && self.heard_at == Some(now) {
            let since_asked = self.asked_at.map_or(Duration::MAX, |at| now.saturating_duration_since(at));
            if since_asked >= SHORTEST_SPACING {
                self.next_at = Some(now);
            }
        }
        self.next_at != planned
    }

    /// Something came that tells of something that arrived there: packets pass both ways.
    pub(crate) fn arrived(&mut self, now: Instant) {
        self.arrived_at = Some(now);
        if self.is_down.is_some() {
            self.rise();
            self.plan(now);
        }
    }

    /// An answer. Returns whether it was asked for.
    pub(crate) fn answered(&mut self, number: u32, now: Instant) -> bool {
        let Some(place) = self.asked.iter().position(|asked| asked.number == number) else { return false };
        let Some(asked) = self.asked.remove(place) else { return false };
        self.answers = self.answers.wrapping_add(1);
        // A timer that should have run by now: the answer may have waited here.
        let is_late = self.next_at.is_some_and(|at| now.saturating_duration_since(at) > LATE);
        if !is_late {
            self.trips.note(now.saturating_duration_since(asked.at));
        }
        (self.heard_at, self.arrived_at, self.answered_at) = (Some(now), Some(now), Some(now));
        self.rise();
        if !is_late {
            self.plan(now);
        }
        true
    }

    fn rise(&mut self) {
        self.is_down = None;
        self.down_interval = DOWN_INTERVAL;
    }

    /// The loss that there is, each way.
    pub(crate) fn set_loss(&mut self, ppm: [u32; 2]) {
        let passes = ppm.iter().fold(1.0, |passes, ppm| passes * (1.0 - f64::from(*ppm) / 1e6));
        self.loss = (1.0_f64 - passes).clamp(LEAST_LOSS, 0.99);
    }

    /// The timer runs: whether a request is to leave.
    pub(crate) fn due(&mut self, now: Instant) -> bool {
        let Some(at) = self.next_at.filter(|at| *at <= now) else { return false };
        if now.saturating_duration_since(at) > LATE {
            self.late_intervals = self.late_intervals.wrapping_add(1);
            self.asked.clear();
            self.judge_from = Some(now);
            return true;
        }
        self.judge(now);
        let asks = self.asks_at(now).is_some_and(|at| at <= now);
        if !asks {
            self.plan(now);
        }
        asks
    }

    /// A request leaves: its number.
    pub(crate) fn ask(&mut self, now: Instant) -> u32 {
        self.requests = self.requests.wrapping_add(1);
        self.miss(now)
    }

    /// A request would leave, and there is no session for it: silence counts all the same.
    pub(crate) fn miss(&mut self, now: Instant) -> u32 {
        let number = self.next_number;
        // The other half belongs to those who ask for something else.
        self.next_number = self.next_number.wrapping_add(1) & 0x7fff_ffff;
        if self.asked.len() >= REMEMBERED {
            self.asked.pop_front();
        }
        self.asked.push_back(Asked { number, at: now });
        self.asked_at = Some(now);
        if self.is_down.is_some() {
            self.down_interval = self.down_interval.saturating_mul(2).min(LONGEST_DOWN_INTERVAL);
        }
        self.plan(now);
        number
    }

    /// Whether it can be asked at all.
    pub(crate) fn set_can_ask(&mut self, can_ask: bool, now: Instant) {
        self.can_ask = can_ask;
        self.plan(now);
    }

    /// How long nothing may come.
    fn timeout(&self) -> Duration {
        if let Some(timeout) = self.probing.timeout {
            return timeout;
        }
        let least = match self.probing.interval {
            Some(interval) => interval.saturating_mul(4).max(FIXED_TIMEOUT),
            None => TIMEOUT,
        };
        let by_trips = self.trips.smooth().map_or(FIRST_TIMEOUT, |(smooth, variation)| {
            smooth.saturating_mul(2).saturating_add(variation.saturating_mul(4)).saturating_add(LATE.saturating_mul(2))
        });
        least.max(by_trips)
    }

    /// How long silence may last before somebody looks more closely.
    fn quiet(&self) -> Duration {
        let quiet = self.probing.interval.map_or(QUIET, |interval| {
            let slack = interval.checked_div(4).unwrap_or_default();
            interval.saturating_add(slack).max(QUIET)
        });
        quiet.min(self.timeout().checked_div(2).unwrap_or_default())
    }

    /// How many requests in a row are not lost by chance.
    fn enough(&self) -> usize {
        let needed = (BY_CHANCE.ln() / self.loss.ln()).ceil();
        (needed as usize).clamp(4, MOST_REQUESTS)
    }

    fn spacing(&self) -> Duration {
        let time = self.timeout().saturating_sub(self.quiet());
        let spacing = u32::try_from(self.enough()).ok().and_then(|enough| time.checked_div(enough));
        spacing.unwrap_or_default().max(SHORTEST_SPACING)
    }

    fn is_active(&self, now: Instant) -> bool {
        self.data_at.is_some_and(|at| now.saturating_duration_since(at) < ACTIVE)
    }

    /// Since when nothing has come, of what counts.
    fn silent_since(&self) -> Option<Instant> {
        self.heard_at.max(self.judge_from)
    }

    /// Requests that left since then.
    fn asked_since(&self, since: Option<Instant>) -> impl Iterator<Item = &Asked> {
        // One that left at that very moment has been answered by what came, as far as is known.
        self.asked.iter().filter(move |asked| since.is_none_or(|since| asked.at > since))
    }

    /// When the peer would be down, if nothing comes until then.
    fn judged_at(&self, since: Option<Instant>) -> Option<Instant> {
        let nth = self.asked_since(since).nth(self.enough().saturating_sub(1))?;
        let first = self.asked_since(since).next()?;
        let overdue = later(nth.at, self.trips.patience().min(self.timeout()));
        let time = later(since?, self.timeout());
        let asked_long_enough = later(first.at, self.timeout().saturating_sub(self.quiet()));
        Some(overdue.max(time).max(asked_long_enough))
    }

    fn judge(&mut self, now: Instant) {
        if self.is_down.is_some() {
            return;
        }
        if self.judged_at(self.silent_since()).is_some_and(|at| at <= now) {
            self.is_down = Some(Silence::Whole);
        } else if self.outward_judged_at().is_some_and(|at| at <= now) {
            self.is_down = Some(Silence::Outward);
        }
    }

    /// The same for a peer that is heard, but neither answers nor tells that anything arrived. It tells seldom, so this takes longer.
    fn outward_judged_at(&self) -> Option<Instant> {
        let since = self.arrived_at.max(self.judge_from);
        let judged_at = self.judged_at(since)?;
        Some(judged_at.max(later(since?, ACTIVE_INTERVAL.saturating_mul(3))))
    }

    /// A request is overdue.
    fn is_doubted(&self, now: Instant) -> bool {
        let patience = self.trips.patience().max(QUIET);
        self.asked_since(self.arrived_at.max(self.judge_from))
            .next()
            .is_some_and(|asked| now.saturating_duration_since(asked.at) >= patience)
    }

    /// When the next request leaves.
    fn asks_at(&self, now: Instant) -> Option<Instant> {
        let Some(asked_at) = self.asked_at else { return Some(now) };
        let after = |by| later(asked_at, by);
        let is_active = self.is_active(now);
        if self.is_down.is_some() {
            let longest = if is_active { ACTIVE_INTERVAL } else { LONGEST_DOWN_INTERVAL };
            return Some(after(self.down_interval.min(longest)));
        }
        let quiet_at = self.silent_since().map(|since| later(since, self.quiet()));
        let doubted = after(self.spacing());
        if self.is_doubted(now) {
            return Some(doubted);
        }
        // A request is under way: when it will be overdue.
        let overdue = self
            .asked_since(self.arrived_at.max(self.judge_from))
            .next()
            .map(|asked| later(asked.at, self.trips.patience().max(QUIET)).max(doubted));
        let regular = match self.probing.interval {
            Some(interval) => quiet_at.map_or(after(interval), |at| at.max(doubted).min(after(interval))),
            None if is_active => {
                quiet_at.map_or(after(ACTIVE_INTERVAL), |at| at.max(doubted).min(after(ACTIVE_INTERVAL)))
            }
            None => {
                let known = self.answered_at.min(self.heard_at).unwrap_or(asked_at);
                up_to_grid(later(known, IDLE_INTERVAL.saturating_sub(GRID))).max(after(ACTIVE_INTERVAL))
            }
        };
        Some(overdue.map_or(regular, |overdue| overdue.min(regular)))
    }

    /// Sets the timer.
    fn plan(&mut self, now: Instant) {
        if !self.can_ask {
            (self.next_at, self.drowsy) = (None, false);
            return;
        }
        let judged = [self.judged_at(self.silent_since()), self.outward_judged_at()].into_iter().flatten().min();
        let judged = judged.filter(|_| self.is_down.is_none());
        self.next_at = self.asks_at(now).into_iter().chain(judged).min();
        // In use the timer comes soon enough by itself.
        self.drowsy = self.is_down.is_some() || !self.is_active(now);
    }
}

/// The next instant that idle tunnels' timers have in common.
fn up_to_grid(at: Instant) -> Instant {
    use std::sync::OnceLock;
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    let origin = *ORIGIN.get_or_init(|| at);
    let grid = u64::try_from(GRID.as_micros()).unwrap_or(u64::MAX);
    let since = u64::try_from(at.saturating_duration_since(origin).as_micros()).unwrap_or(u64::MAX);
    let behind = since.checked_rem(grid).filter(|behind| *behind > 0);
    behind.map_or(at, |behind| later(at, Duration::from_micros(grid.saturating_sub(behind))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects, reason = "a test that panics has failed, as it should")]
    use super::*;

    #[test]
    fn timers_of_idle_tunnels_meet_on_whole_seconds() {
        let now = up_to_grid(Instant::now());
        assert_eq!(up_to_grid(now), now);
        assert_eq!(up_to_grid(now + Duration::from_micros(1)), now + GRID);
        assert_eq!(up_to_grid(now + GRID), now + GRID);
    }

    #[test]
    fn the_more_is_lost_anyhow_the_more_requests_have_to_stay_without_an_answer() {
        let mut live = Liveness::new();
        live.trips.note(Duration::from_millis(1));
        assert_eq!((live.enough(), live.spacing()), (4, Duration::from_millis(125)));
        live.set_loss([50_000, 50_000]);
        assert_eq!(live.enough(), 8);
        live.set_loss([1_000_000, 0]);
        assert_eq!((live.enough(), live.spacing()), (MOST_REQUESTS, SHORTEST_SPACING));
    }
}
