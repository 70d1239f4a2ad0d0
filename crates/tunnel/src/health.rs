//! How a peer is, as its answers to probes and the numbers of its packets tell.

use serde::{Deserialize, Serialize};

/// A peer's state in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// Packets pass both ways.
    Up,
    /// Packets pass, but worse than they should.
    Degraded,
    /// It has never answered.
    Waiting,
    /// It has answered before, and does not any more.
    Down,
}

impl HealthState {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Degraded => "degraded",
            Self::Waiting => "waiting",
            Self::Down => "down",
        }
    }
}

/// How a peer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// In one word.
    pub state: HealthState,
    /// Why it is not `up`, in words; empty when it is.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub reason: String,
    /// Milliseconds since the state became what it is.
    pub since_ms: u64,
    /// Round trips; absent while no probe was answered.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rtt: Option<RoundTrip>,
    /// Probes sent to it.
    pub probes_sent: u64,
    /// Probes that it answered.
    pub probes_answered: u64,
    /// What came of all that it sent.
    pub received: Delivery,
    /// What came of all that was sent to it, as it counts; absent while it has not told.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sent: Option<Delivery>,
    /// The largest outer packet that is known to pass to it, in bytes with all headers; absent while nothing was tried.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub path_mtu_bytes: Option<u16>,
}

/// Round-trip times of the answered probes of the last minutes, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoundTrip {
    /// The last.
    pub last_us: u64,
    /// The smallest.
    pub min_us: u64,
    /// Their mean.
    pub average_us: u64,
    /// What 99 of 100 stay below.
    pub p99_us: u64,
    /// The mean difference of one to the next (RFC 3550, section 6.4.1).
    pub jitter_us: u64,
}

/// What came of the datagrams of one direction, since the agent carries the tunnel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
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
