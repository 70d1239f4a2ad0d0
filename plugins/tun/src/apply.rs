//! Walks the plan.

use std::os::fd::{AsFd as _, OwnedFd};

use adit_cni::{Code, Error};
use adit_net::{LinkChange, UdpSpec, create_tun, open_udp};
use adit_plugin::{Undo, configure_interface, net_error};

use crate::{
    Tun,
    error::tunnel_error,
    plan::{Plan, Step},
    pod::Underlay,
};

/// Applies every step of `plan` in the pod of `underlay`.
///
/// # Errors
/// The first step that fails, naming the tunnel.
pub fn apply<'a>(plan: &Plan, underlay: &Underlay, tun: &'a Tun, undo: &mut Undo<'a>) -> Result<(), Error> {
    let mut opened = Opened::default();
    for step in &plan.steps {
        tracing::debug!(tunnel = %plan.record.attachment, %step);
        push_undo(step, plan, tun, undo);
        apply_step(step, plan, underlay, tun, &mut opened).map_err(|error| {
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
        Step::CreateTun | Step::Configure(_) | Step::OpenSocket | Step::HandOver => {}
    }
}

/// Descriptors on their way to the agent.
#[derive(Default)]
struct Opened {
    tun: Option<OwnedFd>,
    udp: Option<OwnedFd>,
}

fn apply_step(step: &Step, plan: &Plan, underlay: &Underlay, tun: &Tun, opened: &mut Opened) -> Result<(), Error> {
    let spec = &plan.record.spec;
    match step {
        Step::WriteRecord => tun.store.write(&plan.record).map_err(tunnel_error),
        Step::CreateTun => {
            opened.tun = Some(in_pod(underlay, || create_tun(&spec.if_name))?);
            Ok(())
        }
        Step::ShapeLink { mtu_bytes } => {
            let change = LinkChange { mtu: Some(u32::from(*mtu_bytes)), addr_gen_none: true, ..LinkChange::default() };
            underlay.netlink.change_link(link(underlay, plan)?.index, &change).map_err(net_error)
        }
        Step::Configure(steps) => {
            configure_interface(&underlay.netns, &underlay.netlink, &link(underlay, plan)?, steps)
        }
        Step::OpenSocket => {
            let socket = UdpSpec { local: spec.local, device: &spec.device };
            opened.udp = Some(underlay.netns.run(|| open_udp(&socket)).map_err(net_error)?.map_err(socket_error)?);
            Ok(())
        }
        Step::HandOver => match (&opened.tun, &opened.udp) {
            (Some(device), Some(socket)) => {
                tun.agent.attach(&plan.record, device.as_fd(), socket.as_fd()).map_err(tunnel_error)
            }
            _ => Err(Error::new(Code::INTERNAL, "the plan hands over what it never opened")),
        },
    }
}

fn in_pod<T>(underlay: &Underlay, open: impl FnOnce() -> adit_net::Result<T>) -> Result<T, Error> {
    underlay.netns.run(open).and_then(|opened| opened).map_err(net_error)
}

fn link(underlay: &Underlay, plan: &Plan) -> Result<adit_net::Link, Error> {
    let name = plan.record.spec.if_name.as_str();
    underlay.netlink.link(name).map_err(net_error)?.ok_or_else(|| {
        Error::new(Code::INTERNAL, format!("the interface {name} vanished while it was being configured"))
    })
}

/// A port that is taken is a matter of the configuration: two tunnels of one pod.
fn socket_error(error: adit_net::Error) -> Error {
    match &error {
        adit_net::Error::PortTaken { local, .. } => {
            Error::new(Code::INVALID_CONFIG, format!("local: {local} is taken in this pod: {error}")).with_details(
                "two tunnels of one pod need different ports: write \"local\" as address:port in one of them",
            )
        }
        _ => net_error(error),
    }
}
