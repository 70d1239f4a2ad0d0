//! Cutting: what enters a core as one packet for several leaves it as the packets that the kernel would make of it, byte for byte.
//! Joining is tested beside its code, against the same model.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    missing_docs,
    reason = "a test that panics has failed, as it should"
)]

mod cutting;
mod generate;
mod hostile;
#[allow(dead_code, reason = "shared with the tests of joining")]
mod model;
mod oracle;
mod tunnel;
