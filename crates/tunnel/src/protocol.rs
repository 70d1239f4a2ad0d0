//! What plugin, command line and agent say to each other over the agent's socket.
//!
//! One connection carries one request and one answer, each a [frame](crate::frame). A request names its version; an agent
//! refuses one that it does not know, so that a plugin never acts on a half-understood answer.

use std::{collections::BTreeMap, net::SocketAddr};

use adit_net::counters::Counters;
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::{
    AttachmentId, Encap, Encryption, Engine, Peer, Pod, PublicKey, Record, Underlay,
    keys::{KeyNames, Rotation},
};
pub use crate::{
    health::{Delivery, Health, HealthState, RoundTrip},
    recovery::{BURST_LENGTHS, Recovery},
};

/// Version of this protocol.
pub const PROTOCOL_VERSION: u32 = 1;
/// The socket's name below the run directory.
pub const SOCKET_NAME: &str = "agent.sock";
/// Below the run directory: the socket that tells a group of users what there is, in a directory of its own that a pod can be given.
pub const STATUS_SOCKET_NAME: &str = "status/status.sock";

/// A request and the version it speaks.
#[derive(Debug, Serialize, Deserialize)]
pub struct Envelope {
    /// [`PROTOCOL_VERSION`].
    pub version: u32,
    /// What is wanted.
    pub request: Request,
}

/// What can be asked of the agent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "camelCase")]
#[non_exhaustive]
pub enum Request {
    /// Whether it is there and can take tunnels.
    Ping,
    /// Carry this tunnel. Two descriptors come along: the TUN device, then the outer UDP socket. None where the kernel carries it:
    /// then its interface gets its keys and peers.
    Attach {
        /// The tunnel; its record is in place already.
        record: Box<Record>,
    },
    /// Let go of this tunnel: its descriptors are closed when the answer comes. Unknown is fine.
    Detach {
        /// Which.
        attachment: AttachmentId,
    },
    /// Whether this tunnel is carried, or the kernel's interface is as it should be; and whether its peers answer.
    Check {
        /// Which.
        attachment: AttachmentId,
        /// Whether the peers are asked for.
        peers: bool,
    },
    /// The state of every tunnel.
    Status,
    /// The public key of a tunnel that is, or is to be; and whether all of its keys can be loaded.
    PublicKey {
        /// What they are found by.
        names: Box<KeyNames>,
    },
    /// Take a step of changing this end's private key. Every tunnel with the same key follows.
    RotateKey {
        /// Which tunnel.
        attachment: AttachmentId,
        /// Which step.
        step: Rotation,
    },
    /// A peer changes its key: accept the new one beside the old, or, from now on, alone.
    #[serde(rename_all = "camelCase")]
    ChangePeerKey {
        /// Which tunnel.
        attachment: AttachmentId,
        /// The key that it is known by.
        old: PublicKey,
        /// The key that it changes to.
        new: PublicKey,
        /// Whether the old one is still accepted.
        keep_old: bool,
    },
}

/// What the agent answers.
#[derive(Debug, Serialize)]
#[serde(tag = "answer", rename_all = "camelCase")]
#[non_exhaustive]
pub enum Response {
    /// Done.
    Done,
    /// The tunnels asked for.
    Tunnels {
        /// In the order of their attachments.
        tunnels: Vec<TunnelStatus>,
    },
    /// The public key asked for.
    #[serde(rename_all = "camelCase")]
    PublicKey {
        /// The key.
        public_key: PublicKey,
    },
    /// Not done.
    Refused {
        /// Why, and what to do.
        message: String,
    },
}

/// One tunnel as the agent sees it; or as the command line sees one of the kernel's, of which the agent knows nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TunnelStatus {
    /// Which tunnel.
    pub attachment: AttachmentId,
    /// Whose it is.
    pub pod: Pod,
    /// The network's name in its list.
    pub network: String,
    /// What is on the wire.
    pub encap: Encap,
    /// How packets are sealed.
    pub encryption: Encryption,
    /// What its peers know it by, if it is sealed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub public_key: Option<PublicKey>,
    /// Who carries it.
    pub engine: Engine,
    /// Whose network the outer packets travel in.
    #[serde(default)]
    pub underlay: Underlay,
    /// The interface's MTU in bytes, as it is now.
    pub mtu_bytes: u16,
    /// What the interface's MTU is where the path lets it, in bytes.
    #[serde(default)]
    pub mtu_limit_bytes: u16,
    /// The outer source.
    pub local: SocketAddr,
    /// The outer interface.
    pub device: String,
    /// Addresses on the tunnel's interface.
    pub addresses: Vec<IpNetwork>,
    /// Whether the agent holds both descriptors and carries packets, or the kernel's interface is there, up, and has the keys and peers
    /// that it should have.
    pub carried: bool,
    /// Why not, in words; empty when it is carried.
    pub reason: String,
    /// The peers.
    pub peers: Vec<PeerStatus>,
    /// What the interface has counted, where that is not done by peer: in the kernel's tunnels. Absent for others.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub traffic: Option<Traffic>,
    /// What is left to the kernel (`tun-tcp`, `tun-udp`, `merged-tcp`, `merged-udp`, `segmented-sends`, `merged-receives`); less is slower.
    /// Empty in the kernel's tunnels.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub offloads: Vec<String>,
    /// What of it the kernel refused last, in words.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub offload_refusal: Option<String>,
    /// Dropped packets by reason; only those that happened.
    pub drops: BTreeMap<String, u64>,
}

/// A [`Response`] as it is read: of a tagged enum serde keeps the parts in a form of its own first, and what reads those makes a plugin
/// 35 KB larger. Who asks for no tunnels takes `T` as what ignores them: what reads a [`TunnelStatus`] is 45 KB.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "T: Deserialize<'de>"))]
pub(crate) struct Answer<T> {
    pub(crate) answer: Kind,
    #[serde(default)]
    pub(crate) tunnels: Vec<T>,
    #[serde(default)]
    pub(crate) public_key: Option<PublicKey>,
    #[serde(default)]
    pub(crate) message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Kind {
    Done,
    Tunnels,
    PublicKey,
    Refused,
}

/// What went through the interface: inner packets of all peers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
}

impl From<Counters> for Traffic {
    fn from(Counters { rx_bytes, rx_packets, tx_bytes, tx_packets }: Counters) -> Self {
        Self { rx_bytes, rx_packets, tx_bytes, tx_packets }
    }
}

/// One peer of a tunnel as the agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    /// Its outer address and port; absent while nobody knows them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub endpoint: Option<SocketAddr>,
    /// Whether that is where it was heard from, and not where the configuration says.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub learned: bool,
    /// What it is known by, if the tunnel is sealed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub public_key: Option<PublicKey>,
    /// Whether a key that was agreed beforehand is mixed into its sessions.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub preshared: bool,
    /// What its packets are sealed with: `aes-256-gcm` or `chacha20-poly1305`. Absent without a session.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cipher: Option<String>,
    /// The networks behind it.
    #[serde(rename = "allowedIPs")]
    pub allowed_ips: Vec<IpNetwork>,
    /// Whether a handshake with it has succeeded; in the kernel's WireGuard, whether its keys are young enough to be used still. Never
    /// in `vxlan`, which has none.
    pub established: bool,
    /// How many have; the kernel does not count them.
    pub handshakes: u64,
    /// Whether packets to it skip the network.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub shortcut: bool,
    /// Inner bytes received from it; in the kernel's WireGuard with the headers of WireGuard.
    pub rx_bytes: u64,
    /// Inner packets received from it; the kernel's WireGuard does not count them.
    pub rx_packets: u64,
    /// Inner bytes sent to it; in the kernel's WireGuard with the headers of WireGuard.
    pub tx_bytes: u64,
    /// Inner packets sent to it; the kernel's WireGuard does not count them.
    pub tx_packets: u64,
    /// Milliseconds since anything valid came from it; absent when nothing ever did, or where the kernel does not tell.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_seen_ms: Option<u64>,
    /// Milliseconds since anything was sent to it; absent when nothing ever was, or where the kernel does not tell.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_sent_ms: Option<u64>,
    /// Milliseconds since the last handshake with it; absent when there was none, and in plain tunnels.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_handshake_ms: Option<u64>,
    /// How it is. Absent where the kernel carries the tunnel: nobody asks its peers.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub health: Option<Health>,
    /// What loss recovery does with it; absent where it has none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub recovery: Option<Recovery>,
}

impl PeerStatus {
    /// What the specification says of a peer, and nothing that anybody has seen.
    #[must_use]
    pub fn described(peer: &Peer) -> Self {
        Self {
            endpoint: peer.endpoint,
            learned: false,
            public_key: peer.public_key,
            preshared: peer.preshared_key_file.is_some(),
            cipher: None,
            allowed_ips: peer.allowed_ips.clone(),
            established: false,
            handshakes: 0,
            shortcut: false,
            rx_bytes: 0,
            rx_packets: 0,
            tx_bytes: 0,
            tx_packets: 0,
            last_seen_ms: None,
            last_sent_ms: None,
            last_handshake_ms: None,
            health: None,
            recovery: None,
        }
    }

    /// How it is, as far as anybody knows: where nobody asks it, whether a handshake has succeeded.
    #[must_use]
    pub fn health_state(&self) -> HealthState {
        let by_handshake = if self.established { HealthState::Up } else { HealthState::Waiting };
        self.health.as_ref().map_or(by_handshake, |health| health.state)
    }
}

impl TunnelStatus {
    /// What the record says of a tunnel, without its peers; it is carried when there is no `reason` why not.
    #[must_use]
    pub fn described(record: &Record, reason: Option<String>) -> Self {
        let spec = &record.spec;
        Self {
            attachment: record.attachment.clone(),
            pod: record.pod.clone(),
            network: record.network.clone(),
            encap: spec.encap,
            encryption: spec.encryption,
            public_key: spec.public_key,
            engine: spec.engine,
            underlay: spec.underlay,
            mtu_bytes: spec.mtu_bytes,
            mtu_limit_bytes: spec.mtu_bytes,
            local: spec.local,
            device: spec.device.to_string(),
            addresses: record.addresses.clone(),
            carried: reason.is_none(),
            reason: reason.unwrap_or_default(),
            peers: Vec::new(),
            traffic: None,
            offloads: Vec::new(),
            offload_refusal: None,
            drops: BTreeMap::new(),
        }
    }

    /// The state in one word, which is that of its worst peer; `down` when nothing carries it; `ready` for `vxlan`, where nobody asks a
    /// peer whether it is there.
    #[must_use]
    pub fn state(&self) -> &'static str {
        self.word(self.peers.iter().map(PeerStatus::health_state).max().unwrap_or(HealthState::Up))
    }

    /// The same for one of its peers.
    #[must_use]
    pub fn peer_state(&self, peer: &PeerStatus) -> &'static str {
        self.word(peer.health_state())
    }

    fn word(&self, state: HealthState) -> &'static str {
        match state {
            _ if !self.carried => HealthState::Down.word(),
            _ if self.encap == Encap::Vxlan => "ready",
            state => state.word(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::de::IgnoredAny;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_is_read_as_it_was_written() {
        let public_key = PublicKey::new([1; 32]);
        for (written, expected, kind) in [
            (Response::Done, json!({"answer": "done"}), Kind::Done),
            (Response::Tunnels { tunnels: vec![] }, json!({"answer": "tunnels", "tunnels": []}), Kind::Tunnels),
            (Response::Refused { message: "no".into() }, json!({"answer": "refused", "message": "no"}), Kind::Refused),
            (
                Response::PublicKey { public_key },
                json!({"answer": "publicKey", "publicKey": public_key.to_string()}),
                Kind::PublicKey,
            ),
        ] {
            assert_eq!(serde_json::to_value(&written).unwrap(), expected);
            let read: Answer<TunnelStatus> = serde_json::from_value(expected).unwrap();
            assert_eq!(read.answer, kind);
            assert_eq!(read.public_key, (kind == Kind::PublicKey).then_some(public_key));
            assert_eq!(read.message, if kind == Kind::Refused { "no" } else { "" });
        }
        assert!(serde_json::from_value::<Answer<TunnelStatus>>(json!({"answer": "perhaps"})).is_err());
    }

    #[test]
    fn a_status_is_read_whole_or_not_at_all() {
        let status = TunnelStatus {
            attachment: AttachmentId {
                container_id: "c1".into(),
                cni_if_name: "net1".into(),
                if_name: "tun".parse().unwrap(),
            },
            pod: Pod::default(),
            network: "ohio".into(),
            encap: Encap::Udp,
            encryption: Encryption::None,
            public_key: None,
            engine: Engine::Agent,
            underlay: Underlay::Pod,
            mtu_bytes: 1456,
            mtu_limit_bytes: 1456,
            local: "10.10.1.200:6090".parse().unwrap(),
            device: "net1".into(),
            addresses: vec![],
            carried: false,
            reason: "port 6090 is taken".into(),
            peers: vec![],
            traffic: None,
            offloads: vec![],
            offload_refusal: None,
            drops: BTreeMap::new(),
        };
        let written = serde_json::to_string(&Response::Tunnels { tunnels: vec![status.clone()] }).unwrap();
        let ignored = serde_json::from_str::<Answer<IgnoredAny>>(&written).unwrap();
        assert_eq!((ignored.answer, ignored.tunnels.len()), (Kind::Tunnels, 1));
        assert_eq!(serde_json::from_str::<Answer<TunnelStatus>>(&written).unwrap().tunnels, [status]);
    }
}
