#![allow(clippy::arithmetic_side_effects, reason = "a test that panics has failed, as it should")]
use super::*;
use crate::fec::gf;

const MTU: u16 = 1400;

fn with(sequences: impl IntoIterator<Item = u32>) -> Encoder {
    let mut encoder = Encoder::new(MTU);
    for sequence in sequences {
        encoder.keep(sequence, &sequence.to_be_bytes(), &[7; 16]);
    }
    encoder
}

fn with_packets(packet: &[u8]) -> Encoder {
    let mut encoder = Encoder::new(MTU);
    (0..512).for_each(|sequence| encoder.keep(sequence, packet, &[]));
    encoder
}

fn repair(encoder: &Encoder, window: Window, number: u32) -> Vec<u8> {
    let mut repair = vec![0xaa; encoder.longest_bytes(window)];
    encoder.combine(window, number, &mut repair);
    repair
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// Calculated by another program, a line of Python a step.
#[test]
fn a_repair_is_as_documented() {
    let packets = [
        "45000014000100004011f6e9c0000201c0000202",
        "4500001c000200004011f6e0c0000201c000020217d217d200080000",
        "6000000000003b4020010db800000000000000000000000120010db8000000000000000000000002",
        "45000018000300004011f6e3c0000201c0000202deadbeef",
    ];
    let mut encoder = Encoder::new(MTU);
    for (sequence, packet) in (0..).map(|place| 0xffff_fffe_u32.wrapping_add(place)).zip(packets) {
        let packet = hex(packet);
        encoder.keep(sequence, &packet[..1], &packet[1..]);
    }
    let all = Window { last: 1, count: 4 };
    assert_eq!(encoder.window(9), Some(all));
    assert_eq!(
        repair(&encoder, all, 7),
        hex("2c00003700bc7a7c7603d31dd80045acd80045453365fa603ea6f258000000000000000000000067")
    );
    let two = Window { last: 1, count: 2 };
    assert_eq!(
        repair(&encoder, two, 0xdead_beef),
        hex("cc000060000cf2865ef2728f27000804270008085f8ec22d43b68d24000000000000000000000071")
    );
    assert_eq!(
        repair(&encoder, Window { last: 0xffff_fffe, count: 1 }, 7),
        hex("250000ec005e00001ed77db92200bc5e2200bcbc")
    );
}

#[test]
fn a_window_ends_with_the_newest_packet_and_is_no_longer_than_wanted_and_kept() {
    let encoder = with(100..110);
    assert_eq!(encoder.window(4), Some(Window { last: 109, count: 4 }));
    assert_eq!(encoder.window(400), Some(Window { last: 109, count: 10 }));
    assert_eq!(encoder.window(0), None);
    assert_eq!(with([]).window(1), None);
    assert_eq!(encoder.kept(), 10);
}

#[test]
fn a_window_from_a_packet_reaches_to_the_newest() {
    let encoder = with(100..110);
    assert_eq!(encoder.window_from(107), Some(Window { last: 109, count: 3 }));
    assert_eq!(encoder.window_from(109), Some(Window { last: 109, count: 1 }));
    assert_eq!(encoder.window_from(20), Some(Window { last: 109, count: 10 }), "as far as they are kept");
    assert_eq!(encoder.window_from(110), None, "not sent yet");
    let around = with((0..4).map(|place| 0xffff_fffe_u32.wrapping_add(place)));
    assert_eq!(around.window_from(0xffff_ffff), Some(Window { last: 1, count: 3 }));
}

#[test]
fn no_more_than_the_longest_window_is_kept() {
    let encoder = with(0..2000);
    assert_eq!(encoder.kept(), 512);
    let window = encoder.window(u16::MAX).unwrap();
    assert_eq!((window.first(), window.last), (2000 - 512, 1999));
}

#[test]
fn a_gap_in_the_numbers_begins_anew() {
    for next in [111, 5, 109] {
        let encoder = with((100..110).chain([next]));
        assert_eq!(encoder.window(9), Some(Window { last: next, count: 1 }));
    }
}

#[test]
fn a_packet_that_is_too_long_ends_the_window() {
    let mut encoder = with(0..10);
    encoder.keep(10, &[0x45; 20], &[0; MTU as usize - 19]);
    assert_eq!(encoder.window(9), None);
    encoder.keep(11, &[0x45; 20], &[0; MTU as usize - 20]);
    assert_eq!(encoder.window(9), Some(Window { last: 11, count: 1 }));
    assert_eq!(encoder.longest_bytes(Window { last: 11, count: 1 }), MTU.into());
}

#[test]
fn a_repair_is_as_long_as_the_longest_packet_in_its_window() {
    let mut encoder = Encoder::new(MTU);
    for (sequence, length) in (0..).zip([1400, 20, 900, 21]) {
        encoder.keep(sequence, &[], &vec![1; length]);
    }
    assert_eq!(encoder.longest_bytes(Window { last: 3, count: 4 }), 1400);
    assert_eq!(encoder.longest_bytes(Window { last: 3, count: 3 }), 900);
    assert_eq!(encoder.longest_bytes(Window { last: 3, count: 1 }), 21);
}

#[test]
fn a_place_that_a_long_packet_had_keeps_nothing_of_it() {
    let mut encoder = Encoder::new(MTU);
    (0..512).for_each(|sequence| encoder.keep(sequence, &[0xff; 1400], &[]));
    (512..1024).for_each(|sequence| encoder.keep(sequence, &[1; 21], &[]));
    let mut expected = Encoder::new(MTU);
    (512..1024).for_each(|sequence| expected.keep(sequence, &[1; 21], &[]));
    let window = encoder.window(512).unwrap();
    assert_eq!(repair(&encoder, window, 1), repair(&expected, window, 1));
}

#[test]
fn nothing_is_kept_after_forgetting() {
    let mut encoder = with(0..10);
    encoder.forget();
    assert_eq!((encoder.kept(), encoder.window(1)), (0, None));
    encoder.keep(10, &[1], &[2]);
    assert_eq!(encoder.window(5), Some(Window { last: 10, count: 1 }));
}

fn carried(encoder: &Encoder) -> Vec<u8> {
    let mut writer = Writer::new();
    encoder.encode(&mut writer);
    writer.finish().to_vec()
}

#[test]
fn the_next_carrier_makes_the_same_repairs() {
    for encoder in [with([]), with(0..10), with((0..2000).map(|place| 0xffff_ff00_u32.wrapping_add(place)))] {
        let bytes = carried(&encoder);
        let mut from = Reader::new(&bytes);
        let next = Encoder::decode(&mut from).unwrap();
        assert!(from.is_at_end());
        assert_eq!(next.window(512), encoder.window(512));
        if let Some(window) = encoder.window(512) {
            assert_eq!(repair(&next, window, 5), repair(&encoder, window, 5));
        }
        assert_eq!(carried(&next), bytes);
    }
}

#[test]
fn state_that_no_encoder_wrote_is_refused() {
    let good = carried(&with(0..10));
    for length in 0..good.len() {
        assert!(Encoder::decode(&mut Reader::new(&good[..length])).is_none(), "{length}");
    }
    let changed = |at: usize, value: u16| {
        let mut bytes = good.clone();
        bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
        Encoder::decode(&mut Reader::new(&bytes)).is_some()
    };
    assert!(changed(6, 9));
    assert!(!changed(6, 513), "more than are ever kept");
    assert!(!changed(8, MTU + 1), "longer than it may be");
}

/// In a release build: `cargo test --release -p adit-dataplane --lib fec -- --ignored --nocapture --test-threads 1`.
#[test]
#[ignore = "a measurement: prints what packets of 1,400 bytes cost at a redundancy of 10 %"]
fn what_packets_cost_the_sender() {
    const ROUNDS: u32 = 7;
    const REPAIRS: u32 = 300;
    let packet = [0x45; MTU as usize];
    let mut place = [0; MTU as usize];
    println!("kernel, window: ns a repair, ns a packet (a copy and a tenth of a repair)");
    for (kernel, count) in gf::kernels().flat_map(|kernel| [16, 64, 128, 512].map(|count| (kernel, count))) {
        let mut encoder = with_packets(&packet);
        let best = |mut work: Box<dyn FnMut(u32) + '_>| {
            let round = |_| {
                let began = std::time::Instant::now();
                (0..REPAIRS).for_each(&mut work);
                began.elapsed() / REPAIRS
            };
            (0..ROUNDS).map(round).min().unwrap().as_nanos()
        };
        let keep = best(Box::new(|_| {
            let next = encoder.newest.wrapping_add(1);
            encoder.keep(next, &packet[..20], &packet[20..]);
        }));
        let repair = best(Box::new(|number| {
            place.fill(0);
            let window = encoder.window(count).unwrap();
            let mut sum = Sum::with(kernel.combine, &mut place);
            sequences(window)
                .for_each(|sequence| sum.add(encoder.slots.padded(sequence), coefficient(number, sequence)));
        }));
        println!("{}, {count}: {repair}, {}", kernel.name, keep + repair / 10);
    }
}
