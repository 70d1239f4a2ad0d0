//! The lab itself: what the other scenarios stand on.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::Stdio,
    time::Duration,
};

use adit_integration::trial;
use adit_lab::{
    Attachment, Checksum, Datagram, Host, IperfOptions, Lab, LabSpec, Nad, Node, Pod, ProcessMark, Spies, packet::UDP,
};
use ipnetwork::IpNetwork;
use libtest_mimic::Failed;
use serde_json::json;

type Outcome = Result<(), Failed>;

fn main() {
    adit_integration::main(vec![
        trial("bridge_nodes_are_two_of_the_five_routers", || five_routers(Attachment::Bridge)),
        trial("macvlan_pods_have_the_router_as_gateway", || five_routers(Attachment::Macvlan)),
        trial("several_nodes_and_clusters_share_the_chain", several_clusters),
        trial("a_small_mtu_is_found_by_path_mtu_discovery", small_mtu),
        trial("dropping_a_lab_leaves_nothing", drop_leaves_nothing),
        trial("a_panic_leaves_nothing", panic_leaves_nothing),
        trial("a_kept_lab_stays_until_it_is_torn_down", kept_lab),
        trial("a_lab_may_have_a_name_that_people_type", named_lab),
        trial("the_machines_own_network_is_not_touched", machine_is_untouched),
        trial("a_pod_has_no_capability_and_still_pings", no_capability),
        trial("a_plugin_is_called_as_multus_calls_it", multus_calls),
        trial("a_failing_network_undoes_the_earlier_ones", failing_network),
        trial("del_without_cache_calls_no_plugin", forgotten_cache),
        trial("a_tap_sees_an_injected_datagram", tap_and_inject),
        trial("pods_exchange_data", exchanges),
        trial("iperf3_reports_what_arrived", iperf),
        trial("a_snapshot_shows_what_has_changed", snapshots),
        trial("a_taken_interface_name_is_refused_before_any_plugin", taken_name),
    ]);
}

/// A pod with net1 made by hand, as the plugins would make it.
fn by_hand(lab: &Lab, node: &Node, name: &str) -> Result<Pod, Failed> {
    let pod = node.pod(name).bare()?;
    let (prefix, other) = (lab.prefix(), pod.netns_name().trim_start_matches(&lab.prefix()).to_owned());
    if lab.attachment() == Attachment::Bridge {
        node.ip_batch(&["link add cni0 type bridge".to_owned()])?;
        // While its own link-local address is tentative, a router cannot ask for the neighbours of what it forwards.
        node.sysctl("net/ipv6/conf/cni0/accept_dad", "0")?;
    }
    let mut lines = match lab.attachment() {
        Attachment::Bridge => vec![
            "link set cni0 up".to_owned(),
            format!("link add veth0 type veth peer name net1 netns {prefix}{other}"),
            "link set veth0 master cni0 up".to_owned(),
        ],
        Attachment::Macvlan => vec![
            "link add link up0 name mac0 type macvlan mode bridge".to_owned(),
            format!("link set mac0 netns {prefix}{other} name net1"),
        ],
    };
    if lab.attachment() == Attachment::Bridge {
        lines.extend(
            node.number().pods(Host(1)).map(|gateway| format!("address add {gateway} dev cni0{}", nodad(gateway))),
        );
    }
    node.ip_batch(&lines)?;
    let mut lines: Vec<String> = node
        .number()
        .pods(Host(200))
        .map(|address| format!("address add {address} dev net1{}", nodad(address)))
        .to_vec();
    lines.push("link set net1 up".to_owned());
    lines.extend(node.number().gateway().map(|gateway| format!("route add default via {gateway}")));
    pod.ip_batch(&lines)?;
    Ok(pod)
}

/// No second of waiting for duplicates.
fn nodad(address: IpNetwork) -> &'static str {
    if address.is_ipv6() { " nodad" } else { "" }
}

fn five_routers(attachment: Attachment) -> Outcome {
    let lab = Lab::two_clusters(attachment)?;
    let a = by_hand(&lab, lab.ohio(), "plumbr-a")?;
    let b = by_hand(&lab, lab.mumbai(), "plumbr-b")?;
    a.ping("10.20.1.200")?.all_received()?.with_ttl(59)?;
    b.ping("10.10.1.200")?.all_received()?.with_ttl(59)?;
    a.ping("fd10:20:1::200")?.all_received()?.with_ttl(59)?;
    let nodes = if attachment == Attachment::Bridge { 2 } else { 0 };
    assert_eq!(lab.routers().len() + nodes, 5);
    Ok(())
}

fn several_clusters() -> Outcome {
    let spec = LabSpec::new(Attachment::Bridge).cluster("ohio", 2).cluster("mumbai", 1).cluster("tokyo", 1);
    let lab = Lab::build(&spec)?;
    let names: Vec<&str> = lab.nodes().iter().map(Node::name).collect();
    assert_eq!(names, ["ohio-1", "ohio-2", "mumbai-1", "tokyo-1"]);
    let pods: Vec<Pod> = lab.nodes().iter().map(|node| by_hand(&lab, node, "pod")).collect::<Result<_, _>>()?;
    for (pod, ttl) in pods.iter().zip([64, 61, 60, 59]).skip(1) {
        let to = pod.node().number().pods(Host(200));
        pods[0].ping_times(to[0].ip(), 1)?.all_received()?.with_ttl(ttl)?;
        pods[0].ping_times(to[1].ip(), 1)?.all_received()?.with_ttl(ttl)?;
    }
    assert!(lab.node("ohio-3").unwrap_err().to_string().contains("ohio-2"));
    Ok(())
}

fn small_mtu() -> Outcome {
    let lab = Lab::build(&LabSpec::two_clusters(Attachment::Bridge).mtu_bytes(1400))?;
    let a = by_hand(&lab, lab.ohio(), "a")?;
    let _b = by_hand(&lab, lab.mumbai(), "b")?;
    assert_eq!(lab.ohio().interface("up0")?.mtu_bytes, 1400);
    a.ping_with("10.20.1.200", &["-c", "2", "-s", "1372", "-M", "do"])?.all_received()?;
    let too_big = a.ping_with("10.20.1.200", &["-c", "2", "-s", "1373", "-M", "do"])?.none_received()?;
    assert!(too_big.ran.stdout.contains("mtu = 1400"), "{}", too_big.ran.stdout);
    Ok(())
}

fn assert_nothing_left(prefix: &str, processes: &[ProcessMark]) {
    let begins = |directory: &str| {
        let entries = fs::read_dir(directory).unwrap();
        entries.flatten().map(|entry| entry.path()).filter(|path| path.to_string_lossy().contains(prefix)).collect()
    };
    let (namespaces, files): (Vec<_>, Vec<_>) = (begins("/run/netns"), begins(adit_lab::STATE_DIRECTORY));
    assert!(namespaces.is_empty() && files.is_empty(), "{namespaces:?} {files:?}");
    for process in processes {
        assert!(!process.is_alive(), "{process:?}");
    }
}

fn processes(lab: &Lab) -> Vec<ProcessMark> {
    lab.state().processes.into_iter().map(|recorded| recorded.process).collect()
}

fn drop_leaves_nothing() -> Outcome {
    let lab = Lab::two_clusters(Attachment::Bridge)?;
    let pod = by_hand(&lab, lab.ohio(), "a")?;
    let background = pod.spawn(["sleep", "1000"])?;
    // A process that the lab does not know of.
    let mut stray = pod
        .command("sh")
        .args(["-c", "echo here; exec sleep 1000"])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    // Until it says so it may not have entered the pod's namespace, and nobody could tell that it belongs there.
    let mut said = String::new();
    BufReader::new(stray.stdout.take().ok_or("stdout")?).read_line(&mut said).map_err(|error| error.to_string())?;
    assert_eq!(said, "here\n");
    let mut processes = processes(&lab);
    assert_eq!(processes.len(), 2);
    processes.extend(ProcessMark::of(stray.id().try_into().map_err(|_| "pid")?));
    let prefix = lab.prefix();
    drop(lab);
    assert_nothing_left(&prefix, &processes);
    drop(background);
    stray.wait().map_err(|error| error.to_string())?;
    Ok(())
}

fn panic_leaves_nothing() -> Outcome {
    let (mut prefix, mut left) = (String::new(), Vec::new());
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let lab = Lab::two_clusters(Attachment::Bridge).unwrap();
        let _pod = lab.ohio().pod("a").bare().unwrap();
        prefix = lab.prefix();
        left = processes(&lab);
        std::panic::resume_unwind(Box::new("on purpose"));
    }));
    assert!(outcome.is_err() && !left.is_empty());
    assert_nothing_left(&prefix, &left);
    Ok(())
}

fn kept_lab() -> Outcome {
    let lab = Lab::two_clusters(Attachment::Bridge)?;
    let _pod = lab.ohio().pod("a").bare()?;
    let left = processes(&lab);
    let state = lab.keep()?;
    assert!(left.iter().all(|process| process.is_alive()));
    let file = Path::new(adit_lab::STATE_DIRECTORY).join(format!("{}.json", state.prefix));
    let written: adit_lab::State =
        serde_json::from_slice(&fs::read(&file).map_err(|error| error.to_string())?).map_err(|e| e.to_string())?;
    assert!(written.kept);
    assert_eq!(written.namespaces.len(), 6, "{written:?}");
    adit_lab::janitor()?;
    assert!(file.exists(), "a janitor takes no kept lab");
    assert_eq!(Lab::teardown(&state.prefix)?.as_slice(), std::slice::from_ref(&state.prefix));
    assert_nothing_left(&state.prefix, &left);
    assert!(Lab::teardown(&state.prefix).unwrap_err().to_string().contains(&state.prefix));
    Ok(())
}

fn named_lab() -> Outcome {
    let spec = LabSpec::two_clusters(Attachment::Bridge).named("adit-named");
    let lab = Lab::build(&spec)?;
    assert_eq!(lab.ohio().netns_name(), "adit-named-ohio-1");
    assert!(Lab::build(&spec).unwrap_err().to_string().contains("stands already"));
    lab.down()?;
    Lab::build(&spec)?.down()?;
    Ok(())
}

fn machine_is_untouched() -> Outcome {
    // Not by comparing the machine's links: other trials of this very run may not change them either, but other
    // programs may. So: nothing of this lab is in the machine's namespace.
    let lab = Lab::two_clusters(Attachment::Bridge)?;
    let _pod = by_hand(&lab, lab.ohio(), "a")?;
    let all =
        [lab.routers().iter().map(|router| router.interfaces()).collect::<Vec<_>>(), vec![lab.ohio().interfaces()]];
    let machine = fs::read_dir("/sys/class/net").map_err(|error| error.to_string())?;
    let machine: Vec<String> =
        machine.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    for interface in all.into_iter().flatten() {
        for interface in interface?.into_iter().filter(|interface| interface.name != "lo") {
            assert!(!machine.contains(&interface.name), "{} is in the machine's namespace", interface.name);
        }
    }
    Ok(())
}

fn no_capability() -> Outcome {
    let lab = Lab::two_clusters(Attachment::Bridge)?;
    let pod = by_hand(&lab, lab.ohio(), "a")?;
    let capabilities = pod.capabilities()?;
    assert!(capabilities.are_none(), "{capabilities:?}");
    assert_eq!((capabilities.uid, capabilities.gid), (65534, 65534));
    pod.ping("10.10.1.1")?.all_received()?.with_ttl(64)?;
    pod.ping("fd10:10:1::1")?.all_received()?;
    let status = pod.run(["cat", "/proc/self/status"])?.ok()?.stdout;
    assert!(status.contains("CapBnd:\t0000000000000000") && status.contains("NoNewPrivs:\t1"), "{status}");
    let refused = pod.run(["ip", "link", "set", "net1", "down"])?.fails()?;
    assert!(refused.stderr.contains("Operation not permitted"), "{refused:?}");
    assert!(pod.run(["id", "-u"])?.ok()?.stdout.starts_with("65534"));
    Ok(())
}

/// A node whose plugins are spies: `net` makes net1, `chained` comes after it.
fn spied(lab: &Lab) -> Result<Spies, Failed> {
    let spies = Spies::in_directory(lab.directory("spies")?)?;
    let result = json!({"cniVersion": "1.1.0", "interfaces": [{"name": "net1", "sandbox": "/run/netns/x"}],
                        "ips": [{"address": "10.10.1.200/24", "interface": 0}]});
    spies.answering("net", &result)?;
    spies.answering("chained", &result)?;
    lab.ohio().set_plugin_path(&[spies.directory()]);
    Ok(spies)
}

fn chain() -> Nad {
    Nad::new(
        "chain",
        json!({"cniVersion": "1.1.0", "plugins": [
            {"type": "net", "capabilities": {"ips": true}}, {"type": "chained", "capabilities": {"mac": true}}]}),
    )
}

const ANNOTATION: &str = r#"[{"name":"chain","ips":["10.10.1.200/24","fd10:10:1::200/64"],"mac":"02:00:00:00:77:12",
    "cni-args":{"tun":{"ips":["10.4.0.1/32"]}}}]"#;

fn multus_calls() -> Outcome {
    let lab = Lab::two_clusters(Attachment::Bridge)?;
    let spies = spied(&lab)?;
    let mut pod = lab
        .ohio()
        .pod("plumbr-a")
        .in_namespace("demo")
        .attach(Nad { namespace: "demo".into(), ..chain() }, ANNOTATION)?;
    let id = pod.identity().clone();
    let four = format!(
        "K8S_POD_NAMESPACE=demo;K8S_POD_NAME=plumbr-a;K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
        id.container_id, id.uid
    );
    let [add, second] = <[_; 2]>::try_from(spies.calls()?).map_err(|calls| format!("{calls:?}"))?;
    assert_eq!([&add.plugin, &second.plugin], ["net", "chained"]);
    assert_eq!(add.verb(), "ADD");
    assert_eq!(
        add.variable("CNI_ARGS"),
        format!(
            "IgnoreUnknown=true;{four};{four};IgnoreUnknown=1;MAC=02:00:00:00:77:12;IP=10.10.1.200/24,fd10:10:1::200/64"
        )
    );
    assert_eq!(second.variable("CNI_ARGS"), add.variable("CNI_ARGS"));
    assert_eq!(add.variable("CNI_IFNAME"), "net1");
    assert_eq!(add.variable("CNI_CONTAINERID"), id.container_id);
    assert_eq!(add.variable("CNI_NETNS"), pod.path().to_string_lossy());
    assert_eq!(add.variable("CNI_PATH"), spies.directory().to_string_lossy());
    assert_eq!(add.variable("ADIT_RUN_DIR"), lab.ohio().run_dir().to_string_lossy());
    let node = lab.ohio().root(["readlink", "/proc/self/ns/net"])?.ok()?.stdout;
    assert_eq!(add.netns, node.trim(), "plugins run in the node's namespace");
    let args = json!({"cni": {"tun": {"ips": ["10.4.0.1/32"]}}});
    assert_eq!(
        add.stdin,
        json!({"cniVersion": "1.1.0", "name": "chain", "type": "net", "args": args, "capabilities": {"ips": true},
               "runtimeConfig": {"ips": ["10.10.1.200/24", "fd10:10:1::200/64"]}})
    );
    assert_eq!(
        second.stdin,
        json!({"cniVersion": "1.1.0", "name": "chain", "type": "chained", "args": args, "capabilities": {"mac": true},
               "runtimeConfig": {"mac": "02:00:00:00:77:12"},
               "prevResult": {"cniVersion": "1.1.0", "interfaces": [{"name": "net1", "sandbox": "/run/netns/x"}],
                              "ips": [{"address": "10.10.1.200/24", "interface": 0}]}})
    );
    let status = serde_json::to_value(pod.network_status()).map_err(|error| error.to_string())?;
    assert_eq!(status, json!([{"name": "demo/chain", "interface": "net1", "ips": ["10.10.1.200"]}]));

    spies.forget()?;
    pod.detach()?;
    let calls = spies.calls()?;
    let order: Vec<_> = calls.iter().map(|call| (call.plugin.as_str(), call.verb())).collect();
    assert_eq!(order, [("chained", "DEL"), ("net", "DEL")]);
    for call in &calls {
        assert_eq!(call.variable("CNI_ARGS"), format!("IgnoreUnknown=true;{four};{four};IgnoreUnknown=1"));
        assert_eq!(call.stdin["prevResult"]["ips"][0]["address"], "10.10.1.200/24");
    }
    assert_eq!(calls[1].stdin["runtimeConfig"]["ips"][0], "10.10.1.200/24");
    Ok(())
}

fn failing_network() -> Outcome {
    let lab = Lab::two_clusters(Attachment::Bridge)?;
    let spies = spied(&lab)?;
    spies.failing("broken", 7, "no such master")?;
    let node = lab.ohio();
    node.define(chain())?;
    let broken = Nad::new("broken", json!({"cniVersion": "1.1.0", "type": "broken"}));
    let error = node.pod("a").attach(broken, "chain@sec0,broken").unwrap_err();
    assert_eq!(error.cni().map(|error| error.msg.as_str()), Some("no such master"), "{error}");
    assert!(error.to_string().contains("attach default/broken as net2 to pod default/a"), "{error}");
    let calls = spies.calls()?;
    let order: Vec<_> = calls.iter().map(|call| format!("{} {}", call.verb(), call.plugin)).collect();
    assert_eq!(order, ["ADD net", "ADD chained", "ADD broken", "DEL broken", "DEL chained", "DEL net"]);
    assert_eq!(calls[5].variable("CNI_IFNAME"), "sec0");
    assert!(!lab.state().namespaces.iter().any(|name| name.ends_with("-a")), "the pod is gone");
    Ok(())
}

fn forgotten_cache() -> Outcome {
    let lab = Lab::two_clusters(Attachment::Bridge)?;
    let spies = spied(&lab)?;
    let mut pod = lab.ohio().pod("a").attach(chain(), "chain")?;
    spies.forget()?;
    pod.forget_cache()?;
    pod.detach()?;
    assert!(spies.calls()?.is_empty());
    Ok(())
}

fn tap_and_inject() -> Outcome {
    let lab = Lab::two_clusters(Attachment::Bridge)?;
    let _target = by_hand(&lab, lab.mumbai(), "b")?;
    let tap = lab.router(2)?.tap("next", |packet| packet.protocol == UDP && packet.has_port(6090))?;
    let address = |text: &str| text.parse().map_err(|_| Failed::from(text));
    let liar = Datagram::new(address("10.66.66.66:6090")?, address("10.20.1.200:6090")?, *b"hello");
    lab.router(1)?.inject(&liar.clone().with_checksum(Checksum::Zero))?;
    lab.ohio().inject(&liar)?;
    let six = Datagram::new(address("[fd66::66]:6090")?, address("[fd10:20:1::200]:6090")?, *b"six");
    lab.ohio().inject(&six)?;
    let packets = tap.wait_for(3, Duration::from_secs(5))?;
    assert_eq!(packets.len(), 3, "each is seen once: {packets:?}");
    let [zero, right, six] = <[_; 3]>::try_from(packets).map_err(|packets| format!("{packets:?}"))?;
    assert_eq!((zero.src.to_string(), zero.checksum, zero.ttl), ("10.66.66.66".into(), Some(0), 63));
    assert_eq!(zero.payload, b"hello");
    assert!(right.checksum.is_some_and(|checksum| checksum != 0));
    assert_eq!((right.ttl, right.outgoing), (62, true));
    assert_eq!((six.src.to_string(), six.payload.as_slice()), ("fd66::66".into(), b"six".as_slice()));
    Ok(())
}

fn exchanges() -> Outcome {
    let lab = Lab::two_clusters(Attachment::Bridge)?;
    let a = by_hand(&lab, lab.ohio(), "a")?;
    let b = by_hand(&lab, lab.mumbai(), "b")?;
    let limit = Duration::from_secs(5);
    for address in b.node().number().pods(Host(200)) {
        let udp = b.udp_echo((address.ip(), 0).into())?;
        assert_eq!(a.udp_exchange(udp.address(), b"hello", limit)?, b"hello");
        assert_eq!(udp.served(), 1);
        let tcp = b.tcp_echo((address.ip(), 0).into())?;
        let much = vec![7; 3_000_000];
        assert!(a.tcp_exchange(tcp.address(), &much, limit)? == much);
    }
    Ok(())
}

fn iperf() -> Outcome {
    let lab = Lab::two_clusters(Attachment::Bridge)?;
    let a = by_hand(&lab, lab.ohio(), "a")?;
    let b = by_hand(&lab, lab.mumbai(), "b")?;
    let to = b.node().number().pods(Host(200))[0].ip();
    let short = IperfOptions { duration: Duration::from_secs(1), ..IperfOptions::default() };
    let tcp = a.iperf3(&b, to, &short)?;
    assert!(tcp.bits_per_second > 1e7 && tcp.retransmits.is_some(), "{tcp:?}");
    let udp = a.iperf3(&b, to, &IperfOptions { udp_bits_per_second: Some(5_000_000), ..short })?;
    assert!((4e6..6e6).contains(&udp.bits_per_second) && udp.lost_percent == Some(0.0), "{udp:?}");
    Ok(())
}

fn snapshots() -> Outcome {
    let lab = Lab::two_clusters(Attachment::Bridge)?;
    let node = lab.ohio();
    let before = node.snapshot()?;
    before.unchanged(&node.snapshot()?)?;
    node.ip_batch(&[
        "link add dummy0 mtu 1400 type bridge".to_owned(),
        "address add 192.0.2.1/24 dev dummy0".to_owned(),
    ])?;
    fs::write(node.run_dir().join("left"), "over").map_err(|error| error.to_string())?;
    let difference = before.difference(&node.snapshot()?);
    assert_eq!(difference.gone, Vec::<String>::new());
    let new = difference.to_string();
    for line in ["+ address 192.0.2.1/24 dev dummy0", "+ file left, 4 bytes", "+ link dummy0 kind bridge down mtu 1400"]
    {
        assert!(new.contains(line), "{new}");
    }
    node.ip_batch(&["link delete dummy0".to_owned()])?;
    fs::remove_file(node.run_dir().join("left")).map_err(|error| error.to_string())?;
    before.unchanged(&node.snapshot()?)?;
    Ok(())
}

fn taken_name() -> Outcome {
    let lab = Lab::two_clusters(Attachment::Bridge)?;
    let spies = spied(&lab)?;
    let mut pod = by_hand(&lab, lab.ohio(), "a")?;
    let error = pod.attach(chain(), "chain").unwrap_err();
    assert!(error.to_string().contains("validateIfName: interface name net1 already exists"), "{error}");
    assert!(spies.calls()?.iter().all(|call| call.verb() == "DEL"));
    Ok(())
}
