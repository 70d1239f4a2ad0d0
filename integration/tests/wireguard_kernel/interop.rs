//! A pod of ours whose tunnel an agent carries, and a device of the kernel in a pod's network far away, set up by `ip` and `wg`.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use adit_integration::{
    sealed::{Format, KeyPair, answers_within, endpoint, file, install_key, peer, preshared_key, sealed_tun, tunnel},
    trial_within,
    tunnels::{FIRST_POD, Family, annotation, inner_pair, list, net1, outer, with},
};
use adit_lab::{Attachment, COMMAND_DEADLINE, Error, Lab, LabSpec, Ping, Pod, eventually, run};
use libtest_mimic::{Failed, Trial};
use serde_json::json;

use crate::{DEADLINE, Outcome};

const PORT: u16 = 51820;
const SOON: Duration = Duration::from_secs(20);

/// The initiator makes a new session when it sends with keys older than this (section 6.1 of the WireGuard paper).
const REKEY_AFTER: Duration = Duration::from_secs(120);
const STEADY: Duration = REKEY_AFTER.saturating_add(Duration::from_secs(15));

/// As much as goes in a few seconds where every instruction is emulated.
const FILE_BYTES: usize = 2 << 20;

/// The first byte of an initiation (section 5.4.2 of the WireGuard paper).
const INITIATION: u8 = 1;

pub fn trials() -> Vec<Trial> {
    // The long one first: the others run beside it.
    let mut trials = vec![trial_within("new_keys_lose_no_packet_whoever_began", DEADLINE * 2, new_keys)];
    for outside in [Family::V4, Family::V6] {
        for inside in [Family::V4, Family::V6] {
            for begins in [Begins::Ours, Begins::Kernel] {
                let name = format!("files_cross_with_{outside:?}_outside_and_{inside:?}_inside_when_{begins:?}_begins");
                trials.push(trial_within(name.to_lowercase(), DEADLINE, move || files_cross(outside, inside, begins)));
            }
        }
    }
    trials.extend([
        trial_within("a_preshared_key_is_needed_at_both_ends", DEADLINE, preshared),
        trial_within("keepalives_are_heard_by_both", DEADLINE, keepalives),
        trial_within("a_kernel_with_a_new_port_is_followed", DEADLINE, new_port),
        trial_within("an_agent_that_starts_anew_is_taken_up_again", DEADLINE, agent_restarts),
        trial_within("the_largest_packet_passes_and_is_as_large_as_the_kernels", DEADLINE, largest_packet),
    ]);
    trials
}

/// The end that knows where the other one is: only it can send first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begins {
    Ours,
    Kernel,
}

/// What else a world may have.
#[derive(Debug, Clone, Copy, Default)]
struct Extra<'a> {
    /// Preshared keys: ours, the kernel's.
    preshared: [Option<&'a str>; 2],
    /// Ours sends one each second.
    keepalive: bool,
}

struct World {
    ohio: Pod,
    kernel: Pod,
    lab: Lab,
}

impl World {
    fn usual(begins: Begins) -> Result<Self, Failed> {
        Self::up(Family::V4, Family::V4, begins, Extra::default())
    }

    fn up(outside: Family, inside: Family, begins: Begins, extra: Extra<'_>) -> Result<Self, Failed> {
        let lab = Lab::build(&LabSpec::two_clusters(Attachment::Bridge))?;
        let (here, there) = (lab.ohio(), lab.mumbai());
        here.start_agent()?;
        let (ours, kernels) = (KeyPair::new()?, KeyPair::new()?);
        let inner = inner_pair(inside);

        let kernel =
            there.pod("kernel").attach(list("below", &[net1(&lab, there)]), &annotation("below", there, FIRST_POD))?;
        let mtu_bytes = outside.of(&[1440, 1420]);
        kernel.ip_batch(&[
            "link add wg0 type wireguard".to_owned(),
            format!("address add {} dev wg0 {}", inner[1], inside.of(&["", "nodad"])),
            format!("link set wg0 mtu {mtu_bytes} up"),
        ])?;
        let mut configuration = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n[Peer]\nPublicKey = {}\nAllowedIPs = {}\n",
            kernels.private,
            ours.public,
            bare(inner[0])
        );
        if begins == Begins::Kernel {
            configuration += &format!("Endpoint = {}\n", SocketAddr::new(outer(here, outside, FIRST_POD), PORT));
        }
        if let Some(key) = extra.preshared[1] {
            configuration += &format!("PresharedKey = {key}\n");
        }
        let mut command = kernel.command("wg");
        command.args(["setconf", "wg0", "/dev/stdin"]);
        run(command, Some(configuration.as_bytes()), COMMAND_DEADLINE)?.ok()?;

        install_key(here, "default", "tunnel.key", &ours.private)?;
        let remote = (begins == Begins::Ours).then(|| outer(there, outside, FIRST_POD));
        let tun = sealed_tun(Format::Wireguard, outside, remote, &kernels.public, inner[0]);
        let mut tun = with(tun, &json!({ "privateKeyFile": "tunnel.key" }));
        if let Some(key) = extra.preshared[0] {
            install_key(here, "default", "tunnel.psk", key)?;
            let place = if remote.is_none() { &mut tun["peers"][0] } else { &mut tun };
            place["presharedKeyFile"] = json!("tunnel.psk");
        }
        if extra.keepalive {
            tun["keepalive"] = json!("1s");
        }
        let nad = list("tunnelled", &[net1(&lab, here), tun]);
        let ohio = here.pod("ours").attach(nad, &annotation("tunnelled", here, FIRST_POD))?;
        Ok(Self { ohio, kernel, lab })
    }

    /// Echo requests from the end that begins.
    fn begin(&self, begins: Begins, inside: Family) -> Result<Ping, Failed> {
        let [here, there] = inner_pair(inside).map(bare);
        Ok(match begins {
            Begins::Ours => self.ohio.ping(there)?,
            Begins::Kernel => self.kernel.ping(here)?,
        })
    }

    /// What `wg show wg0 WHAT` says of the only peer.
    fn kernel_says(&self, what: &str) -> Result<String, Error> {
        let said = self.kernel.root(["wg", "show", "wg0", what])?.ok()?.stdout;
        let value = said.lines().next().and_then(|line| line.split_once('\t'));
        let value = value.map(|(_, value)| value.trim().to_owned());
        value.ok_or_else(|| Error::Unexpected(format!("`wg show wg0 {what}` says {said:?}")))
    }

    /// Bytes that the kernel's device has received and sent.
    fn transfer(&self) -> Result<[u64; 2], Error> {
        let said = self.kernel_says("transfer")?;
        let counts: Vec<u64> = said.split('\t').filter_map(|count| count.parse().ok()).collect();
        counts.try_into().map_err(|_| Error::Unexpected(format!("`wg show wg0 transfer` says {said:?}")))
    }
}

fn bare(address: &str) -> &str {
    address.split('/').next().unwrap_or_default()
}

fn files_cross(outside: Family, inside: Family, begins: Begins) -> Outcome {
    let world = World::up(outside, inside, begins, Extra::default())?;
    let [here, there] = inner_pair(inside).map(bare);
    let ends = [world.lab.ohio(), world.lab.mumbai()].map(|node| outer(node, outside, FIRST_POD));
    world.begin(begins, inside)?.all_received()?.with_ttl(64)?;
    world.kernel.ping(here)?.all_received()?;
    world.ohio.ping(there)?.all_received()?;
    file_crosses(&world.ohio, &world.kernel, there)?;
    file_crosses(&world.kernel, &world.ohio, here)?;
    world.ohio.check()?;
    let status = tunnel(world.lab.ohio())?;
    assert_eq!(status["state"], "up", "{status:#}");
    // Where everything takes its time a handshake may be begun twice, and the answer to the first one is not awaited any more.
    for wrong in ["bad_tag", "bad_mac", "bad_handshake", "unknown_key", "replayed"] {
        assert!(status["drops"][wrong].is_null(), "{status:#}");
    }
    assert_eq!(endpoint(world.lab.ohio())?, Some(SocketAddr::new(ends[1], PORT)));
    assert_eq!(world.kernel_says("endpoints")?, SocketAddr::new(ends[0], PORT).to_string());
    assert_ne!(world.kernel_says("latest-handshakes")?, "0");
    // A file came and went, twice.
    let counts = world.transfer()?;
    assert!(counts.iter().all(|bytes| *bytes > 2 * FILE_BYTES as u64), "{counts:?}");
    Ok(())
}

/// There and back; what returns must be what was sent, byte by byte.
pub fn file_crosses(from: &Pod, to: &Pod, address: &str) -> Outcome {
    let server = to.tcp_echo(SocketAddr::new(address.parse()?, 7000))?;
    let sent = file(FILE_BYTES);
    let back = from.tcp_exchange(server.address(), &sent, COMMAND_DEADLINE)?;
    assert!(back == sent, "{} of {} bytes came back", back.len(), sent.len());
    Ok(())
}

fn preshared() -> Outcome {
    let (one, other) = (preshared_key()?, preshared_key()?);
    for begins in [Begins::Ours, Begins::Kernel] {
        let world =
            World::up(Family::V4, Family::V4, begins, Extra { preshared: [Some(&one); 2], ..Extra::default() })?;
        world.begin(begins, Family::V4)?.all_received()?;
        for keys in [[Some(one.as_str()), None], [Some(&one), Some(&other)]] {
            let world = World::up(Family::V4, Family::V4, begins, Extra { preshared: keys, ..Extra::default() })?;
            let (from, to) =
                if begins == Begins::Ours { (&world.ohio, "10.4.0.2") } else { (&world.kernel, "10.4.0.1") };
            from.ping(to)?.none_received()?;
            assert_eq!(world.kernel_says("latest-handshakes")?, "0");
        }
    }
    Ok(())
}

fn keepalives() -> Outcome {
    let world = World::up(Family::V4, Family::V4, Begins::Ours, Extra { keepalive: true, ..Extra::default() })?;
    world.begin(Begins::Ours, Family::V4)?.all_received()?;
    // One is 32 bytes long: header and tag of nothing.
    let [received, sent] = world.transfer()?;
    let packets = peer(world.lab.ohio())?["txPackets"].clone();
    eventually("three keepalives of ours", SOON, || Ok((world.transfer()?[0] >= received + 3 * 32).then_some(())))?;
    assert_eq!((world.transfer()?[1], &peer(world.lab.ohio())?["txPackets"]), (sent, &packets));

    // The kernel's timer begins anew with whatever it hears, so ours must be silent.
    let world = World::usual(Begins::Ours)?;
    world.begin(Begins::Ours, Family::V4)?.all_received()?;
    let public = world.kernel.root(["wg", "show", "wg0", "peers"])?.ok()?.stdout;
    world.kernel.root(["wg", "set", "wg0", "peer", public.trim(), "persistent-keepalive", "1"])?.ok()?;
    let datagrams = || Ok::<_, Error>(peer(world.lab.ohio())?["rxPackets"].as_u64());
    let before = datagrams()?;
    for _ in 0..3 {
        let since = Instant::now();
        eventually("the kernel to be heard once more", SOON, || {
            let limit = since.elapsed();
            let age = peer(world.lab.ohio())?["lastSeenMs"].as_u64();
            Ok(age.is_some_and(|age| u128::from(age) < limit.as_millis()).then_some(()))
        })?;
    }
    assert_eq!(datagrams()?, before);
    Ok(())
}

fn new_port() -> Outcome {
    let world = World::usual(Begins::Ours)?;
    world.ohio.ping("10.4.0.2")?.all_received()?;
    let since = world.kernel_says("latest-handshakes")?;
    for port in [40_000, 40_001] {
        world.kernel.root(["wg", "set", "wg0", "listen-port", &port.to_string()])?.ok()?;
        world.kernel.ping("10.4.0.1")?.all_received()?;
        assert_eq!(endpoint(world.lab.ohio())?.map(|endpoint| endpoint.port()), Some(port));
        world.ohio.ping("10.4.0.2")?.all_received()?;
    }
    // The same session all the time.
    assert_eq!(world.kernel_says("latest-handshakes")?, since);
    Ok(())
}

fn agent_restarts() -> Outcome {
    for begins in [Begins::Ours, Begins::Kernel] {
        let world = World::usual(begins)?;
        world.begin(begins, Family::V4)?.all_received()?;
        world.lab.ohio().kill_agent()?;
        world.lab.ohio().start_agent()?;
        // Who has lost the session begins anew at once; the kernel, which has not, after 15 s without an answer.
        let (from, to) = if begins == Begins::Ours { (&world.ohio, "10.4.0.2") } else { (&world.kernel, "10.4.0.1") };
        answers_within(SOON * 2, from, to)?;
    }
    Ok(())
}

fn largest_packet() -> Outcome {
    for (outside, inside, header) in [
        (Family::V4, Family::V4, 28),
        (Family::V4, Family::V6, 48),
        (Family::V6, Family::V4, 28),
        (Family::V6, Family::V6, 48),
    ] {
        let world = World::up(outside, inside, Begins::Ours, Extra::default())?;
        let [here, there] = inner_pair(inside).map(bare);
        let mtu = world.ohio.interface("tun")?.mtu_bytes;
        assert_eq!(mtu, outside.of(&[1440, 1420]));
        let size = |bytes: u32| (bytes - header).to_string();
        world.ohio.ping_with(there, &["-c", "2", "-M", "do", "-s", &size(mtu)])?.all_received()?;
        world.kernel.ping_with(here, &["-c", "2", "-M", "do", "-s", &size(mtu)])?.all_received()?;
        world.ohio.ping_with(there, &["-c", "2", "-M", "do", "-s", &size(mtu + 1)])?.none_received()?;
    }
    Ok(())
}

fn new_keys() -> Outcome {
    thread::scope(|scope| {
        let runs = [Begins::Ours, Begins::Kernel].map(|begins| (begins, scope.spawn(move || steady(begins))));
        for (begins, run) in runs {
            let ended = run.join().map_err(|_| format!("{begins:?}: panicked"))?;
            ended.map_err(|error| format!("when {begins:?} began: {}", error.message().unwrap_or("failed")))?;
        }
        Ok(())
    })
}

/// Echo requests both ways. Only one end knows where the other one is, and only it can begin anew.
fn steady(begins: Begins) -> Outcome {
    const PER_SECOND: u32 = 10;
    let world = World::usual(begins)?;
    world.begin(begins, Family::V4)?.all_received()?;
    let first = world.kernel_says("latest-handshakes")?;
    let tap = world.lab.router(2)?.tap("next", |packet| packet.payload.first() == Some(&INITIATION))?;
    let count = (u64::from(PER_SECOND) * STEADY.as_secs()).to_string();
    let interval = (1.0 / f64::from(PER_SECOND)).to_string();
    let ping = |pod: &Pod, to: &str| -> Result<String, Error> {
        let line = ["ping", "-n", "-q", "-i", &interval, "-c", &count, "-W", "5", to];
        Ok(pod.run_for(STEADY * 2, line)?.stdout)
    };
    let said = thread::scope(|scope| {
        let both = [(&world.ohio, "10.4.0.2"), (&world.kernel, "10.4.0.1")];
        let pings = both.map(|(pod, to)| scope.spawn(move || ping(pod, to)));
        pings.map(|ping| ping.join().map_err(|_| Failed::from("a ping panicked")))
    });
    for said in said {
        let said = said??;
        assert!(said.contains(&format!("{count} packets transmitted, {count} received")), "{said}");
    }
    assert_ne!(world.kernel_says("latest-handshakes")?, first);
    let beginner = if begins == Begins::Ours { world.lab.ohio() } else { world.lab.mumbai() };
    let initiations = tap.stop();
    assert!(!initiations.is_empty(), "no new keys were asked for");
    assert!(initiations.iter().all(|one| one.src == outer(beginner, Family::V4, FIRST_POD)), "{initiations:?}");
    Ok(())
}
