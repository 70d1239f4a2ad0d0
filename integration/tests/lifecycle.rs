//! How tunnels go, and how they stay: DEL in every state of the world, dead agents, dead pods, killed plugins, crowds.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    thread,
    time::{Duration, Instant},
};

use adit_integration::{
    trial,
    tunnels::{
        Below, Call, FIRST_POD, Family, Pair, annotation, lab_with_agents, list, net1, outer, tun, tunnels, with,
    },
};
use adit_lab::{Attachment, Binaries, Lab, LabSpec, Node, Pod, Snapshot, Spies, eventually, run};
use libtest_mimic::Failed;
use nix::sched::{CloneFlags, unshare};
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
        trial("del_with_a_version_that_is_not_supported_removes_the_tunnel", del_of_another_version),
        trial("gc_removes_what_is_stale_and_nothing_else", gc_removes_the_stale),
        trial("gc_tells_the_address_plugin_the_tunnels_own_interfaces", gc_of_addresses),
        trial("a_killed_agent_is_followed_by_one_that_carries_the_same_tunnels", agent_killed),
        trial("both_agents_killed_and_started_again_carry_traffic", both_agents_killed),
        trial("an_agent_that_stops_leaves_the_interface_standing", agent_stopped),
        trial("a_port_taken_while_the_agent_was_dead_is_reported_and_taken_back", port_taken_meanwhile),
        trial("a_vanished_pod_that_nobody_deletes_leaves_nothing", vanished_pod),
        trial("a_pod_that_vanished_while_the_agent_was_dead_leaves_nothing", vanished_without_agent),
        trial("a_namespace_number_that_is_used_again_is_another_namespace", namespace_number_used_again),
        trial("a_file_that_is_no_record_keeps_no_tunnel_alive", garbage_among_records),
        trial("a_replacement_with_the_same_address_takes_over_before_the_old_del", replacement),
        trial("a_killed_add_leaves_only_what_del_removes", killed_add_then_del),
        trial("a_killed_add_does_not_hinder_the_next_one", killed_add_then_add),
        trial("an_add_again_that_fails_leaves_the_live_tunnel", failing_add_again),
        trial("forty_pods_at_once_come_and_go_without_a_trace", forty_at_once),
        trial("check_names_what_is_missing", check_names_what_is_missing),
        trial("check_knows_routes_of_other_tables", check_of_other_tables),
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
        Call::tun(&pod)?.run("DEL", stdin)?.ok()?;
    }
    assert_eq!(tunnels(quiet.lab.ohio())?.len(), 0);
    assert_eq!(pod.interface_names()?, ["lo", "net1"]);
    pod.detach()?;
    quiet.is_clean()
}

fn del_of_another_version() -> Outcome {
    let quiet = Quiet::new()?;
    let mut pod = quiet.pod(quiet.lab.ohio())?;
    let stdin = with(to_mumbai(&quiet.lab), &json!({ "cniVersion": "9.9.9", "name": "tunnelled" }));
    Call::tun(&pod)?.run("DEL", &stdin)?.ok()?;
    assert_eq!(tunnels(quiet.lab.ohio())?.len(), 0);
    assert_eq!(pod.interface_names()?, ["lo", "net1"]);
    pod.detach()?;
    quiet.is_clean()
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

fn gc_of_addresses() -> Outcome {
    let quiet = Quiet::new()?;
    let ohio = quiet.lab.ohio();
    let pod = quiet.pod(ohio)?;
    let binaries = Binaries::get()?;
    let spies = Spies::in_directory(quiet.lab.directory("spies")?)?;
    spies.watching("static", &binaries.program("static")?)?;
    ohio.set_plugin_path(&[spies.directory(), binaries.directory()]);

    let delegate = pod.delegates(&annotation("tunnelled", ohio, FIRST_POD))?.remove(0);
    ohio.gc("tunnelled", &[adit_lab::Runtime::attachment(pod.identity(), &delegate)?])?;

    let calls = spies.calls()?;
    let call = calls.iter().find(|call| call.verb() == "GC" && call.stdin["type"] == "tun").ok_or("no GC for tun")?;
    let valid = call.stdin["cni.dev/valid-attachments"].as_array().cloned().unwrap_or_default();
    for ifname in ["net1", "tun"] {
        let expected = json!({ "containerID": pod.identity().container_id, "ifname": ifname });
        assert!(valid.contains(&expected), "{expected} is missing in {valid:?}");
    }
    assert_eq!(tunnels(ohio)?.len(), 1);
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

/// The kernel gives the number of a dead namespace to the next one: whatever is in that one is not ours.
fn namespace_number_used_again() -> Outcome {
    let quiet = Quiet::new()?;
    // With and without the runtime's DEL, at another path and at the very same.
    for (has_del, name) in [(true, "other"), (false, "other"), (true, "first"), (false, "first")] {
        // Somebody else on this machine may have been given the number.
        let mut is_shown = false;
        for _ in 0..5 {
            is_shown = is_shown || stranger_is_left_alone(&quiet, has_del, name)?;
        }
        if !is_shown {
            println!("left out ({name}, DEL {has_del}): the number of a dead namespace was not used again");
        }
    }
    Ok(())
}

/// `false` when the stranger does not get the dead pod's number.
fn stranger_is_left_alone(quiet: &Quiet, has_del: bool, name: &str) -> Result<bool, Failed> {
    let ohio = quiet.lab.ohio();
    let below = Below::usual(&quiet.lab, ohio, "first")?;
    below.add(&to_mumbai(&quiet.lab))?;
    let number = fs::metadata(below.pod.path())?.ino();
    ohio.kill_agent()?;
    below.pod.vanish()?;
    let Some(stranger) = pod_with_namespace(ohio, name, number)? else {
        ohio.start_agent()?;
        return Ok(false);
    };
    stranger.root(["ip", "tuntap", "add", "mode", "tun", "name", "tun"])?.ok()?;
    stranger.root(["ip", "link", "set", "tun", "up"])?.ok()?;
    let before = stranger.network_snapshot()?;
    let device = stranger.interface("tun")?;
    let is_unharmed = || -> adit_lab::Result<()> {
        before.unchanged(&stranger.network_snapshot()?)?;
        let now = stranger.interface("tun")?;
        // Somebody who has the device open would give it its carrier.
        if now == device { Ok(()) } else { Err(adit_lab::Error::Unexpected(format!("was {device:?}, is {now:?}"))) }
    };

    if has_del {
        Call::tun(&below.pod)?.in_netns("").run("DEL", &below.stdin(&to_mumbai(&quiet.lab)))?.ok()?;
        is_unharmed()?;
    }
    ohio.start_agent()?;
    eventually("the record of the dead pod to go", Duration::from_secs(10), || {
        is_unharmed()?;
        let mut records = fs::read_dir(ohio.run_dir().join("attachments")).into_iter().flatten();
        Ok(records.next().is_none().then_some(()))
    })?;
    is_unharmed()?;
    stranger.delete()?;
    quiet.is_clean()?;
    Ok(true)
}

/// A pod whose namespace has this inode; `None` when the kernel does not give it.
fn pod_with_namespace(node: &Node, name: &str, number: u64) -> Result<Option<Pod>, Failed> {
    // The kernel gives the smallest number that is free, to namespaces of any kind: these hold the smaller ones. The number itself is
    // free once the kernel has taken the dead namespace apart.
    let mut holders = Vec::new();
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        let (held, next) =
            thread::scope(|scope| scope.spawn(hold_number).join()).map_err(|_| "a thread panicked")??;
        if next < number {
            holders.push(held);
            continue;
        }
        drop(held);
        if next > number {
            thread::sleep(Duration::from_millis(1));
            continue;
        }
        let pod = node.pod(name).bare()?;
        if fs::metadata(pod.path())?.ino() == number {
            return Ok(Some(pod));
        }
        pod.delete()?;
    }
    Ok(None)
}

/// A namespace of host names, which costs next to nothing, and its number.
fn hold_number() -> std::io::Result<(fs::File, u64)> {
    unshare(CloneFlags::CLONE_NEWUTS)?;
    let namespace = fs::File::open("/proc/thread-self/ns/uts")?;
    let number = namespace.metadata()?.ino();
    Ok((namespace, number))
}

fn garbage_among_records() -> Outcome {
    let quiet = Quiet::new()?;
    let ohio = quiet.lab.ohio();
    let records = ohio.run_dir().join("attachments");
    let [removed, vanished, stays] = [0, 1, 2]
        .map(|number| ohio.pod(&format!("pod-{number}")).annotated(&annotation("tunnelled", ohio, FIRST_POD + number)));
    let (removed, vanished, stays) = (removed?, vanished?, stays?);
    let file = |pod: &Pod| records.join(format!("{}:net1:tun.json", pod.identity().container_id));
    fs::write(records.join("garbage:net1:tun.json"), "{\"version\":")?;
    fs::write(records.join("README"), "not a record")?;

    // One is removed without a word to the agent, one has no namespace any more.
    fs::remove_file(file(&removed))?;
    vanished.vanish()?;
    eventually("the agent to let both tunnels go", Duration::from_secs(10), || {
        let open = ohio.agent_fds()?;
        Ok(((open.tun, open.udp) == (1, 1) && !file(&vanished).exists()).then_some(()))
    })?;
    assert_eq!(tunnels(ohio)?[0]["attachment"]["containerId"], stays.identity().container_id);
    assert_eq!(tunnels(ohio)?[0]["carried"], true);

    // A record that became unreadable is no proof that its tunnel was removed.
    fs::write(file(&stays), "garbage")?;
    thread::sleep(Duration::from_secs(5));
    assert_eq!(tunnels(ohio)?[0]["carried"], true);
    stays.delete()?;
    assert_eq!(ohio.agent_fds()?.tun, 0);
    Ok(())
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

/// Kills ADDs at many instants; how many did not live to print a result.
fn kill_adds(quiet: &Quiet, then: impl Fn(&Call, &Value) -> Outcome) -> Outcome {
    let ohio = quiet.lab.ohio();
    let mut killed = 0;
    for step in 0..30_u64 {
        let below = Below::usual(&quiet.lab, ohio, &format!("killed-{step}"))?;
        let stdin = below.stdin(&to_mumbai(&quiet.lab));
        let call = Call::tun(&below.pod)?;
        let before = below.pod.network_snapshot()?;
        let life = Duration::from_micros(500 + step * 600).as_secs_f64().to_string();
        let mortal = call.clone().under(&["timeout", "--foreground", "--signal=KILL", &life]);
        killed += u32::from(!mortal.run("ADD", &stdin)?.success());
        then(&call, &stdin).map_err(|failed| format!("step {step}: {}", failed.message().unwrap_or_default()))?;
        call.run("DEL", &stdin)?.ok()?;
        before.unchanged(&below.pod.network_snapshot()?).map_err(|error| format!("step {step}: {error}"))?;
        below.pod.delete()?;
        quiet.is_clean()?;
    }
    assert!(killed >= 5, "only {killed} of 30 were killed in time");
    Ok(())
}

/// A tunnel to the usual peer in Mumbai.
fn to_mumbai(lab: &Lab) -> Value {
    tun(outer(lab.mumbai(), Family::V4, FIRST_POD), "10.4.0.1/30")
}

fn killed_add_then_del() -> Outcome {
    kill_adds(&Quiet::new()?, |_, _| Ok(()))
}

fn killed_add_then_add() -> Outcome {
    let quiet = Quiet::new()?;
    let ohio = quiet.lab.ohio();
    kill_adds(&quiet, |call, stdin| {
        call.run("ADD", stdin)?.ok()?;
        assert_eq!(tunnels(ohio)?.len(), 1);
        assert_eq!(tunnels(ohio)?[0]["carried"], true);
        Ok(())
    })
}

fn failing_add_again() -> Outcome {
    let quiet = Quiet::new()?;
    let ohio = quiet.lab.ohio();
    let peer = quiet.pod(quiet.lab.mumbai())?;
    let below = Below::usual(&quiet.lab, ohio, "again")?;
    let spies = Spies::in_directory(quiet.lab.directory("spies")?)?;
    spies.answering("spy", &json!({ "cniVersion": "1.1.0", "ips": [{ "address": "10.4.0.1/30" }] }))?;
    let call = Call::tun(&below.pod)?.with_plugins_of(spies.directory());
    let stdin = below.stdin(&with(to_mumbai(&quiet.lab), &json!({ "ipam": { "type": "spy" } })));
    call.run("ADD", &stdin)?.ok()?;
    below.pod.ping("10.4.0.2")?.all_received()?;
    let index = below.pod.interface("tun")?.index;

    spies.failing("spy", 11, "the range is exhausted")?;
    below.refuses(&call, &stdin, 11, &["the range is exhausted"])?;
    below.refuses(&call, &with(stdin, &json!({ "mtu": 9000 })), 7, &["mtu"])?;
    assert_eq!(below.pod.interface("tun")?.index, index);
    below.pod.ping("10.4.0.2")?.all_received()?;
    peer.ping("10.4.0.1")?.all_received()?;
    Ok(())
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
        (&["ip", "link", "set", "tun", "mtu", "1457"], &["ip", "link", "set", "tun", "mtu", "1456"], "mtu 1457"),
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

fn check_of_other_tables() -> Outcome {
    let routes = json!([
        { "dst": "10.44.0.0/16", "table": 100 },
        { "dst": "10.45.0.0/16", "priority": 500 },
        { "dst": "10.46.0.0/16", "table": 100, "priority": 7 },
    ]);
    let ipam = json!({ "type": "static", "addresses": [{ "address": "10.4.0.1/30" }], "routes": routes });
    let pair = Pair::with_tun(Attachment::Bridge, Family::V4, Family::V4, &json!({ "ipam": ipam }))?;
    pair.ohio.check()?;
    pair.ohio.root(["ip", "route", "del", "10.44.0.0/16", "table", "100"])?.ok()?;
    // The same destination in another table is another route.
    pair.ohio.root(["ip", "route", "add", "10.44.0.0/16", "dev", "tun"])?.ok()?;
    let error = pair.ohio.check().err().ok_or("CHECK did not notice")?;
    assert!(error.to_string().contains("10.44.0.0/16"), "{error}");
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
