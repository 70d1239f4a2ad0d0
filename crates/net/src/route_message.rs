//! Routes as netlink messages.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHopFlags,
        RouteProtocol, RouteScope, RouteType, RouteVia,
    },
};
use nix::errno::Errno;
use rtnetlink::RouteMessageBuilder;

use crate::{
    Route, RouteLookup,
    route::{TABLE_MAIN, masked},
};

pub(crate) fn add(route: &Route) -> RouteMessage {
    let mut message = common(route);
    let scope = route.scope.map(RouteScope::from).unwrap_or_else(|| {
        if route.destination.is_ipv4() && route.gateway.is_none() { RouteScope::Link } else { RouteScope::Universe }
    });
    message.header.scope = scope;
    if route.onlink {
        message.header.flags.insert(RouteFlags::Onlink);
    }
    if let Some(source) = route.source {
        message.attributes.push(RouteAttribute::PrefSource(source.into()));
    }
    let metrics: Vec<_> =
        [route.mtu.map(RouteMetric::Mtu), route.advmss.map(RouteMetric::Advmss)].into_iter().flatten().collect();
    if !metrics.is_empty() {
        message.attributes.push(RouteAttribute::Metrics(metrics));
    }
    message
}

pub(crate) fn delete(route: &Route) -> RouteMessage {
    let mut message = common(route);
    // These stand for "any" in a deletion.
    message.header.protocol = RouteProtocol::Unspec;
    message.header.scope = route.scope.map_or(RouteScope::NoWhere, RouteScope::from);
    message
}

/// A query for the unicast routes of one family and table.
pub(crate) fn list(family: AddressFamily, table: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.kind = RouteType::Unicast;
    // The header has room for the first 256 tables only; the attribute wins.
    message.attributes.push(RouteAttribute::Table(table));
    message
}

/// A query for the route a packet would take. Strict checking wants full-length prefixes and
/// nothing else in the header.
pub(crate) fn lookup(to: IpAddr, from: Option<IpAddr>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(to);
    message.header.destination_prefix_length = full_prefix(to);
    message.attributes.push(RouteAttribute::Destination(to.into()));
    if to.is_ipv4() {
        // Without the flag IPv4 reports main whatever the table was; IPv6 reports the table always
        // and refuses the flag.
        message.header.flags.insert(RouteFlags::LookupTable);
    }
    if let Some(from) = from {
        message.header.source_prefix_length = full_prefix(from);
        message.attributes.push(RouteAttribute::Source(from.into()));
    }
    message
}

/// The routes of one message of a dump: one for each next hop.
pub(crate) fn parse(message: &RouteNetlinkMessage, family: AddressFamily) -> Vec<Route> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return Vec::new() };
    if message.header.address_family != family || message.header.kind != RouteType::Unicast {
        return Vec::new();
    }
    let Some(mut route) =
        destination(&message.header, &message.attributes).map(|destination| Route::new(destination, 0))
    else {
        return Vec::new();
    };
    route.table = Some(table(&message.header, &message.attributes));
    route.scope = Some(message.header.scope.into());
    route.onlink = message.header.flags.contains(RouteFlags::Onlink);
    read(&message.attributes, &mut route);
    let hops = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops),
        _ => None,
    });
    let Some(hops) = hops else { return vec![route] };
    hops.iter()
        .map(|hop| {
            let mut route = Route { device: hop.interface_index, ..route.clone() };
            route.onlink = hop.flags.contains(RouteNextHopFlags::Onlink);
            read(&hop.attributes, &mut route);
            route
        })
        .collect()
}

/// The answer to [`lookup`]; `None` when it is not one, the error of a route that forbids.
pub(crate) fn parse_lookup(message: &RouteNetlinkMessage) -> Option<Result<RouteLookup, Errno>> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    match message.header.kind {
        RouteType::Unreachable | RouteType::BlackHole => return Some(Err(Errno::EHOSTUNREACH)),
        RouteType::Prohibit => return Some(Err(Errno::EACCES)),
        _ => {}
    }
    let mut route = Route::new(unspecified(message.header.address_family)?, 0);
    read(&message.attributes, &mut route);
    (route.device != 0).then(|| {
        Ok(RouteLookup {
            device: route.device,
            gateway: route.gateway,
            source: route.source,
            mtu: route.mtu,
            table: table(&message.header, &message.attributes),
            local: message.header.kind == RouteType::Local,
        })
    })
}

/// What adding and deleting have in common.
fn common(route: &Route) -> RouteMessage {
    let destination = masked(route.destination);
    let (mut message, prefix) = match destination {
        IpNetwork::V4(to) => {
            (RouteMessageBuilder::<Ipv4Addr>::new().output_interface(route.device).build(), to.prefix())
        }
        IpNetwork::V6(to) => {
            (RouteMessageBuilder::<Ipv6Addr>::new().output_interface(route.device).build(), to.prefix())
        }
    };
    message.header.destination_prefix_length = prefix;
    message.attributes.push(RouteAttribute::Destination(destination.ip().into()));
    message.header.table = RouteHeader::RT_TABLE_UNSPEC;
    message.attributes.push(RouteAttribute::Table(route.table.unwrap_or(TABLE_MAIN)));
    if let Some(gateway) = route.gateway {
        message.attributes.push(match gateway {
            IpAddr::V6(via) if destination.is_ipv4() => RouteAttribute::Via(RouteVia::Inet6(via)),
            _ => RouteAttribute::Gateway(gateway.into()),
        });
    }
    if let Some(priority) = route.priority {
        message.attributes.push(RouteAttribute::Priority(priority));
    }
    message
}

fn read(attributes: &[RouteAttribute], route: &mut Route) {
    for attribute in attributes {
        match attribute {
            RouteAttribute::Oif(index) => route.device = *index,
            RouteAttribute::Gateway(address) => route.gateway = ip(address),
            RouteAttribute::Via(RouteVia::Inet(via)) => route.gateway = Some((*via).into()),
            RouteAttribute::Via(RouteVia::Inet6(via)) => route.gateway = Some((*via).into()),
            RouteAttribute::PrefSource(address) => route.source = ip(address),
            RouteAttribute::Priority(priority) => route.priority = Some(*priority),
            RouteAttribute::Metrics(metrics) => {
                for metric in metrics {
                    match metric {
                        RouteMetric::Mtu(bytes) => route.mtu = Some(*bytes),
                        RouteMetric::Advmss(bytes) => route.advmss = Some(*bytes),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
}

fn destination(header: &RouteHeader, attributes: &[RouteAttribute]) -> Option<IpNetwork> {
    let address = attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip(address),
        _ => None,
    });
    match address {
        Some(address) => IpNetwork::new(address, header.destination_prefix_length).ok(),
        // The default route has no destination attribute.
        None => unspecified(header.address_family),
    }
}

fn table(header: &RouteHeader, attributes: &[RouteAttribute]) -> u32 {
    attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        })
        .unwrap_or_else(|| header.table.into())
}

fn unspecified(family: AddressFamily) -> Option<IpNetwork> {
    match family {
        AddressFamily::Inet => Some(IpNetwork::V4(Ipv4Addr::UNSPECIFIED.into())),
        AddressFamily::Inet6 => Some(IpNetwork::V6(Ipv6Addr::UNSPECIFIED.into())),
        _ => None,
    }
    .and_then(|host| IpNetwork::new(host.ip(), 0).ok())
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn full_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable;

    use super::*;

    fn network(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    fn full() -> Route {
        Route {
            gateway: Some("10.0.0.1".parse().unwrap()),
            source: Some("10.0.0.2".parse().unwrap()),
            mtu: Some(1400),
            advmss: Some(1360),
            priority: Some(50),
            table: Some(1000),
            scope: Some(0),
            onlink: true,
            ..Route::new(network("10.9.8.7/16"), 3)
        }
    }

    #[test]
    fn a_route_is_asked_for_byte_by_byte() {
        let message = add(&full());
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        let mut expected = vec![2, 16, 0, 0, 0, 4, 0, 1, 4, 0, 0, 0]; // struct rtmsg
        expected.extend([8, 0, 4, 0, 3, 0, 0, 0]); // RTA_OIF
        expected.extend([8, 0, 1, 0, 10, 9, 0, 0]); // RTA_DST
        expected.extend([8, 0, 15, 0, 0xe8, 3, 0, 0]); // RTA_TABLE
        expected.extend([8, 0, 5, 0, 10, 0, 0, 1]); // RTA_GATEWAY
        expected.extend([8, 0, 6, 0, 50, 0, 0, 0]); // RTA_PRIORITY
        expected.extend([8, 0, 7, 0, 10, 0, 0, 2]); // RTA_PREFSRC
        expected.extend([20, 0, 8, 0]); // RTA_METRICS
        expected.extend([8, 0, 2, 0, 0x78, 5, 0, 0]); // RTAX_MTU
        expected.extend([8, 0, 8, 0, 0x50, 5, 0, 0]); // RTAX_ADVMSS
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_route_is_written_and_read_the_same() {
        let ipv6 = Route {
            gateway: Some("fe80::1".parse().unwrap()),
            table: Some(TABLE_MAIN),
            scope: Some(0),
            ..Route::new(network("::/0"), 3)
        };
        let mixed = Route { gateway: Some("fe80::1".parse().unwrap()), source: None, ..full() };
        for (route, family) in
            [(full(), AddressFamily::Inet), (mixed, AddressFamily::Inet), (ipv6, AddressFamily::Inet6)]
        {
            let message = RouteNetlinkMessage::NewRoute(add(&route));
            assert_eq!(parse(&message, family), [route]);
        }
    }

    #[test]
    fn the_scope_of_an_ipv4_route_without_gateway_is_the_link() {
        let scope = |route: &Route| u8::from(add(route).header.scope);
        assert_eq!(scope(&Route::new(network("10.0.0.0/8"), 3)), 253);
        assert_eq!(scope(&Route::new(network("fd00::/64"), 3)), 0);
        assert_eq!(scope(&full()), 0);
    }

    #[test]
    fn a_deletion_matches_any_protocol_scope_and_metrics() {
        let message = delete(&Route { scope: None, ..full() });
        assert_eq!(message.header.protocol, RouteProtocol::Unspec);
        assert_eq!(message.header.scope, RouteScope::NoWhere);
        assert!(!message.attributes.iter().any(|a| matches!(a, RouteAttribute::Metrics(_))));
    }

    #[test]
    fn a_route_with_several_next_hops_is_read_as_several() {
        use rtnetlink::RouteNextHopBuilder;
        let hop = |index, via: &str| {
            let builder = RouteNextHopBuilder::new_ipv4().interface(index);
            builder.via(via.parse().unwrap()).unwrap().build()
        };
        let mut message = add(&Route { gateway: None, ..full() });
        message.attributes.retain(|a| !matches!(a, RouteAttribute::Oif(_)));
        let hops = vec![hop(3, "10.0.0.1"), hop(4, "10.0.1.1")];
        message.attributes.push(RouteAttribute::MultiPath(hops));
        let routes = parse(&RouteNetlinkMessage::NewRoute(message), AddressFamily::Inet);
        let read: Vec<_> = routes.iter().map(|r| (r.device, r.gateway, r.mtu)).collect();
        assert_eq!(
            read,
            [(3, Some("10.0.0.1".parse().unwrap()), Some(1400)), (4, Some("10.0.1.1".parse().unwrap()), Some(1400)),]
        );
    }

    #[test]
    fn a_lookup_that_ends_at_a_forbidding_route_is_an_error() {
        let mut message = lookup("10.0.0.1".parse().unwrap(), None);
        message.header.kind = RouteType::Unreachable;
        let answer = parse_lookup(&RouteNetlinkMessage::NewRoute(message.clone()));
        assert_eq!(answer, Some(Err(Errno::EHOSTUNREACH)));
        message.header.kind = RouteType::Unicast;
        assert_eq!(parse_lookup(&RouteNetlinkMessage::NewRoute(message)), None);
    }
}
