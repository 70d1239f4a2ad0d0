//! What may happen next, and how it is done.

use std::{thread, time::Duration};

use adit_integration::tunnels::{Family, outer};

use crate::{
    Outcome,
    world::{Cut, PAIRS, SEALED, World},
};

/// Numbers that a seed decides (splitmix64, Steele, Lea, Flood 2014).
pub struct Choice(u64);

impl Choice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of `0..count`.
    pub fn below(&mut self, count: usize) -> usize {
        let count = u64::try_from(count.max(1)).unwrap_or(1);
        usize::try_from(self.next() % count).unwrap_or_default()
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> Option<T> {
        all.get(self.below(all.len())).copied()
    }
}

/// Nodes are 0 (Ohio) and 1 (Mumbai), an end is a pair and a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Start(usize),
    Stop(usize),
    Kill(usize),
    KillAndStart(usize),
    KillBothAndStart,
    Upgrade(usize),
    UpgradeBoth,
    Add(usize, usize),
    Delete(usize, usize),
    /// Deletes and adds again, so that the peer's sessions meet an end that knows nothing of them.
    Replace(usize, usize),
    /// The agent is killed so many milliseconds after the ADD has begun.
    KillWhileAdding(usize, usize, u64),
    Cut(Cut),
    Heal,
    Fill(usize),
    Free(usize),
    /// The agent has room for so many more descriptors while this end is added.
    AddWithDescriptors(usize, usize, usize),
    /// The sealed pair's pod in Ohio appears behind this host number of its network from now on.
    Map(u8),
    Unmap,
}

/// One of the steps that are possible now.
pub fn choose(world: &World, choice: &mut Choice) -> Step {
    let mut steps = Vec::new();
    for node in 0..2 {
        if world.agents[node] {
            steps.extend([Step::Kill(node), Step::Stop(node), Step::KillAndStart(node), Step::Upgrade(node)]);
        } else {
            // An agent that is away leaves little to do: it comes back soon.
            steps.extend([Step::Start(node); 6]);
        }
        steps.push(if world.full[node] { Step::Free(node) } else { Step::Fill(node) });
    }
    if world.agents == [true; 2] {
        steps.extend([Step::KillBothAndStart, Step::UpgradeBoth]);
    }
    for (pair, ends) in world.ends.iter().enumerate() {
        for (node, end) in ends.iter().enumerate() {
            if end.is_some() {
                steps.extend([Step::Delete(pair, node), Step::Replace(pair, node)]);
                continue;
            }
            steps.extend([Step::Add(pair, node); 4]);
            if world.agents[node] {
                let late = u64::try_from(choice.below(150)).unwrap_or_default();
                steps.push(Step::KillWhileAdding(pair, node, late));
                steps.push(Step::AddWithDescriptors(pair, node, choice.below(4)));
            }
        }
    }
    if world.cut.is_some() {
        steps.extend([Step::Heal; 6]);
    } else {
        let pair = choice.below(PAIRS);
        let cuts = [Cut::All, Cut::Link, Cut::Pair(pair), Cut::ToMumbai(pair), Cut::ToOhio(pair)];
        steps.extend(cuts.map(Step::Cut));
    }
    let host = 20 + u8::try_from(choice.below(100)).unwrap_or_default();
    steps.extend([Step::Map(host); 3]);
    if world.mapped.is_some() {
        steps.push(Step::Unmap);
    }
    choice.of(&steps).unwrap_or(Step::UpgradeBoth)
}

pub fn take(world: &mut World, step: Step) -> Outcome {
    match step {
        Step::Start(node) => {
            world.node(node).start_agent()?;
            world.agent_is(node, true);
        }
        Step::Stop(node) => {
            world.node(node).stop_agent()?;
            world.agent_is(node, false);
        }
        Step::Kill(node) => {
            world.node(node).kill_agent()?;
            world.agent_is(node, false);
        }
        Step::KillAndStart(node) => {
            take(world, Step::Kill(node))?;
            take(world, Step::Start(node))?;
        }
        Step::KillBothAndStart => {
            for node in 0..2 {
                take(world, Step::Kill(node))?;
            }
            for node in 0..2 {
                take(world, Step::Start(node))?;
            }
        }
        Step::Upgrade(node) => world.node(node).upgrade_agent()?,
        Step::UpgradeBoth => {
            let (ohio, mumbai) = (world.node(0), world.node(1));
            let both = thread::scope(|scope| {
                let other = scope.spawn(|| mumbai.upgrade_agent());
                (ohio.upgrade_agent(), other.join())
            });
            both.0?;
            both.1.map_err(|_| "an upgrade panicked")??;
        }
        Step::Add(pair, node) => add(world, pair, node)?,
        Step::Delete(pair, node) => delete(world, pair, node)?,
        Step::Replace(pair, node) => {
            delete(world, pair, node)?;
            add(world, pair, node)?;
        }
        Step::KillWhileAdding(pair, node, late) => {
            let added = thread::scope(|scope| {
                let adding = scope.spawn(|| world.attach(pair, node));
                thread::sleep(Duration::from_millis(late));
                world.node(node).kill_agent()?;
                Ok::<_, crate::Failed>(adding.join().map_err(|_| "an ADD panicked")?)
            })?;
            world.agent_is(node, false);
            // Either is right: that it is there wholly, or not at all.
            if let Ok(pod) = added {
                world.put(pair, node, pod)?;
            }
        }
        Step::Cut(cut) => make_cut(world, cut)?,
        Step::Heal => heal(world)?,
        Step::Fill(node) => {
            world.disks[node].fill()?;
            world.full[node] = true;
        }
        Step::Free(node) => {
            world.disks[node].free()?;
            world.full[node] = false;
        }
        Step::AddWithDescriptors(pair, node, more) => {
            let agent = world.node(node);
            let pid = agent.agent_pid().ok_or("no agent")?.to_string();
            let limit = |soft: usize| agent.root(["prlimit", "--pid", &pid, &format!("--nofile={soft}:")])?.ok();
            limit(agent.agent_fds()?.all + more)?;
            let added = world.attach(pair, node);
            limit(4096)?;
            if let Ok(pod) = added {
                world.put(pair, node, pod)?;
            }
        }
        Step::Map(host) => map(world, Some(host))?,
        Step::Unmap => map(world, None)?,
    }
    Ok(())
}

/// ADD succeeds where there is an agent with room for a record, and nowhere else.
fn add(world: &mut World, pair: usize, node: usize) -> Outcome {
    let possible = world.agents[node] && !world.full[node];
    if world.full[node] {
        // What was deleted meanwhile has made some room.
        world.disks[node].fill()?;
    }
    match world.attach(pair, node) {
        Ok(pod) if possible => world.put(pair, node, pod),
        Ok(_) => Err("ADD succeeded without an agent, or without room for a record".into()),
        Err(error) if possible => Err(error.into()),
        Err(_) => Ok(()),
    }
}

fn delete(world: &mut World, pair: usize, node: usize) -> Outcome {
    let end = world.ends[pair][node].take().ok_or("no such pod")?;
    world.heard_before += end.ear.heard();
    let strays = end.ear.strays();
    drop(end.ear);
    if !strays.is_empty() {
        return Err(strays.join("\n").into());
    }
    Ok(end.pod.delete()?)
}

fn make_cut(world: &mut World, cut: Cut) -> Outcome {
    let router = world.lab.router(2)?;
    let from = |pair: usize, node: usize| {
        // Where the sealed pair's pod is mapped, only its peer's address says whose packet it is.
        let which = if node == 0 { "daddr" } else { "saddr" };
        format!("ip {which} {}", world.outside(pair, 1))
    };
    let dropped = match cut {
        Cut::Link => {
            let routes = router.root(["ip", "-4", "route", "show", "dev", "next"])?.ok()?.stdout;
            let lost = routes.lines().filter(|line| !line.contains("proto kernel"));
            world.lost_routes = lost.map(|line| format!("route replace {} dev next", line.trim())).collect();
            router.ip_batch(&["link set next down".to_owned()])?;
            vec![]
        }
        Cut::All => vec!["meta l4proto udp".to_owned()],
        Cut::Pair(pair) => vec![from(pair, 0), from(pair, 1)],
        Cut::ToMumbai(pair) => vec![from(pair, 0)],
        Cut::ToOhio(pair) => vec![from(pair, 1)],
    };
    if !dropped.is_empty() {
        let rules = dropped.iter().map(|rule| format!("add rule inet cut forward {rule} drop; ")).collect::<String>();
        let table = "add table inet cut; add chain inet cut forward { type filter hook forward priority 0; }; ";
        router.root(["nft", &format!("{table}{rules}")])?.ok()?;
    }
    world.cut = Some(cut);
    Ok(())
}

fn heal(world: &mut World) -> Outcome {
    let router = world.lab.router(2)?;
    if world.cut == Some(Cut::Link) {
        let mut lines = vec!["link set next up".to_owned()];
        lines.append(&mut world.lost_routes);
        router.ip_batch(&lines)?;
    } else {
        router.root(["nft", "delete", "table", "inet", "cut"])?.ok()?;
    }
    world.cut = None;
    Ok(())
}

/// The first router gives the sealed pair's pod in Ohio another address, and keeps no state of it.
fn map(world: &mut World, host: Option<u8>) -> Outcome {
    let router = world.lab.router(1)?;
    let own = world.outside(SEALED, 0);
    let mut rules = "add table ip seen; delete table ip seen; ".to_owned();
    if let Some(host) = host {
        let seen = outer(world.node(0), Family::V4, host);
        rules += &format!(
            "add table ip seen; \
             add chain ip seen forth {{ type filter hook postrouting priority 0; }}; \
             add chain ip seen back {{ type filter hook prerouting priority -300; }}; \
             add rule ip seen forth ip saddr {own} ip protocol udp ip saddr set {seen}; \
             add rule ip seen back ip daddr {seen} ip protocol udp ip daddr set {own}"
        );
    }
    router.root(["nft", &rules])?.ok()?;
    world.mapped = host;
    Ok(())
}
