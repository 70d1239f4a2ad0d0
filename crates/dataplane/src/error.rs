use crate::{PeerId, TunnelId};
use ipnetwork::IpNetwork;
use nix::errno::Errno;
use std::net::SocketAddr;

/// What was attempted, on what, what the kernel said, and what to do next.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Two peers of one tunnel carry the same number.
    #[error("{0} exists already in this tunnel: give every peer a number of its own")]
    DuplicatePeer(PeerId),
    /// A plain peer without an endpoint.
    #[error("{0} has no endpoint: without encryption every peer needs one")]
    NoEndpoint(PeerId),
    /// A sealed peer without a public key.
    #[error("{0} has no public key: a sealed tunnel knows its peers by nothing else")]
    NoKey(PeerId),
    /// Keys for a plain tunnel.
    #[error("the tunnel is plain and has no keys")]
    NotSealed,
    /// Two peers with the same public key.
    #[error("the public key of {peer} belongs to {holder} already: give each peer a key of its own")]
    KeyTaken {
        /// The peer that asked for it.
        peer: PeerId,
        /// The peer that has it.
        holder: PeerId,
    },
    /// A peer with this end's own public key.
    #[error("the public key of {0} is this end's own: write the other end's")]
    OwnKey(PeerId),
    /// The library made nothing of a private key.
    #[error("no public key can be worked out from the private key")]
    BadPrivateKey,
    /// A call named a peer that the tunnel does not have.
    #[error("{0} does not exist in this tunnel")]
    UnknownPeer(PeerId),
    /// Without encryption the source address and port are what tells peers apart.
    #[error("endpoint {endpoint} belongs to {holder} already: plain peers need different endpoints")]
    EndpointTaken {
        /// The endpoint that was asked for.
        endpoint: SocketAddr,
        /// The peer that has it.
        holder: PeerId,
    },
    /// The endpoint cannot be sent to from this tunnel.
    #[error("endpoint {endpoint} of {peer} cannot be reached from {local}: {reason}")]
    InvalidEndpoint {
        /// The peer it belongs to.
        peer: PeerId,
        /// The endpoint that was asked for.
        endpoint: SocketAddr,
        /// The tunnel's own outer address.
        local: SocketAddr,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// One prefix can lead to one peer only.
    #[error("allowed addresses {prefix} belong to {holder} already: give each prefix to one peer")]
    PrefixTaken {
        /// The prefix that was asked for.
        prefix: IpNetwork,
        /// The peer that has it.
        holder: PeerId,
    },
    /// A call named a tunnel that the engine does not have.
    #[error("{0} does not exist in this engine: it was removed, or never added")]
    UnknownTunnel(TunnelId),
    /// The tunnel lost its TUN device and holds no descriptors any more.
    #[error("{tunnel} is broken ({reason}): remove it and add it again")]
    Broken {
        /// The tunnel.
        tunnel: TunnelId,
        /// Why it broke.
        reason: String,
    },
    /// The state of a tunnel that another engine released is of no use to this one.
    #[error("the tunnel's state was written by another release, or belongs to another tunnel: begin new sessions")]
    ForeignParcel,
    /// The engine was shut down, or its thread ended.
    #[error("the data plane has been shut down: start a new engine")]
    Stopped,
    /// A packet thread could not give up its rights.
    #[error("cannot confine a packet thread: {0}")]
    Confine(String),
    /// The system refused.
    #[error("cannot {action}: {errno}")]
    Os {
        /// What was attempted.
        action: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
}
