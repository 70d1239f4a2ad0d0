//! How tunnels go, and how they stay: DEL in every state of the world, dead agents, dead pods, killed plugins, crowds.

use std::{thread, time::Duration};

use adit_cni::Version;
use adit_integration::{
    trial,
    tunnels::{FIRST_POD, Family, Pair, annotation, lab_with_agents, list, net1, outer, tun, tunnels, with},
};
use adit_lab::{Attachment, Binaries, COMMAND_DEADLINE, Lab, LabSpec, Node, Pod, Ran, Snapshot, eventually, run};
use libtest_mimic::Failed;
use serde_json::{Value, json};

type Outcome = Result<(), Failed>;

fn main() {
    adit_integration::main(vec![
        trial("del_leaves_nothing", del_leaves_nothing),
        trial("del_twice_succeeds", del_twice),
        trial("del_with_the_namespace_gone_succeeds", del_without_namespace),
        trial("del_with_the_agent_down_succeeds_and_the_next_agent_finds_nothing", del_without_agent),
        trial("del_without_prev_result_succeeds", del_without_prev_result),
        trial("del_with_unreadable_stdin_removes_every_tunnel_of_the_interface", del_with_unreadable_stdin),
        trial("gc_removes_what_is_stale_and_nothing_else", gc_removes_the_stale),
        trial("a_killed_agent_is_followed_by_one_that_carries_the_same_tunnels", agent_killed),
        trial("both_agents_killed_and_started_again_carry_traffic", both_agents_killed),
        trial("an_agent_that_stops_leaves_the_interface_standing", agent_stopped),
        trial("a_port_taken_while_the_agent_was_dead_is_reported_and_taken_back", port_taken_meanwhile),
        trial("a_vanished_pod_that_nobody_deletes_leaves_nothing", vanished_pod),
        trial("a_pod_that_vanished_while_the_agent_was_dead_leaves_nothing", vanished_without_agent),
        trial("a_replacement_with_the_same_address_takes_over_before_the_old_del", replacement),
        trial("a_killed_add_leaves_only_what_del_removes", killed_add_then_del),
        trial("a_killed_add_does_not_hinder_the_next_one", killed_add_then_add),
        trial("forty_pods_at_once_come_and_go_without_a_trace", forty_at_once),
        trial("check_names_what_is_missing", check_names_what_is_missing),
        trial("two_agents_do_not_share_a_run_directory", one_agent_per_directory),
    ]);
}

/// A lab with agents whose bridges exist already, the definition of its tunnelled network, and how Ohio looks now.
struct Quiet {
    lab: Lab,
    before: Snapshot,
}

impl Quiet {
    fn new() -> Result<Self, Failed> {
        let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
        for (node, peer, end) in [(lab.ohio(), lab.mumbai(), 1), (lab.mumbai(), lab.ohio(), 2)] {
            node.define(list(
                "tunnelled",
                &[net1(&lab, node), tun(outer(peer, Family::V4, FIRST_POD), &format!("10.4.0.{end}/30"))],
            ))?;
            // Bridges stay when their last pod goes; let them be there from the beginning.
            node.define(list("settle", &[net1(&lab, node)]))?;
            node.pod("settle").annotated(&annotation("settle", node, 9))?.delete()?;
        }
        let before = lab.ohio().snapshot()?;
        Ok(Self { lab, before })
    }

    fn pod(&self, node: &Node) -> Result<Pod, Failed> {
        Ok(node.pod("tunnelled").annotated(&annotation("tunnelled", node, FIRST_POD))?)
    }

    /// Nothing of a tunnel is left in Ohio: no link, address, route, record, descriptor.
    fn is_clean(&self) -> Outcome {
        self.before.unchanged(&self.lab.ohio().snapshot()?)?;
        if self.lab.ohio().agent_pid().is_some() {
            let open = self.lab.ohio().agent_fds()?;
            assert_eq!((open.tun, open.udp), (0, 0), "{open:?}");
            assert_eq!(tunnels(self.lab.ohio())?.len(), 0);
        }
        Ok(())
    }
}

fn del_leaves_nothing() -> Outcome {
    let quiet = Quiet::new()?;
    let mut pod = quiet.lab.ohio().pod("tunnelled").bare()?;
    let pod_before = pod.network_snapshot()?;
    pod.attach_defined(&annotation("tunnelled", quiet.lab.ohio(), FIRST_POD))?;
    let open = quiet.lab.ohio().agent_fds()?;
    assert_eq!((open.tun, open.udp), (1, 1), "{open:?}");
    pod.detach()?;
    pod_before.unchanged(&pod.network_snapshot()?)?;
    quiet.is_clean()
}

fn del_twice() -> Outcome {
    let quiet = Quiet::new()?;
    let pod = quiet.pod(quiet.lab.ohio())?;
    let runtime = pod.runtime()?;
    let delegates = pod.delegates(&annotation("tunnelled", quiet.lab.ohio(), FIRST_POD))?;
    for _ in 0..2 {
        runtime.del_delegates(pod.identity(), Some(pod.path()), &delegates)?;
    }
    quiet.is_clean()
}

fn del_without_namespace() -> Outcome {
    let quiet = Quiet::new()?;
    let mut pod = quiet.pod(quiet.lab.ohio())?;
    pod.vanish()?;
    pod.detach()?;
    quiet.is_clean()
}

fn del_without_agent() -> Outcome {
    let quiet = Quiet::new()?;
    let mut pod = quiet.pod(quiet.lab.ohio())?;
    quiet.lab.ohio().kill_agent()?;
    pod.detach()?;
    assert_eq!(pod.interface_names()?, ["lo"]);
    quiet.lab.ohio().start_agent()?;
    quiet.is_clean()
}

fn del_without_prev_result() -> Outcome {
    let quiet = Quiet::new()?;
    let mut pod = quiet.pod(quiet.lab.ohio())?;
    // The runtime's caches are lost, the definition is still known: it calls DEL with that.
    pod.forget_cache()?;
    let delegates = pod.delegates(&annotation("tunnelled", quiet.lab.ohio(), FIRST_POD))?;
    pod.runtime()?.del_delegates(pod.identity(), Some(pod.path()), &delegates)?;
    assert_eq!(pod.interface_names()?, ["lo"]);
    pod.detach()?;
    quiet.is_clean()
}

fn del_with_unreadable_stdin() -> Outcome {
    let quiet = Quiet::new()?;
    let mut pod = quiet.pod(quiet.lab.ohio())?;
    for stdin in ["", "{\"cniVersion\":", "[]"] {
        call_tun(&pod, "DEL", stdin, None)?.ok()?;
    }
    assert_eq!(tunnels(quiet.lab.ohio())?.len(), 0);
    assert_eq!(pod.interface_names()?, ["lo", "net1"]);
    pod.detach()?;
    quiet.is_clean()
}

/// Runs the `tun` plugin by hand on a pod's net1; with `life` it is killed after that time.
fn call_tun(pod: &Pod, verb: &str, stdin: &str, life: Option<Duration>) -> Result<Ran, Failed> {
    let node = pod.node();
    let program = Binaries::get()?.program("tun")?;
    let mut command = match life {
        Some(life) => {
            let mut command = node.command("timeout");
            command.args(["--foreground", "--signal=KILL", &life.as_secs_f64().to_string()]).arg(&program);
            command
        }
        None => node.command(&program),
    };
    command.envs([("CNI_COMMAND", verb), ("CNI_CONTAINERID", &pod.identity().container_id), ("CNI_IFNAME", "net1")]);
    command.env("CNI_PATH", Binaries::get()?.directory());
    command.env("CNI_NETNS", pod.path());
    command.env("ADIT_RUN_DIR", node.run_dir());
    Ok(run(command, Some(stdin.as_bytes()), COMMAND_DEADLINE)?)
}

fn gc_removes_the_stale() -> Outcome {
    let quiet = Quiet::new()?;
    let ohio = quiet.lab.ohio();
    let stays = quiet.pod(ohio)?;
    let stale = ohio.pod("stale").annotated(&annotation("tunnelled", ohio, FIRST_POD + 1))?;
    let other = list("other", &[net1(&quiet.lab, ohio), tun(outer(quiet.lab.mumbai(), Family::V4, 7), "10.7.0.1/30")]);
    let bystander = ohio.pod("bystander").attach(other, &annotation("other", ohio, FIRST_POD + 2))?;

    let delegate = stays.delegates(&annotation("tunnelled", ohio, FIRST_POD))?.remove(0);
    let valid = adit_lab::Runtime::attachment(stays.identity(), &delegate)?;
    ohio.gc("tunnelled", &[valid])?;

    let left: Vec<Value> = tunnels(ohio)?.iter().map(|tunnel| tunnel["attachment"]["containerId"].clone()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    for pod in [&stays, &bystander] {
        assert!(left.contains(&json!(pod.identity().container_id)), "{left:?}");
    }
    assert!(!stale.interface_names()?.contains(&"tun".to_owned()));
    Ok(())
}

fn agent_killed() -> Outcome {
    let pair = Pair::usual()?;
    let ohio = pair.lab.ohio();
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    let before = pair.ohio.network_snapshot()?;
    let index = pair.ohio.interface("tun")?.index;

    ohio.kill_agent()?;
    eventually("the device to lose its carrier", Duration::from_secs(5), || {
        Ok(pair.ohio.interface("tun")?.has("NO-CARRIER").then_some(()))
    })?;
    // Addresses and routes are there, and nobody pretends that packets pass.
    assert_eq!(pair.ohio.addresses("tun")?.len(), 1);
    assert!(pair.ohio.check().is_err());

    ohio.start_agent()?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    pair.mumbai.ping("10.4.0.1")?.all_received()?;
    before.unchanged(&pair.ohio.network_snapshot()?)?;
    assert_eq!(pair.ohio.interface("tun")?.index, index);
    pair.ohio.check()?;
    Ok(())
}

fn both_agents_killed() -> Outcome {
    let pair = Pair::up(Attachment::Macvlan, Family::V6, Family::V6)?;
    let before = pair.ohio.network_snapshot()?;
    for _ in 0..3 {
        for node in pair.lab.nodes() {
            node.kill_agent()?;
        }
        for node in pair.lab.nodes() {
            node.start_agent()?;
        }
        pair.ohio.ping("fd04::2")?.all_received()?;
    }
    before.unchanged(&pair.ohio.network_snapshot()?)?;
    Ok(())
}

fn agent_stopped() -> Outcome {
    let pair = Pair::usual()?;
    let names = pair.ohio.interface_names()?;
    pair.lab.ohio().stop_agent()?;
    assert_eq!(pair.ohio.interface_names()?, names);
    pair.lab.ohio().start_agent()?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    Ok(())
}

fn port_taken_meanwhile() -> Outcome {
    const SQUAT: &str = r#"
        $| = 1;
        use Socket;
        socket(my $s, PF_INET, SOCK_DGRAM, 0) or die "socket: $!";
        bind($s, sockaddr_in(6090, inet_aton("10.10.1.200"))) or die "bind: $!";
        print "bound\n";
        sleep 600;
    "#;
    let pair = Pair::usual()?;
    let ohio = pair.lab.ohio();
    ohio.kill_agent()?;
    let squatter = pair.ohio.spawn(["perl", "-e", SQUAT])?;
    eventually("the port to be taken", Duration::from_secs(10), || {
        Ok(squatter.output().contains("bound").then_some(()))
    })?;
    ohio.start_agent()?;
    let status = tunnels(ohio)?;
    assert_eq!(status[0]["state"], "down");
    assert!(status[0]["reason"].as_str().is_some_and(|reason| reason.contains("port taken")), "{status:#?}");
    let table = ohio.adit(["status"])?.ok()?.stdout;
    assert!(table.contains("not carried") && table.contains("port taken"), "{table}");
    squatter.stop()?;
    eventually("the agent to take the port back", Duration::from_secs(10), || {
        Ok((tunnels(ohio)?[0]["state"] == "up").then_some(()))
    })?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    Ok(())
}

fn vanished_pod() -> Outcome {
    let quiet = Quiet::new()?;
    let pod = quiet.pod(quiet.lab.ohio())?;
    assert_eq!(quiet.lab.ohio().agent_fds()?.tun, 1);
    pod.vanish()?;
    eventually("the agent to let the dead pod go", Duration::from_secs(10), || {
        let open = quiet.lab.ohio().agent_fds()?;
        let gone = quiet.before.difference(&quiet.lab.ohio().snapshot()?).is_empty();
        Ok((gone && open.tun == 0 && open.udp == 0).then_some(()))
    })?;
    quiet.is_clean()
}

fn vanished_without_agent() -> Outcome {
    let quiet = Quiet::new()?;
    let pod = quiet.pod(quiet.lab.ohio())?;
    quiet.lab.ohio().kill_agent()?;
    pod.vanish()?;
    quiet.lab.ohio().start_agent()?;
    eventually("the agent to let the dead pod go", Duration::from_secs(10), || {
        Ok(quiet.before.difference(&quiet.lab.ohio().snapshot()?).is_empty().then_some(()))
    })?;
    quiet.is_clean()
}

fn replacement() -> Outcome {
    let quiet = Quiet::new()?;
    let ohio = quiet.lab.ohio();
    let peer = quiet.pod(quiet.lab.mumbai())?;
    let mut old = quiet.pod(ohio)?;
    peer.ping("10.4.0.1")?.all_received()?;
    // Deleted with grace 0: the replacement is added while the old pod still stands with the same address.
    old.root(["ip", "link", "set", "net1", "down"])?.ok()?;
    let new = ohio.pod("replacement").annotated(&annotation("tunnelled", ohio, FIRST_POD))?;
    new.ping("10.4.0.2")?.all_received()?;
    old.detach()?;
    new.ping("10.4.0.2")?.all_received()?;
    peer.ping("10.4.0.1")?.all_received()?;
    new.check()?;
    assert_eq!(tunnels(ohio)?.len(), 1);
    Ok(())
}

/// A pod with net1, and what the `tun` plugin of its chain is given.
fn pod_with_net1(quiet: &Quiet, name: &str) -> Result<(Pod, String), Failed> {
    let ohio = quiet.lab.ohio();
    let pod = ohio.pod(name).annotated(&annotation("settle", ohio, FIRST_POD))?;
    let below = pod.attached().first().ok_or("not attached")?.result.render(Version::LATEST)?;
    let plugin = tun(outer(quiet.lab.mumbai(), Family::V4, FIRST_POD), "10.4.0.1/30");
    let stdin = with(plugin, &json!({ "cniVersion": "1.1.0", "name": "by-hand", "prevResult": below }));
    Ok((pod, stdin.to_string()))
}

/// Kills ADDs at many instants; how many did not live to print a result.
fn kill_adds(quiet: &Quiet, then: impl Fn(&Pod, &str) -> Outcome) -> Outcome {
    let mut killed = 0;
    for step in 0..30_u64 {
        let (pod, stdin) = pod_with_net1(quiet, &format!("killed-{step}"))?;
        let before = pod.network_snapshot()?;
        killed += u32::from(!call_tun(&pod, "ADD", &stdin, Some(Duration::from_micros(500 + step * 600)))?.success());
        then(&pod, &stdin).map_err(|failed| format!("step {step}: {}", failed.message().unwrap_or_default()))?;
        call_tun(&pod, "DEL", &stdin, None)?.ok()?;
        before.unchanged(&pod.network_snapshot()?).map_err(|error| format!("step {step}: {error}"))?;
        pod.delete()?;
        quiet.is_clean()?;
    }
    assert!(killed >= 5, "only {killed} of 30 were killed in time");
    Ok(())
}

fn killed_add_then_del() -> Outcome {
    kill_adds(&Quiet::new()?, |_, _| Ok(()))
}

fn killed_add_then_add() -> Outcome {
    let quiet = Quiet::new()?;
    kill_adds(&quiet, |pod, stdin| {
        call_tun(pod, "ADD", stdin, None)?.ok()?;
        assert_eq!(pod.interface_names()?, ["lo", "net1", "tun"]);
        assert_eq!(tunnels(pod.node())?.len(), 1);
        Ok(())
    })
}

fn forty_at_once() -> Outcome {
    const PODS: u8 = 40;
    let quiet = Quiet::new()?;
    let ohio = quiet.lab.ohio();
    let added: Vec<Result<Pod, adit_lab::Error>> = thread::scope(|scope| {
        let adders: Vec<_> = (0..PODS)
            .map(|number| {
                scope.spawn(move || {
                    ohio.pod(&format!("crowd-{number}")).annotated(&annotation("tunnelled", ohio, 20 + number))
                })
            })
            .collect();
        adders.into_iter().filter_map(|adder| adder.join().ok()).collect()
    });
    let pods = added.into_iter().collect::<Result<Vec<_>, _>>()?;
    assert_eq!(tunnels(ohio)?.len(), usize::from(PODS));
    let open = ohio.agent_fds()?;
    assert_eq!((open.tun, open.udp), (usize::from(PODS), usize::from(PODS)));
    let deleted: Vec<Result<(), adit_lab::Error>> = thread::scope(|scope| {
        let deleters: Vec<_> = pods.into_iter().map(|pod| scope.spawn(move || pod.delete())).collect();
        deleters.into_iter().filter_map(|deleter| deleter.join().ok()).collect()
    });
    assert_eq!(deleted.len(), usize::from(PODS));
    deleted.into_iter().collect::<Result<Vec<()>, _>>()?;
    quiet.is_clean()
}

fn check_names_what_is_missing() -> Outcome {
    let pair = Pair::with_tun(
        Attachment::Bridge,
        Family::V4,
        Family::V4,
        &json!({ "ipam": { "type": "static", "addresses": [{ "address": "10.4.0.1/30" }], "routes": [{ "dst": "10.44.0.0/16" }] } }),
    )?;
    pair.ohio.check()?;
    let damage: [(&[&str], &[&str], &str); 4] = [
        (
            &["ip", "route", "del", "10.44.0.0/16"],
            &["ip", "route", "add", "10.44.0.0/16", "dev", "tun"],
            "10.44.0.0/16",
        ),
        (&["ip", "link", "set", "tun", "mtu", "1400"], &["ip", "link", "set", "tun", "mtu", "1456"], "mtu 1400"),
        (
            &["ip", "address", "add", "10.99.0.1/32", "dev", "tun"],
            &["ip", "address", "del", "10.99.0.1/32", "dev", "tun"],
            "",
        ),
        // A link that goes down loses its routes.
        (&["ip", "link", "set", "tun", "down"], &["ip", "link", "set", "tun", "up"], "10.44.0.0/16"),
    ];
    for (harm, mend, word) in damage {
        pair.ohio.root(harm)?.ok()?;
        match (pair.ohio.check(), word) {
            (Ok(()), "") => {}
            (Ok(()), word) => return Err(format!("CHECK did not notice: {word}").into()),
            (Err(error), word) => assert!(!word.is_empty() && error.to_string().contains(word), "{word}: {error}"),
        }
        pair.ohio.root(mend)?.ok()?;
    }
    Ok(())
}

fn one_agent_per_directory() -> Outcome {
    let quiet = Quiet::new()?;
    let ohio = quiet.lab.ohio();
    let mut second = ohio.command(Binaries::get()?.program("aditd")?);
    second.arg("--run-dir").arg(ohio.run_dir());
    let ran = run(second, None, Duration::from_secs(10))?.fails()?;
    assert!(ran.stderr.contains("another agent works in"), "{ran:?}");
    // The first one still answers.
    assert_eq!(tunnels(ohio)?.len(), 0);
    Ok(())
}
