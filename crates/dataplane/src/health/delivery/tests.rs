#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a test that panics has failed, as it should"
)]
use super::*;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);

fn tally(received: u64, lost: u64, reordered: u64, duplicated: u64) -> Tally {
    Tally { received, lost, reordered, duplicated }
}

#[test]
fn what_is_missing_is_lost_once_it_has_settled() {
    let (mut ledger, now) = (Ledger::new(), Instant::now());
    [0, 1, 4, 5].into_iter().for_each(|number| ledger.take(number));
    ledger.settle(now);
    ledger.take(3);
    ledger.settle(now + MS * 299);
    assert_eq!(ledger.tally(), tally(5, 0, 1, 0));
    ledger.settle(now + MS * 300);
    assert_eq!(ledger.tally(), tally(5, 1, 1, 0));
}

#[test]
fn one_that_comes_too_late_is_taken_off_the_next_loss() {
    let (mut ledger, now) = (Ledger::new(), Instant::now());
    [0, 2].into_iter().for_each(|number| ledger.take(number));
    ledger.settle(now);
    ledger.settle(now + MS * 300);
    assert_eq!(ledger.tally().lost, 1);
    ledger.take(1);
    ledger.take(4);
    ledger.settle(now + MS * 600);
    ledger.settle(now + MS * 900);
    assert_eq!(ledger.tally(), tally(4, 1, 1, 0));
}

#[test]
fn a_session_that_was_under_way_begins_with_its_first_datagram() {
    let mut ledger = Ledger::joined();
    [1000, 1001, 1003, 999].into_iter().for_each(|number| ledger.take(number));
    assert_eq!(ledger.clone().close(), tally(4, 1, 1, 0));
    assert_eq!(Ledger::joined().close(), Tally::default());
}

#[test]
fn plain_numbers_wrap_and_repeat() {
    let mut session = PlainSession::new(1);
    for number in [u32::MAX - 1, u32::MAX, 1, 0, 1, u32::MAX - 2, 3] {
        session.take(number);
    }
    assert_eq!(session.close(), tally(6, 1, 2, 1));
}

#[test]
fn recent_loss_is_of_the_last_seconds() {
    let (mut recent, now) = (Recent::default(), Instant::now());
    for second in 0..30_u32 {
        let lost = if second < 10 { u64::from(second) } else { 9 };
        recent.note(tally(u64::from(second) * 99, lost, 0, 0), now + MS * 1000 * second);
    }
    let newest = tally(29 * 99, 9, 0, 0);
    assert_eq!(loss_ppm(recent.of(newest, now + MS * 29_000)), 0);
    assert_eq!(recent.of(newest, now + MS * 29_000).received, 990);
    assert_eq!(loss_ppm(tally(99, 1, 0, 0)), 10_000);
}

proptest! {
    /// Numbers are sent in order; some are lost, some come twice, some come up to so many places later.
    #[test]
    fn it_agrees_with_the_truth(
        fates in proptest::collection::vec((0..100_u32, 0..6_usize), 1..2000),
        loss in 0..60_u32,
        start in prop_oneof![Just(0_u32), Just(u32::MAX - 500), any::<u32>()],
    ) {
        let mut flying: Vec<(usize, u64)> = Vec::new();
        let mut truth = Tally::default();
        for (number, (fate, delay)) in fates.iter().enumerate() {
            if *fate < loss && number > 0 {
                truth.lost += 1;
                continue;
            }
            let delay = if number == 0 { 0 } else { *delay };
            flying.push((number + delay, number as u64));
            if *fate >= 95 && number > 0 {
                flying.push((number + delay + 1, number as u64));
                truth.duplicated += 1;
            }
        }
        flying.sort_by_key(|(at, _)| *at);
        let (mut session, mut highest, mut seen) = (PlainSession::new(7), None, std::collections::BTreeSet::new());
        let begin = Instant::now();
        let mut last_lost = 0;
        for (step, (_, number)) in flying.iter().enumerate() {
            if seen.insert(*number) {
                truth.received += 1;
                truth.reordered += u64::from(highest > Some(*number));
                highest = highest.max(Some(*number));
            }
            session.take(start.wrapping_add(*number as u32));
            // Slow enough that what comes late comes before it counts as lost, or is taken off.
            session.settle(begin + MS * 20 * step as u32);
            prop_assert!(session.tally().lost >= last_lost);
            last_lost = session.tally().lost;
        }
        // The tail is not known to have been sent.
        let tail = fates.len() as u64 - 1 - highest.unwrap();
        truth.lost -= tail;
        prop_assert_eq!(session.close(), truth);
    }
}
