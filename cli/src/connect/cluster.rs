//! What is done in a cluster: objects are applied, and the agents of its nodes are asked through their own command line.

use adit_lint::NETWORKS_ANNOTATION;
use adit_tunnel::PublicKey;
use serde_json::{Value, json};

use super::{
    description::{Connection, Side, Workload, WorkloadKind},
    kubectl::Kubectl,
    manifests::{self, Manifests},
};

const MANAGER: &str = "--field-manager=adit-connect";
/// What the agents' pods are found by (`conf/install/agent`).
const AGENTS: &str = "--selector=app.kubernetes.io/name=adit,app.kubernetes.io/component=agent";
const AGENT_CONTAINER: &str = "--container=aditd";

/// The cluster of one side.
pub struct Cluster<'a> {
    pub connection: &'a Connection,
    pub side: &'a Side,
    pub kubectl: &'a Kubectl,
}

impl Cluster<'_> {
    fn failed(&self, action: &str, problem: &str) -> String {
        format!("{}: cannot {action}: {problem}", self.side.name)
    }

    /// The objects that `arguments` select.
    fn get(&self, arguments: &[&str]) -> Result<Value, String> {
        let all = ["get", "--output=json"].iter().chain(arguments);
        let found = self.kubectl.json(self.side.context(), all);
        found.map_err(|problem| self.failed(&format!("get {}", arguments.join(" ")), &problem))
    }

    /// This end's public key, made on its node when there is none, and that node, from which its pods must not move then.
    ///
    /// # Errors
    /// No node is told, there is no agent on it, or it refuses.
    pub fn public_key(&self) -> Result<(PublicKey, Option<String>), String> {
        if let Some(key) = self.side.public_key {
            return Ok((key, self.side.node.clone()));
        }
        let node = match &self.side.node {
            Some(node) => node.clone(),
            None => self.node_of_workload()?,
        };
        let file = self.side.key_file(self.connection);
        let ask = |verb| self.on_node(&node, &["key", verb, "--namespace", &self.side.namespace, "--file", &file]);
        let told = match ask("generate") {
            Err(problem) if problem.contains("exists already") => ask("show")?,
            told => told?,
        };
        let key = told.trim().parse();
        Ok((key.map_err(|problem: &str| self.failed("read the public key that the agent told", problem))?, Some(node)))
    }

    fn node_of_workload(&self) -> Result<String, String> {
        let pods = match &self.side.workload {
            Some(workload) => self.pods(workload)?,
            None => Vec::new(),
        };
        let mut nodes: Vec<String> = pods.iter().map(|pod| text(pod, "/spec/nodeName")).collect();
        nodes.retain(|node| !node.is_empty());
        nodes.sort();
        nodes.dedup();
        match <[String; 1]>::try_from(nodes) {
            Ok([node]) => Ok(node),
            Err(nodes) if nodes.is_empty() => Err(format!(
                "{}: nothing says on which node its pods are, where the private key has to be; write \"node\", or \"publicKey\" where the key exists already",
                self.side.name
            )),
            Err(nodes) => Err(format!(
                "{}: its pods are on several nodes ({}), and a private key never leaves its node; write \"node\"",
                self.side.name,
                nodes.join(", ")
            )),
        }
    }

    /// Applies the network, and the annotation to the workload, whose pods are bound to `node` where one is given. Returns what the pods
    /// of this very network have, and what is to be told.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn apply(&self, manifests: &Manifests, node: Option<&str>) -> Result<(String, [String; 2]), String> {
        let (name, side) = (&self.connection.name, &self.side.name);
        // Server-side: the API server keeps what each manager applies apart, and tells when somebody else's would be changed.
        let apply = ["apply", "--server-side", "--output=json", MANAGER, "--filename=-"];
        let applied = self.kubectl.run(self.side.context(), apply, &manifests.network.to_string());
        let applied = applied.map_err(|problem| self.failed(&format!("apply the network {name}"), &problem))?;
        let applied: Value = serde_json::from_str(&applied)
            .map_err(|error| self.failed("read the network that was applied", &error.to_string()))?;
        let generation = applied.pointer("/metadata/generation").map(Value::to_string).unwrap_or_default();
        let version = format!("{}.{generation}", text(&applied, "/metadata/uid"));
        let done = format!("{side}: network {}/{name} applied", self.side.namespace);
        match &self.side.workload {
            Some(workload) if workload.kind != WorkloadKind::Pod => {
                self.annotate(workload, manifests, &version, node)?;
                Ok((version, [done, format!("{side}: {workload} annotated")]))
            }
            _ => {
                let annotation = manifests::annotation(None, &manifests.selection, &self.side.namespace)?;
                let told = format!("{side}: its pods need the annotation {NETWORKS_ANNOTATION}: '{annotation}'");
                Ok((version, [done, told]))
            }
        }
    }

    /// The annotations of the pods that are made from now on, which are made anew whenever the network has changed, and the node where
    /// the key is. A patch: to apply a part of an object that somebody else has applied as a whole means, to kubectl, that the rest
    /// is to go.
    fn annotate(
        &self,
        workload: &Workload,
        manifests: &Manifests,
        version: &str,
        node: Option<&str>,
    ) -> Result<(), String> {
        let found = self.workload(workload)?;
        if found.pointer("/spec/replicas").and_then(Value::as_u64) > Some(1) {
            return Err(self.failed(
                &format!("annotate {workload}"),
                "it has several replicas, and all of them would have one address; scale it to 1, or write a network with addresses for each",
            ));
        }
        let annotations = found.pointer("/spec/template/metadata/annotations");
        let before = annotations.and_then(|annotations| annotations.get(NETWORKS_ANNOTATION)).and_then(Value::as_str);
        let annotation = manifests::annotation(before, &manifests.selection, &self.side.namespace)
            .map_err(|problem| self.failed(&format!("annotate {workload}"), &problem))?;
        let metadata =
            json!({ "annotations": { NETWORKS_ANNOTATION: annotation, self.version_annotation(): version } });
        let pods = match node {
            Some(node) => {
                json!({ "metadata": metadata, "spec": { "nodeSelector": { "kubernetes.io/hostname": node } } })
            }
            None => json!({ "metadata": metadata }),
        };
        let change = json!({ "spec": { "template": pods } }).to_string();
        let patch = ["patch", workload.kind.name(), &workload.name, "--namespace", &self.side.namespace];
        let patch = patch.into_iter().chain([MANAGER, "--type=merge", "--patch", &change]);
        let patched = self.kubectl.run(self.side.context(), patch, "");
        patched.map(drop).map_err(|problem| self.failed(&format!("annotate {workload}"), &problem))
    }

    /// The annotation that says with which version of the network a pod was made.
    fn version_annotation(&self) -> String {
        format!("adit-connect/{}", self.connection.name)
    }

    /// Nothing once this end's tunnel is up; else which leg is missing.
    ///
    /// # Errors
    /// The API server or the agent refuses to tell.
    pub fn missing(&self, version: &str) -> Result<Option<String>, String> {
        let Some(workload) = &self.side.workload else { return Ok(None) };
        let network = &self.connection.name;
        let is_attached = |pod: &&Value| {
            let annotations = pod.pointer("/metadata/annotations");
            let of = |key: &str| annotations.and_then(|annotations| annotations.get(key)).and_then(Value::as_str);
            let selects = of(NETWORKS_ANNOTATION)
                .is_some_and(|selected| manifests::selects(selected, network, &self.side.namespace));
            // Nobody but its owner writes a bare pod's annotations.
            selects && (workload.kind == WorkloadKind::Pod || of(&self.version_annotation()) == Some(version))
        };
        let pods = self.pods(workload)?;
        let Some(pod) = pods.iter().find(is_attached) else {
            return Ok(Some(format!("{workload} has no pod with the network {network} yet")));
        };
        let (name, node) = (text(pod, "/metadata/name"), text(pod, "/spec/nodeName"));
        if node.is_empty() {
            return Ok(Some(format!("pod {name} waits for a node")));
        }
        let told = self.on_node(&node, &["status", "--json"])?;
        let status: Value =
            serde_json::from_str(&told).map_err(|error| self.failed("read the agent's status", &error.to_string()))?;
        let own = |tunnel: &&Value| {
            let found = ["/pod/name", "/pod/namespace", "/network"].map(|path| text(tunnel, path));
            found == [name.clone(), self.side.namespace.clone(), network.clone()]
        };
        let Some(tunnel) = items(&status, "tunnels").iter().find(own) else {
            let why = self.last_warning(&name)?.map(|event| format!(": {event}")).unwrap_or_default();
            return Ok(Some(format!("pod {name} has no tunnel on node {node} yet{why}")));
        };
        Ok(match text(tunnel, "/state").as_str() {
            "up" | "ready" => None,
            "waiting" => {
                Some(format!("the tunnel of pod {name} is there, and no answer has come from the other end yet"))
            }
            _ => Some(format!("the tunnel of pod {name} is not carried: {}", text(tunnel, "/reason"))),
        })
    }

    fn last_warning(&self, pod: &str) -> Result<Option<String>, String> {
        let of_pod = format!("--field-selector=type=Warning,involvedObject.name={pod}");
        let found = self.get(&["events", "--namespace", &self.side.namespace, "--sort-by=.lastTimestamp", &of_pod])?;
        Ok(items(&found, "items").last().map(|event| text(event, "/message")))
    }

    /// The pods of a workload that are not about to go, the newest first: during a rollout the others soon are.
    fn pods(&self, workload: &Workload) -> Result<Vec<Value>, String> {
        let selector = if workload.kind == WorkloadKind::Pod {
            format!("--field-selector=metadata.name={}", workload.name)
        } else {
            let found = self.workload(workload)?;
            let labels = found.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
            let labels = labels.filter(|labels| !labels.is_empty()).ok_or_else(|| {
                self.failed(&format!("find the pods of {workload}"), "its selector has no matchLabels; write pod/NAME")
            })?;
            let pairs = labels.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
            format!("--selector={}", pairs.collect::<Vec<_>>().join(","))
        };
        let found = self.get(&["pods", "--namespace", &self.side.namespace, &selector])?;
        let mut pods = items(&found, "items").to_vec();
        pods.retain(|pod| pod.pointer("/metadata/deletionTimestamp").is_none());
        pods.sort_by_key(|pod| std::cmp::Reverse(text(pod, "/metadata/creationTimestamp")));
        Ok(pods)
    }

    fn workload(&self, workload: &Workload) -> Result<Value, String> {
        self.get(&[workload.kind.name(), &workload.name, "--namespace", &self.side.namespace])
    }

    /// What `adit` prints in the agent's container on `node`.
    fn on_node(&self, node: &str, arguments: &[&str]) -> Result<String, String> {
        let on_node = format!("--field-selector=status.phase=Running,spec.nodeName={node}");
        let agents = self.get(&["pods", "--all-namespaces", AGENTS, &on_node])?;
        let is_staying = |pod: &&Value| pod.pointer("/metadata/deletionTimestamp").is_none();
        let agent = items(&agents, "items").iter().find(is_staying).ok_or_else(|| {
            format!(
                "{}: no agent runs on node {node}; install it (docs/install.md), or look at its pods",
                self.side.name
            )
        })?;
        let (name, namespace) = (text(agent, "/metadata/name"), text(agent, "/metadata/namespace"));
        let command = ["exec", "--namespace", &namespace, &name, AGENT_CONTAINER, "--", "adit"];
        let told = self.kubectl.run(self.side.context(), command.iter().chain(arguments), "");
        told.map_err(|problem| {
            self.failed(&format!("run `adit {}` in pod {namespace}/{name}", arguments.join(" ")), &problem)
        })
    }
}

fn text(object: &Value, path: &str) -> String {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn items<'v>(object: &'v Value, key: &str) -> &'v [Value] {
    object.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}
