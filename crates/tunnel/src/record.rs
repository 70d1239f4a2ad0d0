//! What the node remembers of one tunnel: enough to carry it again after any crash, and to remove it after any loss.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use adit_net::{IfName, NetnsId};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::{PublicKey, Spec};

/// Version of the record's form; a reader refuses others.
pub const RECORD_VERSION: u32 = 1;

/// What tells one tunnel of a node from every other: never an address, which a replacement pod may share.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentId {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`: the interface below the tunnel.
    pub cni_if_name: String,
    /// The tunnel's own interface.
    pub if_name: IfName,
}

impl AttachmentId {
    /// The record's file name. `:` occurs in none of the three parts, and the first never begins with `.`.
    #[must_use]
    pub fn file_name(&self) -> String {
        format!("{self}.json")
    }
}

impl fmt::Display for AttachmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.container_id, self.cni_if_name, self.if_name)
    }
}

/// The pod as the runtime named it; all parts are empty outside Kubernetes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.namespace.as_str(), self.name.as_str()) {
            ("", name) => f.write_str(name),
            (namespace, name) => write!(f, "{namespace}/{name}"),
        }
    }
}

/// How far ADD came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// ADD is at work, or was killed: there is nothing for the agent to carry yet.
    Adding,
    /// ADD succeeded: the agent carries it, also after a restart.
    Attached,
}

/// The pod's network namespace: by path, and by identity since a path may come to name another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetnsRef {
    /// `CNI_NETNS`.
    pub path: PathBuf,
    /// Device and inode of what it named at ADD.
    pub id: NetnsId,
    /// The kernel's cookie of it: inode numbers are used again, cookies are not. Absent on kernels before 5.14.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cookie: Option<u64>,
}

impl NetnsRef {
    /// Whether a namespace with this identity and this cookie is the recorded one, as far as the kernel can tell.
    #[must_use]
    pub fn is(&self, id: NetnsId, cookie: Option<u64>) -> bool {
        self.id == id && self.cookie.zip(cookie).is_none_or(|(recorded, found)| recorded == found)
    }
}

/// A route into the tunnel, as ADD made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRef {
    /// Its destination.
    pub destination: IpNetwork,
    /// Its next hop, where it has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gateway: Option<IpAddr>,
    /// Its metric, where it was chosen.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub priority: Option<u32>,
    /// Its table; absent for the main one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub table: Option<u32>,
    /// Where in the specification's list the peer stands to which the kernel sends its packets.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub peer: Option<usize>,
}

/// One tunnel of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// Which tunnel.
    pub attachment: AttachmentId,
    /// When ADD wrote it, in nanoseconds since 1970: tells this ADD from one before it that was killed.
    pub created_ns: u64,
    /// The network's name in its list.
    pub network: String,
    /// Whose it is.
    pub pod: Pod,
    /// How far ADD came.
    pub state: State,
    /// Where it is.
    pub netns: NetnsRef,
    /// What it is.
    pub spec: Spec,
    /// Which keys the configuration had, as [`Effective`](crate::Effective) has them; what else is there is a default or was found.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub written: Vec<String>,
    /// Addresses on the tunnel's interface, with their prefixes.
    pub addresses: Vec<IpNetwork>,
    /// Routes into it.
    pub routes: Vec<RouteRef>,
    /// The next incarnation's epoch must be larger than this; see the handshake.
    pub epoch_floor: u64,
    /// Where peers were last heard from, if that is not where the specification says. Only sealed peers move.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub learned: BTreeMap<PublicKey, SocketAddr>,
    /// What else peers are known by, while they change their keys.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub also: BTreeMap<PublicKey, PublicKey>,
}
