//! Addresses of links.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage},
};
use nix::errno::Errno;
use rtnetlink::AddressMessageBuilder;

use crate::{
    Error, Netlink, Result,
    link::gone_is_false,
    wait::{GROUP_IPV6_ADDRESS, GROUP_LINK, Look},
};

/// An address on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// The address with its prefix length; host bits are kept.
    pub network: IpNetwork,
    /// IPv6: no duplicate address detection (`IFA_F_NODAD`).
    pub nodad: bool,
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
        Self { network, nodad: false, noprefixroute: false, tentative: false, dad_failed: false, peer: None }
    }
}

impl Netlink {
    /// The addresses of a link, of both families.
    ///
    /// # Errors
    /// [`Error::is_not_found`] when there is no such link.
    pub fn addresses(&self, index: u32) -> Result<Vec<Address>> {
        let mut query = AddressMessage::default();
        query.header.index = index;
        let request = RouteNetlinkMessage::GetAddress(query);
        let answers = self.dump("list addresses of link", || self.label(index), &request)?;
        // Kernels before 4.20 do not filter.
        Ok(answers.iter().filter_map(|answer| parse(answer, index)).collect())
    }

    /// Adds an address; IPv4 gets the prefix's broadcast address when the prefix is shorter than 31.
    ///
    /// # Errors
    /// [`Error::is_exists`] when the link has it already.
    pub fn add_address(&self, index: u32, address: &Address) -> Result<()> {
        let request = RouteNetlinkMessage::NewAddress(build(index, address));
        let object = || format!("{} to link {}", address.network, self.label(index));
        self.acked("add address", object, request, NLM_F_CREATE | NLM_F_EXCL).map_err(|e| {
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
        let request = RouteNetlinkMessage::DelAddress(build(index, address));
        let object = || format!("{} from link {}", address.network, self.label(index));
        gone_is_false(self.acked("delete address", object, request, 0), &[Errno::EADDRNOTAVAIL, Errno::ENODEV])
    }
}

fn build(index: u32, address: &Address) -> AddressMessage {
    let prefix = address.network.prefix();
    let mut message = match address.network.ip() {
        IpAddr::V4(ip) => AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(ip, prefix).build(),
        IpAddr::V6(ip) => AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(ip, prefix).build(),
    };
    if let Some(peer) = address.peer {
        message.attributes.retain(|attribute| matches!(attribute, AddressAttribute::Local(_)));
        message.attributes.push(AddressAttribute::Address(peer));
    }
    let mut flags = AddressFlags::empty();
    flags.set(AddressFlags::Nodad, address.nodad);
    flags.set(AddressFlags::Noprefixroute, address.noprefixroute);
    if !flags.is_empty() {
        message.attributes.push(AddressAttribute::Flags(flags));
    }
    message
}

fn parse(message: &RouteNetlinkMessage, index: u32) -> Option<Address> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    if message.header.index != index {
        return None;
    }
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    // IFA_ADDRESS is the peer's where there is a IFA_LOCAL that differs.
    let own = local.or(address)?;
    Some(Address {
        network: IpNetwork::new(own, message.header.prefix_len).ok()?,
        nodad: flags.contains(AddressFlags::Nodad),
        noprefixroute: flags.contains(AddressFlags::Noprefixroute),
        tentative: flags.contains(AddressFlags::Tentative),
        dad_failed: flags.contains(AddressFlags::Dadfailed),
        peer: address.filter(|peer| *peer != own),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    fn attributes(address: &Address) -> Vec<AddressAttribute> {
        build(5, address).attributes
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
    }

    #[test]
    fn an_address_with_a_peer_is_written_and_read_the_same() {
        for (own, peer) in [("10.0.0.1/32", "10.0.0.2"), ("fd00::1/128", "fd00::2")] {
            let mut address = Address::new(network(own));
            address.peer = Some(peer.parse().unwrap());
            let message = RouteNetlinkMessage::NewAddress(build(5, &address));
            assert_eq!(parse(&message, 5), Some(address));
            assert_eq!(parse(&message, 6), None);
        }
    }

    #[test]
    fn all_flags_win_over_the_eight_of_the_header() {
        let mut message = build(5, &Address::new(network("fd00::1/64")));
        message.attributes.push(AddressAttribute::Flags(
            AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Noprefixroute,
        ));
        let address = parse(&RouteNetlinkMessage::NewAddress(message), 5).unwrap();
        assert!(address.tentative && address.dad_failed && address.noprefixroute && !address.nodad);
        assert_eq!(address.peer, None);
    }
}
