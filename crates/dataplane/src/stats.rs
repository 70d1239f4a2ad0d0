use crate::{
    Health, Offload, PeerId, PublicKey,
    parcel::{Carry, Reader, Writer},
};
use std::{collections::VecDeque, net::SocketAddr, time::Duration};

/// State and counters of one tunnel at one instant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TunnelStats {
    /// One entry per peer, ordered by number.
    pub peers: Vec<PeerStats>,
    /// Reasons for which packets were dropped, by [`DropReason::name`]; only those that happened.
    pub drops: Vec<(&'static str, u64)>,
    /// Whether the TUN device is held; false once it broke.
    pub tun_attached: bool,
    /// Whether the UDP socket is held; false once it broke, true again after `replace_udp`.
    pub udp_attached: bool,
    /// The last trouble with a descriptor, in words; stays after the trouble has passed.
    pub last_error: Option<String>,
    /// The MTU that the interface should have, bytes.
    pub mtu_bytes: Option<u16>,
    /// What is left to the kernel.
    pub offload: Offload,
}

/// State and counters of one peer. Bytes and packets are inner ones: what enters and leaves the TUN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStats {
    /// The peer's number.
    pub id: PeerId,
    /// Its outer address and port, as far as they are known.
    pub endpoint: Option<SocketAddr>,
    /// Its public key, if the tunnel is sealed.
    pub public_key: Option<PublicKey>,
    /// What seals the session that is up.
    pub cipher: Option<&'static str>,
    /// Time since the last handshake succeeded.
    pub last_handshake_age: Option<Duration>,
    /// Whether packets can leave: a handshake completed, and the peer has not disowned its session since.
    pub established: bool,
    /// Handshakes completed since the peer was added.
    pub handshakes: u64,
    /// The incarnation that the peer announced.
    pub remote_epoch: Option<u64>,
    /// The inner MTU that the peer announced.
    pub remote_mtu_bytes: Option<u16>,
    /// Inner bytes received.
    pub rx_bytes: u64,
    /// Inner packets received.
    pub rx_packets: u64,
    /// Inner bytes sent.
    pub tx_bytes: u64,
    /// Inner packets sent.
    pub tx_packets: u64,
    /// Time since the peer was last heard (data, keepalive or handshake).
    pub last_rx_age: Option<Duration>,
    /// Time since something was last sent to the peer.
    pub last_tx_age: Option<Duration>,
    /// Whether packets to it go straight to its TUN.
    pub shortcut: bool,
    /// Whether it answers, how fast, and what gets lost.
    pub health: Health,
    /// What loss recovery does with it, where both ends understand repairs.
    pub recovery: Option<RecoveryStats>,
}

/// What loss recovery does with a peer, both ways. Counts are of inner packets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryStats {
    /// Packets from it that did not come by themselves, for no reason that is known.
    pub lost: u64,
    /// Those that a full queue dropped, as far as delay and ECN marks tell.
    pub lost_to_congestion: u64,
    /// Of the lost ones, those that came out of repairs.
    pub recovered: u64,
    /// Of the lost ones, those that nothing brings back any more.
    pub unrecoverable: u64,
    /// Runs of lost packets, by length: 1, 2, 3 to 4, 5 to 8, 9 to 16, 17 and more.
    pub bursts: [u64; 6],
    /// From when half of the recovered packets were missed until they were there, at most; as exact as powers of two of a millisecond.
    pub delay_median: Option<Duration>,
    /// The same for 99 of 100.
    pub delay_p99: Option<Duration>,
    /// The share of the packets to it that is lost on the way, as its reports say, in parts per million.
    pub sent_loss_ppm: u32,
    /// Repairs for each packet to it, in parts per million.
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

macro_rules! drop_reasons {
    ($($(#[doc = $text:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a packet was not passed on. One counter each, in every tunnel.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum DropReason { $($(#[doc = $text])+ $variant,)+ }

        impl DropReason {
            /// Every reason, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable name under which it is counted.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

drop_reasons! {
    /// From an address or port that is not the peer's endpoint.
    WrongSource = "wrong_source",
    /// From a peer, for a session index that is not ours.
    UnknownIndex = "unknown_index",
    /// The outer UDP checksum was zero, so nothing protects the inner one.
    ZeroChecksum = "zero_checksum",
    /// Shorter than the header, or than the body that its type announces.
    Runt = "runt",
    /// A version of the format that is not spoken here.
    UnknownVersion = "unknown_version",
    /// A type of datagram or handshake that is not known here.
    UnknownType = "unknown_type",
    /// A HELLO whose cookie was not made here, or too long ago; it was answered by a COOKIE.
    BadCookie = "bad_cookie",
    /// A HELLO of an earlier incarnation while the present one is alive.
    StaleEpoch = "stale_epoch",
    /// A HELLO that was accepted before.
    ReplayedHello = "replayed_hello",
    /// A COOKIE, WELCOME or UNKNOWN that answers nothing that was sent.
    UnexpectedAnswer = "unexpected_answer",
    /// An inner source address that does not belong to the peer it came from.
    SourceNotAllowed = "source_not_allowed",
    /// An inner destination address that belongs to no peer.
    NoPeer = "no_peer",
    /// Waited for a session when the peer was removed or changed.
    NoSession = "no_session",
    /// Pushed out of the queue that waits for a session.
    QueueFull = "queue_full",
    /// An inner packet that is not IPv4 or IPv6, or whose length fields lie.
    MalformedInner = "malformed_inner",
    /// A packet that stands for several, and cannot be cut as it says.
    BadSegmentation = "bad_segmentation",
    /// An inner checksum that was left to be completed and cannot be.
    BadChecksumOffload = "bad_checksum_offload",
    /// An inner packet above the tunnel's MTU, or an outer one above the path's.
    TooBig = "too_big",
    /// The socket refused the datagram, or there is none.
    SendFailed = "send_failed",
    /// The socket reported an error instead of a datagram.
    ReceiveFailed = "receive_failed",
    /// The TUN device refused the packet.
    TunWriteFailed = "tun_write_failed",
    /// A packet that does not open: damaged, forged, or sealed by another key.
    BadTag = "bad_tag",
    /// A sealed packet that was there before, or is too old to tell.
    Replayed = "replayed",
    /// A handshake that was not made for our public key.
    BadMac = "bad_mac",
    /// A handshake by a key that no peer has.
    UnknownKey = "unknown_key",
    /// A handshake that does not open, or says nothing that is understood.
    BadHandshake = "bad_handshake",
    /// Sealed by a key of which the time is over.
    TooOldKey = "too_old_key",
    /// Came after it was recovered from repairs.
    Recovered = "recovered",
    /// A repair that covers nothing, or is shorter than what it covers.
    BadRepair = "bad_repair",
    /// Marked by the path, although the mark would tell nobody: its flow does not understand it (RFC 6040 section 4.2).
    CongestionMarked = "congestion_marked",
    /// An UNKNOWN that was due, or a handshake to be worked out, but above the rate.
    RateLimited = "rate_limited",
}

/// One counter per reason.
#[derive(Debug)]
pub(crate) struct Drops([u64; DropReason::ALL.len()]);

impl Default for Drops {
    fn default() -> Self {
        Self([0; DropReason::ALL.len()])
    }
}

impl Drops {
    pub(crate) fn count(&mut self, reason: DropReason) {
        self.add(reason, 1);
    }

    pub(crate) fn add(&mut self, reason: DropReason, packets: u64) {
        if let Some(counter) = self.0.get_mut(reason as usize) {
            *counter = counter.wrapping_add(packets);
        }
    }

    pub(crate) fn of(&self, reason: DropReason) -> u64 {
        self.0.get(reason as usize).copied().unwrap_or_default()
    }

    pub(crate) fn non_zero(&self) -> Vec<(&'static str, u64)> {
        DropReason::ALL
            .iter()
            .zip(self.0)
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| (reason.name(), count))
            .collect()
    }
}

/// By name, for another release may have other reasons.
impl Carry for Drops {
    fn encode(&self, to: &mut Writer) {
        let counts: VecDeque<(Box<[u8]>, u64)> =
            self.non_zero().into_iter().map(|(name, count)| (name.as_bytes().into(), count)).collect();
        counts.encode(to);
    }

    fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let mut drops = Self::default();
        for (name, count) in VecDeque::<(Box<[u8]>, u64)>::decode(from)? {
            if let Some(reason) = DropReason::ALL.iter().find(|reason| *reason.name().as_bytes() == *name) {
                drops.add(*reason, count);
            }
        }
        Some(drops)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_snake_case() {
        let names: HashSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
        assert!(names.iter().all(|name| name.bytes().all(|b| b == b'_' || b.is_ascii_lowercase())));
    }

    #[test]
    fn only_what_happened_is_listed() {
        let mut drops = Drops::default();
        drops.count(DropReason::Runt);
        drops.add(DropReason::RateLimited, 3);
        drops.add(DropReason::NoPeer, 0);
        assert_eq!(drops.non_zero(), [("runt", 1), ("rate_limited", 3)]);
    }
}
