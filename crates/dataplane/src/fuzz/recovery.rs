//! Both ends of loss recovery, with nothing between them.

use crate::{
    fec::{Window, decoder::Decoder, encoder::Encoder},
    parcel::{Carry, Reader, Writer},
};

/// A sender's window, and a receiver.
#[derive(Debug)]
pub struct Recovery {
    encoder: Encoder,
    decoder: Decoder,
    next: u32,
    repairs: u32,
}

impl Recovery {
    /// The first packet will have the sequence number `first`, and none will be longer than this.
    #[must_use]
    pub fn new(first: u32, longest_bytes: u16) -> Self {
        let (encoder, decoder) = (Encoder::new(longest_bytes), Decoder::new(longest_bytes));
        Self { encoder, decoder, next: first, repairs: 0 }
    }

    /// The number of the packet that is sent next.
    #[must_use]
    pub const fn next(&self) -> u32 {
        self.next
    }

    /// Sends a packet, protected if there is one.
    pub fn send(&mut self, packet: Option<&[u8]>) {
        if let Some(packet) = packet {
            self.encoder.keep(self.next, packet, &[]);
        }
        self.next = self.next.wrapping_add(1);
    }

    /// A packet comes. False: it is not to be delivered.
    pub fn arrive(&mut self, sequence: u32, packet: &[u8]) -> bool {
        self.decoder.source(sequence, packet)
    }

    /// Sends a repair over the last so many packets, which comes.
    pub fn repair(&mut self, wanted: u16) {
        let window = self.encoder.window(wanted);
        self.send_repair(window);
    }

    /// Sends the repair that the receiver could use, which comes.
    pub fn react(&mut self) {
        let window = self.decoder.deficit().and_then(|(_, oldest)| self.encoder.window_from(oldest));
        self.send_repair(window);
    }

    fn send_repair(&mut self, window: Option<Window>) {
        let Some(window) = window else { return };
        let mut repair = vec![0; self.encoder.longest_bytes(window)];
        self.repairs = self.repairs.wrapping_add(1);
        self.encoder.combine(window, self.repairs, &mut repair);
        self.decoder.repair(window, self.repairs, &repair);
    }

    /// A repair comes that no encoder made.
    pub fn arrive_repair(&mut self, last: u32, count: u16, number: u32, payload: &[u8]) {
        self.decoder.repair(Window { last, count }, number, payload);
    }

    /// Gives what was recovered.
    pub fn recovered(&mut self, mut each: impl FnMut(u32, &[u8])) {
        while let Some((sequence, packet)) = self.decoder.recovered() {
            each(sequence, packet);
        }
    }

    /// Both ends go on in another process.
    pub fn hand_over(&mut self) {
        let mut writer = Writer::new();
        self.encoder.encode(&mut writer);
        self.decoder.encode(&mut writer);
        let state = writer.finish();
        assert!(self.take(&state), "what was written is read");
    }

    /// Both ends go on with this state. False: it is none.
    pub fn take(&mut self, state: &[u8]) -> bool {
        let mut reader = Reader::new(state);
        let both = Encoder::decode(&mut reader).and_then(|encoder| Some((encoder, Decoder::decode(&mut reader)?)));
        let Some((encoder, decoder)) = both.filter(|_| reader.is_at_end()) else { return false };
        (self.encoder, self.decoder) = (encoder, decoder);
        true
    }
}
