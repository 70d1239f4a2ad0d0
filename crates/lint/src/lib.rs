//! Mistakes in network definitions and pod manifests, each at its line and column.
//!
//! What a configuration may say, the plugins' own parsers decide: lint calls them, and knows the keys that they know by asking them
//! (`shape`). It adds where in the file a mistake stands, also inside the JSON text of a NetworkAttachmentDefinition and of a pod's
//! annotation, what was meant, and what only several files together show.
//!
//! ```text
//! file --manifest::read--> networks and pods, with places
//! network --keys, values, chain--> findings
//! pod + network --selection, attach--> findings, addresses, ends of tunnels --across, ends--> findings
//! ```
//!
//! Nothing here talks to a kernel, a cluster or an agent.
#![forbid(unsafe_code)]

mod across;
mod annotation;
mod attach;
mod chain;
mod ends;
mod explain;
mod finding;
mod guess;
mod json;
mod keys;
mod manifest;
mod network;
mod node;
mod pod;
mod scalar;
pub mod schema;
mod security;
mod selection;
mod shape;
mod values;
mod yaml;

use std::rc::Rc;

pub use explain::Way;
pub use finding::{Code, Finding, Severity};
pub use manifest::Source;
pub use pod::NETWORKS as NETWORKS_ANNOTATION;

use across::Member;
use attach::{Attached, attach};
use ends::Outer;
use finding::{Findings, Place, Raw};
use manifest::Objects;
use pod::{Pod, Selection};

/// What lint has to say.
#[derive(Debug)]
#[non_exhaustive]
pub struct Report {
    /// In the order of the files, and of the places in them.
    pub findings: Vec<Finding>,
    /// Documents that are nothing of ours: `path:line: kind`.
    pub passed_over: Vec<String>,
    /// Which part of each pod's annotation reaches which plugin.
    pub ways: Vec<Way>,
}

/// Looks at the files, each by itself and all together.
#[must_use]
pub fn lint(sources: &[Source]) -> Report {
    let mut findings = Findings::default();
    let mut objects = Objects::default();
    for (file, source) in sources.iter().enumerate() {
        manifest::read(file, source, &mut objects, &mut findings);
    }
    for network in &objects.networks {
        keys::check(network, &mut findings);
        values::check(network, &mut findings);
        chain::check(network, &mut findings);
    }
    across::duplicates(&objects, &mut findings);
    let alone: Vec<Attached> = objects.networks.iter().map(|network| attach(network, None, &mut findings)).collect();
    let mut members = Vec::new();
    for pod in &objects.pods {
        tunnel_names(&objects, pod, &mut findings);
        for selection in &pod.selections {
            members.extend(member(&objects, pod, selection, &mut findings));
        }
    }
    across::check(&members, &mut findings);
    ends::check(&all_ends(&members, &alone), &mut findings);

    let mut found = findings.into_vec();
    found.sort_by_key(|raw| (raw.place, raw.severity, raw.code));
    Report {
        findings: found.into_iter().filter_map(|raw| located(sources, raw)).collect(),
        passed_over: objects.passed_over.iter().filter_map(|(place, what)| passed(sources, *place, what)).collect(),
        ways: explain::explain(&objects),
    }
}

/// The pod in the network that its annotation selects, if that is certain.
fn member<'a>(
    objects: &Objects,
    pod: &'a Pod,
    selection: &'a Selection,
    findings: &mut Findings,
) -> Option<Member<'a>> {
    let candidates = selection::candidates(objects, pod, selection);
    let look = |network: &Rc<network::Network>, findings: &mut Findings| {
        selection::check(network, pod, selection, findings);
        security::check(pod, network, findings);
        attach(network, Some((selection, pod.file)), findings)
    };
    match candidates.as_slice() {
        [] => {
            selection::unknown(objects, pod, selection, findings);
            None
        }
        [only] => Some(Member { pod, selection, attached: look(only, findings) }),
        several => {
            // Files of several clusters: what is wrong with any of them is wrong.
            let known = findings.len();
            let mut common: Option<Vec<Raw>> = None;
            for network in several {
                let mut scratch = findings.clone();
                look(network, &mut scratch);
                let found = scratch.since(known);
                common = Some(match common {
                    None => found.to_vec(),
                    Some(common) => common.into_iter().filter(|raw| found.contains(raw)).collect(),
                });
            }
            common.into_iter().flatten().for_each(|raw| findings.push(raw));
            None
        }
    }
}

/// Tunnels of one pod in different networks have different names.
fn tunnel_names(objects: &Objects, pod: &Pod, findings: &mut Findings) {
    let mut taken: Vec<(String, String)> = Vec::new();
    for selection in &pod.selections {
        let networks = selection::candidates(objects, pod, selection);
        let [network] = networks.as_slice() else { continue };
        for name in network.tunnels().map(selection::tunnel_name) {
            if let Some((_, other)) = taken.iter().find(|(known, _)| known == name) {
                findings.error(
                    pod.place(selection.at),
                    Code::TunnelClash,
                    format!("{} and {other} both make an interface {name} in the pod", selection.label()),
                    format!("give the tunnel of one of them another \"ifName\", such as \"{name}2\""),
                );
            }
            taken.push((name.to_owned(), selection.label()));
        }
    }
}

/// Every end of a tunnel of which is known where it is: of pods, and of networks that no pod is in but that have addresses themselves.
fn all_ends<'a>(members: &'a [Member<'_>], alone: &'a [Attached]) -> Vec<Outer<'a>> {
    let of_pods = members.iter().map(|member| (member.pod.label(), &member.attached));
    let is_attached =
        |network: &Rc<network::Network>| members.iter().any(|member| Rc::ptr_eq(&member.attached.network, network));
    let of_networks = alone
        .iter()
        .filter(|attached| !is_attached(&attached.network))
        .map(|attached| (attached.network.label(), attached));
    let all = of_pods.chain(of_networks);
    all.flat_map(|(label, attached)| {
        attached.ends.iter().map(move |end| Outer {
            label: format!("{} of {label}", end.intent.if_name),
            attached,
            end,
        })
    })
    .collect()
}

fn located(sources: &[Source], raw: Raw) -> Option<Finding> {
    let source = sources.get(raw.place.file)?;
    let (line, column) = line_and_column(&source.text, raw.place.at);
    let Raw { severity, code, message, remedy, .. } = raw;
    Some(Finding { path: source.path.clone(), line, column, severity, code, message, remedy })
}

fn passed(sources: &[Source], place: Place, what: &str) -> Option<String> {
    let source = sources.get(place.file)?;
    let (line, _) = line_and_column(&source.text, place.at);
    Some(format!("{}:{line}: {what}", source.path))
}

/// Both counted from 1, the column in characters.
fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count().saturating_add(1);
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count().saturating_add(1);
    (line, column)
}
