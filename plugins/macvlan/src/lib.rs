//! `macvlan`: gives a pod an interface with a MAC address of its own on one of the node's interfaces.
//!
//! The interface is made in the pod's namespace under its final name, so there is never a second name to clean up.
//! Neighbours are told by gratuitous ARP and unsolicited neighbour advertisements.
//!
//! # IPv6 without waiting
//!
//! Duplicate address detection (RFC 4862) takes one to two seconds, for which the reference plugin holds every ADD. Three
//! ways are left, and which of them is right depends on the kernel and on the configuration:
//!
//! * By default addresses are *optimistic* (RFC 4429): the pod sends and receives with them at once, and the kernel looks
//!   for duplicates meanwhile. It takes a duplicate out of use and logs who has it; CHECK fails then. Unlike a pod on a
//!   bridge, which only its node reaches first, a macvlan's neighbours are hosts that this node knows nothing of, so nobody
//!   looking at all would be worse. Two things make "at once" true: the address is added when the link is up (to one that
//!   is added before, the kernel delivers nothing until detection ends), and the link-local address, from which the
//!   kernel asks for the neighbours' MACs meanwhile, is not probed; it is made of the MAC, whose duplicate would harm
//!   before any address does. The kernel announces the address when detection has ended.
//! * Where the kernel was built without (`CONFIG_IPV6_OPTIMISTIC_DAD`; no sysctl `optimistic_dad`), or makes link-local
//!   addresses in another way (`addr_gen_mode`), there is no detection: addresses are usable at once.
//! * `enabledad: true` waits, by events, for the end of detection, and a duplicate fails the ADD.
//!
//! `addressConflictDetection: true` waits likewise, and probes IPv4 addresses too (RFC 5227).

#![forbid(unsafe_code)]

mod apply;
mod check;
mod config;
mod master;
mod plan;
mod remove;

use std::path::Path;

use adit_cni::{Attachment, Call, CniResult, DelCall, Error, GcCall, Plugin, StatusCall};
use adit_plugin::{ipam, transaction};

pub use config::{Config, Network};
pub use plan::{AddressPlan, Master, Plan, Step};

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
            let addressed = attach.request_addresses()?;
            let dad = attach.detection(&addressed)?;
            let plan = AddressPlan::new(&network, call.attachment.ifname.as_str(), sides.master(), dad, addressed)?;
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
        ipam::status(&call.delegate, call.config.ipam_plugin())
    }
}
