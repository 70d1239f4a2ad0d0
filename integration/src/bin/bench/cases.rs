//! What is measured.

use serde_json::{Value, json};

/// A configuration that is attached, checked and detached.
#[derive(Debug)]
pub struct Case {
    /// How the report calls it.
    pub name: &'static str,
    /// Keys beside those of every case.
    keys: fn() -> Value,
    /// A key that an implementation must know, or it would do something else: one whose binary does not name it is left out.
    pub needs: Option<&'static str>,
}

pub const BRIDGE: &str = "bridge + static";
pub const MACVLAN: &str = "macvlan + static";
pub const MASQUERADE: &str = "bridge + static, ipMasq";

pub const CASES: &[Case] = &[
    Case { name: BRIDGE, keys: bridge, needs: None },
    Case { name: MACVLAN, keys: || json!({ "type": "macvlan", "master": "up0" }), needs: None },
    Case { name: MASQUERADE, keys: || with(bridge(), "ipMasq", true), needs: None },
    Case {
        name: "bridge + static, ipMasq by nftables",
        keys: || with(with(bridge(), "ipMasq", true), "ipMasqBackend", "nftables"),
        needs: Some("ipMasqBackend"),
    },
    Case {
        name: "bridge + static, macspoofchk",
        keys: || with(bridge(), "macspoofchk", true),
        needs: Some("macspoofchk"),
    },
];

impl Case {
    /// The configuration for a pod: each has an address of its own.
    pub fn config(&self, pod: usize) -> Value {
        let mut config = (self.keys)();
        config["cniVersion"] = json!("1.0.0");
        config["name"] = json!("bench");
        let address = format!("10.77.{}.{}/16", pod / 250, pod % 250 + 2);
        config["ipam"] = json!({ "type": "static", "addresses": [{ "address": address }] });
        config
    }
}

fn bridge() -> Value {
    json!({ "type": "bridge", "bridge": "bench0", "isGateway": true })
}

fn with(mut config: Value, key: &str, value: impl Into<Value>) -> Value {
    config[key] = value.into();
    config
}
