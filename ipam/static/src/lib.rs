//! `static`: an IPAM plugin that hands out the addresses it is told, and keeps no state.
//!
//! Where addresses come from, in this order:
//!
//! 1. `ipam.addresses`;
//! 2. `CNI_ARGS` `IP=` adds to them, `GATEWAY=` sets the gateway of every one of these whose subnet contains it;
//! 3. `args.cni.ips` replaces them all;
//! 4. `runtimeConfig.ips` replaces them all.
//!
//! A `GATEWAY` that is in none of the subnets is ignored: runtimes send the same arguments to all of a pod's networks. An
//! address that replaces others keeps the gateway of the configured address in whose subnet it lies.
//!
//! There is no state, so GC has nothing to collect and STATUS nothing to miss. What cannot work (a gateway that no subnet
//! of the pod contains, a broadcast address, more addresses than the version can express) is refused by ADD, with what to
//! write in its place.

#![forbid(unsafe_code)]

mod addresses;
mod config;
mod sound;

use std::path::Path;

use adit_cni::{Attachment, Call, CniArgs, CniResult, Code, DelCall, Error, Ip, Plugin, Version};

pub use addresses::{StaticAddress, effective};
pub use config::Config;

/// What ADD answers. It depends on nothing but these.
///
/// # Errors
/// [`Code::INVALID_CONFIG`], or [`Code::BAD_ENVIRONMENT`] for `args`, for addresses and routes that no pod could use.
pub fn answer(config: &Config, args: &CniArgs, version: Version) -> Result<CniResult, Error> {
    let ipam = config.ipam()?;
    let addresses = effective(config, args)?;
    addresses::check_version(&addresses, version)?;
    sound::check(&addresses, &ipam.routes)?;
    Ok(CniResult {
        interfaces: Vec::new(),
        ips: addresses
            .iter()
            .map(|address| Ip { interface: None, address: address.network, gateway: address.gateway })
            .collect(),
        routes: ipam.routes.clone(),
        dns: (!ipam.dns.is_empty()).then(|| ipam.dns.clone()),
    })
}

/// The plugin.
#[derive(Debug, Clone, Copy, Default)]
pub struct Static;

impl Plugin for Static {
    type Config = Config;
    const NAME: &'static str = "static";

    fn add(&self, call: &Call<Config>) -> Result<CniResult, Error> {
        answer(&call.config, &call.args, call.version)
    }

    /// Every address that is configured now is in `prevResult`, with its gateway where one is configured.
    fn check(&self, call: &Call<Config>) -> Result<(), Error> {
        let previous = call.required_prev_result()?;
        call.config.ipam()?;
        for address in effective(&call.config, &call.args)? {
            let found = previous.ips.iter().any(|ip| {
                ip.address == address.network && (address.gateway.is_none() || ip.gateway == address.gateway)
            });
            if !found {
                return Err(Error::new(
                    Code::INTERNAL,
                    format!("static: Failed to match addr {} on interface {}", address.network, call.attachment.ifname),
                )
                .with_details("prevResult lacks it or has another gateway: attach the pod again"));
            }
        }
        Ok(())
    }

    fn del(&self, _: &DelCall<Config>) -> Result<(), Error> {
        Ok(())
    }

    fn del_unreadable(&self, _: &Attachment, _: Option<&Path>, _: Error) -> Result<(), Error> {
        // Nothing was kept, so there is nothing that an unreadable configuration could hide.
        Ok(())
    }
}
