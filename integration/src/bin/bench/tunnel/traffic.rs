//! Traffic between the two pods, each kind through the tunnel that is named.

use std::{
    fs::{self, File},
    net::IpAddr,
    process::{Command, Stdio},
    time::Duration,
};

use adit_lab::{COMMAND_DEADLINE, Ran, eventually, run};
use serde_json::Value;

use crate::{
    Outcome,
    statistics::summary,
    tunnel::{
        account::{Group, Moment, Spent},
        bed::{Bed, Side},
        process::{Process, command},
    },
};

const PORT: u16 = 5201;
const PINGS: &str = "600";
const QUICK_PINGS: &str = "300";
const INTERVAL_SECONDS: &str = "0.001";
/// Longer than the pings may take.
const LOAD_SECONDS: u32 = 12;
const PINGS_LAST_SECONDS: &str = "5";
const START: Duration = Duration::from_secs(5);

/// A TCP measurement.
#[derive(Debug, Clone, Copy)]
pub struct Tcp {
    pub gbit_per_second: f64,
    /// Of both ends of the tunnel and of the traffic.
    pub cpu_seconds_per_gb: Option<f64>,
}

/// Round trips in microseconds.
#[derive(Debug, Clone, Copy)]
pub struct RoundTrips {
    pub median: f64,
    pub p99: f64,
}

/// Where traffic goes, and who is charged for it.
#[derive(Debug, Clone, Copy)]
pub struct Way<'a> {
    /// B's address.
    pub far: IpAddr,
    pub mtu: u32,
    pub group: Option<&'a Group>,
}

/// The programs that make traffic.
#[derive(Debug)]
pub struct Traffic<'a> {
    bed: &'a Bed,
    /// `iperf3` in B, moved into the group of each tunnel in turn.
    server: Process,
    seconds: u32,
    quick: bool,
}

impl<'a> Traffic<'a> {
    pub fn start(bed: &'a Bed, seconds: u32, quick: bool) -> Outcome<Self> {
        Ok(Self { bed, server: server(bed)?, seconds, quick })
    }

    /// TCP through a tunnel, from A to B or back.
    pub fn tcp(&mut self, way: &Way<'_>, streams: u32, back: bool) -> Outcome<(Tcp, Spent)> {
        let mut client = self.client(way, self.seconds, streams)?;
        if back {
            client.arg("--reverse");
        }
        let (ran, spent) = charged(way.group, || Ok(run(client, None, self.limit())?))?;
        let report = self.report(&ran)?;
        let received = |key: &str| report["end"]["sum_received"][key].as_f64().unwrap_or_default();
        let gigabytes = received("bytes") / 1e9;
        let cpu_seconds_per_gb = spent.own.filter(|_| gigabytes > 0.0).map(|own| own.as_secs_f64() / gigabytes);
        Ok((Tcp { gbit_per_second: received("bits_per_second") / 1e9, cpu_seconds_per_gb }, spent))
    }

    /// Datagrams a second with at most 1 % lost, from A to B.
    pub fn packets(&self, way: &Way<'_>, payload: usize) -> Outcome<(f64, Spent)> {
        let fits = usize::try_from(way.mtu)?.saturating_sub(28);
        let mut search = command(&self.bed.router(), way.group, std::env::current_exe()?);
        search.arg("packets").arg("--from").arg(self.bed.netns(Side::A)).arg("--to").arg(self.bed.netns(Side::B));
        search.args(["--address", &way.far.to_string(), "--payload", &payload.min(fits).to_string()]);
        search.args(if self.quick { ["--steps", "4"].as_slice() } else { &["--steps", "6", "--again"] });
        let (found, spent) = charged(way.group, || Ok(run(search, None, self.limit())?.json()?))?;
        Ok((found["packetsPerSecond"].as_f64().unwrap_or_default(), spent))
    }

    /// Round trips from A to B with nothing else under way.
    pub fn quiet(&self, way: &Way<'_>) -> Outcome<(RoundTrips, Spent)> {
        charged(way.group, || self.ping(way, 0.9))
    }

    /// Round trips from A to B beside one TCP stream from A to B.
    pub fn loaded(&mut self, way: &Way<'_>) -> Outcome<(RoundTrips, Spent)> {
        let client = self.client(way, LOAD_SECONDS, 1)?;
        let mut client = Process::start(client, &self.bed.directory().join("loaded.json"))?;
        client.until("the stream to begin", START, |_| (connections(&self.server) > 1).then_some(()))?;
        let measured = charged(way.group, || self.ping(way, 0.5));
        let lasted = client.is_running()?;
        drop(client);
        eventually("iperf3 to notice the end", START, || Ok((connections(&self.server) == 0).then_some(())))?;
        if !lasted {
            return Err("the load ended before the pings did".into());
        }
        measured
    }

    fn client(&self, way: &Way<'_>, seconds: u32, streams: u32) -> Outcome<Command> {
        if let Some(group) = way.group {
            group.take(self.server.pid())?;
        }
        let mut client = command(&self.bed.pod(Side::A), way.group, "iperf3");
        client.args(["--json", "--client", &way.far.to_string(), "--port", &PORT.to_string()]);
        client.args(["--time", &seconds.to_string(), "--parallel", &streams.to_string(), "--connect-timeout", "3000"]);
        Ok(client)
    }

    /// A server that a client has left in the middle of a test takes no other.
    fn report(&mut self, ran: &Ran) -> Outcome<Value> {
        let report: Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
        if ran.success() && report.get("error").is_none() {
            return Ok(report);
        }
        self.server = server(self.bed)?;
        Err(format!("iperf3: {}", report["error"].as_str().unwrap_or(&ran.stderr)).into())
    }

    /// At least this share of them must be answered.
    fn ping(&self, way: &Way<'_>, share: f64) -> Outcome<RoundTrips> {
        let mut ping = command(&self.bed.pod(Side::A), way.group, "ping");
        let count = if self.quick { QUICK_PINGS } else { PINGS };
        ping.args(["-n", "-i", INTERVAL_SECONDS, "-c", count, "-w", PINGS_LAST_SECONDS]);
        ping.arg(way.far.to_string());
        // Into a file: a reader that is woken for each line would be load.
        let log = self.bed.directory().join("ping.txt");
        ping.stdin(Stdio::null()).stdout(File::create(&log)?).stderr(Stdio::null()).status()?;
        let said = fs::read_to_string(&log)?;
        let mut trips: Vec<f64> = said
            .lines()
            .filter_map(|line| line.split_once("time=")?.1.split(' ').next()?.parse::<f64>().ok())
            .map(|milliseconds| milliseconds * 1e3)
            .collect();
        let wanted: usize = count.parse()?;
        if (trips.len() as f64) < wanted as f64 * share {
            return Err(format!("{} of {wanted} pings were answered", trips.len()).into());
        }
        trips.sort_by(f64::total_cmp);
        let p99 = trips[(trips.len() - 1) * 99 / 100];
        Ok(RoundTrips { median: summary(&trips).median, p99 })
    }

    fn limit(&self) -> Duration {
        COMMAND_DEADLINE + Duration::from_secs(self.seconds.into())
    }
}

fn server(bed: &Bed) -> Outcome<Process> {
    let log = bed.directory().join("iperf3.log");
    let mut server = command(&bed.pod(Side::B), None, "iperf3");
    server.args(["--server", "--port", &PORT.to_string()]);
    let mut server = Process::start(server, &log)?;
    server.until("iperf3 to listen", START, |pid| (sockets(pid, LISTEN) > 0).then_some(()))?;
    Ok(server)
}

/// How many connections the server has, the one for control among them.
fn connections(server: &Process) -> usize {
    sockets(server.pid(), ESTABLISHED)
}

/// States of TCP sockets (proc(5), `net/tcp`).
const ESTABLISHED: &str = "01";
const LISTEN: &str = "0A";

/// How many sockets of the server's port are in a state, in the namespace of a process.
fn sockets(pid: u32, state: &str) -> usize {
    let own = format!(":{PORT:04X}");
    let table = |name: &str| fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default();
    let text = table("tcp") + &table("tcp6");
    let matching = text.lines().filter(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        words.get(1).is_some_and(|local| local.ends_with(&own)) && words.get(3) == Some(&state)
    });
    matching.count()
}

/// What the machine spent while `f` ran, on this group and beside it.
fn charged<T>(group: Option<&Group>, f: impl FnOnce() -> Outcome<T>) -> Outcome<(T, Spent)> {
    let before = Moment::now(group)?;
    let value = f()?;
    Ok((value, before.until(&Moment::now(group)?)?))
}
