//! The whole loop: packets, what the receiver measures, its reports, what the sender makes of them, repairs. In virtual time.

use super::{
    channel::{Path, Random},
    open::Outcome,
    rank::Rank,
};
use crate::{
    FecPolicy,
    fec::{control::Control, meter::Meter, report::Report},
    peer::later,
    session::TIMESTAMP_SHIFT,
};
use std::{
    collections::VecDeque,
    ops::Range,
    time::{Duration, Instant},
};

const PACKET_BYTES: u64 = 1000;
const SECOND: Duration = Duration::from_secs(1);

/// What drops datagrams, or holds them up.
pub(super) enum Link {
    Random(Path),
    /// Takes so many datagrams a second and drops what is more at once, but for a few.
    Policer {
        rate: f64,
        saved: f64,
    },
    /// Sends so many datagrams a second, and keeps so many waiting.
    Queue {
        rate: f64,
        places: f64,
    },
}

enum Item {
    Data { number: u32, stamp: u16, is_protected: bool },
    Lost { number: u32 },
    Repair { first: u32, last: u32 },
}

pub(super) struct Loop {
    pub(super) control: Control,
    pub(super) meter: Meter,
    rank: Rank,
    random: Random,
    pub(super) link: Link,
    /// When the link takes the next datagram.
    link_at: Instant,
    one_way: Duration,
    interval: Duration,
    start: Instant,
    now: Instant,
    number: u32,
    kept_from: Option<u32>,
    credit_ppm: u32,
    forward: VecDeque<(Instant, Item)>,
    back: VecDeque<(Instant, Report)>,
    /// The numbers that the outcome is of.
    counted: Range<u32>,
    pub(super) outcome: Outcome,
    pub(super) repairs: u64,
    pub(super) reports: u64,
}

impl Loop {
    pub(super) fn new(link: Link, packets_per_second: u32, round_trip: Duration, policy: FecPolicy, seed: u64) -> Self {
        let start = Instant::now() + SECOND;
        let mut control = Control::new(policy);
        control.set_round_trip(Some(round_trip));
        Self {
            control,
            meter: Meter::new(),
            rank: Rank::new(seed ^ 1),
            random: Random(seed),
            link,
            link_at: start,
            one_way: round_trip / 2,
            interval: SECOND / packets_per_second,
            start,
            now: start,
            number: 0,
            kept_from: None,
            credit_ppm: 0,
            forward: VecDeque::new(),
            back: VecDeque::new(),
            counted: 0..u32::MAX,
            outcome: Outcome::new(),
            repairs: 0,
            reports: 0,
        }
    }

    /// Goes on for so long.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        let mut send_at = self.now;
        while send_at < end {
            let arrives = self.forward.front().map(|(at, _)| *at);
            let returns = self.back.front().map(|(at, _)| *at);
            let wakes = self.meter.next_wake();
            let next = arrives.into_iter().chain(returns).chain(wakes).min().filter(|at| *at < send_at);
            match next {
                None => {
                    self.now = send_at;
                    self.send();
                    send_at += self.interval;
                }
                Some(at) => {
                    self.now = self.now.max(at);
                    if arrives == Some(at) {
                        self.receive();
                    } else if returns == Some(at) {
                        self.returned();
                    }
                    self.report();
                }
            }
        }
    }

    /// Goes on for so long, and tells what became of the packets of that time.
    pub(super) fn measure(&mut self, time: Duration) {
        (self.outcome, self.repairs, self.reports) = (Outcome::new(), 0, 0);
        self.counted = self.number..u32::MAX;
        self.run(time);
        self.counted.end = self.number;
        let counts = (self.repairs, self.reports);
        self.run(SECOND * 2);
        (self.repairs, self.reports) = counts;
    }

    fn send(&mut self) {
        self.control.sent(1, PACKET_BYTES, self.now);
        let number = self.number;
        self.number += 1;
        let is_counted = self.counted.contains(&number);
        self.outcome.packets += u64::from(is_counted);
        let is_protected = self.control.protects();
        let stamp = ((self.now - self.start).as_micros() >> TIMESTAMP_SHIFT) as u16;
        match self.pass() {
            Some(at) => self.forward.push_back((at, Item::Data { number, stamp, is_protected })),
            None => {
                self.outcome.lost += u64::from(is_counted);
                if is_protected {
                    self.forward.push_back((self.link_at.max(self.now) + self.one_way, Item::Lost { number }));
                }
            }
        }
        if !is_protected {
            self.kept_from = None;
            return;
        }
        let kept_from = *self.kept_from.get_or_insert(number);
        self.credit_ppm += self.control.redundancy_ppm();
        if self.credit_ppm >= 1_000_000 {
            self.credit_ppm -= 1_000_000;
            let first = (number + 1).saturating_sub(self.control.window().into()).max(kept_from);
            self.repair(first);
        }
    }

    fn repair(&mut self, first: u32) {
        if !self.control.allows(PACKET_BYTES as usize) {
            return;
        }
        self.control.repair_sent(PACKET_BYTES as usize);
        self.repairs += 1;
        let last = self.number - 1;
        if let Some(at) = self.pass() {
            self.forward.push_back((at, Item::Repair { first, last }));
        }
    }

    /// When a datagram that leaves now arrives.
    fn pass(&mut self) -> Option<Instant> {
        match &mut self.link {
            Link::Random(path) => (!path.loses(&mut self.random)).then(|| self.now + self.one_way),
            Link::Policer { rate, saved } => {
                let passed = (self.now - self.link_at.min(self.now)).as_secs_f64() * *rate;
                self.link_at = self.now;
                *saved = (*saved + passed).min(10.0);
                let is_let_through = *saved >= 1.0;
                *saved -= f64::from(u8::from(is_let_through));
                is_let_through.then(|| self.now + self.one_way)
            }
            Link::Queue { rate, places } => {
                let waits = self.link_at.max(self.now) - self.now;
                let is_kept = waits.as_secs_f64() * *rate < *places;
                if is_kept {
                    self.link_at = self.now + waits + SECOND.div_f64(*rate);
                }
                is_kept.then(|| self.link_at + self.one_way)
            }
        }
    }

    fn receive(&mut self) {
        match self.forward.pop_front() {
            Some((at, Item::Data { number, stamp, is_protected })) => {
                self.meter.take(number, stamp, PACKET_BYTES as usize, is_protected, at);
            }
            Some((_, Item::Lost { number })) => self.rank.lost(number.into()),
            Some((at, Item::Repair { first, last })) => {
                self.meter.covered(last, at);
                for number in self.rank.repair(first.into(), last.into()) {
                    self.meter.recovered(number as u32, at);
                    let due = self.start + self.interval * number as u32 + self.one_way;
                    let late = at.saturating_duration_since(due);
                    if self.counted.contains(&(number as u32)) {
                        self.outcome.recovered((late.as_nanos() / self.interval.as_nanos()) as u64);
                    }
                }
            }
            None => {}
        }
    }

    fn report(&mut self) {
        let deficit = self.rank.deficit().map(|(deficit, lowest)| (deficit, lowest as u32));
        self.meter.decoder(deficit, self.rank.given_up);
        if let Some(report) = self.meter.due(Some(self.one_way * 2), self.now) {
            self.reports += 1;
            if !matches!(&self.link, Link::Random(_)) || !self.random.happens(0.02) {
                self.back.push_back((later(self.now, self.one_way), report));
            }
        }
    }

    fn returned(&mut self) {
        let Some((_, report)) = self.back.pop_front() else { return };
        self.control.report(&report, self.now);
        if let Some((first, count)) = self.control.reactive(&report, self.now) {
            let first = first.max(self.number.saturating_sub(512)).max(self.kept_from.unwrap_or(self.number));
            let count = if first < self.number { count } else { 0 };
            (0..count).for_each(|_| self.repair(first));
        }
    }

    pub(super) fn overhead(&self) -> f64 {
        self.repairs as f64 / self.outcome.packets as f64
    }
}

/// A thousand packets a second over a path, when the loop has run for a while.
fn measured(path: Path, round_trip_ms: u64) -> Loop {
    let round_trip = Duration::from_millis(round_trip_ms);
    let mut stream = Loop::new(Link::Random(path), 1000, round_trip, FecPolicy::default(), 5);
    stream.run(SECOND * 15);
    stream.measure(SECOND * 150);
    stream
}

fn assert_within(stream: &Loop, residual: f64, redundancy: f64, delay_packets: u64) {
    let (outcome, overhead) = (&stream.outcome, stream.overhead());
    let figures = (outcome.residual(), overhead, outcome.of_all(0.99));
    assert!(figures.0 <= residual && figures.1 <= redundancy && figures.2 <= delay_packets, "{figures:?}");
}

#[test]
fn one_percent_of_loss_takes_no_more_than_six_percent_of_repairs() {
    [50, 200].into_iter().for_each(|round_trip| {
        assert_within(&measured(Path::new(0.01, 1.0), round_trip), 1e-5, 0.06, 6);
    });
}

#[test]
fn two_percent_of_loss_are_recovered_in_six_milliseconds() {
    [50, 200].into_iter().for_each(|round_trip| {
        assert_within(&measured(Path::new(0.02, 1.0), round_trip), 1e-5, 0.1, 6);
    });
}

#[test]
fn five_percent_of_loss_are_recovered_in_eight_milliseconds() {
    [50, 200].into_iter().for_each(|round_trip| {
        assert_within(&measured(Path::new(0.05, 1.0), round_trip), 1e-4, 0.185, 8);
    });
}

#[test]
fn bursts_are_recovered_but_for_one_packet_in_a_thousand() {
    [50, 200].into_iter().for_each(|round_trip| {
        assert_within(&measured(Path::gilbert(0.004_08, 0.2), round_trip), 1e-3, 0.19, 60);
    });
}

#[test]
fn clean_path_carries_neither_repairs_nor_reports_and_loss_is_answered_within_a_second() {
    let clean = || Link::Random(Path::new(0.0, 1.0));
    let mut stream = Loop::new(clean(), 1000, Duration::from_millis(50), FecPolicy::default(), 5);
    // Until it has shown to be clean.
    stream.run(SECOND);
    stream.measure(SECOND * 20);
    assert_eq!((stream.repairs, stream.reports), (0, 0));
    stream.link = Link::Random(Path::new(0.02, 1.0));
    stream.run(SECOND);
    assert!(stream.control.redundancy_ppm() >= 50_000, "{:?}", stream.control.counts());
    stream.link = clean();
    stream.run(SECOND * 8);
    assert!(stream.control.protects());
    stream.run(SECOND * 4);
    assert!(!stream.control.protects());
    stream.measure(SECOND * 20);
    assert_eq!((stream.repairs, stream.reports), (0, 0));
}

#[test]
fn full_queue_is_not_filled_with_repairs() {
    let link = Link::Queue { rate: 950.0, places: 100.0 };
    let mut stream = Loop::new(link, 1000, Duration::from_millis(50), FecPolicy::default(), 5);
    let (mut repairs, mut packets) = (0, 0);
    for _ in 0..5 {
        // It empties now and then, as it does under TCP.
        stream.interval = SECOND / 900;
        stream.run(SECOND * 3);
        stream.interval = SECOND / 1000;
        stream.measure(SECOND * 12);
        (repairs, packets) = (repairs + stream.repairs, packets + stream.outcome.packets);
    }
    let counts = stream.meter.counts();
    assert!(counts.lost_congestion > 2000 && counts.lost_random < counts.lost_congestion / 20, "{counts:?}");
    assert!(repairs < packets / 50, "{repairs} of {packets}");
}

#[test]
fn path_that_drops_what_is_too_much_is_not_filled_with_repairs() {
    let link = Link::Policer { rate: 990.0, saved: 0.0 };
    let mut stream = Loop::new(link, 1000, Duration::from_millis(50), FecPolicy::default(), 5);
    stream.run(SECOND * 20);
    stream.measure(SECOND * 120);
    assert!(stream.overhead() < 0.08, "{} {:?}", stream.overhead(), stream.control.counts());
}

#[test]
#[ignore = "a measurement"]
fn measure_closed_loop() {
    let paths = [
        ("1 %", Path::new(0.01, 1.0)),
        ("2 %", Path::new(0.02, 1.0)),
        ("5 %", Path::new(0.05, 1.0)),
        ("10 %", Path::new(0.1, 1.0)),
        ("0.1 %", Path::new(0.001, 1.0)),
        ("2 % in bursts of 5", Path::gilbert(0.00408, 0.2)),
    ];
    for (name, path) in paths {
        for (rate, round_trip_ms) in [(1000, 20), (1000, 50), (1000, 200), (2500, 200), (10_000, 50), (10_000, 200)] {
            let round_trip = Duration::from_millis(round_trip_ms);
            let mut stream = Loop::new(Link::Random(path), rate, round_trip, FecPolicy::default(), 3);
            stream.run(SECOND * 20);
            stream.measure(SECOND * 500_000 / rate);
            let (outcome, counts) = (&stream.outcome, stream.control.counts());
            println!(
                "{name:>18} {rate:5}/s {round_trip_ms:3} ms: residual {:.6} repairs {:5.2} % p99 of all {:3} recovered p50 {:3} p99 {:3} | est {:.2} % b {:.2} R {:.2} % W {} reports {:.1}/s",
                outcome.residual(),
                stream.overhead() * 100.0,
                outcome.of_all(0.99),
                outcome.of_recovered(0.5),
                outcome.of_recovered(0.99),
                f64::from(counts.loss_ppm) / 1e4,
                f64::from(counts.burst_milli) / 1e3,
                f64::from(counts.redundancy_ppm) / 1e4,
                counts.window,
                stream.reports as f64 / (500_000.0 / f64::from(rate)),
            );
        }
    }
}
