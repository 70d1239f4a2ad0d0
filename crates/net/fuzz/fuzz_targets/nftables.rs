//! `cargo +nightly fuzz run nftables` in `crates/net`: whatever an nfnetlink socket receives, it is read without a panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|datagram: &[u8]| adit_net::fuzz::nftables(datagram));
