//! Which containers need a plugin still: their DEL would fail without it, and they would never go away.
//!
//! libcni keeps the configuration of every attachment until its DEL has succeeded, in a file for each; Multus keeps such files
//! of its own.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

/// Where runtimes and Multus keep them, unless they were told otherwise.
pub const CACHES: [&str; 2] = ["/var/lib/cni/results", "/var/lib/cni/multus/results"];

/// The containers, as `<containerID> <interface>`, whose attachments name one of `plugins`. A file that is none of libcni's says nothing.
#[must_use]
pub fn containers(caches: &[PathBuf], plugins: &BTreeSet<String>) -> BTreeSet<String> {
    let files = caches.iter().filter_map(|cache| fs::read_dir(cache).ok()).flatten().flatten();
    files.filter_map(|file| attachment(&file.path(), plugins)).collect()
}

fn attachment(path: &Path, plugins: &BTreeSet<String>) -> Option<String> {
    let cached: Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let text = |key: &str| cached.get(key).and_then(Value::as_str);
    let config: Value = serde_json::from_slice(&STANDARD.decode(text("config")?).ok()?).ok()?;
    names(&config, plugins).then(|| format!("{} {}", text("containerId").unwrap_or("?"), text("ifName").unwrap_or("?")))
}

/// Whether a configuration or one below it has one of these types.
fn names(config: &Value, plugins: &BTreeSet<String>) -> bool {
    match config {
        Value::Object(keys) => keys.iter().any(|(key, value)| match value {
            Value::String(name) => key == "type" && plugins.contains(name),
            other => names(other, plugins),
        }),
        Value::Array(values) => values.iter().any(|value| names(value, plugins)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn attachments_are_found_by_the_plugins_that_they_name() {
        let directory = tempfile::tempdir().unwrap();
        let cache = |name: &str, config: &Value| {
            let cached = json!({ "kind": "cniCacheV1", "containerId": name, "ifName": "net1",
                "networkName": "ohio", "config": STANDARD.encode(config.to_string()) });
            fs::write(directory.path().join(name), cached.to_string()).unwrap();
        };
        cache("c1", &json!({ "name": "ohio", "plugins": [{ "type": "bridge" }, { "type": "tun" }] }));
        cache("c2", &json!({ "name": "ohio", "type": "macvlan", "ipam": { "type": "adit-static" } }));
        cache("c3", &json!({ "name": "tun", "type": "bridge", "comment": "adit-static" }));
        fs::write(directory.path().join("c4"), "no JSON: tun").unwrap();
        let caches = [directory.path().to_owned(), directory.path().join("missing")];
        let found = |plugins: &[&str]| -> Vec<String> {
            containers(&caches, &plugins.iter().map(|name| (*name).to_owned()).collect()).into_iter().collect()
        };
        assert_eq!(found(&["tun", "adit-static"]), ["c1 net1", "c2 net1"]);
        assert_eq!(found(&["bridge"]), ["c1 net1", "c3 net1"]);
        assert!(found(&["adit-bridge"]).is_empty());
    }
}
