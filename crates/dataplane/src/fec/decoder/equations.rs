//! What repairs say of missing packets, as linear equations in reduced row echelon form: the lead of each, the oldest packet in it, is in
//! no other one. An equation in which nothing but its lead is left is that packet.

use crate::fec::{
    gf::{self, Sum, Term},
    slots::padded,
};

/// The most missing packets that are in the equations. As many equations would be all of them solved, so that there are fewer.
pub(super) const COLUMNS: usize = 128;

#[derive(Debug)]
pub(super) struct Equations {
    /// Whose coefficients are in each column, if that is in use.
    columns: [u32; COLUMNS],
    rows: Vec<Row>,
    /// Near all of the packets, so that which is older can be told across the wrap.
    near: u32,
    /// Room for sums.
    spare: Vec<Box<[u8]>>,
    room_bytes: usize,
}

/// The sum of coefficients and missing packets is `sum`.
#[derive(Debug)]
struct Row {
    coefficients: [u8; COLUMNS],
    /// In which columns they are not 0.
    present: u128,
    /// The column of the oldest packet; its coefficient is 1.
    lead: usize,
    /// Zeros are behind `length_bytes`.
    sum: Box<[u8]>,
    length_bytes: usize,
}

/// A packet, with zeros behind it.
pub(super) struct Solved {
    pub(super) sequence: u32,
    pub(super) length_bytes: usize,
    room: Box<[u8]>,
}

impl Solved {
    pub(super) fn symbol(&self) -> &[u8] {
        self.room.get(..self.length_bytes).unwrap_or_default()
    }
}

impl Equations {
    pub(super) const fn new(longest_bytes: u16) -> Self {
        Self {
            columns: [0; COLUMNS],
            rows: Vec::new(),
            near: 0,
            spare: Vec::new(),
            room_bytes: padded(longest_bytes as usize),
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How many more equations all would need to be solved, and the oldest packet in them.
    pub(super) fn deficit(&self) -> Option<(u16, u32)> {
        let oldest = self.rows.get(self.oldest()?)?;
        let unknown = self.used().count_ones() as usize;
        Some((unknown.saturating_sub(self.rows.len()) as u16, self.sequence(oldest.lead)))
    }

    /// The sum of `unknown`, which are at most [`COLUMNS`] missing packets and their coefficients, is that of `known`, none of which is
    /// longer than `length_bytes`. When there is no room, the oldest equations are given up. False: that was known already.
    pub(super) fn insert<'a>(
        &mut self,
        unknown: impl Iterator<Item = (u32, u8)> + Clone,
        known: impl Iterator<Item = Term<'a>>,
        length_bytes: usize,
    ) -> bool {
        self.make_room(unknown.clone());
        let mut coefficients = self.arrange(unknown);
        // No lead is in another row, so that each row's share does not depend on the others'.
        let mut shares = [0; COLUMNS];
        for (row, share) in self.rows.iter().zip(&mut shares) {
            *share = at(&coefficients, row.lead);
            if *share != 0 {
                gf::add_scaled(&mut coefficients, &row.coefficients, *share);
            }
        }
        let present = present(&coefficients);
        let Some(lead) = self.oldest_of(present) else { return false };
        let scale = gf::inverse(at(&coefficients, lead));
        gf::scale(&mut coefficients, scale);

        let mut sum = self.room();
        let used = || self.rows.iter().zip(shares).filter(|(_, share)| *share != 0);
        let length_bytes = used().map(|(row, _)| row.length_bytes).fold(length_bytes, usize::max);
        let mut adding = Sum::new(sum.get_mut(..padded(length_bytes)).unwrap_or_default());
        known.for_each(|(bytes, coefficient)| adding.add(bytes, gf::product(coefficient, scale)));
        used().for_each(|(row, share)| adding.add(row.padded(), gf::product(share, scale)));
        drop(adding);
        self.push(Row { coefficients, present, lead, sum, length_bytes });
        true
    }

    /// A packet came that may be in equations; the bytes are padded.
    pub(super) fn learn(&mut self, sequence: u32, packet: &[u8], length_bytes: usize) {
        let Some(column) = self.column(sequence, self.used()) else { return };
        let mut headless = None;
        for (place, row) in self.rows.iter_mut().enumerate() {
            let coefficient = at(&row.coefficients, column);
            if coefficient == 0 {
                continue;
            }
            gf::add_scaled(&mut row.sum, packet, coefficient);
            row.length_bytes = row.length_bytes.max(length_bytes);
            if let Some(coefficient) = row.coefficients.get_mut(column) {
                *coefficient = 0;
            }
            row.present = present(&row.coefficients);
            if row.lead == column {
                headless = Some(place);
            }
        }
        let Some(mut row) = headless.map(|place| self.rows.swap_remove(place)) else { return };
        match self.oldest_of(row.present) {
            Some(lead) => {
                row.lead = lead;
                let scale = gf::inverse(at(&row.coefficients, lead));
                gf::scale(&mut row.coefficients, scale);
                gf::scale(row.sum.get_mut(..row.length_bytes).unwrap_or_default(), scale);
                self.push(row);
            }
            None => self.spare.push(row.sum),
        }
    }

    /// Takes an equation out that is solved, the one of the oldest packet first.
    pub(super) fn solved(&mut self) -> Option<Solved> {
        let solved = self.rows.iter().enumerate().filter(|(_, row)| row.present.is_power_of_two());
        let (place, _) = solved.min_by_key(|(_, row)| self.order(row.lead))?;
        let Row { lead, sum, length_bytes, .. } = self.rows.swap_remove(place);
        Some(Solved { sequence: self.sequence(lead), length_bytes, room: sum })
    }

    /// Takes the room of what was solved back.
    pub(super) fn recycle(&mut self, solved: Solved) {
        self.spare.push(solved.room);
    }

    /// Gives up all.
    pub(super) fn clear(&mut self) {
        while !self.rows.is_empty() {
            self.give_up(0);
        }
    }

    /// Gives up the equations about packets before this one.
    pub(super) fn expire(&mut self, first: u32) {
        while let Some(place) = self.oldest() {
            let lead = self.rows.get(place).map_or(first, |row| self.sequence(row.lead));
            if lead.wrapping_sub(first).cast_signed() >= 0 {
                break;
            }
            self.give_up(place);
        }
    }

    /// How many equations there are, and how many sums there is room for besides.
    #[cfg(test)]
    pub(super) fn size(&self) -> (usize, usize) {
        (self.rows.len(), self.spare.len())
    }

    /// All equations: the missing packets with their coefficients, and the sum.
    pub(super) fn iter(&self) -> impl Iterator<Item = (impl Iterator<Item = (u32, u8)>, &[u8])> {
        self.rows.iter().map(|row| {
            let terms = self.columns.into_iter().zip(row.coefficients).filter(|(_, coefficient)| *coefficient != 0);
            (terms, row.sum.get(..row.length_bytes).unwrap_or_default())
        })
    }

    /// Adds a row whose lead no row has, and takes that lead out of the others.
    fn push(&mut self, new: Row) {
        for row in &mut self.rows {
            let share = at(&row.coefficients, new.lead);
            if share != 0 {
                gf::add_scaled(&mut row.coefficients, &new.coefficients, share);
                gf::add_scaled(&mut row.sum, new.padded(), share);
                row.length_bytes = row.length_bytes.max(new.length_bytes);
                row.present = present(&row.coefficients);
            }
        }
        self.rows.push(new);
    }

    /// Gives up the oldest equations until there are columns for all of these.
    fn make_room(&mut self, unknown: impl Iterator<Item = (u32, u8)> + Clone) {
        loop {
            let used = self.used();
            let fresh = unknown.clone().filter(|(sequence, _)| self.column(*sequence, used).is_none()).count();
            if fresh <= used.count_zeros() as usize || self.rows.is_empty() {
                return;
            }
            if let Some(place) = self.oldest() {
                self.give_up(place);
            }
        }
    }

    /// The coefficients in their columns.
    fn arrange(&mut self, unknown: impl Iterator<Item = (u32, u8)>) -> [u8; COLUMNS] {
        let (mut coefficients, mut used) = ([0; COLUMNS], self.used());
        for (sequence, coefficient) in unknown {
            self.near = sequence;
            let column = self.column(sequence, used).unwrap_or_else(|| used.trailing_ones() as usize);
            if let (Some(name), Some(place)) = (self.columns.get_mut(column), coefficients.get_mut(column)) {
                (*name, *place) = (sequence, coefficient);
                used |= 1 << column;
            }
        }
        coefficients
    }

    fn give_up(&mut self, place: usize) {
        if place < self.rows.len() {
            let row = self.rows.swap_remove(place);
            self.spare.push(row.sum);
        }
    }

    /// Which row has the oldest lead.
    fn oldest(&self) -> Option<usize> {
        let rows = self.rows.iter().enumerate();
        rows.min_by_key(|(_, row)| self.order(row.lead)).map(|(place, _)| place)
    }

    /// Which of the columns is the oldest packet's.
    fn oldest_of(&self, present: u128) -> Option<usize> {
        columns(present).min_by_key(|column| self.order(*column))
    }

    /// Which columns are in use.
    fn used(&self) -> u128 {
        self.rows.iter().fold(0, |used, row| used | row.present)
    }

    fn column(&self, sequence: u32, used: u128) -> Option<usize> {
        columns(used).find(|column| self.sequence(*column) == sequence)
    }

    fn sequence(&self, column: usize) -> u32 {
        self.columns.get(column).copied().unwrap_or_default()
    }

    fn order(&self, column: usize) -> i32 {
        self.sequence(column).wrapping_sub(self.near).cast_signed()
    }

    fn room(&mut self) -> Box<[u8]> {
        match self.spare.pop() {
            Some(mut room) => {
                room.fill(0);
                room
            }
            None => vec![0; self.room_bytes].into(),
        }
    }
}

impl Row {
    fn padded(&self) -> &[u8] {
        self.sum.get(..padded(self.length_bytes)).unwrap_or_default()
    }
}

fn at(coefficients: &[u8; COLUMNS], column: usize) -> u8 {
    coefficients.get(column).copied().unwrap_or_default()
}

/// In which columns the coefficients are not 0.
fn present(coefficients: &[u8; COLUMNS]) -> u128 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let (eights, _) = coefficients.as_chunks();
    eights.iter().rev().fold(0, |present, eight| {
        let eight = u64::from_le_bytes(*eight);
        // The highest bit of each byte says whether any of its bits is set. A product brings these together.
        let any = ((eight & LOW).wrapping_add(LOW) | eight) & !LOW;
        present << 8 | u128::from((any >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56)
    })
}

fn columns(present: u128) -> impl Iterator<Item = usize> {
    let mut left = present;
    std::iter::from_fn(move || {
        let column = left.trailing_zeros() as usize;
        left &= left.wrapping_sub(1);
        (column < COLUMNS).then_some(column)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_columns_that_are_present_are_those_whose_coefficient_is_not_zero(
            coefficients in proptest::array::uniform::<_, COLUMNS>(prop_oneof![Just(0_u8), Just(1), Just(0x80), any::<u8>()]),
        ) {
            let expected: Vec<usize> = (0..COLUMNS).filter(|column| coefficients[*column] != 0).collect();
            prop_assert_eq!(columns(present(&coefficients)).collect::<Vec<_>>(), expected);
        }
    }
}
