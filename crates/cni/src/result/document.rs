//! The shapes of a result on the wire, one struct a shape, in the key order of the Go library.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer, Serialize};

use super::address;
use super::{CniResult, Dns, Interface, Ip, Route};
use crate::version::Version;

/// A result of any version, as read.
#[derive(Deserialize)]
pub(super) struct Incoming {
    #[serde(default, rename = "cniVersion")]
    pub cni_version: Option<String>,
    #[serde(default)]
    interfaces: Vec<Interface>,
    #[serde(default)]
    ips: Vec<Ip>,
    #[serde(default)]
    routes: Vec<Route>,
    dns: Option<Dns>,
    ip4: Option<IncomingFamily>,
    ip6: Option<IncomingFamily>,
}

/// `ip4` or `ip6` of 0.1.0 and 0.2.0.
#[derive(Deserialize)]
struct IncomingFamily {
    #[serde(deserialize_with = "address::with_host_bits")]
    ip: IpNetwork,
    #[serde(default, deserialize_with = "address::optional")]
    gateway: Option<IpAddr>,
    #[serde(default)]
    routes: Vec<Route>,
}

impl Incoming {
    pub fn into_result(self, version: Version) -> CniResult {
        let dns = self.dns.filter(|dns| !dns.is_empty());
        if !version.single_address_per_family() {
            let mut result = CniResult { interfaces: self.interfaces, ips: self.ips, routes: self.routes, dns };
            if version < Version::V1_0_0 {
                for interface in &mut result.interfaces {
                    interface.mtu = None;
                    interface.socket_path = None;
                    interface.pci_id = None;
                }
            }
            return result;
        }
        let mut result = CniResult { dns, ..CniResult::default() };
        for family in [self.ip4, self.ip6].into_iter().flatten() {
            result.ips.push(Ip { gateway: family.gateway, ..Ip::new(family.ip) });
            result.routes.extend(family.routes);
        }
        result
    }
}

/// 1.0.0 and 1.1.0: the keys in the order of their names.
#[derive(Serialize)]
pub(super) struct Document10<'a> {
    #[serde(rename = "cniVersion")]
    cni_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dns: Option<&'a Dns>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    interfaces: &'a [Interface],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    ips: &'a [Ip],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    routes: &'a [Route],
}

impl<'a> Document10<'a> {
    pub fn of(result: &'a CniResult, version: Version) -> Self {
        Self {
            cni_version: version.as_str(),
            dns: result.dns.as_ref().filter(|dns| !dns.is_empty()),
            interfaces: &result.interfaces,
            ips: &result.ips,
            routes: &result.routes,
        }
    }
}

/// 0.3.0, 0.3.1 and 0.4.0.
#[derive(Serialize)]
pub(super) struct Document03<'a> {
    #[serde(rename = "cniVersion")]
    cni_version: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    interfaces: Vec<Interface03<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ips: Vec<Ip03>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route03>,
    dns: DeclaredDns<'a>,
}

#[derive(Serialize)]
struct Interface03<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<&'a str>,
}

#[derive(Serialize)]
struct Ip03 {
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<usize>,
    address: IpNetwork,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
}

/// The fields that came with 1.1.0 are printed here too, as by the Go library: one type serves all.
#[derive(Serialize)]
struct Route03 {
    dst: IpNetwork,
    #[serde(skip_serializing_if = "Option::is_none")]
    gw: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    advmss: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<u8>,
}

/// Before 1.0.0 `dns` is printed even when it is empty.
#[derive(Default, Serialize)]
struct DeclaredDns<'a> {
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    nameservers: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    search: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    options: &'a [String],
}

impl<'a> Document03<'a> {
    pub fn of(result: &'a CniResult, version: Version) -> Self {
        Self {
            cni_version: version.as_str(),
            interfaces: result.interfaces.iter().map(Interface03::of).collect(),
            ips: result.ips.iter().map(Ip03::of).collect(),
            routes: result.routes.iter().map(Route03::of).collect(),
            dns: DeclaredDns::of(result.dns.as_ref()),
        }
    }
}

impl<'a> Interface03<'a> {
    fn of(interface: &'a Interface) -> Self {
        Self { name: &interface.name, mac: interface.mac.as_deref(), sandbox: interface.sandbox.as_deref() }
    }
}

impl Ip03 {
    fn of(ip: &Ip) -> Self {
        Self {
            version: if ip.address.is_ipv4() { "4" } else { "6" },
            interface: ip.interface,
            address: ip.address,
            gateway: ip.gateway,
        }
    }
}

impl Route03 {
    fn of(route: &Route) -> Self {
        Self {
            dst: route.dst,
            gw: route.gw,
            mtu: route.mtu,
            advmss: route.advmss,
            priority: route.priority,
            table: route.table,
            scope: route.scope,
        }
    }
}

impl<'a> DeclaredDns<'a> {
    fn of(dns: Option<&'a Dns>) -> Self {
        dns.map_or_else(Self::default, |dns| Self {
            nameservers: &dns.nameservers,
            domain: dns.domain.as_deref(),
            search: &dns.search,
            options: &dns.options,
        })
    }
}

/// 0.1.0 and 0.2.0: the first address of each family, with the routes of that family.
#[derive(Serialize)]
pub(super) struct Document01<'a> {
    #[serde(rename = "cniVersion")]
    cni_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip4: Option<Family01>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip6: Option<Family01>,
    dns: DeclaredDns<'a>,
}

#[derive(Serialize)]
struct Family01 {
    ip: IpNetwork,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route01>,
}

#[derive(Serialize)]
struct Route01 {
    dst: IpNetwork,
    #[serde(skip_serializing_if = "Option::is_none")]
    gw: Option<IpAddr>,
}

impl<'a> Document01<'a> {
    /// `None` when there is no address to hold anything.
    pub fn of(result: &'a CniResult, version: Version) -> Option<Self> {
        let ip4 = Family01::of(result, IpNetwork::is_ipv4);
        let ip6 = Family01::of(result, IpNetwork::is_ipv6);
        (ip4.is_some() || ip6.is_some()).then(|| Self {
            cni_version: version.as_str(),
            ip4,
            ip6,
            dns: DeclaredDns::of(result.dns.as_ref()),
        })
    }
}

impl Family01 {
    fn of(result: &CniResult, family: fn(&IpNetwork) -> bool) -> Option<Self> {
        let ip = result.ips.iter().find(|ip| family(&ip.address))?;
        let routes = result.routes.iter().filter(|route| family(&route.dst));
        Some(Self {
            ip: ip.address,
            gateway: ip.gateway,
            routes: routes.map(|route| Route01 { dst: route.dst, gw: route.gw }).collect(),
        })
    }
}

/// A string; empty is none, as with Go's `omitempty`.
pub(super) fn non_empty<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    Ok(text.filter(|text| !text.is_empty()))
}

/// A number; 0 is none, as with Go's `omitempty`.
pub(super) fn non_zero<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    let number = Option::<u32>::deserialize(from)?;
    Ok(number.filter(|number| *number != 0))
}
