#![no_main]

use adit_dataplane::fuzz::Recovery;
use libfuzzer_sys::fuzz_target;
use std::collections::HashSet;

const LONGEST_BYTES: u16 = 120;
/// As far back is told whether a packet was delivered.
const REMEMBERED: usize = 2048;

/// A packet's bytes follow from its number.
fn packet(sequence: u32) -> Vec<u8> {
    let length = 20 + sequence % u32::from(LONGEST_BYTES - 19);
    let mut packet: Vec<u8> =
        (0..length).map(|place| (sequence.wrapping_mul(0x9e37_79b1).wrapping_add(place) >> 3) as u8).collect();
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
    packet
}

// First byte: whether the peer means no good. Four: the first sequence number. Then calls: which one, and its parameters.
fuzz_target!(|input: &[u8]| {
    let Some((&[first, s0, s1, s2, s3], mut rest)) = input.split_first_chunk() else { return };
    let is_hostile = first & 1 != 0;
    let begin = u32::from_be_bytes([s0, s1, s2, s3]);
    let mut both = Recovery::new(begin, LONGEST_BYTES);
    let mut protected = HashSet::new();
    let mut delivered = vec![None; REMEMBERED];
    let mut deliver = |sequence: u32, bytes: &[u8]| {
        if !is_hostile {
            assert_eq!(bytes, packet(sequence), "{sequence}");
            let last = delivered[sequence as usize % REMEMBERED].replace(sequence);
            assert_ne!(last, Some(sequence), "twice");
        }
    };
    while let [call, parameter, behind @ ..] = rest {
        rest = behind;
        let number = u32::from(*parameter);
        match call % 10 {
            // Come, or do not.
            0..=2 => {
                let sequence = both.next();
                let bytes = packet(sequence);
                both.send(Some(&bytes));
                protected.insert(sequence);
                if call % 10 != 2 && both.arrive(sequence, &bytes) {
                    deliver(sequence, &bytes);
                }
            }
            // So many at once, of which every so many is lost.
            3 => {
                for place in 0..number {
                    let sequence = both.next();
                    let bytes = packet(sequence);
                    both.send(Some(&bytes));
                    protected.insert(sequence);
                    let is_lost = place % (u32::from(*call) / 10 + 1) == 0;
                    if !is_lost && both.arrive(sequence, &bytes) {
                        deliver(sequence, &bytes);
                    }
                }
            }
            // Late, or again.
            4 => {
                let sequence = both.next().wrapping_sub(number + 1);
                let bytes = packet(sequence);
                if protected.contains(&sequence) && both.arrive(sequence, &bytes) {
                    deliver(sequence, &bytes);
                }
            }
            // Not protected.
            5 => (0..=number % 4).for_each(|_| both.send(None)),
            6 => both.repair((number * 3) as u16),
            7 => both.react(),
            8 if is_hostile => {
                let [n0, n1, c0, c1, length, behind @ ..] = rest else { return };
                let (payload, behind) = behind.split_at(behind.len().min((*length).into()));
                let last = both.next().wrapping_add_signed(i16::from_be_bytes([*n0, *n1]).into());
                both.arrive_repair(last, u16::from_be_bytes([*c0, *c1]), number, payload);
                rest = behind;
            }
            9 if is_hostile && number > 250 => {
                both.take(rest);
            }
            _ => both.hand_over(),
        }
        both.recovered(&mut deliver);
    }
});
