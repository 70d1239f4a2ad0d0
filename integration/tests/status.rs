//! What the outside is told of tunnels: to a person who watches, to a group without root, to Prometheus.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use adit_integration::{
    sealed::{Format, KeyPair, SealedPair},
    trial,
    tunnels::{FIRST_POD, Family, Pair, annotation, lab_with_agents, list, net1, outer, tun, tunnels, with},
};
use adit_lab::{Attachment, Binaries, COMMAND_DEADLINE, LabSpec, Node, Ran, eventually, run};
use libtest_mimic::Failed;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

type Outcome = Result<(), Failed>;

/// A group that nobody else is in.
const GROUP: &str = "41234";

fn main() {
    adit_integration::main(vec![
        trial("a_watch_survives_the_agent_and_ends_when_it_is_told_to", watch_survives),
        trial("a_watch_ends_when_nobody_reads_any_more", watch_is_closed),
        trial("a_watch_for_programs_is_a_document_a_line_with_rates", watch_json),
        trial("a_group_may_ask_how_tunnels_are_and_nothing_else", group_reads),
        trial("the_documented_group_is_told_by_an_agent_without_a_capability_for_it", documented_group),
        trial("show_tells_who_wrote_each_value_of_a_real_tunnel", shown),
        trial("a_graph_of_two_nodes_joins_both_ends_and_graphviz_draws_it", drawn),
        trial("the_doctor_finds_the_broken_leg_and_no_other", doctor),
        trial("the_doctor_tells_why_a_peer_is_silent", silent_peer),
        trial("the_doctor_tells_of_a_wrong_key_at_both_ends", wrong_key),
        trial("a_support_bundle_holds_no_secret", bundle),
        trial("readers_that_hold_every_slot_starve_no_plugin", readers_do_not_starve),
        trial("prometheus_reads_every_metric_of_real_tunnels", scraped),
        trial("scrapes_that_dribble_are_hung_up_on", slow_scrapes),
    ]);
}

/// `adit status --watch` on a node, its output a pipe; it ends with this value.
struct Watching {
    process: Child,
    said: Arc<Mutex<String>>,
}

impl Watching {
    fn start(node: &Node, arguments: &[&str]) -> Result<Self, Failed> {
        let mut command = node.command(Binaries::get()?.program("adit")?);
        command.arg("--run-dir").arg(node.run_dir()).args(["status", "--watch", "--interval", "100ms"]).args(arguments);
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let said = Arc::new(Mutex::new(String::new()));
        let (pipe, heard) = (process.stdout.take().ok_or("no pipe")?, Arc::clone(&said));
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let mut heard = heard.lock().unwrap();
                heard.push_str(&line);
                heard.push('\n');
            }
        });
        Ok(Self { process, said })
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    fn says(&self, words: &str) -> Outcome {
        let waited = eventually(words, Duration::from_secs(10), || Ok(self.said().contains(words).then_some(())));
        Ok(waited.map_err(|error| format!("{error}: {}", self.said()))?)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn watch_survives() -> Outcome {
    let pair = Pair::usual()?;
    let ohio = pair.lab.ohio();
    let mut watching = Watching::start(ohio, &[])?;
    watching.says("/s in ")?;
    ohio.kill_agent()?;
    watching.says("the agent does not answer; waiting since ")?;
    ohio.start_agent()?;
    watching.says("the agent answers again, as it has not since ")?;
    watching.said.lock().unwrap().clear();
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    watching.says("/s in ")?;
    assert!(!watching.said().contains("waiting since"), "{}", watching.said());
    kill(Pid::from_raw(watching.process.id().cast_signed()), Signal::SIGINT)?;
    let ended = eventually("the watch to end", COMMAND_DEADLINE, || Ok(watching.process.try_wait().ok().flatten()))?;
    assert!(ended.success(), "{ended}");
    Ok(())
}

fn watch_is_closed() -> Outcome {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let mut command = lab.ohio().command(Binaries::get()?.program("adit")?);
    command.arg("--run-dir").arg(lab.ohio().run_dir()).args(["status", "--watch", "--interval", "100ms"]);
    let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    drop(process.stdout.take());
    let ended = eventually("the watch to end", COMMAND_DEADLINE, || Ok(process.try_wait().ok().flatten()));
    let _ = process.kill();
    let _ = process.wait();
    assert!(ended?.success());
    Ok(())
}

fn watch_json() -> Outcome {
    let pair = Pair::usual()?;
    let watching = Watching::start(pair.lab.ohio(), &["--json"])?;
    watching.says("perSecond")?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    eventually("a rate that is not zero", Duration::from_secs(10), || {
        let said = watching.said();
        // The last line may be half of one.
        let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let documents: Vec<Value> = whole.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let rates =
            documents.iter().filter_map(|document| document["tunnels"][0]["peers"][0]["perSecond"]["txBytes"].as_u64());
        Ok((documents.len() == whole.lines().count() && rates.max() > Some(0)).then_some(()))
    })?;
    Ok(())
}

/// An agent on `node` with more arguments than usual.
fn start_agent(node: &Node, arguments: &str) -> Outcome {
    Ok(node.start_agent_under(&["sh", "-c", &format!("exec \"$0\" {arguments}")])?)
}

/// `adit` as a user who is nobody but for one group.
fn adit_of_group(node: &Node, group: &str, arguments: &[&str]) -> Result<Ran, Failed> {
    let mut command = node.command("setpriv");
    command.args(["--reuid", "65534", "--regid", group, "--clear-groups"]);
    // Where root alone may enter, nobody else finds the program.
    let program = pair_directory(node)?.join("adit");
    if !program.exists() {
        std::fs::copy(Binaries::get()?.program("adit")?, &program)?;
    }
    command.arg(program).arg("--run-dir").arg(node.run_dir()).args(arguments);
    Ok(run(command, None, COMMAND_DEADLINE)?)
}

fn pair_directory(node: &Node) -> Result<PathBuf, Failed> {
    Ok(node.run_dir().parent().ok_or("a run directory without a parent")?.to_owned())
}

fn group_reads() -> Outcome {
    let lab = adit_lab::Lab::two_clusters(Attachment::Bridge)?;
    let ohio = lab.ohio();
    start_agent(ohio, &format!("--status-group {GROUP}"))?;
    let nad = list("told", &[net1(&lab, ohio), tun(outer(lab.mumbai(), Family::V4, FIRST_POD), "10.4.0.1/30")]);
    let _pod = ohio.pod("told").attach(nad, &annotation("told", ohio, FIRST_POD))?;
    let socket = ohio.run_dir().join("status/status.sock");
    eventually("the socket", COMMAND_DEADLINE, || Ok(socket.exists().then_some(())))?;

    let told = adit_of_group(ohio, GROUP, &["status"])?.ok()?;
    assert!(told.stdout.contains("default/told") && told.stderr.contains("vxlan"), "{told:?}");
    let told = adit_of_group(ohio, GROUP, &["status", "--json"])?.json()?;
    let whole = |status: &Value| status.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>());
    let by_root = &tunnels(ohio)?[0];
    assert_eq!(whole(&told["tunnels"][0]), whole(by_root));
    assert_eq!(told["tunnels"][0]["attachment"], by_root["attachment"]);
    let refused = adit_of_group(ohio, "65534", &["status"])?.fails()?;
    assert!(refused.stderr.contains("only root may speak to it"), "{refused:?}");
    let refused = adit_of_group(ohio, GROUP, &["key", "show", "default/told"])?.fails()?;
    assert!(refused.stderr.contains("only root"), "{refused:?}");

    // What it does not answer it refuses, whoever asks.
    for (request, expected) in [
        (json!({ "version": 1, "request": { "op": "ping" } }), "done"),
        (json!({ "version": 1, "request": { "op": "status" } }), "told"),
        (json!({ "version": 2, "request": { "op": "ping" } }), "protocol version 2 is not 1"),
        (
            json!({ "version": 1, "request": { "op": "detach",
                "attachment": { "containerId": "c", "cniIfName": "net1", "ifName": "tun" } } }),
            "tells how tunnels are, and does nothing else",
        ),
        (json!({ "version": 1, "request": { "op": "ping", "padding": "x".repeat(5000) } }), "too long"),
    ] {
        let answer = ask(&socket, &request)?;
        assert!(answer.contains(expected), "{request}: {answer}");
    }
    assert_eq!(tunnels(ohio)?.len(), 1);
    Ok(())
}

/// As the unit's SupplementaryGroups and the pod's supplementalGroups have it, with the capabilities that both leave.
fn documented_group() -> Outcome {
    let text = std::fs::read_to_string(adit_integration::scripts::root().join("docs/status.md"))?;
    let arguments = format!("\"--status-group\", \"{GROUP}\"");
    assert!(text.contains(&format!("supplementalGroups: [{GROUP}]")) && text.contains(&arguments));
    let lab = adit_lab::Lab::two_clusters(Attachment::Bridge)?;
    let ohio = lab.ohio();
    let capabilities = "-all,+net_admin,+net_raw,+sys_admin,+sys_ptrace,+dac_read_search";
    let set = format!("--bounding-set={capabilities}");
    let script = format!("exec setpriv --groups={GROUP} --no-new-privs {set} \"$0\" --status-group {GROUP}");
    ohio.start_agent_under(&["sh", "-c", &script])?;
    let told = eventually("the socket", COMMAND_DEADLINE, || {
        Ok(adit_of_group(ohio, GROUP, &["status"]).ok().and_then(|ran| ran.ok().ok()))
    })?;
    assert!(told.stdout.contains("no tunnels on this node"), "{told:?}");
    ohio.stop_agent()?;

    // Without the group it says what to give it.
    let refused =
        ohio.start_agent_under(&["sh", "-c", &script.replace(&format!("--groups={GROUP}"), "--clear-groups")]);
    let words = refused.err().ok_or("an agent that may not join the group starts")?.to_string();
    assert!(words.contains("SupplementaryGroups="), "{words}");
    Ok(())
}

fn shown() -> Outcome {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let ohio = lab.ohio();
    let tun = with(tun(outer(lab.mumbai(), Family::V4, FIRST_POD), "10.4.0.1/30"), &json!({ "overrides": ["mtu"] }));
    let nad = list("shown", &[net1(&lab, ohio), tun]);
    let mut networks: Value = serde_json::from_str(&annotation("shown", ohio, FIRST_POD))?;
    networks[0]["cni-args"] = json!({ "tun": { "mtu": 1300 } });
    let _pod = ohio.pod("shown").attach(nad, &networks.to_string())?;
    let told = ohio.adit(["show", "default/shown", "--json"])?.json()?;
    let from = |key: &str| {
        let found = told["settings"].as_array().into_iter().flatten().find(|setting| setting["key"] == key);
        found.map(|setting| (setting["value"].to_string(), setting["from"].to_string())).unwrap_or_default()
    };
    let expect = |key: &str, value: &str, origin: &str| {
        assert_eq!(from(key), (format!("\"{value}\""), format!("\"{origin}\"")), "{key}");
    };
    expect("mtu", "1300", "the pod's annotation: cni-args.tun.mtu");
    expect("encryption", "none", "the network: encryption");
    expect("peers[0].endpoint", "10.20.1.200:6090", "the network: remote");
    expect("local", "10.10.1.200:6090", "found: first address of net1, port of udp");
    let text = ohio.adit(["show", "default/shown:tun"])?.ok()?.stdout;
    assert!(text.contains("KEY") && text.contains("cni-args.tun.mtu"), "{text}");
    let refused = ohio.adit(["show", "default/nobody"])?.fails()?;
    assert!(refused.stderr.contains("this node has no tunnel default/nobody"), "{refused:?}");
    Ok(())
}

fn drawn() -> Outcome {
    let pair = Pair::usual()?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    let directory = pair.lab.directory("graphs")?;
    let mut files = Vec::new();
    for node in [pair.lab.ohio(), pair.lab.mumbai()] {
        let file = directory.join(format!("{}.json", node.name()));
        std::fs::write(&file, node.adit(["status", "--json"])?.ok()?.stdout)?;
        files.push(file.display().to_string());
    }
    let draw = |arguments: &[&str]| pair.lab.ohio().adit([&["graph"], arguments].concat());
    let [ohio, mumbai] = [files[0].as_str(), files[1].as_str()];
    let joined = draw(&["--format", "json", ohio, mumbai])?.json()?;
    assert_eq!(
        (joined["nodes"].as_array().map(Vec::len), joined["edges"].as_array().map(Vec::len)),
        (Some(2), Some(1)),
        "{joined}"
    );
    assert_eq!(joined["edges"][0]["state"], "up");
    let picture = draw(&["--format", "svg", ohio, mumbai])?.ok()?.stdout;
    assert!(picture.contains("<svg") && picture.matches("class=\"edge\"").count() == 1, "{picture}");
    let alone = draw(&["--interval", "100ms"])?.ok()?.stdout;
    assert!(alone.contains("traffic: 0 B/s forth") && alone.contains("10.20.1.200:6090"), "{alone}");

    // Whoever names a pod draws nothing: graphviz reads two nodes and one edge.
    let mut hostile: Value = serde_json::from_str(&std::fs::read_to_string(ohio)?)?;
    hostile["tunnels"][0]["pod"]["name"] = json!("a\"]; x -- y [label=\"\\N<b>&lt;\n}");
    std::fs::write(ohio, hostile.to_string())?;
    let picture = draw(&["--format", "svg", ohio, mumbai])?.ok()?.stdout;
    assert_eq!(
        (picture.matches("class=\"node\"").count(), picture.matches("class=\"edge\"").count()),
        (2, 1),
        "{picture}"
    );
    let refused = draw(&["/etc/hostname"])?.fails()?;
    assert!(refused.stderr.contains("adit status --json"), "{refused:?}");
    Ok(())
}

/// The lines that the doctor marks so.
fn marked(node: &Node, mark: &str) -> adit_lab::Result<Vec<String>> {
    let pod = format!("default/{}-a", node.cluster());
    let plugins = Binaries::get()?.directory().display().to_string();
    let told = node.adit(["doctor", "--pod", &pod, "--cni-bin", &plugins])?;
    assert_eq!(told.success(), !told.stdout.contains("FAIL"), "{told:?}");
    Ok(told.stdout.lines().filter(|line| line.starts_with(mark)).map(str::to_owned).collect())
}

fn doctor() -> Outcome {
    let pair = Pair::usual()?;
    let (pod, ohio) = (&pair.ohio, pair.lab.ohio());
    pod.ping("10.4.0.2")?.all_received()?;
    assert!(marked(ohio, "FAIL")?.is_empty() && marked(ohio, "warn")?.is_empty());
    assert!(marked(ohio, "ok")?.iter().any(|line| line.contains("peer 10.20.1.200:6090: answers")));
    for what in ["plugins: tun in ", "agent: ", "descriptors are open", "kernel: there: "] {
        assert!(marked(ohio, "ok")?.iter().any(|line| line.contains(what)), "{what}: {:?}", marked(ohio, "ok")?);
    }

    // Each leg is broken, found, and mended again.
    for (breaks, mends, leg, what) in [
        (
            "ip address delete 10.4.0.1/30 dev tun",
            "ip address add 10.4.0.1/30 dev tun",
            "addresses",
            "10.4.0.1/30 is missing on tun",
        ),
        ("ip route delete 10.20.1.0/24", "ip route add 10.20.1.0/24 via 10.10.1.1", "outer route", "10.20.1.200"),
        ("ip link set tun down", "ip link set tun up", "link", "tun is down"),
        ("ip link set net1 down", "ip link set net1 up", "outer device", "net1 is down"),
    ] {
        let routes = pod.root(["ip", "route"])?.ok()?.stdout;
        pod.root(breaks.split(' '))?.ok()?;
        let failed = marked(ohio, "FAIL")?;
        let [only] = failed.as_slice() else { return Err(format!("{breaks}: {failed:?}").into()) };
        assert!(
            only.contains(&format!("tun, {leg}: ")) && only.contains(what) && only.contains(" \u{2014} "),
            "{breaks}: {only}"
        );
        pod.root(mends.split(' '))?.ok()?;
        // A link that was down has lost its routes.
        for route in routes.lines().filter(|route| !route.contains("proto kernel")) {
            pod.root(
                ["ip", "route", "replace"]
                    .into_iter()
                    .chain(route.split_whitespace())
                    .filter(|word| *word != "linkdown"),
            )?
            .ok()?;
        }
        let after = marked(ohio, "FAIL")?;
        assert!(after.is_empty(), "after {mends}: {after:?}");
    }

    ohio.stop_agent()?;
    let failed = marked(ohio, "FAIL")?;
    assert!(failed.iter().any(|line| line.starts_with("FAIL  agent: cannot reach the agent")), "{failed:?}");
    assert!(failed.iter().any(|line| line.contains("tun has no carrier")), "{failed:?}");
    ohio.start_agent()?;
    let nobody = ohio.adit(["doctor", "--pod", "default/nobody", "--json"])?.fails()?;
    assert!(nobody.stdout.contains("has no tunnel on this node"), "{nobody:?}");
    Ok(())
}

/// What the doctor marks FAIL becomes one line, with these words.
fn fails_alone(node: &Node, words: &str) -> Outcome {
    let mut last = Vec::new();
    let seen = eventually(words, Duration::from_secs(20), || {
        last = marked(node, "FAIL")?;
        Ok(matches!(last.as_slice(), [only] if only.contains(words) && only.contains(" \u{2014} ")).then_some(()))
    });
    Ok(seen.map_err(|error| format!("{error}: {last:?}"))?)
}

fn mended(node: &Node) -> Outcome {
    let mut last = Vec::new();
    let seen = eventually("nothing that fails", Duration::from_secs(20), || {
        last = marked(node, "FAIL")?;
        Ok(last.is_empty().then_some(()))
    });
    Ok(seen.map_err(|error| format!("{error}: {last:?}"))?)
}

fn silent_peer() -> Outcome {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let attach = |node: &Node, peer: &Node, inner: [&str; 2]| {
        let endpoint = outer(peer, Family::V4, FIRST_POD);
        let changes = json!({
            "remote": null, "probe": { "interval": "200ms" },
            "peers": [{ "endpoint": endpoint.to_string(), "allowedIPs": [inner[1], "10.99.0.0/16"] }],
            "ipam": { "type": "static", "addresses": [{ "address": inner[0] }], "routes": [{ "dst": "10.99.0.0/16" }] },
        });
        let nad = list("tunnelled", &[net1(&lab, node), with(tun(endpoint, inner[0]), &changes)]);
        node.pod(&format!("{}-a", node.cluster())).attach(nad, &annotation("tunnelled", node, FIRST_POD))
    };
    let ohio = attach(lab.ohio(), lab.mumbai(), ["10.4.0.1/30", "10.4.0.2/32"])?;
    let _mumbai = attach(lab.mumbai(), lab.ohio(), ["10.4.0.2/30", "10.4.0.1/32"])?;
    ohio.ping("10.4.0.2")?.all_received()?;
    mended(lab.ohio())?;
    let good = marked(lab.ohio(), "ok")?;
    assert!(good.iter().any(|line| line.contains("10.4.0.2 answers a ping in ")), "{good:?}");

    ohio.root(["ip", "route", "delete", "10.99.0.0/16"])?.ok()?;
    fails_alone(lab.ohio(), "tun, routes: the route to 10.99.0.0/16 by tun is missing")?;
    ohio.root(["ip", "route", "add", "10.99.0.0/16", "dev", "tun"])?.ok()?;
    mended(lab.ohio())?;

    let router = lab.router(2)?;
    let from = outer(lab.ohio(), Family::V4, FIRST_POD);
    let rules = format!(
        "add table inet dropper; add chain inet dropper forward {{ type filter hook forward priority 0; }}; \
         add rule inet dropper forward ip saddr {from} udp dport 6090 drop"
    );
    router.root(["nft", &rules])?.ok()?;
    fails_alone(lab.ohio(), "tun, peer 10.20.1.200:6090: no answer since ")?;
    router.root(["nft", "delete table inet dropper"])?.ok()?;
    mended(lab.ohio())?;

    // Nobody answers for the gateway any more.
    let bridge = lab.ohio().root(["sh", "-c", "ip -o -4 address show to 10.10.1.1/32"])?.ok()?.stdout;
    let bridge = bridge.split_whitespace().nth(1).ok_or("no bridge has the gateway's address")?;
    lab.ohio().root(["ip", "address", "delete", "10.10.1.1/24", "dev", bridge])?.ok()?;
    ohio.root(["ip", "neighbour", "flush", "dev", "net1"])?.ok()?;
    fails_alone(lab.ohio(), "tun, neighbour: 10.10.1.1 does not answer on the link of net1")?;
    lab.ohio().root(["ip", "address", "add", "10.10.1.1/24", "dev", bridge])?.ok()?;
    mended(lab.ohio())?;

    lab.mumbai().kill_agent()?;
    fails_alone(lab.ohio(), "tun, peer 10.20.1.200:6090: no answer since ")
}

fn wrong_key() -> Outcome {
    let stranger = KeyPair::new()?.public;
    let pair = SealedPair::new(Format::Noise).with(json!({ "publicKey": stranger }), json!({})).up()?;
    for (node, pod, inner, words) in [
        (pair.lab.ohio(), &pair.mumbai, "10.4.0.1", "handshakes came by a key that no peer here has"),
        (pair.lab.mumbai(), &pair.ohio, "10.4.0.2", "handshakes came that were made for another key than this end's"),
    ] {
        let mut last = Vec::new();
        let told = eventually(words, Duration::from_secs(20), || {
            pod.ping_with(inner, &["-c", "1", "-W", "0.2"])?;
            last = marked(node, "warn")?;
            Ok(last
                .iter()
                .any(|line| line.contains("no handshake was answered yet") && line.contains(words))
                .then_some(()))
        });
        told.map_err(|error| format!("{error}: {last:?}"))?;
        assert!(marked(node, "FAIL")?.is_empty());
    }
    Ok(())
}

/// Every file below a directory.
fn files(directory: &Path) -> Result<Vec<PathBuf>, Failed> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    Ok(found)
}

fn bundle() -> Outcome {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let ohio = lab.ohio();
    // A key of its own for one tunnel, the node's secret for another's, and a preshared one.
    ohio.adit(["key", "generate", "--namespace", "default", "--file", "own.key"])?.ok()?;
    ohio.adit(["key", "generate", "--namespace", "default", "--file", "shared.key"])?.ok()?;
    let peer = lab.mumbai().adit(["key", "generate", "--namespace", "default", "--file", "peer.key"])?.ok()?.stdout;
    let sealed = json!({ "encryption": null, "publicKey": peer.trim(), "privateKeyFile": "own.key", "presharedKeyFile": "shared.key" });
    let derived = json!({ "encryption": null, "publicKey": peer.trim() });
    let mut pods = Vec::new();
    for (name, host, changes) in [("own", FIRST_POD, sealed), ("derived", FIRST_POD + 1, derived)] {
        let tun = with(tun(outer(lab.mumbai(), Family::V4, FIRST_POD), "10.4.0.1/30"), &changes);
        let nad = list(name, &[net1(&lab, ohio), tun]);
        pods.push(ohio.pod(name).attach(nad, &annotation(name, ohio, host))?);
    }
    let file = lab.directory("bundle")?.join("support.tar.gz");
    let output = file.display().to_string();
    ohio.adit(["support-bundle", "--output", &output])?.ok()?;
    let mut unpack = Command::new("tar");
    unpack.args(["-xzOf", &output]);
    let text = run(unpack, None, COMMAND_DEADLINE)?.ok()?.stdout;
    for part in ["adit 0.", "\"tunnels\"", "default/own tun, link", "own.key", "privateKeyFile"] {
        assert!(text.contains(part), "{part} in {text}");
    }

    let secrets = files(ohio.config_dir())?;
    assert!(secrets.len() >= 3, "{secrets:?}");
    for secret in secrets {
        let raw = std::fs::read(&secret)?;
        let words = String::from_utf8_lossy(&raw).trim().to_owned();
        let mut decode = Command::new("sh");
        decode.args(["-c", "base64 -d 2>/dev/null | od -An -v -tx1 | tr -d ' \\n'"]);
        let decoded = run(decode, Some(&raw), COMMAND_DEADLINE)?.stdout;
        let hex: String = raw.iter().map(|byte| format!("{byte:02x}")).collect();
        for form in [words, decoded, hex] {
            assert!(
                form.len() < 16 || !text.to_lowercase().contains(&form.to_lowercase()),
                "{} is in the bundle",
                secret.display()
            );
        }
    }
    let again = ohio.adit(["support-bundle", "--output", &output])?.fails()?;
    assert!(again.stderr.contains("exists"), "{again:?}");
    Ok(())
}

fn ask(socket: &Path, request: &Value) -> Result<String, Failed> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(COMMAND_DEADLINE))?;
    let request = request.to_string();
    stream.write_all(&u32::try_from(request.len())?.to_be_bytes())?;
    // Refused by its length alone, it may not be read to the end.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if answer.is_empty() => Err(error.into()),
        _ => Ok(String::from_utf8_lossy(&answer).into_owned()),
    }
}

fn readers_do_not_starve() -> Outcome {
    let lab = adit_lab::Lab::two_clusters(Attachment::Bridge)?;
    let ohio = lab.ohio();
    start_agent(ohio, &format!("--status-group {GROUP}"))?;
    let socket = ohio.run_dir().join("status/status.sock");
    eventually("the socket", COMMAND_DEADLINE, || Ok(socket.exists().then_some(())))?;
    let _idle: Vec<UnixStream> = (0..100).filter_map(|_| UnixStream::connect(&socket).ok()).collect();
    let start = Instant::now();
    for _ in 0..10 {
        ohio.adit(["ready"])?.ok()?;
    }
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    Ok(())
}

/// What an independent reader of the format makes of it: names and values, or why it is wrong.
const PARSE: &str = r"
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
families = list(text_string_to_metric_families(sys.stdin.read()))
assert all(family.documentation for family in families)
print(json.dumps([[s.name, s.labels, s.value] for family in families for s in family.samples]))
";

fn scrape(node: &Node, socket: &Path) -> Result<(String, String), Failed> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(COMMAND_DEADLINE))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: adit\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("{}: no answer: {answer}", node.name()))?;
    Ok((head.to_owned(), body.to_owned()))
}

fn scraped() -> Outcome {
    let lab = adit_lab::Lab::two_clusters(Attachment::Bridge)?;
    let (ohio, mumbai) = (lab.ohio(), lab.mumbai());
    let socket = ohio.run_dir().join("metrics.sock");
    start_agent(ohio, &format!("--metrics unix:{}", socket.display()))?;
    start_agent(mumbai, "--metrics 127.0.0.1:9464")?;
    let ends = [(ohio, mumbai, "10.4.0.1/30"), (mumbai, ohio, "10.4.0.2/30")];
    let pods = ends.map(|(node, peer, inner)| {
        let nad = list("scraped", &[net1(&lab, node), tun(outer(peer, Family::V4, FIRST_POD), inner)]);
        node.pod("scraped").attach(nad, &annotation("scraped", node, FIRST_POD))
    });
    let [here, there] = pods;
    let (here, _there) = (here?, there?);
    here.ping("10.4.0.2")?.all_received()?;
    eventually("the socket", COMMAND_DEADLINE, || Ok(socket.exists().then_some(())))?;
    let (head, body) = scrape(ohio, &socket)?;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/openmetrics-text"), "{head}");
    let mut parser = Command::new("/usr/bin/python3");
    parser.args(["-c", PARSE]);
    let samples = run(parser, Some(body.as_bytes()), COMMAND_DEADLINE)?.json()?;
    let value = |name: &str, label: (&str, &str)| {
        let found = samples.as_array().into_iter().flatten().find(|sample| {
            sample[0] == name && sample[1]["pod"] == "scraped" && (label.0.is_empty() || sample[1][label.0] == label.1)
        });
        found.and_then(|sample| sample[2].as_f64())
    };
    let told = &tunnels(ohio)?[0];
    assert_eq!(value("adit_peer_state", ("state", "up")), Some(1.0), "{samples}");
    assert_eq!(value("adit_peer_state", ("state", "down")), Some(0.0));
    assert_eq!(value("adit_tunnel_carried", ("", "")), Some(1.0));
    assert_eq!(value("adit_tunnel_mtu_bytes", ("", "")), told["mtuBytes"].as_f64());
    let sent = value("adit_peer_sent_packets_total", ("peer", "10.20.1.200:6090"));
    assert!(sent >= Some(1.0), "{sent:?}");

    // The other by TCP, from its own node and from nowhere else.
    let fetch = |address: &str| {
        let script = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=3).read().decode())";
        mumbai.root(["/usr/bin/python3", "-c", script, &format!("http://{address}:9464/metrics")])
    };
    let page = eventually("the port", COMMAND_DEADLINE, || Ok(fetch("127.0.0.1")?.ok().ok()))?;
    assert!(page.stdout.contains("adit_agent_tunnels 1\n"), "{page:?}");
    let own = mumbai.number().gateway()[0].to_string();
    assert!(fetch(&own)?.stderr.contains("refused"), "{own}");
    let lost =
        mumbai.root(["/usr/bin/python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9464/')"])?;
    assert!(lost.stderr.contains("404"), "{lost:?}");
    Ok(())
}

fn slow_scrapes() -> Outcome {
    let lab = adit_lab::Lab::two_clusters(Attachment::Bridge)?;
    let ohio = lab.ohio();
    let socket = ohio.run_dir().join("metrics.sock");
    start_agent(ohio, &format!("--metrics unix:{}", socket.display()))?;
    eventually("the socket", COMMAND_DEADLINE, || Ok(socket.exists().then_some(())))?;
    let mut slow: Vec<UnixStream> = (0..40).map(|_| UnixStream::connect(&socket)).collect::<Result<_, _>>()?;
    for stream in &mut slow {
        stream.set_read_timeout(Some(Duration::from_secs(40)))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost:")?;
    }
    ohio.adit(["ready"])?.ok()?;
    let endless = "a".repeat(100_000);
    let mut long = UnixStream::connect(&socket)?;
    long.set_read_timeout(Some(Duration::from_secs(40)))?;
    // Hung up on in the midst of it.
    let _ = long.write_all(format!("GET /metrics HTTP/1.1\r\nX: {endless}").as_bytes());
    // They go by eights.
    let mut end = Vec::new();
    slow[0].read_to_end(&mut end)?;
    assert!(!String::from_utf8_lossy(&end).contains("adit_agent"), "half a request was answered");
    drop(slow);
    let (head, _) = scrape(ohio, &socket)?;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    Ok(())
}
