//! The CNI protocol, versions 0.1.0 to 1.1.0, for both of its ends.
//!
//! A plugin implements [`Plugin`] and calls [`main`]: environment and configuration arrive checked and
//! typed, results and errors leave in the configuration's version. [`Delegate`] runs another plugin
//! (an IPAM plugin). [`list`] is the other end: it runs lists of plugins as libcni does.
//!
//! Texts, codes and key orders are those of the reference library (`containernetworking/cni` 1.3.0),
//! because runtimes, tests and people match on them. Where the reference harms its users this crate
//! differs: a plugin is refused its own namespace before it acts, not after; every key of `CNI_ARGS`
//! is accepted; a GC without a list of attachments is not one with an empty list.

#![forbid(unsafe_code)]

pub mod config;
pub mod list;

mod args;
mod delegate;
mod env;
mod error;
mod exec;
mod plugin;
mod result;
mod run;
mod version;

pub use args::CniArgs;
pub use delegate::Delegate;
pub use env::{Attachment, Command, ContainerId, Environment, IfName, NetworkName};
pub use error::{Code, Error};
pub use plugin::{Call, DelCall, GcCall, Plugin, StatusCall};
pub use result::{CniResult, Dns, Interface, Ip, Route, parse_cidr};
pub use run::{main, run_with};
pub use version::Version;
