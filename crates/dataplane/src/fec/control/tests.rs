#![allow(clippy::arithmetic_side_effects, reason = "a test that panics has failed, as it should")]
use super::*;

const MS: Duration = Duration::from_millis(1);

/// A sender of one packet of 1000 bytes a millisecond, and a receiver that reports every 20 ms.
struct Rig {
    control: Control,
    report: Report,
    now: Instant,
}

impl Rig {
    fn new(policy: FecPolicy) -> Self {
        Self { control: Control::new(policy), report: Report::default(), now: Instant::now() }
    }

    /// So many times 20 packets, of which `lost` are lost each time, one by one; and a report of it.
    fn go(&mut self, times: u32, lost: u16) {
        for _ in 0..times {
            for _ in 0..20 {
                self.control.sent(1, 1000, self.now);
                self.now += MS;
            }
            self.report.highest += 20;
            self.report.received += 20 - u32::from(lost);
            self.report.lost_random += u32::from(lost);
            self.report.recovered += u32::from(lost);
            self.report.runs[0] = self.report.runs[0].wrapping_add(lost);
            self.control.report(&self.report, self.now);
        }
    }
}

#[test]
fn clean_path_is_protected_until_it_has_shown_to_be_clean() {
    let mut rig = Rig::new(FecPolicy::default());
    assert_eq!(rig.control.redundancy_ppm(), 200_000);
    rig.go(24, 0);
    assert_eq!(rig.control.redundancy_ppm(), 200_000);
    rig.go(1, 0);
    assert_eq!(rig.control.redundancy_ppm(), 0);
    rig.go(1000, 0);
    assert_eq!((rig.control.redundancy_ppm(), rig.control.protects(), rig.control.tail_after()), (0, false, None));
}

#[test]
fn a_loss_on_an_unknown_path_counts_with_what_came_before_it() {
    let mut rig = Rig::new(FecPolicy::default());
    rig.go(10, 0);
    rig.go(1, 1);
    rig.go(5, 0);
    assert!((50_000..=200_000).contains(&rig.control.redundancy_ppm()), "{:?}", rig.control.counts());
}

#[test]
fn a_standing_queue_says_nothing_of_random_losses() {
    let mut rig = Rig::new(FecPolicy::default());
    rig.go(100, 1);
    let known = rig.control.counts().loss_ppm;
    for _ in 0..3000 {
        rig.report.received_in_queue += 20;
        rig.report.lost_congestion += 1;
        rig.go(1, 0);
    }
    assert!(rig.control.protects() && rig.control.counts().loss_ppm == known, "{:?}", rig.control.counts());
    rig.go(510, 0);
    assert!(!rig.control.protects(), "{:?}", rig.control.counts());
}

#[test]
fn an_unknown_path_in_which_a_queue_stands_is_not_protected_for_long() {
    let mut rig = Rig::new(FecPolicy::default());
    for _ in 0..50 {
        rig.report.received_in_queue += 20;
        rig.report.lost_congestion += 2;
        rig.go(1, 0);
    }
    assert!(!rig.control.protects(), "{:?}", rig.control.counts());
}

#[test]
fn first_loss_brings_five_percent_at_once() {
    let mut rig = Rig::new(FecPolicy::default());
    rig.go(1000, 0);
    rig.go(1, 1);
    assert!((50_000..100_000).contains(&rig.control.redundancy_ppm()), "{:?}", rig.control.counts());
    assert!(rig.control.protects());
    assert_eq!(rig.control.tail_after(), Some(MS * 2));
    assert_eq!((rig.control.tail(1), rig.control.tail(0)), (1, 0));
}

#[test]
fn more_loss_brings_more_at_once_and_less_takes_time() {
    let mut rig = Rig::new(FecPolicy::default());
    rig.go(500, 0);
    rig.go(20, 1);
    let high = rig.control.redundancy_ppm();
    assert!(high > 150_000, "{:?}", rig.control.counts());
    rig.go(1, 1);
    rig.go(249, 0);
    let later = rig.control.redundancy_ppm();
    assert!(later >= high * 45 / 100 && later < high * 95 / 100, "{high} {later}");
}

#[test]
fn ten_seconds_of_traffic_without_loss_end_the_protection_and_silence_does_not() {
    let mut rig = Rig::new(FecPolicy::default());
    rig.go(100, 1);
    rig.now += MS * 3_600_000;
    rig.go(450, 0);
    assert!(rig.control.protects());
    rig.go(60, 0);
    assert!(!rig.control.protects(), "{:?}", rig.control.counts());
}

#[test]
fn loss_to_congestion_raises_nothing() {
    let mut rig = Rig::new(FecPolicy::default());
    for _ in 0..1000 {
        rig.report.lost_congestion += 5;
        rig.report.congestion_experienced += 5;
        rig.go(1, 0);
    }
    assert!(!rig.control.protects());
}

#[test]
fn cap_is_never_exceeded() {
    let mut rig = Rig::new(FecPolicy { max_overhead_ppm: 100_000, ..FecPolicy::default() });
    rig.go(300, 4);
    assert!((90_000..=100_000).contains(&rig.control.redundancy_ppm()));
    // Repairs three times as long as the average packet.
    for _ in 0..300 {
        rig.control.repair_sent(3000);
        rig.go(1, 4);
    }
    assert!((30_000..35_000).contains(&rig.control.redundancy_ppm()), "{:?}", rig.control.counts());
}

#[test]
fn modes_are_what_they_say() {
    let mut rig = Rig::new(FecPolicy { mode: FecMode::Off, ..FecPolicy::default() });
    rig.go(100, 5);
    assert!(!rig.control.protects());
    let mode = FecMode::Fixed { redundancy_ppm: 80_000, window: 100 };
    let mut rig = Rig::new(FecPolicy { mode, ..FecPolicy::default() });
    assert_eq!((rig.control.redundancy_ppm(), rig.control.window()), (80_000, 100));
    rig.go(1000, 0);
    rig.go(100, 5);
    assert_eq!((rig.control.redundancy_ppm(), rig.control.window()), (80_000, 100));
    rig.control.set_policy(FecPolicy::default());
    rig.go(1, 1);
    assert!(rig.control.redundancy_ppm() >= 50_000, "{:?}", rig.control.counts());
    rig.control.set_policy(FecPolicy { mode: FecMode::Off, ..FecPolicy::default() });
    assert_eq!((rig.control.redundancy_ppm(), rig.control.tail_after()), (0, None));
}

#[test]
fn reports_that_come_late_change_nothing_and_another_beginning_is_recognised() {
    let mut rig = Rig::new(FecPolicy::default());
    rig.go(10, 1);
    let late = rig.report;
    rig.go(10, 1);
    let before = rig.control.counts();
    rig.control.report(&late, rig.now);
    assert_eq!(rig.control.counts(), before);
    rig.report = Report::default();
    rig.go(3, 1);
    assert_eq!(rig.control.counts().loss_ppm, before.loss_ppm);
    rig.go(40, 4);
    assert!(rig.control.counts().loss_ppm > 2 * before.loss_ppm);
}

#[test]
fn deficit_that_repairs_on_their_way_will_close_asks_for_none() {
    let mut rig = Rig::new(FecPolicy::default());
    rig.go(200, 1);
    rig.control.set_round_trip(Some(MS * 200));
    let small = Report { deficit: 1, lowest_missing: rig.report.highest - 10, ..rig.report };
    let large = Report { deficit: 30, ..small };
    assert_eq!(rig.control.reactive(&small, rig.now), None);
    let (from, count) = rig.control.reactive(&large, rig.now).unwrap();
    assert!(from == large.lowest_missing && count >= 10, "{count}");
    // Those are on their way.
    let again = rig.control.reactive(&large, rig.now + MS * 20).map_or(0, |(_, count)| count);
    assert!(again <= 16 && rig.control.reactive(&large, rig.now + MS * 40).is_none(), "{again}");
    assert!(rig.control.reactive(&large, rig.now + MS * 400).is_some());
    let old = Report { lowest_missing: rig.report.highest - 400, ..large };
    assert_eq!(rig.control.reactive(&old, rig.now + MS * 800), None, "it is not kept any more");
}

#[test]
fn deficit_is_made_up_on_demand_where_that_is_quicker() {
    let mut rig = Rig::new(FecPolicy::default());
    for _ in 0..600 {
        rig.go(1, 0);
        if rig.report.received % 1000 < 20 {
            rig.go(1, 1);
        }
    }
    let report = Report { deficit: 1, lowest_missing: rig.report.highest - 5, ..rig.report };
    rig.control.set_round_trip(Some(MS * 200));
    assert_eq!(rig.control.reactive(&report, rig.now), None, "{:?}", rig.control.counts());
    rig.control.set_round_trip(Some(MS * 5));
    assert_eq!(rig.control.reactive(&report, rig.now), Some((report.lowest_missing, 1)));
}

#[test]
fn it_goes_on_where_another_carrier_has_stopped() {
    let mut rig = Rig::new(FecPolicy::default());
    rig.go(100, 1);
    let mut writer = Writer::new();
    rig.control.encode(&mut writer);
    let bytes = writer.finish();
    let carried = Control::decode(&mut Reader::new(&bytes)).unwrap();
    assert_eq!(carried.counts(), rig.control.counts());
    assert_eq!(carried.tail_after(), rig.control.tail_after());
    rig.control = carried;
    rig.go(450, 0);
    assert!(rig.control.protects());
    rig.go(60, 0);
    assert!(!rig.control.protects());
}
