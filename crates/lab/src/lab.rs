//! The lab itself: builds the plan, holds nodes and routers, and takes everything down.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use crate::{
    Attachment, Error, Impairment, LabSpec, Namespace, Node, Result, Router,
    impair::Spec,
    ledger::{self, Ledger, State},
    nad::Store,
    topology::{NamespacePlan, NodePlan, Plan},
};

/// Clusters, nodes and the routers between them. Dropping it removes everything it has made.
#[derive(Debug)]
pub struct Lab {
    ledger: Arc<Ledger>,
    attachment: Attachment,
    routers: Vec<Router>,
    nodes: Vec<Node>,
    wires: Vec<(NodePlan, Namespace)>,
    kept: bool,
}

impl Lab {
    /// Builds a lab.
    ///
    /// # Errors
    /// The specification is impossible, or the kernel refuses a part of it. What was made until then is removed.
    pub fn build(spec: &LabSpec) -> Result<Self> {
        let plan = spec.plan()?;
        let ledger = Arc::new(Ledger::open(plan.name.as_deref())?);
        // From here on dropping the lab removes what was made.
        let mut lab = Self {
            ledger,
            attachment: plan.attachment,
            routers: Vec::new(),
            nodes: Vec::new(),
            wires: Vec::new(),
            kept: false,
        };
        lab.apply(&plan)?;
        Ok(lab)
    }

    /// Ohio and Mumbai, a node each, five routers between their pods.
    ///
    /// # Errors
    /// As [`Lab::build`].
    pub fn two_clusters(attachment: Attachment) -> Result<Self> {
        Self::build(&LabSpec::two_clusters(attachment))
    }

    /// First node of Ohio, that is of the first cluster.
    #[must_use]
    pub fn ohio(&self) -> &Node {
        self.first_of(1)
    }

    /// First node of Mumbai, that is of the second cluster (of the first where there is only one).
    #[must_use]
    pub fn mumbai(&self) -> &Node {
        self.first_of(2)
    }

    /// A node by its name: `"ohio-2"`.
    ///
    /// # Errors
    /// There is no such node.
    pub fn node(&self, name: &str) -> Result<&Node> {
        let known = || self.nodes.iter().map(|node| node.name().to_owned()).collect();
        let node = self.nodes.iter().find(|node| node.name() == name);
        node.ok_or_else(|| Error::Unknown { what: format!("node {name}"), known: known() })
    }

    /// All nodes, cluster by cluster.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A router by its number, from 1 (at Ohio's end). Its interfaces: `prev`, `next`, and one per node, named as it.
    ///
    /// # Errors
    /// There is no such router.
    pub fn router(&self, number: usize) -> Result<&Router> {
        let known = || self.routers.iter().map(|router| router.name().to_owned()).collect();
        let router = number.checked_sub(1).and_then(|index| self.routers.get(index));
        router.ok_or_else(|| Error::Unknown { what: format!("router {number}"), known: known() })
    }

    /// All routers, from Ohio's end on.
    #[must_use]
    pub fn routers(&self) -> &[Router] {
        &self.routers
    }

    /// Puts a bad link into a node's uplink ([`LabSpec::with_wires`]): the first specification is from the node to its router, the
    /// second back. The uplink is dead again when the value is dropped.
    ///
    /// # Errors
    /// There are no wires, or the program `ethtool` is not there.
    pub fn impair(&self, node: &Node, specs: [Spec; 2], seed: u64) -> Result<Impairment> {
        let known = || self.wires.iter().map(|(plan, _)| plan.name.clone()).collect();
        let wire = self.wires.iter().find(|(plan, _)| plan.name == node.name());
        let (plan, wire) =
            wire.ok_or_else(|| Error::Unknown { what: format!("wire of {}", node.name()), known: known() })?;
        node.send_one_by_one("up0")?;
        self.router(plan.router.into())?.send_one_by_one(node.name())?;
        Impairment::between(&wire.open()?, "node", "router", specs, seed)
    }

    /// How the pods' net1 is meant to be attached.
    #[must_use]
    pub fn attachment(&self) -> Attachment {
        self.attachment
    }

    /// Begin of every name of this lab; also the name of its state file, `/run/adit-lab/<prefix>.json`.
    #[must_use]
    pub fn prefix(&self) -> String {
        self.ledger.prefix()
    }

    /// What it has made until now.
    #[must_use]
    pub fn state(&self) -> State {
        self.ledger.state()
    }

    /// A directory of the lab for files of the test; removed with the lab.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn directory(&self, name: impl AsRef<Path>) -> Result<std::path::PathBuf> {
        self.ledger.directory(name)
    }

    /// Leaves the lab standing, with its processes, also after this process has ended. [`Lab::teardown`] removes it.
    ///
    /// # Errors
    /// The state file cannot be written.
    pub fn keep(mut self) -> Result<State> {
        let state = self.ledger.keep()?;
        self.kept = true;
        Ok(state)
    }

    /// Takes the lab down and says what could not be removed. Dropping it does the same, in silence.
    ///
    /// # Errors
    /// [`Error::Teardown`] with what is left.
    pub fn down(mut self) -> Result<()> {
        self.kept = true;
        self.ledger.tear_down()
    }

    /// Removes a lab by its prefix, whoever built it; `"all"` removes every kept lab and every lab of a dead process.
    /// Returns the prefixes of what was removed.
    ///
    /// # Errors
    /// There is no such lab, or parts of it are left.
    pub fn teardown(prefix: &str) -> Result<Vec<String>> {
        let labs = ledger::labs()?;
        let known = || labs.iter().map(|state| state.prefix.clone()).collect();
        let chosen: Vec<&State> = if prefix == "all" {
            labs.iter().filter(|state| state.kept || !state.owner.is_alive()).collect()
        } else {
            labs.iter().filter(|state| state.prefix == prefix).collect()
        };
        if chosen.is_empty() && prefix != "all" {
            return Err(Error::Unknown { what: format!("lab {prefix}"), known: known() });
        }
        chosen.into_iter().map(|state| ledger::tear_down(state).map(|()| state.prefix.clone())).collect()
    }

    fn first_of(&self, cluster: u8) -> &Node {
        let found = self.nodes.iter().find(|node| node.number().cluster == cluster);
        #[expect(clippy::indexing_slicing, reason = "a lab has at least one cluster with at least one node")]
        found.unwrap_or_else(|| &self.nodes[0])
    }

    fn apply(&mut self, plan: &Plan) -> Result<()> {
        let mut namespaces = Vec::new();
        for part in &plan.namespaces {
            namespaces.push(Namespace::create(&self.ledger, &part.name)?);
        }
        let prefix = self.prefix();
        for (namespace, part) in namespaces.iter().zip(&plan.namespaces) {
            make_links(namespace, part, &prefix)?;
        }
        for (namespace, part) in namespaces.iter().zip(&plan.namespaces) {
            configure(namespace, part)?;
        }
        let (routers, nodes) = namespaces.split_at_checked(usize::from(plan.routers)).unwrap_or_default();
        let nodes_end = usize::from(plan.routers).saturating_add(plan.nodes.len());
        self.routers =
            routers.iter().zip(&plan.namespaces).map(|(ns, part)| Router::new(ns.clone(), &part.name)).collect();
        let wires = namespaces.get(nodes_end..).unwrap_or_default();
        self.wires = plan.nodes.iter().cloned().zip(wires.iter().cloned()).collect();
        let mut stores: Vec<(String, Arc<Mutex<Store>>)> = Vec::new();
        for (namespace, node) in nodes.iter().zip(&plan.nodes) {
            let known = stores.iter().find(|(cluster, _)| *cluster == node.cluster).map(|(_, store)| store.clone());
            let store = known.unwrap_or_default();
            stores.push((node.cluster.clone(), store.clone()));
            self.nodes.push(Node::new(&self.ledger, namespace.clone(), node, store)?);
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = self.ledger.tear_down()
        {
            #[expect(
                clippy::print_stderr,
                reason = "Drop has nobody to return an error to, and silence would hide a leak"
            )]
            {
                eprintln!("{error}");
            }
        }
    }
}

fn make_links(namespace: &Namespace, plan: &NamespacePlan, prefix: &str) -> Result<()> {
    let lines: Vec<String> = plan
        .links
        .iter()
        .map(|link| {
            format!(
                "link add {} mtu {mtu} type veth peer name {} mtu {mtu} netns {prefix}-{}",
                link.name,
                link.peer_name,
                link.peer_namespace,
                mtu = link.mtu_bytes
            )
        })
        .collect();
    if lines.is_empty() { Ok(()) } else { namespace.ip_batch(&lines) }
}

fn configure(namespace: &Namespace, plan: &NamespacePlan) -> Result<()> {
    namespace.run_inside(|| -> Result<()> {
        for (key, value) in &plan.sysctls {
            adit_net::sysctl::set(key, value)?;
        }
        for interface in &plan.interfaces {
            // No second of waiting before a link-local address may be used; plugins' links keep the default.
            adit_net::sysctl::set(&format!("net/ipv6/conf/{interface}/accept_dad"), "0")?;
        }
        Ok(())
    })??;
    namespace.ip_batch(&plan.lines)
}
