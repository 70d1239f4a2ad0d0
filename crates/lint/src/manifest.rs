//! What the documents of a file are: networks, pods, or nothing of ours.

use std::rc::Rc;

use crate::{
    annotation,
    finding::{Code, Findings, Place},
    guess, json,
    network::{self, Network},
    node::{Kind, Node},
    pod::{NETWORKS, Pod, Replicas},
    yaml,
};

/// A file with its text.
#[derive(Debug, Clone)]
pub struct Source {
    /// As the person named it; `-` for stdin.
    pub path: String,
    /// What is in it.
    pub text: String,
    /// It was found in a folder, where many things are: what is neither YAML nor JSON is passed over unless it seems to be meant.
    pub is_found: bool,
}

/// Everything that the files hold.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    pub networks: Vec<Rc<Network>>,
    /// Definitions whose configuration is elsewhere or cannot be read: namespace and name.
    pub unread: Vec<(String, String)>,
    pub pods: Vec<Pod>,
    /// Of each file the folder that it is in.
    pub folders: Vec<String>,
    /// What was passed over: the file and what it is.
    pub passed_over: Vec<(Place, String)>,
}

const GROUP: &str = "k8s.cni.cncf.io";
const DEFINITION: &str = "NetworkAttachmentDefinition";
const DEFAULT_NAMESPACE: &str = "default";
/// Lists in lists: nobody writes them.
const DEEPEST_LIST: usize = 8;

/// Reads the file with that number.
pub(crate) fn read(file: usize, source: &Source, objects: &mut Objects, findings: &mut Findings) {
    let Source { path, text, is_found } = source;
    objects.folders.push(path.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned());
    let ends_with = |ending: &str| path.ends_with(ending);
    let is_conf = ends_with(".conf") || ends_with(".conflist");
    if ends_with(".conf") && !text.trim_start().starts_with('{') {
        objects.passed_over.push((Place { file, at: 0 }, "a .conf file of something else".to_owned()));
        return;
    }
    let is_json = is_conf || ends_with(".json");
    let place = |at: usize| Place { file, at };
    let documents = if is_json || text.trim_start().starts_with('{') {
        json::parse_stream(text).map_err(|wrong| (Code::Json, wrong)).or_else(|wrong| match yaml::parse(text) {
            Ok(documents) if !is_json => Ok(documents),
            _ => Err(wrong),
        })
    } else {
        yaml::parse(text).map_err(|wrong| (Code::Yaml, wrong))
    };
    let documents = match documents {
        Ok(documents) => documents,
        Err(_) if *is_found && !seems_meant(text) => {
            objects.passed_over.push((place(0), "neither YAML nor JSON".to_owned()));
            return;
        }
        Err((code, wrong)) => {
            let what = if code == Code::Json { "JSON" } else { "YAML" };
            findings.error(place(wrong.at), code, format!("the file is no {what}: {}", wrong.message), wrong.remedy);
            return;
        }
    };
    let mut reader = Reader { file, text, is_list: ends_with(".conflist"), objects, findings };
    for document in &documents {
        reader.document(document, 0);
    }
}

struct Reader<'a> {
    file: usize,
    text: &'a str,
    is_list: bool,
    objects: &'a mut Objects,
    findings: &'a mut Findings,
}

impl Reader<'_> {
    fn place(&self, at: usize) -> Place {
        Place { file: self.file, at }
    }

    fn document(&mut self, node: &Node, depth: usize) {
        let kind = node.get("kind").and_then(Node::text);
        let api = node.get("apiVersion").and_then(Node::text).unwrap_or_default();
        match kind {
            None if self.is_list || is_configuration(node) => self.configuration(node),
            None => self.pass_over(node, "a document without kind"),
            Some(DEFINITION) => self.definition(node, api),
            Some(kind)
                if kind.ends_with("List") && !node.get("items").map(Node::items).unwrap_or_default().is_empty() =>
            {
                for item in node.get("items").map(Node::items).unwrap_or_default() {
                    if depth < DEEPEST_LIST {
                        self.document(item, depth.saturating_add(1));
                    }
                }
            }
            Some(kind) if api.starts_with(GROUP) && guess::distance(kind, DEFINITION) <= 4 => {
                let at = node.get("kind").map_or(node.at, |node| node.at);
                self.findings.error(
                    self.place(at),
                    Code::Manifest,
                    format!("{GROUP} has no kind {kind}"),
                    format!("{DEFINITION} is meant"),
                );
            }
            Some(kind) => self.workload(node, kind),
        }
    }

    fn pass_over(&mut self, node: &Node, what: &str) {
        self.objects.passed_over.push((self.place(node.at), what.to_owned()));
    }

    /// A list or a plugin's configuration in a file of its own, as a runtime reads it.
    fn configuration(&mut self, node: &Node) {
        self.duplicates(node);
        let network = network::read(node, self.file, node.at, None, self.findings);
        self.objects.networks.extend(network);
    }

    fn duplicates(&mut self, node: &Node) {
        let mut found = Vec::new();
        node.duplicates(&mut found);
        for (key, at) in found {
            let message = format!("{key:?} stands here for the second time");
            self.findings.warning(self.place(at), Code::DuplicateKey, message, "the last one counts: remove the other");
        }
    }

    fn identity(&mut self, node: &Node) -> (String, String, usize) {
        let metadata = node.get("metadata");
        let text = |key: &str| metadata.and_then(|metadata| metadata.get(key)).and_then(Node::text);
        let namespace = text("namespace").unwrap_or(DEFAULT_NAMESPACE).to_owned();
        let name = text("name").or_else(|| text("generateName")).unwrap_or_default().to_owned();
        let at = metadata.and_then(|metadata| metadata.get("name")).map_or(node.at, |node| node.at);
        (namespace, name, at)
    }

    fn definition(&mut self, node: &Node, api: &str) {
        if api != "k8s.cni.cncf.io/v1" {
            let at = node.get("apiVersion").map_or(node.at, |node| node.at);
            let message = format!("a {DEFINITION} has another apiVersion than {api:?}");
            self.findings.error(self.place(at), Code::Manifest, message, "write apiVersion: k8s.cni.cncf.io/v1");
        }
        self.duplicates(node);
        let (namespace, name, at) = self.identity(node);
        if name.is_empty() {
            self.findings.error(
                self.place(node.at),
                Code::Manifest,
                format!("the {DEFINITION} has no metadata.name"),
                "give it one",
            );
        }
        let spec = node.get("spec");
        for member in spec.map(Node::members).unwrap_or_default() {
            if member.key != "config" {
                let remedy = match guess::nearest(&member.key, ["config"]) {
                    Some((meant, _)) => format!("{meant:?} is meant"),
                    None if ["plugins", "cniVersion", "type", "name"].contains(&member.key.as_str()) => {
                        "it belongs into the JSON text of \"config\"".to_owned()
                    }
                    None => "remove it".to_owned(),
                };
                let message = format!("{:?} is no key of spec, so it is dropped", member.key);
                self.findings.warning(self.place(member.at), Code::UnknownKey, message, remedy);
            }
        }
        let network =
            spec.and_then(|spec| spec.get("config")).and_then(|config| self.config(config, at, &namespace, &name));
        match network {
            Some(network) => self.objects.networks.push(network),
            None => self.objects.unread.push((namespace, name)),
        }
    }

    /// `spec.config`: JSON inside a text.
    fn config(&mut self, config: &Node, at: usize, namespace: &str, name: &str) -> Option<Rc<Network>> {
        let Kind::Text(text) = &config.kind else {
            self.findings.error(
                self.place(config.at),
                Code::Manifest,
                format!("spec.config is {}, and the API takes a text", config.kind_name()),
                "write config: | and the JSON below it, indented",
            );
            return None;
        };
        if text.value.trim().is_empty() {
            return None;
        }
        let offsets = text.offsets(self.text).unwrap_or_default();
        let inner = |at: usize| offsets.get(at).copied().unwrap_or(config.at);
        match json::parse(&text.value, inner, false) {
            Ok(root) => {
                self.duplicates(&root);
                let definition = Some((namespace.to_owned(), name.to_owned()));
                network::read(&root, self.file, at, definition, self.findings)
            }
            Err(wrong) => {
                let message = format!("spec.config is no JSON: {}", wrong.message);
                self.findings.error(self.place(inner(wrong.at)), Code::Json, message, wrong.remedy);
                None
            }
        }
    }

    /// A pod, or whatever has the template of one.
    fn workload(&mut self, node: &Node, kind: &str) {
        let spec = node.get("spec");
        let job = spec.and_then(|spec| spec.get("jobTemplate")).and_then(|template| template.get("spec"));
        let around = job.or(spec);
        let template = match kind {
            "Pod" => Some(node),
            "PodTemplate" => node.get("template"),
            _ => around.and_then(|spec| spec.get("template")),
        };
        let template = template.filter(|template| {
            kind == "Pod" || template.get("spec").is_some_and(|spec| spec.get("containers").is_some())
        });
        let Some(template) = template else { return self.pass_over(node, kind) };
        self.duplicates(node);
        let (namespace, name, at) = self.identity(node);
        let annotation = |node: &Node| node.get("metadata")?.get("annotations")?.member(NETWORKS).cloned();
        if kind != "Pod"
            && kind != "PodTemplate"
            && let Some(member) = annotation(node)
        {
            let path = if job.is_some() {
                "spec.jobTemplate.spec.template.metadata.annotations"
            } else {
                "spec.template.metadata.annotations"
            };
            self.findings.warning(
                self.place(member.at),
                Code::AnnotationPlace,
                format!("the annotation stands on the {kind} itself, where nobody reads it"),
                format!("move it to {path}"),
            );
        }
        self.misspelt_annotation(template);
        let selections = match annotation(template) {
            Some(member) if !matches!(member.value.kind, Kind::Null) => {
                annotation::read(&member.value, self.file, self.text, &namespace, self.findings)
            }
            _ => Vec::new(),
        };
        let number = |key: &str| around.and_then(|spec| spec.get(key)).and_then(Node::number).unwrap_or(1);
        let replicas = match kind {
            "DaemonSet" => Replicas::EachNode,
            "Job" | "CronJob" => Replicas::Number(number("parallelism")),
            "Pod" => Replicas::Number(1),
            _ => Replicas::Number(number("replicas")),
        };
        let spec = template.get("spec").cloned();
        self.objects.pods.push(Pod {
            file: self.file,
            at,
            kind: kind.to_owned(),
            namespace,
            name,
            replicas,
            selections,
            spec,
        });
    }

    /// A key of the annotations that is one slip away from the one that Multus reads.
    fn misspelt_annotation(&mut self, template: &Node) {
        let annotations = template.get("metadata").and_then(|metadata| metadata.get("annotations"));
        for member in annotations.map(Node::members).unwrap_or_default() {
            let is_near = member.key != NETWORKS && guess::distance(&member.key, NETWORKS) <= 3;
            if is_near || member.key == "k8s.v1.cni.cncf.io/network" || member.key == "k8s.cni.cncf.io/networks" {
                self.findings.warning(
                    self.place(member.at),
                    Code::UnknownKey,
                    format!("{:?} is no annotation that Multus reads", member.key),
                    format!("\"{NETWORKS}\" is meant"),
                );
            }
        }
    }
}

/// Whether a file that cannot be read was written for a cluster, and is no template of one.
fn seems_meant(text: &str) -> bool {
    ["apiVersion", "cniVersion"].iter().any(|word| text.contains(word)) && !text.contains("{{")
}

/// Whether a document without a kind is a plugin's configuration or a list of them.
fn is_configuration(node: &Node) -> bool {
    let has = |key: &str| node.get(key).is_some();
    let is_list = node.get("plugins").is_some_and(|plugins| matches!(plugins.kind, Kind::List(_)));
    let has_types =
        || node.get("plugins").is_some_and(|plugins| plugins.items().iter().any(|item| item.get("type").is_some()));
    (has("cniVersion") && (is_list || has("type"))) || (has("name") && has_types()) || (has("type") && has("ipam"))
}
