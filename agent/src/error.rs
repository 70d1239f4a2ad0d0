//! Why the agent cannot start, or cannot carry a tunnel.

use std::{io, path::PathBuf};

use adit_tunnel::PublicKey;

/// The result of everything in this room.
pub type Result<T> = std::result::Result<T, Error>;

/// An error says what was attempted, on what, what the kernel said, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something that happens once at the start failed.
    #[error("cannot {action}: {source}")]
    Start {
        /// What was attempted.
        action: &'static str,
        /// The kernel's words.
        source: io::Error,
    },
    /// A file or directory of the agent cannot be used.
    #[error("cannot {action} {}: {source}; check that the directory exists, is writable and belongs to root", path.display())]
    Path {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's words.
        source: io::Error,
    },
    /// Another agent works in the same run directory.
    #[error("another agent works in {}; stop it first, or give this one its own directory with --run-dir", .0.display())]
    AlreadyRunning(PathBuf),
    /// A plugin handed over something that cannot be carried.
    #[error("{0}")]
    BadHandOver(String),
    /// A tunnel was handed over whose record is gone or is another one's by now.
    #[error("tunnel {0} was removed or made anew before it could be carried; call ADD again")]
    Outdated(String),
    /// A tunnel was handed over whose namespace the agent cannot find.
    #[error(
        "cannot find the pod's namespace {}: the tunnel could not be opened again after a restart, nor the pod's end be seen; the agent must see the runtime's namespaces (in Kubernetes: mount /run/netns into it with mountPropagation HostToContainer)",
        .0.display()
    )]
    NamespaceHidden(PathBuf),
    /// The agent's view of the node's processes is worth nothing.
    #[error("cannot see in /proc where processes live, not even the agent's own; mount the node's /proc")]
    Blind,
    /// The pod's namespace is not where the record says.
    #[error("the namespace {} is gone or is another one now", .0.display())]
    NamespaceGone(PathBuf),
    /// The kernel's device of a tunnel is not where ADD made it.
    #[error("the pod has no interface {0} any more: delete the pod")]
    LinkGone(String),
    /// Another socket has the UDP port of a tunnel that the kernel carries.
    #[error(
        "local: UDP port {0} is taken: another socket has it, which may be another tunnel's; write \"local\" as address:port, and the same port at the peers"
    )]
    PortTaken(u16),
    /// A peer was to have a key that somebody else has.
    #[error(
        "{key} cannot be a peer's new key: it is {whose}; tell the key that `adit key rotate` printed at the other end"
    )]
    KeyInUse {
        /// The key.
        key: PublicKey,
        /// Who has it.
        whose: &'static str,
    },
    /// The kernel's device is not what it was told to be.
    #[error(
        "the kernel did not take everything that {0} was told: a peer that has the tunnel's own public key is left out without a word; compare `adit key show` with the peers' keys"
    )]
    NotAsTold(String),
    /// The kernel's WireGuard was to know a peer by two keys.
    #[error(
        "{0} is carried by the kernel, where a network leads to one peer with one key, so none is accepted beside another; once the other end uses its new key, repeat the command with --forget-old"
    )]
    OneKey(String),
    /// Asked for a tunnel that the agent does not have.
    #[error("the agent has no tunnel {0}; `adit status` lists those that it has")]
    UnknownTunnel(String),
    /// Asked for a peer that the tunnel does not have.
    #[error("{attachment} has no peer with the public key {key}; `adit status --json` lists its peers")]
    UnknownPeer {
        /// The tunnel.
        attachment: String,
        /// The key.
        key: PublicKey,
    },
    /// Keys were to be changed of a tunnel that has none.
    #[error("{0} is not sealed and has no keys")]
    NotSealed(String),
    /// Keys were to be changed of a tunnel that is not carried.
    #[error("{attachment} is not carried ({reason}); try again when it is")]
    NotCarried {
        /// The tunnel.
        attachment: String,
        /// Why not.
        reason: String,
    },
    /// The data plane refused.
    #[error(transparent)]
    DataPlane(#[from] adit_dataplane::Error),
    /// The kernel refused.
    #[error(transparent)]
    Net(#[from] adit_net::Error),
    /// A record cannot be read or written.
    #[error(transparent)]
    Tunnel(#[from] adit_tunnel::Error),
}

impl Error {
    pub(crate) const fn start(action: &'static str, source: io::Error) -> Self {
        Self::Start { action, source }
    }
}
