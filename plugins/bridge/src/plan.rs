//! What ADD does, as typed steps: first to the bridge, then, with IPAM's addresses, to the pod.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use adit_cni::{CniResult, Code, Error, Ip, Route};
use adit_net::MacAddress;
use adit_plugin::{
    InterfaceSpec, InterfaceStep, addresses, check_ipv6_mtu, fill_gateways, first_gateway, planned_routes,
};
use ipnetwork::IpNetwork;

use crate::config::{Gateway, Network};
use crate::vlan::Vlans;

/// Index of the pod's interface in the result: bridge, host's end, pod's end.
pub(crate) const POD_INTERFACE: usize = 2;

/// How long a new port may take until it forwards.
const PORT_TIMEOUT: Duration = Duration::from_secs(10);

/// One step of ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Keep other ADDs from making or changing the bridge.
    Lock(String),
    /// Let them go on.
    Unlock,
    /// Have the bridge: there, up, with an address that does not follow its ports.
    EnsureBridge {
        /// Its name.
        name: String,
        /// MTU when it is made, bytes.
        mtu: Option<u32>,
        /// Whether it is promiscuous.
        promiscuous: bool,
        /// Whether it must separate VLANs.
        vlan_filtering: bool,
    },
    /// Make the pair, one end in the pod, the other to become a port of the bridge. Both are down.
    CreatePair {
        /// The pod's end.
        ifname: String,
        /// Its MAC address.
        mac: Option<MacAddress>,
        /// MTU of both ends, bytes.
        mtu: Option<u32>,
    },
    /// Let only frames from the pod's MAC address through the port.
    GuardPort,
    /// Make the host's end a port of the bridge and bring it up.
    ConnectPort {
        /// Frames may leave through the port they came from.
        hairpin: bool,
        /// The port reaches no other isolated port.
        isolated: bool,
        /// The VLANs that it is in.
        vlans: Option<Vlans>,
    },
    /// Configure the pod's interface.
    Pod(Vec<InterfaceStep>),
    /// Have an interface for the gateway of a VLAN: its peer is a port of the bridge.
    VlanGateway {
        /// Its name.
        name: String,
        /// The peer's VLAN.
        vlans: Vlans,
    },
    /// Give the bridge, or the VLAN's interface, a gateway's address.
    GatewayAddress {
        /// The interface.
        on: String,
        /// The address.
        network: IpNetwork,
        /// Whether one that is in the way is replaced.
        force: bool,
        /// The gateways of this attachment, which are in nobody's way.
        others: Vec<IpNetwork>,
    },
    /// Let what leaves the pod's subnets have the node's address.
    Masquerade(Vec<IpNetwork>),
    /// Wait until the port forwards.
    AwaitPort(Duration),
    /// Let the node forward packets of a family.
    Forward {
        /// The sysctl.
        key: &'static str,
    },
    /// Tell the neighbours where the addresses are.
    Announce(Vec<IpAddr>),
}

/// The steps until addresses are needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// In their order.
    pub steps: Vec<Step>,
}

/// The steps with addresses.
#[derive(Debug, Clone, PartialEq)]
pub struct AddressPlan {
    /// In their order.
    pub steps: Vec<Step>,
    /// Those that are made last: node-wide ones, which are not taken back, and those that cannot fail the ADD.
    pub last_steps: Vec<Step>,
    /// The result's ips, routes and DNS settings.
    pub result: CniResult,
}

impl Plan {
    /// The steps that connect the pod's new interface `ifname` with the bridge.
    #[must_use]
    pub fn join(network: &Network, ifname: &str) -> Self {
        let bridge = network.bridge.to_string();
        let mut steps = vec![
            Step::Lock(bridge.clone()),
            Step::EnsureBridge {
                name: bridge,
                mtu: network.mtu,
                promiscuous: network.promiscuous,
                vlan_filtering: network.vlans.is_some(),
            },
            Step::CreatePair { ifname: ifname.to_owned(), mac: network.mac, mtu: network.mtu },
        ];
        if network.mac_spoof_check {
            steps.push(Step::GuardPort);
        }
        steps.push(Step::ConnectPort {
            hairpin: network.hairpin,
            isolated: network.isolated,
            vlans: network.vlans.clone(),
        });
        steps.push(Step::Unlock);
        Self { steps }
    }
}

impl AddressPlan {
    /// The steps that give the interface what IPAM returned (nothing on layer 2), and the bridge its gateways.
    ///
    /// # Errors
    /// [`Code::INVALID_CONFIG`] when no gateway can be computed, the MTU is too small for an address, or a VLAN's gateway
    /// would have a name that is too long.
    pub fn new(network: &Network, ifname: &str, ipam: CniResult) -> Result<Self, Error> {
        let mut result = CniResult { interfaces: Vec::new(), ..ipam };
        if network.dns.is_some() {
            result.dns.clone_from(&network.dns);
        }
        for ip in &mut result.ips {
            ip.interface = Some(POD_INTERFACE);
            if network.gateway.is_some() && ip.gateway.is_none() {
                ip.gateway = Some(first_address(ip.address)?);
            }
        }
        let gateway = network.gateway.filter(|_| !result.ips.is_empty());
        if gateway.is_some_and(|gateway| gateway.default_route) {
            add_default_routes(&mut result);
        }
        fill_gateways(&mut result);
        let routes = planned_routes(&result);
        let pod = addresses(&result, POD_INTERFACE);
        check_ipv6_mtu(network.mtu, &pod)?;
        let hosts: Vec<IpAddr> = pod.iter().map(IpNetwork::ip).collect();
        let networks = pod.clone();

        let interface = InterfaceSpec { name: ifname, addresses: pod, routes, dad: network.dad, notify: true };
        let mut pod_steps = interface.plan();
        if !network.interface_up {
            pod_steps.retain(|step| *step != InterfaceStep::Up);
        }
        let probes = pod_steps.iter().any(|step| matches!(step, InterfaceStep::Probe(_)));
        let mut steps = if probes {
            // A probe that the port does not forward asks nobody.
            let (until_up, rest) = InterfaceStep::split_at_up(pod_steps);
            vec![Step::Pod(until_up), Step::AwaitPort(PORT_TIMEOUT), Step::Pod(rest)]
        } else {
            vec![Step::Pod(pod_steps)]
        };
        let mut last_steps = Vec::new();
        if let Some(gateway) = gateway {
            let gateways = gateways(&result.ips);
            if !gateways.is_empty() {
                steps.push(Step::Lock(network.bridge.to_string()));
                let on = network.gateway_interface()?;
                if let Some(vlans) = network.vlans.as_ref().filter(|vlans| vlans.access.is_some()) {
                    let vlans = Vlans { trunk: Vec::new(), ..vlans.clone() };
                    steps.push(Step::VlanGateway { name: on.to_string(), vlans });
                }
                steps.extend(gateways.iter().map(|network| gateway_step(on.as_str(), gateway, *network, &gateways)));
                steps.push(Step::Unlock);
            }
            last_steps.extend(forwarding(&gateways));
        }
        if network.masquerade.is_some() && !networks.is_empty() {
            steps.push(Step::Masquerade(networks));
        }
        if network.interface_up {
            steps.push(Step::AwaitPort(PORT_TIMEOUT));
        }
        if !hosts.is_empty() {
            last_steps.push(Step::Announce(hosts));
        }
        Ok(Self { steps, last_steps, result })
    }
}

/// The first address of the subnet, which the bridge takes when nothing else is said.
fn first_address(pod: IpNetwork) -> Result<IpAddr, Error> {
    let first = match pod.network() {
        IpAddr::V4(network) => u32::from(network).checked_add(1).map(|n| IpAddr::V4(n.into())),
        IpAddr::V6(network) => u128::from(network).checked_add(1).map(|n| IpAddr::V6(n.into())),
    };
    let problem = match first {
        Some(first) if first == pod.ip() => "is the first of its subnet, which the gateway would take",
        Some(first) if pod.contains(first) => return Ok(first),
        _ => "has a subnet without room for a gateway",
    };
    Err(Error::new(Code::INVALID_CONFIG, format!("address {pod} {problem}"))
        .with_details("give the pod another address, or set \"gateway\" beside it in ipam.addresses"))
}

/// A default route for each family that has a gateway and no default route yet.
fn add_default_routes(result: &mut CniResult) {
    for ipv4 in [true, false] {
        let present = result.routes.iter().any(|route| route.dst.prefix() == 0 && route.dst.is_ipv4() == ipv4);
        let Some(gateway) = first_gateway(&result.ips, ipv4).filter(|_| !present) else { continue };
        if let Ok(everywhere) = IpNetwork::new(unspecified(ipv4), 0) {
            result.routes.push(Route::new(everywhere, Some(gateway)));
        }
    }
}

fn unspecified(ipv4: bool) -> IpAddr {
    if ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// Each gateway once, with the prefix of the subnet that it serves.
fn gateways(ips: &[Ip]) -> Vec<IpNetwork> {
    let mut gateways: Vec<IpNetwork> = Vec::new();
    for ip in ips {
        let network = ip.gateway.and_then(|gateway| IpNetwork::new(gateway, ip.address.prefix()).ok());
        if let Some(network) = network.filter(|network| !gateways.contains(network)) {
            gateways.push(network);
        }
    }
    gateways
}

fn gateway_step(on: &str, gateway: Gateway, network: IpNetwork, all: &[IpNetwork]) -> Step {
    Step::GatewayAddress { on: on.to_owned(), network, force: gateway.force_address, others: all.to_vec() }
}

fn forwarding(gateways: &[IpNetwork]) -> Vec<Step> {
    [(true, "net/ipv4/ip_forward"), (false, "net/ipv6/conf/all/forwarding")]
        .into_iter()
        .filter(|(ipv4, _)| gateways.iter().any(|gateway| gateway.is_ipv4() == *ipv4))
        .map(|(_, key)| Step::Forward { key })
        .collect()
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lock(bridge) => write!(f, "lock bridge {bridge}"),
            Self::Unlock => f.write_str("unlock bridge"),
            Self::EnsureBridge { name, mtu, promiscuous, vlan_filtering } => {
                write!(f, "have bridge {name}")?;
                write_mtu(f, *mtu)?;
                f.write_str(if *promiscuous { " promiscuous" } else { "" })?;
                f.write_str(if *vlan_filtering { " with VLAN filtering" } else { "" })
            }
            Self::CreatePair { ifname, mac, mtu } => {
                write!(f, "make {ifname} and the host's end")?;
                if let Some(mac) = mac {
                    write!(f, " mac {mac}")?;
                }
                write_mtu(f, *mtu)
            }
            Self::GuardPort => f.write_str("let only the pod's MAC address through"),
            Self::ConnectPort { hairpin, isolated, vlans } => {
                f.write_str("connect the host's end with the bridge")?;
                f.write_str(if *hairpin { " hairpin" } else { "" })?;
                f.write_str(if *isolated { " isolated" } else { "" })?;
                vlans.as_ref().map_or(Ok(()), |vlans| write!(f, " {vlans}"))
            }
            Self::VlanGateway { name, vlans } => write!(f, "have {name}, connected with the bridge {vlans}"),
            Self::Pod(steps) => {
                let lines: Vec<String> = steps.iter().map(|step| format!("pod: {step}")).collect();
                f.write_str(&lines.join("\n"))
            }
            Self::GatewayAddress { on, network, force, .. } => {
                write!(f, "give {on} {network}{}", if *force { " by force" } else { "" })
            }
            Self::Masquerade(networks) => {
                f.write_str("masquerade")?;
                networks.iter().try_for_each(|network| write!(f, " {network}"))
            }
            Self::AwaitPort(timeout) => {
                write!(f, "wait up to {} s until the port forwards", timeout.as_secs())
            }
            Self::Forward { key } => write!(f, "set {key} = 1"),
            Self::Announce(addresses) => {
                f.write_str("announce")?;
                addresses.iter().try_for_each(|address| write!(f, " {address}"))
            }
        }
    }
}

fn write_mtu(f: &mut fmt::Formatter<'_>, mtu: Option<u32>) -> fmt::Result {
    mtu.map_or(Ok(()), |mtu| write!(f, " mtu {mtu}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use adit_cni::{CniArgs, Version};
    use serde_json::{Value, json};

    fn network(config: &Value) -> Network {
        let config: Config = adit_cni::config::from_value(config).unwrap();
        config.validate(&CniArgs::default(), Version::LATEST).unwrap()
    }

    fn ipam(value: &Value) -> CniResult {
        CniResult::parse(value, Version::LATEST).unwrap()
    }

    fn lines(steps: &[Step]) -> Vec<String> {
        steps.iter().flat_map(|step| step.to_string().lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    #[test]
    fn the_pair_is_made_while_the_bridge_is_locked() {
        let network = network(&json!({
            "bridge": "br7", "mtu": 1400, "hairpinMode": true, "runtimeConfig": {"mac": "02:00:00:00:00:07"}
        }));
        assert_eq!(
            lines(&Plan::join(&network, "net1").steps),
            [
                "lock bridge br7",
                "have bridge br7 mtu 1400",
                "make net1 and the host's end mac 02:00:00:00:00:07 mtu 1400",
                "connect the host's end with the bridge hairpin",
                "unlock bridge",
            ]
        );
    }

    #[test]
    fn a_port_is_guarded_before_it_is_connected_and_in_its_vlans_before_it_is_up() {
        let network = network(&json!({
            "bridge": "br7", "macspoofchk": true, "portIsolation": true, "vlan": 5, "vlanTrunk": [{"minID": 7, "maxID": 9}]
        }));
        assert_eq!(
            lines(&Plan::join(&network, "net1").steps),
            [
                "lock bridge br7",
                "have bridge br7 with VLAN filtering",
                "make net1 and the host's end",
                "let only the pod's MAC address through",
                "connect the host's end with the bridge isolated in VLAN 5 untagged, 7-9",
                "unlock bridge",
            ]
        );
    }

    #[test]
    fn the_gateway_of_a_vlan_has_an_interface_of_its_own() {
        let network = network(&json!({
            "bridge": "br7", "isGateway": true, "vlan": 5, "vlanTrunk": [{"id": 7}], "ipMasq": true,
            "ipam": {"type": "static"}
        }));
        let plan = AddressPlan::new(&network, "net1", ipam(&json!({"ips": [{"address": "10.1.1.2/24"}]}))).unwrap();
        let steps = lines(&plan.steps);
        assert_eq!(
            steps[steps.len() - 6..],
            [
                "lock bridge br7",
                "have br7.5, connected with the bridge in VLAN 5 untagged",
                "give br7.5 10.1.1.1/24",
                "unlock bridge",
                "masquerade 10.1.1.2/24",
                "wait up to 10 s until the port forwards",
            ]
        );
    }

    #[test]
    fn an_interface_that_stays_down_is_not_waited_for() {
        let plan =
            AddressPlan::new(&network(&json!({"disableContainerInterface": true})), "net1", CniResult::default())
                .unwrap();
        let steps = lines(&plan.steps);
        assert!(!steps.iter().any(|step| step.contains("bring the link up") || step.contains("wait")), "{steps:?}");
    }

    #[test]
    fn a_gateway_is_computed_and_routes_without_one_use_it() {
        let plan = AddressPlan::new(
            &network(&json!({"isGateway": true, "ipam": {"type": "static"}})),
            "net1",
            ipam(&json!({
                "ips": [{"address": "10.10.1.200/24"}],
                "routes": [{"dst": "10.10.2.0/24"}, {"dst": "10.20.0.0/16", "gw": "10.10.1.9"}]
            })),
        )
        .unwrap();
        assert_eq!(
            lines(&plan.steps),
            [
                "pod: set net/ipv4/conf/net1/arp_notify = 1",
                "pod: set net/ipv6/conf/net1/ndisc_notify = 1",
                "pod: set net/ipv6/conf/net1/accept_dad = 0",
                "pod: add address 10.10.1.200/24",
                "pod: bring the link up",
                "pod: add route 10.10.2.0/24 via 10.10.1.1",
                "pod: add route 10.20.0.0/16 via 10.10.1.9",
                "lock bridge cni0",
                "give cni0 10.10.1.1/24",
                "unlock bridge",
                "wait up to 10 s until the port forwards",
            ]
        );
        assert_eq!(lines(&plan.last_steps), ["set net/ipv4/ip_forward = 1", "announce 10.10.1.200"]);
        let ip = &plan.result.ips[0];
        assert_eq!((ip.interface, ip.gateway), (Some(2), Some("10.10.1.1".parse().unwrap())));
        assert_eq!(plan.result.routes[0].gw, ip.gateway);
    }

    #[test]
    fn default_routes_are_added_where_there_is_none() {
        let plan = AddressPlan::new(
            &network(&json!({"isDefaultGateway": true, "forceAddress": true})),
            "net1",
            ipam(&json!({
                "ips": [{"address": "10.1.1.2/24"}, {"address": "fd01::2/64"}, {"address": "10.1.1.3/24"}],
                "routes": [{"dst": "0.0.0.0/0"}]
            })),
        )
        .unwrap();
        let routes: Vec<String> =
            plan.result.routes.iter().map(|route| format!("{} via {}", route.dst, route.gw.unwrap())).collect();
        assert_eq!(routes, ["0.0.0.0/0 via 10.1.1.1", "::/0 via fd01::1"]);
        let steps = lines(&plan.steps);
        for step in ["give cni0 10.1.1.1/24 by force", "give cni0 fd01::1/64 by force"] {
            assert_eq!(steps.iter().filter(|line| *line == step).count(), 1, "{steps:?}");
        }
        assert!(lines(&plan.last_steps).contains(&"set net/ipv6/conf/all/forwarding = 1".to_owned()));
    }

    #[test]
    fn without_addresses_the_link_only_comes_up() {
        let plan = AddressPlan::new(&network(&json!({"isGateway": true})), "net1", CniResult::default()).unwrap();
        assert_eq!(
            lines(&plan.steps),
            [
                "pod: set net/ipv4/conf/net1/arp_notify = 1",
                "pod: set net/ipv6/conf/net1/ndisc_notify = 1",
                "pod: set net/ipv6/conf/net1/accept_dad = 0",
                "pod: bring the link up",
                "wait up to 10 s until the port forwards",
            ]
        );
        assert!(plan.last_steps.is_empty());
    }

    #[test]
    fn the_configurations_dns_replaces_ipams() {
        let answer = ipam(&json!({"ips": [{"address": "10.1.1.2/24"}], "dns": {"nameservers": ["9.9.9.9"]}}));
        let kept = AddressPlan::new(&network(&json!({})), "net1", answer.clone()).unwrap();
        assert_eq!(kept.result.dns.unwrap().nameservers, ["9.9.9.9"]);
        let own = json!({"dns": {"search": ["example.org"]}});
        let replaced = AddressPlan::new(&network(&own), "net1", answer).unwrap().result.dns.unwrap();
        assert_eq!((replaced.nameservers.len(), replaced.search), (0, vec!["example.org".to_owned()]));
    }

    #[test]
    fn a_gateway_that_cannot_be_is_refused_with_a_remedy() {
        for address in ["10.1.1.1/24", "10.1.1.5/32", "fd01::1/128", "255.255.255.255/32"] {
            let error = AddressPlan::new(
                &network(&json!({"isGateway": true})),
                "net1",
                ipam(&json!({"ips": [{"address": address}]})),
            )
            .unwrap_err();
            assert!(error.msg.contains(address), "{error}");
            assert!(error.details.contains("gateway"), "{error}");
        }
    }
}
