//! The tunnels: how each is set up between the two pods.

use std::{
    fs,
    io::Write as _,
    net::{IpAddr, Ipv4Addr},
    os::unix::{fs::OpenOptionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use adit_lab::{COMMAND_DEADLINE, ProcessMark, eventually, run};
use serde_json::{Value, json};

use crate::{
    Outcome,
    tunnel::{
        account::{Accounting, Group},
        bed::{Bed, OUTER, Side},
        process::{Process, command},
        traffic::Way,
    },
};

const START: Duration = Duration::from_secs(10);
/// One that opens thousands of tunnels again listens when it has.
const AGENT_START: Duration = Duration::from_secs(120);
const WIREGUARD_SOCKETS: &str = "/run/wireguard";
/// What the names of our interfaces of these programs begin with.
const WIREGUARD_NAME: &str = "adb";
/// Of the WireGuard programs: 1,500 less what the protocol takes over IPv6.
const WIREGUARD_MTU: u32 = 1420;
const KEY_FILE: &str = "bench";

/// A way from pod to pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Bare,
    Vxlan,
    Adit,
    AditNoise,
    AditWireguard,
    AditVxlan,
    WireguardGo,
    Gotatun,
    Boringtun,
    OpenVpn,
    OpenVpnGcm,
}

impl Kind {
    pub const ALL: [Self; 11] = [
        Self::Bare,
        Self::Vxlan,
        Self::Adit,
        Self::AditNoise,
        Self::AditWireguard,
        Self::AditVxlan,
        Self::WireguardGo,
        Self::Gotatun,
        Self::Boringtun,
        Self::OpenVpn,
        Self::OpenVpnGcm,
    ];

    /// How `--only` and the JSON call it.
    pub fn key(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Vxlan => "vxlan",
            Self::Adit => "adit-udp",
            Self::AditNoise => "adit-noise",
            Self::AditWireguard => "adit-wireguard",
            Self::AditVxlan => "adit-vxlan",
            Self::WireguardGo => "wireguard-go",
            Self::Gotatun => "gotatun",
            Self::Boringtun => "boringtun",
            Self::OpenVpn => "openvpn-none",
            Self::OpenVpnGcm => "openvpn-gcm",
        }
    }

    /// How the tables call it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Bare => "bare veth",
            Self::Vxlan => "kernel VXLAN (L2)",
            Self::Adit => "Adit `udp`, plain",
            Self::AditNoise => "Adit `udp`, noise",
            Self::AditWireguard => "Adit `wireguard`",
            Self::AditVxlan => "Adit `vxlan`",
            Self::WireguardGo => "wireguard-go",
            Self::Gotatun => "gotatun",
            Self::Boringtun => "boringtun",
            Self::OpenVpn => "OpenVPN, no cipher",
            Self::OpenVpnGcm => "OpenVPN, AES-256-GCM",
        }
    }

    /// The program it needs that does not ship with a kernel or with us.
    pub fn peer(self) -> Option<&'static str> {
        match self {
            Self::Bare | Self::Vxlan => None,
            Self::Adit | Self::AditNoise | Self::AditWireguard | Self::AditVxlan => None,
            Self::WireguardGo => Some("wireguard-go"),
            Self::Gotatun => Some("gotatun"),
            Self::Boringtun => Some("boringtun-cli"),
            Self::OpenVpn | Self::OpenVpnGcm => Some("openvpn"),
        }
    }

    pub fn is_ours(self) -> bool {
        matches!(self, Self::Adit | Self::AditNoise | Self::AditWireguard | Self::AditVxlan)
    }

    /// A side's address within the tunnel.
    pub fn inner(self, side: Side) -> IpAddr {
        match self {
            Self::Bare => side.outer(),
            _ => Ipv4Addr::new(10, 99, self as u8, side.number()).into(),
        }
    }
}

/// Where programs are.
#[derive(Debug)]
pub struct Programs<'a> {
    /// Directory of our plugins and agent.
    pub plugins: &'a Path,
    /// The peer's program.
    pub peer: Option<&'a Path>,
}

/// A tunnel that stands. It goes when the value is dropped.
#[derive(Debug)]
pub struct Tunnel {
    pub kind: Kind,
    pub mtu: u32,
    /// Programs of each side; before the group, which must be empty when it goes.
    processes: Vec<(Side, Process)>,
    pub group: Option<Group>,
    /// Files outside of the bed's directory.
    leftovers: Vec<PathBuf>,
}

impl Tunnel {
    /// Sets it up, and waits until packets cross it.
    pub fn up(kind: Kind, bed: &Bed, accounting: Option<&Accounting>, programs: &Programs<'_>) -> Outcome<Self> {
        Self::changed(kind, bed, accounting, programs, &json!({}))
    }

    /// The same, with further keys in both configurations of our plugin.
    pub fn changed(
        kind: Kind,
        bed: &Bed,
        accounting: Option<&Accounting>,
        programs: &Programs<'_>,
        further: &Value,
    ) -> Outcome<Self> {
        let group = accounting.map(|accounting| accounting.group(kind.key())).transpose()?;
        let mut tunnel = Self { kind, mtu: 1500, processes: Vec::new(), group, leftovers: Vec::new() };
        match kind {
            Kind::Bare => (),
            Kind::Vxlan => tunnel.vxlan(bed)?,
            Kind::Adit => {
                tunnel.agents(bed, programs.plugins)?;
                let plain = json!({ "encap": "udp", "encryption": "none" });
                tunnel.plugin(bed, programs.plugins, "tun", &with(plain, further))?;
            }
            Kind::AditNoise => {
                tunnel.agents(bed, programs.plugins)?;
                // A port of its own: all stand in the same pods.
                let sealed = json!({ "encap": "udp", "local": "0.0.0.0:6091" });
                tunnel.plugin(bed, programs.plugins, "tuns", &with(sealed, further))?;
            }
            Kind::AditWireguard => {
                tunnel.agents(bed, programs.plugins)?;
                let sealed = json!({ "encap": "wireguard", "engine": "agent", "local": "0.0.0.0:6092" });
                tunnel.plugin(bed, programs.plugins, "tunw", &with(sealed, further))?;
            }
            Kind::AditVxlan => {
                let kernel = json!({ "encap": "vxlan", "encryption": "none", "vni": 7 });
                tunnel.plugin(bed, programs.plugins, "tunx", &with(kernel, further))?;
            }
            Kind::WireguardGo | Kind::Gotatun | Kind::Boringtun => {
                tunnel.wireguard(bed, programs.peer.ok_or("no program")?)?
            }
            Kind::OpenVpn | Kind::OpenVpnGcm => tunnel.openvpn(bed, programs.peer.ok_or("no program")?)?,
        }
        tunnel.answers(bed)?;
        Ok(tunnel)
    }

    /// For traffic from A to B.
    pub fn way(&self) -> Way<'_> {
        Way { far: self.kind.inner(Side::B), mtu: self.mtu, group: self.group.as_ref() }
    }

    /// Resident memory of a side's programs in KiB; `None` where there is none.
    pub fn resident_kib(&self, side: Side) -> Option<u64> {
        let own = self.processes.iter().filter(|(of, _)| *of == side);
        own.map(|(_, process)| process.resident_kib()).collect::<Option<Vec<_>>>()?.into_iter().reduce(|a, b| a + b)
    }

    /// What a side's programs said last.
    pub fn said(&self) -> String {
        let said: Vec<String> = self.processes.iter().map(|(_, process)| process.said()).collect();
        said.join(" // ")
    }

    fn answers(&self, bed: &Bed) -> Outcome {
        let far = self.kind.inner(Side::B).to_string();
        let crossed = eventually("packets to cross it", START, || {
            let mut ping = command(&bed.pod(Side::A), None, "ping");
            ping.args(["-n", "-c", "1", "-W", "1", &far]);
            run(ping, None, COMMAND_DEADLINE)?.ok().map(Some)
        });
        crossed.map_err(|error| format!("{error} {}", self.said()))?;
        Ok(())
    }

    fn vxlan(&mut self, bed: &Bed) -> Outcome {
        self.mtu = 1450;
        for side in Side::BOTH {
            let (local, remote, inner) = (side.outer(), side.other().outer(), self.kind.inner(side));
            let lines = [
                format!("link add vxlan1 type vxlan id 42 local {local} remote {remote} dstport 4789 dev {OUTER}"),
                format!("address add {inner}/24 dev vxlan1"),
                format!("link set vxlan1 mtu {} up", self.mtu),
            ];
            bed.ip(&bed.pod(side), &lines)?;
        }
        Ok(())
    }

    /// An agent for each side, as if each pod were on a node of its own.
    fn agents(&mut self, bed: &Bed, plugins: &Path) -> Outcome {
        for side in Side::BOTH {
            let mut agent = command(&bed.router(), self.group.as_ref(), plugins.join("aditd"));
            agent.env("ADIT_CONFIG_DIR", self.config_dir(bed, side));
            self.processes.push((side, start_agent(agent, &self.run_dir(bed, side))?));
        }
        Ok(())
    }

    /// ADD of `tun` on both sides, over an interface that another plugin is said to have made.
    fn plugin(&mut self, bed: &Bed, plugins: &Path, name: &str, changes: &Value) -> Outcome {
        let is_sealed = matches!(self.kind, Kind::AditNoise | Kind::AditWireguard);
        let keys = is_sealed.then(|| self.keys(bed)).transpose()?;
        for side in Side::BOTH {
            let netns = bed.netns(side);
            let mut config = json!({
                "cniVersion": "1.1.0", "name": "bench", "type": "tun", "ifName": name,
                "peers": [{
                    "endpoint": side.other().outer().to_string(),
                    "allowedIPs": [format!("{}/32", self.kind.inner(side.other()))],
                }],
                "ipam": { "type": "static", "addresses": [{ "address": format!("{}/24", self.kind.inner(side)) }] },
                "prevResult": {
                    "cniVersion": "1.1.0",
                    "interfaces": [{ "name": OUTER, "sandbox": netns }],
                    "ips": [{ "address": format!("{}/24", side.outer()), "interface": 0 }],
                },
            });
            for (key, value) in changes.as_object().into_iter().flatten() {
                config[key] = value.clone();
            }
            if let Some(keys) = &keys {
                config["privateKeyFile"] = KEY_FILE.into();
                config["peers"][0]["publicKey"] = keys[usize::from(side.other().number()) - 1].clone().into();
                let port = config["local"].as_str().and_then(|local| local.rsplit(':').next()).unwrap_or_default();
                config["peers"][0]["endpoint"] = format!("{}:{port}", side.other().outer()).into();
            }
            let mut tun = command(&bed.router(), None, plugins.join("tun"));
            tun.envs([("CNI_COMMAND", "ADD"), ("CNI_IFNAME", OUTER), ("CNI_ARGS", "IgnoreUnknown=1")]);
            tun.env("CNI_CONTAINERID", bed.pod(side)).env("CNI_NETNS", &netns).env("CNI_PATH", plugins);
            fs::create_dir_all(self.run_dir(bed, side))?;
            tun.env("ADIT_RUN_DIR", self.run_dir(bed, side));
            let ran = run(tun, Some(config.to_string().as_bytes()), COMMAND_DEADLINE)?;
            let answer: Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
            if !ran.success() {
                let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
                return Err(format!("its plugin says: {} {}", text("msg"), text("details")).trim().into());
            }
            let own = answer["interfaces"].as_array().into_iter().flatten().find(|entry| entry["name"] == name);
            self.mtu =
                own.and_then(|own| own["mtu"].as_u64()).and_then(|mtu| mtu.try_into().ok()).ok_or("no MTU is told")?;
        }
        Ok(())
    }

    /// A node of its own for each tunnel and side.
    fn run_dir(&self, bed: &Bed, side: Side) -> PathBuf {
        run_dir(bed, side).join(self.kind.key())
    }

    fn config_dir(&self, bed: &Bed, side: Side) -> PathBuf {
        self.run_dir(bed, side).join("etc")
    }

    /// Puts a private key where each side's agent looks for it. Returns the public ones.
    fn keys(&self, bed: &Bed) -> Outcome<[String; 2]> {
        let make = |side: Side| -> Outcome<String> {
            let (private, public) = key_pair()?;
            // Where a pod without a Kubernetes namespace has its keys.
            let directory = self.config_dir(bed, side).join("keys/_");
            fs::create_dir_all(&directory)?;
            let mut file = fs::OpenOptions::new();
            let file = file.write(true).create_new(true).mode(0o600).open(directory.join(KEY_FILE));
            file?.write_all(private.as_bytes())?;
            Ok(public)
        };
        Ok([make(Side::A)?, make(Side::B)?])
    }

    fn wireguard(&mut self, bed: &Bed, program: &Path) -> Outcome {
        self.mtu = WIREGUARD_MTU;
        let keys = Side::BOTH.map(|_| key_pair());
        let [a, b] = keys;
        let keys = [a?, b?];
        let port = 51820 + self.kind as u16;
        for side in Side::BOTH {
            // All namespaces share the directory of sockets, so the name is of this run alone.
            let name = format!("{WIREGUARD_NAME}{}{}{}", std::process::id(), self.kind as u8, side.letter());
            let socket = Path::new(WIREGUARD_SOCKETS).join(format!("{name}.sock"));
            self.leftovers.push(socket.clone());
            let mut daemon = command(&bed.pod(side), self.group.as_ref(), program);
            daemon.args(["--foreground", &name]).env("LOG_LEVEL", "error");
            if self.kind != Kind::WireguardGo {
                // They ask who has logged in, and end where nobody has.
                daemon.arg("--disable-drop-privileges");
            }
            let mut daemon = Process::start(daemon, &bed.directory().join(format!("{name}.log")))?;
            daemon.until("its socket", START, |_| UnixStream::connect(&socket).ok())?;
            self.processes.push((side, daemon));

            let [own, other] = match side {
                Side::A => [&keys[0], &keys[1]],
                Side::B => [&keys[1], &keys[0]],
            };
            let file = bed.directory().join(format!("{name}.key"));
            fs::write(&file, &own.0)?;
            let mut wg = command(&bed.pod(side), None, "wg");
            wg.args(["set", &name, "listen-port", &port.to_string(), "private-key"]).arg(&file);
            wg.args(["peer", &other.1, "allowed-ips", &format!("{}/32", self.kind.inner(side.other()))]);
            wg.args(["endpoint", &format!("{}:{port}", side.other().outer())]);
            run(wg, None, COMMAND_DEADLINE)?.ok()?;
            let inner = self.kind.inner(side);
            let lines = [format!("address add {inner}/24 dev {name}"), format!("link set {name} mtu {} up", self.mtu)];
            bed.ip(&bed.pod(side), &lines)?;
        }
        Ok(())
    }

    /// Point to point, with the program's own defaults but for the cipher.
    fn openvpn(&mut self, bed: &Bed, program: &Path) -> Outcome {
        let port = (1194 + self.kind as u16).to_string();
        let sealed = self.kind == Kind::OpenVpnGcm;
        let fingerprints = if sealed { certificates(bed.directory())? } else { [String::new(), String::new()] };
        for side in Side::BOTH {
            let [own, other] = [side, side.other()].map(|side| self.kind.inner(side).to_string());
            let mut daemon = command(&bed.pod(side), self.group.as_ref(), program);
            daemon.args(["--dev", if sealed { "ovpn1" } else { "ovpn0" }, "--dev-type", "tun", "--proto", "udp"]);
            daemon.args(["--port", &port]);
            daemon.args(["--ifconfig", &own, &other, "--remote", &side.other().outer().to_string(), &port]);
            if sealed {
                let [certificate, key] = credentials(bed.directory(), side);
                daemon.arg("--cert").arg(certificate).arg("--key").arg(key).args(["--dh", "none"]);
                daemon.arg(if side == Side::A { "--tls-client" } else { "--tls-server" });
                daemon.args(["--peer-fingerprint", &fingerprints[usize::from(side.other().number()) - 1]]);
                daemon.args(["--data-ciphers", "AES-256-GCM", "--cipher", "AES-256-GCM"]);
            } else {
                daemon.args(["--cipher", "none", "--auth", "none", "--verb", "1"]);
            }
            let name = format!("{}-{}", self.kind.key(), side.letter());
            self.processes.push((side, Process::start(daemon, &bed.directory().join(format!("{name}.log")))?));
        }
        Ok(())
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.processes.clear();
        for path in &self.leftovers {
            // A program that ended in order has removed it.
            let _ = fs::remove_file(path);
        }
    }
}

/// `base` with the keys of `further`.
fn with(mut base: Value, further: &Value) -> Value {
    for (key, value) in further.as_object().into_iter().flatten() {
        base[key] = value.clone();
    }
    base
}

/// Removes the sockets that killed runs left among those of all WireGuard programs.
pub fn sweep() {
    for entry in fs::read_dir(WIREGUARD_SOCKETS).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let own = name.to_str().and_then(|name| name.strip_prefix(WIREGUARD_NAME)?.strip_suffix(".sock"));
        // The pid stands before one digit of the kind and one letter of the side.
        let pid = own.and_then(|name| name.get(..name.len().checked_sub(2)?)?.parse().ok());
        if pid.is_some_and(|pid| ProcessMark::of(pid).is_none()) {
            // Another run may have been faster.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Starts an agent, and waits until it listens.
pub fn start_agent(mut agent: Command, run_dir: &Path) -> Outcome<Process> {
    fs::create_dir_all(run_dir)?;
    agent.env("ADIT_RUN_DIR", run_dir).env("RUST_LOG", "warn");
    let mut agent = Process::start(agent, &run_dir.join("aditd.log"))?;
    let socket = run_dir.join("agent.sock");
    agent.until("the agent to listen", AGENT_START, |_| UnixStream::connect(&socket).ok())?;
    Ok(agent)
}

/// Run directory of the agent of a pod's node.
pub fn run_dir(bed: &Bed, side: Side) -> PathBuf {
    bed.directory().join(format!("node-{}", side.letter()))
}

/// Private and public key, as `wg` writes them.
fn key_pair() -> Outcome<(String, String)> {
    let mut command = Command::new("wg");
    command.arg("genkey");
    let private = run(command, None, COMMAND_DEADLINE)?.ok()?.stdout;
    let mut command = Command::new("wg");
    command.arg("pubkey");
    let public = run(command, Some(private.as_bytes()), COMMAND_DEADLINE)?.ok()?.stdout;
    Ok((private, public.trim().to_owned()))
}

fn credentials(directory: &Path, side: Side) -> [PathBuf; 2] {
    ["crt", "key"].map(|kind| directory.join(format!("openvpn-{}.{kind}", side.letter())))
}

/// Makes each side a certificate of its own; returns their fingerprints.
fn certificates(directory: &Path) -> Outcome<[String; 2]> {
    let make = |side: Side| -> Outcome<String> {
        let [certificate, key] = credentials(directory, side);
        let mut openssl = Command::new("openssl");
        openssl.args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ]);
        openssl.args(["-subj", "/CN=bench", "-keyout"]).arg(&key).arg("-out").arg(&certificate);
        run(openssl, None, COMMAND_DEADLINE)?.ok()?;
        let mut openssl = Command::new("openssl");
        openssl.args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]).arg(&certificate);
        let said = run(openssl, None, COMMAND_DEADLINE)?.ok()?.stdout;
        Ok(said.trim().split_once('=').ok_or("openssl tells no fingerprint")?.1.to_owned())
    };
    Ok([make(Side::A)?, make(Side::B)?])
}
