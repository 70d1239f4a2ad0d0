//! The agent in trouble: more to do than it can do at once, and devices that vanish under it.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use adit_integration::{
    second::Second,
    trial,
    tunnels::{Pair, lab_with_agents, tunnels},
};
use adit_lab::{Attachment, LabSpec, eventually};
use libtest_mimic::Failed;
use serde_json::json;

type Outcome = Result<(), Failed>;

fn main() {
    adit_integration::main(vec![
        trial("a_long_look_keeps_neither_clients_nor_the_end_waiting", long_look),
        trial("a_tunnel_whose_device_was_deleted_is_taken_up_again_when_it_is_back", device_deleted),
        trial("an_agent_that_stands_by_takes_every_tunnel_up_when_the_other_one_ends", || standby(false)),
        trial("an_agent_that_stands_by_takes_over_when_the_other_one_is_killed", || standby(true)),
    ]);
}

/// The record of a tunnel that was carried, and whose pod is gone.
fn leave_record(directory: &Path, number: u32) -> Outcome {
    let record = json!({
        "version": 1,
        "attachment": { "containerId": format!("gone-{number}"), "cniIfName": "net1", "ifName": "tun" },
        "createdNs": 1, "network": "n", "pod": { "namespace": "", "name": "", "uid": "" }, "state": "attached",
        "netns": { "path": "/run/netns/adit-no-such-namespace", "id": { "dev": 4, "inode": 1 } },
        "spec": {
            "ifName": "tun", "encap": "udp", "engine": "agent", "encryption": "none", "device": "net1", "local": "10.10.1.200:6090",
            "mtuBytes": 1456, "peers": [{ "endpoint": "10.20.1.200:6090", "allowedIPs": ["0.0.0.0/0"] }],
        },
        "addresses": [], "routes": [], "epochFloor": 0,
    });
    fs::write(directory.join(format!("gone-{number}:net1:tun.json")), record.to_string())?;
    Ok(())
}

fn ping(run_dir: &Path) -> Outcome {
    let request = json!({ "version": 1, "request": { "op": "ping" } }).to_string();
    let mut stream = UnixStream::connect(run_dir.join("agent.sock"))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(&u32::try_from(request.len())?.to_be_bytes())?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream
        .take(1000)
        .read_to_string(&mut answer)
        .or_else(|error| if answer.is_empty() { Err(error) } else { Ok(0) })?;
    assert!(answer.contains("done"), "{answer}");
    Ok(())
}

fn long_look() -> Outcome {
    const RECORDS: u32 = 4000;
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let ohio = lab.ohio();
    let directory = ohio.run_dir().join("attachments");
    let left = || fs::read_dir(&directory).map(Iterator::count);
    for number in 0..RECORDS {
        leave_record(&directory, number)?;
    }
    // Letting go of so many takes seconds. Pings are answered in the midst of it.
    let most = left()?;
    eventually("the agent to be busy", Duration::from_secs(10), || {
        Ok(left().is_ok_and(|left| left < most).then_some(()))
    })?;
    for _ in 0..10 {
        let start = Instant::now();
        ping(ohio.run_dir())?;
        assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    }
    assert!(left()? > 0, "the look was over too soon to prove anything");
    let start = Instant::now();
    lab.ohio().stop_agent()?;
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert!(left()? > 0, "the look was over too soon to prove anything");
    Ok(())
}

fn device_deleted() -> Outcome {
    let pair = Pair::usual()?;
    let ohio = pair.lab.ohio();
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    pair.ohio.root(["ip", "link", "delete", "tun"])?.ok()?;
    eventually("the agent to miss the device", Duration::from_secs(10), || {
        let tunnels = tunnels(ohio)?;
        Ok(tunnels[0]["reason"].as_str().is_some_and(|reason| reason.contains("attach to TUN device")).then_some(()))
    })?;
    let open = ohio.agent_fds()?;
    assert_eq!((open.tun, open.udp), (0, 0), "{open:?}");

    pair.ohio.root(["ip", "tuntap", "add", "tun", "mode", "tun", "user", "root"])?.ok()?;
    pair.ohio.root(["ip", "link", "set", "tun", "mtu", "1456", "up"])?.ok()?;
    pair.ohio.root(["ip", "address", "add", "10.4.0.1/30", "dev", "tun"])?.ok()?;
    eventually("the tunnel to be up again", Duration::from_secs(10), || {
        Ok((tunnels(ohio)?[0]["state"] == "up").then_some(()))
    })?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    pair.mumbai.ping("10.4.0.1")?.all_received()?;
    Ok(())
}

/// What a rolling upgrade does on a node.
fn standby(killed: bool) -> Outcome {
    let pair = Pair::usual()?;
    let ohio = pair.lab.ohio();
    let directory = pair.lab.directory("second")?;
    // Without the option it says why not, and ends.
    let mut refused = Second::start(ohio, directory.join("refused"), &[])?;
    assert!(!refused.process.wait()?.success());
    refused.says("another agent works in")?;

    let second = Second::start(ohio, directory.join("log"), &["--standby"])?;
    second.says("waiting for its end")?;
    // The node is served meanwhile.
    ohio.adit(["ready"])?.ok()?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    let pinging = pair.ohio.spawn(["ping", "-n", "-i", "0.01", "-w", "5", "10.4.0.2"])?;
    eventually("answers", Duration::from_secs(5), || Ok(pinging.output().contains("icmp_seq=50").then_some(())))?;
    if killed {
        ohio.kill_agent()?
    } else {
        ohio.stop_agent()?
    }
    if killed {
        second.says("listening on")?;
        eventually("the tunnel to be up", Duration::from_secs(10), || {
            Ok((tunnels(ohio)?[0]["state"] == "up").then_some(()))
        })?;
    } else {
        // At the first look: the one that ended had let go of everything before.
        second.says("carrying 1 tunnels, listening on")?;
    }
    ohio.adit(["ready"])?.ok()?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    eventually("ping to end", Duration::from_secs(10), || Ok((!pinging.is_running()).then_some(())))?;
    let said = pinging.stop()?;
    println!("{}", said.lines().find(|line| line.contains("packets transmitted")).unwrap_or(&said));
    drop(second);
    let said = ohio.adit(["ready"])?.fails()?.stderr;
    assert!(said.contains("agent"), "{said}");
    Ok(())
}
