//! What is told of a peer's health.

use crate::parcel::{Carry, Reader, Writer};
use std::time::Duration;

/// A peer's state in one word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HealthState {
    /// Packets pass both ways.
    Up,
    /// Packets pass, but worse than they should.
    Degraded,
    /// It has never answered.
    #[default]
    Waiting,
    /// It has answered before, and does not any more.
    Down,
}

impl Carry for HealthState {
    fn encode(&self, to: &mut Writer) {
        (*self as u8).encode(to);
    }

    fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let number = u8::decode(from)?;
        [Self::Up, Self::Degraded, Self::Waiting, Self::Down].into_iter().find(|state| *state as u8 == number)
    }
}

/// How a peer is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// In one word.
    pub state: HealthState,
    /// Why it is not up, in words; empty when it is.
    pub reason: String,
    /// How long the state has been what it is.
    pub since: Duration,
    /// Round trips; `None` while no request was answered.
    pub rtt: Option<RoundTrip>,
    /// Requests sent to it.
    pub probes_sent: u64,
    /// Requests that it answered.
    pub probes_answered: u64,
    /// What came of all that it sent.
    pub received: Delivery,
    /// What came of all that was sent to it, as it counts; `None` while it has not told.
    pub sent: Option<Delivery>,
    /// The largest outer packet that is known to pass to it, in bytes with all headers.
    pub path_mtu_bytes: Option<u16>,
    /// Intervals from which nothing was concluded, because this end itself was late.
    pub late_intervals: u64,
}

/// Times of the last round trips.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundTrip {
    /// The last.
    pub last: Duration,
    /// The smallest.
    pub min: Duration,
    /// Their mean.
    pub average: Duration,
    /// What 99 of 100 are not above.
    pub p99: Duration,
    /// The mean difference of one to the next (RFC 3550, section 6.4.1).
    pub jitter: Duration,
}

/// What came of the datagrams of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Arrived, each counted once.
    pub packets: u64,
    /// Did not arrive.
    pub lost: u64,
    /// Arrived after one that was sent later.
    pub reordered: u64,
    /// Arrived again.
    pub duplicated: u64,
    /// Lost of the last seconds' datagrams, in parts per million.
    pub recent_loss_ppm: u32,
}
