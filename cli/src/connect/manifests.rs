//! What both clusters are told: a network and an annotation each.

use std::net::SocketAddr;

use adit_lint::NETWORKS_ANNOTATION;
use adit_tunnel::{Effective, Encryption, PublicKey, Underlay};
use serde_json::{Map, Value, json};

use super::description::{Connection, Side};

/// How often an idle end sends something: so the tunnel is up before anybody uses it, and stays so behind a NAT.
const KEEPALIVE: &str = "25s";

/// What one cluster is told.
#[derive(Debug, Clone)]
pub struct Manifests {
    /// The NetworkAttachmentDefinition.
    pub network: Value,
    /// The network as the pods' annotation selects it.
    pub selection: Value,
}

/// What the cluster of `side` is told, with the `peer_key` of the other side where it is known.
///
/// # Errors
/// The tunnel's configuration is refused.
pub fn of(connection: &Connection, side: &Side, peer_key: Option<PublicKey>) -> Result<Manifests, String> {
    let sealed = connection.is_sealed()?;
    let peer_key = sealed.then(|| peer_key.map_or_else(|| placeholder(connection, side), |key| key.to_string()));
    let plugins = [below(side), Value::Object(tun(connection, side, peer_key)?)];
    let config = json!({ "cniVersion": "1.1.0", "plugins": plugins });
    let config = serde_json::to_string_pretty(&config).map_err(|error| error.to_string())?;
    let labels = json!({ "app.kubernetes.io/managed-by": "adit-connect" });
    Ok(Manifests {
        network: json!({
            "apiVersion": "k8s.cni.cncf.io/v1",
            "kind": "NetworkAttachmentDefinition",
            "metadata": { "name": connection.name, "namespace": side.namespace, "labels": labels },
            "spec": { "config": config },
        }),
        selection: json!({ "name": connection.name, "ips": [side.net1.address] }),
    })
}

/// What stands where a key is not known yet.
fn placeholder(connection: &Connection, side: &Side) -> String {
    let peer = connection.sides.iter().find(|peer| peer.name != side.name).map_or("the peer", |peer| &peer.name);
    format!("(the public key of {peer})")
}

/// Reads both ends' tunnels as the plugin would, and says how they are sealed.
///
/// # Errors
/// An end's configuration is refused, by its name.
pub fn check(connection: &Connection) -> Result<Encryption, String> {
    let [one, other] = connection.ends()?;
    let read = |side: &Side| {
        let refused = |problem: &dyn ToString| format!("{}: {}", side.name, problem.to_string());
        let plain = [&side.tunnel, &connection.tunnel].iter().find_map(|tunnel| tunnel.get("encryption"));
        // Any key will do to see whether everything else is right.
        let somebodys = (plain != Some(&json!("none"))).then(|| PublicKey::new([1; 32]).to_string());
        let raw = tun(connection, side, somebodys)?;
        let config = Effective::read(&raw).map_err(|error| refused(&error))?.config;
        let intent = config.validate().map_err(|error| refused(&error))?;
        if side.net1.plugin.get("type").and_then(Value::as_str).is_none() {
            return Err(format!("{}: net1.plugin.type is missing; write \"bridge\" or \"macvlan\"", side.name));
        }
        if intent.underlay == Underlay::Host && side.endpoint.is_none() {
            let name = &side.name;
            return Err(format!(
                "{name}: endpoint is missing; with \"underlay\": \"host\" write the address of its node"
            ));
        }
        Ok((intent.encap, intent.encryption))
    };
    let [of_one, of_other] = [read(one)?, read(other)?];
    if of_one != of_other {
        return Err(format!(
            "tunnel: {} would have encap {} with encryption {}, and {} {} with {}; write both for both sides",
            one.name, of_one.0, of_one.1, other.name, of_other.0, of_other.1
        ));
    }
    Ok(of_one.1)
}

/// The plugin below the tunnel.
fn below(side: &Side) -> Value {
    let mut plugin = side.net1.plugin.clone();
    let routes = side.net1.routes.iter().map(|route| match side.net1.gateway {
        Some(gateway) => json!({ "dst": route, "gw": gateway }),
        None => json!({ "dst": route }),
    });
    let ipam = json!({ "type": static_of(side), "routes": routes.collect::<Vec<_>>() });
    // The address is the annotation's.
    plugin.entry("capabilities").or_insert_with(|| json!({ "ips": true }));
    plugin.entry("ipam").or_insert(ipam);
    Value::Object(plugin)
}

/// The address plugin that is installed beside the plugin below the tunnel: `adit-static` beside `adit-bridge`.
fn static_of(side: &Side) -> String {
    let below = side.net1.plugin.get("type").and_then(Value::as_str).unwrap_or_default();
    let prefix = ["bridge", "macvlan"].into_iter().find_map(|name| below.strip_suffix(name));
    format!("{}static", prefix.unwrap_or_default())
}

/// The address below its tunnel, with the port where it is not the usual one.
fn receives_at(connection: &Connection, side: &Side) -> String {
    let address = side.net1.address.ip();
    let local = side.tunnel.get("local").or_else(|| connection.tunnel.get("local")).and_then(Value::as_str);
    match local.and_then(|local| local.parse::<SocketAddr>().ok()) {
        Some(local) => SocketAddr::new(address, local.port()).to_string(),
        None => address.to_string(),
    }
}

/// The tunnel on top of it.
fn tun(connection: &Connection, side: &Side, peer_key: Option<String>) -> Result<Map<String, Value>, String> {
    let peer = connection.ends()?.into_iter().find(|peer| peer.name != side.name).unwrap_or(side);
    let mut tun = Map::new();
    tun.insert("type".into(), json!("tun"));
    tun.insert("encap".into(), json!("udp"));
    tun.extend(connection.tunnel.clone());
    tun.extend(side.tunnel.clone());
    let endpoint = peer.endpoint.clone().unwrap_or_else(|| receives_at(connection, peer));
    tun.insert("remote".into(), json!(endpoint));
    if let Some(key) = peer_key {
        tun.insert("publicKey".into(), json!(key));
        tun.insert("privateKeyFile".into(), json!(side.key_file(connection)));
    }
    if tun.get("encap").and_then(Value::as_str) != Some("vxlan") {
        tun.entry("keepalive").or_insert_with(|| json!(KEEPALIVE));
    }
    let routes: Vec<Value> = side.routes.iter().map(|route| json!({ "dst": route })).collect();
    let ipam = json!({ "type": static_of(side), "addresses": [{ "address": side.address }], "routes": routes });
    tun.entry("ipam").or_insert(ipam);
    Ok(tun)
}

/// The annotation of pods in `namespace` that had `before`, with `selection` in it: the network's place and what else is said of it are
/// kept, other networks stay.
///
/// # Errors
/// The annotation that is there cannot be read.
pub fn annotation(before: Option<&str>, selection: &Value, namespace: &str) -> Result<String, String> {
    let mut networks = before.map_or_else(|| Ok(Vec::new()), selections)?;
    let name = selection.get("name").and_then(Value::as_str).unwrap_or_default();
    match networks.iter_mut().find(|network| is(network, name, namespace)).and_then(Value::as_object_mut) {
        Some(known) => known.extend(selection.as_object().cloned().unwrap_or_default()),
        None => networks.push(selection.clone()),
    }
    serde_json::to_string(&networks).map_err(|error| error.to_string())
}

/// Whether an annotation of a pod in `namespace` selects the network `name` of that namespace.
pub fn selects(annotation: &str, name: &str, namespace: &str) -> bool {
    selections(annotation).is_ok_and(|networks| networks.iter().any(|network| is(network, name, namespace)))
}

fn is(network: &Value, name: &str, namespace: &str) -> bool {
    let text = |key: &str| network.get(key).and_then(Value::as_str);
    text("name") == Some(name) && text("namespace").is_none_or(|found| found == namespace)
}

/// What an annotation selects, in either of its forms: a list in JSON, or names.
fn selections(annotation: &str) -> Result<Vec<Value>, String> {
    match annotation.trim() {
        "" => Ok(Vec::new()),
        text if text.starts_with('[') => serde_json::from_str(text).map_err(|error| {
            format!("the annotation {NETWORKS_ANNOTATION} that is there is no list of networks: {error}")
        }),
        text => Ok(text.split(',').map(|part| short(part.trim())).collect()),
    }
}

/// `namespace/name@interface`, of which only the name must be there.
fn short(text: &str) -> Value {
    let (path, interface) = text.split_once('@').map_or((text, None), |(path, interface)| (path, Some(interface)));
    let (namespace, name) = path.split_once('/').map_or((None, path), |(namespace, name)| (Some(namespace), name));
    let parts = [("name", Some(name)), ("namespace", namespace), ("interface", interface)];
    parts.into_iter().filter_map(|(key, text)| Some((key.to_owned(), json!(text?)))).collect()
}
