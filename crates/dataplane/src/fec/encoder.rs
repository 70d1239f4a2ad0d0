//! The sender's half: it keeps the last packets and makes repairs of them.

use super::{LONGEST_WINDOW, Window, coefficient::coefficient, gf::Sum, slots::Slots};
use crate::parcel::{Carry, Reader, Writer};

/// The last packets, at most [`LONGEST_WINDOW`], whose sequence numbers follow each other. Memory for all of them is taken with the first
/// one.
#[derive(Debug)]
pub(crate) struct Encoder {
    slots: Slots<{ LONGEST_WINDOW as usize }>,
    newest: u32,
    kept: u16,
}

impl Encoder {
    /// Keeps no packet that is longer than this.
    pub(crate) fn new(longest_bytes: u16) -> Self {
        Self { slots: Slots::new(longest_bytes), newest: 0, kept: 0 }
    }

    /// Keeps a packet, given in two pieces. One whose number does not follow the last one's begins anew, and before one that is too long
    /// all ends: a window covers only what was kept.
    pub(crate) fn keep(&mut self, sequence: u32, head: &[u8], payload: &[u8]) {
        if !self.slots.put(sequence, head, payload) {
            self.kept = 0;
            return;
        }
        let follows = sequence == self.newest.wrapping_add(1);
        self.kept = if follows { self.kept.saturating_add(1).min(LONGEST_WINDOW) } else { 1 };
        self.newest = sequence;
    }

    /// The window over the last so many packets, or fewer. `None`: nothing is kept, or none is wanted.
    pub(crate) fn window(&self, wanted: u16) -> Option<Window> {
        let count = wanted.min(self.kept);
        (count > 0).then_some(Window { last: self.newest, count })
    }

    /// The window from this packet to the newest, as far as they are kept. `None`: nothing is kept, or this one is not sent yet.
    pub(crate) fn window_from(&self, first: u32) -> Option<Window> {
        let behind = self.newest.wrapping_sub(first).cast_signed();
        let wanted = u32::try_from(behind).ok()?.saturating_add(1);
        self.window(u16::try_from(wanted).unwrap_or(u16::MAX))
    }

    /// The length of the longest packet in the window, which is that of its repair.
    pub(crate) fn longest_bytes(&self, window: Window) -> usize {
        sequences(window).map(|sequence| self.slots.length(sequence)).max().unwrap_or_default().into()
    }

    /// Writes the repair with this number. `to` is as long as [`longest_bytes`](Self::longest_bytes) says, and the window is one that
    /// this has given since it last kept a packet.
    pub(crate) fn combine(&self, window: Window, number: u32, to: &mut [u8]) {
        to.fill(0);
        let mut sum = Sum::new(to);
        for sequence in sequences(window) {
            sum.add(self.slots.padded(sequence), coefficient(number, sequence));
        }
    }

    /// How many packets are kept.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        self.kept.into()
    }

    /// Keeps nothing any more and gives the memory back.
    pub(crate) fn forget(&mut self) {
        self.slots.forget();
        self.kept = 0;
    }
}

/// The numbers that a window covers.
pub(super) fn sequences(window: Window) -> impl Iterator<Item = u32> {
    (0..window.count.into()).map(move |place: u32| window.first().wrapping_add(place))
}

impl Carry for Encoder {
    fn encode(&self, to: &mut Writer) {
        (self.slots.longest_bytes(), self.newest).encode(to);
        self.kept.encode(to);
        for sequence in self.window(self.kept).into_iter().flat_map(sequences) {
            let packet = self.slots.packet(sequence);
            self.slots.length(sequence).encode(to);
            to.bytes(packet);
        }
    }

    fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let (longest_bytes, newest) = Carry::decode(from)?;
        let kept = u16::decode(from).filter(|kept| *kept <= LONGEST_WINDOW)?;
        let mut encoder = Self::new(longest_bytes);
        for sequence in sequences(Window { last: newest, count: kept }) {
            let length = u16::decode(from).filter(|length| *length <= longest_bytes)?;
            encoder.keep(sequence, from.bytes(length.into())?, &[]);
        }
        encoder.newest = newest;
        Some(encoder)
    }
}

#[cfg(test)]
mod tests;
