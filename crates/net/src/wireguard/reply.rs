//! What the kernel says of WireGuard, read; its secrets are not.

use std::{
    net::{IpAddr, SocketAddr, SocketAddrV6},
    time::{Duration, SystemTime},
};

use ipnetwork::IpNetwork;

#[allow(clippy::wildcard_imports, reason = "numbers, each of which has the kernel's name")]
use super::message::*;
use super::{Device, KEY_BYTES, Peer, PublicKey};
use crate::{
    attribute::{attributes, find, native, text},
    ip,
    request::body,
};

/// `struct genlmsghdr`.
const GENERIC_BYTES: usize = 4;

/// What one message says of a device: the first one names it, each one has some of its peers.
#[derive(Debug)]
pub(super) struct Part {
    device: Option<Device>,
    peers: Vec<Peer>,
}

/// The number of the family that was looked up.
pub(super) fn family(message: &[u8]) -> Result<u16, String> {
    let family = find(payload(message, GENL_ID_CTRL)?, CTRL_ATTR_FAMILY_ID).and_then(short);
    family.ok_or_else(|| "it names no family".into())
}

/// A message about a device.
pub(super) fn part(message: &[u8], family: u16) -> Result<Part, String> {
    let payload = payload(message, family)?;
    let peers = attributes(find(payload, WGDEVICE_A_PEERS).unwrap_or_default());
    let peers: Option<Vec<Peer>> = peers.map(|(_, attributes)| peer(attributes)).collect();
    let device = match find(payload, WGDEVICE_A_IFINDEX) {
        Some(index) => Some(head(native(index), payload).ok_or("what it says of the device is damaged")?),
        None => None,
    };
    Ok(Part { device, peers: peers.ok_or("what it says of a peer is damaged")? })
}

/// All messages about one device. A peer whose networks one message could not hold is continued in the next.
pub(super) fn device(parts: Vec<Result<Part, String>>) -> Result<Device, String> {
    let mut device: Option<Device> = None;
    let mut peers: Vec<Peer> = Vec::new();
    for part in parts {
        let part = part?;
        device = device.or(part.device);
        for peer in part.peers {
            match peers.last_mut() {
                Some(last) if last.public_key == peer.public_key => last.allowed_ips.extend(peer.allowed_ips),
                _ => peers.push(peer),
            }
        }
    }
    let device = device.ok_or("it names no device")?;
    Ok(Device { peers, ..device })
}

fn payload(message: &[u8], family: u16) -> Result<&[u8], String> {
    body(message, family)?.get(GENERIC_BYTES..).ok_or_else(|| "it is shorter than its header".into())
}

fn head(index: Option<u32>, payload: &[u8]) -> Option<Device> {
    Some(Device {
        index: index?,
        name: find(payload, WGDEVICE_A_IFNAME).map(text)?,
        public_key: find(payload, WGDEVICE_A_PUBLIC_KEY).map(PublicKey::try_from).transpose().ok()?,
        listen_port: find(payload, WGDEVICE_A_LISTEN_PORT).and_then(short)?,
        fwmark: find(payload, WGDEVICE_A_FWMARK).and_then(native)?,
        peers: Vec::new(),
    })
}

fn peer(payload: &[u8]) -> Option<Peer> {
    let mut peer = Peer {
        public_key: find(payload, WGPEER_A_PUBLIC_KEY)?.try_into().ok()?,
        has_preshared_key: false,
        endpoint: None,
        keepalive_seconds: 0,
        last_handshake: None,
        rx_bytes: 0,
        tx_bytes: 0,
        allowed_ips: Vec::new(),
    };
    for (kind, value) in attributes(payload) {
        match kind {
            // Without one it is zero.
            WGPEER_A_PRESHARED_KEY => peer.has_preshared_key = *value != [0; KEY_BYTES],
            WGPEER_A_ENDPOINT => peer.endpoint = Some(socket_address(value)?),
            WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL => peer.keepalive_seconds = short(value)?,
            WGPEER_A_LAST_HANDSHAKE_TIME => peer.last_handshake = time(value)?,
            WGPEER_A_RX_BYTES => peer.rx_bytes = long(value)?,
            WGPEER_A_TX_BYTES => peer.tx_bytes = long(value)?,
            WGPEER_A_ALLOWEDIPS => {
                for (_, network) in attributes(value) {
                    peer.allowed_ips.push(allowed_ip(network)?);
                }
            }
            _ => {}
        }
    }
    Some(peer)
}

fn allowed_ip(payload: &[u8]) -> Option<IpNetwork> {
    let family = find(payload, WGALLOWEDIP_A_FAMILY).and_then(short)?;
    let address = ip::read(u8::try_from(family).ok()?, find(payload, WGALLOWEDIP_A_IPADDR)?)?;
    let &[prefix] = find(payload, WGALLOWEDIP_A_CIDR_MASK)? else { return None };
    IpNetwork::new(address, prefix).ok()
}

/// `struct sockaddr_in` or `struct sockaddr_in6`.
fn socket_address(value: &[u8]) -> Option<SocketAddr> {
    let family = u8::try_from(value.get(..2).and_then(short)?).ok()?;
    let port = u16::from_be_bytes(value.get(2..4)?.try_into().ok()?);
    if family == ip::IPV4 {
        return Some(SocketAddr::new(ip::read(family, value.get(4..8)?)?, port));
    }
    let IpAddr::V6(address) = ip::read(family, value.get(8..24)?)? else { return None };
    Some(SocketAddrV6::new(address, port, 0, native(value.get(24..28)?)?).into())
}

/// `struct __kernel_timespec` since 1970; zero is never.
#[allow(clippy::option_option, reason = "damaged, never, then")]
fn time(value: &[u8]) -> Option<Option<SystemTime>> {
    let (seconds, nanoseconds) = value.split_first_chunk::<8>()?;
    let seconds = u64::try_from(i64::from_ne_bytes(*seconds)).ok()?;
    let nanoseconds = u32::try_from(i64::from_ne_bytes(nanoseconds.try_into().ok()?)).ok()?;
    let since = Duration::from_secs(seconds).checked_add(Duration::from_nanos(nanoseconds.into()))?;
    if since.is_zero() {
        return Some(None);
    }
    Some(Some(SystemTime::UNIX_EPOCH.checked_add(since)?))
}

/// In the machine's byte order.
fn short(value: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(value.try_into().ok()?))
}

fn long(value: &[u8]) -> Option<u64> {
    Some(u64::from_ne_bytes(value.try_into().ok()?))
}

/// Reads messages as if each were of the family that was asked for.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(messages: &[Vec<u8>]) {
    let own_family = |message: &[u8]| message.get(4..6).and_then(short).unwrap_or_default();
    for message in messages {
        let _ = family(message);
    }
    let _ = device(messages.iter().map(|message| part(message, own_family(message))).collect());
}

#[cfg(test)]
mod tests;
