//! Bad input: a clear error that names key, value and remedy, and nothing changed.
//!
//! The plugin is called by hand, so that what it leaves is its own doing and not that of the DEL which runtimes call after
//! a failed ADD.

use std::{
    fs,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use adit_integration::{
    trial,
    tunnels::{
        Below, Call, FIRST_POD, Family, Sight, annotation, lab_with_agents, list, net1, outer, tun, tunnels, with,
    },
};
use adit_lab::{Attachment, Lab, LabSpec, Node, Spies};
use adit_tunnel::{
    frame,
    protocol::{Envelope, Request, Response, SOCKET_NAME},
};
use libtest_mimic::Failed;
use serde_json::{Value, json};

type Outcome = Result<(), Failed>;

fn main() {
    adit_integration::main(vec![
        trial("impossible_values_are_refused_by_name_and_change_nothing", impossible_values),
        trial("a_peer_of_another_family_than_net1_is_refused", another_family),
        trial("a_peer_behind_another_interface_is_refused", another_interface),
        trial("settings_of_the_annotation_outside_overrides_are_refused", annotation_outside_overrides),
        trial("a_name_that_is_taken_is_refused_and_the_other_interface_stays", name_taken),
        trial("a_port_that_is_taken_is_refused_and_names_the_key", port_taken),
        trial("tun_without_an_interface_below_is_refused", no_interface_below),
        trial("without_an_agent_the_code_is_11_and_names_socket_and_unit", no_agent),
        trial("an_agent_that_refuses_the_tunnel_leaves_nothing_of_it", || hand_over_fails(Answer::Refuse)),
        trial("an_agent_that_dies_at_the_hand_over_leaves_nothing_of_it", || hand_over_fails(Answer::Die)),
        trial("a_failing_address_plugin_is_called_to_give_back", addresses_fail),
        trial("addresses_are_given_back_when_a_later_step_fails", addresses_given_back),
        trial("a_namespace_that_the_agent_cannot_see_is_refused", unseen_namespace),
        trial("a_refused_chain_leaves_nothing_after_the_runtimes_del", refused_chain),
        trial("the_nodes_own_namespace_is_refused", own_namespace),
    ]);
}

/// Clusters with agents, and a pod with net1 in Ohio.
fn usual() -> Result<(Lab, Below), Failed> {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let below = Below::usual(&lab, lab.ohio(), "refused")?;
    Ok((lab, below))
}

/// A tunnel to the usual peer in Mumbai.
fn to_mumbai(lab: &Lab) -> Value {
    tun(outer(lab.mumbai(), Family::V4, FIRST_POD), "10.4.0.1/30")
}

fn impossible_values() -> Outcome {
    let (lab, below) = usual()?;
    let ipv6_inside = json!({ "type": "static", "addresses": [{ "address": "fd04::1/64" }] });
    let swallowing =
        json!({ "type": "static", "addresses": [{ "address": "10.4.0.1/30" }], "routes": [{ "dst": "10.20.1.0/24" }] });
    let cases: [(Value, &[&str]); 16] = [
        (json!({ "encap": "smoke-signals" }), &["encap", "smoke-signals", "write \"udp\""]),
        (json!({ "encap": null }), &["encap"]),
        (json!({ "encryption": null }), &["publicKey", "adit key show", "write \"encryption\": \"none\""]),
        (json!({ "encryption": "rot13" }), &["encryption", "rot13", "\"noise\"", "\"none\""]),
        (json!({ "publicKey": "AA" }), &["publicKey", "AA", "\"encryption\": \"none\""]),
        (json!({ "privateKeyFile": "a.key" }), &["privateKeyFile", "a.key", "\"encryption\": \"none\""]),
        (json!({ "remote": null }), &["remote is missing"]),
        (
            json!({ "remote": "mumbai.example" }),
            &["remote", "mumbai.example", "not an IP address", "names are not resolved"],
        ),
        (json!({ "remote": "10.10.1.200" }), &["remote", "own address"]),
        (json!({ "remote": "127.0.0.9" }), &["remote", "127.0.0.9", "loopback"]),
        (json!({ "remote": "203.0.113.9" }), &["remote", "no route to 203.0.113.9"]),
        (json!({ "ipam": swallowing }), &["ipam route", "10.20.1.0/24", "into the tunnel"]),
        (json!({ "mtu": 1457 }), &["mtu", "1457", "does not fit", "1456"]),
        (json!({ "mtu": 1279, "ipam": ipv6_inside }), &["mtu", "1279", "IPv6", "1280"]),
        (json!({ "mtu": 500 }), &["mtu", "500", "576"]),
        (json!({ "device": "eth7" }), &["device", "no interface eth7"]),
    ];
    for (changes, words) in cases {
        let stdin = below.stdin(&with(to_mumbai(&lab), &changes));
        below.refuses(&Call::tun(&below.pod)?, &stdin, 7, words).map_err(|error| format!("{changes}: {error}"))?;
    }
    // With possible values the same call succeeds.
    below.add(&to_mumbai(&lab))?;
    Ok(())
}

fn another_family() -> Outcome {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let ohio = lab.ohio();
    let ipam = json!({ "type": "static", "routes": [{ "dst": "10.20.1.0/24" }] });
    let ipv4_only = r#"[{"name":"below","ips":["10.10.1.200/24"]}]"#;
    let below = Below::of(ohio.pod("ipv4"), &with(net1(&lab, ohio), &json!({ "ipam": ipam })), ipv4_only)?;
    let stdin = below.stdin(&tun(outer(lab.mumbai(), Family::V6, FIRST_POD), "10.4.0.1/30"));
    let words = ["remote", "fd10:20:1::", "another address family than net1"];
    below.refuses(&Call::tun(&below.pod)?, &stdin, 7, &words)?;
    Ok(())
}

/// The cluster's own network leads to the peer, net1 does not.
fn another_interface() -> Outcome {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let ohio = lab.ohio();
    let plugin = with(net1(&lab, ohio), &json!({ "ipam": { "type": "static" } }));
    let builder = ohio.pod("elsewhere").with_default_network();
    let below = Below::of(builder, &plugin, &annotation("below", ohio, FIRST_POD))?;
    let words = ["remote", "10.20.1.200", "is not reached through net1"];
    below.refuses(&Call::tun(&below.pod)?, &below.stdin(&to_mumbai(&lab)), 7, &words)?;
    Ok(())
}

fn annotation_outside_overrides() -> Outcome {
    let (lab, below) = usual()?;
    for (settings, word) in [
        (json!({ "remote": "10.66.6.6" }), "cni-args.tun.remote"),
        (json!({ "privateKeyFile": "/etc/shadow" }), "cni-args.tun.privateKeyFile"),
        (json!({ "overrides": ["remote"] }), "cni-args.tun.overrides"),
    ] {
        let args = json!({ "args": { "cni": { "tun": settings } } });
        let stdin = below.stdin(&with(to_mumbai(&lab), &args));
        below.refuses(&Call::tun(&below.pod)?, &stdin, 7, &[word])?;
    }
    Ok(())
}

fn name_taken() -> Outcome {
    let (lab, below) = usual()?;
    below.pod.root(["ip", "tuntap", "add", "mode", "tun", "name", "tun"])?.ok()?;
    let before = below.pod.interface("tun")?.index;
    let (call, stdin) = (Call::tun(&below.pod)?, below.stdin(&to_mumbai(&lab)));
    below.refuses(&call, &stdin, 7, &["ifName: the pod has an interface tun already"])?;
    // The runtime calls DEL after the failure; a tunnel that was never made is not removed.
    call.run("DEL", &stdin)?.ok()?;
    assert_eq!(below.pod.interface("tun")?.index, before);
    Ok(())
}

fn port_taken() -> Outcome {
    let (lab, below) = usual()?;
    below.add(&to_mumbai(&lab))?;
    let second = with(tun(outer(lab.mumbai(), Family::V4, FIRST_POD), "10.5.0.1/30"), &json!({ "ifName": "tun1" }));
    below.refuses(&Call::tun(&below.pod)?, &below.stdin(&second), 7, &["local", "6090"])?;
    assert_eq!(tunnels(lab.ohio())?.len(), 1);
    Ok(())
}

fn no_interface_below() -> Outcome {
    let (lab, below) = usual()?;
    let call = Call::tun(&below.pod)?;
    let stdin = with(below.stdin(&to_mumbai(&lab)), &json!({ "prevResult": null }));
    below.refuses(&call, &stdin, 7, &["prevResult missing", "chained"])?;
    // Interfaces, but none of them in the pod.
    let on_the_node = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{ "name": "cni0" }, { "name": "veth0", "sandbox": "" }],
        "ips": [{ "address": "10.10.1.200/24" }],
    });
    let stdin = with(stdin, &json!({ "prevResult": on_the_node }));
    below.refuses(&call, &stdin, 7, &["prevResult has no interface in the pod", "chained"])?;
    Ok(())
}

fn no_agent() -> Outcome {
    let lab = Lab::build(&LabSpec::two_clusters(Attachment::Bridge))?;
    let below = Below::usual(&lab, lab.ohio(), "early")?;
    let (call, stdin) = (Call::tun(&below.pod)?, below.stdin(&to_mumbai(&lab)));
    let socket = lab.ohio().run_dir().join(SOCKET_NAME).display().to_string();
    let words = [socket.as_str(), "systemctl start aditd", "try again"];
    below.refuses(&call, &stdin, 11, &words)?;
    // STATUS says beforehand that the node cannot take tunnels.
    call.fails("STATUS", &stdin, 50, &[&socket])?;
    lab.ohio().start_agent()?;
    call.run("STATUS", &stdin)?.ok()?;
    call.run("ADD", &stdin)?.ok()?;
    Ok(())
}

/// What the agent does when a tunnel is handed to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Refuse,
    Die,
}

/// Something on the agent's socket that answers every question, and takes no tunnel.
struct FakeAgent {
    socket: PathBuf,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FakeAgent {
    /// In the place of the node's agent, which ends.
    fn replace(node: &Node, answer: Answer) -> Result<Self, Failed> {
        node.stop_agent()?;
        let socket = node.run_dir().join(SOCKET_NAME);
        // The agent may have left it.
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket)?;
        let ended = Arc::new(AtomicBool::new(false));
        let thread = {
            let ended = ended.clone();
            thread::spawn(move || {
                while let Ok((stream, _)) = listener.accept()
                    && !ended.load(Ordering::Relaxed)
                {
                    // The descriptors that came along are closed here.
                    let Ok((envelope, _)) = frame::receive::<Envelope>(&stream) else { continue };
                    let response = match envelope.request {
                        Request::Attach { .. } if answer == Answer::Die => continue,
                        Request::Attach { .. } => Response::Refused { message: "no room at the inn".into() },
                        Request::Status => Response::Tunnels { tunnels: Vec::new() },
                        _ => Response::Done,
                    };
                    // A client that has gone needs no answer.
                    let _ = frame::send(&stream, &response, &[]);
                }
            })
        };
        Ok(Self { socket, ended, thread: Some(thread) })
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the thread that waits for a connection.
        let _ = UnixStream::connect(&self.socket);
        let _ = self.thread.take().map(JoinHandle::join);
        let _ = fs::remove_file(&self.socket);
    }
}

fn hand_over_fails(answer: Answer) -> Outcome {
    let (lab, below) = usual()?;
    let agent = FakeAgent::replace(lab.ohio(), answer)?;
    let (call, stdin) = (Call::tun(&below.pod)?, below.stdin(&to_mumbai(&lab)));
    let (code, word) = match answer {
        Answer::Refuse => (999, "no room at the inn"),
        Answer::Die => (11, SOCKET_NAME),
    };
    below.refuses(&call, &stdin, code, &["hand the tunnel to the agent", word])?;
    // Nothing of it is in the way of the next try, with an agent that takes tunnels.
    drop(agent);
    lab.ohio().start_agent()?;
    call.run("ADD", &stdin)?.ok()?;
    Ok(())
}

/// An address plugin named `spy`, and the `tun` object that uses it.
fn spied(lab: &Lab) -> Result<(Spies, Value), Failed> {
    let spies = Spies::in_directory(lab.directory("spies")?)?;
    Ok((spies, with(to_mumbai(lab), &json!({ "ipam": { "type": "spy" } }))))
}

/// The verbs that the spy was called with, each for the tunnel's interface and not for the one below.
fn verbs(spies: &Spies) -> Result<Vec<String>, Failed> {
    let calls = spies.calls()?;
    assert!(calls.iter().all(|call| call.variable("CNI_IFNAME") == "tun"), "{calls:#?}");
    Ok(calls.iter().map(|call| call.verb().to_owned()).collect())
}

fn addresses_fail() -> Outcome {
    let (lab, below) = usual()?;
    let (spies, tunnel) = spied(&lab)?;
    spies.failing("spy", 11, "the range is exhausted")?;
    let call = Call::tun(&below.pod)?.with_plugins_of(spies.directory());
    below.refuses(&call, &below.stdin(&tunnel), 11, &["the range is exhausted"])?;
    // One that fails may have reserved something.
    assert_eq!(verbs(&spies)?, ["ADD", "DEL"]);
    Ok(())
}

fn addresses_given_back() -> Outcome {
    let (lab, below) = usual()?;
    let (spies, tunnel) = spied(&lab)?;
    let call = Call::tun(&below.pod)?.with_plugins_of(spies.directory());
    let answer = |route: &str| json!({ "cniVersion": "1.1.0", "ips": [{ "address": "10.4.0.1/30" }], "routes": [{ "dst": route }] });
    // The plan cannot be made from these addresses.
    spies.answering("spy", &answer("10.20.1.0/24"))?;
    below.refuses(&call, &below.stdin(&tunnel), 7, &["10.20.1.0/24", "into the tunnel"])?;
    assert_eq!(verbs(&spies)?, ["ADD", "DEL"]);

    // The agent fails, long after the interface was configured.
    spies.forget()?;
    spies.answering("spy", &answer("10.44.0.0/16"))?;
    let _agent = FakeAgent::replace(lab.ohio(), Answer::Refuse)?;
    below.refuses(&call, &below.stdin(&tunnel), 999, &["no room at the inn"])?;
    assert_eq!(verbs(&spies)?, ["ADD", "DEL"]);
    Ok(())
}

/// The namespace is a mount that only the plugin's own mount namespace has, and no process lives in it: an agent could never
/// take the tunnel up again.
fn unseen_namespace() -> Outcome {
    const HIDDEN: &str = "
        mount -t tmpfs none /mnt && touch /mnt/ns && unshare --net=/mnt/ns sh -c '
            ip link add net1 type veth peer name other && ip link set net1 up && ip link set other up &&
            ip address add 10.10.1.200/24 dev net1 && ip route add 10.20.1.0/24 via 10.10.1.1' || exit 0
        \"$@\"
        status=$?
        nsenter --net=/mnt/ns ip -oneline link show >&2
        exit $status
    ";
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let ohio = lab.ohio();
    let call = Call::on(ohio, "tun")?.under(&["unshare", "--mount", "sh", "-c", HIDDEN, "sh"]).in_netns("/mnt/ns");
    let previous = json!({ "cniVersion": "1.1.0", "interfaces": [{ "name": "net1", "sandbox": "/mnt/ns" }] });
    let stdin = json!({ "cniVersion": "1.1.0", "name": "by-hand", "prevResult": previous });

    let before = ohio.snapshot()?;
    let ran = call.run("ADD", &with(stdin, &to_mumbai(&lab)))?.fails()?;
    assert!(ran.stdout.contains("/mnt/ns"), "{ran:?}");
    assert!(ran.stderr.contains(": net1@") && !ran.stderr.contains(": tun:"), "{ran:?}");
    before.unchanged(&ohio.snapshot()?)?;
    assert_eq!((ohio.agent_fds()?.tun, ohio.agent_fds()?.udp), (0, 0));
    Ok(())
}

/// The same as users see it: the runtime calls a list, one plugin of it fails, and all are called with DEL.
fn refused_chain() -> Outcome {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let ohio = lab.ohio();
    let mut pod = ohio.pod("refused").bare()?;
    // The chain's first plugin leaves its bridge, as bridges stay: let it be there before the first look.
    pod.attach(list("settle", &[net1(&lab, ohio)]), &annotation("settle", ohio, FIRST_POD))?;
    pod.detach()?;

    let before = Sight::of(&pod)?;
    let second = with(to_mumbai(&lab), &json!({ "ifName": "tun1", "mtu": 9000 }));
    let plugins = [net1(&lab, ohio), to_mumbai(&lab), second];
    let error = pod
        .attach(list("refused", &plugins), &annotation("refused", ohio, FIRST_POD))
        .err()
        .ok_or("attached with an impossible mtu")?;
    assert_eq!(error.cni().map(|error| error.code.0), Some(7), "{error}");
    assert!(error.to_string().contains("9000"), "{error}");
    before.unchanged(&Sight::of(&pod)?)?;
    Ok(())
}

fn own_namespace() -> Outcome {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let before = lab.ohio().snapshot()?;
    for (plugin, config) in [("tun", to_mumbai(&lab)), ("bridge", net1(&lab, lab.ohio()))] {
        let stdin = with(config, &json!({ "cniVersion": "1.1.0", "name": "by-hand" }));
        Call::on(lab.ohio(), plugin)?.fails("ADD", &stdin, 8, &[])?;
    }
    before.unchanged(&lab.ohio().snapshot()?)?;
    Ok(())
}
