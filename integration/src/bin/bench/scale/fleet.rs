//! Two pods with as many tunnels between them as are wanted, and the agents that carry their ends.

use std::{
    fs::{self, File},
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use adit_lab::{COMMAND_DEADLINE, eventually, run};
use serde_json::{Value, json};

use crate::{
    Outcome,
    tunnel::{
        bed::{Bed, OUTER, Side},
        kinds::{run_dir, start_agent},
        process::{Process, command},
    },
};

const FIRST_PORT: usize = 10_000;
const MOST: usize = 20_000;
/// How long all tunnels may take to hear from their peers, and an agent to open them again.
const SETTLE: Duration = Duration::from_secs(120);

/// Tunnels between A and B.
#[derive(Debug)]
pub struct Fleet<'a> {
    bed: &'a Bed,
    plugins: &'a Path,
    agents: [Process; 2],
    tunnels: usize,
}

/// How long a killed agent was missed.
#[derive(Debug, Clone, Copy)]
pub struct Restarted {
    /// Until its successor held all devices again.
    pub reopened: Duration,
    /// Until a ping through a tunnel was answered.
    pub answered: Duration,
}

impl<'a> Fleet<'a> {
    pub fn start(bed: &'a Bed, plugins: &'a Path) -> Outcome<Self> {
        let agents = [agent(bed, plugins, Side::A)?, agent(bed, plugins, Side::B)?];
        Ok(Self { bed, plugins, agents, tunnels: 0 })
    }

    /// A's and B's.
    pub fn agents(&self) -> &[Process; 2] {
        &self.agents
    }

    pub fn tunnels(&self) -> usize {
        self.tunnels
    }

    /// B's address in the first tunnel.
    pub fn far(&self) -> IpAddr {
        inner(0, Side::B).into()
    }

    /// Makes tunnels until there are `count` or the time is over. Milliseconds of each ADD.
    pub fn grow(&mut self, count: usize, deadline: Instant) -> Outcome<Vec<f64>> {
        if count > MOST {
            return Err(format!("{count} tunnels: there are ports for {MOST}").into());
        }
        let node = self.bed.open_router()?;
        let _inside = node.enter()?;
        let mut added = Vec::new();
        while self.tunnels < count && Instant::now() < deadline {
            for side in Side::BOTH {
                added.push(self.add(self.tunnels, side)?.as_secs_f64() * 1e3);
            }
            self.tunnels += 1;
        }
        Ok(added)
    }

    /// How many of A's tunnels have heard from their peers, when all have or the time is over.
    pub fn up(&self) -> Outcome<usize> {
        let mut up = 0;
        // That some have not is for the caller to tell.
        let _ = eventually("all tunnels to be up", SETTLE, || {
            let mut adit = Command::new(self.plugins.join("adit"));
            adit.args(["status", "--json"]).env("ADIT_RUN_DIR", run_dir(self.bed, Side::A));
            let status = run(adit, None, COMMAND_DEADLINE)?.json()?;
            let tunnels = status["tunnels"].as_array().into_iter().flatten();
            up = tunnels.filter(|tunnel| tunnel["state"] == "up").count();
            Ok((up == self.tunnels).then_some(()))
        });
        Ok(up)
    }

    /// Kills A's agent and starts another.
    pub fn restart(&mut self) -> Outcome<Restarted> {
        let begun = Instant::now();
        self.agents[0].kill()?;
        self.agents[0] = agent(self.bed, self.plugins, Side::A)?;
        let (pid, tunnels) = (self.agents[0].pid(), self.tunnels);
        eventually("all tunnels to be open again", SETTLE, || Ok((devices(pid) == tunnels).then_some(())))?;
        let reopened = begun.elapsed();
        let far = self.far().to_string();
        eventually("a ping to be answered", SETTLE, || {
            let mut ping = command(&self.bed.pod(Side::A), None, "ping");
            ping.args(["-n", "-c", "1", "-W", "0.2", &far]);
            run(ping, None, COMMAND_DEADLINE)?.ok().map(Some)
        })?;
        Ok(Restarted { reopened, answered: begun.elapsed() })
    }

    /// ADD of one end; in the node's namespace.
    fn add(&self, number: usize, side: Side) -> Outcome<Duration> {
        let (bed, other) = (self.bed, side.other());
        let netns = bed.netns(side);
        let port = FIRST_PORT + number;
        let config = json!({
            "cniVersion": "1.1.0", "name": "bench", "type": "tun", "encap": "udp", "encryption": "none",
            "ifName": format!("t{number}"), "local": format!("{}:{port}", side.outer()),
            "peers": [{
                "endpoint": format!("{}:{port}", other.outer()), "allowedIPs": [format!("{}/32", inner(number, other))],
            }],
            "ipam": { "type": "static", "addresses": [{ "address": format!("{}/30", inner(number, side)) }] },
            "prevResult": {
                "cniVersion": "1.1.0",
                "interfaces": [{ "name": OUTER, "sandbox": netns }],
                "ips": [{ "address": format!("{}/24", side.outer()), "interface": 0 }],
            },
        });
        let [input, output] = ["add.in", "add.out"].map(|name| bed.directory().join(name));
        fs::write(&input, config.to_string())?;
        let mut tun = Command::new(self.plugins.join("tun"));
        tun.envs([("CNI_COMMAND", "ADD"), ("CNI_IFNAME", OUTER), ("CNI_ARGS", "IgnoreUnknown=1")]);
        tun.env("CNI_CONTAINERID", bed.pod(side)).env("CNI_NETNS", &netns).env("CNI_PATH", self.plugins);
        tun.env("ADIT_RUN_DIR", run_dir(bed, side));
        let file = File::create(&output)?;
        tun.stdin(File::open(&input)?).stdout(file.try_clone()?).stderr(file);
        let begun = Instant::now();
        let status = tun.spawn()?.wait()?;
        let took = begun.elapsed();
        if status.success() {
            return Ok(took);
        }
        let said = fs::read_to_string(&output)?;
        let answer: Value = serde_json::from_str(&said).unwrap_or_default();
        let why = answer["msg"].as_str().map_or(said.clone(), str::to_owned);
        Err(format!("ADD of tunnel {number} on {}: {why}", side.letter()).into())
    }
}

fn agent(bed: &Bed, plugins: &Path, side: Side) -> Outcome<Process> {
    start_agent(command(&bed.router(), None, plugins.join("aditd")), &run_dir(bed, side))
}

/// An end's address within its tunnel's own /30.
fn inner(number: usize, side: Side) -> Ipv4Addr {
    let network = u32::from(Ipv4Addr::new(10, 128, 0, 0)) + 4 * number as u32;
    (network + u32::from(side.number())).into()
}

/// How many TUN devices a process holds.
fn devices(pid: u32) -> usize {
    let all = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    all.filter(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == Path::new("/dev/net/tun"))).count()
}
