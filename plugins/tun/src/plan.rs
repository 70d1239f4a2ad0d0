//! What ADD is going to do, as a value.

use std::{
    collections::BTreeMap,
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use adit_cni::{Call, CniResult, Error};
use adit_net::Netlink;
use adit_plugin::{DuplicateAddressDetection, InterfaceSpec, InterfaceStep, planned_routes};
use adit_tunnel::{
    AttachmentId, Config, Engine, Pod, Record, Spec, State, Underlay, Vxlan,
    mtu::packets_per_send,
    record::{NetnsRef, RECORD_VERSION},
    spec::OuterRoute,
};
use ipnetwork::IpNetwork;

use crate::{
    error::tunnel_error,
    routes::{self, TunnelRoute, is_main, is_owned_subnet},
};

/// The record that is written first, and the steps that follow it.
#[derive(Debug)]
pub struct Plan {
    /// What the node remembers.
    pub record: Record,
    /// What is done to the node, in order.
    pub steps: Vec<Step>,
}

/// One change of the node, or one thing that is opened for the agent.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Write the record as `adding`.
    WriteRecord,
    /// Create the persistent, root-owned TUN device in the pod.
    CreateTun,
    /// Create the kernel's WireGuard device in the pod, with its outer packets in this network.
    CreateWireguard(Underlay),
    /// Create the kernel's VXLAN device in the pod.
    CreateVxlan { port: u16 },
    /// Let it take packets of the tunnel's own network only.
    AdmitVni(u32),
    /// Set the interface's MTU, and keep the kernel from giving it addresses of its own.
    ShapeLink { mtu_bytes: u16, gso_max_segments: Option<u32> },
    /// Addresses, routes, up.
    Configure(Vec<InterfaceStep>),
    /// Add an address, with the kernel's own route to its subnet or without.
    Address { network: IpNetwork, subnet_route: bool },
    /// Bring the interface up, which opens the kernel's outer socket.
    Up,
    /// Add a route with its encapsulation.
    Route(TunnelRoute),
    /// Open the outer socket.
    OpenSocket,
    /// Hand what was opened to the agent, or let it tell the kernel's device its keys and peers. It marks the record as attached.
    HandOver,
    /// Mark the record as attached.
    Complete,
}

/// The record of a tunnel that ADD is about to make; its addresses and routes are not known yet.
pub fn new_record(
    call: &Call<Config>,
    written: Vec<String>,
    attachment: AttachmentId,
    spec: Spec,
    pod: &Netlink,
) -> Record {
    let named = |key: &str| call.args.get(key).unwrap_or_default().to_owned();
    Record {
        version: RECORD_VERSION,
        attachment,
        created_ns: now_ns(),
        network: call.network.to_string(),
        pod: Pod { namespace: named("K8S_POD_NAMESPACE"), name: named("K8S_POD_NAME"), uid: named("K8S_POD_UID") },
        state: State::Adding,
        netns: NetnsRef { path: call.netns.clone(), id: pod.netns().id(), cookie: pod.netns_cookie() },
        spec,
        written,
        addresses: Vec::new(),
        routes: Vec::new(),
        epoch_floor: 0,
        learned: BTreeMap::new(),
        also: BTreeMap::new(),
    }
}

fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

impl Plan {
    /// The plan of a tunnel that gets the addresses and routes of `inner`, beside the `outer` routes to its peers.
    ///
    /// # Errors
    /// The addresses or routes do not fit the tunnel.
    pub fn new(record: Record, outer: &[OuterRoute], inner: &CniResult) -> Result<Self, Error> {
        let addresses: Vec<IpNetwork> = inner.ips.iter().map(|ip| ip.address).collect();
        let planned = planned_routes(inner);
        // Routes of another table compete with the outer ones only where a rule says so, and then by the user's choice.
        let competing: Vec<IpNetwork> =
            planned.iter().filter(|route| is_main(route.table)).map(|route| route.destination).collect();
        record.spec.check_inner(outer, &addresses, &competing).map_err(tunnel_error)?;
        let interface = InterfaceSpec {
            name: record.spec.if_name.as_str(),
            addresses: addresses.clone(),
            routes: planned.clone(),
            // Nobody else is on a point-to-point link to have the address.
            dad: DuplicateAddressDetection::Off,
            notify: false,
        };
        let shape = shape_of(&record.spec);
        let (steps, routes) = match record.spec.vxlan {
            None => (by_the_agent(&record.spec, shape, &interface), routes::plain(planned)),
            Some(vxlan) => {
                let routes = routes::encapsulated(&record.spec, inner, planned);
                (by_routes(&record.spec, vxlan, shape, &interface, &routes), routes)
            }
        };
        let routes = routes.iter().map(TunnelRoute::recorded).collect();
        Ok(Self { record: Record { addresses, routes, ..record }, steps })
    }
}

/// The steps of a tunnel that the agent carries, or has the keys of.
fn by_the_agent(spec: &Spec, shape: Step, interface: &InterfaceSpec<'_>) -> Vec<Step> {
    let configure = Step::Configure(interface.plan());
    match spec.engine {
        Engine::Agent => {
            vec![Step::WriteRecord, Step::CreateTun, shape, configure, Step::OpenSocket, Step::HandOver]
        }
        Engine::Kernel => {
            vec![Step::WriteRecord, Step::CreateWireguard(spec.underlay), shape, configure, Step::HandOver]
        }
    }
}

/// The steps of a tunnel that the kernel carries alone, because its routes say so.
fn by_routes(
    spec: &Spec,
    vxlan: Vxlan,
    shape: Step,
    interface: &InterfaceSpec<'_>,
    routes: &[TunnelRoute],
) -> Vec<Step> {
    let settings = interface.plan().into_iter().filter(|step| matches!(step, InterfaceStep::Sysctl { .. })).collect();
    let mut steps = vec![
        Step::WriteRecord,
        Step::CreateVxlan { port: spec.local.port() },
        shape,
        Step::AdmitVni(vxlan.vni),
        Step::Configure(settings),
    ];
    let address = |network: &IpNetwork| Step::Address {
        network: *network,
        // A route of the kernel's would have no encapsulation.
        subnet_route: !is_owned_subnet(spec, *network),
    };
    steps.extend(interface.addresses.iter().map(address));
    steps.push(Step::Up);
    steps.extend(routes.iter().cloned().map(Step::Route));
    steps.push(Step::Complete);
    steps
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WriteRecord => f.write_str("write the record"),
            Self::CreateTun => f.write_str("create the TUN device"),
            Self::CreateWireguard(underlay) => {
                write!(f, "create the WireGuard device with the {}'s network outside", underlay.owner())
            }
            Self::CreateVxlan { port } => write!(f, "create the VXLAN device on UDP port {port}"),
            Self::AdmitVni(vni) => write!(f, "admit VNI {vni}"),
            Self::Address { network, subnet_route: true } => write!(f, "add address {network}"),
            Self::Address { network, subnet_route: false } => write!(f, "add address {network} noprefixroute"),
            Self::Up => f.write_str("bring the link up"),
            Self::Route(route) => write!(f, "add route {route}"),
            Self::Complete => f.write_str("mark the record as attached"),
            Self::ShapeLink { mtu_bytes, gso_max_segments: None } => write!(f, "set mtu {mtu_bytes}"),
            Self::ShapeLink { mtu_bytes, gso_max_segments: Some(segments) } => {
                write!(f, "set mtu {mtu_bytes}, gso_max_segs {segments}")
            }
            Self::Configure(steps) => {
                let texts: Vec<String> = steps.iter().map(ToString::to_string).collect();
                f.write_str(&texts.join(", "))
            }
            Self::OpenSocket => f.write_str("open the outer socket"),
            Self::HandOver => f.write_str("hand the tunnel to the agent"),
        }
    }
}

fn shape_of(spec: &Spec) -> Step {
    let per_send = || packets_per_send(spec.mtu_bytes, spec.local.is_ipv6(), spec.encryption);
    Step::ShapeLink { mtu_bytes: spec.mtu_bytes, gso_max_segments: (spec.engine == Engine::Agent).then(per_send) }
}

#[cfg(test)]
mod tests {
    use adit_cni::{Ip, Route};
    use adit_tunnel::{Effective, spec::Device};
    use serde_json::json;

    use super::*;

    fn record() -> Record {
        record_of(&json!({"encap": "udp", "encryption": "none", "remote": "10.20.1.200"}))
    }

    fn record_of(raw: &serde_json::Value) -> Record {
        let intent = Effective::read(raw.as_object().unwrap()).unwrap().config.validate().unwrap();
        let device = Device::new("net1".parse().unwrap(), 2, 1500, vec!["10.10.1.200/24".parse().unwrap()]);
        let local = intent.local_on(&device).unwrap();
        Record {
            version: RECORD_VERSION,
            attachment: AttachmentId {
                container_id: "c".into(),
                cni_if_name: "net1".into(),
                if_name: "tun".parse().unwrap(),
            },
            created_ns: 1,
            network: "ohio".into(),
            pod: Pod::default(),
            state: State::Adding,
            netns: NetnsRef { path: "/run/netns/p".into(), id: adit_net::NetnsId { dev: 4, inode: 7 }, cookie: None },
            spec: intent.resolve(&device, local, &vec![outer(); intent.peers.len()]).unwrap(),
            written: vec![],
            addresses: vec![],
            routes: vec![],
            epoch_floor: 0,
            learned: BTreeMap::new(),
            also: BTreeMap::new(),
        }
    }

    fn outer() -> OuterRoute {
        OuterRoute::new(2, None, 16)
    }

    fn inner(address: &str, route: &str) -> CniResult {
        CniResult {
            ips: vec![Ip { interface: None, address: address.parse().unwrap(), gateway: None }],
            routes: vec![Route {
                dst: route.parse().unwrap(),
                gw: None,
                mtu: None,
                advmss: None,
                priority: None,
                table: None,
                scope: None,
            }],
            ..CniResult::default()
        }
    }

    #[test]
    fn the_record_comes_first_and_the_agent_last() {
        let plan = Plan::new(record(), &[outer()], &inner("10.4.0.1/30", "10.5.0.0/16")).unwrap();
        let steps: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
        assert_eq!(
            steps,
            [
                "write the record",
                "create the TUN device",
                "set mtu 1456, gso_max_segs 44",
                "set net/ipv6/conf/tun/accept_dad = 0, add address 10.4.0.1/30, bring the link up, add route 10.5.0.0/16",
                "open the outer socket",
                "hand the tunnel to the agent",
            ]
        );
        assert_eq!(plan.record.addresses.len(), 1);
        assert_eq!(plan.record.state, State::Adding);
    }

    fn vxlan(peers: serde_json::Value, inner: &CniResult) -> Plan {
        let raw = json!({"encap": "vxlan", "encryption": "none", "vni": 7, "peers": peers});
        let record = record_of(&raw);
        let outer = vec![outer(); record.spec.peers.len()];
        Plan::new(record, &outer, inner).unwrap()
    }

    #[test]
    fn the_kernels_tunnel_encapsulates_what_is_routed_to_it() {
        let plan = vxlan(json!([{"endpoint": "10.20.1.200"}]), &inner("10.4.0.1/30", "10.5.0.0/16"));
        let steps: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
        assert_eq!(
            steps,
            [
                "write the record",
                "create the VXLAN device on UDP port 4790",
                "set mtu 1464",
                "admit VNI 7",
                "set net/ipv6/conf/tun/accept_dad = 0",
                "add address 10.4.0.1/30 noprefixroute",
                "bring the link up",
                "add route 10.4.0.0/30 to peer 0",
                "add route 10.5.0.0/16 to peer 0",
                "mark the record as attached",
            ]
        );
        let recorded: Vec<_> =
            plan.record.routes.iter().map(|route| (route.destination.to_string(), route.peer)).collect();
        assert_eq!(recorded, [("10.4.0.0/30".to_owned(), Some(0)), ("10.5.0.0/16".to_owned(), Some(0))]);
        assert_eq!(plan.record.state, State::Adding);
    }

    #[test]
    fn each_peer_of_the_kernels_tunnel_has_the_routes_of_its_networks() {
        let peers = json!([
            {"endpoint": "10.20.1.200", "allowedIPs": ["10.4.0.2/32", "10.6.0.0/16"]},
            {"endpoint": "10.30.1.200", "allowedIPs": ["10.4.0.3/32", "fd04::/64"]},
        ]);
        let mut inner = inner("10.4.0.1/24", "10.6.7.0/24");
        inner.routes.extend(
            ["10.0.0.0/8", "10.6.0.0/16"].map(|dst| Route {
                table: (dst == "10.0.0.0/8").then_some(77),
                ..Route::new(dst.parse().unwrap(), None)
            }),
        );
        let routes: Vec<String> = vxlan(peers, &inner)
            .steps
            .iter()
            .map(ToString::to_string)
            .filter_map(|step| Some(step.strip_prefix("add route ")?.to_owned()))
            .collect();
        assert_eq!(
            routes,
            [
                "10.4.0.2/32 to peer 0",
                "10.4.0.3/32 to peer 1",
                "fd04::/64 to peer 1",
                "10.4.0.2/32 table 77 to peer 0",
                "10.6.0.0/16 table 77 to peer 0",
                "10.4.0.3/32 table 77 to peer 1",
                "10.6.7.0/24 to peer 0",
                "10.0.0.0/8 table 77",
                "10.6.0.0/16 to peer 0",
            ]
        );
    }

    #[test]
    fn a_sealed_tunnel_is_made_in_the_same_steps_with_a_smaller_mtu() {
        let key = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
        for encap in ["udp", "wireguard"] {
            let record = record_of(&json!({"encap": encap, "publicKey": key, "remote": "10.20.1.200"}));
            let plan = Plan::new(record, &[outer()], &inner("10.4.0.1/30", "10.5.0.0/16")).unwrap();
            let steps: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
            assert_eq!(steps[2], "set mtu 1440, gso_max_segs 44", "{encap}");
            assert_eq!(steps[5], "hand the tunnel to the agent");
        }
    }

    #[test]
    fn the_kernels_wireguard_is_told_its_keys_last() {
        let key = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
        let raw = json!({"encap": "wireguard", "engine": "kernel", "publicKey": key, "remote": "10.20.1.200"});
        let plan = Plan::new(record_of(&raw), &[outer()], &inner("10.4.0.1/30", "10.5.0.0/16")).unwrap();
        let steps: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
        assert_eq!(
            steps,
            [
                "write the record",
                "create the WireGuard device with the pod's network outside",
                "set mtu 1440",
                "set net/ipv6/conf/tun/accept_dad = 0, add address 10.4.0.1/30, bring the link up, add route 10.5.0.0/16",
                "hand the tunnel to the agent",
            ]
        );
    }

    #[test]
    fn a_route_that_swallows_the_peer_makes_no_plan() {
        let error = Plan::new(record(), &[outer()], &inner("10.4.0.1/30", "10.20.0.0/16")).unwrap_err();
        assert_eq!(error.code, adit_cni::Code::INVALID_CONFIG);
        assert!(error.msg.contains("10.20.0.0/16"), "{error}");
    }
}
