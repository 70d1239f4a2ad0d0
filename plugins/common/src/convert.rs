//! Between the results of CNI and the kernel's network.

use std::fmt;
use std::net::IpAddr;

use adit_cni::{CniResult, Interface, Ip};
use adit_net::{Link, Route};
use ipnetwork::IpNetwork;

/// A route through an interface that may not exist yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedRoute {
    /// Destination, masked.
    pub destination: IpNetwork,
    /// Next hop; `None`: on the link.
    pub gateway: Option<IpAddr>,
    /// Path MTU, bytes.
    pub mtu: Option<u32>,
    /// TCP maximum segment size to advertise, bytes.
    pub advmss: Option<u32>,
    /// Metric.
    pub priority: Option<u32>,
    /// Routing table; `None`: main.
    pub table: Option<u32>,
    /// Scope (`rt_scope_t`, rtnetlink(7)).
    pub scope: Option<u8>,
}

impl PlannedRoute {
    /// The route through the device with this index.
    #[must_use]
    pub fn on(&self, device: u32) -> Route {
        let mut route = Route::new(self.destination, device);
        route.gateway = self.gateway;
        route.mtu = self.mtu;
        route.advmss = self.advmss;
        route.priority = self.priority;
        route.table = self.table;
        route.scope = self.scope;
        route
    }
}

/// The addresses of a result that belong to interface `index` (every address when IPAM has not set an index).
#[must_use]
pub fn addresses(result: &CniResult, index: usize) -> Vec<IpNetwork> {
    result
        .ips
        .iter()
        .filter(|ip| ip.interface.is_none_or(|interface| interface == index))
        .map(|ip| ip.address)
        .collect()
}

/// Gives every route without gateway the first gateway of its family. Without one it stays on the link, and so does the
/// route to that gateway itself.
pub fn fill_gateways(result: &mut CniResult) {
    for route in &mut result.routes {
        let leads_to = |gateway: &IpAddr| IpNetwork::from(*gateway) == route.dst;
        let first = || first_gateway(&result.ips, route.dst.is_ipv4()).filter(|gateway| !leads_to(gateway));
        route.gw = route.gw.or_else(first);
    }
}

/// The first gateway of a family.
#[must_use]
pub fn first_gateway(ips: &[Ip], ipv4: bool) -> Option<IpAddr> {
    ips.iter().filter_map(|ip| ip.gateway).find(|gateway| gateway.is_ipv4() == ipv4)
}

/// The routes of a result, each once.
#[must_use]
pub fn planned_routes(result: &CniResult) -> Vec<PlannedRoute> {
    let mut routes: Vec<PlannedRoute> = Vec::new();
    for route in &result.routes {
        let planned = PlannedRoute {
            destination: masked(route.dst),
            gateway: route.gw,
            mtu: route.mtu,
            advmss: route.advmss,
            priority: route.priority,
            table: route.table,
            scope: route.scope,
        };
        if !routes.contains(&planned) {
            routes.push(planned);
        }
    }
    routes
}

/// The network with its host bits cleared. Results keep them, the kernel refuses them.
pub(crate) fn masked(network: IpNetwork) -> IpNetwork {
    // The prefix is that of a valid network: this cannot fail.
    IpNetwork::new(network.network(), network.prefix()).unwrap_or(network)
}

/// The names and numbers of a link, for a result.
#[must_use]
pub fn result_interface(link: &Link) -> Interface {
    Interface {
        name: link.name.clone(),
        mac: link.mac.map(|mac| mac.to_string()),
        mtu: Some(link.mtu),
        ..Interface::default()
    }
}

impl fmt::Display for PlannedRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        for (name, value) in [
            ("mtu", self.mtu),
            ("advmss", self.advmss),
            ("metric", self.priority),
            ("table", self.table),
            ("scope", self.scope.map(u32::from)),
        ] {
            if let Some(value) = value {
                write!(f, " {name} {value}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use adit_cni::Route as CniRoute;

    #[test]
    fn host_bits_of_a_destination_are_dropped_for_the_kernel_and_kept_in_the_result() {
        let route = CniRoute::new("10.9.3.4/16".parse().unwrap(), None);
        let result = CniResult { routes: vec![route], ..CniResult::default() };
        assert_eq!(planned_routes(&result)[0].destination.to_string(), "10.9.0.0/16");
        assert_eq!(result.routes[0].dst.to_string(), "10.9.3.4/16");
    }

    #[test]
    fn the_route_to_the_gateway_is_not_through_it() {
        let route = |dst: &str| CniRoute::new(dst.parse().unwrap(), None);
        let mut ip = Ip::new("10.1.1.2/32".parse().unwrap());
        ip.gateway = Some("169.254.1.1".parse().unwrap());
        let routes = vec![route("169.254.1.1/32"), route("0.0.0.0/0"), route("fd09::/32")];
        let mut result = CniResult { ips: vec![ip], routes, ..CniResult::default() };
        fill_gateways(&mut result);
        let gateways: Vec<_> = result.routes.iter().map(|route| route.gw.map(|gw| gw.to_string())).collect();
        assert_eq!(gateways, [None, Some("169.254.1.1".to_owned()), None]);
    }
}
