//! The words of the tests of sealed tunnels: keys as an administrator makes them, and pods that use them.

use std::{
    fs::{self, Permissions},
    io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::Command,
    time::Duration,
};

use adit_lab::{Attachment, COMMAND_DEADLINE, Error, Lab, LabSpec, Nad, Node, Pod, Result, eventually, run};
use serde_json::{Value, json};

use crate::tunnels::{
    FIRST_POD, Family, Pair, annotation, inner_pair, lab_with_agents, list, net1, outer, tun, tunnels, with,
};

/// A key pair in the text form of `wg genkey` and `wg pubkey`: another implementation than ours makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPair {
    /// The private key.
    pub private: String,
    /// The public key.
    pub public: String,
}

impl KeyPair {
    /// A new pair.
    ///
    /// # Errors
    /// `wg` (package wireguard-tools) cannot be run.
    pub fn new() -> Result<Self> {
        let private = wg("genkey", None)?;
        Ok(Self { public: wg("pubkey", Some(&private))?, private })
    }
}

/// A new preshared key.
///
/// # Errors
/// `wg` cannot be run.
pub fn preshared_key() -> Result<String> {
    wg("genpsk", None)
}

fn wg(what: &str, input: Option<&str>) -> Result<String> {
    let mut command = Command::new("wg");
    command.arg(what);
    let ran = run(command, input.map(str::as_bytes), COMMAND_DEADLINE)?.ok()?;
    Ok(ran.stdout.trim().to_owned())
}

/// The folder of the keys of a namespace of pods on a node; made when it is not there.
///
/// # Errors
/// It cannot be made.
pub fn key_folder(node: &Node, namespace: &str) -> Result<PathBuf> {
    let folder = node.config_dir().join("keys").join(namespace);
    fs::create_dir_all(&folder).map_err(io_error(format!("make {}", folder.display())))?;
    Ok(folder)
}

/// Puts a key into a file that only root may read, for the pods of a namespace on a node.
///
/// # Errors
/// The file cannot be written.
pub fn install_key(node: &Node, namespace: &str, file: &str, key: &str) -> Result<PathBuf> {
    let path = key_folder(node, namespace)?.join(file);
    let failed = || io_error(format!("write {}", path.display()));
    fs::write(&path, format!("{key}\n")).map_err(failed())?;
    fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed())?;
    Ok(path)
}

fn io_error(action: String) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { action, source }
}

/// What a sealed tunnel looks like on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `encap: udp`, sealed by default.
    Noise,
    /// `encap: wireguard`.
    Wireguard,
}

impl Format {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Noise, Self::Wireguard];

    /// `encap` in a configuration.
    #[must_use]
    pub fn encap(self) -> &'static str {
        match self {
            Self::Noise => "udp",
            Self::Wireguard => "wireguard",
        }
    }

    /// The port when none is written.
    #[must_use]
    pub fn port(self) -> u16 {
        match self {
            Self::Noise => 6090,
            Self::Wireguard => 51820,
        }
    }

    /// Whether a datagram carries inner packets, or is a keepalive: the first byte tells (`crates/dataplane/src/wire.rs`;
    /// section 5.4 of the WireGuard paper).
    #[must_use]
    pub fn is_data(self, datagram: &[u8]) -> bool {
        match self {
            Self::Noise => datagram.first().is_some_and(|first| first >> 4 == 0),
            Self::Wireguard => datagram.first() == Some(&4),
        }
    }

    /// Whether a datagram belongs to a handshake, or puts one off by a cookie; the first byte tells, too.
    #[must_use]
    pub fn is_handshake(self, datagram: &[u8]) -> bool {
        match self {
            Self::Noise => datagram.first().is_some_and(|first| first >> 4 == 4),
            Self::Wireguard => datagram.first().is_some_and(|first| (1..=3).contains(first)),
        }
    }

    /// Where the receiver's index stands in a datagram that carries packets.
    #[must_use]
    pub fn index_at(self) -> usize {
        4
    }
}

/// A `tun` object of one end: `endpoint` of the other one as far as it is known, its public key, and the inner address.
#[must_use]
pub fn sealed_tun(format: Format, outside: Family, endpoint: Option<IpAddr>, peer_public: &str, inner: &str) -> Value {
    let common = with(
        tun(outside.of(&[[0, 0, 0, 0].into(), [0_u16; 8].into()]), inner),
        &json!({ "encap": format.encap(), "encryption": null, "remote": null }),
    );
    match endpoint {
        Some(endpoint) => with(common, &json!({ "remote": endpoint.to_string(), "publicKey": peer_public })),
        // The family of `local` is the tunnel's where no endpoint has one.
        None => {
            let local = format!("{}:{}", outside.of(&["0.0.0.0", "[::]"]), format.port());
            with(common, &json!({ "local": local, "peers": [{ "publicKey": peer_public }] }))
        }
    }
}

/// A pod in Ohio and one in Mumbai that are to have a sealed tunnel between them.
#[derive(Debug, Clone)]
pub struct SealedPair {
    format: Format,
    attachment: Attachment,
    families: [Family; 2],
    derived: bool,
    preshared: bool,
    mumbai_learns: bool,
    mumbai_allows: Option<Value>,
    changes: [Value; 2],
}

impl SealedPair {
    /// Bridge, IPv4 outside and inside, key files, no preshared key, both ends know the other's endpoint.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self {
            format,
            attachment: Attachment::Bridge,
            families: [Family::V4; 2],
            derived: false,
            preshared: false,
            mumbai_learns: false,
            mumbai_allows: None,
            changes: [json!({}), json!({})],
        }
    }

    /// With other families outside and inside.
    #[must_use]
    pub fn over(self, outside: Family, inside: Family) -> Self {
        Self { families: [outside, inside], ..self }
    }

    /// On another kind of net1.
    #[must_use]
    pub fn on(self, attachment: Attachment) -> Self {
        Self { attachment, ..self }
    }

    /// Without key files: each node derives its pod's key.
    #[must_use]
    pub fn derived(self) -> Self {
        Self { derived: true, ..self }
    }

    /// With a preshared key as well.
    #[must_use]
    pub fn preshared(self) -> Self {
        Self { preshared: true, ..self }
    }

    /// Mumbai is not told where Ohio is.
    #[must_use]
    pub fn mumbai_learns(self) -> Self {
        Self { mumbai_learns: true, ..self }
    }

    /// Mumbai is not told where Ohio is, but which inner networks are Ohio's.
    #[must_use]
    pub fn mumbai_allows(self, networks: &[&str]) -> Self {
        Self { mumbai_learns: true, mumbai_allows: Some(json!(networks)), ..self }
    }

    /// With these keys merged into Ohio's and Mumbai's `tun` objects.
    #[must_use]
    pub fn with(self, ohio: Value, mumbai: Value) -> Self {
        Self { changes: [ohio, mumbai], ..self }
    }

    /// Builds the lab, installs the keys, attaches the pods.
    ///
    /// # Errors
    /// Anything on the way.
    pub fn up(&self) -> Result<Pair> {
        self.prepare()?.up()
    }

    /// The same without the pods.
    ///
    /// # Errors
    /// Anything on the way.
    pub fn prepare(&self) -> Result<Prepared> {
        let lab = lab_with_agents(&LabSpec::two_clusters(self.attachment))?;
        let [outside, inside] = self.families;
        let [ohio, mumbai] = [self.public_key(lab.ohio())?, self.public_key(lab.mumbai())?];
        let secret = self.preshared.then(preshared_key).transpose()?;
        let [here, there] = inner_pair(inside);
        let definition = |node, peer: Option<&Node>, public: &str, inner, changes| {
            let endpoint = peer.map(|peer| outer(peer, outside, FIRST_POD));
            let mut own = sealed_tun(self.format, outside, endpoint, public, inner);
            if !self.derived {
                own["privateKeyFile"] = json!("tunnel.key");
            }
            if let Some(secret) = &secret {
                install_key(node, "default", "tunnel.psk", secret)?;
                let place = if endpoint.is_none() { &mut own["peers"][0] } else { &mut own };
                place["presharedKeyFile"] = json!("tunnel.psk");
            }
            if endpoint.is_none()
                && let Some(networks) = &self.mumbai_allows
            {
                own["peers"][0]["allowedIPs"] = networks.clone();
            }
            Ok::<_, Error>(list("tunnelled", &[net1(&lab, node), with(own, changes)]))
        };
        let [of_ohio, of_mumbai] = &self.changes;
        let known = (!self.mumbai_learns).then(|| lab.ohio());
        let definitions = [
            definition(lab.ohio(), Some(lab.mumbai()), &mumbai, here, of_ohio)?,
            definition(lab.mumbai(), known, &ohio, there, of_mumbai)?,
        ];
        Ok(Prepared { definitions, lab })
    }

    /// The public key of the pod of `node`, whose tunnel does not exist yet.
    fn public_key(&self, node: &Node) -> Result<String> {
        if self.derived {
            return derived_key(node, "default", &pod_name(node), "tunnelled", "tun");
        }
        let pair = KeyPair::new()?;
        install_key(node, "default", "tunnel.key", &pair.private)?;
        Ok(pair.public)
    }
}

/// One of the two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Ohio's.
    Ohio,
    /// Mumbai's.
    Mumbai,
}

/// Everything but the pods.
#[derive(Debug)]
pub struct Prepared {
    definitions: [Nad; 2],
    /// Where they will be.
    pub lab: Lab,
}

impl Prepared {
    /// Makes both pods.
    ///
    /// # Errors
    /// A network cannot be attached.
    pub fn up(self) -> Result<Pair> {
        let (ohio, mumbai) = (self.attach(Side::Ohio)?, self.attach(Side::Mumbai)?);
        Ok(Pair { ohio, mumbai, lab: self.lab })
    }

    /// Makes the pod of one end.
    ///
    /// # Errors
    /// Its network cannot be attached.
    pub fn attach(&self, side: Side) -> Result<Pod> {
        let [ohio, mumbai] = &self.definitions;
        let (node, definition) = match side {
            Side::Ohio => (self.lab.ohio(), ohio),
            Side::Mumbai => (self.lab.mumbai(), mumbai),
        };
        let networks = annotation("tunnelled", node, FIRST_POD);
        node.pod(&pod_name(node)).attach(definition.clone(), &networks)
    }
}

fn pod_name(node: &Node) -> String {
    format!("{}-a", node.cluster())
}

/// What `adit key show` says of a pod that need not exist.
///
/// # Errors
/// The command fails.
pub fn derived_key(node: &Node, namespace: &str, pod: &str, network: &str, if_name: &str) -> Result<String> {
    let line = ["key", "show", "--namespace", namespace, "--pod", pod, "--network", network, "--if-name", if_name];
    Ok(node.adit(line)?.ok()?.stdout.trim().to_owned())
}

/// The only tunnel of a node.
///
/// # Errors
/// It has none, or several.
pub fn tunnel(node: &Node) -> Result<Value> {
    let found = <[Value; 1]>::try_from(tunnels(node)?);
    let [tunnel] = found.map_err(|found| Error::Unexpected(format!("{} has the tunnels {found:#?}", node.name())))?;
    Ok(tunnel)
}

/// The only peer of the only tunnel of a node.
///
/// # Errors
/// There is no such tunnel.
pub fn peer(node: &Node) -> Result<Value> {
    Ok(tunnel(node)?["peers"][0].clone())
}

/// Where a node's tunnel sends to.
///
/// # Errors
/// There is no such tunnel.
pub fn endpoint(node: &Node) -> Result<Option<SocketAddr>> {
    Ok(peer(node)?["endpoint"].as_str().and_then(|text| text.parse().ok()))
}

/// What a node's only tunnel has dropped, but for handshakes that crossed each other or were repeated while their answer was under
/// way, as happens on a busy machine.
///
/// # Errors
/// There is no such tunnel.
pub fn drops_of_packets(node: &Node) -> Result<Vec<String>> {
    const OF_HANDSHAKES: [&str; 3] = ["replayed_hello", "unexpected_answer", "unknown_index"];
    let drops = tunnel(node)?["drops"].as_object().cloned().unwrap_or_default();
    Ok(drops.into_iter().map(|(reason, _)| reason).filter(|reason| !OF_HANDSHAKES.contains(&reason.as_str())).collect())
}

/// A file of that many bytes in which no part is like another one.
#[must_use]
pub fn file(bytes: usize) -> Vec<u8> {
    (0..u32::MAX).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).take(bytes).collect()
}

/// Sends a file of eight megabytes from one pod to another one's inner address, which sends it back. What arrives must be what
/// was sent.
///
/// # Errors
/// It is not.
pub fn file_crosses(from: &Pod, to: &Pod, address: &str) -> Result<()> {
    static PORT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(7000);
    let port = PORT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let ip: IpAddr = address.parse().map_err(|_| Error::Unexpected(format!("{address} is no address")))?;
    let server = to.tcp_echo(SocketAddr::new(ip, port))?;
    let sent = file(8 << 20);
    let back = from.tcp_exchange(server.address(), &sent, COMMAND_DEADLINE)?;
    if back == sent {
        return Ok(());
    }
    let same = back.iter().zip(&sent).take_while(|(one, other)| one == other).count();
    Err(Error::Unexpected(format!("{} of {} bytes came back, the first {same} as they were", back.len(), sent.len())))
}

/// One echo request after the other until one is answered.
///
/// # Errors
/// None is within `limit`.
pub fn answers_within(limit: Duration, pod: &Pod, address: &str) -> Result<()> {
    let what = format!("an answer from {address}");
    eventually(&what, limit, || {
        let ping = pod.ping_with(address, &["-c", "1", "-W", "0.5"])?;
        Ok((ping.received > 0).then_some(()))
    })
}
