//! What is told to the kernel, in buffers that are wiped.

use std::net::SocketAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLA_F_NESTED, NLM_F_REQUEST};
use zeroize::Zeroizing;

use super::{DeviceChange, KEY_BYTES, PeerAction, PeerChange, Secret};
use crate::{attribute::Attributes, ip, request::Request};

/// The family by which others are looked up (include/uapi/linux/genetlink.h).
pub(super) const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
pub(super) const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const CTRL_VERSION: u8 = 2;

// include/uapi/linux/wireguard.h
const WG_GENL_NAME: &str = "wireguard";
const WG_GENL_VERSION: u8 = 1;
const WG_CMD_GET_DEVICE: u8 = 0;
const WG_CMD_SET_DEVICE: u8 = 1;

pub(super) const WGDEVICE_A_IFINDEX: u16 = 1;
pub(super) const WGDEVICE_A_IFNAME: u16 = 2;
const WGDEVICE_A_PRIVATE_KEY: u16 = 3;
pub(super) const WGDEVICE_A_PUBLIC_KEY: u16 = 4;
const WGDEVICE_A_FLAGS: u16 = 5;
pub(super) const WGDEVICE_A_LISTEN_PORT: u16 = 6;
pub(super) const WGDEVICE_A_FWMARK: u16 = 7;
pub(super) const WGDEVICE_A_PEERS: u16 = 8;
const WGDEVICE_F_REPLACE_PEERS: u32 = 1;

pub(super) const WGPEER_A_PUBLIC_KEY: u16 = 1;
pub(super) const WGPEER_A_PRESHARED_KEY: u16 = 2;
const WGPEER_A_FLAGS: u16 = 3;
pub(super) const WGPEER_A_ENDPOINT: u16 = 4;
pub(super) const WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL: u16 = 5;
pub(super) const WGPEER_A_LAST_HANDSHAKE_TIME: u16 = 6;
pub(super) const WGPEER_A_RX_BYTES: u16 = 7;
pub(super) const WGPEER_A_TX_BYTES: u16 = 8;
pub(super) const WGPEER_A_ALLOWEDIPS: u16 = 9;
const WGPEER_F_REMOVE_ME: u32 = 1;
const WGPEER_F_REPLACE_ALLOWEDIPS: u32 = 2;
const WGPEER_F_UPDATE_ONLY: u32 = 4;

pub(super) const WGALLOWEDIP_A_FAMILY: u16 = 1;
pub(super) const WGALLOWEDIP_A_IPADDR: u16 = 2;
pub(super) const WGALLOWEDIP_A_CIDR_MASK: u16 = 3;

/// The longest message that is sent.
pub(super) const LIMIT_BYTES: usize = 16 * 1024;

/// `struct nlattr`.
const ATTRIBUTE_HEADER_BYTES: usize = 4;

/// More than a peer takes that has everything but networks: two keys, flags, an IPv6 endpoint, keepalive, two nests.
const PEER_BYTES: usize = 144;
/// More than a network takes: family, IPv6 address, prefix length, a nest.
const ALLOWED_IP_BYTES: usize = 48;

/// A request for the number of the family.
pub(super) fn family() -> Request {
    let mut body = generic(CTRL_CMD_GETFAMILY, CTRL_VERSION);
    body.text(CTRL_ATTR_FAMILY_NAME, WG_GENL_NAME);
    Request::new(GENL_ID_CTRL, body)
}

/// A request for all there is to know of a device.
pub(super) fn get(family: u16, name: &str) -> Request {
    let mut body = generic(WG_CMD_GET_DEVICE, WG_GENL_VERSION);
    body.text(WGDEVICE_A_IFNAME, name);
    Request::new(family, body)
}

/// A change of a device, in as many messages as it takes. The first has what concerns the device itself; a peer with more
/// networks than one message holds is continued in the next.
pub(super) fn set(family: u16, name: &str, change: &DeviceChange<'_>) -> Vec<Message> {
    let mut message = Message::to_device(family, name);
    if let Some(key) = change.private_key {
        message.key(WGDEVICE_A_PRIVATE_KEY, key);
    }
    if change.replace_peers {
        message.put(WGDEVICE_A_FLAGS, &WGDEVICE_F_REPLACE_PEERS.to_ne_bytes());
    }
    if let Some(port) = change.listen_port {
        message.put(WGDEVICE_A_LISTEN_PORT, &port.to_ne_bytes());
    }
    if let Some(mark) = change.fwmark {
        message.put(WGDEVICE_A_FWMARK, &mark.to_ne_bytes());
    }
    let peers = message.open(WGDEVICE_A_PEERS);
    let mut parts = Parts { family, name, complete: Vec::new(), message, peers };
    for peer in &change.peers {
        parts.peer(peer);
    }
    parts.finish()
}

/// `struct nlmsghdr` is the request's own business, `struct genlmsghdr` is this.
fn generic(command: u8, version: u8) -> Attributes {
    let mut body = Attributes::new();
    body.header(&[command, version, 0, 0]);
    body
}

/// A message in a buffer that is never moved, so that no copy of a secret stays behind, and wiped in the end.
pub(super) struct Message {
    bytes: Zeroizing<Vec<u8>>,
}

impl Message {
    fn to_device(family: u16, name: &str) -> Self {
        let mut message = Self { bytes: Zeroizing::new(Vec::with_capacity(LIMIT_BYTES)) };
        message.bytes.extend([0; 4]); // length
        message.bytes.extend(family.to_ne_bytes());
        message.bytes.extend([0; 10]); // flags, sequence number, the kernel's port
        message.bytes.extend([WG_CMD_SET_DEVICE, WG_GENL_VERSION, 0, 0]);
        message.put(WGDEVICE_A_IFNAME, &[name.as_bytes(), &[0]].concat());
        message
    }

    /// The whole message.
    pub(super) fn numbered(&mut self, sequence: u32, flags: u16) -> &[u8] {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.overwrite(0, &length.to_ne_bytes());
        self.overwrite(6, &(flags | NLM_F_REQUEST).to_ne_bytes());
        self.overwrite(8, &sequence.to_ne_bytes());
        &self.bytes
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.bytes.len().saturating_add(bytes) <= LIMIT_BYTES
    }

    fn put(&mut self, kind: u16, value: &[u8]) {
        let length = value.len().saturating_add(ATTRIBUTE_HEADER_BYTES);
        debug_assert!(self.has_room(length.next_multiple_of(4)));
        self.bytes.extend(u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        let padded = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(padded, 0);
    }

    /// Zeros take the key away.
    fn key(&mut self, kind: u16, key: Option<Secret<'_>>) {
        self.put(kind, key.map_or(&[0; KEY_BYTES], |secret| secret.0));
    }

    /// Begins a nest; what follows is in it until it is closed.
    fn open(&mut self, kind: u16) -> usize {
        let at = self.bytes.len();
        self.put(kind | NLA_F_NESTED, &[]);
        at
    }

    fn close(&mut self, nest: usize) {
        let length = self.bytes.len().saturating_sub(nest);
        self.overwrite(nest, &u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes());
    }

    fn overwrite(&mut self, at: usize, value: &[u8]) {
        let place = self.bytes.get_mut(at..).and_then(|rest| rest.get_mut(..value.len()));
        if let Some(place) = place {
            place.copy_from_slice(value);
        }
    }
}

/// Messages that follow one another.
struct Parts<'a> {
    family: u16,
    name: &'a str,
    complete: Vec<Message>,
    message: Message,
    /// The nest of the peers of `message`.
    peers: usize,
}

impl Parts<'_> {
    fn peer(&mut self, peer: &PeerChange<'_>) {
        if !self.message.has_room(PEER_BYTES) {
            self.next();
        }
        let mut nest = self.begin(peer, flags(peer));
        if peer.action == PeerAction::Remove {
            self.message.close(nest);
            return;
        }
        if let Some(key) = peer.preshared_key {
            self.message.key(WGPEER_A_PRESHARED_KEY, key);
        }
        if let Some(endpoint) = peer.endpoint {
            self.message.put(WGPEER_A_ENDPOINT, &socket_address(endpoint));
        }
        if let Some(seconds) = peer.keepalive_seconds {
            self.message.put(WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, &seconds.to_ne_bytes());
        }
        let mut list = self.message.open(WGPEER_A_ALLOWEDIPS);
        for network in peer.allowed_ips {
            if !self.message.has_room(ALLOWED_IP_BYTES) {
                self.message.close(list);
                self.message.close(nest);
                self.next();
                nest = self.begin(peer, WGPEER_F_UPDATE_ONLY);
                list = self.message.open(WGPEER_A_ALLOWEDIPS);
            }
            self.allowed_ip(*network);
        }
        self.message.close(list);
        self.message.close(nest);
    }

    fn begin(&mut self, peer: &PeerChange<'_>, flags: u32) -> usize {
        let nest = self.message.open(0);
        self.message.put(WGPEER_A_PUBLIC_KEY, &peer.public_key);
        self.message.put(WGPEER_A_FLAGS, &flags.to_ne_bytes());
        nest
    }

    fn allowed_ip(&mut self, network: IpNetwork) {
        let nest = self.message.open(0);
        self.message.put(WGALLOWEDIP_A_FAMILY, &u16::from(ip::family(network.ip())).to_ne_bytes());
        self.message.put(WGALLOWEDIP_A_IPADDR, &ip::bytes(network.network()));
        self.message.put(WGALLOWEDIP_A_CIDR_MASK, &[network.prefix()]);
        self.message.close(nest);
    }

    fn next(&mut self) {
        let mut message = Message::to_device(self.family, self.name);
        let peers = message.open(WGDEVICE_A_PEERS);
        let full = std::mem::replace(&mut self.message, message);
        self.close(full);
        self.peers = peers;
    }

    fn finish(mut self) -> Vec<Message> {
        let last = std::mem::replace(&mut self.message, Message { bytes: Zeroizing::default() });
        self.close(last);
        self.complete
    }

    fn close(&mut self, mut message: Message) {
        message.close(self.peers);
        self.complete.push(message);
    }
}

fn flags(peer: &PeerChange<'_>) -> u32 {
    let action = match peer.action {
        PeerAction::Set => 0,
        PeerAction::Update => WGPEER_F_UPDATE_ONLY,
        PeerAction::Remove => return WGPEER_F_REMOVE_ME,
    };
    action | if peer.replace_allowed_ips { WGPEER_F_REPLACE_ALLOWEDIPS } else { 0 }
}

/// `struct sockaddr_in` or `struct sockaddr_in6`.
fn socket_address(address: SocketAddr) -> Vec<u8> {
    let mut bytes = u16::from(ip::family(address.ip())).to_ne_bytes().to_vec();
    bytes.extend(address.port().to_be_bytes());
    match address {
        SocketAddr::V4(address) => {
            bytes.extend(address.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(address) => {
            bytes.extend([0; 4]);
            bytes.extend(address.ip().octets());
            bytes.extend(address.scope_id().to_ne_bytes());
        }
    }
    bytes
}
