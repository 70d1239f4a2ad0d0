//! What plugin, command line and agent say to each other over the agent's socket.
//!
//! One connection carries one request and one answer, each a [frame](crate::frame). A request names its version; an agent
//! refuses one that it does not know, so that a plugin never acts on a half-understood answer.

use std::{collections::BTreeMap, net::SocketAddr};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::{AttachmentId, Encap, Encryption, Engine, Pod, Record};

/// Version of this protocol.
pub const PROTOCOL_VERSION: u32 = 1;
/// The socket's name below the run directory.
pub const SOCKET_NAME: &str = "agent.sock";

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
    /// Carry this tunnel. Two descriptors come along: the TUN device, then the outer UDP socket.
    Attach {
        /// The tunnel; its record is in place already.
        record: Box<Record>,
    },
    /// Let go of this tunnel: its descriptors are closed when the answer comes. Unknown is fine.
    Detach {
        /// Which.
        attachment: AttachmentId,
    },
    /// The state of one tunnel.
    Inspect {
        /// Which.
        attachment: AttachmentId,
    },
    /// The state of every tunnel.
    Status,
}

/// What the agent answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "camelCase", from = "Answer")]
#[non_exhaustive]
pub enum Response {
    /// Done.
    Done,
    /// The tunnels asked for.
    Tunnels {
        /// In the order of their attachments.
        tunnels: Vec<TunnelStatus>,
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
    /// Who carries it.
    pub engine: String,
    /// The interface's MTU in bytes.
    pub mtu_bytes: u16,
    /// The outer source.
    pub local: SocketAddr,
    /// The outer interface.
    pub device: String,
    /// Addresses on the tunnel's interface.
    pub addresses: Vec<IpNetwork>,
    /// Whether the agent holds both descriptors and carries packets, or the kernel's interface is there and up.
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

/// A [`Response`] as it is read: of a tagged enum serde keeps the parts in a form of its own first, and what reads those makes
/// a plugin 35 KB larger.
#[derive(Deserialize)]
struct Answer {
    answer: Kind,
    #[serde(default)]
    tunnels: Vec<TunnelStatus>,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Kind {
    Done,
    Tunnels,
    Refused,
}

impl From<Answer> for Response {
    fn from(Answer { answer, tunnels, message }: Answer) -> Self {
        match answer {
            Kind::Done => Self::Done,
            Kind::Tunnels => Self::Tunnels { tunnels },
            Kind::Refused => Self::Refused { message },
        }
    }
}

/// Inner packets of all peers.
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

/// One peer of a tunnel as the agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    /// Its outer address and port.
    pub endpoint: SocketAddr,
    /// The networks behind it.
    #[serde(rename = "allowedIPs")]
    pub allowed_ips: Vec<IpNetwork>,
    /// Whether a handshake with it has succeeded; never in the kernel's tunnels, which have none.
    pub established: bool,
    /// How many have.
    pub handshakes: u64,
    /// Whether packets to it skip the network.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub shortcut: bool,
    /// Inner bytes received from it.
    pub rx_bytes: u64,
    /// Inner packets received from it.
    pub rx_packets: u64,
    /// Inner bytes sent to it.
    pub tx_bytes: u64,
    /// Inner packets sent to it.
    pub tx_packets: u64,
    /// Milliseconds since anything valid came from it; absent when nothing ever did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_seen_ms: Option<u64>,
    /// Milliseconds since anything was sent to it; absent when nothing ever was.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_sent_ms: Option<u64>,
}

impl TunnelStatus {
    /// The state in one word: `up` once every peer has answered, `waiting` while one has not, `down` when nothing carries it;
    /// `ready` when the kernel carries it, who asks no peer whether it is there.
    #[must_use]
    pub fn state(&self) -> &'static str {
        self.word(self.peers.iter().all(|peer| peer.established))
    }

    /// The same for one of its peers.
    #[must_use]
    pub fn peer_state(&self, peer: &PeerStatus) -> &'static str {
        self.word(peer.established)
    }

    fn word(&self, established: bool) -> &'static str {
        match (self.carried, established) {
            (false, _) => "down",
            _ if self.encap.engine() == Engine::Kernel => "ready",
            (true, true) => "up",
            (true, false) => "waiting",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_is_read_as_it_was_written() {
        for (written, expected) in [
            (Response::Done, json!({"answer": "done"})),
            (Response::Tunnels { tunnels: vec![] }, json!({"answer": "tunnels", "tunnels": []})),
            (Response::Refused { message: "no".into() }, json!({"answer": "refused", "message": "no"})),
        ] {
            assert_eq!(serde_json::to_value(&written).unwrap(), expected);
            let read: Response = serde_json::from_value(expected.clone()).unwrap();
            assert_eq!(serde_json::to_value(&read).unwrap(), expected);
        }
        assert!(serde_json::from_value::<Response>(json!({"answer": "perhaps"})).is_err());
    }
}
