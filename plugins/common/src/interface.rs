//! The pod's interface: a plan of typed steps, and what applies it.

use std::fmt;
use std::time::Duration;

use adit_cni::{Code, Error};
use adit_net::{Address, Link, Netlink, Netns, sysctl};
use ipnetwork::IpNetwork;

use crate::{PlannedRoute, net_error};

/// How long duplicate address detection may take: a probe and its answer take one second (RFC 4862, 5.4), some more on a
/// slow switch.
const DAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Smallest MTU of a link with IPv6 (RFC 8200, section 5).
const IPV6_MIN_MTU_BYTES: u32 = 1280;

/// Whether IPv6 addresses are probed for duplicates before they are used (RFC 4862).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DuplicateAddressDetection {
    /// Addresses are usable at once.
    Off,
    /// Addresses are probed, and a duplicate fails the ADD.
    Wait,
}

/// What a pod's interface is to look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceSpec<'a> {
    /// Its name in the pod.
    pub name: &'a str,
    /// Addresses with prefix and host bits.
    pub addresses: Vec<IpNetwork>,
    /// Routes through it.
    pub routes: Vec<PlannedRoute>,
    /// Treatment of IPv6 addresses.
    pub dad: DuplicateAddressDetection,
    /// Whether the kernel announces the addresses by itself when the link comes up or its MAC changes. Not for a link without
    /// link-layer addresses.
    pub notify: bool,
}

/// One step in the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InterfaceStep {
    /// Set a sysctl; `required`: the kernel must have it.
    Sysctl {
        /// Path below `/proc/sys`.
        key: String,
        /// Its value.
        value: &'static str,
        /// Whether its absence is an error.
        required: bool,
    },
    /// Add an address.
    Address {
        /// The address with its prefix.
        network: IpNetwork,
        /// Whether duplicate address detection is skipped.
        nodad: bool,
    },
    /// Bring the link up.
    Up,
    /// Wait until no address is tentative.
    AwaitAddresses(Duration),
    /// Add a route.
    Route(PlannedRoute),
}

impl InterfaceSpec<'_> {
    /// The steps that make it so, in their order.
    #[must_use]
    pub fn plan(&self) -> Vec<InterfaceStep> {
        let conf = |family: &str, name: &str, key: &str, value, required| InterfaceStep::Sysctl {
            key: format!("net/{family}/conf/{name}/{key}"),
            value,
            required,
        };
        let ipv6 = self.addresses.iter().any(IpNetwork::is_ipv6);
        let nodad = self.dad == DuplicateAddressDetection::Off;
        let mut steps = Vec::new();
        if self.notify {
            steps.push(conf("ipv4", self.name, "arp_notify", "1", true));
            steps.push(conf("ipv6", self.name, "ndisc_notify", "1", false));
        }
        if ipv6 {
            steps.push(conf("ipv6", "lo", "disable_ipv6", "0", true));
            steps.push(conf("ipv6", self.name, "disable_ipv6", "0", true));
            steps.push(conf("ipv6", self.name, "keep_addr_on_down", "1", false));
        }
        if nodad {
            steps.push(conf("ipv6", self.name, "accept_dad", "0", false));
        } else {
            steps.push(conf("ipv6", self.name, "enhanced_dad", "1", false));
            steps.push(conf("ipv6", self.name, "accept_dad", "1", false));
        }
        steps.extend(
            self.addresses
                .iter()
                .map(|network| InterfaceStep::Address { network: *network, nodad: nodad && network.is_ipv6() }),
        );
        steps.push(InterfaceStep::Up);
        if ipv6 && !nodad {
            steps.push(InterfaceStep::AwaitAddresses(DAD_TIMEOUT));
        }
        steps.extend(self.routes.iter().cloned().map(InterfaceStep::Route));
        steps
    }
}

/// Applies `steps` to `link` in the pod's namespace. Everything they make goes with the link, so its deletion is their undo.
///
/// # Errors
/// The first step that fails, with the kernel's words.
pub fn configure_interface(pod: &Netns, netlink: &Netlink, link: &Link, steps: &[InterfaceStep]) -> Result<(), Error> {
    // Sysctls act in the calling thread's namespace.
    pod.run(|| steps.iter().try_for_each(|step| apply(netlink, link, step))).map_err(net_error)?
}

fn apply(netlink: &Netlink, link: &Link, step: &InterfaceStep) -> Result<(), Error> {
    let result = match step {
        InterfaceStep::Sysctl { key, value, required: true } => sysctl::set(key, value).map(drop),
        InterfaceStep::Sysctl { key, value, required: false } => sysctl::set_if_present(key, value).map(drop),
        InterfaceStep::Address { network, nodad } => {
            let mut address = Address::new(*network);
            address.nodad = *nodad;
            netlink.add_address(link.index, &address)
        }
        InterfaceStep::Up => {
            netlink.change_link(link.index, &adit_net::LinkChange { up: Some(true), ..Default::default() })
        }
        InterfaceStep::AwaitAddresses(timeout) => netlink.wait_addresses_usable(link.index, *timeout),
        InterfaceStep::Route(route) => netlink.prepend_route(&route.on(link.index)),
    };
    result.map_err(|error| {
        let taken = error.is_exists() && matches!(step, InterfaceStep::Route(_));
        let error = net_error(error).in_context(format_args!("{}: {step}", link.name));
        if taken {
            error.with_details("the pod has another route to that destination: give this one a priority of its own")
        } else {
            error
        }
    })
}

/// Refuses an IPv6 address on an interface whose MTU the kernel would not give one.
///
/// # Errors
/// [`Code::INVALID_CONFIG`], naming the MTU and the address.
pub fn check_ipv6_mtu(mtu_bytes: Option<u32>, addresses: &[IpNetwork]) -> Result<(), Error> {
    let Some(mtu) = mtu_bytes.filter(|mtu| *mtu < IPV6_MIN_MTU_BYTES) else {
        return Ok(());
    };
    addresses.iter().find(|address| address.is_ipv6()).map_or(Ok(()), |address| {
        Err(Error::new(Code::INVALID_CONFIG, format!("mtu {mtu} is too small for the IPv6 address {address}"))
            .with_details(format!("set mtu to at least {IPV6_MIN_MTU_BYTES}, or use IPv4 addresses only")))
    })
}

impl fmt::Display for InterfaceStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sysctl { key, value, .. } => write!(f, "set {key} = {value}"),
            Self::Address { network, nodad } => {
                write!(f, "add address {network}{}", if *nodad { " nodad" } else { "" })
            }
            Self::Up => f.write_str("bring the link up"),
            Self::AwaitAddresses(timeout) => {
                write!(f, "wait up to {} s for duplicate address detection", timeout.as_secs())
            }
            Self::Route(route) => write!(f, "add route {route}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{addresses, fill_gateways, planned_routes};
    use adit_cni::{CniResult, Ip, Route as CniRoute};

    fn net(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    fn lines(steps: &[InterfaceStep]) -> Vec<String> {
        steps.iter().map(ToString::to_string).collect()
    }

    fn route(dst: &str, gw: Option<&str>) -> CniRoute {
        CniRoute::new(dst.parse().unwrap(), gw.map(|gw| gw.parse().unwrap()))
    }

    #[test]
    fn without_dad_an_interface_is_usable_at_once() {
        let mut result = CniResult {
            ips: vec![
                Ip { interface: None, address: net("10.1.1.2/24"), gateway: Some("10.1.1.1".parse().unwrap()) },
                Ip { interface: None, address: net("fd01::2/64"), gateway: None },
            ],
            routes: vec![
                CniRoute { table: Some(77), mtu: Some(1300), ..route("10.9.0.0/16", None) },
                route("fd09::/32", None),
                route("10.8.0.0/16", Some("10.1.1.9")),
                route("10.8.0.0/16", Some("10.1.1.9")),
            ],
            ..CniResult::default()
        };
        fill_gateways(&mut result);
        let spec = InterfaceSpec {
            name: "net1",
            addresses: addresses(&result, 2),
            routes: planned_routes(&result),
            dad: DuplicateAddressDetection::Off,
            notify: true,
        };
        assert_eq!(
            lines(&spec.plan()),
            [
                "set net/ipv4/conf/net1/arp_notify = 1",
                "set net/ipv6/conf/net1/ndisc_notify = 1",
                "set net/ipv6/conf/lo/disable_ipv6 = 0",
                "set net/ipv6/conf/net1/disable_ipv6 = 0",
                "set net/ipv6/conf/net1/keep_addr_on_down = 1",
                "set net/ipv6/conf/net1/accept_dad = 0",
                "add address 10.1.1.2/24",
                "add address fd01::2/64 nodad",
                "bring the link up",
                "add route 10.9.0.0/16 via 10.1.1.1 mtu 1300 table 77",
                "add route fd09::/32",
                "add route 10.8.0.0/16 via 10.1.1.9",
            ]
        );
    }

    #[test]
    fn with_dad_the_plan_waits_before_it_adds_routes() {
        let spec = InterfaceSpec {
            name: "tun",
            addresses: vec![net("fd01::2/64")],
            routes: vec![],
            dad: DuplicateAddressDetection::Wait,
            notify: false,
        };
        assert_eq!(
            lines(&spec.plan())[3..],
            [
                "set net/ipv6/conf/tun/enhanced_dad = 1",
                "set net/ipv6/conf/tun/accept_dad = 1",
                "add address fd01::2/64",
                "bring the link up",
                "wait up to 5 s for duplicate address detection",
            ]
        );
    }

    #[test]
    fn ipv4_alone_needs_no_ipv6_in_the_kernel() {
        let spec = InterfaceSpec {
            name: "net1",
            addresses: vec![net("10.1.1.2/24")],
            routes: vec![],
            dad: DuplicateAddressDetection::Off,
            notify: true,
        };
        for step in spec.plan() {
            if let InterfaceStep::Sysctl { key, required, .. } = step {
                assert_eq!(required, key.contains("ipv4"), "{key}");
            }
        }
    }

    #[test]
    fn an_ipv6_address_on_a_small_mtu_names_both() {
        let error = check_ipv6_mtu(Some(1000), &[net("10.0.0.1/8"), net("fd01::2/64")]).unwrap_err();
        for part in ["1000", "fd01::2/64", "1280"] {
            assert!(error.to_string().contains(part), "{error}");
        }
        check_ipv6_mtu(Some(1000), &[net("10.0.0.1/8")]).unwrap();
        check_ipv6_mtu(None, &[net("fd01::2/64")]).unwrap();
    }
}
