//! `bridge`: attaches a pod to a bridge on the host by a veth pair.
//!
//! ADD reads top to bottom in [`Bridge::add`]: the configuration becomes a [`Network`] or is refused,
//! the network becomes a [`Plan`], the plan is applied, and whatever was made is taken back when a
//! step fails. The host's end of the pair carries the attachment's identity as its alias, so DEL and
//! GC find it without the pod's namespace.

#![forbid(unsafe_code)]

mod apply;
mod check;
mod config;
mod lock;
mod plan;
mod remove;

use std::path::Path;

use adit_cni::{Attachment, Call, CniResult, Code, DelCall, Error, GcCall, Plugin, StatusCall};
use adit_net::{LinkKind, Netlink};
use adit_plugin::{net_error, transaction};

pub use config::{Config, Gateway, Network};
pub use plan::{AddressPlan, Plan, Step};

/// The plugin.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bridge;

impl Plugin for Bridge {
    type Config = Config;
    const NAME: &'static str = "bridge";

    fn add(&self, call: &Call<Config>) -> Result<CniResult, Error> {
        let network = call.config.validate(&call.args, call.version)?;
        let sides = apply::Sides::open(call)?;
        transaction(|undo| {
            let mut attach = apply::Attach::new(&sides, &network, call, undo);
            attach.run(&Plan::join(&network, call.attachment.ifname.as_str()).steps)?;
            let ipam = attach.request_addresses()?;
            let plan = AddressPlan::new(&network, call.attachment.ifname.as_str(), ipam)?;
            attach.run(&plan.steps)?;
            let result = attach.result(plan.result)?;
            call.ensure_expressible(&result)?;
            attach.run(&plan.last_steps)?;
            Ok(result)
        })
    }

    fn check(&self, call: &Call<Config>) -> Result<(), Error> {
        let network = call.config.validate(&call.args, call.version)?;
        check::check(&network, call)
    }

    fn del(&self, call: &DelCall<Config>) -> Result<(), Error> {
        remove::del(call)
    }

    fn del_unreadable(&self, attachment: &Attachment, _netns: Option<&Path>, why: Error) -> Result<(), Error> {
        remove::del_unreadable(attachment, why)
    }

    fn gc(&self, call: &GcCall<Config>) -> Result<(), Error> {
        remove::gc(call)
    }

    /// Ready when the IPAM plugin is, and the bridge's name is free or a bridge's.
    fn status(&self, call: &StatusCall<Config>) -> Result<(), Error> {
        let name = call.config.bridge_name();
        let netlink = Netlink::open().map_err(net_error)?;
        let taken = netlink.link(name).map_err(net_error)?;
        if taken.is_some_and(|link| link.kind != LinkKind::Bridge) {
            return Err(Error::new(Code::NOT_AVAILABLE, format!("{name:?} already exists but is not a bridge"))
                .with_details("remove that interface or give the network another bridge"));
        }
        match call.config.ipam_plugin() {
            Some(plugin) => call.delegate.status(plugin),
            None => Ok(()),
        }
    }
}
