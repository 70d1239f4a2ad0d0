//! Packets. A TUN device on one side, a UDP socket on the other, and between them the tunnel's core:
//! the wire format, the handshake, the table of allowed addresses, the timers.
//!
//! The core ([`Core`]) does no I/O: packets and the time go in, packets come out through a [`Sink`].
//! The shell around it ([`Engine`]) owns the descriptors and the threads. This crate knows nothing of
//! JSON, CNI, Kubernetes or the names of pods.
#![deny(unsafe_code)]

mod allowed;
mod attached;
mod batch;
mod budget;
mod clamp;
mod config;
mod cookie;
mod ecn;
mod engine;
mod error;
mod fec;
mod fragment;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
pub mod handshake;
mod health;
mod inner;
mod io;
mod merge;
#[expect(unsafe_code, reason = "a TUN's offloads are switched by an ioctl only")]
mod offload;
mod outbound;
mod parcel;
mod path;
mod peer;
mod peers;
mod pmtu;
mod poll;
pub mod probe;
mod probing;
mod random;
mod sealed;
mod segment;
mod session;
mod shortcut;
mod stats;
mod too_big;
mod tunnel;
mod vnet;
pub mod wire;
mod worker;

pub use {
    config::{FecMode, FecPolicy, Identity, PeerConfig, PeerKeys, Probing, PublicKey, Secret, Security, TunnelConfig},
    ecn::Ecn,
    engine::{Engine, OnBreak, OnResize, TunnelId},
    error::Error,
    health::{Delivery, Health, HealthState, RoundTrip},
    offload::Offload,
    outbound::{FromTun, ShortcutPacket},
    parcel::Parcel,
    segment::Checksum,
    stats::{DropReason, PeerStats, RecoveryStats, TunnelStats},
    tunnel::{Core, PeerId, Sink},
    vnet::{Gso, GsoKind, Vnet},
};

/// Result of this crate's fallible calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;
