//! What a decoder could solve: equations over the missing packets only, without the packets.

use super::channel::Random;
use std::collections::VecDeque;

/// As many missing packets and as far back as the decoder goes.
const SLOTS: usize = 128;
const REACH: u64 = 1024;
const POLYNOMIAL: u16 = 0x11d;

struct Row {
    pivot: usize,
    factors: [u8; SLOTS],
}

/// Equations in reduced row echelon form.
pub(super) struct Rank {
    product: Vec<[u8; 256]>,
    inverse: [u8; 256],
    /// Number and slot of each missing packet, by number.
    missing: VecDeque<(u64, usize)>,
    free: Vec<usize>,
    rows: Vec<Row>,
    random: Random,
    /// Missing ones that fell out.
    pub(super) given_up: u64,
}

impl Rank {
    pub(super) fn new(seed: u64) -> Self {
        let product = |a: u8, b: u8| {
            (0..8).rev().fold(0_u16, |sum, bit| {
                let doubled = sum << 1 ^ if sum & 0x80 != 0 { POLYNOMIAL } else { 0 };
                doubled ^ if b >> bit & 1 != 0 { a.into() } else { 0 }
            }) as u8
        };
        let product: Vec<[u8; 256]> = (0..=255).map(|a| std::array::from_fn(|b| product(a, b as u8))).collect();
        let inverse = std::array::from_fn(|a| product[a].iter().position(|b| *b == 1).unwrap_or(0) as u8);
        Self {
            product,
            inverse,
            missing: VecDeque::new(),
            free: (0..SLOTS).collect(),
            rows: Vec::new(),
            random: Random(seed),
            given_up: 0,
        }
    }

    /// The packet with this number, higher than all before, is missing.
    pub(super) fn lost(&mut self, number: u64) {
        while self.free.is_empty() || self.missing.front().is_some_and(|(first, _)| first + REACH < number) {
            let Some((_, slot)) = self.missing.pop_front() else { break };
            self.rows.retain(|row| row.factors[slot] == 0);
            self.free.push(slot);
            self.given_up += 1;
        }
        if let Some(slot) = self.free.pop() {
            self.missing.push_back((number, slot));
        }
    }

    /// How many repairs more would solve everything that any row mentions, and the lowest number of those.
    pub(super) fn deficit(&self) -> Option<(u16, u64)> {
        let is_mentioned = |slot: usize| self.rows.iter().any(|row| row.factors[slot] != 0);
        let mentioned: Vec<u64> =
            self.missing.iter().filter(|(_, slot)| is_mentioned(*slot)).map(|(number, _)| *number).collect();
        let deficit = mentioned.len() - self.rows.len();
        (deficit > 0).then(|| (deficit as u16, mentioned[0]))
    }

    /// A repair came over the packets from `first` to `last`: which ones it brings back.
    pub(super) fn repair(&mut self, first: u64, last: u64) -> Vec<u64> {
        let mut factors = [0; SLOTS];
        let mut is_needed = false;
        for (_, slot) in self.missing.iter().filter(|(number, _)| (first..=last).contains(number)) {
            factors[*slot] = (self.random.next() % 255) as u8 + 1;
            is_needed = true;
        }
        if !is_needed {
            return Vec::new();
        }
        for row in &self.rows {
            let by = &self.product[usize::from(factors[row.pivot])];
            add_scaled(&mut factors, &row.factors, by);
        }
        let Some((_, pivot)) = self.missing.iter().copied().find(|(_, slot)| factors[*slot] != 0) else {
            return Vec::new();
        };
        let by = self.product[usize::from(self.inverse[usize::from(factors[pivot])])];
        factors.iter_mut().for_each(|factor| *factor = by[usize::from(*factor)]);
        for row in &mut self.rows {
            let by = &self.product[usize::from(row.factors[pivot])];
            add_scaled(&mut row.factors, &factors, by);
        }
        self.rows.push(Row { pivot, factors });
        let mut solved = Vec::new();
        let (missing, free) = (&mut self.missing, &mut self.free);
        self.rows.retain(|row| {
            let is_solved = row.factors.iter().filter(|factor| **factor != 0).count() == 1;
            if is_solved {
                if let Some(place) = missing.iter().position(|(_, slot)| *slot == row.pivot) {
                    solved.extend(missing.remove(place).map(|(number, _)| number));
                }
                free.push(row.pivot);
            }
            !is_solved
        });
        solved
    }
}

fn add_scaled(to: &mut [u8; SLOTS], from: &[u8; SLOTS], product: &[u8; 256]) {
    if product[1] != 0 {
        to.iter_mut().zip(from).for_each(|(to, from)| *to ^= product[usize::from(*from)]);
    }
}

#[test]
fn as_many_repairs_as_packets_are_missing_bring_them_back() {
    let mut rank = Rank::new(1);
    [3, 5, 9].into_iter().for_each(|number| rank.lost(number));
    assert_eq!(rank.repair(0, 2), []);
    assert_eq!(rank.repair(0, 8), []);
    assert_eq!(rank.deficit(), Some((1, 3)));
    assert_eq!(rank.repair(0, 8), [3, 5]);
    assert_eq!((rank.deficit(), rank.repair(6, 20), rank.given_up), (None, vec![9], 0));
    rank.lost(10);
    rank.lost(3000);
    assert_eq!((rank.given_up, rank.missing.len()), (1, 1));
}
