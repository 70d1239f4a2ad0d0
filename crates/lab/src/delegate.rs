//! A network as Multus hands it to libcni: its configuration, interface name and arguments.
//!
//! Sources: multus-cni 4.3.0 `pkg/types/conf.go` (`LoadDelegateNetConf`, `newCNIRuntimeConf`, `injectCNIArgs`),
//! network-attachment-definition-client `pkg/utils/cniconfig.go` (`GetCNIConfigFromSpec`).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    Error, Result,
    annotation::Selection,
    nad::{Nad, Store},
};

/// A network of a pod. The node's cache keeps these, so that DEL has the configuration of ADD.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delegate {
    /// `namespace/name` of the network, as in events and in the network status.
    pub name: String,
    /// The configuration (or list) as the runner gets it.
    pub config: Value,
    /// CNI_IFNAME.
    pub ifname: String,
    /// Addresses that are asked for.
    #[serde(default)]
    pub ips: Vec<String>,
    /// Hardware address that is asked for.
    #[serde(default)]
    pub mac: Option<String>,
    /// Whether it is the cluster's default network.
    #[serde(default)]
    pub default: bool,
}

/// Whose networks they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodIdentity {
    /// Name of the pod.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID.
    pub uid: String,
    /// Identifier of its sandbox.
    pub container_id: String,
}

impl Delegate {
    /// The networks of a pod in the order in which they are attached. `default_network` is number 0, whether there
    /// is one or not: the first network of the annotation is `net1`.
    pub(crate) fn select(
        selections: &[Selection],
        default_network: Option<Self>,
        pod_namespace: &str,
        store: &Store,
    ) -> Result<Vec<Self>> {
        let mut delegates: Vec<Self> = default_network.into_iter().collect();
        for (selection, index) in selections.iter().zip(1_u32..) {
            let namespace = selection.namespace.as_deref().unwrap_or(pod_namespace);
            let nad = store.get(namespace, &selection.name)?;
            delegates.push(Self {
                name: format!("{namespace}/{}", selection.name),
                config: configuration(nad, selection.cni_args.as_ref())?,
                ifname: selection.interface.clone().unwrap_or_else(|| format!("net{index}")),
                ips: selection.ips.clone(),
                mac: selection.mac.clone(),
                default: false,
            });
        }
        Ok(delegates)
    }

    /// Whether the configuration is a list of plugins.
    #[must_use]
    pub fn is_list(&self) -> bool {
        self.config.get("plugins").is_some()
    }

    /// The pairs of CNI_ARGS, in the order of Multus thin: its own five, the runtime's again, and on ADD what the
    /// annotation asks for.
    #[must_use]
    pub fn arguments(&self, pod: &PodIdentity, is_add: bool) -> Vec<(String, String)> {
        let own = [
            ("K8S_POD_NAMESPACE", &pod.namespace),
            ("K8S_POD_NAME", &pod.name),
            ("K8S_POD_INFRA_CONTAINER_ID", &pod.container_id),
            ("K8S_POD_UID", &pod.uid),
        ];
        let own = own.map(|(key, value)| (key.to_owned(), value.clone()));
        let ignore = |value: &str| ("IgnoreUnknown".to_owned(), value.to_owned());
        let mut pairs = vec![ignore("true")];
        pairs.extend(own.clone());
        pairs.extend(own);
        pairs.push(ignore("1"));
        if is_add {
            pairs.extend(self.mac.clone().map(|mac| ("MAC".to_owned(), mac)));
            pairs.extend((!self.ips.is_empty()).then(|| ("IP".to_owned(), self.ips.join(","))));
        }
        pairs
    }

    /// What plugins get as `runtimeConfig`, each as far as it declares the capability.
    #[must_use]
    pub fn capability_arguments(&self) -> Map<String, Value> {
        let mut map = Map::new();
        if !self.ips.is_empty() {
            map.insert("ips".to_owned(), json!(self.ips));
        }
        if let Some(mac) = &self.mac {
            map.insert("mac".to_owned(), json!(mac));
        }
        map
    }
}

/// The definition's configuration with the definition's name where it has none, and with `cni-args` in every plugin.
fn configuration(nad: &Nad, cni_args: Option<&Map<String, Value>>) -> Result<Value> {
    let origin = format!("network attachment definition {}/{}", nad.namespace, nad.name);
    let mut config: Value = serde_json::from_str(&nad.config).map_err(|error| Error::manifest(&origin, error))?;
    let Some(object) = config.as_object_mut() else {
        return Err(Error::manifest(&origin, "spec.config is no JSON object"));
    };
    if object.get("name").and_then(Value::as_str).unwrap_or_default().is_empty() {
        object.insert("name".to_owned(), json!(nad.name));
    }
    let Some(cni_args) = cni_args else { return Ok(config) };
    match object.get_mut("plugins").and_then(Value::as_array_mut) {
        Some(plugins) => plugins.iter_mut().filter_map(Value::as_object_mut).for_each(|p| merge(p, cni_args)),
        None => merge(object, cni_args),
    }
    Ok(config)
}

fn merge(plugin: &mut Map<String, Value>, cni_args: &Map<String, Value>) {
    let args = plugin.entry("args").or_insert_with(|| json!({}));
    if !args.is_object() {
        *args = json!({});
    }
    let Some(args) = args.as_object_mut() else { return };
    let cni = args.entry("cni").or_insert_with(|| json!({}));
    if !cni.is_object() {
        *cni = json!({});
    }
    if let Some(cni) = cni.as_object_mut() {
        cni.extend(cni_args.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::annotation;

    fn store() -> Store {
        let mut store = Store::default();
        store.apply([
            Nad::new("br", json!({"cniVersion": "0.3.0", "type": "bridge"})),
            Nad::new(
                "chain",
                json!({"cniVersion": "1.1.0", "name": "own", "plugins": [
                {"type": "bridge"}, {"type": "tun", "args": {"cni": {"keep": 1, "ips": []}}}]}),
            ),
        ]);
        store
    }

    fn select(annotation: &str) -> Vec<Delegate> {
        Delegate::select(&annotation::parse(annotation).unwrap(), None, "default", &store()).unwrap()
    }

    #[test]
    fn a_named_interface_consumes_its_index() {
        let names: Vec<_> = select("br,br,br@sec0,br").into_iter().map(|delegate| delegate.ifname).collect();
        assert_eq!(names, ["net1", "net2", "sec0", "net4"]);
    }

    #[test]
    fn a_configuration_without_a_name_gets_the_definitions() {
        let delegates = select("br,chain");
        assert_eq!(delegates[0].config["name"], "br");
        assert_eq!(delegates[1].config["name"], "own");
        assert_eq!(delegates[1].name, "default/chain");
    }

    #[test]
    fn cni_args_are_merged_into_every_plugin() {
        let delegates = select(r#"[{"name":"chain","cni-args":{"ips":["10.0.0.1/24"]}}]"#);
        let plugins = &delegates[0].config["plugins"];
        assert_eq!(plugins[0]["args"]["cni"], json!({"ips": ["10.0.0.1/24"]}));
        assert_eq!(plugins[1]["args"]["cni"], json!({"keep": 1, "ips": ["10.0.0.1/24"]}));
    }

    #[test]
    fn ips_and_mac_are_arguments_of_add_only() {
        let delegate = &select(r#"[{"name":"br","ips":["10.10.1.200/24","fd10::1/64"],"mac":"02:00:00:00:00:01"}]"#)[0];
        let pod = PodIdentity {
            name: "p".into(),
            namespace: "default".into(),
            uid: String::new(),
            container_id: "cid".into(),
        };
        let text = |is_add| -> String {
            let pairs: Vec<_> = delegate.arguments(&pod, is_add).iter().map(|(k, v)| format!("{k}={v}")).collect();
            pairs.join(";")
        };
        let del = "IgnoreUnknown=true;K8S_POD_NAMESPACE=default;K8S_POD_NAME=p;K8S_POD_INFRA_CONTAINER_ID=cid;\
                   K8S_POD_UID=;K8S_POD_NAMESPACE=default;K8S_POD_NAME=p;K8S_POD_INFRA_CONTAINER_ID=cid;K8S_POD_UID=;\
                   IgnoreUnknown=1";
        assert_eq!(text(false), del);
        assert_eq!(text(true), format!("{del};MAC=02:00:00:00:00:01;IP=10.10.1.200/24,fd10::1/64"));
    }
}
