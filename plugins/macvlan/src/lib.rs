//! `macvlan`: gives a pod an interface with a MAC address of its own on one of the node's interfaces.
//!
//! The interface is made in the pod's namespace under its final name, so there is never a second name to clean up. IPv6
//! addresses are usable at once: duplicate address detection would hold every ADD for more than a second, and the address
//! was given to this pod on purpose. `enabledad: true` brings it back. Neighbours are told by gratuitous ARP and unsolicited
//! neighbour advertisements.

#![forbid(unsafe_code)]

mod apply;
mod check;
mod config;
mod master;
mod plan;
mod remove;

use std::path::Path;

use adit_cni::{Attachment, Call, CniResult, DelCall, Error, GcCall, Plugin, StatusCall};
use adit_plugin::transaction;

pub use config::{Config, Network};
pub use plan::{AddressPlan, Plan, Step};

/// The plugin.
#[derive(Debug, Clone, Copy, Default)]
pub struct Macvlan;

impl Plugin for Macvlan {
    type Config = Config;
    const NAME: &'static str = "macvlan";

    fn add(&self, call: &Call<Config>) -> Result<CniResult, Error> {
        let network = call.config.validate(&call.args, call.version)?;
        let sides = apply::Sides::open(call, &network)?;
        let plan = Plan::create(&network, call.attachment.ifname.as_str(), sides.master())?;
        transaction(|undo| {
            let mut attach = apply::Attach::new(&sides, &network, call, undo);
            attach.run(&plan.steps)?;
            let ipam = attach.request_addresses()?;
            let plan = AddressPlan::new(&network, call.attachment.ifname.as_str(), sides.master(), ipam)?;
            attach.run(&plan.steps)?;
            let result = attach.result(plan.result)?;
            call.ensure_expressible(&result)?;
            attach.run(&plan.last_steps)?;
            Ok(result)
        })
    }

    fn check(&self, call: &Call<Config>) -> Result<(), Error> {
        check::check(&call.config.validate(&call.args, call.version)?, call)
    }

    fn del(&self, call: &DelCall<Config>) -> Result<(), Error> {
        remove::del(call)
    }

    fn del_unreadable(&self, attachment: &Attachment, netns: Option<&Path>, why: Error) -> Result<(), Error> {
        remove::del_unreadable(attachment, netns, why)
    }

    /// Nothing of an attachment is on the host, so only the IPAM plugin has something to collect.
    fn gc(&self, call: &GcCall<Config>) -> Result<(), Error> {
        match call.config.ipam_plugin() {
            Some(plugin) if call.valid.is_some() => call.delegate.gc(plugin),
            _ => Ok(()),
        }
    }

    /// Ready when the master is there and the IPAM plugin is.
    fn status(&self, call: &StatusCall<Config>) -> Result<(), Error> {
        master::status(&call.config)?;
        match call.config.ipam_plugin() {
            Some(plugin) => call.delegate.status(plugin),
            None => Ok(()),
        }
    }
}
