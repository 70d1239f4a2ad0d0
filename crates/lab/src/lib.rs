//! Clusters out of network namespaces on one machine, and a runtime that runs networks like Multus does.
//!
//! A [`Lab`] is a chain of routers with nodes at it; pods on the nodes are namespaces with an unprivileged process.
//! Nothing of the machine's own network is touched. Dropping the lab removes everything, also after a panic.
//!
//! ```no_run
//! use adit_lab::{Attachment, Lab};
//!
//! let lab = Lab::two_clusters(Attachment::Bridge)?;
//! let a = lab.ohio().pod("plumbr-a").attach("conf/nad/ohio-plumbr.yaml", r#"[{"name":"br-plumr-config","ips":["10.10.1.200/24"]}]"#)?;
//! let _b = lab.mumbai().pod("plumbr-b").attach("conf/nad/mumbai-plumbr.yaml", r#"[{"name":"br-plumr-config","ips":["10.20.1.200/24"]}]"#)?;
//! a.ping("10.20.1.200")?.all_received()?.with_ttl(59)?;
//! # Ok::<(), adit_lab::Error>(())
//! ```
//!
//! Needs root, and the programs `ip`, `nsenter`, `setpriv`, `ping` and `iperf3`; bad links ([`Lab::impair`]) `ethtool` and `chrt`.
#![forbid(unsafe_code)]

pub mod address;
mod agent;
pub mod annotation;
mod background;
mod binaries;
mod capabilities;
mod command;
mod delegate;
mod describe;
mod error;
pub mod impair;
mod inject;
mod lab;
mod ledger;
pub mod nad;
mod namespace;
mod node;
mod observe;
pub mod packet;
mod ping;
mod pod;
mod process;
mod punctual;
mod router;
mod runtime;
mod snapshot;
mod spy;
mod status;
mod tap;
mod topology;
mod traffic;
mod wait;

pub use address::{Host, NodeNumber};
pub use agent::AgentDescriptors;
pub use background::Background;
pub use binaries::Binaries;
pub use capabilities::Capabilities;
pub use command::{COMMAND_DEADLINE, Ran, run};
pub use delegate::{Delegate, PodIdentity};
pub use describe::{describe_own, tear_down_own};
pub use error::{Error, Result};
pub use impair::Impairment;
pub use lab::Lab;
pub use ledger::{Recorded, STATE_DIRECTORY, State, janitor, labs};
pub use nad::{IntoNads, Manifests, Nad, PodManifest};
pub use namespace::Namespace;
pub use node::Node;
pub use observe::{InterfaceView, RouteView};
pub use packet::{Checksum, Datagram, TappedPacket};
pub use ping::Ping;
pub use pod::{Pod, PodBuilder};
pub use process::ProcessMark;
pub use punctual::become_punctual;
pub use router::Router;
pub use runtime::{Attached, Runtime};
pub use snapshot::{Difference, Snapshot};
pub use spy::{SpiedCall, Spies};
pub use status::{NetworkStatus, network_status};
pub use tap::Tap;
pub use topology::{Attachment, LabSpec};
pub use traffic::{EchoServer, IperfOptions, IperfReport};
pub use wait::eventually;
