//! Chains out of Adit's plugins and the reference's (Debian's containernetworking-plugins, and the newest that
//! `scripts/reference` has built).

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use adit_integration::{
    trial,
    tunnels::{Call, FIRST_POD, Family, annotation, inner_pair, lab_with_agents, net1, outer, tun, tunnels, with},
};
use adit_lab::{Attachment, Binaries, Error, Lab, LabSpec, Nad, Node, Pod, Result};
use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

type Outcome = std::result::Result<(), Failed>;

const DEBIAN: &str = "/usr/lib/cni";

fn main() {
    let trials = [("debian", PathBuf::from(DEBIAN), "1.0.0"), ("newest", newest(), "1.1.0")]
        .into_iter()
        .flat_map(|(name, reference, version)| of(name, &reference, version));
    adit_integration::main(trials.collect());
}

fn of(name: &str, reference: &Path, version: &'static str) -> Vec<Trial> {
    let there = ["bridge", "static", "tuning"].iter().all(|plugin| reference.join(plugin).is_file());
    if !there {
        eprintln!("left out: chains with the plugins of {}, which are not there", reference.display());
    }
    let scenario = |what: &str, run: fn(&Path, &str) -> Outcome| {
        let reference = reference.to_owned();
        let trial = trial(format!("{what}_{name}"), move || run(&reference, version));
        if there { trial } else { trial.with_ignored_flag(true) }
    };
    vec![
        scenario("our_bridge_and_tun_with_the_tuning_of", our_bridge),
        scenario("our_tun_on_the_bridge_and_static_of", their_bridge),
    ]
}

/// Where `scripts/reference` puts what it builds.
fn newest() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    cache.join("adit-tools/reference-1.9.1")
}

/// One pod at each end of a tunnel, on lists that `plugins` makes out of `net1` and `tun`.
fn pair(lab: &Lab, version: &str, plugins: impl Fn(Value, Value) -> Value) -> Result<[Pod; 2]> {
    let pod = |node: &Node, peer: &Node, inner: &str| {
        let tun = tun(outer(peer, Family::V4, FIRST_POD), inner);
        let config = with(plugins(net1(lab, node), tun), &json!({ "cniVersion": version }));
        node.pod("mixed").attach(Nad::new("mixed", config), &annotation("mixed", node, FIRST_POD))
    };
    let [here, there] = inner_pair(Family::V4);
    Ok([pod(lab.ohio(), lab.mumbai(), here)?, pod(lab.mumbai(), lab.ohio(), there)?])
}

fn our_bridge(reference: &Path, version: &str) -> Outcome {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    for node in lab.nodes() {
        node.set_plugin_path(&[Binaries::get()?.directory(), reference]);
    }
    let data = lab.directory("tuning")?;
    let tuning = json!({
        "type": "tuning", "mtu": 1400, "dataDir": data, "sysctl": { "net.ipv4.conf.net1.arp_filter": "1" }
    });
    let [mut ohio, mumbai] = pair(&lab, version, |net1, tun| json!({ "plugins": [net1, tuning.clone(), tun] }))?;

    ohio.ping("10.4.0.2")?.all_received()?;
    // tun comes after tuning, so it knows the MTU that is left.
    assert_eq!(ohio.ip_json(["link", "show", "tun"])?[0]["mtu"], 1356);
    assert_eq!(ohio.ip_json(["link", "show", "net1"])?[0]["mtu"], 1400);
    ohio.run(["sysctl", "-n", "net.ipv4.conf.net1.arp_filter"])?.ok()?;
    ohio.check()?;
    mumbai.check()?;
    // Each member of the chain notices what it made itself.
    let mut flush = lab.ohio().command("nsenter");
    flush.arg(format!("--net={}", ohio.path().display())).args(["ip", "address", "flush", "dev", "net1"]);
    adit_lab::run(flush, None, adit_lab::COMMAND_DEADLINE)?.ok()?;
    assert!(ohio.check().unwrap_err().to_string().contains("10.10.1.200/24"));

    ohio.detach()?;
    nothing_left(&ohio)
}

fn their_bridge(reference: &Path, version: &str) -> Outcome {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    // Only tun is ours.
    let plugins = lab.directory("plugins")?;
    symlink(Binaries::get()?.program("tun")?, plugins.join("tun")).map_err(|error| error.to_string())?;
    for plugin in ["bridge", "static"] {
        symlink(reference.join(plugin), plugins.join(plugin)).map_err(|error| error.to_string())?;
    }
    assert_eq!(fs::read_dir(&plugins).map_err(|error| error.to_string())?.count(), 3);
    for node in lab.nodes() {
        node.set_plugin_path(&[&plugins]);
    }
    let chain = |net1, tun| json!({ "disableCheck": true, "plugins": [net1, tun] });
    let [mut ohio, _mumbai] = pair(&lab, version, chain)?;
    ohio.ping("10.4.0.2")?.all_received()?;
    ohio.check()?;

    // With the final result tun's own CHECK passes, for it looks at the addresses of its own interface; the reference's
    // bridge looks for every address on net1, which is why the list needs disableCheck.
    let result =
        ohio.attached().last().ok_or("nothing is attached")?.result.render(version.parse().map_err(|_| "version")?);
    let result = result.map_err(|error| error.to_string())?;
    let indices: Vec<&Value> = result["ips"].as_array().into_iter().flatten().map(|ip| &ip["interface"]).collect();
    assert_eq!(indices, [2, 2, 3]);
    let head = json!({ "cniVersion": version, "name": "mixed", "prevResult": result });
    let own = with(head.clone(), &tun(outer(lab.mumbai(), Family::V4, FIRST_POD), "10.4.0.1/30"));
    Call::tun(&ohio)?.run("CHECK", &own)?.ok()?;
    let theirs = with(head, &net1(&lab, lab.ohio()));
    let refused = foreign(&ohio, &plugins, "bridge", &theirs)?;
    assert!(refused.contains("10.4.0.1"), "{refused}");

    ohio.detach()?;
    nothing_left(&ohio)
}

fn nothing_left(pod: &Pod) -> Outcome {
    assert!(tunnels(pod.node())?.is_empty());
    assert_eq!(pod.ip_json(["link"])?.as_array().map(Vec::len), Some(1), "loopback alone is left");
    Ok(())
}

/// What the reference's CHECK says.
fn foreign(pod: &Pod, plugins: &Path, plugin: &str, stdin: &Value) -> Result<String> {
    let mut command = pod.node().command(plugins.join(plugin));
    command.envs([("CNI_COMMAND", "CHECK"), ("CNI_IFNAME", "net1"), ("CNI_ARGS", "IgnoreUnknown=1")]);
    command.env("CNI_CONTAINERID", &pod.identity().container_id).env("CNI_PATH", plugins).env("CNI_NETNS", pod.path());
    let ran = adit_lab::run(command, Some(stdin.to_string().as_bytes()), adit_lab::COMMAND_DEADLINE)?;
    if ran.success() { Err(Error::Unexpected(format!("{plugin} CHECK passed"))) } else { Ok(ran.stdout) }
}
