//! `bridge`: attaches a pod to a bridge on the host by a veth pair.
//!
//! ADD reads top to bottom in [`Bridge::add`]: the configuration becomes a [`Network`] or is refused,
//! the network becomes a [`Plan`], the plan is applied, and whatever was made is taken back when a
//! step fails. The host's end of the pair carries the attachment's identity as its alias, and whatever the
//! attachment has in the kernel's tables carries it as its comment, so DEL and GC find both without the pod's
//! namespace, without `prevResult` and whatever the configuration says by then.

#![forbid(unsafe_code)]

mod apply;
mod check;
mod config;
mod lock;
mod masquerade;
mod plan;
mod reference;
mod remove;
mod rules;
mod spoof;
mod status;
mod tag;
mod vlan;

use std::path::Path;

use adit_cni::{Attachment, Call, CniResult, DelCall, Error, GcCall, Plugin, StatusCall};
use adit_plugin::transaction;

pub use config::{Config, Gateway, Network};
pub use masquerade::Backend;
pub use plan::{AddressPlan, Plan, Step};
pub use vlan::{TrunkEntry, Vlans};

/// The plugin.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bridge;

impl Plugin for Bridge {
    type Config = Config;
    const NAME: &'static str = "bridge";

    fn add(&self, call: &Call<Config>) -> Result<CniResult, Error> {
        let network = call.config.validate(&call.args, call.version)?;
        let sides = apply::Sides::open(call, &network)?;
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

    fn status(&self, call: &StatusCall<Config>) -> Result<(), Error> {
        status::status(call)
    }
}
