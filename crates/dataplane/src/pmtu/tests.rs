use super::*;

/// A path with a largest packet, on which probes take a while and some are lost.
struct Path {
    start: Instant,
    now: Instant,
    takes: u16,
    round_trip: Duration,
    /// One of so many packets is lost, on either way.
    loses: Option<u32>,
    random: u32,
    search: Search,
    /// Every change: when, and to what.
    changes: Vec<(Duration, u16)>,
    asked: Vec<(Duration, u16)>,
    flying: Vec<(Instant, Instant, u16, u32)>,
}

const FULL: u16 = 1500;

fn to() -> SocketAddr {
    "192.0.2.2:6090".parse().unwrap()
}

impl Path {
    fn new(takes: u16) -> Self {
        let now = Instant::now();
        Self {
            start: now,
            now,
            takes,
            round_trip: Duration::from_millis(40),
            loses: None,
            random: 7,
            search: Search::new(false, FULL, None, now),
            changes: Vec::new(),
            asked: Vec::new(),
            flying: Vec::new(),
        }
    }

    fn is_lost(&mut self) -> bool {
        self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.loses.is_some_and(|one_of| (self.random >> 8).is_multiple_of(one_of))
    }

    /// Lets time pass while somebody sends large packets, or nobody does.
    fn run(&mut self, time: Duration, busy: bool) {
        let end = self.now + time;
        while self.now < end {
            self.now += Duration::from_millis(5);
            let now = self.now;
            if busy {
                self.search.note_sent(to(), now);
            }
            let (arrived, flying): (Vec<_>, Vec<_>) = self.flying.drain(..).partition(|(at, ..)| *at <= now);
            self.flying = flying;
            for (_, sent, size, number) in arrived {
                self.search.answer(number, size, now - sent, now);
            }
            let due = self.search.tick(now);
            if due.changed {
                self.changes.push((now - self.start, self.search.size()));
            }
            for (size, number) in due.requests {
                self.asked.push((now - self.start, size));
                if size <= self.takes && !self.is_lost() && !self.is_lost() {
                    self.flying.push((now + self.round_trip, now, size, number));
                }
            }
        }
    }

    fn busy(&mut self, secs: u64) {
        self.run(Duration::from_secs(secs), true);
    }
}

#[test]
fn idle_path_is_never_asked() {
    let mut path = Path::new(FULL);
    path.run(Duration::from_secs(100), false);
    assert!(path.asked.is_empty() && path.search.next_wake().is_none());
    path.busy(2);
    let asked = path.asked.len();
    path.run(Duration::from_secs(100), false);
    assert!(path.asked.len() <= asked + 1 && path.search.next_wake().is_none());
}

#[test]
fn busy_path_is_confirmed_twice_a_second_with_one_full_packet_and_stays() {
    let mut path = Path::new(FULL);
    path.busy(100);
    assert!((150..=200).contains(&path.asked.len()), "{}", path.asked.len());
    assert!(path.asked.iter().all(|(_, size)| *size == FULL) && path.changes.is_empty());
    assert_eq!(path.search.known(), Some(FULL));
}

#[test]
fn path_that_shrinks_is_found_out_within_a_second_and_a_half_whatever_it_takes() {
    for takes in [577, 900, 1279, 1280, 1296, 1300, 1399, 1400, 1401, 1419, 1492, 1499] {
        for round_trip in [1, 40, 90] {
            let mut path = Path::new(FULL);
            path.round_trip = Duration::from_millis(round_trip);
            path.busy(5);
            path.takes = takes;
            path.busy(5);
            assert_eq!(path.search.size(), takes, "{round_trip} ms");
            let (first, _) = path.changes[0];
            assert!(first - Duration::from_secs(5) < Duration::from_millis(1500), "{takes}: {first:?}");
            assert!(path.changes.iter().all(|(_, size)| *size <= takes), "{:?}", path.changes);
        }
    }
}

#[test]
fn a_long_round_trip_is_waited_for() {
    let mut path = Path::new(FULL);
    path.round_trip = Duration::from_millis(700);
    path.busy(30);
    assert!(path.changes.is_empty());
    path.takes = 1400;
    path.busy(15);
    assert_eq!(path.search.size(), 1400);
}

#[test]
fn lost_packets_shrink_nothing_and_do_not_hide_what_does() {
    for seed in 0..40 {
        let mut path = Path::new(FULL);
        (path.loses, path.random) = (Some(20), seed);
        path.busy(300);
        assert!(path.changes.is_empty(), "{:?}", path.changes);
        path.takes = 1400;
        path.busy(10);
        assert!((1368..=1400).contains(&path.search.size()), "{}", path.search.size());
    }
}

#[test]
fn dead_path_says_nothing_about_sizes() {
    let mut path = Path::new(FULL);
    path.busy(5);
    path.takes = 0;
    // Not even a request without padding passes.
    path.loses = Some(1);
    let asked = path.asked.len();
    path.busy(100);
    assert!(path.changes.is_empty() && path.asked.len() - asked < 150, "{}", path.asked.len() - asked);
    (path.takes, path.loses) = (FULL, None);
    path.busy(10);
    assert!(path.changes.is_empty() && path.search.phase == Phase::Rest);
    path.takes = 1400;
    path.busy(5);
    assert_eq!(path.search.size(), 1400);
}

#[test]
fn path_that_heals_is_tried_after_a_minute_and_then_ever_more_rarely() {
    let mut path = Path::new(FULL);
    path.busy(5);
    path.takes = 1400;
    path.busy(5);
    let asked = path.asked.len();
    path.busy(50);
    assert!(path.asked[asked..].iter().all(|(_, size)| *size <= 1400));
    path.takes = FULL;
    path.busy(15);
    assert_eq!(path.search.size(), FULL);

    let mut path = Path::new(FULL);
    path.takes = 1400;
    path.busy(3600);
    let mut tries: Vec<u64> =
        path.asked.iter().filter(|(_, size)| *size == FULL).map(|(at, _)| at.as_secs() / 10).collect();
    tries.dedup();
    assert!((5..=12).contains(&tries.len()), "{tries:?}");
    assert_eq!(path.changes.iter().filter(|(at, _)| *at > Duration::from_secs(5)).count(), 0);
}

#[test]
fn larger_size_has_to_pass_twice() {
    let mut path = Path::new(1400);
    path.busy(5);
    path.busy(54);
    path.takes = FULL;
    let mut waited = 0;
    while !matches!(path.search.phase, Phase::Verify(_)) {
        path.run(Duration::from_millis(10), true);
        waited += 1;
        assert!(waited < 1000);
    }
    path.takes = 1400;
    path.busy(5);
    assert_eq!(path.search.size(), 1400);
}

#[test]
fn who_looks_too_late_judges_nothing() {
    let mut path = Path::new(FULL);
    path.busy(1);
    path.takes = 1400;
    for _ in 0..100 {
        // Every look comes half a second after its time, and answers are never read before it.
        path.search.note_sent(to(), path.now);
        path.now = path.search.next_wake().unwrap().max(path.now) + Duration::from_millis(500);
        assert!(!path.search.tick(path.now).changed);
    }
}

#[test]
fn another_address_is_another_path() {
    let mut path = Path::new(1400);
    path.busy(5);
    assert_eq!(path.search.known(), Some(1400));
    path.takes = FULL;
    let now = path.now;
    path.search.note_sent("192.0.2.9:6090".parse().unwrap(), now);
    assert_eq!(path.search.known(), None);
    // (The simulated traffic goes back to the first address, which is another path again.)
    path.busy(4);
    assert_eq!(path.search.size(), FULL);
}

#[test]
fn what_this_host_refuses_is_looked_at_now() {
    let mut path = Path::new(FULL);
    path.busy(1);
    path.takes = 1400;
    path.search.refused(path.now);
    path.run(Duration::from_millis(500), false);
    assert_eq!(path.search.size(), 1400);
}

#[test]
fn foreign_and_old_numbers_are_no_answers() {
    let mut path = Path::new(1400);
    path.run(Duration::from_millis(5), true);
    let (now, took) = (path.now, Duration::from_millis(1));
    for number in [0, 5, OF_SEARCH + 100, u32::MAX] {
        path.search.answer(number | OF_SEARCH, FULL, took, now);
    }
    assert!(is_of_search(OF_SEARCH) && !is_of_search(7));
    // Its own first one is.
    assert_eq!(path.search.answered, 1);
    path.search.answer(OF_SEARCH, FULL + 1, took, now);
    assert_eq!(path.search.answered, 1, "more than was asked for");
}
