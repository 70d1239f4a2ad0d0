//! One measurement: a path of its own with a bad link in it, one way across, one flow.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use adit_lab::{
    Impairment,
    impair::{Loss, Spec, Statistics},
    run,
};
use serde_json::Value;

use crate::{
    Outcome,
    loss::{
        probe::{Arrivals, Pace, probe},
        way::Way,
    },
    tunnel::{
        bed::{Bed, Condition, Side, WIRE},
        kinds::{Programs, Tunnel},
        process::{Process, command},
    },
};

const PORT: u16 = 5201;
/// Room for 150 Mb/s over 300 ms, at both ends.
const BUFFER: &str = "4096 131072 33554432";
const START: Duration = Duration::from_secs(5);
/// What a TCP measurement takes beside its own time, where every second segment of its control connection may be lost.
const BESIDE: Duration = Duration::from_secs(40);

/// A path and a way across.
pub struct Cell {
    /// Before the path: their programs end first.
    _tunnels: Vec<Tunnel>,
    link: Impairment,
    bed: Bed,
}

/// What a link carried in one direction or both.
#[derive(Debug, Clone, Copy)]
pub struct Carried {
    pub bytes: u64,
    pub lost: u64,
    pub queue_drops: u64,
    pub late_max_us: u64,
}

/// A TCP flow in Mb/s.
#[derive(Debug, Clone)]
pub struct Flow {
    /// As received, from its beginning to its end.
    pub mbit_per_second: f64,
    /// As sent, second by second.
    pub sent: Vec<f64>,
}

impl Carried {
    fn of(all: &[Statistics; 2]) -> Self {
        let sum = |of: fn(&Statistics) -> u64| all.iter().map(of).sum();
        Self {
            bytes: sum(|one| one.offered.bytes),
            lost: sum(|one| one.dropped.loss),
            queue_drops: sum(|one| one.dropped.queue),
            late_max_us: all.iter().map(|one| one.late_max_us).max().unwrap_or_default(),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            bytes: self.bytes - before.bytes,
            lost: self.lost - before.lost,
            queue_drops: self.queue_drops - before.queue_drops,
            late_max_us: self.late_max_us,
        }
    }
}

/// Datagrams across, and what the link carried meanwhile.
#[derive(Debug, Clone)]
pub struct Datagrams {
    pub arrivals: Arrivals,
    pub carried: Carried,
}

impl Cell {
    /// Sets up the ways over a link that is what it will be, but for the losses: they come when all stands.
    pub fn new(ways: &[Way], plugins: &Path, spec: &Spec, seed: u64) -> Outcome<Self> {
        let bed = Bed::wired()?;
        bed.set(Condition::Single)?;
        for side in Side::BOTH {
            adit_net::Netns::open(bed.netns(side))?.run_on_thread(|| -> adit_net::Result<()> {
                for key in ["net/ipv4/tcp_rmem", "net/ipv4/tcp_wmem"] {
                    adit_net::sysctl::set(key, BUFFER)?;
                }
                Ok(())
            })??;
        }
        let [near, far] = WIRE;
        let link =
            Impairment::between(&bed.open_wire()?, near, far, both(&Spec { loss: Loss::None, ..spec.clone() }), seed)?;
        let programs = Programs { plugins, peer: None };
        let tunnels = ways.iter().map(|way| Tunnel::changed(way.kind(), &bed, None, &programs, &way.further()));
        let tunnels = tunnels.collect::<Outcome<Vec<_>>>()?;
        for (way, side) in ways.iter().flat_map(|way| Side::BOTH.map(|side| (way, side))) {
            bed.ip(&bed.pod(side), &[cubic(*way, side)])?;
        }
        link.change(both(spec), seed);
        Ok(Self { _tunnels: tunnels, link, bed })
    }

    /// The name of a pod's namespace.
    pub fn pod(&self, side: Side) -> String {
        self.bed.pod(side)
    }

    /// The path of a pod's namespace.
    pub fn netns(&self, side: Side) -> PathBuf {
        self.bed.netns(side)
    }

    /// Why figures may be worse than they should: the link is not punctual.
    pub fn trouble(&self) -> Option<String> {
        self.link.trouble().map(str::to_owned)
    }

    /// One TCP flow from A to B, and what the link carried.
    pub fn tcp(&self, way: Way, seconds: u32) -> Outcome<(Flow, Carried)> {
        let before = Carried::of(&self.link.statistics());
        let mut flows = self.flows(&[way], seconds)?;
        let flow = flows.pop().ok_or("no flow")?;
        Ok((flow, Carried::of(&self.link.statistics()).since(before)))
    }

    /// Several TCP flows at the same time, in the order of `ways`.
    pub fn flows(&self, ways: &[Way], seconds: u32) -> Outcome<Vec<Flow>> {
        let mut servers = Vec::new();
        for number in 0..ways.len() {
            let port = (PORT + u16::try_from(number)?).to_string();
            let mut server = command(&self.bed.pod(Side::B), None, "iperf3");
            server.args(["--server", "--port", &port]);
            let mut server = Process::start(server, &self.bed.directory().join(format!("server-{number}.log")))?;
            server.until("iperf3 to listen", START, |pid| is_listening(pid, PORT + number as u16).then_some(()))?;
            servers.push(server);
        }
        let outcomes: Vec<Outcome<Flow>> = std::thread::scope(|scope| {
            let running: Vec<_> = ways
                .iter()
                .enumerate()
                .map(|(number, way)| {
                    scope.spawn(move || self.flow(*way, number, seconds).map_err(|error| error.to_string()))
                })
                .collect();
            let joined = running.into_iter().map(|one| one.join().unwrap_or_else(|_| Err("a flow panicked".into())));
            joined.map(|outcome| outcome.map_err(Into::into)).collect()
        });
        outcomes.into_iter().collect()
    }

    fn flow(&self, way: Way, number: usize, seconds: u32) -> Outcome<Flow> {
        let far = way.kind().inner(Side::B).to_string();
        let port = (usize::from(PORT) + number).to_string();
        let mut client = command(&self.bed.pod(Side::A), None, "iperf3");
        client.args(["--json", "--client", &far, "--port", &port, "--time", &seconds.to_string()]);
        client.args(["--congestion", way.congestion(), "--connect-timeout", "20000"]);
        let ran = run(client, None, Duration::from_secs(seconds.into()) + BESIDE)?;
        let report: Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
        if let Some(error) = report["error"].as_str() {
            return Err(format!("iperf3: {error}").into());
        }
        let rate = |part: &Value| part["bits_per_second"].as_f64().map(|bits| bits / 1e6);
        let received = rate(&report["end"]["sum_received"]);
        let mbit_per_second = received.ok_or_else(|| format!("iperf3 told no rate: {}", ran.stderr.trim()))?;
        let sent = report["intervals"].as_array().into_iter().flatten().filter_map(|one| rate(&one["sum"])).collect();
        Ok(Flow { mbit_per_second, sent })
    }

    /// Datagrams from A to B.
    pub fn datagrams(&self, way: Way, pace: Pace) -> Outcome<Datagrams> {
        let before = Carried::of(&self.link.statistics());
        let [from, to] = [self.bed.netns(Side::A), self.bed.netns(Side::B)];
        let arrivals = probe(&from, &to, way.kind().inner(Side::B), pace)?;
        Ok(Datagrams { arrivals, carried: Carried::of(&self.link.statistics()).since(before) })
    }
}

/// A route that makes cubic what TCP uses where a program says nothing: a namespace's own default may only be what the machine
/// allows everybody.
fn cubic(way: Way, side: Side) -> String {
    let far = way.kind().inner(side.other());
    match way.device() {
        Some(device) => format!("route add {far} dev {device} congctl cubic"),
        None => format!("route add {far} via 10.77.{}.254 congctl cubic", side.number()),
    }
}

fn both(spec: &Spec) -> [Spec; 2] {
    [spec.clone(), spec.clone()]
}

/// Whether somebody listens at a TCP port in the namespace of a process.
fn is_listening(pid: u32, port: u16) -> bool {
    const LISTEN: &str = "0A";
    let own = format!(":{port:04X}");
    let table = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default();
    (table("tcp") + &table("tcp6")).lines().any(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        words.get(1).is_some_and(|local| local.ends_with(&own)) && words.get(3) == Some(&LISTEN)
    })
}
