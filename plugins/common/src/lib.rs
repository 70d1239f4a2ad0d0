//! What the interface plugins (`bridge`, `macvlan`, `tun`) share, each thing once:
//!
//! * [`Undo`]: the stack that makes an ADD a transaction;
//! * [`Identity`]: the names by which the host's objects of an attachment are found again without its namespace;
//! * [`config`]: the configuration keys that every interface plugin has, and the MAC address' precedence;
//! * [`InterfaceStep`]: the plan of a pod's interface (sysctls, addresses, routes), and [`configure_interface`] that applies it;
//! * [`ipam`]: the delegated IPAM call that is taken back when the ADD fails;
//! * [`check`]: what CHECK compares with the kernel.
//!
//! The plugins decide, this crate does. Neither talks netlink itself: that is `adit-net`.

#![forbid(unsafe_code)]

pub mod check;
pub mod config;
mod convert;
mod error;
mod identity;
mod interface;
pub mod ipam;
mod log;
mod pod;
mod undo;

pub use convert::{PlannedRoute, addresses, fill_gateways, first_gateway, planned_routes, result_interface};
pub use error::{ADDRESS_CONFLICT, net_error};
pub use identity::Identity;
pub use interface::{
    DuplicateAddressDetection, InterfaceSpec, InterfaceStep, Usable, check_ipv6_mtu, configure_interface,
};
pub use log::main;
pub use pod::{announce_addresses, existing_link, open_pod};
pub use undo::{Undo, collected, transaction};
