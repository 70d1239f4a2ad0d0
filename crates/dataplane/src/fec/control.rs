//! What the sender of DATA makes of the reports: how many repairs it sends, and over how many packets.
//!
//! More repairs at once when more is lost; fewer by half in 5 s; none after 10 s of traffic in which nothing was lost at random. What is lost
//! to congestion raises nothing, and repairs never take more than their share of the bytes. A path of which nothing is known yet is
//! taken for a bad one, until some hundred packets have passed: a connection that begins with a loss stays slow for long.

pub(super) mod choice;
mod estimate;
mod pace;
mod trial;

use super::{
    LONGEST_WINDOW, gf,
    report::{RUN_CLASSES, Report},
};
use crate::{
    FecMode, FecPolicy,
    parcel::{Carry, Reader, Writer, carry},
};
use estimate::Estimate;
use pace::Pace;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};
use trial::Trial;

const MILLION: f64 = 1_000_000.0;
/// At the first loss, before anything is known.
const FIRST_REDUNDANCY: f64 = 0.05;
/// And each of the losses is taken to be one of so many packets, at most.
const PACKETS_OF_FIRST_LOSS: u32 = 100;
/// In which time redundancy falls by half.
const HALVED_IN: Duration = Duration::from_secs(5);
/// After so much traffic without random loss nothing is protected any more.
const CLEAN_AFTER: Duration = Duration::from_secs(10);
/// Repairs on demand are as quick as others where the round trip is shorter.
const SHORT_ROUND_TRIP: Duration = Duration::from_millis(60);
/// What recovery may take where the round trip is even shorter.
const LEAST_ROOM: Duration = Duration::from_millis(25);
/// Silence is the end of a burst after so long.
const LEAST_TAIL: Duration = Duration::from_millis(2);
/// A part of a repair that is not asked for.
const LITTLE: f64 = 0.25;
/// The most repairs that one report asks for.
const MOST_REACTIVE: f64 = 16.0;
/// So many reports in a row are taken for late ones; more are another beginning.
const MOST_LATE: u8 = 3;
const WINDOW_AT_FIRST: u16 = 64;
/// On a path of which nothing is known, until so many packets came without a loss.
const REDUNDANCY_AT_FIRST_PPM: u32 = 200_000;
const PROOF_PACKETS: u32 = 500;
/// Most recoveries take much less than the window: it may be so many times as long as they may take.
const WINDOW_PER_DELAY: f64 = 2.0;
/// Where packets are rare, in time they are recovered or not at all.
const LEAST_WINDOW: f64 = 32.0;

impl Carry for FecMode {
    fn encode(&self, to: &mut Writer) {
        match *self {
            Self::Off => 0_u8.encode(to),
            Self::Auto => 1_u8.encode(to),
            Self::Fixed { redundancy_ppm, window } => {
                2_u8.encode(to);
                redundancy_ppm.encode(to);
                window.encode(to);
            }
        }
    }

    fn decode(from: &mut Reader<'_>) -> Option<Self> {
        match u8::decode(from)? {
            0 => Some(Self::Off),
            1 => Some(Self::Auto),
            2 => Some(Self::Fixed { redundancy_ppm: u32::decode(from)?, window: u16::decode(from)? }),
            _ => None,
        }
    }
}

carry!(FecPolicy { mode, max_overhead_ppm, target_ppb, max_recovery_delay });

/// What is told of the control.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ControlCounts {
    /// The share of packets lost at random, as estimated.
    pub(crate) loss_ppm: u32,
    /// The mean length of runs of lost packets, times 1000.
    pub(crate) burst_milli: u32,
    pub(crate) redundancy_ppm: u32,
    pub(crate) window: u16,
    pub(crate) repairs_sent: u64,
    pub(crate) repair_bytes: u64,
    /// Bytes of repairs as a share of those of DATA, lately.
    pub(crate) overhead_ppm: u32,
    /// Redundancy is held down because repairs were found to make losses.
    pub(crate) is_held: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Control {
    policy: FecPolicy,
    redundancy_ppm: u32,
    window: u16,
    tail_after: Option<Duration>,
    /// The last report that was counted, and when it came.
    previous: Option<(Report, Instant)>,
    /// Reports in a row that are older than that.
    late: u8,
    estimate: Estimate,
    pace: Pace,
    trial: Trial,
    /// While nothing is known of the path: how many packets have come.
    proof: Option<u32>,
    /// Traffic without random loss, where no queue stood.
    clean_for: Duration,
    round_trip: Option<Duration>,
    /// Repairs that were asked for: when they left, and how many.
    asked: VecDeque<(Instant, u32)>,
    repairs_sent: u64,
    repair_bytes: u64,
}

carry!(Control {
    policy,
    redundancy_ppm,
    window,
    tail_after,
    previous,
    late,
    estimate,
    pace,
    trial,
    proof,
    clean_for,
    round_trip,
    asked,
    repairs_sent,
    repair_bytes,
});

impl Control {
    pub(crate) fn new(policy: FecPolicy) -> Self {
        let mut control = Self {
            policy,
            redundancy_ppm: REDUNDANCY_AT_FIRST_PPM.min(policy.max_overhead_ppm),
            window: WINDOW_AT_FIRST,
            tail_after: None,
            previous: None,
            late: 0,
            estimate: Estimate::new(),
            pace: Pace::new(),
            trial: Trial::new(),
            proof: Some(0),
            clean_for: Duration::ZERO,
            round_trip: None,
            asked: VecDeque::new(),
            repairs_sent: 0,
            repair_bytes: 0,
        };
        control.set_policy(policy);
        control
    }

    pub(crate) const fn policy(&self) -> FecPolicy {
        self.policy
    }

    /// Another policy from now on; what was learned is kept.
    pub(crate) fn set_policy(&mut self, policy: FecPolicy) {
        if let FecMode::Fixed { redundancy_ppm, window } = policy.mode {
            (self.redundancy_ppm, self.window) = (redundancy_ppm.min(1_000_000), window.clamp(1, LONGEST_WINDOW));
        } else if policy.mode != self.policy.mode {
            self.redundancy_ppm = 0;
        }
        self.policy = policy;
        self.redundancy_ppm = if policy.mode == FecMode::Off { 0 } else { self.redundancy_ppm };
        self.set_tail();
    }

    /// Our numbering, or the other end's counting, begins anew. What was learned of the path is kept.
    pub(crate) fn restart(&mut self) {
        (self.previous, self.late) = (None, 0);
        self.asked.clear();
    }

    /// What a round trip takes, as far as it is known.
    pub(crate) fn set_round_trip(&mut self, round_trip: Option<Duration>) {
        self.round_trip = round_trip.or(self.round_trip);
    }

    /// A report came.
    pub(crate) fn report(&mut self, report: &Report, now: Instant) {
        let Some(change) = self.change(report) else { return };
        let was_protected = self.redundancy_ppm > 0;
        if self.policy.mode == FecMode::Auto && !was_protected && change.lost == 0 {
            return;
        }
        let since = self.previous.map_or(Duration::ZERO, |(_, at)| now.saturating_duration_since(at));
        self.previous = Some((*report, now));
        let calm = f64::from(change.sent) / f64::from(change.all.max(1));
        let active = self.pace.active_since_report().mul_f64(calm);
        self.clean_for = if change.lost > 0 { Duration::ZERO } else { self.clean_for.saturating_add(active) };
        if self.policy.mode != FecMode::Auto {
            self.estimate.add(change.sent, change.lost, &change.runs);
            return;
        }
        if let Some(passed) = self.proof.filter(|_| change.lost == 0) {
            let passed = passed.saturating_add(change.all);
            self.proof = (passed < PROOF_PACKETS).then_some(passed);
            if self.proof.is_none() {
                self.redundancy_ppm = 0;
                self.set_tail();
            }
            return;
        }
        self.proof = None;
        if !was_protected {
            // What came before the path began to lose says nothing of it.
            self.estimate = Estimate::new();
            let sent = change.sent.min(change.lost.saturating_mul(PACKETS_OF_FIRST_LOSS));
            self.estimate.add(sent, change.lost, &change.runs);
        } else {
            self.estimate.add(change.sent, change.lost, &change.runs);
            if self.clean_for >= CLEAN_AFTER {
                self.redundancy_ppm = 0;
                self.estimate = Estimate::new();
                self.set_tail();
                return;
            }
        }
        let before = f64::from(self.redundancy_ppm) / MILLION;
        let cap = f64::from(self.policy.max_overhead_ppm) / MILLION;
        self.trial.note(change.sent, change.lost, change.recovered, before, cap, now);
        let (wanted, window) = self.wanted();
        let first = if was_protected { 0.0 } else { FIRST_REDUNDANCY };
        let faded = before * (-since.as_secs_f64() / HALVED_IN.as_secs_f64()).exp2();
        let most = self.trial.ceiling().min(cap / self.pace.stretch());
        let redundancy = wanted.max(first).max(faded).min(most);
        // Never quite 0 while something is lost, for the reports go on only as long as something is protected.
        (self.redundancy_ppm, self.window) = (((redundancy * MILLION) as u32).max(1), window);
        self.set_tail();
    }

    /// Redundancy and window for what is known now.
    fn wanted(&self) -> (f64, u16) {
        let loss = self.estimate.loss();
        if loss <= 0.0 {
            return (0.0, self.window);
        }
        let patience = self.round_trip.unwrap_or(Duration::MAX).max(LEAST_ROOM).min(self.policy.max_recovery_delay);
        let longest = (self.pace.rate * patience.as_secs_f64() * WINDOW_PER_DELAY).max(LEAST_WINDOW);
        let target = f64::from(self.policy.target_ppb) / (MILLION * 1000.0);
        if loss <= target {
            return (0.0, self.window);
        }
        let (redundancy, window) = choice::choose(target, loss, self.estimate.burst(), longest);
        // A wider one loses less for the same bytes, and recovers no later.
        let affordable = gf::terms_to_spare() / (self.pace.rate * redundancy).max(1.0);
        (redundancy, window.max(affordable.min(longest).min(LONGEST_WINDOW.into()) as u16))
    }

    /// What is new in a report; `None`: it is older than another that came.
    fn change(&mut self, report: &Report) -> Option<Change> {
        let Some((previous, _)) = &self.previous else {
            return Some(Change::between(&Report { highest: report.highest, ..Report::default() }, report));
        };
        let change = Change::between(previous, report);
        let is_older = [report.received.wrapping_sub(previous.received), change.lost, change.recovered]
            .iter()
            .any(|count| *count > u32::MAX / 2);
        if !is_older {
            self.late = 0;
            return Some(change);
        }
        self.late = self.late.saturating_add(1);
        if self.late > MOST_LATE {
            self.restart();
            self.previous = Some((*report, self.previous.map(|(_, at)| at)?));
        }
        None
    }

    /// DATA left: so many packets and bytes.
    pub(crate) fn sent(&mut self, packets: u32, bytes: u64, now: Instant) {
        if self.pace.sent(packets, bytes, self.policy.max_overhead_ppm, now) {
            self.set_tail();
        }
    }

    /// A repair left.
    pub(crate) fn repair_sent(&mut self, bytes: usize) {
        self.pace.repair_sent(bytes);
        self.repairs_sent = self.repairs_sent.wrapping_add(1);
        self.repair_bytes = self.repair_bytes.wrapping_add(bytes as u64);
    }

    /// Whether a repair of this length keeps repairs within their share of the bytes.
    pub(crate) const fn allows(&self, bytes: usize) -> bool {
        matches!(self.policy.mode, FecMode::Fixed { .. }) || self.pace.allows(bytes as u64)
    }

    /// Repairs for each packet; 0: nothing is protected.
    pub(crate) const fn redundancy_ppm(&self) -> u32 {
        self.redundancy_ppm
    }

    /// How many packets a repair covers.
    pub(crate) const fn window(&self) -> u16 {
        self.window
    }

    /// Whether DATA is to be kept for repairs, and marked so.
    pub(crate) const fn protects(&self) -> bool {
        self.redundancy_ppm > 0
    }

    /// How many repairs the report asks for beyond those that leave anyway, and from which packet on they are to cover everything.
    pub(crate) fn reactive(&mut self, report: &Report, now: Instant) -> Option<(u32, u16)> {
        let round_trip =
            self.round_trip.filter(|_| self.policy.mode == FecMode::Auto && self.protects() && report.deficit > 0)?;
        // Those that were asked for before come within a round trip, or were lost.
        let under_way = round_trip.saturating_add(round_trip.checked_div(4)?).saturating_add(Duration::from_millis(20));
        self.asked.retain(|(at, _)| now.saturating_duration_since(*at) < under_way);
        let asked: u32 = self.asked.iter().map(|(_, count)| *count).fold(0, u32::saturating_add);

        let arrive = 1.0 - self.estimate.loss().min(0.5);
        let redundancy = f64::from(self.redundancy_ppm) / MILLION;
        // Repairs that cover the first missing packet leave until it is a window old; the report is half a round trip old.
        let age = report.highest.wrapping_sub(report.lowest_missing);
        let covering = f64::from(u32::from(self.window).saturating_sub(age));
        let in_round_trip = self.pace.rate * round_trip.as_secs_f64();
        let in_time = if round_trip < SHORT_ROUND_TRIP { covering.min(in_round_trip) } else { covering };
        let leaving = (redundancy * in_time).floor();
        // One deviation fewer than come on average.
        let sure = (leaving * arrive - (leaving * arrive * (1.0 - arrive)).sqrt()).max(0.0);
        // What is short by less than this comes, more likely than not.
        let needed = (f64::from(report.deficit) - sure - LITTLE).max(0.0).ceil();
        let wanted = needed + (needed / arrive - needed).round() - f64::from(asked);
        let is_kept = age.saturating_add(in_round_trip as u32) < LONGEST_WINDOW.into();
        if wanted <= 0.0 || !is_kept {
            return None;
        }
        let count = wanted.min(MOST_REACTIVE);
        if !self.pace.allows((count * self.pace.repair_bytes()) as u64) {
            return None;
        }
        self.asked.push_back((now, count as u32));
        Some((report.lowest_missing, count as u16))
    }

    /// After how long a silence repairs for the last packets are due; `None` while nothing is protected.
    pub(crate) const fn tail_after(&self) -> Option<Duration> {
        self.tail_after
    }

    /// How many repairs the last packets get when silence follows, of which so many are in no repair yet.
    pub(crate) fn tail(&self, uncovered: u16) -> u16 {
        (f64::from(uncovered) * f64::from(self.redundancy_ppm) / MILLION).ceil() as u16
    }

    fn set_tail(&mut self) {
        self.tail_after = self.protects().then(|| {
            let apart = if self.pace.rate > 1.0 { 2.0 / self.pace.rate } else { 2.0 };
            let longest = self.policy.max_recovery_delay.checked_div(2).unwrap_or_default().max(LEAST_TAIL);
            Duration::from_secs_f64(apart).clamp(LEAST_TAIL, longest)
        });
    }

    pub(crate) fn counts(&self) -> ControlCounts {
        let ppm = |share: f64| (share * MILLION) as u32;
        ControlCounts {
            loss_ppm: ppm(self.estimate.mean_loss()),
            burst_milli: (self.estimate.burst() * 1000.0) as u32,
            redundancy_ppm: self.redundancy_ppm,
            window: self.window,
            repairs_sent: self.repairs_sent,
            repair_bytes: self.repair_bytes,
            overhead_ppm: ppm(self.pace.overhead()),
            is_held: self.trial.ceiling() < 1.0,
        }
    }
}

/// What happened between two reports.
#[derive(Debug, Clone, Copy)]
struct Change {
    /// Received, and lost at random.
    all: u32,
    /// The same without those that came while a queue stood, where each loss is congestion.
    sent: u32,
    lost: u32,
    recovered: u32,
    runs: [u16; RUN_CLASSES],
}

impl Change {
    fn between(before: &Report, after: &Report) -> Self {
        let mut runs = after.runs;
        runs.iter_mut().zip(before.runs).for_each(|(runs, before)| *runs = runs.wrapping_sub(before));
        let lost = after.lost_random.wrapping_sub(before.lost_random);
        let received = after.received.wrapping_sub(before.received);
        let in_queue = after.received_in_queue.wrapping_sub(before.received_in_queue);
        Self {
            all: received.saturating_add(lost),
            sent: received.saturating_sub(in_queue).saturating_add(lost),
            lost,
            recovered: after.recovered.wrapping_sub(before.recovered),
            runs,
        }
    }
}

#[cfg(test)]
mod tests;
