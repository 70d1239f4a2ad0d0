//! Routes: adding, removing, listing, and asking the kernel which one it would take.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use nix::errno::Errno;

use crate::{
    Encapsulation, Error, Netlink, Result, ip,
    link::gone_is_false,
    request::{DELETE_ROUTE, GET_ROUTE, NEW_ROUTE, Request},
    route_message as message, vxlan,
};

/// Number of the main routing table.
pub const TABLE_MAIN: u32 = 254;

/// `RT_TABLE_UNSPEC`: in a query, every table.
const TABLE_ANY: u32 = 0;

/// A unicast route with one next hop.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// Destination, masked; `0.0.0.0/0` and `::/0` are the default routes.
    pub destination: IpNetwork,
    /// Next hop; an IPv4 destination may have an IPv6 one.
    pub gateway: Option<IpAddr>,
    /// Index of the outgoing link.
    pub device: u32,
    /// Source address the kernel prefers for this route.
    pub source: Option<IpAddr>,
    /// Largest packet on this route in bytes.
    pub mtu: Option<u32>,
    /// TCP MSS to announce, in bytes.
    pub advmss: Option<u32>,
    /// Metric; lower is preferred. `None` is 0 for IPv4 and 1024 for IPv6.
    pub priority: Option<u32>,
    /// Routing table; `None` is main (254).
    pub table: Option<u32>,
    /// Scope (`RT_SCOPE_*`): 0 universe, 253 link, 254 host. `None` is universe with a gateway and
    /// link without; IPv6 has no scopes.
    pub scope: Option<u8>,
    /// The gateway is on the link although no address of the link says so.
    pub onlink: bool,
    /// What is put around each packet, where the device leaves that to routes. Other encapsulations than those in IP are
    /// read as none.
    pub encapsulation: Option<Encapsulation>,
}

impl Route {
    /// A route to `destination` (host bits are dropped) out of link `device`.
    #[must_use]
    pub fn new(destination: IpNetwork, device: u32) -> Self {
        Self {
            destination: masked(destination),
            gateway: None,
            device,
            source: None,
            mtu: None,
            advmss: None,
            priority: None,
            table: None,
            scope: None,
            onlink: false,
            encapsulation: None,
        }
    }

    /// Whether this route, as [`Netlink::routes`] reports it, is what `wanted` asks for. What
    /// `wanted` leaves to the kernel is not compared.
    #[must_use]
    pub fn satisfies(&self, wanted: &Self) -> bool {
        fn agree<T: PartialEq>(found: Option<T>, wanted: Option<T>) -> bool {
            wanted.is_none() || found == wanted
        }
        // IPv6 has no scopes and no priority 0, which stands for its default there.
        let ipv6 = wanted.destination.is_ipv6();
        masked(self.destination) == masked(wanted.destination)
            && self.device == wanted.device
            && self.gateway == wanted.gateway
            && self.table.unwrap_or(TABLE_MAIN) == wanted.table.unwrap_or(TABLE_MAIN)
            && agree(self.source, wanted.source)
            && agree(self.mtu, wanted.mtu)
            && agree(self.advmss, wanted.advmss)
            && agree(Some(self.priority.unwrap_or(0)), wanted.priority.filter(|p| !ipv6 || *p != 0))
            && (ipv6 || agree(self.scope, wanted.scope))
            && (self.onlink || !wanted.onlink)
            && agree(self.encapsulation, wanted.encapsulation)
    }
}

/// The kernel's answer to "how would a packet leave?".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteLookup {
    /// Index of the outgoing link.
    pub device: u32,
    /// Next hop; `None` when the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Source address the packet would have.
    pub source: Option<IpAddr>,
    /// The route's own MTU in bytes, or a smaller one that path MTU discovery has learned.
    pub mtu: Option<u32>,
    /// Table the route was found in.
    pub table: u32,
    /// The destination is an address of this namespace.
    pub local: bool,
}

impl Netlink {
    /// The unicast routes of a table, of both families; `None` is main. A route with several next
    /// hops is given as several routes.
    ///
    /// # Errors
    /// When the kernel refuses or does not answer. A table without routes is no error.
    pub fn routes(&self, table: Option<u32>) -> Result<Vec<Route>> {
        let table = table.unwrap_or(TABLE_MAIN);
        let mut routes = self.list(table)?;
        // Kernels before 4.20 do not filter.
        routes.retain(|route| route.table == Some(table));
        Ok(routes)
    }

    /// The unicast routes of all tables, as [`Netlink::routes`] gives them.
    ///
    /// # Errors
    /// When the kernel refuses or does not answer.
    pub fn all_routes(&self) -> Result<Vec<Route>> {
        self.list(TABLE_ANY)
    }

    fn list(&self, table: u32) -> Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in [ip::IPV4, ip::IPV6] {
            let request = Request::new(GET_ROUTE, message::list(family, table));
            let read = (NEW_ROUTE, |body: &[u8]| Some(message::parse(body, family)));
            match self.dump("list routes of table", || table.to_string(), &request, read) {
                Ok(found) => routes.extend(found.into_iter().flatten()),
                Err(error) if error.errno() == Some(Errno::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(routes)
    }

    /// Adds a route.
    ///
    /// # Errors
    /// [`Error::is_exists`] when there is one to the same destination with the same priority in
    /// the table.
    pub fn add_route(&self, route: &Route) -> Result<()> {
        self.new_route(route, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Adds a route that wins over one to the same destination through another device, which stays: what `ip route
    /// prepend` does. An interface that is added to a pod gets its default route so.
    ///
    /// # Errors
    /// [`Error::is_exists`] when the very same route is there already.
    pub fn prepend_route(&self, route: &Route) -> Result<()> {
        self.new_route(route, NLM_F_CREATE)
    }

    fn new_route(&self, route: &Route, flags: u16) -> Result<()> {
        let request = Request::new(NEW_ROUTE, message::add(route));
        self.acked("add route", || self.describe(route), &request, flags).map_err(|error| {
            let error = if route.encapsulation.is_some() { vxlan::explain(error) } else { error };
            error
                .with_remedy(
                    Errno::EEXIST,
                    "another route has this destination: give one of the two another priority or table",
                )
                .with_remedy(
                    Errno::ENETUNREACH,
                    "the gateway must be in a prefix of the device's addresses, or the route be onlink",
                )
                .with_remedy(Errno::ENETDOWN, "the device must be up")
        })
    }

    /// Removes a route; `Ok(false)` when it is gone already. Destination, device, table and, where
    /// set, gateway, priority and scope must match.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete_route(&self, route: &Route) -> Result<bool> {
        let request = Request::new(DELETE_ROUTE, message::delete(route));
        gone_is_false(self.acked("delete route", || self.describe(route), &request, 0), &[Errno::ESRCH, Errno::ENODEV])
    }

    /// Asks the kernel how a packet to `to` would leave, given its source address if `from` is set.
    ///
    /// # Errors
    /// [`Error::is_unreachable`] when there is no route or one that forbids it.
    pub fn lookup_route(&self, to: IpAddr, from: Option<IpAddr>) -> Result<RouteLookup> {
        const ACTION: &str = "look up route to";
        let object = || match from {
            Some(from) => format!("{to} from {from}"),
            None => to.to_string(),
        };
        let request = Request::new(GET_ROUTE, message::lookup(to, from));
        let read = (NEW_ROUTE, |body: &[u8]| Some(message::parse_lookup(body)));
        let answer = self.get(ACTION, object, &request, read).map_err(|error| {
            // EINVAL: a blackhole route (IPv4), or a source address that is not ours.
            error.with_remedy(Errno::EINVAL, "the source must be an address of this namespace")
        })?;
        match answer {
            Some(Ok(lookup)) => Ok(lookup),
            Some(Err(errno)) => Err(Error::kernel(ACTION, object(), errno)),
            None => Err(Error::answer(ACTION, object(), "it names no device")),
        }
    }

    fn describe(&self, route: &Route) -> String {
        let mut text = route.destination.to_string();
        if let Some(gateway) = route.gateway {
            text = format!("{text} via {gateway}");
        }
        text = format!("{text} dev {}", self.label(route.device));
        if let Some(table) = route.table {
            text = format!("{text} table {table}");
        }
        if let Some(encapsulation) = route.encapsulation {
            text = format!("{text} {encapsulation}");
        }
        text
    }
}

pub(crate) fn masked(network: IpNetwork) -> IpNetwork {
    // The prefix is that of a valid network: this cannot fail.
    IpNetwork::new(network.network(), network.prefix()).unwrap_or(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Route {
        Route {
            gateway: Some("10.0.0.1".parse().unwrap()),
            mtu: Some(1400),
            table: Some(TABLE_MAIN),
            scope: Some(0),
            ..Route::new("10.9.0.0/16".parse().unwrap(), 3)
        }
    }

    #[test]
    fn a_destination_is_masked() {
        let route = Route::new("10.1.2.3/8".parse().unwrap(), 1);
        assert_eq!(route.destination.to_string(), "10.0.0.0/8");
    }

    #[test]
    fn what_is_not_asked_for_is_not_compared() {
        let mut wanted = Route::new("10.9.0.0/16".parse().unwrap(), 3);
        wanted.gateway = Some("10.0.0.1".parse().unwrap());
        assert!(found().satisfies(&wanted));
        wanted.priority = Some(0);
        assert!(found().satisfies(&wanted));
    }

    #[test]
    fn what_is_asked_for_is_compared() {
        let differences: [fn(&mut Route); 9] = [
            |r| r.gateway = None,
            |r| r.mtu = Some(1300),
            |r| r.advmss = Some(1300),
            |r| r.priority = Some(5),
            |r| r.table = Some(7),
            |r| r.scope = Some(253),
            |r| r.onlink = true,
            |r| r.device = 4,
            |r| r.encapsulation = Some(crate::route_message::tests::encapsulation()),
        ];
        for (number, differ) in differences.into_iter().enumerate() {
            let mut wanted = found();
            differ(&mut wanted);
            assert!(!found().satisfies(&wanted), "difference {number}");
        }
    }
}
