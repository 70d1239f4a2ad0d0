//! Marks of congestion (ECN): what a router between says to the outer packets reaches the connections inside, as if there were no tunnel
//! (RFC 6040).

use std::{collections::BTreeSet, time::Duration};

use adit_integration::{
    sealed::{Format, SealedPair, peer},
    trial,
    tunnels::{Family, Pair, dropped, inner_pair, outer},
};
use adit_lab::{Attachment, Namespace, Pod};
use libtest_mimic::Failed;

type Outcome<T = ()> = Result<T, Failed>;

const LIMIT: Duration = Duration::from_secs(30);
const STREAM_BYTES: usize = 4 << 20;
const MTU_OUTSIDE: usize = 1500;
const ECT0: u8 = 2;
const CE: u8 = 3;

/// Who carries the packets, and how.
#[derive(Debug, Clone, Copy)]
enum Tunnel {
    Plain,
    Sealed(Format),
}

impl Tunnel {
    fn up(self, outside: Family, inside: Family) -> Outcome<Pair> {
        let pair = match self {
            Self::Plain => Pair::up(Attachment::Bridge, outside, inside)?,
            Self::Sealed(format) => SealedPair::new(format).over(outside, inside).up()?,
        };
        pair.ohio.ping(there(inside))?.all_received()?;
        Ok(pair)
    }

    /// The plain form is that of `udp` as well.
    fn format(self) -> Format {
        match self {
            Self::Plain => Format::Noise,
            Self::Sealed(format) => format,
        }
    }

    fn port(self) -> u16 {
        self.format().port()
    }

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Sealed(Format::Noise) => "sealed",
            Self::Sealed(Format::Wireguard) => "wireguard",
        }
    }
}

fn main() {
    use Family::{V4, V6};
    let tunnels = [Tunnel::Plain, Tunnel::Sealed(Format::Noise), Tunnel::Sealed(Format::Wireguard)];
    let mut trials = Vec::new();
    for (tunnel, outside, inside) in [
        (tunnels[0], V4, V4),
        (tunnels[0], V6, V6),
        (tunnels[1], V4, V6),
        (tunnels[1], V6, V4),
        (tunnels[2], V4, V4),
        (tunnels[2], V6, V6),
    ] {
        let families = format!("{inside:?}_over_{outside:?}").to_lowercase();
        let name = format!("a_router_s_marks_reach_the_connection_within_{}_{families}", tunnel.name());
        trials.push(trial(name, move || marks_arrive(tunnel, outside, inside)));
    }
    for (tunnel, outside) in tunnels.into_iter().zip([V4, V6, V4]) {
        let named = |what: &str| format!("{what}_{}_over_{outside:?}", tunnel.name()).to_lowercase();
        trials.extend([
            trial(named("a_packet_that_cannot_tell_of_its_mark_is_dropped_and_counted"), move || {
                lying_marks(tunnel, outside)
            }),
            trial(named("the_outer_header_has_the_field_of_the_packet_alone"), move || fields_leave(tunnel, outside)),
        ]);
    }
    adit_integration::main(trials);
}

fn there(inside: Family) -> &'static str {
    inner_pair(inside)[1].split('/').next().unwrap_or_default()
}

/// Gives the mark to what passes a router of the tunnel's datagrams, where `when` says so. Behind a `?` stands the word of the family.
fn mark(router: &Namespace, tunnel: Tunnel, outside: Family, when: &str) -> Outcome {
    let family = outside.of(&["ip", "ip6"]);
    let rule = format!("udp dport {} {} ? ecn set ce", tunnel.port(), when).replace('?', family);
    let commands = format!(
        "add table inet marks; add chain inet marks forward {{ type filter hook forward priority 0; }}; \
         add rule inet marks forward {rule}"
    );
    router.root(["nft", &commands])?.ok()?;
    Ok(())
}

fn exchange(pair: &Pair, inside: Family) -> Outcome {
    let server = pair.mumbai.tcp_echo((there(inside).parse::<std::net::IpAddr>()?, 7).into())?;
    let bytes: Vec<u8> =
        (0..STREAM_BYTES as u32 / 4).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    let back = pair.ohio.tcp_exchange(server.address(), &bytes, LIMIT)?;
    assert!(back == bytes, "{} of {} bytes came back", back.len(), bytes.len());
    Ok(())
}

/// Segments of the pod's connections of which the other end said that they came with the mark: nothing but TCP inside can know.
fn delivered_marked(pod: &Pod) -> Outcome<u64> {
    let told = pod.run(["nstat", "-a", "-s", "-z", "-j", "TcpExtTCPDeliveredCE"])?.json()?;
    told["kernel"]["TcpExtTCPDeliveredCE"].as_u64().ok_or_else(|| format!("nstat says {told}").into())
}

fn marks_arrive(tunnel: Tunnel, outside: Family, inside: Family) -> Outcome {
    let pair = tunnel.up(outside, inside)?;
    for pod in [&pair.ohio, &pair.mumbai] {
        pod.sysctl("net/ipv4/tcp_ecn", "1")?;
    }
    let own = outer(pair.lab.ohio(), outside, 200);
    let port = tunnel.port();
    let sent = pair.ohio.tap("net1", move |packet| packet.src == own && packet.outgoing && packet.has_port(port))?;
    exchange(&pair, inside)?;
    let largest = sent.stop().into_iter().filter(|packet| packet.tos == ECT0).map(|packet| packet.length).max();
    assert!(largest > Some(4 * MTU_OUTSIDE), "{largest:?} bytes left the pod as one");
    for pod in [&pair.ohio, &pair.mumbai] {
        assert_eq!(delivered_marked(pod)?, 0, "nothing has marked anything so far");
    }

    let router = pair.lab.router(2)?;
    mark(router, tunnel, outside, "? ecn != not-ect numgen inc mod 20 0")?;
    exchange(&pair, inside)?;
    for pod in [&pair.ohio, &pair.mumbai] {
        let marked = delivered_marked(pod)?;
        println!("{}: {marked} segments were delivered with the mark", pod.name());
        assert!(marked > 0, "{}", pod.name());
    }
    for node in pair.lab.nodes() {
        assert_eq!(dropped(node, "congestion_marked")?, 0, "{}", node.name());
    }
    Ok(())
}

fn lying_marks(tunnel: Tunnel, outside: Family) -> Outcome {
    let pair = tunnel.up(outside, Family::V4)?;
    let (ohio, mumbai) = (pair.lab.ohio(), pair.lab.mumbai());
    let before = peer(mumbai)?["handshakes"].clone();
    let router = pair.lab.router(2)?;
    mark(router, tunnel, outside, "")?;
    pair.ohio.ping_with(there(Family::V4), &["-c", "5"])?.none_received()?;
    assert_eq!(dropped(mumbai, "congestion_marked")?, 5);
    assert_eq!(dropped(ohio, "congestion_marked")?, 0);
    // Who understands the mark gets its packets, even where all are marked.
    let ect0 = format!("{ECT0}");
    pair.ohio.ping_with(there(Family::V4), &["-c", "5", "-Q", &ect0])?.all_received()?;
    assert_eq!(dropped(mumbai, "congestion_marked")?, 5);
    router.root(["nft", "delete", "table", "inet", "marks"])?.ok()?;
    pair.ohio.ping(there(Family::V4))?.all_received()?;
    assert!(before.is_u64() && peer(mumbai)?["handshakes"] == before, "the session has not suffered");
    Ok(())
}

fn fields_leave(tunnel: Tunnel, outside: Family) -> Outcome {
    const DSCP: u8 = 0xb8;
    const REQUEST_BYTES: usize = 1200;
    let pair = tunnel.up(outside, Family::V4)?;
    let (own, port) = (outer(pair.lab.ohio(), outside, 200), tunnel.port());
    for field in 0..=CE {
        let requests = pair.ohio.tap("net1", move |packet| {
            let is_own = packet.src == own && packet.outgoing && packet.has_port(port);
            // Questions about the path's size are as long.
            is_own && packet.length > REQUEST_BYTES && tunnel.format().is_data(&packet.payload)
        })?;
        let (class, bytes) = (format!("{}", DSCP | field), format!("{REQUEST_BYTES}"));
        pair.ohio.ping_with(there(Family::V4), &["-c", "3", "-Q", &class, "-s", &bytes])?.all_received()?;
        let classes: BTreeSet<u8> = requests.stop().iter().map(|packet| packet.tos).collect();
        assert_eq!(classes, BTreeSet::from([field]));
    }
    Ok(())
}
