//! VXLAN devices that carry IP packets without Ethernet around them (VXLAN-GPE), and leave VNI and addresses to routes.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use nix::errno::Errno;

use crate::{
    Encapsulation, Error, Netlink, Result, Route,
    attribute::{Attributes, attributes, find, native},
    link_message::{self, IFLA_IFNAME, IFLA_LINKINFO, INFO_DATA, INFO_KIND},
    request::{GET_TUNNEL, NEW_LINK, NEW_TUNNEL, Request},
};

// include/uapi/linux/if_link.h
const VXLAN_LEARNING: u16 = 7;
const VXLAN_PORT: u16 = 15;
const VXLAN_COLLECT_METADATA: u16 = 25;
const VXLAN_GPE: u16 = 27;
const VXLAN_VNIFILTER: u16 = 30;

const FILTER_ENTRY: u16 = 1;
const FILTER_START: u16 = 1;
const FILTER_END: u16 = 2;

/// `struct tunnel_msg`.
const TUNNEL_BYTES: usize = 8;

const NO_VXLAN: &str = "this kernel makes no VXLAN devices: it needs CONFIG_VXLAN (module vxlan), and Linux 4.7 for those \
                        without Ethernet";
const NO_ENCAPSULATION: &str =
    "this kernel has no routes that encapsulate: it needs CONFIG_LWTUNNEL, which there is since Linux 4.3";

/// What a VXLAN device is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Vxlan {
    /// The UDP port at which it receives and to which it sends.
    pub port: u16,
    /// VNI and addresses come from routes (`external`).
    pub external: bool,
    /// Packets of any protocol instead of Ethernet frames (`gpe`).
    pub gpe: bool,
    /// It takes only packets with a VNI that it was told (`vnifilter`, since Linux 5.18), else with any.
    pub vnifilter: bool,
}

impl Netlink {
    /// Makes a VXLAN device for IP packets, without VNI and addresses of its own. It is down.
    ///
    /// Where the kernel can, it takes no VNI before [`Netlink::admit_vni`].
    ///
    /// # Errors
    /// [`Error::is_exists`] when the name is taken, or (before Linux 5.18) the port by another such device of the namespace.
    pub fn add_vxlan(&self, name: &str, port: u16) -> Result<()> {
        let request = Request::new(NEW_LINK, external(name, port));
        self.acked("create vxlan", || name.to_owned(), &request, NLM_F_CREATE | NLM_F_EXCL).map_err(|error| {
            error
                .with_remedy(
                    Errno::EEXIST,
                    "there is a link of this name, or a vxlan device on this UDP port: choose another name or port",
                )
                .with_remedy(Errno::EOPNOTSUPP, NO_VXLAN)
        })
    }

    /// Makes a device of [`Netlink::add_vxlan`] take packets with `vni`. `Ok(false)`: this kernel has no such filter (before
    /// Linux 5.18), the device takes every VNI.
    ///
    /// # Errors
    /// [`Error::is_exists`] when another device on the same port takes them.
    pub fn admit_vni(&self, index: u32, vni: u32) -> Result<bool> {
        let request = Request::new(NEW_TUNNEL, filter(index, Some(vni)));
        match self.acked("admit VNI to link", || format!("{vni} {}", self.label(index)), &request, NLM_F_CREATE) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(Errno::EOPNOTSUPP) => Ok(false),
            Err(error) => Err(error.with_remedy(Errno::EEXIST, "another vxlan device on this UDP port takes this VNI")),
        }
    }

    /// Whether the filter of a device lets packets with `vni` in.
    ///
    /// # Errors
    /// When the kernel refuses or does not answer.
    pub fn admits_vni(&self, index: u32, vni: u32) -> Result<bool> {
        let request = Request::new(GET_TUNNEL, filter(index, None));
        let read = (NEW_TUNNEL, |body: &[u8]| Some(admits(body, index, vni)));
        let found = self.dump("list VNIs of link", || self.label(index), &request, read)?;
        Ok(found.contains(&true))
    }

    /// Whether the kernel has VXLAN devices and routes that encapsulate. It is asked by two requests that it refuses in any
    /// case: only the reason differs.
    ///
    /// # Errors
    /// It has not, in words that say what it lacks; or there is no privilege to ask.
    pub fn require_vxlan(&self) -> Result<()> {
        let incomplete = Request::new(NEW_LINK, with_kind("adit-probe"));
        refused_for(
            Errno::EINVAL,
            self.acked("ask the kernel for", || "vxlan".into(), &incomplete, NLM_F_CREATE | NLM_F_EXCL),
        )
        .map_err(|error| error.with_remedy(Errno::EOPNOTSUPP, NO_VXLAN))?;
        refused_for(Errno::ENODEV, self.add_route(&nowhere()))
    }
}

/// A route through a device that cannot be.
fn nowhere() -> Route {
    // TEST-NET-1, RFC 5737.
    let somewhere = std::net::Ipv4Addr::new(192, 0, 2, 1).into();
    let encapsulation = Encapsulation {
        id: 1,
        source: somewhere,
        destination: somewhere,
        ttl: 0,
        tos: 0,
        checksum: true,
        dont_fragment: true,
    };
    Route { encapsulation: Some(encapsulation), ..Route::new(somewhere.into(), i32::MAX.cast_unsigned()) }
}

pub(crate) fn refused_for(errno: Errno, outcome: Result<()>) -> Result<()> {
    match outcome {
        Err(error) if error.errno() == Some(errno) => Ok(()),
        other => other,
    }
}

/// What is wrong when the kernel refuses an encapsulating route.
pub(crate) fn explain(error: Error) -> Error {
    error.with_remedy(Errno::EOPNOTSUPP, NO_ENCAPSULATION)
}

fn with_kind(name: &str) -> Attributes {
    let mut link = link_message::with_index(0);
    link.text(IFLA_IFNAME, name).group(IFLA_LINKINFO, |info| {
        info.text(INFO_KIND, "vxlan");
    });
    link
}

fn external(name: &str, port: u16) -> Attributes {
    let mut link = link_message::with_index(0);
    link.text(IFLA_IFNAME, name).group(IFLA_LINKINFO, |info| {
        info.text(INFO_KIND, "vxlan").group(INFO_DATA, |data| {
            // There are no MAC addresses to learn: without this the kernel refuses the rest.
            data.u8(VXLAN_LEARNING, 0).bytes(VXLAN_PORT, &port.to_be_bytes());
            data.u8(VXLAN_COLLECT_METADATA, 1).bytes(VXLAN_GPE, &[]).u8(VXLAN_VNIFILTER, 1);
        });
    });
    link
}

/// What an answer says of a VXLAN device.
pub(crate) fn parse(data: &[u8]) -> Vxlan {
    let is_set = |kind| find(data, kind).is_some_and(|value| value.first() != Some(&0));
    Vxlan {
        port: find(data, VXLAN_PORT).and_then(|value| value.try_into().ok()).map_or(0, u16::from_be_bytes),
        external: is_set(VXLAN_COLLECT_METADATA),
        // A flag: it is there, and empty.
        gpe: is_set(VXLAN_GPE),
        vnifilter: is_set(VXLAN_VNIFILTER),
    }
}

fn filter(index: u32, vni: Option<u32>) -> Attributes {
    let mut message = Attributes::new();
    message.header(&[link_message::AF_BRIDGE, 0, 0, 0]).header(&index.to_ne_bytes());
    if let Some(vni) = vni {
        message.nested(FILTER_ENTRY, |entry| {
            entry.native_u32(FILTER_START, vni);
        });
    }
    message
}

/// Whether a message says that the device with this index takes packets with `vni`.
pub(crate) fn admits(body: &[u8], index: u32, vni: u32) -> bool {
    let Some((header, rest)) = body.split_first_chunk::<TUNNEL_BYTES>() else { return false };
    let mut entries = attributes(rest).filter(|(kind, _)| *kind == FILTER_ENTRY);
    header.get(4..8).and_then(native) == Some(index)
        && entries.any(|(_, entry)| {
            let first = find(entry, FILTER_START).and_then(native);
            let last = find(entry, FILTER_END).and_then(native).or(first);
            first.zip(last).is_some_and(|(first, last)| (first..=last).contains(&vni))
        })
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Parseable;
    use netlink_packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage};

    use super::*;

    #[test]
    fn a_device_is_asked_for_as_another_implementation_reads_it() {
        let bytes = external("tun", 4790).finish().unwrap();
        let message = LinkMessage::parse(bytes.as_slice()).unwrap();
        let asked = [
            InfoVxlan::Learning(false),
            InfoVxlan::Port(4790),
            InfoVxlan::CollectMetadata(true),
            InfoVxlan::Gpe,
            InfoVxlan::Vnifilter(true),
        ];
        assert_eq!(
            message.attributes,
            [
                LinkAttribute::IfName("tun".into()),
                LinkAttribute::LinkInfo(vec![
                    LinkInfo::Kind(InfoKind::Vxlan),
                    LinkInfo::Data(InfoData::Vxlan(asked.to_vec())),
                ]),
            ]
        );
        let read = link_message::parse(&bytes).unwrap().vxlan;
        assert_eq!(read, Some(Vxlan { port: 4790, external: true, gpe: true, vnifilter: true }));
    }

    #[test]
    fn a_vni_is_admitted_byte_by_byte() {
        let mut expected = vec![7, 0, 0, 0, 3, 0, 0, 0]; // struct tunnel_msg
        expected.extend([12, 0, 1, 0x80, 8, 0, 1, 0, 9, 0, 0, 0]);
        assert_eq!(filter(3, Some(9)).finish().unwrap(), expected);
        assert!(admits(&expected, 3, 9));
        assert!(!admits(&expected, 3, 8) && !admits(&expected, 4, 9) && !admits(&expected[..8], 3, 9));
        let mut range = Attributes::new();
        range.header(&[7, 0, 0, 0, 3, 0, 0, 0]).nested(FILTER_ENTRY, |entry| {
            entry.native_u32(FILTER_START, 5).native_u32(FILTER_END, 7);
        });
        let range = range.finish().unwrap();
        assert!(admits(&range, 3, 5) && admits(&range, 3, 7) && !admits(&range, 3, 8));
    }
}
