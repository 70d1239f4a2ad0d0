//! The address plugin of the tunnel's interface.
//!
//! It is called as for any interface, but with the tunnel's name and the tunnel's addresses: what the runtime says about
//! the interface below (`IP`, `GATEWAY` and `MAC` in `CNI_ARGS`, `args.cni.ips`, `runtimeConfig.ips`) is not for it.

use adit_cni::{CniArgs, CniResult, Delegate, Error};
use adit_net::IfName;
use adit_plugin::Undo;
use adit_tunnel::Effective;
use serde_json::{Map, Value, json};

/// Pairs of `CNI_ARGS` that speak of the interface below the tunnel.
const OF_THE_INTERFACE_BELOW: [&str; 3] = ["IP", "GATEWAY", "MAC"];

/// The address plugin, ready to be called; without one the tunnel gets no address.
pub struct Child {
    plugin: Option<(String, Delegate)>,
}

impl Child {
    /// The address plugin of `effective`, called for interface `if_name`.
    pub fn new(
        effective: &Effective,
        if_name: &IfName,
        delegate: &Delegate,
        args: &CniArgs,
        raw: &Map<String, Value>,
    ) -> Result<Self, Error> {
        let Some(plugin) = effective.config.ipam_plugin() else { return Ok(Self { plugin: None }) };
        let child = delegate
            .with_ifname(&if_name.as_str().parse()?)
            .with_args(&args.without(&OF_THE_INTERFACE_BELOW))
            .with_stdin(stdin(raw, effective.ips.as_deref()));
        Ok(Self { plugin: Some((plugin.to_owned(), child)) })
    }

    /// The tunnel's addresses and routes; given back when the ADD fails later.
    pub fn add<'a>(&'a self, undo: &mut Undo<'a>) -> Result<CniResult, Error> {
        match &self.plugin {
            Some((plugin, delegate)) => adit_plugin::ipam::add(delegate, plugin, undo),
            None => Ok(CniResult::default()),
        }
    }

    /// Whether the plugin still stands by them.
    pub fn check(&self) -> Result<(), Error> {
        self.plugin.as_ref().map_or(Ok(()), |(plugin, delegate)| delegate.check(plugin))
    }

    /// Gives them back.
    pub fn del(&self) -> Result<(), Error> {
        self.plugin.as_ref().map_or(Ok(()), |(plugin, delegate)| delegate.del(plugin))
    }
}

/// Our own stdin with the tunnel's addresses in place of those of the interface below.
fn stdin(raw: &Map<String, Value>, ips: Option<&[String]>) -> Map<String, Value> {
    let mut child = raw.clone();
    if let Some(Value::Object(runtime)) = child.get_mut("runtimeConfig") {
        runtime.remove("ips");
        runtime.remove("mac");
    }
    if let Some(Value::Object(cni)) = child.get_mut("args").and_then(|args| args.get_mut("cni")) {
        cni.remove("ips");
    }
    if let Some(ips) = ips {
        let args = child.entry("args").or_insert_with(|| json!({}));
        if !args.get("cni").is_some_and(Value::is_object) {
            *args = json!({ "cni": {} });
        }
        if let Some(Value::Object(cni)) = args.get_mut("cni") {
            cni.insert("ips".into(), json!(ips));
        }
    }
    child
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_child_sees_the_tunnels_addresses_only() {
        let raw = json!({
            "name": "n", "ipam": {"type": "static"},
            "runtimeConfig": {"ips": ["10.10.1.200/24"], "mac": "02:00:00:00:00:01", "bandwidth": {}},
            "args": {"cni": {"ips": ["10.10.1.200/24"], "tun": {"ips": ["10.4.0.1/32"]}}},
        });
        let child = stdin(raw.as_object().unwrap(), None);
        assert_eq!(
            Value::Object(child),
            json!({
                "name": "n", "ipam": {"type": "static"},
                "runtimeConfig": {"bandwidth": {}},
                "args": {"cni": {"tun": {"ips": ["10.4.0.1/32"]}}},
            })
        );
    }

    #[test]
    fn addresses_of_the_annotation_replace_the_configured_ones() {
        let ips = ["10.4.0.1/32".to_owned()];
        for raw in [json!({}), json!({"args": null}), json!({"args": {"cni": {"ips": ["1.2.3.4/32"]}}})] {
            let child = stdin(raw.as_object().unwrap(), Some(&ips));
            assert_eq!(child["args"]["cni"]["ips"], json!(["10.4.0.1/32"]), "{raw}");
        }
    }
}
