//! Addresses of links.

use std::{net::IpAddr, time::Duration};

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use nix::errno::Errno;

use crate::{
    Error, Netlink, Result,
    attribute::{Attributes, attributes, native},
    ip,
    link::gone_is_false,
    request::{DELETE_ADDRESS, GET_ADDRESS, NEW_ADDRESS, Request},
    wait::{GROUP_IPV6_ADDRESS, GROUP_LINK, Look},
};

/// `struct ifaddrmsg`.
const HEADER_BYTES: usize = 8;

// include/uapi/linux/if_addr.h
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 0x02;
const IFA_F_OPTIMISTIC: u32 = 0x04;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_TENTATIVE: u32 = 0x40;
const IFA_F_NOPREFIXROUTE: u32 = 0x200;

/// An address on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// The address with its prefix length; host bits are kept.
    pub network: IpNetwork,
    /// IPv6: no duplicate address detection (`IFA_F_NODAD`).
    pub nodad: bool,
    /// IPv6: usable while duplicate address detection is under way (`IFA_F_OPTIMISTIC`, RFC 4429). Taken back by the kernel
    /// when the address turns out to be a duplicate. Ignored unless the link's sysctl `optimistic_dad` is set, and useless
    /// when the address is added before the link is up: nothing is delivered to it then until detection ends.
    pub optimistic: bool,
    /// The kernel adds no route to the prefix (`IFA_F_NOPREFIXROUTE`).
    pub noprefixroute: bool,
    /// Read only, IPv6: duplicate address detection has not ended, the address cannot be used yet.
    pub tentative: bool,
    /// Read only, IPv6: another host uses the address.
    pub dad_failed: bool,
    /// The address at the other end of a point-to-point link; the prefix length is the peer's then.
    pub peer: Option<IpAddr>,
}

impl Address {
    /// An address without flags.
    #[must_use]
    pub const fn new(network: IpNetwork) -> Self {
        Self {
            network,
            nodad: false,
            optimistic: false,
            noprefixroute: false,
            tentative: false,
            dad_failed: false,
            peer: None,
        }
    }
}

impl Netlink {
    /// The addresses of a link, of both families.
    ///
    /// # Errors
    /// [`Error::is_not_found`] when there is no such link.
    pub fn addresses(&self, index: u32) -> Result<Vec<Address>> {
        let request = Request::new(GET_ADDRESS, message(0, 0, index));
        // Kernels before 4.20 do not filter.
        let read = (NEW_ADDRESS, |body: &[u8]| Some(parse(body, index)));
        let answers = self.dump("list addresses of link", || self.label(index), &request, read)?;
        Ok(answers.into_iter().flatten().collect())
    }

    /// Adds an address; IPv4 gets the prefix's broadcast address when the prefix is shorter than 31.
    ///
    /// # Errors
    /// [`Error::is_exists`] when the link has it already.
    pub fn add_address(&self, index: u32, address: &Address) -> Result<()> {
        let request = Request::new(NEW_ADDRESS, build(index, address));
        let object = || format!("{} to link {}", address.network, self.label(index));
        self.acked("add address", object, &request, NLM_F_CREATE | NLM_F_EXCL).map_err(|e| {
            e.with_remedy(Errno::EEXIST, "the link has this address already")
                .with_remedy(Errno::EACCES, "IPv6 is switched off on the link (sysctl disable_ipv6)")
        })
    }

    /// Removes an address; `Ok(false)` when the address or the link is gone already.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete_address(&self, index: u32, network: IpNetwork) -> Result<bool> {
        let plain = Address::new(network);
        if self.delete_exactly(index, &plain)? {
            return Ok(true);
        }
        // The kernel finds an address with a peer only when the peer is named.
        let with_peer = match self.addresses(index) {
            Ok(addresses) => addresses.into_iter().find(|a| a.network == network && a.peer.is_some()),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        with_peer.map_or(Ok(false), |address| self.delete_exactly(index, &address))
    }

    /// Waits until no address of the link is tentative (RFC 4862 5.4).
    ///
    /// The link must be up and have carrier: detection does not start before.
    ///
    /// # Errors
    /// [`Error::DuplicateAddress`], [`Error::TimedOut`].
    pub fn wait_addresses_usable(&self, index: u32, timeout: Duration) -> Result<()> {
        let look = || {
            let addresses = self.addresses(index)?;
            if let Some(duplicate) = addresses.iter().find(|address| address.dad_failed) {
                return Err(Error::DuplicateAddress { address: duplicate.network.ip(), device: self.label(index) });
            }
            let tentative: Vec<String> = addresses
                .iter()
                .filter(|address| address.tentative)
                .map(|address| address.network.to_string())
                .collect();
            Ok(if tentative.is_empty() {
                Look::Done(())
            } else {
                Look::NotYet(format!("tentative: {}", tentative.join(", ")))
            })
        };
        let what = || format!("duplicate address detection on link {}", self.label(index));
        self.wait_for(&[GROUP_LINK, GROUP_IPV6_ADDRESS], what, timeout, look)
    }

    fn delete_exactly(&self, index: u32, address: &Address) -> Result<bool> {
        let request = Request::new(DELETE_ADDRESS, build(index, address));
        let object = || format!("{} from link {}", address.network, self.label(index));
        gone_is_false(self.acked("delete address", object, &request, 0), &[Errno::EADDRNOTAVAIL, Errno::ENODEV])
    }
}

fn build(index: u32, address: &Address) -> Attributes {
    let network = address.network;
    let own = ip::bytes(network.ip());
    let mut message = message(ip::family(network.ip()), network.prefix(), index);
    message.bytes(IFA_LOCAL, &own);
    match address.peer {
        Some(peer) => message.bytes(IFA_ADDRESS, &ip::bytes(peer)),
        None => message.bytes(IFA_ADDRESS, &own),
    };
    if let IpNetwork::V4(network) = network
        && network.prefix() < 31
        && address.peer.is_none()
    {
        message.bytes(IFA_BROADCAST, &network.broadcast().octets());
    }
    let flags = [
        (address.nodad, IFA_F_NODAD),
        (address.optimistic, IFA_F_OPTIMISTIC),
        (address.noprefixroute, IFA_F_NOPREFIXROUTE),
    ];
    let flags = flags.into_iter().filter(|(wanted, _)| *wanted).fold(0, |all, (_, flag)| all | flag);
    if flags != 0 {
        message.native_u32(IFA_FLAGS, flags);
    }
    message
}

/// `struct ifaddrmsg`.
fn message(family: u8, prefix: u8, index: u32) -> Attributes {
    let mut message = Attributes::new();
    message.header(&[family, prefix, 0, 0]).header(&index.to_ne_bytes());
    message
}

pub(crate) fn parse(body: &[u8], index: u32) -> Option<Address> {
    let (&[family, prefix, flags, _, i0, i1, i2, i3], rest) = body.split_first_chunk::<HEADER_BYTES>()?;
    if u32::from_ne_bytes([i0, i1, i2, i3]) != index {
        return None;
    }
    let mut flags = u32::from(flags);
    let (mut local, mut address) = (None, None);
    for (kind, value) in attributes(rest) {
        match kind {
            IFA_LOCAL => local = ip::read(family, value),
            IFA_ADDRESS => address = ip::read(family, value),
            IFA_FLAGS => flags = native(value)?,
            _ => {}
        }
    }
    // IFA_ADDRESS is the peer's where there is a IFA_LOCAL that differs.
    let own = local.or(address)?;
    Some(Address {
        network: IpNetwork::new(own, prefix).ok()?,
        nodad: flags & IFA_F_NODAD != 0,
        optimistic: flags & IFA_F_OPTIMISTIC != 0,
        noprefixroute: flags & IFA_F_NOPREFIXROUTE != 0,
        tentative: flags & IFA_F_TENTATIVE != 0,
        dad_failed: flags & IFA_F_DADFAILED != 0,
        peer: address.filter(|peer| *peer != own),
    })
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{Emitable, Parseable};
    use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};

    use super::*;

    /// What another implementation reads.
    fn read(message: Attributes) -> AddressMessage {
        AddressMessage::parse(message.finish().unwrap().as_slice()).unwrap()
    }

    /// What another implementation writes.
    fn written(message: &AddressMessage) -> Vec<u8> {
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    fn network(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    fn attributes(address: &Address) -> Vec<AddressAttribute> {
        read(build(5, address)).attributes
    }

    #[test]
    fn ipv4_gets_a_broadcast_address_where_the_prefix_has_one() {
        let broadcast = |text| {
            attributes(&Address::new(network(text))).into_iter().find_map(|a| match a {
                AddressAttribute::Broadcast(ip) => Some(ip.to_string()),
                _ => None,
            })
        };
        assert_eq!(broadcast("10.1.2.3/24").as_deref(), Some("10.1.2.255"));
        assert_eq!(broadcast("10.1.2.3/31"), None);
        assert_eq!(broadcast("10.1.2.3/32"), None);
        assert_eq!(broadcast("fd00::1/64"), None);
    }

    #[test]
    fn flags_are_asked_for_only_when_there_are_any() {
        let mut address = Address::new(network("fd00::1/64"));
        assert!(!attributes(&address).iter().any(|a| matches!(a, AddressAttribute::Flags(_))));
        address.nodad = true;
        address.noprefixroute = true;
        let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
        assert!(attributes(&address).contains(&AddressAttribute::Flags(flags)));
        let optimistic = Address { optimistic: true, ..Address::new(network("fd00::1/64")) };
        assert!(attributes(&optimistic).contains(&AddressAttribute::Flags(AddressFlags::Optimistic)));
    }

    #[test]
    fn an_address_with_a_peer_is_written_and_read_the_same() {
        for (own, peer) in [("10.0.0.1/32", "10.0.0.2"), ("fd00::1/128", "fd00::2")] {
            let mut address = Address::new(network(own));
            address.peer = Some(peer.parse().unwrap());
            let message = build(5, &address).finish().unwrap();
            assert_eq!(parse(&message, 5), Some(address));
            assert_eq!(parse(&message, 6), None);
        }
    }

    #[test]
    fn all_flags_win_over_the_eight_of_the_header() {
        let mut message = read(build(5, &Address::new(network("fd00::1/64"))));
        message.attributes.push(AddressAttribute::Flags(
            AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Noprefixroute,
        ));
        let address = parse(&written(&message), 5).unwrap();
        assert!(address.tentative && address.dad_failed && address.noprefixroute && !address.nodad);
        assert_eq!(address.peer, None);
    }
}
