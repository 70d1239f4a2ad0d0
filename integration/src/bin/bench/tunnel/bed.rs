//! The path that everything is measured on: A – R – B on pairs of virtual Ethernet, MTU 1500.

use std::{
    fmt, fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::Command,
};

use adit_lab::{COMMAND_DEADLINE, run};
use adit_net::Netns;

use crate::{Outcome, node::InMemory};

const PREFIX: &str = "adit-bench";
const NETNS_DIRECTORY: &str = "/run/netns";

/// What the four ends of the path may leave to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// As the kernel makes them: a segment of 64 KB crosses whole. Pods of one node see this.
    Defaults,
    /// Every packet by itself, merged again by the receiver only: closer to a network card.
    Wire,
    /// Every packet by itself all the way.
    Single,
}

impl Condition {
    /// Those that tunnels are compared in.
    pub const ALL: [Self; 2] = [Self::Defaults, Self::Wire];

    /// Options of `ethtool -K`.
    fn features(self) -> [&'static str; 8] {
        match self {
            Self::Defaults => ["tso", "on", "gso", "on", "tx-udp-segmentation", "on", "gro", "off"],
            Self::Wire => ["tso", "off", "gso", "off", "tx-udp-segmentation", "off", "gro", "on"],
            Self::Single => ["tso", "off", "gso", "off", "tx-udp-segmentation", "off", "gro", "off"],
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Defaults => "defaults",
            Self::Wire => "wire",
            Self::Single => "single",
        })
    }
}

/// One end of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    A,
    B,
}

impl Side {
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// 1 or 2: its network 10.77.N.0/24, and its address in every tunnel's network.
    pub fn number(self) -> u8 {
        match self {
            Self::A => 1,
            Self::B => 2,
        }
    }

    pub fn letter(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// Its address on the path.
    pub fn outer(self) -> IpAddr {
        Ipv4Addr::new(10, 77, self.number(), 1).into()
    }
}

/// Name of the outer interface in both pods.
pub const OUTER: &str = "net1";
/// Interfaces of the path: where they are, and how they are called.
const ENDS: [(&str, &str); 4] = [("a", OUTER), ("r", "r0"), ("r", "r1"), ("b", OUTER)];
/// Interfaces of the wire, R's end first.
pub const WIRE: [&str; 2] = ["w0", "w1"];

/// The namespaces, and a directory for files. Dropping it removes both.
#[derive(Debug)]
pub struct Bed {
    name: String,
    directory: PathBuf,
    /// Whether there is a namespace between R and B that passes nothing by itself.
    wired: bool,
    /// Goes before the directory does.
    memory: Option<InMemory>,
}

impl Bed {
    pub fn new() -> Outcome<Self> {
        Self::with(false)
    }

    /// With a cut between R and B, over which a bad link is to be laid: see [`WIRE`].
    pub fn wired() -> Outcome<Self> {
        Self::with(true)
    }

    fn with(wired: bool) -> Outcome<Self> {
        let name = format!("{PREFIX}-{}", std::process::id());
        let directory = Path::new("/run").join(&name);
        fs::create_dir_all(&directory)?;
        let mut bed = Self { name, directory, wired, memory: None };
        bed.memory = Some(InMemory::on(&bed.directory)?);
        bed.make()?;
        Ok(bed)
    }

    /// The name of a pod's namespace.
    pub fn pod(&self, side: Side) -> String {
        self.namespace(side.letter())
    }

    /// The name of the router's namespace, which stands for both nodes too: agents and plugins run there.
    pub fn router(&self) -> String {
        self.namespace("r")
    }

    /// The path of a pod's namespace.
    pub fn netns(&self, side: Side) -> PathBuf {
        Path::new(NETNS_DIRECTORY).join(self.pod(side))
    }

    /// The router's namespace.
    pub fn open_router(&self) -> Outcome<Netns> {
        Ok(Netns::open(Path::new(NETNS_DIRECTORY).join(self.router()))?)
    }

    /// The namespace in the cut.
    pub fn open_wire(&self) -> Outcome<Netns> {
        Ok(Netns::open(Path::new(NETNS_DIRECTORY).join(self.namespace("w")))?)
    }

    /// Where programs may leave their files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Gives all four ends the features of a condition.
    pub fn set(&self, condition: Condition) -> Outcome {
        for (place, interface) in ENDS {
            let mut command = self.command(place, "ethtool");
            command.args(["-K", interface]).args(condition.features());
            run(command, None, COMMAND_DEADLINE)?.ok()?;
        }
        Ok(())
    }

    /// The lines of `ethtool -k` that matter, of the four ends as they are now; a line for each that differs.
    pub fn features(&self) -> Outcome<Vec<String>> {
        const TOLD: [&str; 6] = [
            "tx-checksumming",
            "scatter-gather",
            "tcp-segmentation-offload",
            "generic-segmentation-offload",
            "generic-receive-offload",
            "tx-udp-segmentation",
        ];
        let mut lines: Vec<(String, Vec<String>)> = Vec::new();
        for (place, interface) in ENDS {
            let mut command = self.command(place, "ethtool");
            command.args(["-k", interface]);
            let said = run(command, None, COMMAND_DEADLINE)?.ok()?.stdout;
            let told = said
                .lines()
                .map(str::trim)
                .filter(|line| TOLD.iter().any(|name| line.starts_with(&format!("{name}:"))));
            let line = told.collect::<Vec<_>>().join(", ");
            let end = format!("{place}/{interface}");
            match lines.iter_mut().find(|(known, _)| *known == line) {
                Some((_, ends)) => ends.push(end),
                None => lines.push((line, vec![end])),
            }
        }
        Ok(lines.into_iter().map(|(line, ends)| format!("{}: {line}", ends.join(" "))).collect())
    }

    /// Runs `ip -batch` in a namespace, with these lines.
    pub fn ip(&self, namespace: &str, lines: &[String]) -> Outcome {
        ip(&["-n", namespace], lines)
    }

    fn make(&self) -> Outcome {
        let [a, r, b] = &["a", "r", "b"].map(|place| self.namespace(place));
        ip(&[], &self.places().iter().map(|place| format!("netns add {}", self.namespace(place))).collect::<Vec<_>>())?;
        let behind_r1 = if self.wired {
            let w = self.namespace("w");
            let [near, far] = WIRE;
            Netns::open(Path::new(NETNS_DIRECTORY).join(&w))?
                .run_on_thread(|| adit_net::sysctl::set("net/ipv6/conf/default/disable_ipv6", "1"))??;
            self.ip(
                &w,
                &[format!("link add {far} type veth peer name {OUTER} netns {b}"), format!("link set {far} up")],
            )?;
            format!("{near} netns {w}")
        } else {
            format!("{OUTER} netns {b}")
        };
        let lines = [
            format!("link add r0 type veth peer name {OUTER} netns {a}"),
            format!("link add r1 type veth peer name {behind_r1}"),
            "address add 10.77.1.254/24 dev r0".to_owned(),
            "address add 10.77.2.254/24 dev r1".to_owned(),
        ];
        self.ip(r, &lines)?;
        self.ip(r, &["lo", "r0", "r1"].map(|name| format!("link set {name} up")))?;
        if self.wired {
            self.ip(&self.namespace("w"), &[format!("link set {} up", WIRE[0])])?;
        }
        Netns::open(Path::new(NETNS_DIRECTORY).join(r))?
            .run_on_thread(|| adit_net::sysctl::set("net/ipv4/ip_forward", "1"))??;
        for side in Side::BOTH {
            let number = side.number();
            let lines = [
                format!("address add {}/24 dev {OUTER}", side.outer()),
                "link set lo up".to_owned(),
                format!("link set {OUTER} up"),
                format!("route add default via 10.77.{number}.254"),
            ];
            self.ip(&self.pod(side), &lines)?;
        }
        Ok(())
    }

    fn places(&self) -> &'static [&'static str] {
        if self.wired { &["a", "r", "b", "w"] } else { &["a", "r", "b"] }
    }

    fn namespace(&self, place: &str) -> String {
        format!("{}-{place}", self.name)
    }

    fn command(&self, place: &str, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={NETNS_DIRECTORY}/{}", self.namespace(place))).arg("--").arg(program);
        command
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // The next run removes what could not be removed.
        let all: Vec<String> =
            self.places().iter().map(|place| format!("netns del {}", self.namespace(place))).collect();
        let _ = ip(&["-force"], &all);
        drop(self.memory.take());
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn ip(options: &[&str], lines: &[String]) -> Outcome {
    let mut command = Command::new("ip");
    command.args(options).args(["-batch", "-"]);
    run(command, Some(lines.join("\n").as_bytes()), COMMAND_DEADLINE)?.ok()?;
    Ok(())
}
