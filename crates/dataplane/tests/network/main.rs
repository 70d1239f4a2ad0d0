//! Alice, Bob and Eve: cores on a network in memory, under virtual time.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    missing_docs,
    reason = "a test that panics has failed, as it should"
)]

mod ecn;
mod fec;
mod handshakes;
mod health;
mod hostile;
mod path;
mod peers;
mod probes;
mod sealed;
mod timers;
mod world;
