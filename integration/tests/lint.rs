//! What `adit lint` calls impossible the plugins refuse, and what it does not they take: the manifests of the repository and the broken
//! ones, each pod attached for real.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use adit_integration::{trial_within, tunnels::lab_with_agents};
use adit_lab::{Attachment, Lab, LabSpec, Manifests, Nad, annotation, nad::in_workspace};
use adit_lint::{Code, Severity, Source, lint};
use libtest_mimic::Failed;
use serde_json::{Value, json};

type Outcome = Result<(), Failed>;

fn main() {
    adit_integration::main(vec![trial_within(
        "what_lint_calls_impossible_is_refused_and_nothing_else",
        Duration::from_secs(180),
        verdicts_agree,
    )]);
}

/// What several pods have together, and what a person should know, refuses no pod.
const OF_NO_POD: [Code; 6] = [
    Code::AddressCollision,
    Code::MacCollision,
    Code::SharedAddress,
    Code::Ends,
    Code::KeyMaterial,
    Code::DuplicateObject,
];
/// The programs that are there.
const PLUGINS: [&str; 3] = ["bridge", "macvlan", "tun"];

/// A pod, the networks that it names, and the file that they are from.
struct Case {
    file: PathBuf,
    nads: Vec<Nad>,
    name: String,
    namespace: String,
    networks: String,
}

fn verdicts_agree() -> Outcome {
    let lab = lab_with_agents(&LabSpec::new(Attachment::Bridge).cluster("ohio", 1))?;
    let cases = cases()?;
    let (mut refused, mut taken) = (0, 0);
    let mut differences = Vec::new();
    for case in &cases {
        let findings = said(case);
        let is_refused = attach(&lab, case)?;
        match is_refused {
            Some(_) => refused += 1,
            None => taken += 1,
        }
        if is_refused.is_some() == findings.is_empty() {
            let pod = format!("{} of {}", case.name, case.file.display());
            differences.push(format!("{pod}\n  lint: {findings:?}\n  plugins: {is_refused:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(refused >= 20 && taken >= 20, "{refused} refused, {taken} taken");
    println!("{refused} refused, {taken} taken");
    Ok(())
}

/// Every pod whose networks are all in its file, and of plugins that are here.
fn cases() -> Result<Vec<Case>, Failed> {
    let mut cases = Vec::new();
    for file in files()? {
        // What is no manifest at all, no cluster has to refuse.
        let Ok(manifests) = Manifests::read(&file) else { continue };
        for pod in manifests.pods {
            let Some(networks) = pod.networks else { continue };
            // An annotation that cannot be read names no network.
            let selected = annotation::parse(&networks).unwrap_or_default();
            let names: BTreeSet<(&str, &str)> = selected
                .iter()
                .map(|selection| (selection.namespace.as_deref().unwrap_or(&pod.namespace), selection.name.as_str()))
                .collect();
            let mut nads: Vec<Nad> = manifests.nads.clone();
            nads.retain(|nad| names.contains(&(nad.namespace.as_str(), nad.name.as_str())));
            let is_there =
                |name: &(&str, &str)| nads.iter().any(|nad| *name == (nad.namespace.as_str(), nad.name.as_str()));
            if names.iter().all(is_there) && nads.iter().all(is_of_ours) {
                cases.push(Case { file: file.clone(), nads, name: pod.name, namespace: pod.namespace, networks });
            }
        }
    }
    Ok(cases)
}

fn files() -> Result<Vec<PathBuf>, Failed> {
    let mut files = Vec::new();
    for entry in fs::read_dir(in_workspace(Path::new("integration/lint/broken")))? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "yaml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Key files are the node's: no manifest tells whether they are there.
fn is_of_ours(nad: &Nad) -> bool {
    if nad.config.contains("KeyFile") {
        return false;
    }
    let config: Value = serde_json::from_str(&nad.config).unwrap_or_default();
    let alone = [config.clone()];
    let members = config["plugins"].as_array().map_or(alone.as_slice(), Vec::as_slice);
    members.iter().all(|member| member["type"].as_str().is_some_and(|kind| PLUGINS.contains(&kind)))
}

/// What lint calls impossible about this pod.
fn said(case: &Case) -> Vec<String> {
    let nads = case.nads.iter().map(|nad| {
        json!({
            "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
            "metadata": { "name": nad.name, "namespace": nad.namespace }, "spec": { "config": nad.config },
        })
    });
    let pod = json!({
        "kind": "Pod", "spec": { "containers": [] },
        "metadata": {
            "name": case.name, "namespace": case.namespace, "annotations": { "k8s.v1.cni.cncf.io/networks": case.networks },
        },
    });
    let items: Vec<Value> = nads.chain([pod]).collect();
    let text = json!({ "kind": "List", "items": items }).to_string();
    let findings = lint(&[Source { path: "case.json".into(), text, is_found: false }]).findings;
    let counts =
        findings.into_iter().filter(|found| found.severity == Severity::Error && !OF_NO_POD.contains(&found.code));
    counts.map(|found| found.to_string()).collect()
}

/// Why the pod cannot be attached; nothing of it stays.
fn attach(lab: &Lab, case: &Case) -> Result<Option<String>, Failed> {
    let node = lab.ohio();
    let pod = node.pod(&case.name).in_namespace(&case.namespace).with_default_network();
    let outcome = match pod.attach(case.nads.clone(), &case.networks) {
        Ok(pod) => {
            pod.delete()?;
            None
        }
        Err(error) => Some(error.to_string()),
    };
    // The gateways of one case are in the way of another's.
    node.root(["ip", "link", "delete", "cni0"])?;
    Ok(outcome)
}
