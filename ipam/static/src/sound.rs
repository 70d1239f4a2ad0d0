//! What can be read, and cannot work.

use std::net::IpAddr;

use adit_cni::{Code, Error, Route};
use ipnetwork::IpNetwork;

use crate::addresses::StaticAddress;

/// Refuses addresses and routes that no pod could use, before anything is made.
///
/// # Errors
/// [`Code::INVALID_CONFIG`], with what to write in its place.
pub(crate) fn check(addresses: &[StaticAddress], routes: &[Route]) -> Result<(), Error> {
    for (number, address) in addresses.iter().enumerate() {
        check_address(address.network)?;
        let before = addresses.iter().take(number);
        if let Some(other) = before.map(|other| other.network).find(|other| is_twice(*other, address.network)) {
            return Err(refusal(
                format!("addresses {other} and {} are the same", address.network),
                "the kernel takes an IPv6 address once: keep the one with the right prefix length".to_owned(),
            ));
        }
        if let Some(gateway) = address.gateway {
            check_gateway(address.network, gateway, addresses, routes)?;
        }
    }
    routes.iter().try_for_each(check_route)
}

fn check_address(network: IpNetwork) -> Result<(), Error> {
    let what = match network {
        IpNetwork::V4(v4) if v4.prefix() < 31 && v4.ip() == v4.broadcast() => "the broadcast address of its subnet",
        IpNetwork::V6(v6) if v6.ip().to_ipv4_mapped().is_some() => "an IPv4 address in IPv6 form",
        _ if network.ip().is_multicast() => "a multicast address",
        _ if network.ip().is_unspecified() => "the unspecified address",
        _ => return Ok(()),
    };
    let remedy = "give the pod a unicast address and the prefix length of its subnet, such as 10.1.1.2/24";
    Err(refusal(format!("address {network} is {what}"), remedy.to_owned()))
}

/// IPv4 addresses may stand on a link with several prefix lengths.
fn is_twice(one: IpNetwork, other: IpNetwork) -> bool {
    one.is_ipv6() && one.ip() == other.ip()
}

/// The kernel takes no next hop that it cannot reach on the link. For IPv4 that is one in a subnet of the pod, or one that a
/// route leads to. An IPv6 link may have prefixes of which the pod has no address (RFC 5942), so nothing can be said there.
fn check_gateway(
    network: IpNetwork,
    gateway: IpAddr,
    addresses: &[StaticAddress],
    routes: &[Route],
) -> Result<(), Error> {
    let on_link = addresses.iter().any(|address| address.network.contains(gateway));
    let routed = routes.iter().any(|route| route.dst.prefix() > 0 && route.dst.contains(gateway));
    if gateway.is_ipv6() || on_link || routed {
        return Ok(());
    }
    Err(refusal(
        format!("gateway {gateway} is in no subnet of the pod: {network} reaches from {} on", subnet(network)),
        format!(
            "give {network} a gateway of its subnet or the prefix length of the subnet that {gateway} is in, or add the \
             route {{\"dst\": \"{gateway}/32\"}}"
        ),
    ))
}

fn subnet(network: IpNetwork) -> String {
    format!("{} to {}", network.network(), network.broadcast())
}

/// An IPv4 route may have an IPv6 gateway (RFC 8950), not the other way round.
fn check_route(route: &Route) -> Result<(), Error> {
    match route.gw {
        Some(gateway @ IpAddr::V4(_)) if route.dst.is_ipv6() => Err(refusal(
            format!("route {} has the IPv4 gateway {gateway}", route.dst),
            "give the route an IPv6 gateway (gw), or none".to_owned(),
        )),
        _ => Ok(()),
    }
}

fn refusal(message: String, remedy: String) -> Error {
    Error::new(Code::INVALID_CONFIG, message).with_details(remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str, gateway: Option<&str>) -> StaticAddress {
        StaticAddress { network: text.parse().unwrap(), gateway: gateway.map(|text| text.parse().unwrap()) }
    }

    fn route(dst: &str, gw: Option<&str>) -> Route {
        Route::new(dst.parse().unwrap(), gw.map(|text| text.parse().unwrap()))
    }

    #[test]
    fn what_works_is_let_through() {
        for (addresses, routes) in [
            (vec![address("10.1.1.2/24", Some("10.1.1.1"))], vec![route("0.0.0.0/0", None)]),
            // The gateway of one address may be in the subnet of another.
            (vec![address("10.1.1.2/24", None), address("10.2.0.2/16", Some("10.1.1.1"))], vec![]),
            // A point-to-point link, a single address, the lowest of a subnet (usable since Linux 5.14).
            (vec![address("10.1.1.1/31", Some("10.1.1.0"))], vec![]),
            (vec![address("10.1.1.2/32", Some("169.254.1.1"))], vec![route("169.254.1.1/32", None)]),
            (vec![address("10.1.1.0/24", None)], vec![]),
            // IPv6 gateways are link-local, or in a prefix that only the router knows. The second is the reference's example.
            (vec![address("fd01::2/64", Some("fe80::1"))], vec![route("::/0", None)]),
            (vec![address("3ffe:ffff:0:1ff::1/64", Some("3ffe:ffff::1"))], vec![]),
            (
                vec![address("10.1.1.2/24", None), address("10.1.1.2/16", None)],
                vec![route("10.9.0.0/16", Some("fe80::1"))],
            ),
            (vec![], vec![route("10.9.0.0/16", Some("192.0.2.1"))]),
        ] {
            check(&addresses, &routes).unwrap();
        }
    }

    #[test]
    fn what_cannot_work_is_refused_with_what_to_write() {
        for (addresses, routes, parts) in [
            (
                vec![address("10.1.1.2/24", Some("10.2.0.1"))],
                vec![route("0.0.0.0/0", None)],
                ["gateway 10.2.0.1 is in no subnet", "10.1.1.0 to 10.1.1.255", r#"{"dst": "10.2.0.1/32"}"#],
            ),
            (
                vec![address("10.1.1.2/32", Some("10.1.1.1"))],
                vec![],
                ["gateway 10.1.1.1", "10.1.1.2/32", "prefix length of the subnet that 10.1.1.1 is in"],
            ),
            (vec![address("10.1.1.255/24", None)], vec![], ["10.1.1.255/24", "broadcast", "10.1.1.2/24"]),
            (vec![address("224.0.0.1/24", None)], vec![], ["224.0.0.1/24", "multicast", "unicast"]),
            (vec![address("::/64", None)], vec![], ["::/64", "unspecified", "unicast"]),
            (vec![address("::ffff:10.1.1.2/64", None)], vec![], ["/64", "IPv4 address in IPv6 form", "10.1.1.2/24"]),
            (
                vec![address("fd01::2/64", None), address("fd01::2/48", None)],
                vec![],
                ["fd01::2/64", "fd01::2/48", "prefix length"],
            ),
            (vec![], vec![route("fd09::/32", Some("10.1.1.1"))], ["fd09::/32", "10.1.1.1", "IPv6 gateway"]),
        ] {
            let error = check(&addresses, &routes).unwrap_err();
            assert_eq!(error.code, Code::INVALID_CONFIG);
            for part in parts {
                assert!(error.to_string().contains(part), "{error} lacks {part}");
            }
        }
    }
}
