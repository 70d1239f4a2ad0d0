//! Planned: one agent hands everything to the next.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::SocketAddr,
    os::unix::{net::UnixStream, process::CommandExt as _},
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use adit_integration::{
    second::Second,
    trial, trial_within,
    tunnels::{FIRST_POD, Family, Pair, annotation, list, net1, outer, tun, tunnels},
};
use adit_lab::{Binaries, Node, eventually};
use libtest_mimic::{Failed, Trial};
use serde_json::json;

use crate::{
    Outcome,
    words::{Wire, all_up, carrier_changes, counted, unanswered},
};

const USUAL_SECONDS: u64 = 10;
const UPGRADES: u32 = 3;
/// How often a run is repeated whose control, a ping without a tunnel, lost packets: the machine was too busy to tell.
const TRIES: usize = 3;

pub fn trials() -> Vec<Trial> {
    let seconds = env::var("ADIT_SURVIVAL_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(USUAL_SECONDS);
    let deadline = Duration::from_secs((2 * seconds + 40) * TRIES as u64);
    let across = Wire::ALL.map(|wire| {
        let name = format!("three_upgrades_of_each_agent_lose_no_packet_of_a_{}_tunnel", wire.name());
        trial_within(name, deadline, move || across_upgrades(wire, seconds))
    });
    let mut trials = Vec::from(across);
    trials.extend([
        trial("a_tcp_connection_runs_on_across_upgrades", stream_across_upgrades),
        trial("adds_and_dels_during_upgrades_neither_fail_nor_get_lost", changes_meanwhile),
        trial("an_agent_that_stands_by_gets_everything_when_the_other_one_is_told_to_end", standby),
        trial("an_agent_that_dies_while_it_takes_over_leaves_everything_to_the_other_one", heir_dies),
        trial("an_agent_that_hangs_while_it_takes_over_holds_up_nothing_for_long", heir_hangs),
        trial("an_agent_that_dies_while_it_hands_over_is_followed_all_the_same", giver_dies),
        trial("an_agent_that_is_hung_up_on_starts_the_next_one_itself", hung_up),
        trial("an_agent_that_asks_for_tunnels_where_none_is_at_work_just_starts", nobody_to_take_over),
    ]);
    trials
}

fn across_upgrades(wire: Wire, seconds: u64) -> Outcome {
    let pair = wire.pair()?;
    let nodes = [pair.lab.ohio(), pair.lab.mumbai()];
    let control = outer(pair.lab.mumbai(), Family::V4, FIRST_POD).to_string();
    for attempt in 1..=TRIES {
        let before = [counted(nodes[0])?, counted(nodes[1])?];
        let changes = [carrier_changes(&pair.ohio)?, carrier_changes(&pair.mumbai)?];
        let pids = nodes.map(Node::agent_pid);
        let (lost, of_control) = thread::scope(|scope| {
            let through = scope.spawn(|| unanswered(&pair.ohio, "10.4.0.2", seconds));
            let beside = scope.spawn(|| unanswered(&pair.ohio, &control, seconds));
            for _ in 0..UPGRADES {
                thread::sleep(Duration::from_secs(seconds) / (UPGRADES + 1));
                for node in nodes {
                    node.upgrade_agent()?;
                }
            }
            let [through, beside] = [through, beside].map(|run| run.join().map_err(|_| Failed::from("ping panicked")));
            Ok::<_, Failed>((through??, beside??))
        })?;
        assert!(nodes.map(Node::agent_pid).iter().zip(pids).all(|(now, then)| now.is_some() && *now != then));
        let after = [counted(nodes[0])?, counted(nodes[1])?];
        for ((was, _), (is, drops)) in before.iter().zip(&after) {
            for key in ["rxPackets", "txPackets"] {
                let count = |peer: &serde_json::Value| peer[key].as_u64().unwrap_or_default();
                let passed = count(is) - count(was);
                assert!(passed + u64::from(lost) >= seconds * 100, "{key}: {passed}, {is:#}");
            }
            // The sessions are the same; within a minute none is renewed.
            assert_eq!(is["handshakes"], was["handshakes"], "{is:#} {drops:#}");
        }
        assert_eq!(
            [carrier_changes(&pair.ohio)?, carrier_changes(&pair.mumbai)?],
            changes,
            "the link never had a doubt"
        );
        println!("{}: {lost} of {} lost, {of_control} beside it", wire.name(), seconds * 100);
        if of_control == 0 || attempt == TRIES {
            assert_eq!((lost, of_control), (0, 0), "lost through the tunnel, and beside it");
            break;
        }
    }
    for node in nodes {
        let open = node.agent_fds()?;
        assert_eq!((open.tun, open.udp), (1, 1), "{open:?}");
        let all = open.all;
        node.upgrade_agent()?;
        assert!(node.agent_fds()?.all <= all, "{:?} after {open:?}", node.agent_fds()?);
    }
    // Nobody has the device now: the link says so, and only now.
    let changes = carrier_changes(&pair.ohio)?;
    nodes[0].stop_agent()?;
    eventually("the device to lose its carrier", Duration::from_secs(5), || {
        Ok(pair.ohio.interface("tun")?.has("NO-CARRIER").then_some(()))
    })?;
    assert_eq!(carrier_changes(&pair.ohio)?, changes + 1);
    Ok(())
}

/// A stream that goes to an echo server and back, without an end until it is told; how many bytes came back, and the longest silence.
fn stream(pair: &Pair, done: &AtomicBool) -> Result<(usize, Duration), Failed> {
    let server = pair.mumbai.tcp_echo(SocketAddr::new("10.4.0.2".parse()?, 0))?;
    let stream = pair.ohio.run_inside(|| std::net::TcpStream::connect(server.address()))??;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.set_write_timeout(Some(Duration::from_secs(20)))?;
    thread::scope(|scope| {
        let (mut out, mut back) = (stream.try_clone()?, stream.try_clone()?);
        let writer = scope.spawn(move || -> std::io::Result<usize> {
            let mut sent = 0;
            while !done.load(Relaxed) {
                let bytes: Vec<u8> = (sent..sent + 4096).map(|place| (place / 7) as u8).collect();
                out.write_all(&bytes)?;
                sent += bytes.len();
            }
            out.shutdown(std::net::Shutdown::Write)?;
            Ok(sent)
        });
        let (mut received, mut silence, mut last) = (0, Duration::ZERO, Instant::now());
        let mut bytes = vec![0; 65_536];
        loop {
            let length = back.read(&mut bytes)?;
            silence = silence.max(last.elapsed());
            last = Instant::now();
            if length == 0 {
                break;
            }
            let expected = (received..received + length).map(|place| (place / 7) as u8);
            assert!(bytes[..length].iter().copied().eq(expected), "other bytes came back, behind {received}");
            received += length;
        }
        let sent = writer.join().map_err(|_| "the writer panicked")??;
        assert_eq!(received, sent);
        Ok((received, silence))
    })
}

/// Runs `during` while a stream passes.
pub fn beside_a_stream(pair: &Pair, during: impl FnOnce() -> Outcome) -> Result<(usize, Duration), Failed> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let stream = scope.spawn(|| stream(pair, &done));
        thread::sleep(Duration::from_millis(500));
        let outcome = during();
        thread::sleep(Duration::from_millis(500));
        done.store(true, Relaxed);
        let streamed = stream.join().map_err(|_| Failed::from("the stream panicked"))?;
        outcome?;
        streamed
    })
}

fn stream_across_upgrades() -> Outcome {
    for wire in Wire::ALL {
        let pair = wire.pair()?;
        let (bytes, silence) = beside_a_stream(&pair, || {
            for _ in 0..UPGRADES {
                pair.lab.ohio().upgrade_agent()?;
                pair.lab.mumbai().upgrade_agent()?;
            }
            Ok(())
        })?;
        println!("{}: {bytes} bytes came back, the longest silence was {silence:?}", wire.name());
    }
    Ok(())
}

fn changes_meanwhile() -> Outcome {
    let pair = Wire::Plain.pair()?;
    let ohio = pair.lab.ohio();
    ohio.define(list("more", &[net1(&pair.lab, ohio), tun(outer(pair.lab.mumbai(), Family::V4, 7), "10.7.0.1/30")]))?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let changes: Vec<_> = (1..=3_u8)
            .map(|number| {
                let done = &done;
                scope.spawn(move || -> Result<u32, Failed> {
                    let mut changes = 0;
                    while !done.load(Relaxed) {
                        let pod =
                            ohio.pod(&format!("more-{number}")).annotated(&annotation("more", ohio, 20 + number))?;
                        assert!(tunnels(ohio)?.len() >= 2);
                        pod.check()?;
                        pod.delete()?;
                        changes += 1;
                    }
                    Ok(changes)
                })
            })
            .collect();
        for _ in 0..6 {
            thread::sleep(Duration::from_millis(300));
            ohio.upgrade_agent()?;
        }
        done.store(true, Relaxed);
        for change in changes {
            let changes = change.join().map_err(|_| Failed::from("a change panicked"))??;
            assert!(changes > 0);
        }
        Ok::<_, Failed>(())
    })?;
    assert_eq!(tunnels(ohio)?.len(), 1, "{:#?}", tunnels(ohio)?);
    let open = ohio.agent_fds()?;
    assert_eq!((open.tun, open.udp), (1, 1), "{open:?}");
    assert_eq!(fs::read_dir(ohio.run_dir().join("attachments"))?.count(), 1);
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    Ok(())
}

fn standby() -> Outcome {
    let pair = Wire::ALL[1].pair()?;
    let ohio = pair.lab.ohio();
    let directory = pair.lab.directory("second")?;
    let changes = carrier_changes(&pair.ohio)?;
    let (before, _) = counted(ohio)?;
    // Of two that wait one gets it, and the other one waits on.
    let mut seconds = Vec::new();
    for name in ["one", "other"] {
        let second = Second::start(ohio, directory.join(name), &["--standby"])?;
        second.says("waiting for its end")?;
        seconds.push(second);
    }
    eventually("both to stand by", Duration::from_secs(10), || {
        Ok((ohio.agent_log().matches("another agent stands by").count() == 2).then_some(()))
    })?;
    let start = Instant::now();
    ohio.stop_agent()?;
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let winner = eventually("one to take over", Duration::from_secs(10), || {
        let said = |second: &Second| fs::read_to_string(&second.log).unwrap_or_default();
        Ok(seconds.iter().position(|second| said(second).contains("listening on")))
    })?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    assert_eq!(counted(ohio)?.0["handshakes"], before["handshakes"]);
    assert_eq!(carrier_changes(&pair.ohio)?, changes);
    // And so on.
    let winner = seconds.remove(winner);
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(winner.process.id())?),
        nix::sys::signal::Signal::SIGTERM,
    )?;
    seconds[0].says("listening on")?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    assert_eq!(counted(ohio)?.0["handshakes"], before["handshakes"]);
    assert_eq!(carrier_changes(&pair.ohio)?, changes);
    Ok(())
}

/// One message of the conversation between agents.
fn say(stream: &mut UnixStream, message: &serde_json::Value) -> Outcome {
    let message = message.to_string();
    stream.write_all(&u32::try_from(message.len())?.to_be_bytes())?;
    stream.write_all(message.as_bytes())?;
    Ok(())
}

fn hear(stream: &mut UnixStream) -> Result<serde_json::Value, Failed> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::try_from(u32::from_be_bytes(length))?];
    stream.read_exact(&mut message)?;
    Ok(serde_json::from_slice(&message)?)
}

/// Takes part as the next agent would, until it has been given one tunnel. (Descriptors that nobody receives are closed.)
fn taken_half(node: &Node) -> Result<(UnixStream, usize), Failed> {
    let mut stream = UnixStream::connect(node.run_dir().join("handover.sock"))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    say(&mut stream, &json!({ "say": "hello", "version": 1, "atOnce": true }))?;
    let offer = hear(&mut stream)?;
    assert_eq!(offer["say"], "offer");
    say(&mut stream, &json!({ "say": "ready" }))?;
    let given = hear(&mut stream)?;
    assert_eq!(given["say"], "give");
    Ok((stream, usize::try_from(given["stateBytes"].as_u64().ok_or("no length")?)?))
}

fn heir_dies() -> Outcome {
    for wire in Wire::ALL {
        let pair = wire.pair()?;
        let ohio = pair.lab.ohio();
        let changes = carrier_changes(&pair.ohio)?;
        let (before, _) = counted(ohio)?;
        // Before it says that it has the tunnel: nothing has happened.
        drop(taken_half(ohio)?);
        pair.ohio.ping("10.4.0.2")?.all_received()?;
        assert_eq!(counted(ohio)?.0["handshakes"], before["handshakes"]);
        assert_eq!(carrier_changes(&pair.ohio)?, changes);
        // After it was told that it is its own: nobody knows what it sent, and the sessions are not used again.
        let (mut stream, state_bytes) = taken_half(ohio)?;
        stream.read_exact(&mut vec![0; state_bytes])?;
        say(&mut stream, &json!({ "say": "got" }))?;
        assert_eq!(hear(&mut stream)?["say"], "yours");
        drop(stream);
        all_up(ohio, 1)?;
        pair.ohio.ping("10.4.0.2")?.all_received()?;
        assert_eq!(counted(ohio)?.0["handshakes"], 1, "another incarnation");
        assert!(ohio.agent_log().contains("did not take over"));
        // It can still hand over.
        ohio.upgrade_agent()?;
        pair.ohio.ping("10.4.0.2")?.all_received()?;
    }
    Ok(())
}

fn heir_hangs() -> Outcome {
    let pair = Wire::ALL[1].pair()?;
    let ohio = pair.lab.ohio();
    let (before, _) = counted(ohio)?;
    let hanging = taken_half(ohio)?;
    // What is asked meanwhile is answered.
    eventually("the agent to answer", Duration::from_secs(20), || {
        Ok(ohio.adit(["ready"])?.ok().is_ok().then_some(()))
    })?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    assert_eq!(counted(ohio)?.0["handshakes"], before["handshakes"]);
    drop(hanging);
    // Whoever has nothing to say holds up nothing at all.
    let silent = UnixStream::connect(ohio.run_dir().join("handover.sock"))?;
    let start = Instant::now();
    ohio.upgrade_agent()?;
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    drop(silent);
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    Ok(())
}

fn giver_dies() -> Outcome {
    let pair = Wire::ALL[1].pair()?;
    let ohio = pair.lab.ohio();
    let second = Second::start(ohio, pair.lab.directory("second")?.join("log"), &["--standby"])?;
    second.says("waiting for its end")?;
    // Hung in the midst of another handover.
    let (stream, _) = taken_half(ohio)?;
    ohio.kill_agent()?;
    second.says("listening on")?;
    all_up(ohio, 1)?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    drop(stream);
    Ok(())
}

/// A process and those that it starts; they end with this value.
struct Group(nix::unistd::Pid);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = nix::sys::signal::killpg(self.0, nix::sys::signal::Signal::SIGKILL);
    }
}

/// What `systemctl reload` does, and what it is told.
fn hung_up() -> Outcome {
    use nix::{sys::signal, unistd::Pid};
    let pair = Wire::ALL[1].pair()?;
    let ohio = pair.lab.ohio();
    let (before, _) = counted(ohio)?;
    let changes = carrier_changes(&pair.ohio)?;
    ohio.stop_agent()?;
    let directory = pair.lab.directory("manager")?;
    let manager = std::os::unix::net::UnixDatagram::bind(directory.join("notify"))?;
    manager.set_read_timeout(Some(Duration::from_secs(10)))?;
    let told = |wanted: &str| -> Result<String, Failed> {
        let mut bytes = [0; 500];
        loop {
            let length = manager.recv(&mut bytes).map_err(|error| format!("{wanted}: {error}"))?;
            let said = String::from_utf8_lossy(&bytes[..length]).into_owned();
            if let Some(value) = said.lines().find_map(|line| line.strip_prefix(wanted)) {
                return Ok(value.to_owned());
            }
        }
    };
    let mut command = ohio.command(Binaries::get()?.program("aditd")?);
    command.arg("--run-dir").arg(ohio.run_dir()).arg("--config-dir").arg(ohio.config_dir());
    command.env("NOTIFY_SOCKET", directory.join("notify"));
    let log = directory.join("log");
    let file = fs::File::create(&log)?;
    let process = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0).spawn()?;
    let group = Group(Pid::from_raw(i32::try_from(process.id())?));
    let mut first = Second { process, log };
    told("READY=")?;
    all_up(ohio, 1)?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    let handshakes = counted(ohio)?.0["handshakes"].clone();
    signal::kill(Pid::from_raw(i32::try_from(first.process.id())?), signal::Signal::SIGHUP)?;
    let next = Pid::from_raw(told("MAINPID=")?.parse()?);
    assert!(first.process.wait()?.success());
    told("READY=")?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    assert_eq!(counted(ohio)?.0["handshakes"], handshakes, "{before}");
    // It stopped and was started once, without a handover.
    assert_eq!(carrier_changes(&pair.ohio)?, changes + 2);
    signal::kill(next, signal::Signal::SIGTERM)?;
    eventually("the next agent to end", Duration::from_secs(10), || {
        let ended = fs::read_to_string(format!("/proc/{next}/stat")).map_or(true, |stat| stat.contains(") Z "));
        Ok(ended.then_some(()))
    })?;
    drop(group);
    Ok(())
}

fn nobody_to_take_over() -> Outcome {
    let pair = Wire::Plain.pair()?;
    let ohio = pair.lab.ohio();
    ohio.stop_agent()?;
    let second = Second::start(ohio, pair.lab.directory("second")?.join("log"), &["--take-over"])?;
    second.says("carrying 1 tunnels, listening on")?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    Ok(())
}
