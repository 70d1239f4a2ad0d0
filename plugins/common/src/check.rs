//! What CHECK compares with the kernel: what this plugin made, and nothing that another one added to the result.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;

use adit_cni::{Call, CniResult, Code, Error, Interface, Ip, Route};
use adit_net::route::TABLE_MAIN;
use adit_net::{Link, LinkKind, Netlink};
use ipnetwork::IpNetwork;

use crate::convert::masked;
use crate::{net_error, open_pod};

/// An error of CHECK.
#[must_use]
pub fn mismatch(text: impl Into<String>) -> Error {
    Error::new(Code::INTERNAL, text)
}

/// The pod's side of an attachment, as CHECK finds it.
#[derive(Debug)]
pub struct PodSide<'a> {
    /// What ADD has answered.
    pub result: &'a CniResult,
    /// The interface's index in it.
    pub index: usize,
    /// The interface in it.
    pub interface: &'a Interface,
    /// A socket in the pod.
    pub netlink: Netlink,
    /// The interface.
    pub link: Link,
}

impl<'a> PodSide<'a> {
    /// Asks the IPAM plugin first, then looks for the interface, which must be of this kind.
    ///
    /// # Errors
    /// The IPAM plugin's own, or the first difference.
    pub fn find<C>(call: &'a Call<C>, ipam: Option<&str>, kind: &LinkKind) -> Result<Self, Error> {
        let result = call.required_prev_result()?;
        ipam.map_or(Ok(()), |plugin| call.delegate.check(plugin))?;
        let sandbox = call.netns.display().to_string();
        let (index, interface) = pod_interface(result, call.attachment.ifname.as_str(), &sandbox)?;
        let netlink = Netlink::open_in(&open_pod(&call.netns)?).map_err(net_error)?;
        let link = link(&netlink, interface, kind)?;
        Ok(Self { result, index, interface, netlink, link })
    }

    /// The interface has its addresses and routes.
    ///
    /// # Errors
    /// The first that is absent.
    pub fn is_configured(&self) -> Result<(), Error> {
        addresses(&self.netlink, &self.link, self.result, self.index)?;
        subnets(&self.netlink, &self.link, self.result, self.index)?;
        routes(&self.netlink, &self.link, self.result, self.index)
    }
}

/// The pod's interface in a result, with its index.
///
/// # Errors
/// When the result has none of that name in `sandbox`.
pub fn pod_interface<'a>(result: &'a CniResult, name: &str, sandbox: &str) -> Result<(usize, &'a Interface), Error> {
    let named = |interface: &&Interface| interface.name == name && interface.sandbox.is_some();
    let Some(interface) = result.interfaces.iter().find(named) else {
        return Err(mismatch(format!("Interface name {name} not found in prevResult")));
    };
    result
        .interfaces
        .iter()
        .enumerate()
        .find(|(_, interface)| interface.name == name && interface.sandbox.as_deref() == Some(sandbox))
        .ok_or_else(|| {
            mismatch(format!(
                "Sandbox in prevResult {} doesn't match configured netns: {sandbox}",
                interface.sandbox.as_deref().unwrap_or_default()
            ))
        })
}

/// The pod's link: there, of the right kind, up, and with the result's MAC address.
///
/// # Errors
/// The first difference, naming interface, expectation and state.
pub fn link(netlink: &Netlink, interface: &Interface, kind: &LinkKind) -> Result<Link, Error> {
    let name = &interface.name;
    let link = netlink
        .link(name)
        .map_err(net_error)?
        .ok_or_else(|| mismatch(format!("Interface name {name} not found in the pod")))?;
    if link.kind != *kind {
        return Err(mismatch(format!("Interface {name} is of kind {:?}, not {kind:?}", link.kind)));
    }
    if !link.up {
        return Err(mismatch(format!("Interface {name} is down")));
    }
    check_mac(interface, &link)?;
    Ok(link)
}

/// Compares the MAC address, where the result names one.
///
/// # Errors
/// When it differs.
pub fn check_mac(interface: &Interface, link: &Link) -> Result<(), Error> {
    let Some(expected) = interface.mac.as_deref().filter(|mac| !mac.is_empty()) else {
        return Ok(());
    };
    let actual = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
    let same = expected.parse().is_ok_and(|expected: adit_net::MacAddress| Some(expected) == link.mac);
    if same { Ok(()) } else { Err(mismatch(format!("Interface {} Mac {expected} doesn't match: {actual}", link.name))) }
}

/// The ips that point at interface `index` are on `link`; ips of other interfaces are other plugins' business.
///
/// # Errors
/// The first address that is absent.
pub fn addresses(netlink: &Netlink, link: &Link, result: &CniResult, index: usize) -> Result<(), Error> {
    let present = netlink.addresses(link.index).map_err(net_error)?;
    let missing = own_ips(result, index)
        .find(|ip| !present.iter().any(|address| address.network == ip.address && !address.dad_failed));
    missing
        .map_or(Ok(()), |ip| Err(mismatch(format!("Failed to match addr {} on interface {}", ip.address, link.name))))
}

/// The subnets of the ips are reached through `link`, in whichever table: `sbr` moves what it finds in the main one.
fn subnets(netlink: &Netlink, link: &Link, result: &CniResult, index: usize) -> Result<(), Error> {
    let present = netlink.all_routes().map_err(net_error)?;
    let reached = |subnet| {
        present.iter().any(|route| route.destination == subnet && route.device == link.index && route.gateway.is_none())
    };
    let hosts = |ip: &&Ip| ip.address.prefix() < if ip.address.is_ipv4() { 32 } else { 128 };
    own_ips(result, index).filter(hosts).map(|ip| masked(ip.address)).find(|subnet| !reached(*subnet)).map_or(
        Ok(()),
        |subnet| {
            Err(mismatch(format!("Expected Route {subnet} not found in routing table: it is not on {}", link.name)))
        },
    )
}

/// The result's routes are in the tables where they were made, with the settings that the result names. Routes that the
/// kernel has and the result lacks are fine: Multus removes routes from the result that it has stored.
///
/// # Errors
/// The first route that is absent.
fn routes(netlink: &Netlink, link: &Link, result: &CniResult, index: usize) -> Result<(), Error> {
    let own: Vec<IpNetwork> = own_ips(result, index).map(|ip| ip.address).collect();
    let mut tables: BTreeMap<u32, Vec<adit_net::Route>> = BTreeMap::new();
    for route in &result.routes {
        let Some(claim) = claim(route, &own) else { continue };
        let table = table(route);
        let present = match tables.entry(table) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(netlink.routes(Some(table)).map_err(net_error)?),
        };
        let mut there = present.iter().filter(|found| {
            found.destination == masked(route.dst)
                && match claim {
                    Claim::AnyDevice => true,
                    Claim::Through(gateway) => found.device == link.index && found.gateway == Some(gateway),
                }
        });
        if !there.any(|found| has_settings(found, route)) {
            return Err(mismatch(format!("Expected Route {} not found in routing table", describe(route))));
        }
    }
    Ok(())
}

/// The kernel takes table 0 for main.
fn table(route: &Route) -> u32 {
    route.table.filter(|table| *table != 0).unwrap_or(TABLE_MAIN)
}

/// What the result names of a route's settings, the kernel has. IPv6 has no scopes.
fn has_settings(found: &adit_net::Route, route: &Route) -> bool {
    fn agree<T: PartialEq>(found: Option<T>, named: Option<T>) -> bool {
        named.is_none() || found == named
    }
    agree(found.mtu, route.mtu)
        && agree(found.advmss, route.advmss)
        && agree(found.priority, route.priority)
        && (route.dst.is_ipv6() || agree(found.scope, route.scope))
}

/// What may be asked of a route in a result that several plugins wrote.
#[derive(Debug, PartialEq, Eq)]
enum Claim {
    /// Some device must have it: a default route, whose gateway Multus may choose, or one that names no gateway.
    AnyDevice,
    /// It must go through our link to this gateway.
    Through(IpAddr),
}

/// `None`: its gateway is not on our link, so the route is another plugin's.
fn claim(route: &Route, own: &[IpNetwork]) -> Option<Claim> {
    if route.dst.prefix() == 0 {
        return Some(Claim::AnyDevice);
    }
    match route.gw {
        None => Some(Claim::AnyDevice),
        Some(gateway) if own.iter().any(|network| network.contains(gateway)) => Some(Claim::Through(gateway)),
        Some(_) => None,
    }
}

fn own_ips(result: &CniResult, index: usize) -> impl Iterator<Item = &Ip> {
    result.ips.iter().filter(move |ip| ip.interface == Some(index))
}

fn describe(route: &Route) -> String {
    let mut text = route.dst.to_string();
    if let Some(gateway) = route.gw {
        text.push_str(&format!(" via {gateway}"));
    }
    for (name, value) in [
        ("table", route.table),
        ("metric", route.priority),
        ("mtu", route.mtu),
        ("advmss", route.advmss),
        ("scope", route.scope.map(u32::from)),
    ] {
        if let Some(value) = value {
            text.push_str(&format!(" {name} {value}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(dst: &str, gw: Option<&str>) -> Route {
        Route::new(dst.parse().unwrap(), gw.map(|gw| gw.parse().unwrap()))
    }

    #[test]
    fn a_route_is_claimed_only_when_its_gateway_is_on_the_link() {
        let own = ["10.1.1.2/24".parse().unwrap()];
        let gateway = "10.1.1.1".parse().unwrap();
        assert_eq!(claim(&route("10.9.0.0/16", Some("10.1.1.1")), &own), Some(Claim::Through(gateway)));
        assert_eq!(claim(&route("10.9.0.0/16", Some("10.4.0.2")), &own), None);
        assert_eq!(claim(&route("10.9.0.0/16", None), &own), Some(Claim::AnyDevice));
        assert_eq!(claim(&route("0.0.0.0/0", Some("10.1.1.1")), &own), Some(Claim::AnyDevice));
    }

    #[test]
    fn the_settings_that_a_result_names_are_compared() {
        let mut found = adit_net::Route::new("10.9.0.0/16".parse().unwrap(), 3);
        (found.mtu, found.advmss, found.priority, found.scope) = (Some(1300), Some(1200), Some(7), Some(0));
        let named = Route {
            mtu: Some(1300),
            advmss: Some(1200),
            priority: Some(7),
            scope: Some(0),
            ..route("10.9.0.0/16", None)
        };
        assert!(has_settings(&found, &named) && has_settings(&found, &route("10.9.0.0/16", None)));
        for other in [
            Route { mtu: Some(1301), ..named.clone() },
            Route { advmss: Some(1), ..named.clone() },
            Route { priority: Some(8), ..named.clone() },
            Route { scope: Some(253), ..named.clone() },
        ] {
            assert!(!has_settings(&found, &other), "{}", describe(&other));
        }
        assert!(has_settings(&found, &Route { scope: Some(253), ..route("fd09::/32", None) }), "IPv6 has no scopes");
        assert_eq!(describe(&named), "10.9.0.0/16 metric 7 mtu 1300 advmss 1200 scope 0");
        assert_eq!((table(&named), table(&Route { table: Some(0), ..named.clone() })), (254, 254));
    }

    #[test]
    fn the_pods_interface_is_found_by_name_and_sandbox() {
        let interface = |name: &str, sandbox: Option<&str>| Interface {
            name: name.into(),
            mac: None,
            mtu: None,
            sandbox: sandbox.map(Into::into),
            socket_path: None,
            pci_id: None,
        };
        let result = CniResult {
            interfaces: vec![interface("net1", None), interface("net1", Some("/run/netns/a"))],
            ..CniResult::default()
        };
        assert_eq!(pod_interface(&result, "net1", "/run/netns/a").unwrap().0, 1);
        let other = pod_interface(&result, "net1", "/run/netns/b").unwrap_err();
        assert!(other.to_string().contains("doesn't match configured netns"), "{other}");
        assert!(pod_interface(&result, "net2", "/run/netns/a").is_err());
    }
}
