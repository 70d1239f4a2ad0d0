//! Everything that reads what the kernel sends, for the fuzz targets of `crates/net/fuzz` and the property tests here.

use crate::{
    address,
    channel::{Answer, Oddities, Outcome},
    frame::frames,
    ip, link_message, nftables,
    request::{NEW_ADDRESS, NEW_LINK, NEW_ROUTE, NEW_TUNNEL, body},
    route_message, vxlan, wireguard,
};

/// Reads a datagram as a route socket would, and every object in it as a link, an address, VLANs, a tunnel's
/// networks and a route.
pub fn route(datagram: &[u8]) {
    let Some(mut answer) = answer(datagram) else { return };
    let whole = |message: &[u8]| Ok(message.to_vec());
    let _ = answer.take(datagram, whole, Oddities::LeaveOut);
    for message in answer.objects().unwrap_or_default() {
        for kind in [NEW_LINK, NEW_ADDRESS, NEW_ROUTE, NEW_TUNNEL] {
            let Ok(object) = body(&message, kind) else { continue };
            let _ = link_message::parse(object);
            let _ = link_message::port_vlans(object, 1);
            let _ = address::parse(object, 1);
            let _ = vxlan::admits(object, 1, 1);
            for family in [ip::IPV4, ip::IPV6] {
                let _ = route_message::parse(object, family);
            }
            let _ = route_message::parse_lookup(object);
        }
    }
}

/// Reads a datagram as an nfnetlink socket would: as what was listed, and as the outcome of a transaction.
pub fn nftables(datagram: &[u8]) {
    let Some(mut answer) = answer(datagram) else { return };
    let keep = |object: &[u8]| Ok(object.to_vec());
    let _ = answer.take(datagram, keep, Oddities::Fail);
    if let Ok(objects) = answer.objects() {
        nftables::fuzz::read(&objects);
    }
    let Some(Ok(first)) = frames(datagram).next() else { return };
    let batch = nftables::fuzz::every_step();
    let mut outcome = Outcome::to(first.sequence, batch.messages());
    let _ = outcome.take(datagram);
    for (position, refusal) in outcome.refused() {
        if let Some(step) = batch.step_at(position) {
            let _ = step.error(refusal).to_string();
        }
    }
}

/// Reads a datagram as a generic netlink socket would: as a family that was looked up, and as a WireGuard device.
pub fn wireguard(datagram: &[u8]) {
    let Some(mut answer) = answer(datagram) else { return };
    let whole = |message: &[u8]| Ok(message.to_vec());
    let _ = answer.take(datagram, whole, Oddities::LeaveOut);
    wireguard::fuzz(&answer.objects().unwrap_or_default());
}

/// Of the request that the first frame answers.
fn answer<T>(datagram: &[u8]) -> Option<Answer<T>> {
    let first = frames(datagram).next()?.ok()?;
    Some(Answer::to(first.sequence))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{MacvlanMode, MacvlanSpec, Netlink, Nftables, request::Request};

    /// A datagram with a link as the kernel writes it, and the end of its answer.
    fn link() -> Vec<u8> {
        let mut link = link_message::macvlan(&MacvlanSpec::new("net1", 7, MacvlanMode::Vepa));
        link.text(20, "a pod"); // IFLA_IFALIAS
        let mut bytes = Request::new(NEW_LINK, link).write(0, 0);
        bytes.extend([20, 0, 0, 0, 3, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    /// A transaction has the form of what is listed.
    fn ruleset() -> Vec<u8> {
        nftables::fuzz::every_step().write(0)
    }

    fn damaged(whole: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
        let places = 0..whole.len();
        let changes = prop::collection::vec((places.clone(), any::<u8>()), 0..6);
        (changes, places, any::<bool>()).prop_map(move |(changes, end, cut)| {
            let mut bytes = whole.clone();
            for (place, value) in changes {
                bytes[place] = value;
            }
            bytes.truncate(if cut { end } else { bytes.len() });
            bytes
        })
    }

    proptest! {
        #[test]
        fn no_datagram_makes_a_reader_panic(bytes: Vec<u8>) {
            route(&bytes);
            nftables(&bytes);
        }

        #[test]
        fn no_damage_to_a_link_makes_the_reader_panic(bytes in damaged(link())) {
            route(&bytes);
        }

        #[test]
        fn no_damage_to_a_ruleset_makes_the_reader_panic(bytes in damaged(ruleset())) {
            nftables(&bytes);
        }
    }

    #[test]
    fn what_is_not_damaged_is_read() {
        let mut read = answer(&link()).unwrap();
        read.take(&link(), |message| body(message, NEW_LINK).map(<[u8]>::to_vec), Oddities::Fail).unwrap();
        let objects = read.objects().unwrap();
        assert_eq!(link_message::parse(&objects[0]).unwrap().alias.as_deref(), Some("a pod"));
        route(&link());
        nftables(&ruleset());
        // Sockets that could send it exist on every kernel.
        Netlink::open().unwrap();
        Nftables::open().unwrap();
    }
}
