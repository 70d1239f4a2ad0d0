#![allow(clippy::arithmetic_side_effects, reason = "a test that panics has failed, as it should")]
use super::*;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);

/// A receiver at one packet of 1000 bytes a millisecond, 25 ms from the sender.
struct Rig {
    meter: Meter,
    start: Instant,
    ms: u32,
    is_protected: bool,
    bytes: usize,
}

impl Rig {
    fn new() -> Self {
        Self { meter: Meter::new(), start: Instant::now(), ms: 0, is_protected: true, bytes: 1000 }
    }

    fn now(&self) -> Instant {
        self.start + MS * self.ms
    }

    /// The packet of this millisecond comes after a queue of so many milliseconds.
    fn take_after(&mut self, sequence: u32, queue_ms: u32) {
        let stamp = (u64::from(self.ms) * 1000 / 64) as u16;
        let now = self.now() + MS * (25 + queue_ms);
        self.meter.take(sequence, stamp, self.bytes, self.is_protected, now);
        self.ms += 1;
    }

    fn take(&mut self, sequence: u32) {
        self.take_after(sequence, 0);
    }

    fn due(&mut self) -> Option<Report> {
        let now = self.now() + MS * 25;
        self.meter.due(Some(MS * 50), now)
    }

    fn due_in(&mut self, ms: u32) -> Option<Report> {
        self.ms += ms;
        self.due()
    }
}

#[test]
fn clean_path_without_protection_has_nothing_to_say() {
    let mut rig = Rig::new();
    rig.is_protected = false;
    for sequence in 5..5000 {
        rig.take(sequence);
        assert_eq!((rig.due(), rig.meter.next_wake()), (None, None));
    }
    assert_eq!(rig.meter.counts(), MeterCounts { received: 4995, ..MeterCounts::default() });
}

#[test]
fn first_loss_is_reported_as_soon_as_it_has_settled() {
    let mut rig = Rig::new();
    rig.is_protected = false;
    (0..100).for_each(|sequence| rig.take(sequence));
    (102..106).for_each(|sequence| rig.take(sequence));
    assert_eq!(rig.due(), None);
    assert_eq!(rig.meter.next_wake(), Some(rig.start + MS * 125 + MS * 10));
    let report = rig.due_in(6).unwrap();
    assert_eq!((report.highest, report.received, report.lost_random), (105, 104, 2));
    assert_eq!(report.runs, [0, 1, 0, 0, 0, 0]);
    assert_eq!(report.deficit, 0, "nothing covers it");
    assert_eq!(rig.due_in(1000), None);
}

#[test]
fn late_ones_fill_the_gap_and_say_how_late() {
    let mut rig = Rig::new();
    [0, 1, 5, 3, 2, 4, 6].into_iter().for_each(|sequence| rig.take(sequence));
    assert!(rig.due_in(100).is_some());
    let counts = rig.meter.counts();
    assert_eq!((counts.received, counts.lost_random, counts.reordered, counts.reordering_extent), (7, 0, 3, 3));
    [5, 3, 0].into_iter().for_each(|sequence| rig.take(sequence));
    assert_eq!(rig.meter.counts(), counts, "those have been there");
}

#[test]
fn where_packets_come_late_often_gaps_wait_for_them() {
    let mut rig = Rig::new();
    for round in 0..20 {
        let first = round * 100;
        (first + 1..first + 40).for_each(|sequence| {
            rig.take(sequence);
            rig.due();
        });
        // 38 ms after the gap was seen.
        rig.take(first);
        (first + 40..first + 100).for_each(|sequence| {
            rig.take(sequence);
            rig.due();
        });
    }
    let counts = rig.meter.counts();
    assert_eq!((counts.lost_random, counts.runs[0]), (1, 1), "only the first was not waited for: {counts:?}");
    (2000..3000).filter(|sequence| *sequence != 2500).for_each(|sequence| rig.take(sequence));
    rig.due_in(250);
    assert_eq!(rig.meter.counts().lost_random, 1, "and it is taken off the next loss");
}

#[test]
fn numbers_wrap_and_numberings_change() {
    let mut rig = Rig::new();
    [u32::MAX - 1, u32::MAX, 2, 0].into_iter().for_each(|sequence| rig.take(sequence));
    rig.due_in(50);
    assert_eq!((rig.meter.counts().received, rig.meter.counts().lost_random), (4, 1));
    rig.take(1 << 30);
    rig.take((1 << 30) + 1);
    rig.due_in(50);
    let counts = rig.meter.counts();
    assert_eq!((counts.received, counts.lost_random, counts.lost_outage), (6, 1, 0));
}

#[test]
fn runs_are_counted_by_length_and_outages_apart() {
    let mut rig = Rig::new();
    let mut sequence = 0;
    for gap in [1, 2, 3, 4, 8, 9, 16, 17, 512, 513, 60_000] {
        rig.take(sequence);
        sequence += gap + 1;
        rig.take(sequence);
        sequence += 1;
        rig.due_in(50);
    }
    let counts = rig.meter.counts();
    assert_eq!(counts.runs, [1, 1, 2, 1, 2, 2]);
    assert_eq!((counts.lost_random, counts.lost_outage), (572, 60_513));
}

#[test]
fn gaps_are_bounded_and_the_oldest_are_counted_first() {
    let mut rig = Rig::new();
    (0..1000).for_each(|number| rig.take(number * 2));
    assert_eq!((rig.meter.open.len(), rig.meter.settled.len()), (GAPS, GAPS));
    assert_eq!(rig.meter.counts().lost_random, 999 - GAPS as u64);
    let mut rig = Rig::new();
    rig.take(0);
    rig.take(60_000);
    (1..30_000).for_each(|number| rig.take(number * 2));
    assert!(rig.meter.open.len() <= GAPS);
}

#[test]
fn loss_in_a_full_queue_is_congestion_and_others_are_not() {
    let mut rig = Rig::new();
    let (mut sequence, mut congestion, mut random) = (0, 0, 0);
    // A queue that fills to 100 ms in 10 s, and loses something when it is full; random loss meanwhile.
    for ms in 0..40_000_u32 {
        let queue_ms = ms % 10_000 / 100;
        let is_full = ms % 10_000 == 9990;
        let is_random = queue_ms < 60 && ms % 1000 == 500;
        congestion += u64::from(is_full);
        random += u64::from(is_random);
        if is_full || is_random {
            rig.ms += 1;
        } else {
            rig.take_after(sequence, queue_ms);
        }
        sequence += 1;
        let now = rig.now() + MS * (25 + queue_ms);
        rig.meter.due(Some(MS * 50), now);
        if is_full {
            rig.take_after(sequence, queue_ms);
            sequence += 1;
            assert!(rig.meter.is_congestion(sequence - 2) && !rig.meter.is_congestion(sequence - 1));
        }
    }
    rig.due_in(500);
    let counts = rig.meter.counts();
    // While the queue fills for the first time, nobody knows how long it can get.
    assert!(counts.lost_congestion >= congestion && counts.lost_congestion <= congestion + 6, "{counts:?}");
    assert_eq!(counts.lost_congestion + counts.lost_random, congestion + random);
    // All of the first filling but its beginning, and three parts of ten of those after it.
    assert!((18_000..19_000).contains(&counts.received_in_queue), "{counts:?}");
}

#[test]
fn loss_within_a_round_trip_of_a_mark_is_congestion() {
    let mut rig = Rig::new();
    (0..100).for_each(|sequence| rig.take(sequence));
    rig.due();
    rig.meter.congestion_experienced(rig.now() + MS * 25);
    rig.take(101);
    rig.ms += 49;
    rig.take(103);
    assert!(rig.meter.is_congestion(100));
    assert!(rig.meter.is_congestion(102));
    rig.ms += 3;
    rig.take(105);
    assert!(!rig.meter.is_congestion(104));
    let report = rig.due_in(50).unwrap();
    assert_eq!((report.lost_congestion, report.lost_random, report.congestion_experienced), (2, 1, 1));
}

#[test]
fn recovered_packets_stay_lost_and_tell_how_long_it_took() {
    let mut rig = Rig::new();
    [0, 1, 3, 4, 7].into_iter().for_each(|sequence| rig.take(sequence));
    let seen_at = rig.start + MS * 27;
    rig.meter.recovered(2, seen_at + MS * 7);
    rig.meter.recovered(5, seen_at + MS * 2 + MS * 40);
    let report = rig.due_in(100).unwrap();
    assert_eq!((report.lost_random, report.recovered), (3, 2));
    assert_eq!((report.deficit, report.lowest_missing), (1, 5));
    let counts = rig.meter.counts();
    assert_eq!(counts.recovery_delays[3], 1);
    assert_eq!(counts.recovery_delays[6], 1);
    assert_eq!(counts.recovery_delay_us, 47_000);
    assert_eq!(counts.recovery_delay(500_000), Some(MS * 8));
    assert_eq!(counts.recovery_delay(990_000), Some(MS * 64));
}

#[test]
fn last_packets_are_missed_when_a_repair_covers_them() {
    let mut rig = Rig::new();
    (0..10).for_each(|sequence| rig.take(sequence));
    let now = rig.now() + MS * 25;
    rig.meter.covered(11, now);
    rig.meter.covered(9, now);
    rig.meter.covered(100_000, now);
    rig.meter.recovered(12, now + MS);
    let report = rig.due_in(20).unwrap();
    assert_eq!((report.highest, report.lost_random, report.recovered, report.deficit), (12, 3, 1, 2));
    rig.take(13);
    rig.due_in(50);
    assert_eq!(rig.meter.counts().lost_random, 3);
}

#[test]
fn what_the_decoder_says_goes_before_what_the_gaps_say() {
    let mut rig = Rig::new();
    [0, 1, 5].into_iter().for_each(|sequence| rig.take(sequence));
    rig.meter.decoder(Some((2, 3)), 7);
    let report = rig.due_in(20).unwrap();
    assert_eq!((report.deficit, report.lowest_missing, report.unrecoverable), (2, 3, 7));
    rig.meter.decoder(None, 7);
    let report = rig.due_in(30).unwrap();
    assert_eq!((report.deficit, report.lowest_missing), (3, 2), "it is said again as long as it is missing");
    assert_eq!(rig.due_in(400), None);
}

#[test]
fn it_wakes_no_more_once_nothing_comes() {
    let mut rig = Rig::new();
    [0, 1, 5, 6, 9].into_iter().for_each(|sequence| rig.take(sequence));
    let mut reports = 0;
    for _ in 0..100 {
        let Some(at) = rig.meter.next_wake() else { break };
        reports += u32::from(rig.meter.due(Some(MS * 50), at.max(rig.start)).is_some());
    }
    assert_eq!(rig.meter.next_wake(), None);
    assert!((8..=13).contains(&reports), "{reports}");
}

#[test]
fn reports_are_no_more_than_one_percent_of_the_bytes() {
    let mut rig = Rig::new();
    // Too few for a report every 20 ms.
    rig.bytes = 300;
    let (mut sequence, mut reports) = (0, 0);
    for ms in 0..20_000 {
        sequence += if ms % 25 == 0 { 2 } else { 1 };
        rig.take(sequence);
        reports += u64::from(rig.due().is_some());
    }
    let bytes = 20_000 * 300;
    assert!(reports * REPORT_BYTES <= bytes / 100 + SAVED_BYTES, "{reports}");
    assert!(reports * REPORT_BYTES >= bytes / 120, "{reports}");
}

#[test]
fn news_come_every_quarter_of_a_round_trip_and_the_rest_seldom() {
    let mut rig = Rig::new();
    rig.take(0);
    assert!(rig.due().is_some());
    let mut count = |news: bool| {
        (0..2000)
            .filter(|number| {
                let sequence = rig.meter.expected.unwrap();
                rig.take(if news && number % 10 == 0 { sequence + 1 } else { sequence });
                let now = rig.now() + MS * 25;
                rig.meter.due(Some(MS * 160), now).is_some()
            })
            .count()
    };
    assert!((9..=11).contains(&count(false)));
    assert!((45..=51).contains(&count(true)));
}

#[test]
fn another_epoch_counts_from_zero_and_the_counts_go_on() {
    let mut rig = Rig::new();
    [0, 1, 3].into_iter().for_each(|sequence| rig.take(sequence));
    rig.meter.restart();
    assert_eq!(rig.due_in(100), None);
    rig.take(0);
    let report = rig.due_in(1).unwrap();
    assert_eq!((report.highest, report.received, report.lost_random, report.runs), (0, 1, 0, [0; 6]));
    assert_eq!((rig.meter.counts().received, rig.meter.counts().lost_random), (4, 1));
}

#[test]
fn report_echoes_the_last_stamp() {
    let mut rig = Rig::new();
    (0..100).for_each(|sequence| rig.take(sequence));
    let stamp = (99_u64 * 1000 / 64) as u16;
    let report = rig.due_in(9).unwrap();
    assert_eq!(report.echo, stamp);
    assert_eq!(report.round_trip(stamp.wrapping_add(1000)), Some(Duration::from_micros(64 * (1000 - 10_000 / 64))));
}

#[test]
fn it_goes_on_where_another_carrier_has_stopped() {
    use crate::parcel::{Carry, Reader, Writer};
    let mut rig = Rig::new();
    [0, 1, 5, 7, 6].into_iter().for_each(|sequence| rig.take(sequence));
    let mut writer = Writer::new();
    rig.meter.encode(&mut writer);
    let bytes = writer.finish();
    rig.meter = Meter::decode(&mut Reader::new(&bytes)).unwrap();
    rig.take(8);
    let report = rig.due_in(100).unwrap();
    assert_eq!((report.received, report.lost_random, report.deficit), (6, 3, 3));
}

proptest! {
    /// Packets are lost, come twice, or up to a few places late.
    #[test]
    fn it_agrees_with_the_truth(
        fates in proptest::collection::vec((0..100_u32, 0..4_usize, 0..100_u32), 1..1500),
        loss in 0..40_u32,
        start in prop_oneof![Just(u32::MAX - 300), any::<u32>()],
    ) {
        let mut rig = Rig::new();
        let mut flying: Vec<(usize, u32)> = Vec::new();
        let mut lost = 0_u64;
        let last = fates.len() - 1;
        for (place, (fate, late, twice)) in fates.iter().enumerate() {
            let sequence = start.wrapping_add(place as u32);
            if *fate < loss && place > 0 && place < last {
                lost += 1;
            } else {
                flying.push((if place == 0 || place == last { place } else { place + late }, sequence));
                if *twice < 5 && place > 0 {
                    flying.push((place + late + 1, sequence));
                }
            }
        }
        flying.sort_by_key(|(at, _)| *at);
        for (_, sequence) in flying {
            rig.take(sequence);
            rig.due();
        }
        rig.due_in(500);
        let counts = rig.meter.counts();
        prop_assert_eq!(counts.received, fates.len() as u64 - lost);
        prop_assert_eq!(counts.lost_random + counts.lost_congestion + counts.lost_outage, lost);
    }

    #[test]
    fn any_numbers_are_borne(events in proptest::collection::vec((0..5_u8, any::<u32>(), 0..300_u32, any::<u64>()), 0..300)) {
        let mut rig = Rig::new();
        for (kind, number, near, ms) in events {
            let near = rig.meter.expected.unwrap_or_default().wrapping_add(near).wrapping_sub(150);
            let now = rig.now();
            match kind {
                0 => drop(rig.meter.take(near, number as u16, 1000, true, now)),
                1 => drop(rig.meter.take(number, number as u16, 1000, false, now)),
                2 => rig.meter.recovered(near, now),
                3 => rig.meter.covered(number, now),
                _ => rig.meter.decoder(Some((number as u16, near)), ms),
            }
            rig.ms += (ms % 50) as u32;
            rig.due();
            prop_assert!(rig.meter.open.len() <= GAPS && rig.meter.settled.len() <= GAPS);
        }
    }
}

/// `cargo test --release -p adit-dataplane --lib measure_take -- --ignored --nocapture`
#[test]
#[ignore = "a measurement: prints what a packet costs on a clean path"]
fn measure_take() {
    const PACKETS: u32 = 20_000_000;
    for together in [1, 45] {
        let (mut meter, start) = (Meter::new(), Instant::now());
        for first in (0..PACKETS).step_by(together) {
            let now = start + Duration::from_micros(u64::from(first));
            for number in first..first + together as u32 {
                meter.take(std::hint::black_box(number), (first >> 6) as u16, 1400, false, now);
            }
        }
        let received = meter.counts().received;
        println!("{together} together: {:.1} ns a packet", start.elapsed().as_nanos() as f64 / received as f64);
        assert!(received >= u64::from(PACKETS));
    }
}
