//! What ADD is going to do, as a value.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use adit_cni::{Call, CniResult, Error};
use adit_net::{Netlink, route::TABLE_MAIN};
use adit_plugin::{DuplicateAddressDetection, InterfaceSpec, InterfaceStep, PlannedRoute, planned_routes};
use adit_tunnel::{
    AttachmentId, Config, Pod, Record, Spec, State,
    record::{NetnsRef, RECORD_VERSION, RouteRef},
    spec::OuterRoute,
};
use ipnetwork::IpNetwork;

use crate::error::tunnel_error;

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
    /// Set the interface's MTU, and keep the kernel from giving it addresses of its own.
    ShapeLink { mtu_bytes: u16 },
    /// Addresses, routes, up.
    Configure(Vec<InterfaceStep>),
    /// Open the outer socket in the pod.
    OpenSocket,
    /// Hand both descriptors to the agent, which marks the record as attached.
    HandOver,
}

/// The record of a tunnel that ADD is about to make; its addresses and routes are not known yet.
pub fn new_record(call: &Call<Config>, attachment: AttachmentId, spec: Spec, pod: &Netlink) -> Record {
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
        addresses: Vec::new(),
        routes: Vec::new(),
        epoch_floor: 0,
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
        let routes = planned.iter().map(recorded).collect();
        let interface = InterfaceSpec {
            name: record.spec.if_name.as_str(),
            addresses: addresses.clone(),
            routes: planned,
            // Nobody else is on a point-to-point link to have the address.
            dad: DuplicateAddressDetection::Off,
            notify: false,
        };
        let steps = vec![
            Step::WriteRecord,
            Step::CreateTun,
            Step::ShapeLink { mtu_bytes: record.spec.mtu_bytes },
            Step::Configure(interface.plan()),
            Step::OpenSocket,
            Step::HandOver,
        ];
        Ok(Self { record: Record { addresses, routes, ..record }, steps })
    }
}

fn is_main(table: Option<u32>) -> bool {
    table.is_none_or(|table| table == TABLE_MAIN)
}

fn recorded(route: &PlannedRoute) -> RouteRef {
    let PlannedRoute { destination, gateway, priority, table, .. } = *route;
    RouteRef { destination, gateway, priority, table }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WriteRecord => f.write_str("write the record"),
            Self::CreateTun => f.write_str("create the TUN device"),
            Self::ShapeLink { mtu_bytes } => write!(f, "set mtu {mtu_bytes}"),
            Self::Configure(steps) => {
                let texts: Vec<String> = steps.iter().map(ToString::to_string).collect();
                f.write_str(&texts.join(", "))
            }
            Self::OpenSocket => f.write_str("open the outer socket"),
            Self::HandOver => f.write_str("hand the tunnel to the agent"),
        }
    }
}

#[cfg(test)]
mod tests {
    use adit_cni::{Ip, Route};
    use adit_tunnel::{Effective, spec::Device};
    use serde_json::json;

    use super::*;

    fn record() -> Record {
        let raw = json!({"encap": "udp", "encryption": "none", "remote": "10.20.1.200"});
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
            spec: intent.resolve(&device, local, &[outer()]).unwrap(),
            addresses: vec![],
            routes: vec![],
            epoch_floor: 0,
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
                "set mtu 1456",
                "set net/ipv6/conf/tun/accept_dad = 0, add address 10.4.0.1/30, bring the link up, add route 10.5.0.0/16",
                "open the outer socket",
                "hand the tunnel to the agent",
            ]
        );
        assert_eq!(plan.record.addresses.len(), 1);
        assert_eq!(plan.record.state, State::Adding);
    }

    #[test]
    fn a_route_that_swallows_the_peer_makes_no_plan() {
        let error = Plan::new(record(), &[outer()], &inner("10.4.0.1/30", "10.20.0.0/16")).unwrap_err();
        assert_eq!(error.code, adit_cni::Code::INVALID_CONFIG);
        assert!(error.msg.contains("10.20.0.0/16"), "{error}");
    }
}
