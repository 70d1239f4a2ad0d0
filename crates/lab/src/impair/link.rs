//! One direction of a link, without I/O: packets and the time go in, packets that are due come out.

use std::{collections::BTreeMap, time::Duration};

use fastrand::Rng;

use crate::impair::{
    Distribution, Packet, Spec, Statistics,
    loss::{LossProcess, happens},
    queue::Queue,
};

/// One direction of a link. Times are those since it began and do not go back.
///
/// What happens to the n-th packet on the line depends on the specification, the seed and n alone; each kind of mishap draws from
/// a generator of its own, so that adding one does not move the others.
#[derive(Debug)]
pub struct Link {
    spec: Spec,
    queue: Option<Queue>,
    loss: LossProcess,
    random: Generators,
    /// By due time, and in the order of arrival where that is the same.
    waiting: BTreeMap<(Duration, u64), Packet>,
    arrivals: u64,
    /// When the last packet arrives that was not held back.
    last_due: Duration,
    statistics: Statistics,
}

#[derive(Debug)]
struct Generators {
    jitter: Rng,
    reorder: Rng,
    duplicate: Rng,
    corrupt: Rng,
}

impl Link {
    /// An empty link.
    #[must_use]
    pub fn new(spec: Spec, seed: u64) -> Self {
        let mut seeds = Rng::with_seed(seed);
        let loss = LossProcess::new(spec.loss.clone(), seeds.fork());
        let random =
            Generators { jitter: seeds.fork(), reorder: seeds.fork(), duplicate: seeds.fork(), corrupt: seeds.fork() };
        Self {
            queue: spec.bottleneck.map(Queue::new),
            spec,
            loss,
            random,
            waiting: BTreeMap::new(),
            arrivals: 0,
            last_due: Duration::ZERO,
            statistics: Statistics::default(),
        }
    }

    /// Gives it another specification from now on. What is on its way arrives as it would have; the statistics go on.
    pub fn change(&mut self, spec: Spec, seed: u64) {
        let old = std::mem::replace(self, Self::new(spec, seed));
        self.waiting = old.waiting;
        self.arrivals = old.arrivals;
        self.last_due = old.last_due;
        self.statistics = old.statistics;
    }

    /// A packet comes at `now`.
    pub fn offer(&mut self, now: Duration, mut packet: Packet) {
        if packet.is_exempt() {
            self.statistics.exempt = self.statistics.exempt.saturating_add(1);
            self.schedule(now, packet);
            return;
        }
        self.statistics.offered.add(packet.wire_bytes());
        if self.spec.mtu_bytes.is_some_and(|mtu| packet.ip_bytes() > mtu) {
            self.statistics.dropped.mtu = self.statistics.dropped.mtu.saturating_add(1);
            return;
        }
        let Some(left_queue) = self.pass_queue(now, &mut packet) else {
            self.statistics.dropped.queue = self.statistics.dropped.queue.saturating_add(1);
            return;
        };
        if self.loss.takes_next() {
            self.statistics.lost();
            return;
        }
        self.statistics.end_run();
        if happens(&mut self.random.duplicate, self.spec.duplicate) {
            self.statistics.duplicated = self.statistics.duplicated.saturating_add(1);
            self.travel(left_queue, packet.clone());
        }
        self.travel(left_queue, packet);
    }

    /// When the next packet is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        self.waiting.first_key_value().map(|((due, _), _)| *due)
    }

    /// A packet that is due at `now`.
    pub fn take(&mut self, now: Duration) -> Option<Packet> {
        let first = self.waiting.first_entry().filter(|first| first.key().0 <= now)?;
        self.statistics.late(now.saturating_sub(first.key().0));
        let packet = first.remove();
        if !packet.is_exempt() {
            self.statistics.delivered.add(packet.wire_bytes());
        }
        Some(packet)
    }

    /// What has happened until now.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.statistics.so_far()
    }

    /// A frame came that is no packet of a wire; it was dropped.
    pub(crate) fn refuse_oversize(&mut self) {
        self.statistics.oversize = self.statistics.oversize.saturating_add(1);
    }

    /// A packet that was taken could not be sent.
    pub(crate) fn not_sent(&mut self) {
        self.statistics.unsent = self.statistics.unsent.saturating_add(1);
    }

    /// When the packet leaves the queue; `None` when it found no room.
    fn pass_queue(&mut self, now: Duration, packet: &mut Packet) -> Option<Duration> {
        let Some(queue) = &mut self.queue else { return Some(now) };
        let served = queue.admit(now, packet.wire_bytes())?;
        self.statistics.waited(served.waited);
        if served.is_marked && packet.mark() {
            self.statistics.ce_marked = self.statistics.ce_marked.saturating_add(1);
        }
        Some(served.at)
    }

    /// From the queue to the other end.
    fn travel(&mut self, from: Duration, mut packet: Packet) {
        if happens(&mut self.random.corrupt, self.spec.corrupt) && packet.flip_a_bit(&mut self.random.corrupt) {
            self.statistics.corrupted = self.statistics.corrupted.saturating_add(1);
        }
        // A packet does not overtake the one before it, unless that one is held back.
        self.last_due = self.last_due.max(from.saturating_add(self.delay()));
        let mut due = self.last_due;
        if happens(&mut self.random.reorder, self.spec.reorder.share) {
            self.statistics.reordered = self.statistics.reordered.saturating_add(1);
            due = due.saturating_add(self.spec.reorder.extra);
        }
        self.schedule(due, packet);
    }

    fn delay(&mut self) -> Duration {
        let (delay, width) = (self.spec.delay, self.spec.jitter.width);
        if width.is_zero() {
            return delay;
        }
        let random = &mut self.random.jitter;
        // Above 0, whose logarithm is none.
        let mut above_zero = || 1.0 - random.f64();
        let factor = match self.spec.jitter.distribution {
            Distribution::Uniform => 2.0 * above_zero() - 1.0,
            // Box and Muller, 1958.
            Distribution::Normal => (-2.0 * above_zero().ln()).sqrt() * (std::f64::consts::TAU * above_zero()).cos(),
            Distribution::Exponential => -above_zero().ln(),
        };
        let seconds = delay.as_secs_f64() + factor * width.as_secs_f64();
        Duration::try_from_secs_f64(seconds).unwrap_or_default()
    }

    fn schedule(&mut self, due: Duration, packet: Packet) {
        self.arrivals = self.arrivals.saturating_add(1);
        self.waiting.insert((due, self.arrivals), packet);
    }
}
