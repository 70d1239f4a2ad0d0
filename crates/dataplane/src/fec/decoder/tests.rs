#![allow(clippy::arithmetic_side_effects, reason = "a test that panics has failed, as it should")]
use super::*;
use crate::fec::encoder::Encoder;
use proptest::prelude::*;
use std::collections::HashMap;

const MTU: u16 = 1500;

/// An IPv4 or IPv6 packet of this length whose other bytes are `fill`'s.
fn packet(length: usize, fill: u64) -> Vec<u8> {
    let mut state = fill;
    let mut packet: Vec<u8> = (0..length)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect();
    if length >= 40 && fill & 1 == 1 {
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&(length as u16 - 40).to_be_bytes());
    } else {
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
    }
    packet
}

/// Both ends.
struct Pair {
    encoder: Encoder,
    decoder: Decoder,
    sent: HashMap<u32, Vec<u8>>,
    delivered: HashMap<u32, Vec<u8>>,
    repairs: u32,
}

impl Pair {
    fn new() -> Self {
        let (encoder, decoder) = (Encoder::new(MTU), Decoder::new(MTU));
        Self { encoder, decoder, sent: HashMap::new(), delivered: HashMap::new(), repairs: 0 }
    }

    fn send(&mut self, sequence: u32, length: usize) {
        let packet = packet(length, (u64::from(sequence) << 16) + length as u64);
        let (head, payload) = packet.split_at(length / 3);
        self.encoder.keep(sequence, head, payload);
        self.sent.insert(sequence, packet);
    }

    fn arrive(&mut self, sequence: u32) -> bool {
        let packet = self.sent[&sequence].clone();
        let is_new = self.decoder.source(sequence, &packet);
        if is_new {
            self.deliver(sequence, packet);
        }
        self.drain();
        is_new
    }

    fn deliver(&mut self, sequence: u32, packet: Vec<u8>) {
        assert_eq!(packet, self.sent[&sequence], "{sequence}");
        assert!(self.delivered.insert(sequence, packet).is_none(), "{sequence} twice");
    }

    fn drain(&mut self) {
        while let Some((sequence, packet)) = self.decoder.recovered() {
            let copy = packet.to_vec();
            // What the caller does with it is its own business.
            packet.fill(0xff);
            self.deliver(sequence, copy);
        }
    }

    fn make(&mut self, window: Window) -> (Window, u32, Vec<u8>) {
        let mut repair = vec![0xaa; self.encoder.longest_bytes(window)];
        self.repairs += 1;
        self.encoder.combine(window, self.repairs, &mut repair);
        (window, self.repairs, repair)
    }

    fn repair(&mut self, window: Window) -> Outcome {
        let (window, number, payload) = self.make(window);
        let outcome = self.decoder.repair(window, number, &payload);
        self.drain();
        outcome
    }

    fn repair_last(&mut self, wanted: u16) -> Outcome {
        self.repair(self.encoder.window(wanted).unwrap())
    }
}

#[test]
fn a_lost_packet_comes_out_of_one_repair() {
    let mut pair = Pair::new();
    for sequence in 0..10 {
        pair.send(sequence, 100 + sequence as usize);
        if sequence != 4 {
            pair.arrive(sequence);
        }
    }
    assert_eq!(pair.repair_last(10), Outcome::Recovered(1));
    assert_eq!(pair.delivered.len(), 10);
    assert_eq!(pair.decoder.counts().recovered, 1);
}

#[test]
fn nothing_lost_needs_no_repair() {
    let mut pair = Pair::new();
    for sequence in 0..10 {
        pair.send(sequence, 50);
        pair.arrive(sequence);
    }
    assert_eq!(pair.repair_last(10), Outcome::Unneeded);
    assert_eq!(pair.decoder.counts(), DecoderCounts { unneeded: 1, ..DecoderCounts::default() });
}

impl Pair {
    /// Sends all of these; those that `is_lost` do not arrive.
    fn stream(&mut self, sequences: impl IntoIterator<Item = u32>, is_lost: impl Fn(u32) -> bool) {
        for sequence in sequences {
            self.send(sequence, 40 + (sequence.wrapping_mul(37) % 200) as usize);
            if !is_lost(sequence) {
                assert!(self.arrive(sequence));
            }
        }
    }

    fn deficit(&self) -> Option<(u16, u32)> {
        self.decoder.deficit()
    }
}

#[test]
fn as_many_repairs_as_losses_recover_all_of_them_in_order() {
    let mut pair = Pair::new();
    pair.stream(0..100, |sequence| sequence % 20 == 7);
    for needed in (1..5).rev() {
        assert_eq!(pair.repair_last(100), Outcome::Kept);
        assert_eq!(pair.deficit(), Some((needed, 7)));
    }
    let (window, number, payload) = pair.make(pair.encoder.window(100).unwrap());
    assert_eq!(pair.decoder.repair(window, number, &payload), Outcome::Recovered(5));
    let order: Vec<u32> = std::iter::from_fn(|| Some(pair.decoder.recovered()?.0)).collect();
    assert_eq!(order, [7, 27, 47, 67, 87]);
    assert_eq!(pair.deficit(), None);
}

#[test]
fn a_repair_over_fewer_packets_solves_those_and_with_them_others() {
    let mut pair = Pair::new();
    pair.stream(0..10, |sequence| sequence == 2);
    pair.stream(10..20, |sequence| sequence == 12);
    assert_eq!(pair.repair_last(20), Outcome::Kept);
    assert_eq!(pair.repair_last(10), Outcome::Recovered(2));
    assert_eq!(pair.delivered.len(), 20);
}

#[test]
fn a_repair_that_follows_from_others_is_not_needed() {
    let mut pair = Pair::new();
    pair.stream(0..10, |sequence| sequence < 2);
    let (window, number, payload) = pair.make(pair.encoder.window(10).unwrap());
    assert_eq!(pair.decoder.repair(window, number, &payload), Outcome::Kept);
    assert_eq!(pair.decoder.repair(window, number, &payload), Outcome::Unneeded);
    assert_eq!(pair.deficit(), Some((1, 0)));
}

#[test]
fn a_late_original_is_delivered_and_solves_others() {
    let mut pair = Pair::new();
    pair.stream(0..10, |sequence| sequence == 3 || sequence == 6);
    assert_eq!(pair.repair_last(10), Outcome::Kept);
    assert!(pair.arrive(3), "the oldest one, which leads the equation");
    assert_eq!(pair.delivered.len(), 10);
    assert!(!pair.arrive(6), "it was recovered");

    pair.stream(10..20, |sequence| sequence == 13 || sequence == 16);
    assert_eq!(pair.repair_last(10), Outcome::Kept);
    assert!(pair.arrive(16));
    assert_eq!(pair.delivered.len(), 20);
    assert_eq!(pair.decoder.counts().recovered, 2);
}

#[test]
fn what_comes_twice_is_told_apart() {
    let mut pair = Pair::new();
    pair.stream(0..10, |sequence| sequence == 3);
    assert!(!pair.arrive(5));
    assert_eq!(pair.repair_last(10), Outcome::Recovered(1));
    assert!(!pair.arrive(3));
}

#[test]
fn a_gap_that_no_repair_covers_is_nothing_missing() {
    let mut pair = Pair::new();
    // 10 to 19 are not protected: the decoder never hears of them.
    pair.stream((0..10).chain(20..30), |_| false);
    assert_eq!(pair.repair_last(512), Outcome::Unneeded);
    assert_eq!(pair.deficit(), None);
    pair.stream(2000..2001, |_| false);
    assert_eq!(pair.decoder.counts(), DecoderCounts { unneeded: 1, ..DecoderCounts::default() });
}

#[test]
fn the_last_packet_is_recovered_though_nothing_came_after_it() {
    let mut pair = Pair::new();
    pair.stream(0..10, |sequence| sequence >= 8);
    assert_eq!(pair.repair_last(10), Outcome::Kept);
    assert_eq!(pair.repair_last(10), Outcome::Recovered(2));
}

#[test]
fn a_repair_alone_is_the_first_thing_that_comes() {
    let mut pair = Pair::new();
    pair.stream(70..71, |_| true);
    assert_eq!(pair.repair_last(1), Outcome::Recovered(1));
}

#[test]
fn numbers_go_round() {
    let mut pair = Pair::new();
    pair.stream((0..20).map(|place| 0xffff_fff6_u32.wrapping_add(place)), |sequence| {
        sequence == u32::MAX || sequence == 0
    });
    assert_eq!(pair.repair_last(20), Outcome::Kept);
    assert_eq!(pair.deficit(), Some((1, u32::MAX)));
    assert_eq!(pair.repair_last(20), Outcome::Recovered(2));
}

#[test]
fn all_that_fits_into_the_equations_is_recovered_at_once() {
    let mut pair = Pair::new();
    pair.stream(0..512, |sequence| (100..228).contains(&sequence));
    let mut last = pair.repair_last(512);
    for _ in 0..131 {
        if last != Outcome::Kept && last != Outcome::Unneeded {
            break;
        }
        last = pair.repair_last(512);
    }
    assert_eq!(last, Outcome::Recovered(128));
    assert_eq!(pair.delivered.len(), 512);
}

#[test]
fn more_than_fits_is_not_even_begun() {
    let mut pair = Pair::new();
    pair.stream(0..512, |sequence| (100..229).contains(&sequence));
    assert_eq!(pair.repair_last(512), Outcome::TooMany);
    assert_eq!(pair.deficit(), None);
    assert_eq!(pair.repair(Window { last: 227, count: 128 }), Outcome::Kept);
}

#[test]
fn the_oldest_equations_make_room_for_new_ones() {
    let mut pair = Pair::new();
    pair.stream(0..200, |sequence| sequence < 100);
    for _ in 0..50 {
        assert_eq!(pair.repair_last(200), Outcome::Kept);
    }
    assert_eq!(pair.deficit(), Some((50, 0)));
    pair.stream(200..400, |sequence| sequence < 240);
    assert_eq!(pair.repair_last(200), Outcome::Kept);
    // 12 too many, and each equation that goes takes one with it.
    assert_eq!(pair.deficit(), Some((128 - 39, 12)));
    for _ in 0..38 {
        pair.repair_last(200);
    }
    assert_eq!(pair.repair_last(200), Outcome::Recovered(40));
    assert_eq!(pair.deficit(), Some((50, 12)));
}

#[test]
fn equations_about_packets_that_are_no_longer_remembered_are_given_up() {
    let mut pair = Pair::new();
    pair.stream(0..10, |sequence| sequence == 4 || sequence == 8);
    assert_eq!(pair.repair_last(10), Outcome::Kept);
    pair.stream(10..1028, |_| false);
    assert_eq!(pair.deficit(), Some((1, 4)));
    pair.stream(1028..1029, |_| false);
    assert_eq!(pair.deficit(), None);
    assert_eq!(pair.decoder.counts().given_up, 1);
    pair.stream(1029..1033, |_| false);
    assert_eq!(pair.decoder.counts().given_up, 2);
    assert_eq!(pair.repair(Window { last: 1032, count: 2 }), Outcome::Unneeded);
}

#[test]
fn of_equations_only_the_one_with_the_oldest_packet_is_given_up() {
    let mut pair = Pair::new();
    pair.stream(0..512, |sequence| [4, 300, 400].contains(&sequence));
    assert_eq!(pair.repair_last(512), Outcome::Kept);
    assert_eq!(pair.repair_last(512), Outcome::Kept);
    pair.stream(512..1100, |_| false);
    // Two equations of three packets, and after 4 is gone one of two.
    assert_eq!(pair.deficit(), Some((1, 300)));
    assert!(pair.arrive(300));
    assert_eq!(pair.delivered.len(), 1099);
}

#[test]
fn a_packet_far_ahead_begins_anew_and_one_from_long_ago_is_not_ours_to_judge() {
    let mut pair = Pair::new();
    pair.stream(0..10, |sequence| sequence == 4 || sequence == 5);
    assert_eq!(pair.repair_last(10), Outcome::Kept);
    pair.stream(1034..1035, |_| false);
    assert_eq!((pair.deficit(), pair.decoder.counts().given_up), (None, 2));
    assert!(pair.decoder.source(10, &packet(50, 1)));
    assert!(pair.decoder.source(10, &packet(50, 1)), "not remembered");
    assert!(pair.decoder.source(11, &packet(50, 1)));
    assert!(!pair.decoder.source(11, &packet(50, 1)), "among the last 1024");
}

#[test]
fn a_repair_far_ahead_or_from_long_ago_changes_nothing() {
    let mut pair = Pair::new();
    pair.stream(5000..5010, |sequence| sequence == 5004 || sequence == 5005);
    assert_eq!(pair.repair_last(10), Outcome::Kept);
    for last in [5009 + 1025, 5009_u32.wrapping_add(1 << 31), 5009 - 1024] {
        assert_eq!(pair.decoder.repair(Window { last, count: 5 }, 77, &[1; 100]), Outcome::TooOld, "{last}");
    }
    assert_eq!(pair.decoder.repair(Window { last: 5009 - 1020, count: 5 }, 77, &[1; 100]), Outcome::TooOld);
    assert_eq!(pair.repair_last(10), Outcome::Recovered(2));
}

#[test]
fn repairs_that_no_encoder_makes_are_malformed() {
    let mut pair = Pair::new();
    pair.stream(0..10, |sequence| sequence == 4);
    let (window, number, payload) = pair.make(pair.encoder.window(10).unwrap());
    for count in [0, 513, u16::MAX] {
        assert_eq!(pair.decoder.repair(Window { count, ..window }, number, &payload), Outcome::Malformed, "{count}");
    }
    let longest = pair.sent.values().map(Vec::len).max().unwrap();
    for length in [0, longest - 1, 1501] {
        assert_eq!(pair.decoder.repair(window, number, &vec![1; length]), Outcome::Malformed, "{length}");
    }
    assert_eq!(pair.decoder.counts().malformed, 6);
    assert_eq!(pair.decoder.repair(window, number, &payload), Outcome::Recovered(1));
}

#[test]
fn a_symbol_that_is_no_ip_packet_is_never_delivered_and_its_original_still_may_be() {
    let good = packet(40, 2);
    let with = |change: fn(&mut Vec<u8>)| {
        let mut symbol = good.clone();
        change(&mut symbol);
        symbol
    };
    let six = |length: u8| {
        let mut symbol = vec![0; 60];
        (symbol[0], symbol[5]) = (0x60, length);
        symbol
    };
    let symbols = [
        with(|symbol| symbol[0] = 0x05),
        with(|symbol| symbol[0] = 0x75),
        with(|symbol| symbol[0] = 0x44),
        with(|symbol| symbol[3] = 0),
        with(|symbol| symbol[3] = 19),
        with(|symbol| symbol[3] = 41),
        with(|symbol| symbol.push(1)),
        with(|symbol| symbol.truncate(3)),
        with(|symbol| symbol.truncate(19)),
        six(21),
        six(u8::MAX),
        vec![0; 60],
    ];
    for symbol in symbols {
        let mut decoder = Decoder::new(MTU);
        let scaled: Vec<u8> = symbol.iter().map(|byte| crate::fec::gf::product(*byte, coefficient(9, 5))).collect();
        assert_eq!(decoder.repair(Window { last: 5, count: 1 }, 9, &scaled), Outcome::Malformed, "{symbol:02x?}");
        assert_eq!(decoder.recovered(), None);
        assert_eq!(decoder.counts(), DecoderCounts { malformed: 1, ..DecoderCounts::default() });
        assert_eq!(decoder.deficit(), None);
        assert!(decoder.source(5, &good));
    }
    let mut decoder = Decoder::new(MTU);
    let scaled: Vec<u8> = with(|symbol| symbol.extend([0; 30]))
        .iter()
        .map(|byte| crate::fec::gf::product(*byte, coefficient(9, 5)))
        .collect();
    assert_eq!(decoder.repair(Window { last: 5, count: 1 }, 9, &scaled), Outcome::Recovered(1));
    assert_eq!(decoder.recovered().map(|(sequence, packet)| (sequence, packet.to_vec())), Some((5, good)));
}

#[test]
fn a_packet_that_is_too_long_is_delivered_and_not_kept() {
    let mut decoder = Decoder::new(100);
    assert!(decoder.source(1, &packet(101, 2)));
    assert!(decoder.source(1, &packet(100, 2)));
    assert!(!decoder.source(1, &packet(101, 2)));
    assert!(decoder.source(2000, &packet(101, 2)));
    assert!(!decoder.source(1, &packet(100, 2)), "and makes nothing be forgotten");
}

#[test]
fn forgetting_gives_the_missing_up_and_counts_on() {
    let mut pair = Pair::new();
    pair.stream(0..10, |sequence| sequence == 4 || sequence == 5);
    assert_eq!(pair.repair_last(10), Outcome::Kept);
    pair.decoder.forget();
    assert_eq!(pair.decoder.counts().given_up, 2);
    assert_eq!((pair.deficit(), pair.decoder.equations.size()), (None, (0, 0)));
    // A new epoch: its numbers may be any.
    pair.delivered.clear();
    pair.stream([3, 4, 5], |sequence| sequence == 4);
    assert_eq!(pair.repair_last(3), Outcome::Recovered(1));
}

#[test]
fn whoever_never_asks_for_recovered_packets_costs_no_more_memory() {
    let mut pair = Pair::new();
    for sequence in 0..4000 {
        pair.send(sequence, 30);
        let (window, number, payload) = pair.make(pair.encoder.window(1).unwrap());
        assert_eq!(pair.decoder.repair(window, number, &payload), Outcome::Recovered(1));
    }
    assert_eq!(pair.decoder.recovered.len(), 1024);
    pair.drain();
    assert_eq!(pair.delivered.len(), 1024);
}

fn carried(decoder: &Decoder) -> Vec<u8> {
    let mut writer = Writer::new();
    decoder.encode(&mut writer);
    writer.finish().to_vec()
}

fn next_carrier(decoder: &Decoder) -> Decoder {
    let bytes = carried(decoder);
    let mut from = Reader::new(&bytes);
    let next = Decoder::decode(&mut from).unwrap();
    assert!(from.is_at_end());
    next
}

#[test]
fn the_next_carrier_goes_on_with_a_window_in_flight() {
    let mut pair = Pair::new();
    pair.decoder = next_carrier(&pair.decoder);
    pair.stream((0..40).map(|place| 0xffff_fff0_u32.wrapping_add(place)), |sequence| sequence < 4);
    for needed in [3, 2, 1] {
        assert_eq!(pair.repair_last(40), Outcome::Kept);
        let counts = pair.decoder.counts();
        pair.decoder = next_carrier(&pair.decoder);
        assert_eq!((pair.deficit(), pair.decoder.counts()), (Some((needed, 0)), counts));
    }
    let (window, number, payload) = pair.make(pair.encoder.window(40).unwrap());
    assert_eq!(pair.decoder.repair(window, number, &payload), Outcome::Recovered(4));
    // Before anybody asked for them.
    pair.decoder = next_carrier(&pair.decoder);
    pair.drain();
    assert_eq!(pair.delivered.len(), 40);
    assert!(!pair.arrive(0xffff_fff3));
}

#[test]
fn what_was_given_up_in_between_is_counted_by_the_next_carrier() {
    let mut pair = Pair::new();
    pair.stream(0..10, |sequence| sequence == 4 || sequence == 5);
    assert_eq!(pair.repair_last(10), Outcome::Kept);
    pair.decoder = next_carrier(&pair.decoder);
    pair.stream(10..1100, |_| false);
    assert_eq!(pair.decoder.counts().given_up, 2);
}

/// What may happen to a packet.
#[derive(Debug, Clone, Copy)]
struct Fate {
    length: usize,
    /// After how many others it arrives; `None`: never.
    after: Option<usize>,
    /// And again.
    again: Option<usize>,
    is_protected: bool,
    /// A repair over so many follows, and is not lost.
    repair: Option<u16>,
    hand_over: bool,
}

fn fate() -> impl Strategy<Value = Fate> {
    let length = prop_oneof![20..60_usize, 20..=1500_usize];
    let after = prop_oneof![8 => Just(Some(0)), 1 => (1..40_usize).prop_map(Some), 2 => Just(None)];
    let again = prop_oneof![9 => Just(None), 1 => (0..100_usize).prop_map(Some)];
    let repair = prop_oneof![3 => Just(None), 1 => (1..=64_u16).prop_map(Some), 1 => (1..=512_u16).prop_map(Some)];
    let parts = (length, after, again, proptest::bool::weighted(0.97), repair, proptest::bool::weighted(0.01));
    parts.prop_map(|(length, after, again, is_protected, repair, hand_over)| Fate {
        length,
        after,
        again,
        is_protected,
        repair,
        hand_over,
    })
}

proptest! {
    #[test]
    fn no_packet_differs_from_its_source_and_none_is_delivered_twice(
        first in prop_oneof![any::<u32>(), 0xffff_ff00..=u32::MAX],
        fates in proptest::collection::vec(fate(), 1..300),
    ) {
        let mut pair = Pair::new();
        let mut arrivals: Vec<Vec<u32>> = vec![vec![]; fates.len() + 101];
        for (slot, fate) in fates.into_iter().enumerate() {
            let sequence = first.wrapping_add(slot as u32);
            if fate.is_protected {
                pair.send(sequence, fate.length);
                for delay in fate.after.into_iter().chain(fate.again) {
                    arrivals[slot + delay].push(sequence);
                }
            }
            for sequence in std::mem::take(&mut arrivals[slot]) {
                let was_here = pair.delivered.contains_key(&sequence);
                prop_assert_eq!(pair.arrive(sequence), !was_here);
            }
            if let Some(window) = fate.repair.and_then(|wanted| pair.encoder.window(wanted)) {
                pair.repair(window);
            }
            if fate.hand_over {
                pair.decoder = next_carrier(&pair.decoder);
            }
        }
        for sequence in arrivals.into_iter().flatten() {
            pair.arrive(sequence);
        }
        let counts = pair.decoder.counts();
        prop_assert_eq!((counts.malformed, counts.given_up), (0, 0));

        // Now repairs over all, until nothing that they cover is missing.
        let Some(window) = pair.encoder.window(512) else { return Ok(()) };
        let missing = sequences(window).filter(|sequence| !pair.delivered.contains_key(sequence)).count();
        if missing <= COLUMNS {
            // One of 255 says nothing new.
            for _ in 0..missing + 6 {
                pair.repair(window);
            }
            prop_assert!(sequences(window).all(|sequence| pair.delivered.contains_key(&sequence)));
            let unsolved = pair.deficit();
            prop_assert!(unsolved.is_none_or(|(_, oldest)| !window.covers(oldest)), "{:?}", unsolved);
        }
    }

    #[test]
    fn any_repairs_and_packets_are_taken_without_harm(
        calls in proptest::collection::vec((any::<bool>(), 0..3000_u32, 0..600_u16, any::<u32>(), 0..200_usize), 0..300),
        first in any::<u32>(),
    ) {
        let mut decoder = Decoder::new(150);
        for (is_repair, ahead, count, number, length) in calls {
            let last = first.wrapping_add(ahead);
            if is_repair {
                decoder.repair(Window { last, count }, number, &packet(length + 4, number.into())[..length]);
            } else {
                decoder.source(last, &packet(length + 4, number.into())[..length]);
            }
            if number % 5 == 0 {
                while decoder.recovered().is_some() {}
            }
            if number % 50 == 0 {
                decoder = next_carrier(&decoder);
            }
            let (rows, spare) = decoder.equations.size();
            prop_assert!(rows < COLUMNS && rows + spare <= COLUMNS + 1, "{} {}", rows, spare);
            prop_assert!(decoder.deficit().is_none_or(|(needed, _)| needed > 0));
        }
    }

    #[test]
    fn state_that_no_decoder_wrote_is_refused_or_harmless(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        length in any::<prop::sample::Index>(),
    ) {
        let mut pair = Pair::new();
        pair.stream(0..40, |sequence| sequence % 5 == 0);
        for _ in 0..4 {
            pair.repair_last(40);
        }
        let mut bytes = carried(&pair.decoder);
        prop_assert!(Decoder::decode(&mut Reader::new(&bytes[..length.index(bytes.len())])).is_none());
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(decoder) = Decoder::decode(&mut Reader::new(&bytes)) {
            pair.decoder = decoder;
            for _ in 0..10 {
                let (window, number, payload) = pair.make(pair.encoder.window(40).unwrap());
                pair.decoder.repair(window, number, &payload);
            }
            while pair.decoder.recovered().is_some() {}
        }
    }
}

/// In a release build: `cargo test --release -p adit-dataplane --lib fec -- --ignored --nocapture --test-threads 1`.
#[test]
#[ignore = "a measurement: prints what packets of 1,400 bytes cost"]
fn what_packets_cost_the_receiver() {
    const LOST: [usize; 5] = [0, 1, 4, 16, 64];
    let packet = packet(1400, 2);
    for count in [64, 128, 512] {
        let mut encoder = Encoder::new(MTU);
        (0..512).for_each(|sequence| encoder.keep(sequence, &packet, &[]));
        let window = Window { last: 511, count };
        for lost in LOST.into_iter().filter(|lost| *lost < count.into()) {
            let missing: Vec<u32> = sequences(window).step_by(usize::from(count) / lost.max(1)).take(lost).collect();
            let mut best = [std::time::Duration::MAX; 2];
            for round in 0..20 {
                let mut decoder = Decoder::new(MTU);
                // Memory that was never touched would be measured.
                (0..1024).for_each(|sequence: u32| assert!(decoder.source(sequence.wrapping_sub(1024), &packet)));
                let began = std::time::Instant::now();
                (0..512).filter(|sequence| !missing.contains(sequence)).for_each(|sequence| {
                    decoder.source(sequence, &packet);
                });
                best[0] = best[0].min(began.elapsed() / (512 - lost as u32));
                let repairs: Vec<Vec<u8>> = (0..lost.max(1) as u32)
                    .map(|number| {
                        let mut repair = vec![0; 1400];
                        encoder.combine(window, round * 1000 + number, &mut repair);
                        repair
                    })
                    .collect();
                let began = std::time::Instant::now();
                for (number, repair) in (0..).zip(&repairs) {
                    decoder.repair(window, round * 1000 + number, repair);
                }
                best[1] = best[1].min(began.elapsed());
            }
            println!("window {count}, {lost} lost: {:?} a packet, {:?} for all repairs", best[0], best[1]);
        }
    }
}

/// A stream with losses in bursts, reordering and duplicates, its repairs, and if so wanted repairs that are none among them.
fn long_stream(packets: u32, is_hostile: bool) -> (Decoder, u64) {
    fn random(state: &mut u64) -> u32 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb) >> 32) as u32
    }
    const LATEST: usize = 256;
    let first = 0_u32.wrapping_sub(packets / 2);
    let (mut encoder, mut decoder) = (Encoder::new(64), Decoder::new(64));
    let make = |sequence: u32| packet(20 + sequence as usize % 41, u64::from(sequence) << 16);
    let mut state = 1_u64;
    let mut arrivals = vec![Vec::new(); LATEST];
    // Which of the last numbers were delivered, and how many in all.
    let (mut delivered, mut count) = (vec![0; 4096], 0_u64);
    let mut is_bad = false;
    for turn in 0..packets {
        let sequence = first.wrapping_add(turn);
        let mut chance = |one_in: u32| random(&mut state).is_multiple_of(one_in);
        is_bad = if is_bad { !chance(5) } else { chance(200) };
        let is_lost = is_bad || chance(50);
        let (is_late, is_doubled, is_repair_due) = (chance(20), chance(50), chance(6));
        let delay = |state: &mut u64| (turn as usize + random(state) as usize % LATEST) % LATEST;
        encoder.keep(sequence, &[], &make(sequence));
        let usual = turn as usize % LATEST;
        if !is_lost {
            arrivals[if is_late { delay(&mut state) } else { usual }].push(sequence);
        }
        if is_doubled {
            arrivals[delay(&mut state)].push(sequence);
        }
        let mut deliver = |sequence: u32, packet: &[u8]| {
            if !is_hostile {
                assert_eq!(packet, make(sequence), "{sequence}");
                let last = std::mem::replace(&mut delivered[sequence as usize % 4096], 1 + u64::from(sequence));
                assert_ne!(last, 1 + u64::from(sequence), "{sequence} twice");
            }
            count += 1;
        };
        for sequence in std::mem::take(&mut arrivals[usual]) {
            let packet = make(sequence);
            if decoder.source(sequence, &packet) {
                deliver(sequence, &packet);
            }
        }
        let wanted = [16, 64, 128, 512][random(&mut state) as usize % 4];
        if let Some(window) = encoder.window(wanted).filter(|_| is_repair_due) {
            let mut repair = vec![0; encoder.longest_bytes(window)];
            encoder.combine(window, turn, &mut repair);
            decoder.repair(window, turn, &repair);
        }
        if is_hostile && random(&mut state).is_multiple_of(4) {
            let last = match random(&mut state) % 4 {
                0 => random(&mut state),
                1 => sequence.wrapping_add(random(&mut state) % 1200),
                _ => sequence.wrapping_sub(random(&mut state) % 1200),
            };
            let count = (random(&mut state) % if turn % 64 == 0 { 700 } else { 40 }) as u16;
            let garbage = make(random(&mut state));
            decoder.repair(Window { last, count }, random(&mut state), &garbage);
        }
        while let Some((sequence, packet)) = decoder.recovered() {
            deliver(sequence, packet);
        }
        let (rows, spare) = decoder.equations.size();
        assert!(rows < COLUMNS && rows + spare <= COLUMNS + 1, "{rows} {spare}");
        assert!(decoder.recovered.is_empty());
    }
    (decoder, count)
}

/// `ADIT_FEC_PACKETS=10000000` makes the streams as long as that.
fn long() -> u32 {
    std::env::var("ADIT_FEC_PACKETS").map_or(1_000_000, |packets| packets.parse().unwrap())
}

#[test]
fn in_a_long_stream_no_packet_differs_from_its_source_and_hardly_one_is_lost() {
    let packets = long();
    let (decoder, delivered) = long_stream(packets, false);
    let counts = decoder.counts();
    println!("{packets} packets: {delivered} delivered, {counts:?}");
    assert_eq!(counts.malformed, 0);
    // Some 4 % were lost, which repairs of 17 % bring back but for the very longest bursts.
    assert!(counts.recovered > u64::from(packets / 40), "{counts:?}");
    assert!(u64::from(packets) - delivered < u64::from(packets / 1000), "{delivered}");
}

#[test]
fn a_peer_that_means_no_good_costs_no_more_memory() {
    let packets = long();
    let (decoder, _) = long_stream(packets, true);
    let counts = decoder.counts();
    println!("{packets} packets: {counts:?}");
    assert!(counts.malformed > u64::from(packets / 100), "{counts:?}");
}
