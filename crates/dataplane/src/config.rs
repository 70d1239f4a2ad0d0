//! What a tunnel is told to be.

use crate::{PeerId, parcel::carry, sealed, wire::Seal};
use ipnetwork::IpNetwork;
use std::{fmt, net::SocketAddr, time::Duration};
use zeroize::Zeroizing;

/// Every IPv4 host takes packets of this size (RFC 791, section 3.1).
const FLOOR_BYTES: u16 = 576;

/// The bytes of an X25519 private key (RFC 7748) or of a preshared key; wiped from memory when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    /// Takes the bytes over. Wiping the place that they came from is the caller's business.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The public key of this private key.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        sealed::public_key(self).unwrap_or_default()
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<Zeroizing<[u8; 32]>> for Secret {
    fn from(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Bytes of an X25519 public key.
pub type PublicKey = [u8; 32];

/// Who this end of a sealed tunnel is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The private key of new sessions.
    pub private: Secret,
    /// Another one that peers may still, or already, address.
    pub also: Option<Secret>,
}

/// What datagrams are protected by, and whose format they have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Security {
    /// Adit's format, in the clear: the network is trusted.
    Plain,
    /// Adit's format, sealed.
    Noise(Identity),
    /// WireGuard's format and protocol.
    WireGuard(Identity),
}

impl Security {
    /// Whether datagrams end in a tag.
    #[must_use]
    pub const fn seal(&self) -> Seal {
        match self {
            Self::Plain => Seal::Plain,
            Self::Noise(_) | Self::WireGuard(_) => Seal::Sealed,
        }
    }
}

/// How a peer of a sealed tunnel is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerKeys {
    /// Its public key.
    pub public: PublicKey,
    /// Another one that is accepted from it as well, while it changes from one to the other.
    pub also: Option<PublicKey>,
    /// A secret that both ends were given beforehand.
    pub preshared: Option<Secret>,
}

/// The other end of a tunnel, or one of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its number within the tunnel.
    pub id: PeerId,
    /// Its outer address and port. Plain: required, and datagrams from anywhere else are dropped. Sealed: where to begin; whatever
    /// authenticated datagrams come from wins, until nobody answers there. Without one the peer has to begin.
    pub endpoint: Option<SocketAddr>,
    /// Where a sealed peer was last heard from, if that is known from before.
    pub heard_from: Option<SocketAddr>,
    /// Inner destinations that lead to it, and the only inner sources it may use. Longest prefix wins.
    pub allowed_ips: Vec<IpNetwork>,
    /// Send a header-only datagram whenever nothing else was sent for this long.
    pub keepalive: Option<Duration>,
    /// Its keys, if the tunnel is sealed.
    pub keys: Option<PeerKeys>,
}

/// How peers are asked for signs of life, where their format has probes and they answer them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probing {
    /// A request each so often; by default by need. Zero: never, and requests of others are answered all the same.
    pub interval: Option<Duration>,
    /// How long nothing may come before a peer counts as lost; by default by the interval, or the round trip.
    pub timeout: Option<Duration>,
    /// Whether the largest packet that passes is searched for, and the MTU follows.
    pub path_mtu: bool,
    /// The least MTU that the interface may have, bytes. Larger packets than the path takes leave in fragments below it.
    pub floor_bytes: u16,
    /// The MTU that the interface has now, bytes, if it is not the one that is asked for.
    pub start_bytes: Option<u16>,
}

carry!(Probing { interval, timeout, path_mtu, floor_bytes, start_bytes });

impl Default for Probing {
    fn default() -> Self {
        Self { interval: None, timeout: None, path_mtu: true, floor_bytes: FLOOR_BYTES, start_bytes: None }
    }
}

/// How lost packets are recovered, where the format has repairs and the peer understands them (RFC 8681's kind of code).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FecPolicy {
    /// Whether, and how much.
    pub mode: FecMode,
    /// The most that repairs may add, of the bytes that they protect, in parts per million.
    pub max_overhead_ppm: u32,
    /// How many packets may stay lost, of those sent, in parts per billion.
    pub target_ppb: u32,
    /// How late a packet may be recovered and still be of use.
    pub max_recovery_delay: Duration,
}

/// How much is sent to recover from losses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FecMode {
    /// Nothing, and the peer is told not to either.
    Off,
    /// What the losses ask for: nothing on a clean path.
    Auto,
    /// Always the same.
    Fixed {
        /// Repairs for so many packets, in parts per million.
        redundancy_ppm: u32,
        /// Over so many packets each.
        window: u16,
    },
}

impl Default for FecPolicy {
    fn default() -> Self {
        Self {
            mode: FecMode::Auto,
            max_overhead_ppm: 250_000,
            target_ppb: 10_000,
            max_recovery_delay: Duration::from_millis(50),
        }
    }
}

/// What a tunnel needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelConfig {
    /// The outer address and port that the UDP socket is bound to.
    pub local: SocketAddr,
    /// The inner MTU: larger packets from the TUN are dropped.
    pub mtu_bytes: u16,
    /// This incarnation, in microseconds since 1970. The caller gives every incarnation of the tunnel a higher one.
    pub epoch: u64,
    /// Packets may go straight to the TUN of a peer that the same engine carries, if that tunnel allows it too.
    pub shortcut: bool,
    /// Format and protection.
    pub security: Security,
    /// How peers are asked for signs of life.
    pub probing: Probing,
    /// How lost packets are recovered.
    pub fec: FecPolicy,
    /// The peers at the start; more may come and go.
    pub peers: Vec<PeerConfig>,
}
