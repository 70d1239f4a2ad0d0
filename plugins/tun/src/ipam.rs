//! The address plugin of the tunnel's interface.
//!
//! It is called as for any interface, but with the tunnel's name and the tunnel's addresses: what the runtime says about
//! the interface below (`IP`, `GATEWAY` and `MAC` in `CNI_ARGS`, `args.cni.ips`, `runtimeConfig.ips`) is not for it.

use adit_cni::{Attachment, CniArgs, CniResult, Delegate, Error, GcCall};
use adit_net::IfName;
use adit_plugin::Undo;
use adit_tunnel::{Config, Effective};
use serde_json::{Map, Value, json};

use crate::error::tunnel_error;

/// Pairs of `CNI_ARGS` that speak of the interface below the tunnel.
const OF_THE_INTERFACE_BELOW: [&str; 3] = ["IP", "GATEWAY", "MAC"];

/// The address plugin, ready to be called; without one the tunnel gets no address.
pub struct Child(Option<Delegated>);

struct Delegated {
    plugin: String,
    delegate: Delegate,
    /// How the pod's annotation asks for an address of this interface.
    annotation: String,
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
        let Some(plugin) = effective.config.ipam_plugin() else { return Ok(Self(None)) };
        let delegate = delegate
            .with_ifname(&if_name.as_str().parse()?)
            .with_args(&args.without(&OF_THE_INTERFACE_BELOW))
            .with_stdin(stdin(raw, effective.ips.as_deref()));
        let annotation = format!(r#""cni-args": {{"{if_name}": {{"ips": ["10.4.0.1/30"]}}}}"#);
        Ok(Self(Some(Delegated { plugin: plugin.to_owned(), delegate, annotation })))
    }

    /// The tunnel's addresses and routes; given back when the ADD fails later.
    pub fn add<'a>(&'a self, undo: &mut Undo<'a>) -> Result<CniResult, Error> {
        match &self.0 {
            Some(Delegated { plugin, delegate, annotation }) => {
                adit_plugin::ipam::add(delegate, Some(plugin), undo, annotation)
            }
            None => Ok(CniResult::default()),
        }
    }

    /// Whether the plugin still stands by them.
    pub fn check(&self) -> Result<(), Error> {
        self.0.as_ref().map_or(Ok(()), |child| child.delegate.check(&child.plugin))
    }

    /// Gives them back.
    pub fn del(&self) -> Result<(), Error> {
        self.0.as_ref().map_or(Ok(()), |child| child.delegate.del(&child.plugin))
    }
}

/// Tells the address plugin which attachments are alive.
///
/// It knows the tunnel's addresses under the tunnel's own name, and the runtime lists the interface below: with the
/// runtime's list alone it would free the addresses of every living tunnel.
pub fn gc(call: &GcCall<Config>, valid: &[Attachment]) -> Result<(), Error> {
    let Some(plugin) = call.config.ipam_plugin() else { return Ok(()) };
    let if_name: adit_cni::IfName = call.config.interface_name().map_err(tunnel_error)?.as_str().parse()?;
    let of_tunnels = valid.iter().map(|known| Attachment { ifname: if_name.clone(), ..known.clone() });
    let list = json!(valid.iter().cloned().chain(of_tunnels).collect::<Vec<_>>());
    let mut stdin = call.raw.clone();
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        stdin.insert(key.into(), list.clone());
    }
    call.delegate.with_stdin(stdin).gc(plugin)
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
