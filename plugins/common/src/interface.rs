//! The pod's interface: a plan of typed steps, and what applies it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use adit_cni::{Code, Error};
use adit_net::{Address, Link, LinkChange, Netlink, Netns, sysctl};
use ipnetwork::IpNetwork;

use crate::{ADDRESS_CONFLICT, PlannedRoute, net_error};

/// How long duplicate address detection may take: a probe and its answer take one second (RFC 4862, 5.4), some more on a
/// slow switch.
const DAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Smallest MTU of a link with IPv6 (RFC 8200, section 5).
const IPV6_MIN_MTU_BYTES: u32 = 1280;

/// Carrier comes milliseconds after a link is up, on hardware seconds.
const CARRIER_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether addresses are probed for duplicates before they are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DuplicateAddressDetection {
    /// Addresses are usable at once, and nobody looks.
    Off,
    /// IPv6 addresses are usable at once, and the kernel looks meanwhile (RFC 4429): it takes a duplicate out of use.
    Optimistic,
    /// IPv6 addresses are probed first (RFC 4862), and a duplicate fails the ADD.
    Wait,
    /// As [`Self::Wait`], and IPv4 addresses are probed too (RFC 5227).
    WaitForBoth,
}

impl DuplicateAddressDetection {
    /// What the kernel can do of it for the interface `ifname` of the pod: where it has no optimistic detection
    /// (`CONFIG_IPV6_OPTIMISTIC_DAD`), or does not make link-local addresses of the MAC, [`Self::Off`] takes its place.
    ///
    /// # Errors
    /// When the namespace cannot be entered or a sysctl cannot be read.
    pub fn supported(self, pod: &Netns, ifname: &str) -> Result<Self, Error> {
        if self != Self::Optimistic {
            return Ok(self);
        }
        let key = |name: &str| sysctl::get(&format!("net/ipv6/conf/{ifname}/{name}"));
        let (optimistic, generation) = pod
            .run(|| Ok::<_, adit_net::Error>((key("optimistic_dad")?, key("addr_gen_mode")?)))
            .flatten()
            .map_err(net_error)?;
        let eui64 = generation.as_deref() == Some("0");
        Ok(if optimistic.is_some() && eui64 { self } else { Self::Off })
    }
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
        /// How an IPv6 address is treated until duplicate address detection ends.
        usable: Usable,
    },
    /// Add the IPv6 link-local address that the kernel would make of the MAC, usable at once: from an optimistic address
    /// the kernel asks for no neighbour (RFC 4429, section 3.2), so without it nobody would be reached for a second.
    LinkLocal,
    /// Bring the link up.
    Up,
    /// Ask the neighbours whether they have these addresses (RFC 5227).
    Probe(Vec<Ipv4Addr>),
    /// Wait until no address is tentative.
    AwaitAddresses(Duration),
    /// Add a route.
    Route(PlannedRoute),
}

/// When an address can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usable {
    /// As the kernel does it by default: IPv4 at once, IPv6 after duplicate address detection.
    Default,
    /// At once, without duplicate address detection.
    NoDad,
    /// At once, while duplicate address detection is under way.
    Optimistic,
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
        use DuplicateAddressDetection::{Off, Optimistic, Wait, WaitForBoth};
        let (ipv4, ipv6): (Vec<IpNetwork>, Vec<IpNetwork>) =
            self.addresses.iter().partition(|network| network.is_ipv4());
        let add = |networks: &[IpNetwork], usable| {
            networks.iter().map(move |network| InterfaceStep::Address { network: *network, usable }).collect::<Vec<_>>()
        };
        let mut steps = Vec::new();
        if self.notify {
            steps.push(conf("ipv4", self.name, "arp_notify", "1", true));
            steps.push(conf("ipv6", self.name, "ndisc_notify", "1", false));
        }
        if !ipv6.is_empty() {
            steps.push(conf("ipv6", "lo", "disable_ipv6", "0", true));
            steps.push(conf("ipv6", self.name, "disable_ipv6", "0", true));
            steps.push(conf("ipv6", self.name, "keep_addr_on_down", "1", false));
        }
        match self.dad {
            Off => steps.push(conf("ipv6", self.name, "accept_dad", "0", false)),
            Wait | WaitForBoth => {
                steps.push(conf("ipv6", self.name, "enhanced_dad", "1", false));
                steps.push(conf("ipv6", self.name, "accept_dad", "1", false));
            }
            Optimistic if !ipv6.is_empty() => {
                steps.push(conf("ipv6", self.name, "optimistic_dad", "1", true));
                steps.push(conf("ipv6", self.name, "use_optimistic", "1", true));
            }
            Optimistic => {}
        }
        if self.dad != WaitForBoth {
            steps.extend(add(&ipv4, Usable::Default));
        }
        match self.dad {
            Off => steps.extend(add(&ipv6, Usable::NoDad)),
            Wait | WaitForBoth => steps.extend(add(&ipv6, Usable::Default)),
            Optimistic if !ipv6.is_empty() => steps.push(InterfaceStep::LinkLocal),
            Optimistic => {}
        }
        steps.push(InterfaceStep::Up);
        if self.dad == Optimistic {
            // On a link that is down they would receive nothing until detection ends.
            steps.extend(add(&ipv6, Usable::Optimistic));
        }
        if self.dad == WaitForBoth && !ipv4.is_empty() {
            let hosts = ipv4.iter().filter_map(|network| match network.ip() {
                IpAddr::V4(host) => Some(host),
                IpAddr::V6(_) => None,
            });
            steps.push(InterfaceStep::Probe(hosts.collect()));
            steps.extend(add(&ipv4, Usable::Default));
        }
        if matches!(self.dad, Wait | WaitForBoth) && !ipv6.is_empty() {
            steps.push(InterfaceStep::AwaitAddresses(DAD_TIMEOUT));
        }
        steps.extend(self.routes.iter().cloned().map(InterfaceStep::Route));
        steps
    }
}

impl InterfaceStep {
    /// The steps until the link is up, and those that follow.
    #[must_use]
    pub fn split_at_up(mut steps: Vec<Self>) -> (Vec<Self>, Vec<Self>) {
        let up = steps.iter().position(|step| *step == Self::Up).map_or(steps.len(), |index| index.saturating_add(1));
        let rest = steps.split_off(up);
        (steps, rest)
    }
}

/// Applies `steps` to `link` in the pod's namespace. Everything they make goes with the link, so its deletion is their undo.
///
/// # Errors
/// The first step that fails, with the kernel's words.
pub fn configure_interface(pod: &Netns, netlink: &Netlink, link: &Link, steps: &[InterfaceStep]) -> Result<(), Error> {
    // Sysctls act in the calling thread's namespace.
    pod.run(|| steps.iter().try_for_each(|step| apply(pod, netlink, link, step))).map_err(net_error)?
}

fn apply(pod: &Netns, netlink: &Netlink, link: &Link, step: &InterfaceStep) -> Result<(), Error> {
    let result = match step {
        InterfaceStep::Sysctl { key, value, required: true } => sysctl::set(key, value).map(drop),
        InterfaceStep::Sysctl { key, value, required: false } => sysctl::set_if_present(key, value).map(drop),
        InterfaceStep::Address { network, usable } => {
            let address = Address {
                nodad: *usable == Usable::NoDad,
                optimistic: *usable == Usable::Optimistic,
                ..Address::new(*network)
            };
            netlink.add_address(link.index, &address)
        }
        InterfaceStep::LinkLocal => add_link_local(netlink, link),
        InterfaceStep::Up => netlink.change_link(link.index, &LinkChange { up: Some(true), ..LinkChange::default() }),
        InterfaceStep::Probe(addresses) => return probe(pod, netlink, link, addresses),
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

fn add_link_local(netlink: &Netlink, link: &Link) -> adit_net::Result<()> {
    let network = link.mac.and_then(|mac| IpNetwork::new(mac.link_local().into(), 64).ok());
    let Some(network) = network else { return Ok(()) };
    match netlink.add_address(link.index, &Address { nodad: true, ..Address::new(network) }) {
        Err(error) if !error.is_exists() => Err(error),
        _ => Ok(()),
    }
}

fn probe(pod: &Netns, netlink: &Netlink, link: &Link, addresses: &[Ipv4Addr]) -> Result<(), Error> {
    let link = netlink.wait_link(&link.name, CARRIER_TIMEOUT, |link| link.lower_up).map_err(net_error)?;
    match adit_net::probe(pod, &link, addresses).map_err(net_error)? {
        None => Ok(()),
        Some(conflict) => Err(Error::new(
            ADDRESS_CONFLICT,
            format!("address {} on {} is in use by {}", conflict.address, link.name, conflict.holder),
        )
        .with_details("give the pod another address, or take this one from the host with that MAC address")),
    }
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
            Self::Address { network, usable } => {
                let suffix = match usable {
                    Usable::Default => "",
                    Usable::NoDad => " nodad",
                    Usable::Optimistic => " optimistic",
                };
                write!(f, "add address {network}{suffix}")
            }
            Self::LinkLocal => f.write_str("add the link-local address of the MAC nodad"),
            Self::Probe(addresses) => {
                f.write_str("probe for conflicts:")?;
                addresses.iter().try_for_each(|address| write!(f, " {address}"))
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
    fn optimistic_addresses_are_added_to_a_link_that_is_up() {
        let spec = |addresses: &[&str]| InterfaceSpec {
            name: "net1",
            addresses: addresses.iter().map(|text| net(text)).collect(),
            routes: vec![],
            dad: DuplicateAddressDetection::Optimistic,
            notify: false,
        };
        assert_eq!(
            lines(&spec(&["10.1.1.2/24", "fd01::2/64"]).plan())[3..],
            [
                "set net/ipv6/conf/net1/optimistic_dad = 1",
                "set net/ipv6/conf/net1/use_optimistic = 1",
                "add address 10.1.1.2/24",
                "add the link-local address of the MAC nodad",
                "bring the link up",
                "add address fd01::2/64 optimistic",
            ]
        );
        assert_eq!(lines(&spec(&["10.1.1.2/24"]).plan()), ["add address 10.1.1.2/24", "bring the link up"]);
        let (before, after) = InterfaceStep::split_at_up(spec(&["10.1.1.2/24", "fd01::2/64"]).plan());
        assert_eq!(before.last(), Some(&InterfaceStep::Up));
        assert_eq!(lines(&after), ["add address fd01::2/64 optimistic"]);
    }

    #[test]
    fn a_probe_comes_before_the_addresses_that_it_asks_for() {
        let spec = InterfaceSpec {
            name: "net1",
            addresses: vec![net("10.1.1.2/24"), net("fd01::2/64"), net("10.1.2.2/24")],
            routes: vec![],
            dad: DuplicateAddressDetection::WaitForBoth,
            notify: false,
        };
        assert_eq!(
            lines(&spec.plan())[5..],
            [
                "add address fd01::2/64",
                "bring the link up",
                "probe for conflicts: 10.1.1.2 10.1.2.2",
                "add address 10.1.1.2/24",
                "add address 10.1.2.2/24",
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
