//! `cargo +nightly fuzz run environment` in `crates/cni`: whatever the environment is, a plugin prints one document or none.
//!
//! The input is lines `NAME=value`, an empty line, and stdin. `static` is the plugin: it does not touch the node.
#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use adit_cni::{Environment, run_with};
use adit_static::Static;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|input: &[u8]| {
    let mut env = Environment::default();
    let mut rest = input;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line = &rest[..end];
        rest = &rest[end + 1..];
        let Some(equals) = line.iter().position(|byte| *byte == b'=') else { break };
        env.set(OsStr::from_bytes(&line[..equals]), OsStr::from_bytes(&line[equals + 1..]));
    }
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let status = run_with(&Static, &env, rest, &mut stdout, &mut stderr);
    let verb = env.get("CNI_COMMAND").ok().flatten().unwrap_or_default();
    if status == 0 && !["ADD", "VERSION"].contains(&verb) {
        assert!(stdout.is_empty());
        return;
    }
    let document: Value = serde_json::from_slice(&stdout).unwrap();
    if status == 0 {
        assert!(document["cniVersion"].is_string());
    } else {
        let message = document["msg"].as_str().unwrap();
        assert!(document["code"].is_u64() && !message.is_empty() && !message.contains("panicked"), "{message}");
    }
});
