//! What loss recovery does with a peer, both ways.

use serde::{Deserialize, Serialize};

/// Lengths of runs of lost packets that are told apart: 1, 2, 3 to 4, 5 to 8, 9 to 16, 17 and more.
pub const BURST_LENGTHS: [&str; 6] = ["1", "2", "4", "8", "16", "+Inf"];

/// What loss recovery does with a peer, both ways, where both ends understand repairs. Counts are of inner packets, since the agent carries
/// the tunnel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// Packets from it that did not come by themselves and of which nothing says that a full queue dropped them.
    pub lost: u64,
    /// Those that were dropped by a full queue, as far as delay and ECN marks tell: they raise no redundancy.
    pub lost_to_congestion: u64,
    /// Of the lost ones, those that came out of repairs.
    pub recovered: u64,
    /// Of the lost ones, those that nothing brings back any more.
    pub unrecoverable: u64,
    /// Runs of lost packets, by [`BURST_LENGTHS`].
    pub bursts: [u64; 6],
    /// Half of the recovered packets came out of repairs no later than this after they were missed, in microseconds, as exact as powers of
    /// two of a millisecond; absent while nothing was recovered.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub delay_median_us: Option<u64>,
    /// The same for 99 of 100.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub delay_p99_us: Option<u64>,
    /// The share of the packets to it that is lost on the way, as its reports say, in parts per million.
    pub sent_loss_ppm: u32,
    /// Repairs for each packet to it, in parts per million; 0: nothing is protected, for nothing gets lost.
    pub redundancy_ppm: u32,
    /// How many packets each repair covers.
    pub window: u16,
    /// Repairs sent to it.
    pub repairs_sent: u64,
    /// Their bytes.
    pub repair_bytes: u64,
    /// Repairs' share of the bytes sent to it lately, in parts per million.
    pub overhead_ppm: u32,
}
