//! Peers that move: behind a NAT, with another mapping, with an agent that has forgotten everything.

use std::{net::SocketAddr, ops::RangeInclusive, time::Duration};

use adit_integration::{
    sealed::{
        Format, KeyPair, SealedPair, Side, answers_within, derived_key, endpoint, file_crosses, install_key, peer,
        sealed_tun, tunnel,
    },
    trial,
    tunnels::{FIRST_POD, Family, annotation, lab_with_agents, list, net1, outer, with},
};
use adit_lab::{Attachment, Lab, LabSpec, Pod, eventually};
use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

use crate::Outcome;

const KEEPALIVE: Duration = Duration::from_secs(2);

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for format in Format::ALL {
        let named = |what: &str| format!("{what}_by_{format:?}").to_lowercase();
        trials.extend([
            trial(named("a_pod_behind_nat_is_found_again_when_its_mapping_is_flushed"), move || nat(format)),
            trial(named("two_pods_behind_one_nat_are_told_apart"), move || two_behind_one(format)),
            trial(named("an_agent_of_either_end_of_a_nat_comes_back"), move || nat_and_agents(format)),
            trial(named("a_learned_endpoint_survives_the_agent"), move || learned(format)),
        ]);
        for outside in [Family::V4, Family::V6] {
            let name = named("who_is_not_told_an_endpoint_learns_it") + &format!("_over_{outside:?}").to_lowercase();
            trials.push(trial(name, move || learns(format, outside)));
        }
    }
    trials
}

/// Ohio's pods are behind the first router, which gives them its own address and a port of a range; Mumbai's pod is not told
/// where to find them.
struct Nat {
    ohio: Pod,
    mumbai: Pod,
    lab: Lab,
}

impl Nat {
    const ADDRESS: &str = "100.64.1.1";

    fn up(format: Format) -> Result<Self, Failed> {
        let lab = Self::network()?;
        let (ohio, mumbai) = (lab.ohio(), lab.mumbai());
        let (here, there) = (KeyPair::new()?, KeyPair::new()?);
        install_key(ohio, "default", "tunnel.key", &here.private)?;
        install_key(mumbai, "default", "tunnel.key", &there.private)?;
        let file = json!({ "privateKeyFile": "tunnel.key" });

        let own =
            sealed_tun(format, Family::V4, Some(outer(mumbai, Family::V4, FIRST_POD)), &there.public, "10.4.0.1/30");
        let own = with(with(own, &file), &json!({ "keepalive": format!("{}s", KEEPALIVE.as_secs()) }));
        let own = list("nat", &[net1(&lab, ohio), own]);
        let other = with(sealed_tun(format, Family::V4, None, &here.public, "10.4.0.2/30"), &file);
        let other = list("nat", &[Self::net1_of_mumbai(&lab), other]);
        let mumbai = mumbai.pod("mumbai-a").attach(other, &annotation("nat", mumbai, FIRST_POD))?;
        let ohio = ohio.pod("ohio-a").attach(own, &annotation("nat", ohio, FIRST_POD))?;
        Ok(Self { ohio, mumbai, lab })
    }

    fn network() -> Result<Lab, Failed> {
        let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
        // The router's own address is known where Mumbai is. Ohio's pods are not, and need not be.
        lab.router(3)?.ip_batch(&["route add 100.64.1.0/24 via 100.64.2.1 dev prev".to_owned()])?;
        lab.router(2)?.ip_batch(&["route delete 10.10.1.0/24".to_owned()])?;
        // An interface that loses its last address loses its routes.
        lab.router(1)?.ip_batch(&["address add 192.0.2.1/32 dev next".to_owned()])?;
        Self::masquerade(&lab, 20_000..=29_999)?;
        Ok(lab)
    }

    /// With a route to the router that all of Ohio hides behind.
    fn net1_of_mumbai(lab: &Lab) -> Value {
        let mut below = net1(lab, lab.mumbai());
        if let Some(routes) = below["ipam"]["routes"].as_array_mut() {
            routes.push(json!({ "dst": "100.64.1.0/24", "gw": lab.mumbai().number().gateway()[0].to_string() }));
        }
        below
    }

    /// From now on new mappings have ports of this range. Those that are there are forgotten: they go with the address, a moment
    /// later.
    fn masquerade(lab: &Lab, ports: RangeInclusive<u16>) -> Outcome {
        let router = lab.router(1)?;
        let rules = format!(
            "add table ip nat; delete table ip nat; table ip nat {{ chain out {{ type nat hook postrouting priority srcnat; \
             oifname next meta l4proto udp masquerade to :{}-{} random; }}; }}",
            ports.start(),
            ports.end()
        );
        router.root(["nft", &rules])?.ok()?;
        router.ip_batch(&[
            format!("address delete {}/24 dev next", Self::ADDRESS),
            format!("address add {}/24 dev next", Self::ADDRESS),
        ])?;
        Ok(eventually("the old mappings to be forgotten", Duration::from_secs(5), || {
            let mappings = router.root(["cat", "/proc/net/nf_conntrack"])?.ok()?.stdout;
            let mut mapped = mappings.lines().filter(|line| line.contains(" src=10.10.1.")).filter_map(|line| {
                // The second is that of the answers, which come to the mapped port.
                line.rsplit("dport=").next()?.split(' ').next()?.parse::<u16>().ok()
            });
            Ok(mapped.all(|port| ports.contains(&port)).then_some(()))
        })?)
    }

    /// Ohio as Mumbai sees it: the router's address, and a port of these.
    fn seen(&self, ports: RangeInclusive<u16>) -> Result<SocketAddr, Failed> {
        let seen = endpoint(self.lab.mumbai())?.ok_or("Mumbai has learned nothing")?;
        assert_eq!(seen.ip().to_string(), Self::ADDRESS);
        assert!(ports.contains(&seen.port()), "{seen}");
        Ok(seen)
    }
}

fn nat(format: Format) -> Outcome {
    let nat = Nat::up(format)?;
    // Before Ohio has spoken there is nobody to speak to.
    nat.ohio.ping("10.4.0.2")?.all_received()?;
    nat.seen(20_000..=29_999)?;
    nat.mumbai.ping("10.4.0.1")?.all_received()?;
    file_crosses(&nat.mumbai, &nat.ohio, "10.4.0.1")?;
    for ports in [30_000..=39_999, 40_000..=49_999] {
        Nat::masquerade(&nat.lab, ports.clone())?;
        // Ohio's pod has nothing to say; its keepalive makes the new mapping.
        answers_within(KEEPALIVE * 2, &nat.mumbai, "10.4.0.1")?;
        nat.seen(ports)?;
        nat.ohio.ping("10.4.0.2")?.all_received()?;
    }
    file_crosses(&nat.ohio, &nat.mumbai, "10.4.0.2")?;
    // It has not needed another handshake for that.
    assert_eq!(peer(nat.lab.mumbai())?["handshakes"], 1);
    Ok(())
}

/// Two peers with one address: their keys tell them apart, and then their ports.
fn two_behind_one(format: Format) -> Outcome {
    let lab = Nat::network()?;
    let (ohio, mumbai) = (lab.ohio(), lab.mumbai());
    let centre = derived_key(mumbai, "default", "centre", "nat", "tun")?;
    let mut peers = Vec::new();
    for (name, inner) in [("one", "10.4.0.1/32"), ("other", "10.4.0.5/32")] {
        let key = derived_key(ohio, "default", name, name, "tun")?;
        peers.push(json!({ "publicKey": key, "allowedIPs": [inner] }));
    }
    let own = with(sealed_tun(format, Family::V4, None, "", "10.4.0.2/24"), &json!({ "peers": peers }));
    let nad = list("nat", &[Nat::net1_of_mumbai(&lab), own]);
    let pod = mumbai.pod("centre").attach(nad, &annotation("nat", mumbai, FIRST_POD))?;
    let mut pods = Vec::new();
    for (name, inner, host) in [("one", "10.4.0.1/24", FIRST_POD), ("other", "10.4.0.5/24", FIRST_POD + 1)] {
        let own = sealed_tun(format, Family::V4, Some(outer(mumbai, Family::V4, FIRST_POD)), &centre, inner);
        let own = with(own, &json!({ "keepalive": format!("{}s", KEEPALIVE.as_secs()) }));
        let nad = list(name, &[net1(&lab, ohio), own]);
        pods.push(ohio.pod(name).attach(nad, &annotation(name, ohio, host))?);
    }
    let apart = |from: u16| -> Outcome {
        let status = tunnel(mumbai)?;
        let endpoints: Vec<SocketAddr> = [0, 1]
            .map(|index| status["peers"][index]["endpoint"].as_str().unwrap_or_default().parse())
            .into_iter()
            .collect::<Result<_, _>>()?;
        assert!(
            endpoints.iter().all(|seen| seen.ip().to_string() == Nat::ADDRESS && seen.port() >= from),
            "{endpoints:?}"
        );
        assert_ne!(endpoints[0], endpoints[1]);
        Ok(())
    };
    for pod in &pods {
        pod.ping("10.4.0.2")?.all_received()?;
    }
    apart(20_000)?;
    Nat::masquerade(&lab, 30_000..=39_999)?;
    for inner in ["10.4.0.1", "10.4.0.5"] {
        answers_within(KEEPALIVE * 2, &pod, inner)?;
    }
    apart(30_000)?;
    Ok(())
}

fn nat_and_agents(format: Format) -> Outcome {
    const MISSED: Duration = Duration::from_secs(25);
    let nat = Nat::up(format)?;
    nat.ohio.ping("10.4.0.2")?.all_received()?;
    for (node, other) in [(nat.lab.ohio(), &nat.mumbai), (nat.lab.mumbai(), &nat.mumbai)] {
        node.kill_agent()?;
        node.start_agent()?;
        answers_within(MISSED, other, "10.4.0.1")?;
    }
    nat.ohio.ping("10.4.0.2")?.all_received()?;
    Ok(())
}

fn learns(format: Format, outside: Family) -> Outcome {
    let prepared = SealedPair::new(format).over(outside, Family::V4).mumbai_learns().prepare()?;
    let mumbai = prepared.attach(Side::Mumbai)?;
    let node = prepared.lab.mumbai();
    assert_eq!(endpoint(node)?, None);
    mumbai.ping_with("10.4.0.1", &["-c", "2", "-W", "1"])?.none_received()?;
    let ohio = prepared.attach(Side::Ohio)?;
    ohio.ping("10.4.0.2")?.all_received()?;
    let seen = SocketAddr::new(outer(prepared.lab.ohio(), outside, FIRST_POD), format.port());
    assert_eq!((endpoint(node)?, &peer(node)?["learned"]), (Some(seen), &json!(true)));
    mumbai.ping("10.4.0.1")?.all_received()?;
    mumbai.check()?;
    Ok(())
}

/// Ohio says nothing, so only Mumbai can begin, and only where it knows how to.
fn learned(format: Format) -> Outcome {
    let pair = SealedPair::new(format).mumbai_learns().up()?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    let mumbai = pair.lab.mumbai();
    let known = endpoint(mumbai)?;
    assert!(known.is_some());
    mumbai.restart_agent()?;
    assert_eq!(endpoint(mumbai)?, known);
    answers_within(Duration::from_secs(10), &pair.mumbai, "10.4.0.1")?;
    // A killed one has had no time to write it down, but it was written before.
    eventually("the record to have the endpoint", Duration::from_secs(30), || {
        let directory = mumbai.run_dir().join("attachments");
        let io = |source| adit_lab::Error::Io { action: format!("read {}", directory.display()), source };
        let entries = std::fs::read_dir(&directory).map_err(io)?.flatten();
        let texts = entries.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
        let known = known.map(|known| known.to_string()).unwrap_or_default();
        Ok(texts.into_iter().any(|text| text.contains(&known)).then_some(()))
    })?;
    mumbai.kill_agent()?;
    mumbai.start_agent()?;
    answers_within(Duration::from_secs(10), &pair.mumbai, "10.4.0.1")?;
    Ok(())
}
