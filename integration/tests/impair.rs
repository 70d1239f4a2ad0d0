//! The bad link between real namespaces: what it promises in virtual time holds on interfaces too.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use adit_integration::{scripts::root, trial, trial_within};
use adit_lab::{
    Attachment, Binaries, COMMAND_DEADLINE, Host, Impairment, Lab, LabSpec, Node, Ping, eventually,
    impair::{Bottleneck, Limit, Spec, Statistics, bits_per_second},
    run,
};
use libtest_mimic::Failed;
use serde_json::Value;

type Outcome = Result<(), Failed>;

const PAGE: &str = "docs/impair.md";

fn main() {
    adit_integration::main(vec![
        trial("a_pattern_of_two_percent_loses_exactly_two_percent", pattern),
        trial("a_ping_takes_both_delays", delays),
        trial("a_tcp_flow_gets_the_rate_and_waits_in_the_queue", rate),
        trial("a_packet_of_the_mtu_passes_and_one_byte_more_does_not", mtu),
        trial("a_full_queue_marks_packets_that_allow_it", marks),
        trial("a_flipped_bit_is_found_by_the_receiver", corruption),
        trial("segments_that_no_wire_carries_are_refused_and_told", segments),
        trial("a_running_link_can_be_made_another", changes),
        trial("without_a_link_in_it_a_wire_is_cut", cut),
        trial("the_command_joins_two_interfaces_and_tells_what_happened", command),
        trial_within("every_command_of_the_page_succeeds", Duration::from_secs(120), page),
    ]);
}

/// Two nodes at one router, with wires between.
fn lab() -> Result<Lab, Failed> {
    Ok(Lab::build(&LabSpec::new(Attachment::Bridge).cluster("a", 1).cluster("b", 1).routers(1).with_wires())?)
}

/// A bad link at the first node and a perfect one at the second. There is from the first to the second.
struct Path {
    bad: Impairment,
    _good: Impairment,
    lab: Lab,
}

impl Path {
    fn of(there: Spec, back: Spec) -> Result<Self, Failed> {
        let lab = lab()?;
        let bad = lab.impair(lab.ohio(), [there, back], 1)?;
        let good = lab.impair(lab.mumbai(), [Spec::default(), Spec::default()], 1)?;
        Ok(Self { bad, _good: good, lab })
    }

    fn far(&self) -> String {
        self.lab.mumbai().number().uplink(Host(2))[0].ip().to_string()
    }

    fn ping(&self, options: &[&str]) -> Result<Ping, Failed> {
        Ok(ping(self.lab.ohio(), &self.far(), options)?)
    }

    /// One TCP flow from the first node to the second, in Mb/s as they arrived; of the kind that fills a queue.
    fn tcp(&self, seconds: u32) -> Result<f64, Failed> {
        let mut server = self.lab.mumbai().command("iperf3");
        server
            .args(["-s", "-1", "--idle-timeout", "20"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut server = server.spawn()?;
        let far = self.far();
        let seconds = seconds.to_string();
        let report = eventually("the server to listen", COMMAND_DEADLINE, || {
            let mut client = self.lab.ohio().command("iperf3");
            client.args(["-c", &far, "-t", &seconds, "-J", "-C", "cubic"]);
            let ran = run(client, None, COMMAND_DEADLINE)?;
            // It may tell an error and end well.
            let report = ran.json()?;
            match report["error"].as_str() {
                Some(error) => Err(adit_lab::Error::Unexpected(error.to_owned())),
                None => Ok(Some(report)),
            }
        });
        // With -1 it ends after the one test, and after a while without any.
        let killed = if report.is_err() { server.kill() } else { Ok(()) };
        server.wait()?;
        killed?;
        let report = report?;
        let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
        Ok(bits.ok_or_else(|| format!("iperf3 told no rate: {report}"))? / 1e6)
    }

    fn there(&self) -> Statistics {
        let [there, _] = self.bad.statistics();
        there
    }
}

fn ping(from: &Node, to: &str, options: &[&str]) -> adit_lab::Result<Ping> {
    Ping::from_namespace(from, to, options)
}

fn delay(milliseconds: u64) -> Spec {
    Spec { delay: Duration::from_millis(milliseconds), ..Spec::default() }
}

fn line(mbit: &str, ecn: Option<Limit>) -> Result<Spec, Failed> {
    let queue = Limit::Time(Duration::from_millis(100));
    let bottleneck = Bottleneck { bits_per_second: bits_per_second(mbit)?, queue, ecn };
    Ok(Spec { bottleneck: Some(bottleneck), ..delay(10) })
}

fn pattern() -> Outcome {
    let path = Path::of(Spec { loss: "every:50:1".parse()?, ..Spec::default() }, Spec::default())?;
    let ping = path.ping(&["-c", "1000", "-i", "0.002"])?;
    assert_eq!((ping.sent, ping.received, ping.duplicates), (1000, 980, 0));
    let there = path.there();
    assert_eq!((there.offered.packets, there.dropped.loss), (1000, 20));
    assert_eq!(there.loss_runs.into_iter().collect::<Vec<_>>(), [(1, 20)]);
    Ok(())
}

fn delays() -> Outcome {
    let path = Path::of(delay(30), delay(20))?;
    let ping = path.ping(&["-c", "10", "-i", "0.05"])?.all_received()?;
    let fastest = ping.round_trips.iter().min().ok_or("no answer")?;
    // ping rounds to three digits: 50.0 may be anything below 50.05.
    assert!((Duration::from_micros(49_900)..Duration::from_millis(60)).contains(fastest), "{:?}", ping.round_trips);
    Ok(())
}

fn rate() -> Outcome {
    let path = Path::of(line("20mbit", None)?, delay(10))?;
    let rate = path.tcp(4)?;
    // 1,448 of 1,514 bytes are payload.
    assert!((14.0..=19.2).contains(&rate), "{rate} Mb/s");
    let there = path.there();
    assert!((50_000..=100_000).contains(&there.queue_wait_max_us), "{there:?}");
    assert_eq!((there.dropped.loss, there.dropped.mtu, there.oversize, there.unsent), (0, 0, 0, 0));
    Ok(())
}

fn mtu() -> Outcome {
    let path = Path::of(Spec { mtu_bytes: Some(1400), ..Spec::default() }, Spec::default())?;
    // 28 bytes are headers.
    path.ping(&["-c", "2", "-s", "1372", "-M", "do"])?.all_received()?;
    path.ping(&["-c", "2", "-s", "1373", "-M", "do"])?.none_received()?;
    assert_eq!(path.there().dropped.mtu, 2);
    Ok(())
}

fn marks() -> Outcome {
    let path = Path::of(line("20mbit", Some(Limit::Time(Duration::from_millis(5))))?, delay(10))?;
    for node in path.lab.nodes() {
        node.sysctl("net/ipv4/tcp_ecn", "1")?;
    }
    let rate = path.tcp(3)?;
    let there = path.there();
    assert!(there.ce_marked > 10, "{there:?}");
    // The sender heeds the marks before the queue is full.
    assert_eq!(there.dropped.queue, 0, "{there:?}");
    assert!((12.0..=19.2).contains(&rate), "{rate} Mb/s");
    Ok(())
}

fn corruption() -> Outcome {
    let path = Path::of(Spec { corrupt: "30%".parse()?, ..Spec::default() }, Spec::default())?;
    let ping = path.ping(&["-c", "200", "-i", "0.005"])?;
    let corrupted = path.there().corrupted;
    assert!((30..=90).contains(&corrupted), "{corrupted}");
    assert_eq!(u64::from(ping.sent - ping.received), corrupted);
    Ok(())
}

fn segments() -> Outcome {
    let path = Path::of(Spec::default(), Spec::default())?;
    path.lab.ohio().root(["ethtool", "-K", "up0", "tx", "on", "tso", "on", "gso", "on"])?.ok()?;
    // What TCP makes of it is its own matter.
    let _ = path.tcp(1);
    let there = path.there();
    assert!(there.oversize > 0, "{there:?}");
    assert_eq!(there.unsent, 0, "{there:?}");
    Ok(())
}

fn changes() -> Outcome {
    let path = Path::of(Spec::default(), Spec::default())?;
    path.ping(&["-c", "3"])?.all_received()?;
    path.bad.change([Spec { loss: "100%".parse()?, ..Spec::default() }, Spec::default()], 1);
    path.ping(&["-c", "3"])?.none_received()?;
    path.bad.change([Spec::default(), Spec::default()], 1);
    path.ping(&["-c", "3"])?.all_received()?;
    let [there, back] = path.bad.stop()?;
    assert_eq!((there.offered.packets, there.dropped.loss, back.delivered.packets), (9, 3, 6));
    Ok(())
}

fn cut() -> Outcome {
    let Path { bad, _good, lab } = Path::of(Spec::default(), Spec::default())?;
    let far = lab.mumbai().number().uplink(Host(2))[0].ip().to_string();
    ping(lab.ohio(), &far, &["-c", "2"])?.all_received()?;
    drop(bad);
    ping(lab.ohio(), &far, &["-c", "2"])?.none_received()?;
    Ok(())
}

fn command() -> Outcome {
    let lab = lab()?;
    let node = lab.ohio();
    let _good = lab.impair(lab.mumbai(), [Spec::default(), Spec::default()], 1)?;
    // A link that the library puts there also prepares the interfaces; the command takes its place.
    drop(lab.impair(node, [Spec::default(), Spec::default()], 1)?);
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/run/netns/{}-wire", node.netns_name()))
        .arg("--")
        .arg(Binaries::get()?.program("adit")?);
    command.args(["lab", "impair", "--between", "node", "router", "--loss", "every:10:1", "--loss", "none"]);
    command.args(["--every", "100ms", "--json"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let child = command.spawn()?;
    let far = lab.mumbai().number().uplink(Host(2))[0].ip().to_string();
    let outcome = eventually("the command to carry packets", COMMAND_DEADLINE, || {
        ping(node, &far, &["-c", "1"])?.all_received().map(Some)
    });
    let ping = outcome.and_then(|_| ping(node, &far, &["-c", "100", "-i", "0.005"]));
    let pid = i32::try_from(child.id())?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM)?;
    let output = child.wait_with_output()?;
    assert_eq!(ping?.received, 90);
    assert!(output.status.success(), "{}", output.status);
    let text = String::from_utf8(output.stdout)?;
    let documents: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert!(documents.len() > 2, "{text}");
    let last = documents.last().ok_or("nothing was told")?;
    let lost = last["there"]["dropped"]["loss"].as_u64().ok_or("no losses are told")?;
    assert_eq!(last["there"]["offered"]["packets"].as_u64().ok_or("no packets are told")? / 10, lost);
    assert_eq!(last["back"]["dropped"]["loss"], 0);
    Ok(())
}

/// The blocks of the page one after the other, as they stand there; only that programs may have been built elsewhere.
fn page() -> Outcome {
    let text = std::fs::read_to_string(root().join(PAGE))?;
    let blocks: Vec<&str> = text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() >= 3, "{PAGE} has {} blocks", blocks.len());
    let script = format!("set -eu\n{}", blocks.join("\n"));
    let path = format!("{}:{}", Binaries::get()?.directory().display(), std::env::var("PATH")?);
    let mut shell = Command::new("bash");
    // In a mount namespace of its own, where its namespaces' names are nobody else's and go with it.
    shell
        .args(["-c", &format!("mount -t tmpfs none /run && mkdir /run/netns && ip link set lo up\n{script}")])
        .env("PATH", path);
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    unshare.arg(shell.get_program()).args(shell.get_args()).current_dir(root());
    unshare.envs(shell.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let ran = run(unshare, None, Duration::from_secs(100))?.ok()?;
    for line in text.split("```text\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap_or_default().lines() {
        let (certain, _) = line.split_once("; late").ok_or("a line of another kind")?;
        assert!(ran.stdout.contains(certain), "{certain:?} is not in:\n{}", ran.stdout);
    }
    Ok(())
}
