//! What must hold after each step, some of it soon.

use std::{collections::BTreeMap, fs, time::Duration};

use adit_integration::tunnels::tunnels;
use adit_lab::{Error, Node, eventually};
use serde_json::Value;

use crate::{
    Outcome,
    world::{INSIDE, PAIRS, World, carrier_changes},
};

/// Within what time a tunnel that can be up is up, and one that cannot is said to be down: what an idle peer's next request takes
/// (12 s), or a handshake behind the longest pause between two, and a busy machine.
const BOUND: Duration = Duration::from_secs(30);
/// What an agent has open for itself.
const OWN_DESCRIPTORS: usize = 40;
/// `lo`, `up0`, and the pods' bridge.
const OWN_LINKS: usize = 3;

pub fn hold(world: &World) -> Outcome {
    for node in 0..2 {
        records(world, node)?;
        eventually("the agent's descriptors to be those of its tunnels", BOUND, || descriptors(world, node))?;
        links(world, node)?;
    }
    namespaces(world)?;
    carriers(world)?;
    nothing_strays(world)?;
    states(world)?;
    passes(world)?;
    nothing_strays(world)
}

fn records(world: &World, node: usize) -> Outcome {
    let directory = world.node(node).run_dir().join("attachments");
    let names: Vec<String> = fs::read_dir(&directory)?
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let records = names.iter().filter(|name| name.ends_with(".json") && !name.starts_with('.')).count();
    if records == world.pods_of(node) {
        return Ok(());
    }
    Err(format!("{} has {} pods and the records {names:?}", world.node(node).name(), world.pods_of(node)).into())
}

fn descriptors(world: &World, node: usize) -> adit_lab::Result<Option<()>> {
    if !world.agents[node] {
        return Ok(Some(()));
    }
    let (open, pods) = (world.node(node).agent_fds()?, world.pods_of(node));
    if (open.tun, open.udp) == (pods, pods) && open.all <= 2 * pods + OWN_DESCRIPTORS {
        return Ok(Some(()));
    }
    Err(Error::Unexpected(format!("{} has {pods} pods, and its agent {open:?}", world.node(node).name())))
}

fn links(world: &World, node: usize) -> Outcome {
    let names = world.node(node).interface_names()?;
    if names.len() == OWN_LINKS + world.pods_of(node) {
        return Ok(());
    }
    Err(format!("{} has {} pods and the links {names:?}", world.node(node).name(), world.pods_of(node)).into())
}

fn namespaces(world: &World) -> Outcome {
    let prefix = format!("{}-", world.lab.prefix());
    let named = fs::read_dir("/run/netns")?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let named: Vec<String> = named.filter(|name| name.starts_with(&prefix)).collect();
    let expected = world.lab.routers().len() + world.lab.nodes().len() + world.pods_of(0) + world.pods_of(1);
    if named.len() == expected { Ok(()) } else { Err(format!("{expected} namespaces should be, not {named:?}").into()) }
}

/// A pod's link has its carrier while an agent holds it, and never lost it but when the agent went.
fn carriers(world: &World) -> Outcome {
    for (node, end) in world.ends.iter().flat_map(|pair| pair.iter().enumerate()) {
        let Some(end) = end else { continue };
        let held = world.agents[node];
        let what = format!("the carrier of {} to be {held}", end.pod.name());
        eventually(&what, BOUND, || Ok((end.pod.interface("tun")?.has("NO-CARRIER") != held).then_some(())))?;
        let changes = carrier_changes(&end.pod)?;
        if changes != end.carrier_changes {
            let name = end.pod.name();
            return Err(format!("the carrier of {name} changed {changes} times, not {}", end.carrier_changes).into());
        }
    }
    Ok(())
}

fn nothing_strays(world: &World) -> Outcome {
    let strays: Vec<String> = world.ends.iter().flatten().flatten().flat_map(|end| end.ear.strays()).collect();
    if strays.is_empty() { Ok(()) } else { Err(strays.join("\n").into()) }
}

/// The states of a node's tunnels by their containers.
fn by_container(node: &Node) -> adit_lab::Result<BTreeMap<String, Value>> {
    let all = tunnels(node)?.into_iter();
    Ok(all
        .map(|tunnel| (tunnel["attachment"]["containerId"].as_str().unwrap_or_default().to_owned(), tunnel))
        .collect())
}

/// What can be up is `up`, and nothing else is: pods talk all the time, so that silence is noticed.
fn states(world: &World) -> Outcome {
    for node in (0..2).filter(|node| world.agents[*node]) {
        eventually(&format!("what {} tells", world.node(node).name()), BOUND, || {
            let told = by_container(world.node(node))?;
            if told.len() != world.pods_of(node) {
                return Err(Error::Unexpected(format!("{} tunnels: {told:#?}", told.len())));
            }
            for pair in 0..PAIRS {
                let Some(end) = &world.ends[pair][node] else { continue };
                let tunnel = told.get(&end.pod.identity().container_id);
                let state = tunnel.and_then(|tunnel| tunnel["state"].as_str()).unwrap_or("not told");
                let right = if world.can_be_up(pair) {
                    // What was lost while it could not be up counts for ten seconds.
                    ["up", "degraded"].contains(&state)
                } else {
                    ["waiting", "down"].contains(&state)
                };
                if !right {
                    return Err(Error::Unexpected(format!("{} is {state}: {tunnel:#?}", end.pod.name())));
                }
            }
            Ok(Some(()))
        })?;
    }
    Ok(())
}

/// Where packets can pass they do, both ways.
fn passes(world: &World) -> Outcome {
    for pair in (0..PAIRS).filter(|pair| world.can_be_up(*pair)) {
        let ends = &world.ends[pair];
        let heard = || ends.each_ref().map(|end| end.as_ref().map_or(0, |end| end.ear.heard()));
        let before = heard();
        eventually(&format!("pair {pair} to hear each other"), BOUND, || {
            Ok(heard().iter().zip(before).all(|(now, before)| *now > before + 2).then_some(()))
        })?;
        if let [Some(ohio), Some(_)] = ends {
            let ping = || Ok((ohio.pod.ping_with(INSIDE[1], &["-c", "1"])?.received == 1).then_some(()));
            eventually(&format!("pair {pair} to answer a ping"), BOUND, ping)?;
        }
    }
    Ok(())
}
