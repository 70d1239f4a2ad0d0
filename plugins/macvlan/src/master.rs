//! The interface below a macvlan.

use adit_cni::{Code, Error};
use adit_net::{IfName, Link, Netlink};
use adit_plugin::net_error;

use crate::config::Config;

/// The link called `name`, or that of the default route (IPv4 before IPv6, the lowest metric).
///
/// # Errors
/// [`Code::INVALID_CONFIG`] when there is none.
pub(crate) fn find(netlink: &Netlink, name: Option<&IfName>) -> Result<Link, Error> {
    match name {
        Some(name) => netlink.link(name.as_str()).map_err(net_error)?.ok_or_else(|| {
            Error::new(Code::INVALID_CONFIG, format!("failed to lookup master {:?}: Link not found", name.as_str()))
                .with_details(
                    "set master to an interface of the node (of the pod with linkInContainer), or remove it to use the default route's",
                )
        }),
        None => of_default_route(netlink)?.ok_or_else(|| {
            Error::new(Code::INVALID_CONFIG, "no default route interface found")
                .with_details("set master to the interface to use")
        }),
    }
}

/// Whether the master is there. One that will be in a pod cannot be looked for.
///
/// # Errors
/// [`Code::NOT_AVAILABLE`] when it is not.
pub(crate) fn status(config: &Config) -> Result<(), Error> {
    let name = config.master()?;
    if config.master_in_pod() {
        return Ok(());
    }
    let netlink = Netlink::open().map_err(net_error)?;
    find(&netlink, name.as_ref()).map(drop).map_err(|error| Error { code: Code::NOT_AVAILABLE, ..error })
}

fn of_default_route(netlink: &Netlink) -> Result<Option<Link>, Error> {
    let routes = netlink.routes(None).map_err(net_error)?;
    let default = routes
        .iter()
        .filter(|route| route.destination.prefix() == 0)
        .min_by_key(|route| (route.destination.is_ipv6(), route.priority.unwrap_or(0)));
    match default {
        Some(route) => netlink.link_by_index(route.device).map_err(net_error),
        None => Ok(None),
    }
}
