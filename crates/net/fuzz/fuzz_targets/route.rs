//! `cargo +nightly fuzz run route` in `crates/net`: whatever a route socket receives, it is read without a panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|datagram: &[u8]| adit_net::fuzz::route(datagram));
