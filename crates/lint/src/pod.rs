//! Pods, and the templates of whatever makes pods.

use crate::{finding::Place, node::Node};

/// What asks Multus for networks.
pub const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";

/// A pod, or what pods are made of.
#[derive(Debug)]
pub(crate) struct Pod {
    pub file: usize,
    /// Where it is named.
    pub at: usize,
    pub kind: String,
    pub namespace: String,
    pub name: String,
    /// How many pods are made: a number that is written, or one on each node.
    pub replicas: Replicas,
    /// The annotation's elements; none without an annotation or with one that cannot be read.
    pub selections: Vec<Selection>,
    /// The pod's specification.
    pub spec: Option<Node>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replicas {
    Number(u64),
    EachNode,
}

impl Pod {
    pub fn place(&self, at: usize) -> Place {
        Place { file: self.file, at }
    }

    pub fn label(&self) -> String {
        let Self { kind, namespace, name, .. } = self;
        format!("{kind} {namespace}/{name}")
    }

    /// Whether both are the same object: then one replaces the other.
    pub fn is_same_object(&self, other: &Self) -> bool {
        (&self.kind, &self.namespace, &self.name) == (&other.kind, &other.namespace, &other.name)
    }
}

/// One network that a pod asks for.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    /// Where the element begins, and where the network is named.
    pub at: usize,
    pub name_at: usize,
    pub namespace: String,
    pub name: String,
    /// The interface's name: as asked for, or by its position.
    pub interface: String,
    /// The element's object; the short form has none.
    pub node: Option<Node>,
}

impl Selection {
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.node.as_ref()?.get(key)
    }

    /// The addresses that are asked for, with their places.
    pub fn ips(&self) -> Vec<(usize, &str)> {
        self.get("ips").map(texts).unwrap_or_default()
    }

    pub fn cni_args(&self) -> Option<&Node> {
        self.get("cni-args").filter(|node| node.is_map())
    }

    pub fn label(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// The texts of a list.
pub(crate) fn texts(node: &Node) -> Vec<(usize, &str)> {
    node.items().iter().filter_map(|item| Some((item.at, item.text()?))).collect()
}
