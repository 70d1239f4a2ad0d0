//! Manifests: network attachment definitions and pods, as `kubectl apply` takes them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::Value;

use crate::{Error, Result};

/// Namespace of whatever names none.
pub const DEFAULT_NAMESPACE: &str = "default";
/// The annotation that selects networks.
pub const NETWORKS_ANNOTATION: &str = "k8s.v1.cni.cncf.io/networks";

/// A NetworkAttachmentDefinition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nad {
    /// Name of the object; also the network's name where the configuration has none.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// `spec.config`: a CNI configuration or list of configurations, as JSON text.
    pub config: String,
}

impl Nad {
    /// A definition in the default namespace.
    #[must_use]
    pub fn new(name: &str, config: impl ToString) -> Self {
        Self { name: name.to_owned(), namespace: DEFAULT_NAMESPACE.to_owned(), config: config.to_string() }
    }

    /// The same in another namespace.
    #[must_use]
    pub fn in_namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }
}

/// What the lab needs of a pod's manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodManifest {
    /// Name of the pod.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Value of the annotation `k8s.v1.cni.cncf.io/networks`.
    pub networks: Option<String>,
    /// The manifest as it is.
    pub object: Value,
}

/// The objects of a file, in its order.
#[derive(Debug, Clone, Default)]
pub struct Manifests {
    /// Network attachment definitions.
    pub nads: Vec<Nad>,
    /// Pods.
    pub pods: Vec<PodManifest>,
}

impl Manifests {
    /// Reads a YAML or JSON file. A relative path is taken from the workspace's root.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else than definitions and pods.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = in_workspace(path.as_ref());
        let text = fs::read_to_string(&path).map_err(Error::io(format!("read {}", path.display())))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Reads YAML or JSON text with one or more documents; `origin` is its name in errors.
    ///
    /// # Errors
    /// As [`Manifests::read`].
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(text).map_err(|error| Error::manifest(origin, error))?;
        let mut manifests = Self::default();
        for document in documents {
            let object = Object::deserialize(&document).map_err(|error| Error::manifest(origin, error))?;
            manifests.add(object, document, origin)?;
        }
        Ok(manifests)
    }

    fn add(&mut self, object: Object, document: Value, origin: &str) -> Result<()> {
        let Metadata { name, namespace, mut annotations } = object.metadata;
        let namespace = namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
        match object.kind.as_str() {
            "NetworkAttachmentDefinition" => {
                let config = object.spec.and_then(|spec| spec.config).unwrap_or_default();
                if config.trim().is_empty() {
                    return Err(Error::manifest(origin, format!("{name} has no spec.config; the lab reads no files")));
                }
                self.nads.push(Nad { name, namespace, config });
            }
            "Pod" => {
                let networks = annotations.remove(NETWORKS_ANNOTATION);
                self.pods.push(PodManifest { name, namespace, networks, object: document });
            }
            kind => {
                let why = format!("{name} is a {kind}; the lab knows NetworkAttachmentDefinition and Pod");
                return Err(Error::manifest(origin, why));
            }
        }
        Ok(())
    }
}

/// What a test may give as networks: a path to a manifest, or definitions.
pub trait IntoNads {
    /// The definitions.
    ///
    /// # Errors
    /// They cannot be read.
    fn into_nads(self) -> Result<Vec<Nad>>;
}

impl IntoNads for &str {
    fn into_nads(self) -> Result<Vec<Nad>> {
        Ok(Manifests::read(self)?.nads)
    }
}

impl IntoNads for &Path {
    fn into_nads(self) -> Result<Vec<Nad>> {
        Ok(Manifests::read(self)?.nads)
    }
}

impl IntoNads for Nad {
    fn into_nads(self) -> Result<Vec<Nad>> {
        Ok(vec![self])
    }
}

impl IntoNads for Vec<Nad> {
    fn into_nads(self) -> Result<Vec<Nad>> {
        Ok(self)
    }
}

/// A path as it is if absolute, else below the workspace's root.
#[must_use]
pub fn in_workspace(path: &Path) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// The definitions of a cluster.
#[derive(Debug, Default)]
pub(crate) struct Store {
    nads: BTreeMap<(String, String), Nad>,
}

impl Store {
    pub(crate) fn apply(&mut self, nads: impl IntoIterator<Item = Nad>) {
        self.nads.extend(nads.into_iter().map(|nad| ((nad.namespace.clone(), nad.name.clone()), nad)));
    }

    pub(crate) fn get(&self, namespace: &str, name: &str) -> Result<&Nad> {
        self.nads.get(&(namespace.to_owned(), name.to_owned())).ok_or_else(|| Error::Unknown {
            what: format!("network attachment definition {namespace}/{name}"),
            known: self.nads.keys().map(|(namespace, name)| format!("{namespace}/{name}")).collect(),
        })
    }
}

#[derive(Deserialize)]
struct Object {
    kind: String,
    metadata: Metadata,
    spec: Option<Spec>,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    namespace: Option<String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Spec {
    config: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_hold_definitions_and_pods() {
        let text = r#"
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata:
  name: br
spec:
  config: '{
      "type": "bridge"
    }'
---
apiVersion: v1
kind: Pod
metadata:
  name: a
  namespace: demo
  annotations:
    k8s.v1.cni.cncf.io/networks: '[{"name":"br"}]'
spec:
  containers: []
"#;
        let manifests = Manifests::parse(text, "test").unwrap();
        assert_eq!(manifests.nads[0].name, "br");
        let config: Value = serde_json::from_str(&manifests.nads[0].config).unwrap();
        assert_eq!(config["type"], "bridge");
        let pod = &manifests.pods[0];
        assert_eq!((pod.name.as_str(), pod.namespace.as_str()), ("a", "demo"));
        assert_eq!(pod.networks.as_deref(), Some(r#"[{"name":"br"}]"#));
    }

    #[test]
    fn other_kinds_are_refused_by_name() {
        let error = Manifests::parse("kind: Service\nmetadata: {name: s}", "test").unwrap_err();
        assert!(error.to_string().contains("s is a Service"), "{error}");
    }
}
