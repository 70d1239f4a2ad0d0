//! The kernel's network, as plain synchronous calls: namespaces, links, addresses, routes,
//! nftables, sysctl, and the two descriptors a user-space tunnel needs (a TUN device and an outer
//! UDP socket).
//!
//! Everything that speaks netlink goes through [`Netlink`], what concerns packet filters through
//! [`Nftables`], and keys and peers of the kernel's WireGuard through [`Wireguard`], one socket each per namespace. What acts in
//! the *calling thread's* namespace says so: [`sysctl`], [`tun`], [`udp`]. Enter one with
//! [`Netns::run`] in a one-shot program and with [`Netns::run_on_thread`] in a long-lived one.
//!
//! The room knows nothing of CNI, pods or tunnels.

#![deny(unsafe_code)]

pub mod address;
mod attribute;
pub mod bridge;
mod channel;
#[expect(unsafe_code, reason = "a socket option without a safe wrapper in nix or socket2")]
mod cookie;
pub mod counters;
pub mod encap;
pub mod error;
pub mod feature;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod ip;
pub mod link;
mod link_message;
pub mod name;
pub mod neighbour;
pub mod netlink;
#[expect(unsafe_code, reason = "the ioctl that asks a descriptor which kind of namespace it is")]
pub mod netns;
pub mod nftables;
pub mod ping;
pub mod probe;
mod request;
pub mod route;
mod route_message;
pub mod sysctl;
#[expect(unsafe_code, reason = "TUN devices are made and attached by ioctl only")]
pub mod tun;
#[expect(unsafe_code, reason = "two socket options without a safe wrapper in nix or socket2")]
pub mod udp;
pub mod vxlan;
mod wait;
pub mod wireguard;

pub use address::Address;
pub use bridge::{Port, PortState, PortVlan};
pub use encap::Encapsulation;
pub use error::Error;
pub use link::{BridgePort, BridgeSpec, Link, LinkChange, LinkKind, MacvlanMode, MacvlanSpec, VethSpec};
pub use name::{IfName, MacAddress};
pub use neighbour::Neighbour;
pub use netlink::Netlink;
pub use netns::{Netns, NetnsGuard, NetnsId};
pub use nftables::Nftables;
pub use ping::ping;
pub use probe::{Conflict, probe};
pub use route::{Route, RouteLookup};
pub use tun::{create_tun, open_tun};
pub use udp::{UdpSpec, open_udp};
pub use vxlan::Vxlan;
pub use wireguard::{Wireguard, WireguardSpec};

/// What every call of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;
