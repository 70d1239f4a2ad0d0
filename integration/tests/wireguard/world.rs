//! A pod of ours in Ohio, and a foreign peer in the network of a pod in Mumbai.

use adit_integration::{
    foreign::WireguardGo,
    sealed::{Format, KeyPair, install_key, preshared_key, sealed_tun},
    tunnels::{FIRST_POD, Family, annotation, inner_pair, list, net1, outer, with},
};
use adit_lab::{Attachment, Lab, LabSpec, Node, Pod};
use libtest_mimic::Failed;
use serde_json::{Value, json};

/// The port of both.
pub const PORT: u16 = 51820;

/// Who is told where the other one is: only who is can begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begins {
    Ours,
    Theirs,
    Both,
}

/// How the two are set up.
#[derive(Debug, Clone)]
pub struct Setup {
    pub outside: Family,
    pub inside: Family,
    pub begins: Begins,
    pub preshared: bool,
    /// Seconds.
    pub their_keepalive: Option<u16>,
    /// What the other may use inside; everything where nothing is said. Needs [`Begins::Theirs`].
    pub allowed: Option<&'static str>,
    /// Merged into our `tun` object.
    pub ours: Value,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            outside: Family::V4,
            inside: Family::V4,
            begins: Begins::Both,
            preshared: false,
            their_keepalive: None,
            allowed: None,
            ours: json!({}),
        }
    }
}

pub struct World {
    pub theirs: WireguardGo,
    /// Ours.
    pub ohio: Pod,
    /// Where wireguard-go runs.
    pub mumbai: Pod,
    pub keys: Keys,
    pub lab: Lab,
}

/// The key pairs of both.
pub struct Keys {
    pub ours: KeyPair,
    pub theirs: KeyPair,
}

impl World {
    pub fn up(setup: &Setup) -> Result<Self, Failed> {
        let (lab, mumbai) = Self::bare()?;
        let ohio = lab.ohio();
        let keys = Keys { ours: KeyPair::new()?, theirs: KeyPair::new()? };
        install_key(ohio, "default", "tunnel.key", &keys.ours.private)?;
        let secret = setup.preshared.then(preshared_key).transpose()?;
        let [here, there] = inner_pair(setup.inside);

        let mtu = setup.outside.of(&[1440, 1420]);
        let endpoint = (setup.begins != Begins::Ours).then(|| outer(ohio, setup.outside, FIRST_POD));
        let keepalive = setup.their_keepalive.map(|seconds| format!("PersistentKeepalive = {seconds}\n"));
        let configuration = [
            format!("[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n", keys.theirs.private),
            format!(
                "[Peer]\nPublicKey = {}\nAllowedIPs = {}\n",
                keys.ours.public,
                setup.inside.of(&["10.4.0.1/32", "fd04::1/128"])
            ),
            endpoint.map(|ip| format!("Endpoint = {}\n", std::net::SocketAddr::new(ip, PORT))).unwrap_or_default(),
            secret.as_ref().map(|secret| format!("PresharedKey = {secret}\n")).unwrap_or_default(),
            keepalive.unwrap_or_default(),
        ];
        let theirs = WireguardGo::start(&mumbai, &configuration.concat(), there, mtu)?;

        let endpoint = (setup.begins != Begins::Theirs).then(|| outer(lab.mumbai(), setup.outside, FIRST_POD));
        let mut own = sealed_tun(Format::Wireguard, setup.outside, endpoint, &keys.theirs.public, here);
        own["privateKeyFile"] = json!("tunnel.key");
        if let Some(secret) = &secret {
            install_key(ohio, "default", "tunnel.psk", secret)?;
            let place = if endpoint.is_none() { &mut own["peers"][0] } else { &mut own };
            place["presharedKeyFile"] = json!("tunnel.psk");
        }
        if let Some(allowed) = setup.allowed {
            own["peers"][0]["allowedIPs"] = json!([allowed]);
        }
        let nad = list("foreign", &[net1(&lab, ohio), with(own, &setup.ours)]);
        let ohio = ohio.pod("ours").attach(nad, &annotation("foreign", ohio, FIRST_POD))?;
        Ok(Self { theirs, ohio, mumbai, keys, lab })
    }

    /// Clusters with an agent in Ohio, and a pod with net1 in Mumbai.
    pub fn bare() -> Result<(Lab, Pod), Failed> {
        let lab = Lab::build(&LabSpec::two_clusters(Attachment::Bridge))?;
        lab.ohio().start_agent()?;
        let node = lab.mumbai();
        let below = list("below", &[net1(&lab, node)]);
        let mumbai = node.pod("theirs").attach(below, &annotation("below", node, FIRST_POD))?;
        Ok((lab, mumbai))
    }

    pub fn node(&self) -> &Node {
        self.lab.ohio()
    }
}
