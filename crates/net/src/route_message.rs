//! Routes as netlink messages (`struct rtmsg`, `RTA_*` of include/uapi/linux/rtnetlink.h).

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use nix::errno::Errno;

use crate::{
    Encapsulation, Route, RouteLookup,
    attribute::{Attributes, attributes, find, native},
    encap::RTA_ENCAP,
    ip::{self, IPV4, IPV6},
    route::{TABLE_MAIN, masked},
};

const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTAX_MTU: u16 = 2;
const RTAX_ADVMSS: u16 = 8;

const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
const RTN_BLACKHOLE: u8 = 6;
const RTN_UNREACHABLE: u8 = 7;
const RTN_PROHIBIT: u8 = 8;
const RTPROT_STATIC: u8 = 4;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const SCOPE_NOWHERE: u8 = 255;
const RTM_F_LOOKUP_TABLE: u32 = 0x1000;
const RTNH_F_ONLINK: u8 = 4;

/// `struct rtnexthop`.
const HOP_BYTES: usize = 8;

/// `struct rtmsg`, without the fields that nobody uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Header {
    family: u8,
    destination_prefix: u8,
    source_prefix: u8,
    table: u8,
    protocol: u8,
    scope: u8,
    kind: u8,
    flags: u32,
}

impl Header {
    const BYTES: usize = 12;

    fn start(self) -> Attributes {
        let mut message = Attributes::new();
        message.header(&[self.family, self.destination_prefix, self.source_prefix, 0]);
        message.header(&[self.table, self.protocol, self.scope, self.kind]);
        message.header(&self.flags.to_ne_bytes());
        message
    }

    fn read(body: &[u8]) -> Option<(Self, &[u8])> {
        let (header, rest) = body.split_first_chunk::<{ Self::BYTES }>()?;
        let [family, destination_prefix, source_prefix, _, table, protocol, scope, kind, f0, f1, f2, f3] = *header;
        let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
        Some((Self { family, destination_prefix, source_prefix, table, protocol, scope, kind, flags }, rest))
    }
}

pub(crate) fn add(route: &Route) -> Attributes {
    let scope = route.scope.unwrap_or_else(|| {
        if route.destination.is_ipv4() && route.gateway.is_none() { SCOPE_LINK } else { SCOPE_UNIVERSE }
    });
    let flags = if route.onlink { u32::from(RTNH_F_ONLINK) } else { 0 };
    let header = Header { protocol: RTPROT_STATIC, scope, kind: RTN_UNICAST, flags, ..Header::default() };
    let mut message = common(header, route);
    if let Some(source) = route.source {
        message.bytes(RTA_PREFSRC, &ip::bytes(source));
    }
    if let Some(encapsulation) = route.encapsulation {
        encapsulation.write(&mut message);
    }
    if route.mtu.is_some() || route.advmss.is_some() {
        message.group(RTA_METRICS, |metrics| {
            for (kind, bytes) in [(RTAX_MTU, route.mtu), (RTAX_ADVMSS, route.advmss)] {
                if let Some(bytes) = bytes {
                    metrics.native_u32(kind, bytes);
                }
            }
        });
    }
    message
}

pub(crate) fn delete(route: &Route) -> Attributes {
    // Protocol 0 and scope nowhere stand for "any" in a deletion.
    let scope = route.scope.unwrap_or(SCOPE_NOWHERE);
    common(Header { scope, kind: RTN_UNICAST, ..Header::default() }, route)
}

/// A query for the unicast routes of one family and table.
pub(crate) fn list(family: u8, table: u32) -> Attributes {
    let mut message = Header { family, kind: RTN_UNICAST, ..Header::default() }.start();
    // The header has room for the first 256 tables only; the attribute wins.
    message.native_u32(RTA_TABLE, table);
    message
}

/// A query for the route a packet would take. Strict checking wants full-length prefixes and
/// nothing else in the header.
pub(crate) fn lookup(to: IpAddr, from: Option<IpAddr>) -> Attributes {
    let mut message = Header {
        family: ip::family(to),
        destination_prefix: full_prefix(to),
        source_prefix: from.map_or(0, full_prefix),
        // Without the flag IPv4 reports main whatever the table was; IPv6 reports the table always
        // and refuses the flag.
        flags: if to.is_ipv4() { RTM_F_LOOKUP_TABLE } else { 0 },
        ..Header::default()
    }
    .start();
    message.bytes(RTA_DST, &ip::bytes(to));
    if let Some(from) = from {
        message.bytes(RTA_SRC, &ip::bytes(from));
    }
    message
}

/// The routes of one message of a dump: one for each next hop.
pub(crate) fn parse(body: &[u8], family: u8) -> Vec<Route> {
    let Some((header, rest)) = Header::read(body) else { return Vec::new() };
    if header.family != family || header.kind != RTN_UNICAST {
        return Vec::new();
    }
    let Some(mut route) = destination(header, rest).map(|destination| Route::new(destination, 0)) else {
        return Vec::new();
    };
    route.table = Some(table(header, rest));
    route.scope = Some(header.scope);
    route.onlink = header.flags & u32::from(RTNH_F_ONLINK) != 0;
    read(family, rest, &mut route);
    let Some(hops) = find(rest, RTA_MULTIPATH) else { return vec![route] };
    next_hops(hops)
        .map(|(flags, device, attributes)| {
            let mut route = Route { device, onlink: flags & RTNH_F_ONLINK != 0, ..route.clone() };
            read(family, attributes, &mut route);
            route
        })
        .collect()
}

/// The answer to [`lookup`]; `None` when it is not one, the error of a route that forbids.
pub(crate) fn parse_lookup(body: &[u8]) -> Option<Result<RouteLookup, Errno>> {
    let (header, rest) = Header::read(body)?;
    match header.kind {
        RTN_UNREACHABLE | RTN_BLACKHOLE => return Some(Err(Errno::EHOSTUNREACH)),
        RTN_PROHIBIT => return Some(Err(Errno::EACCES)),
        _ => {}
    }
    let mut route = Route::new(everything(header.family)?, 0);
    read(header.family, rest, &mut route);
    (route.device != 0).then(|| {
        Ok(RouteLookup {
            device: route.device,
            gateway: route.gateway,
            source: route.source,
            mtu: route.mtu,
            table: table(header, rest),
            local: header.kind == RTN_LOCAL,
        })
    })
}

/// What adding and deleting have in common.
fn common(header: Header, route: &Route) -> Attributes {
    let destination = masked(route.destination);
    let (family, destination_prefix) = (ip::family(destination.ip()), destination.prefix());
    let mut message = Header { family, destination_prefix, ..header }.start();
    message.native_u32(RTA_OIF, route.device);
    message.bytes(RTA_DST, &ip::bytes(destination.ip()));
    message.native_u32(RTA_TABLE, route.table.unwrap_or(TABLE_MAIN));
    match route.gateway {
        Some(via) if via.is_ipv6() && destination.is_ipv4() => {
            message.bytes(RTA_VIA, &[&u16::from(IPV6).to_ne_bytes()[..], &ip::bytes(via)].concat());
        }
        Some(gateway) => {
            message.bytes(RTA_GATEWAY, &ip::bytes(gateway));
        }
        None => {}
    }
    if let Some(priority) = route.priority {
        message.native_u32(RTA_PRIORITY, priority);
    }
    message
}

fn read(family: u8, body: &[u8], route: &mut Route) {
    for (kind, value) in attributes(body) {
        match kind {
            RTA_OIF => route.device = native(value).unwrap_or(route.device),
            RTA_GATEWAY => route.gateway = ip::read(family, value),
            RTA_VIA => route.gateway = via(value),
            RTA_PREFSRC => route.source = ip::read(family, value),
            RTA_PRIORITY => route.priority = native(value),
            RTA_ENCAP => route.encapsulation = Encapsulation::read(body, value),
            RTA_METRICS => {
                route.mtu = find(value, RTAX_MTU).and_then(native);
                route.advmss = find(value, RTAX_ADVMSS).and_then(native);
            }
            _ => {}
        }
    }
}

/// `struct rtvia`: a next hop of another family.
fn via(value: &[u8]) -> Option<IpAddr> {
    let (family, address) = value.split_first_chunk()?;
    ip::read(u8::try_from(u16::from_ne_bytes(*family)).ok()?, address)
}

/// Each hop's flags, device and attributes, up to the first that is damaged.
fn next_hops(bytes: &[u8]) -> impl Iterator<Item = (u8, u32, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let [l0, l1, flags, _, i0, i1, i2, i3] = *rest.first_chunk::<HOP_BYTES>()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let attributes = rest.get(HOP_BYTES..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((flags, u32::from_ne_bytes([i0, i1, i2, i3]), attributes))
    })
}

fn destination(header: Header, attributes: &[u8]) -> Option<IpNetwork> {
    match find(attributes, RTA_DST).and_then(|value| ip::read(header.family, value)) {
        Some(address) => IpNetwork::new(address, header.destination_prefix).ok(),
        // The default route has no destination attribute.
        None => everything(header.family),
    }
}

fn table(header: Header, attributes: &[u8]) -> u32 {
    find(attributes, RTA_TABLE).and_then(native).unwrap_or_else(|| header.table.into())
}

fn everything(family: u8) -> Option<IpNetwork> {
    let text = match family {
        IPV4 => "0.0.0.0/0",
        IPV6 => "::/0",
        _ => return None,
    };
    text.parse().ok()
}

fn full_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
pub(crate) mod tests {
    use netlink_packet_core::{Emitable, Parseable};
    use netlink_packet_route::route::{
        RouteAttribute, RouteIp6Tunnel, RouteIpTunnel, RouteLwEnCapType, RouteLwTunnelEncap, RouteMessage,
        RouteProtocol, RouteScope, RouteType,
    };

    use super::*;

    fn bytes(message: Attributes) -> Vec<u8> {
        message.finish().unwrap()
    }

    /// What another implementation reads.
    fn library(message: Attributes) -> RouteMessage {
        RouteMessage::parse(bytes(message).as_slice()).unwrap()
    }

    /// What another implementation writes.
    fn written(message: &RouteMessage) -> Vec<u8> {
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

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
        assert_eq!(bytes(add(&full())), expected);
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
        for (route, family) in [(full(), IPV4), (mixed, IPV4), (ipv6, IPV6)] {
            assert_eq!(parse(&bytes(add(&route)), family), [route]);
        }
    }

    pub(crate) fn encapsulation() -> Encapsulation {
        Encapsulation {
            id: 7,
            source: "192.0.2.1".parse().unwrap(),
            destination: "192.0.2.2".parse().unwrap(),
            ttl: 64,
            tos: 0xb8,
            checksum: true,
            dont_fragment: true,
        }
    }

    #[test]
    fn an_encapsulation_is_written_as_another_implementation_reads_it_and_read_the_same() {
        let six = Encapsulation {
            source: "2001:db8::1".parse().unwrap(),
            destination: "2001:db8::2".parse().unwrap(),
            ..encapsulation()
        };
        let through = |text: &str, encapsulation| Route {
            encapsulation: Some(encapsulation),
            table: Some(TABLE_MAIN),
            ..Route::new(network(text), 3)
        };
        for (destination, family) in [("10.4.0.0/24", IPV4), ("fd04::/64", IPV6)] {
            for (encapsulation, kind) in [(encapsulation(), RouteLwEnCapType::Ip), (six, RouteLwEnCapType::Ip6)] {
                let route = through(destination, encapsulation);
                let message = library(add(&route));
                assert!(message.attributes.contains(&RouteAttribute::EncapType(kind)));
                let found = parse(&bytes(add(&route)), family);
                assert_eq!(found, [Route { scope: found[0].scope, ..route }]);
            }
        }
        let tunnel = |route: &Route| {
            library(add(route)).attributes.into_iter().find_map(|attribute| match attribute {
                RouteAttribute::Encap(tunnel) => Some(tunnel),
                _ => None,
            })
        };
        use RouteIpTunnel::{Destination, Id, Source, Tos, Ttl};
        let expected = [
            Id(7),
            Destination("192.0.2.2".parse().unwrap()),
            Source("192.0.2.1".parse().unwrap()),
            Ttl(64),
            Tos(0xb8),
        ];
        let found = tunnel(&through("10.4.0.0/24", encapsulation())).unwrap();
        assert_eq!(found[..5], expected.map(RouteLwTunnelEncap::Ip));
        let found = tunnel(&through("10.4.0.0/24", six)).unwrap();
        assert_eq!(found[1], RouteLwTunnelEncap::Ip6(RouteIp6Tunnel::Destination("2001:db8::2".parse().unwrap())));
    }

    #[test]
    fn the_flags_of_an_encapsulation_are_asked_for_byte_by_byte() {
        let route = Route { encapsulation: Some(encapsulation()), ..Route::new(network("10.4.0.0/24"), 3) };
        let message = bytes(add(&route));
        let flags = [6, 0, 6, 0, 1, 1, 0, 0]; // LWTUNNEL_IP_FLAGS: TUNNEL_DONT_FRAGMENT | TUNNEL_CSUM, big endian
        assert!(message.windows(flags.len()).any(|window| window == flags), "{message:?}");
    }

    #[test]
    fn the_scope_of_an_ipv4_route_without_gateway_is_the_link() {
        let scope = |route: &Route| u8::from(library(add(route)).header.scope);
        assert_eq!(scope(&Route::new(network("10.0.0.0/8"), 3)), 253);
        assert_eq!(scope(&Route::new(network("fd00::/64"), 3)), 0);
        assert_eq!(scope(&full()), 0);
    }

    #[test]
    fn a_deletion_matches_any_protocol_scope_and_metrics() {
        let message = library(delete(&Route { scope: None, ..full() }));
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
        let mut message = library(add(&Route { gateway: None, ..full() }));
        message.attributes.retain(|a| !matches!(a, RouteAttribute::Oif(_)));
        let hops = vec![hop(3, "10.0.0.1"), hop(4, "10.0.1.1")];
        message.attributes.push(RouteAttribute::MultiPath(hops));
        let routes = parse(&written(&message), IPV4);
        let read: Vec<_> = routes.iter().map(|r| (r.device, r.gateway, r.mtu)).collect();
        assert_eq!(
            read,
            [(3, Some("10.0.0.1".parse().unwrap()), Some(1400)), (4, Some("10.0.1.1".parse().unwrap()), Some(1400)),]
        );
    }

    #[test]
    fn a_lookup_that_ends_at_a_forbidding_route_is_an_error() {
        let mut message = library(lookup("10.0.0.1".parse().unwrap(), None));
        message.header.kind = RouteType::Unreachable;
        let answer = parse_lookup(&written(&message));
        assert_eq!(answer, Some(Err(Errno::EHOSTUNREACH)));
        message.header.kind = RouteType::Unicast;
        assert_eq!(parse_lookup(&written(&message)), None);
    }
}
