//! One agent hands its tunnels to the next one, and no packet is lost: the next one connects to the [socket](SOCKET_NAME) of the one at work
//! and waits until that is told to end, or asks for everything at once.
//!
//! ```text
//! next agent                          agent at work
//!   Hello { version, at once }  ──►
//!                                     (told to end, or asked: answers the clients that it has; further ones wait in the backlog)
//!                               ◄──   Offer { the tunnels that it carries }
//!   Ready  (their keys are loaded) ►
//!                               ◄──   Give { tunnel } with its descriptors and its state: it has stopped in it
//!   Got                         ──►
//!                               ◄──   Yours: from now on it is the next agent's, and was never given to anybody else
//!                                     (and so on, one after the other)
//!                               ◄──   Last
//!   Done                        ──►
//!                               ◄──   Node: the run directory's lock and the socket that clients are waiting at
//! ```
//!
//! In each tunnel one of the two sends, whoever dies when. Until `Yours` has left, the agent at work goes on with a tunnel when the
//! connection breaks, and the next one has not begun. After that it never does: it would use numbers again with keys that have been used.
//! Should the next agent die then, before it has the node, the agent at work opens those tunnels anew from their records.

pub mod give;
pub mod renew;
pub mod take;

use std::{io, os::unix::net::UnixStream, time::Duration};

use adit_tunnel::AttachmentId;
use nix::{
    sys::socket::{getsockopt, sockopt::PeerCredentials},
    unistd::geteuid,
};
use serde::{Deserialize, Serialize};

/// The socket's name below the run directory.
pub const SOCKET_NAME: &str = "handover.sock";

/// Version of this conversation. The states of tunnels have one of their own.
const VERSION: u32 = 1;

/// How long the other one may take for a message, once the handover has begun.
const PATIENCE: Duration = Duration::from_secs(5);

/// No tunnel's state is longer: sixteen thousand peers fit.
const MAX_STATE_BYTES: usize = 256 << 20;

/// What the next agent says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "camelCase")]
enum Next {
    #[serde(rename_all = "camelCase")]
    Hello {
        version: u32,
        at_once: bool,
    },
    Ready,
    Got,
    Done,
}

/// What the agent at work says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "camelCase")]
enum AtWork {
    Offer {
        tunnels: Vec<AttachmentId>,
    },
    #[serde(rename_all = "camelCase")]
    Give {
        tunnel: AttachmentId,
        /// The state follows, as it is.
        state_bytes: usize,
    },
    Yours,
    Last,
    Node,
}

fn unexpected(said: &impl std::fmt::Debug) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("it said {said:?}"))
}

/// Whether the process at the other end may have the tunnels, or give any.
fn is_trusted(stream: &UnixStream) -> io::Result<bool> {
    let peer = getsockopt(stream, PeerCredentials)?;
    Ok(peer.uid() == 0 || peer.uid() == geteuid().as_raw())
}
