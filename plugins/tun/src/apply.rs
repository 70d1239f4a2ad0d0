//! Walks the plan.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use adit_cni::{Code, Error};
use adit_net::{Address, Link, LinkChange, UdpSpec, WireguardSpec, create_tun, open_udp};
use adit_plugin::{Undo, configure_interface, net_error};
use adit_tunnel::{Record, State, Underlay};

use crate::{
    Tun,
    error::tunnel_error,
    plan::{Plan, Step},
    pod::Found,
};

/// Applies every step of `plan` in the pod that was `found`.
///
/// # Errors
/// The first step that fails, naming the tunnel.
pub fn apply<'a>(plan: &Plan, found: &Found, tun: &'a Tun, undo: &mut Undo<'a>) -> Result<(), Error> {
    let mut opened = Opened::default();
    for step in &plan.steps {
        tracing::debug!(tunnel = %plan.record.attachment, %step);
        push_undo(step, plan, tun, undo);
        apply_step(step, plan, found, tun, &mut opened).map_err(|error| {
            Error::new(error.code, format!("{} {step}: {}", plan.record.spec.if_name, error.msg))
                .with_details(error.details)
        })?;
    }
    Ok(())
}

/// How a step is taken back, also when it fails half way. An interface is ours to delete only once we have made it.
fn push_undo<'a>(step: &Step, plan: &Plan, tun: &'a Tun, undo: &mut Undo<'a>) {
    let attachment = plan.record.attachment.clone();
    match step {
        Step::WriteRecord => {
            undo.push(format!("remove the record of {attachment}"), move || {
                tun.store.remove(&attachment).map_err(tunnel_error)
            });
        }
        // The step after the interface was made.
        Step::ShapeLink { .. } => {
            let netns = plan.record.netns.path.clone();
            undo.push(format!("remove tunnel {attachment}"), move || tun.remover().remove(&attachment, Some(&netns)));
        }
        _ => {}
    }
}

/// The interface that was made, and descriptors on their way to the agent.
#[derive(Default)]
struct Opened {
    link: Option<Link>,
    tun: Option<OwnedFd>,
    udp: Option<OwnedFd>,
}

fn apply_step(step: &Step, plan: &Plan, found: &Found, tun: &Tun, opened: &mut Opened) -> Result<(), Error> {
    let (spec, netlink) = (&plan.record.spec, &found.netlink);
    match step {
        Step::WriteRecord => tun.store.write(&plan.record).map_err(tunnel_error),
        Step::CreateTun => {
            opened.tun = Some(in_pod(found, || create_tun(&spec.if_name))?);
            Ok(())
        }
        Step::CreateWireguard(_) => {
            // Where a device is made from is where its outer packets are, for good.
            let (maker, netns) = match &found.node {
                None => (netlink, None),
                Some(node) => (node, Some(&found.netns)),
            };
            maker.add_wireguard(&WireguardSpec { name: spec.if_name.as_str(), mtu: None, netns }).map_err(net_error)
        }
        Step::CreateVxlan { port } => netlink.add_vxlan(spec.if_name.as_str(), *port).map_err(|error| {
            let clash = error.is_exists();
            taken(
                error,
                clash,
                "local: UDP port",
                port,
                "before Linux 5.18 two tunnels of one pod need different ports",
            )
        }),
        Step::ShapeLink { mtu_bytes, gso_max_segments } => {
            let (mtu, gso_max_segments) = (Some(u32::from(*mtu_bytes)), *gso_max_segments);
            let change = LinkChange { mtu, gso_max_segments, addr_gen_none: true, ..LinkChange::default() };
            netlink.change_link(opened.link(found, plan)?.index, &change).map_err(net_error)
        }
        Step::AdmitVni(vni) => match netlink.admit_vni(opened.link(found, plan)?.index, *vni) {
            Ok(filtered) => {
                if !filtered {
                    tracing::warn!("{}: this kernel takes packets of any VNI (before Linux 5.18)", spec.if_name);
                }
                Ok(())
            }
            Err(error) => {
                let clash = error.is_exists();
                Err(taken(error, clash, "vni:", vni, "two tunnels of one pod need different numbers or ports"))
            }
        },
        Step::Configure(steps) => configure_interface(&found.netns, netlink, opened.link(found, plan)?, steps),
        Step::Address { network, subnet_route } => {
            let address = Address { nodad: true, noprefixroute: !subnet_route, ..Address::new(*network) };
            netlink.add_address(opened.link(found, plan)?.index, &address).map_err(net_error)
        }
        Step::Up => {
            let up = LinkChange { up: Some(true), ..LinkChange::default() };
            netlink.change_link(opened.link(found, plan)?.index, &up).map_err(|error| {
                let clash = error.is_address_in_use();
                let remedy = "another program in the pod has it: write \"local\" as address:port, and the same port at the peers";
                taken(error, clash, "local: UDP port", spec.local.port(), remedy)
            })
        }
        Step::Route(route) => route.add(netlink, opened.link(found, plan)?.index, spec).map_err(net_error),
        Step::OpenSocket => {
            let device = (spec.underlay == Underlay::Pod).then_some(&spec.device);
            let socket = UdpSpec { local: spec.local, device };
            let socket = found.outside(|| open_udp(&socket)).map_err(net_error)?;
            opened.udp = Some(socket.map_err(|error| socket_error(error, spec.underlay))?);
            Ok(())
        }
        Step::HandOver => {
            let descriptors: Vec<BorrowedFd<'_>> = opened.tun.iter().chain(&opened.udp).map(AsFd::as_fd).collect();
            tun.agent.attach(&plan.record, &descriptors).map_err(tunnel_error)
        }
        Step::Complete => {
            let attached = Record { state: State::Attached, ..plan.record.clone() };
            tun.store.write(&attached).map_err(tunnel_error)
        }
    }
}

impl Opened {
    /// The tunnel's interface, looked up once.
    fn link(&mut self, found: &Found, plan: &Plan) -> Result<&Link, Error> {
        if self.link.is_none() {
            let name = plan.record.spec.if_name.as_str();
            self.link = found.netlink.link(name).map_err(net_error)?;
        }
        self.link.as_ref().ok_or_else(|| {
            let name = &plan.record.spec.if_name;
            Error::new(Code::INTERNAL, format!("the interface {name} vanished while it was being configured"))
        })
    }
}

/// What two of one pod cannot share is a matter of the configuration.
fn taken(error: adit_net::Error, clash: bool, key: &str, value: impl std::fmt::Display, remedy: &str) -> Error {
    if !clash {
        return net_error(error);
    }
    Error::new(Code::INVALID_CONFIG, format!("{key} {value} is taken in this pod: {error}")).with_details(remedy)
}

fn in_pod<T>(found: &Found, open: impl FnOnce() -> adit_net::Result<T>) -> Result<T, Error> {
    found.netns.run(open).and_then(|opened| opened).map_err(net_error)
}

/// A port that is taken is a matter of the configuration: two tunnels of one pod.
fn socket_error(error: adit_net::Error, underlay: Underlay) -> Error {
    match &error {
        adit_net::Error::PortTaken { local, .. } => {
            let owner = underlay.owner();
            Error::new(Code::INVALID_CONFIG, format!("local: {local} is taken in this {owner}: {error}")).with_details(
                format!(
                    "two tunnels of one {owner} need different ports: write \"local\" as address:port in one of them"
                ),
            )
        }
        _ => net_error(error),
    }
}
