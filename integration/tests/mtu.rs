//! The largest packet of every tunnel: as the table says, as the interface says, and as the wire shows.

use std::{env, fmt::Write as _, fs, net::IpAddr, path::PathBuf, time::Duration};

use adit_integration::{
    scripts::root,
    sealed::{Format, SealedPair},
    trial,
    tunnels::{FIRST_POD, Family, Pair, annotation, inner_pair, list, net1, outer, tun, with},
};
use adit_lab::{Attachment, Lab, LabSpec, Pod, eventually};
use adit_tunnel::{
    Encap, Encryption,
    mtu::{FLOOR_BYTES, FLOOR_WITH_IPV6_BYTES, interface_mtu, overhead_bytes},
};
use libtest_mimic::Failed;
use serde_json::json;

type Outcome<T = ()> = Result<T, Failed>;

/// Every kind of tunnel, as the page calls it.
const KINDS: [(Kind, &str); 4] = [
    (Kind(Encap::Udp, Encryption::Noise), "`udp`"),
    (Kind(Encap::Udp, Encryption::None), "`udp`, `\"encryption\": \"none\"`"),
    (Kind(Encap::Wireguard, Encryption::Noise), "`wireguard`"),
    (Kind(Encap::Vxlan, Encryption::None), "`vxlan`, `\"encryption\": \"none\"`"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind(Encap, Encryption);

fn main() {
    let mut trials = vec![trial("the_page_has_the_numbers_of_the_code", page_is_fresh)];
    for (kind, _) in KINDS {
        for outside in [Family::V4, Family::V6] {
            for inside in [Family::V4, Family::V6] {
                let seal = if kind.1 == Encryption::None { "plain" } else { "sealed" };
                let name = format!(
                    "a_packet_of_the_mtu_passes_and_a_larger_one_does_not_by_{}_{seal}_with_{outside:?}_outside_and_{inside:?}_inside",
                    kind.0
                );
                trials.push(trial(name.to_lowercase(), move || largest(kind, outside, inside)));
            }
        }
    }
    adit_integration::main(trials);
}

/// Sizes of outer paths that the page has columns for: Ethernet, Google Cloud, jumbo frames of AWS, of a data centre.
const PATHS: [u32; 4] = [1500, 1460, 8901, 9000];

const PAGE: &str = "docs/mtu.md";
const WRITE: &str = "ADIT_WRITE_DOCS";

/// The page as it must be.
fn page() -> Outcome<String> {
    let mut rows = String::new();
    let mut bytes = String::new();
    for (kind, name) in KINDS {
        for outside in [Family::V4, Family::V6] {
            let overhead = overhead_bytes(kind.0, outside == Family::V6, kind.1);
            let ip: u16 = outside.of(&[20, 40]);
            let tag: u16 = if kind.1 == Encryption::None { 0 } else { 16 };
            let own = overhead - ip - 8 - tag;
            let family = outside.of(&["IPv4", "IPv6"]);
            write!(rows, "| {name} | {family} | {overhead} |")?;
            for path in PATHS {
                write!(rows, " {} |", interface_mtu(None, path, overhead)?)?;
            }
            writeln!(rows, " {} | {} |", FLOOR_BYTES + overhead, FLOOR_WITH_IPV6_BYTES + overhead)?;
            writeln!(bytes, "| {name} | {family} | {ip} | 8 | {own} | {tag} | {overhead} |")?;
        }
    }
    let columns: String = PATHS.iter().map(|path| format!(" MTU on {path} |")).collect();
    let dashes = "---|".repeat(PATHS.len());
    Ok(format!(
        "<!-- Written by `{WRITE}=1 cargo test -p adit-integration --test mtu`, from crates/tunnel/src/mtu.rs. Do not edit. -->
# MTU

The interface of a tunnel has the MTU of the outer path less what the encapsulation adds: the largest packet that leaves in
one piece, with DF set. It is computed when the pod is attached, from the routes to the peers; the smallest of them counts. A
smaller one can be written (`\"mtu\": 1400`), a larger one is refused. What is inside, IPv4 or IPv6, makes no difference.

| tunnel | outside | added bytes |{columns} smallest path | with IPv6 inside |
|---|---|---|{dashes}---|---|
{rows}
The last two columns are the smallest outer MTU over which such a tunnel can be made: every IPv4 host takes packets of
{FLOOR_BYTES} bytes, and the kernel drops every IPv6 address of an interface whose MTU is below {FLOOR_WITH_IPV6_BYTES}.

## What is added

| tunnel | outside | IP | UDP | own header | tag | bytes |
|---|---|---|---|---|---|---|
{bytes}
Every combination is attached and measured by `integration/tests/mtu.rs`: an echo request of exactly the MTU with DF
passes, and fills an outer packet of 1500 bytes to the last; one byte more does not leave the pod. `wireguard` pads shorter packets up to a
multiple of 16 bytes, but none beyond the MTU.
"
    ))
}

fn page_is_fresh() -> Outcome {
    let (path, wanted): (PathBuf, _) = (root().join(PAGE), page()?);
    if env::var_os(WRITE).is_some() {
        fs::write(&path, &wanted)?;
    }
    let found = fs::read_to_string(&path)
        .map_err(|error| format!("{PAGE}: {error}; write it: {WRITE}=1 cargo test -p adit-integration --test mtu"))?;
    let different = wanted.lines().zip(found.lines().chain(std::iter::repeat(""))).find(|(one, other)| one != other);
    if let Some((wanted, found)) = different.or_else(|| (found != wanted).then_some(("its end", "more"))) {
        return Err(format!(
            "{PAGE} is stale; write it anew: {WRITE}=1 cargo test -p adit-integration --test mtu\n  is  {found}\n  not {wanted}"
        )
        .into());
    }
    Ok(())
}

/// The number that a person finds in the page.
fn documented(kind: Kind, outside: Family) -> Outcome<u32> {
    let text = fs::read_to_string(root().join(PAGE))?;
    let name = KINDS.iter().find(|(other, _)| *other == kind).map(|(_, name)| *name).ok_or("no such kind")?;
    let begin = format!("| {name} | {} |", outside.of(&["IPv4", "IPv6"]));
    let row = text.lines().find(|line| line.starts_with(&begin)).ok_or_else(|| format!("no row {begin}"))?;
    // Behind the bytes comes the MTU on 1500.
    let cell = row.split('|').nth(4).unwrap_or_default();
    Ok(cell.trim().parse()?)
}

fn pair(kind: Kind, outside: Family, inside: Family) -> Outcome<Pair> {
    // What looks for the path's size is as large as the packets that are counted, and so are repairs of them.
    let fixed = || json!({ "probe": { "mtu": false }, "fec": { "mode": "off" } });
    Ok(match kind {
        Kind(Encap::Vxlan, _) => vxlan(outside, inside)?,
        Kind(_, Encryption::None) => Pair::with_tun(Attachment::Bridge, outside, inside, &fixed())?,
        Kind(Encap::Wireguard, _) => SealedPair::new(Format::Wireguard).over(outside, inside).up()?,
        Kind(..) => SealedPair::new(Format::Noise).over(outside, inside).with(fixed(), fixed()).up()?,
    })
}

fn vxlan(outside: Family, inside: Family) -> Outcome<Pair> {
    let lab = Lab::build(&LabSpec::two_clusters(Attachment::Bridge))?;
    let mut pods = Vec::new();
    for ((node, peer), inner) in
        [(lab.ohio(), lab.mumbai()), (lab.mumbai(), lab.ohio())].into_iter().zip(inner_pair(inside))
    {
        let tun = with(tun(outer(peer, outside, FIRST_POD), inner), &json!({ "encap": "vxlan", "vni": 7 }));
        let nad = list("tunnelled", &[net1(&lab, node), tun]);
        pods.push(node.pod(&format!("{}-a", node.cluster())).attach(nad, &annotation("tunnelled", node, FIRST_POD))?);
    }
    let [ohio, mumbai] = <[Pod; 2]>::try_from(pods).map_err(|pods| format!("{} pods", pods.len()))?;
    Ok(Pair { ohio, mumbai, lab })
}

fn largest(kind: Kind, outside: Family, inside: Family) -> Outcome {
    const FULL: usize = 1500;
    let pair = pair(kind, outside, inside)?;
    let ends = [pair.lab.ohio(), pair.lab.mumbai()].map(|node| outer(node, outside, FIRST_POD));
    let between = move |from: IpAddr, to: IpAddr| ends.contains(&from) && ends.contains(&to);
    let [here, there] = inner_pair(inside).map(|text| text.split('/').next().unwrap_or_default());
    let header: u32 = inside.of(&[28, 48]);
    let mtu = documented(kind, outside)?;
    for pod in [&pair.ohio, &pair.mumbai] {
        assert_eq!(pod.interface("tun")?.mtu_bytes, mtu);
        // A pair of virtual Ethernet would carry several datagrams as one, which is not what a wire has.
        pod.root(["ethtool", "-K", "net1", "tx-udp-segmentation", "off"])?.ok()?;
    }
    // The session is made by smaller ones.
    pair.ohio.ping(there)?.all_received()?;
    let tap = pair.lab.router(2)?.tap("next", move |packet| between(packet.src, packet.dst))?;
    let size = |bytes: u32| (bytes - header).to_string();
    for (pod, address) in [(&pair.ohio, there), (&pair.mumbai, here)] {
        pod.ping_with(address, &["-c", "2", "-M", "do", "-s", &size(mtu)])?.all_received()?;
    }
    // Two requests and two answers, either way.
    eventually("eight packets that fill the path", Duration::from_secs(5), || {
        Ok((tap.packets().iter().filter(|packet| packet.length == FULL).count() == 8).then_some(()))
    })?;
    for (pod, address) in [(&pair.ohio, there), (&pair.mumbai, here)] {
        pod.ping_with(address, &["-c", "2", "-W", "1", "-M", "do", "-s", &size(mtu + 1)])?.none_received()?;
    }
    // Without DF it goes in pieces, each inside a packet of its own.
    pair.ohio.ping_with(there, &["-c", "2", "-M", "dont", "-s", "4000"])?.all_received()?;
    for packet in tap.stop() {
        let whole = packet.length <= FULL && !packet.fragment;
        assert!(whole, "{} bytes, df {}, fragment {}", packet.length, packet.df, packet.fragment);
    }
    Ok(())
}
