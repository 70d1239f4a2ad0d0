//! The tunnel as a value: what a configuration means, how large its packets may be, what the node remembers of an
//! attachment, and how plugin, command line and agent speak to each other.
//!
//! One configuration has one meaning everywhere: the `tun` plugin, the agent and the command line all take it from here.
//! The way of a configuration:
//!
//! ```text
//! stdin of the plugin --Effective::read--> Config --Config::validate--> Intent
//!                                                     + facts of the pod --Intent::resolve--> Spec
//! Spec + attachment + namespace = Record --Client::attach (with descriptors)--> agent
//! ```
//!
//! Nothing here opens a network socket or asks the kernel about the network: facts are handed in.
#![forbid(unsafe_code)]

pub mod client;
pub mod config;
pub mod encap;
mod error;
pub mod frame;
mod health;
pub mod keys;
pub mod mtu;
pub mod parse;
pub mod protocol;
pub mod record;
mod recovery;
pub mod spec;
pub mod store;

pub use client::Client;
pub use config::{Config, Effective};
pub use encap::{Encap, Engine, Underlay, Vxlan};
pub use error::{Error, Result};
pub use keys::{KeyFile, KeyStore, PublicKey};
pub use record::{AttachmentId, Pod, Record, State};
pub use spec::{Encryption, Fec, FecMode, Intent, Peer, Spec};
pub use store::{Store, run_dir};
