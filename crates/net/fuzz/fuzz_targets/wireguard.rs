//! `cargo +nightly fuzz run wireguard` in `crates/net`: whatever a generic netlink socket receives, it is read without a panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|datagram: &[u8]| adit_net::fuzz::wireguard(datagram));
