//! Two clusters on one machine, two annotated pods, a tunnel between them; every claim is checked while it is shown.
//!
//! `scripts/demo` builds and runs this. The first check that fails ends it with exit status 1.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "showing is what it is for")]

use std::{
    error::Error,
    net::IpAddr,
    process::ExitCode,
    time::{Duration, Instant},
};

use adit_lab::{Attachment, Binaries, Host, IperfOptions, Lab, LabSpec, Node, Pod};
use clap::Parser;

type Outcome = Result<(), Box<dyn Error>>;

/// Two pods in two clusters, joined by a tunnel.
#[derive(Debug, Parser)]
struct Options {
    /// Leave everything standing, and say how to look around
    #[arg(long, conflicts_with = "teardown")]
    keep: bool,
    /// Remove what --keep left
    #[arg(long)]
    teardown: bool,
    /// Attach net1 by macvlan instead of bridge
    #[arg(long)]
    macvlan: bool,
    /// Begin of the names of everything that is made
    #[arg(long, default_value = "adit-demo")]
    name: String,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = if options.teardown { teardown(&options.name) } else { demonstrate(&options) };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("\nFAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

fn teardown(name: &str) -> Outcome {
    for prefix in Lab::teardown(name)? {
        println!("removed {prefix}");
    }
    Ok(())
}

fn demonstrate(options: &Options) -> Outcome {
    let begun = Instant::now();
    let (attachment, kind) =
        if options.macvlan { (Attachment::Macvlan, "macvlan") } else { (Attachment::Bridge, "bridge") };

    say("Two clusters, each a node with its own agent; routers between them. Five hops from pod to pod.");
    let lab = Lab::build(&LabSpec::two_clusters(attachment).named(&options.name))?;
    for node in lab.nodes() {
        node.start_agent()?;
    }
    println!("nodes {}, {}; {} routers", lab.ohio().name(), lab.mumbai().name(), lab.routers().len());

    say(&format!("Two pods, each with one annotation: net1 by {kind}, and tun on top (conf/nad, conf/pods)."));
    let ohio = plumbr_pod(lab.ohio(), &format!("ohio-{kind}-tun"), "plumbr-a")?;
    let mumbai = plumbr_pod(lab.mumbai(), &format!("mumbai-{kind}-tun"), "plumbr-b")?;

    for (pod, inner) in [(&ohio, "10.4.0.1"), (&mumbai, "10.4.0.2")] {
        interfaces(pod, inner)?;
    }

    say("Both pods reach each other over net1, through five routers: the answers arrive with ttl 59.");
    let net1 = [(&ohio, "10.20.1.200"), (&mumbai, "10.10.1.200")];
    for (pod, peer) in net1 {
        print!("{}", show(pod, "ping", &["-c", "2", "-i", "0.2", peer])?);
        pod.ping(peer)?.all_received()?.with_ttl(59)?;
    }

    say("And through the tunnel: one hop, whatever lies between.");
    let tap = lab.router(2)?.tap("next", |packet| packet.src.is_ipv4())?;
    for (pod, peer) in [(&ohio, "10.4.0.2"), (&mumbai, "10.4.0.1")] {
        print!("{}", show(pod, "ping", &["-c", "2", "-i", "0.2", peer])?);
        pod.ping(peer)?.all_received()?.with_ttl(64)?;
    }

    say("What a router between them sees of the tunnel: UDP between the two underlay addresses.");
    let packets = tap.stop();
    let underlay: [IpAddr; 2] = ["10.10.1.200".parse()?, "10.20.1.200".parse()?];
    ensure(packets.len() >= 8, "the router saw no packets of the tunnel")?;
    for packet in &packets {
        let known = underlay.contains(&packet.src) && underlay.contains(&packet.dst);
        ensure(known && packet.has_port(6090), &format!("a packet that is not the tunnel's: {packet:?}"))?;
    }
    for packet in packets.iter().take(4) {
        let (from, to) = (packet.src_port.unwrap_or_default(), packet.dst_port.unwrap_or_default());
        println!("UDP {}:{from} > {}:{to}, ttl {}, {} bytes", packet.src, packet.dst, packet.ttl, packet.length);
    }

    say("iperf3 over both, from Ohio to Mumbai.");
    for (name, to) in [("net1", "10.20.1.200"), ("tun", "10.4.0.2")] {
        let options = IperfOptions { duration: Duration::from_secs(2), ..IperfOptions::default() };
        let report = ohio.iperf3(&mumbai, to.parse()?, &options)?;
        ensure(report.bytes > 0, &format!("no bytes arrived over {name}"))?;
        println!("{name:<5} {:>8.0} Mbit/s", report.bits_per_second / 1e6);
    }

    say("The pods' workload has no capability at all.");
    for pod in [&ohio, &mumbai] {
        let capabilities = pod.capabilities()?;
        ensure(capabilities.are_none(), &format!("{} has capabilities: {capabilities:?}", pod.name()))?;
        let text = std::fs::read_to_string(format!("/proc/{}/status", pod.pid()))?;
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("Cap") || line.starts_with("Uid")).collect();
        println!("{}: {}", pod.name(), lines.join("  ").replace('\t', " "));
    }

    say("Ohio's agent is killed, and started again: the same interface carries traffic again, without a new ADD.");
    lab.ohio().kill_agent()?;
    lab.ohio().start_agent()?;
    ohio.ping("10.4.0.2")?.all_received()?;
    println!("ping 10.4.0.2 from {}: answered", ohio.name());

    say("What each node knows of its tunnels (adit status).");
    for node in lab.nodes() {
        let status = node.adit(["status"])?.ok()?.stdout;
        ensure(status.contains(" up "), &format!("the tunnel of {} is not up:\n{status}", node.name()))?;
        print!("{status}");
    }

    if options.keep {
        look_around(&lab, &ohio, &mumbai)?;
        lab.keep()?;
    } else {
        say("Everything is removed again.");
        ohio.delete()?;
        mumbai.delete()?;
        lab.down()?;
    }
    println!("\nAll checks passed, in {:.0} s.", begun.elapsed().as_secs_f64());
    Ok(())
}

/// The documented pod: eth0 in the cluster's own network, net1 and tun by its annotation.
fn plumbr_pod(node: &Node, network: &str, name: &str) -> Result<Pod, Box<dyn Error>> {
    node.define(format!("conf/nad/{network}.yaml").as_str())?;
    let address = node.number().pods(Host(200))[0];
    let annotation = format!(r#"[{{"name":"{network}","ips":["{address}"]}}]"#);
    println!("{name}: k8s.v1.cni.cncf.io/networks: {annotation}");
    Ok(node.pod(name).with_default_network().annotated(&annotation)?)
}

fn interfaces(pod: &Pod, inner: &str) -> Outcome {
    say(&format!("{}: its interfaces and routes.", pod.name()));
    let links = pod.root(["ip", "link", "show"])?.ok()?.stdout;
    let lines: Vec<&str> = links.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).collect();
    println!("{}$ ip a | grep -P '^\\d'\n{}", pod.name(), lines.join("\n"));
    print!("{}", show(pod, "ip", &["route"])?);

    let names = pod.interface_names()?;
    ensure(names == ["lo", "eth0", "net1", "tun"], &format!("{} has the interfaces {names:?}", pod.name()))?;
    let tun = lines.iter().find(|line| line.contains(": tun:")).ok_or("there is no tun")?;
    ensure(tun.contains("<POINTOPOINT,MULTICAST,NOARP,UP,LOWER_UP>"), &format!("unexpected flags: {tun}"))?;
    let addresses = pod.addresses("tun")?;
    ensure(addresses.iter().any(|address| address.ip().to_string() == inner), &format!("tun has {addresses:?}"))
}

/// A command as the pod's own user, the way a person would see it.
fn show(pod: &Pod, program: &str, arguments: &[&str]) -> Result<String, Box<dyn Error>> {
    let ran = pod.run(std::iter::once(program).chain(arguments.iter().copied()))?.ok()?;
    let body: Vec<&str> = ran.stdout.lines().filter(|line| !line.is_empty()).collect();
    Ok(format!("{}$ {program} {}\n{}\n", pod.name(), arguments.join(" "), body.join("\n")))
}

fn look_around(lab: &Lab, ohio: &Pod, mumbai: &Pod) -> Outcome {
    let adit = Binaries::get()?.program("adit")?;
    say("It is left standing. To look around:");
    for pod in [ohio, mumbai] {
        println!("sudo ip netns exec {} ip address        # {}", pod.netns_name(), pod.name());
    }
    println!("sudo ip netns exec {} ping 10.4.0.2", ohio.netns_name());
    for node in lab.nodes() {
        println!("sudo {} --run-dir {} status", adit.display(), node.run_dir().display());
    }
    println!("sudo scripts/demo --teardown                        # removes it");
    Ok(())
}

fn say(text: &str) {
    println!("\n== {text}");
}

fn ensure(condition: bool, otherwise: &str) -> Outcome {
    if condition { Ok(()) } else { Err(otherwise.into()) }
}
