//! Streams of numbered packets over paths that lose some, in no time and without bytes: which packets come back out of repairs, and when.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a test that panics has failed, as it should"
)]

mod channel;
mod closed;
mod maker;
mod open;
mod rank;
