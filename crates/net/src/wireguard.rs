//! The kernel's WireGuard: devices are made like other links, keys and peers told over generic netlink
//! (include/uapi/linux/wireguard.h).
//!
//! A device sends and receives in the namespace that it was made from, wherever it is: made by a [`Netlink`] of the node directly
//! in a pod, its outer packets are the node's (`wg_newlink`, drivers/net/wireguard/device.c). What is told later changes nothing
//! of that.
//!
//! Secrets are borrowed from their owner, written only where they are wiped afterwards, and not read at all: the kernel puts them
//! into its answers, which are wiped too.

mod message;
mod reply;

use std::{
    cell::Cell,
    fmt,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use netlink_sys::protocols::NETLINK_GENERIC;
use nix::errno::Errno;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use reply::fuzz;

use crate::{
    Error, IfName, Netlink, Netns, Result,
    channel::{Channel, Failure},
    link_message,
    request::{NEW_LINK, Request},
    vxlan::refused_for,
};

/// The length of every key of WireGuard.
pub const KEY_BYTES: usize = 32;

/// What a Curve25519 public key consists of (RFC 7748).
pub type PublicKey = [u8; KEY_BYTES];

/// How many messages of an answer are kept, of some hundred networks each: whoever may change a device could fill it without end.
const LONGEST_ANSWER: usize = 4096;

const NO_WIREGUARD: &str =
    "this kernel has no WireGuard: it needs CONFIG_WIREGUARD (module wireguard), which there is since Linux 5.6";

/// A private or preshared key that somebody else keeps and wipes.
#[derive(Clone, Copy)]
pub struct Secret<'a>(&'a [u8; KEY_BYTES]);

impl<'a> Secret<'a> {
    /// The key in `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Secret<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A WireGuard device that is to be. It is down, and has neither keys nor peers.
#[derive(Clone, Copy, Debug)]
pub struct WireguardSpec<'a> {
    /// Name in its namespace.
    pub name: &'a str,
    /// MTU in bytes; `None` is the kernel's 1420.
    pub mtu: Option<u32>,
    /// Where it is to be; `None` is the [`Netlink`]'s namespace. Its outer packets are of the [`Netlink`]'s in both cases.
    pub netns: Option<&'a Netns>,
}

/// A WireGuard device as the kernel reports it, but for its secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Index in its namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// The public key that belongs to its private key, if it has one.
    pub public_key: Option<PublicKey>,
    /// UDP port that it receives at. One that it was not told the kernel chooses when the device goes up; 0 until then.
    pub listen_port: u16,
    /// Mark on its outer packets, for routing rules; 0 is none.
    pub fwmark: u32,
    /// Its peers, in the order they were made in.
    pub peers: Vec<Peer>,
}

/// A peer as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who it is.
    pub public_key: PublicKey,
    /// Whether a preshared key is set.
    pub has_preshared_key: bool,
    /// Where its last authenticated packet came from, else where it was told to be.
    pub endpoint: Option<SocketAddr>,
    /// An empty packet is sent after so many seconds without another; 0 is never.
    pub keepalive_seconds: u16,
    /// When the last handshake with it was completed, by the clock of the node.
    pub last_handshake: Option<SystemTime>,
    /// Received from it, in bytes with WireGuard's headers.
    pub rx_bytes: u64,
    /// Sent to it, in bytes with WireGuard's headers.
    pub tx_bytes: u64,
    /// What it may send from, and what is sent to it. Longest prefix wins among the peers of a device.
    pub allowed_ips: Vec<IpNetwork>,
}

/// What is to change on a device; what is `None` stays as it is.
#[derive(Clone, Debug, Default)]
pub struct DeviceChange<'a> {
    /// Its private key; `Some(None)` takes it away. When it becomes another one, sessions send no more; told the same again, they
    /// go on. A peer that has the public key of the device itself is then removed, and never added, without a word.
    pub private_key: Option<Option<Secret<'a>>>,
    /// UDP port that it receives at, in the namespace that it was made from; 0 lets the kernel choose.
    pub listen_port: Option<u16>,
    /// Mark on its outer packets; 0 is none.
    pub fwmark: Option<u32>,
    /// Removes every peer before `peers` are added; with them go their sessions, counters and endpoints that were learned.
    pub replace_peers: bool,
    /// Peers that change.
    pub peers: Vec<PeerChange<'a>>,
}

/// What is to happen to a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PeerAction {
    /// It is made where there is none with this key, else changed.
    #[default]
    Set,
    /// It is changed; nothing happens where there is none.
    Update,
    /// It is removed; nothing happens where there is none.
    Remove,
}

/// What is to change on one peer; what is `None` or `false` stays as it is.
#[derive(Clone, Debug)]
pub struct PeerChange<'a> {
    /// Who it is.
    pub public_key: PublicKey,
    /// What is to happen. Removing needs nothing else.
    pub action: PeerAction,
    /// Its preshared key; `Some(None)` takes it away.
    pub preshared_key: Option<Option<Secret<'a>>>,
    /// Where it is; an IPv6 flow label is left out.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between packets that keep a NAT's mapping; 0 is none.
    pub keepalive_seconds: Option<u16>,
    /// Takes all networks from it before `allowed_ips` are added.
    pub replace_allowed_ips: bool,
    /// Networks that become its own; a network that another peer of the device has moves to this one. Bits behind the prefix
    /// do not count.
    pub allowed_ips: &'a [IpNetwork],
}

impl PeerChange<'_> {
    /// A peer that is to be there, nothing said about it.
    #[must_use]
    pub const fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            action: PeerAction::Set,
            preshared_key: None,
            endpoint: None,
            keepalive_seconds: None,
            replace_allowed_ips: false,
            allowed_ips: &[],
        }
    }
}

impl Netlink {
    /// Makes a WireGuard device.
    ///
    /// # Errors
    /// [`Error::is_exists`] when the name is taken; in words when this kernel has no WireGuard.
    pub fn add_wireguard(&self, spec: &WireguardSpec<'_>) -> Result<()> {
        let request = Request::new(NEW_LINK, link_message::wireguard(spec));
        let made = self.acked("create wireguard", || spec.name.to_owned(), &request, NLM_F_CREATE | NLM_F_EXCL);
        made.map_err(|error| error.with_remedy(Errno::EOPNOTSUPP, NO_WIREGUARD))
    }

    /// Whether the kernel has WireGuard devices, which makes it load the module. It is asked by a request that it refuses in any case, for
    /// an MTU that no device can have: only the reason differs.
    ///
    /// # Errors
    /// It has not, in words that say what it lacks; or there is no privilege to ask.
    pub fn require_wireguard(&self) -> Result<()> {
        let impossible = WireguardSpec { name: "adit-probe", mtu: Some(u32::MAX), netns: None };
        refused_for(Errno::EINVAL, self.add_wireguard(&impossible))
    }
}

/// A generic netlink socket of one network namespace, for the WireGuard devices in it. It keeps acting in the namespace it was
/// opened in, whoever uses it afterwards.
///
/// The kernel wants CAP_NET_ADMIN over the namespace, both of who opened the socket and of who uses it.
#[derive(Debug)]
pub struct Wireguard {
    channel: Mutex<Channel>,
}

impl Wireguard {
    /// A socket in the calling thread's namespace. Succeeds on a kernel without WireGuard too.
    ///
    /// # Errors
    /// When the system refuses a socket.
    pub fn open() -> Result<Self> {
        Self::with(Channel::open(NETLINK_GENERIC))
    }

    /// A socket in `ns`; the calling thread is there only for a moment.
    ///
    /// # Errors
    /// As [`Wireguard::open`] and [`Netns::enter`].
    pub fn open_in(ns: &Netns) -> Result<Self> {
        Self::with(ns.run(|| Channel::open(NETLINK_GENERIC))?)
    }

    /// Whether this kernel has WireGuard. To ask makes it load the module.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn is_supported(&self) -> Result<bool> {
        match self.talk("ask the kernel for", || "wireguard".into(), |_, _| Ok(())) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(Errno::EPROTONOSUPPORT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The device called `name`; `None` when there is no link of this name.
    ///
    /// # Errors
    /// When the link is of another kind, the kernel has no WireGuard, refuses or does not answer.
    pub fn device(&self, name: &str) -> Result<Option<Device>> {
        let name = IfName::try_from(name)?;
        let found = self.talk(
            "read wireguard device",
            || name.to_string(),
            |channel, family| {
                let write = |sequence| message::get(family, name.as_str()).write(sequence, NLM_F_DUMP);
                // One part that cannot be read makes the whole useless: it must not be left out.
                let left = Cell::new(LONGEST_ANSWER);
                let part = |message: &[u8]| match left.get().checked_sub(1) {
                    Some(fewer) => {
                        left.set(fewer);
                        reply::part(message, family)
                    }
                    None => Err(format!("it has more than {LONGEST_ANSWER} parts: too many peers and networks")),
                };
                let parts = channel.dump(write, |message| Ok(part(message)))?;
                reply::device(parts).map_err(Failure::Answer)
            },
        );
        match found {
            Ok(device) => Ok(Some(device)),
            Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Changes the device called `name`: its mark, its port, its key, then peer after peer. The kernel takes back nothing when it
    /// refuses one of these. More than some 100 peers or 400 networks go in several requests; the error says how many were taken.
    ///
    /// # Errors
    /// [`Error::is_not_found`] when there is no such link, [`Error::is_address_in_use`] when the UDP port is taken; when the
    /// link is of another kind, the kernel has no WireGuard, refuses or does not answer.
    pub fn set(&self, name: &str, change: &DeviceChange<'_>) -> Result<()> {
        let name = IfName::try_from(name)?;
        let mut progress = String::new();
        let outcome = self.talk(
            "configure wireguard device",
            || name.to_string(),
            |channel, family| {
                let mut parts = message::set(family, name.as_str(), change);
                let count = parts.len();
                for (taken, part) in parts.iter_mut().enumerate() {
                    if taken > 0 {
                        progress = format!(" ({taken} of {count} parts of the change hold)");
                    }
                    channel.request(|sequence| part.numbered(sequence, NLM_F_ACK), |_| Ok(()))?;
                }
                Ok(())
            },
        );
        outcome.map_err(|mut error| {
            if let Error::Kernel { object, .. } | Error::Answer { object, .. } = &mut error {
                object.push_str(&progress);
            }
            error.with_remedy(Errno::EADDRINUSE, "another socket has this UDP port: stop it or choose another port")
        })
    }

    fn with(channel: std::io::Result<Channel>) -> Result<Self> {
        let channel = channel.map_err(|error| Error::io("open", "generic netlink socket", error))?;
        Ok(Self { channel: Mutex::new(channel) })
    }

    /// With the number by which the kernel knows messages to WireGuard. It is another whenever the module is loaded again.
    fn talk<T>(
        &self,
        action: &'static str,
        object: impl Fn() -> String,
        talk: impl FnOnce(&mut Channel, u16) -> std::result::Result<T, Failure>,
    ) -> Result<T> {
        let mut channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        let family = family(&mut channel).map_err(|failure| match failure {
            Failure::Refused(refusal) if refusal.errno == Errno::ENOENT => unsupported(action, object()),
            failure => failure.into_error(action, object()),
        })?;
        let outcome = talk(&mut channel, family);
        channel.wipe();
        outcome.map_err(|failure| {
            failure.into_error(action, object()).with_remedy(Errno::EOPNOTSUPP, "the link is no WireGuard device")
        })
    }
}

fn family(channel: &mut Channel) -> std::result::Result<u16, Failure> {
    let mut answers = channel.request(|sequence| message::family().write(sequence, NLM_F_ACK), reply::family)?;
    answers.pop().ok_or_else(|| Failure::Answer("it is empty".into()))
}

fn unsupported(action: &'static str, object: String) -> Error {
    Error::Kernel { action, object, errno: Errno::EPROTONOSUPPORT, message: None, remedy: Some(NO_WIREGUARD) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_printed() {
        let key = [0xab; KEY_BYTES];
        let secret = Some(Some(Secret::new(&key)));
        let peer = PeerChange { preshared_key: secret, ..PeerChange::new([1; KEY_BYTES]) };
        let change = DeviceChange { private_key: secret, peers: vec![peer], ..DeviceChange::default() };
        let printed = format!("{change:?} {change:#?}");
        assert!(printed.contains("Some(Secret)") && !printed.contains("171"), "{printed}");
    }

    #[test]
    fn what_is_no_interface_name_is_not_sent() {
        let wireguard = Wireguard::open().unwrap();
        for name in ["", "wg0\0", "sixteen-bytes-it"] {
            let error = wireguard.set(name, &DeviceChange::default()).unwrap_err();
            assert!(matches!(error, Error::InvalidName { .. }), "{error}");
            assert!(matches!(wireguard.device(name), Err(Error::InvalidName { .. })));
        }
    }
}
