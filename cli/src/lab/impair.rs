//! `adit lab impair`: a bad link between two interfaces or two UDP ports.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    num::NonZeroU64,
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use adit_lab::{
    Impairment,
    impair::{Bottleneck, Jitter, Limit, Loss, Reorder, Share, Spec, Statistics, bits_per_second, time},
};
use adit_net::Netns;
use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use crate::{Said, complain};

const EXAMPLES: &str = "\
An option that is given once holds for both directions; given twice, the first is from IF1 to IF2 (from LISTEN to TARGET) and the \
second is back.

Examples:
  100 ms and 2 % loss in each direction, between two interfaces of a namespace that has no address on them:
    ip netns exec r adit lab impair --between r0 r1 --delay 100ms --loss 2%
  A line of 30 Mb/s whose queue holds 100 ms, with bursts of five lost packets on the way there, and none back:
    adit lab impair --between r0 r1 --rate 30mbit --queue 100ms --loss ge:0.00408,0.2 --loss none
  Without any privilege, for one UDP application:
    adit lab impair --udp 127.0.0.1:7000=127.0.0.1:7001 --delay 25ms --loss every:200:4 --for 10s --json

Interfaces need `ethtool -K IF tso off gso off` at the senders: a link carries packets, no segments of 64 KB.";

/// A bad link: what comes in at one interface or UDP port leaves at the other, late, damaged or never
///
/// Ends on SIGINT and SIGTERM, and prints what happened to the packets.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Impair {
    /// Two interfaces of this network namespace, as one link between what is behind them; ARP and neighbour discovery pass untouched
    #[arg(long, num_args = 2, value_names = ["IF1", "IF2"], required_unless_present = "udp", conflicts_with = "udp")]
    between: Vec<String>,
    /// Take datagrams at LISTEN and give them on to TARGET, answers to whoever wrote last; needs no privilege
    #[arg(long, value_name = "LISTEN=TARGET", value_parser = pair)]
    udp: Option<(SocketAddr, SocketAddr)>,
    /// Lost packets: 2%, ge:P,R[,H[,K]] (Gilbert-Elliott), every:N:K (the last K of each N), trace:FILE (0 and 1), none
    #[arg(long, value_name = "LOSS")]
    loss: Vec<Loss>,
    /// How long every packet takes, such as 100ms
    #[arg(long, value_name = "TIME", value_parser = time)]
    delay: Vec<Duration>,
    /// By how much that varies: 5ms, 5ms:uniform, 5ms:normal, 5ms:exponential; packets keep their order
    #[arg(long, value_name = "TIME[:KIND]")]
    jitter: Vec<Jitter>,
    /// Packets that later ones overtake, and how long they are held back: 1%:5ms
    #[arg(long, value_name = "SHARE:TIME")]
    reorder: Vec<Reorder>,
    /// Packets that arrive twice
    #[arg(long, value_name = "SHARE")]
    duplicate: Vec<Share>,
    /// Packets in which one bit behind the IP header is flipped; with --udp the receiver gets it, for the kernel makes the checksum
    #[arg(long, value_name = "SHARE")]
    corrupt: Vec<Share>,
    /// Rate of the narrowest place in Ethernet frames: 30mbit
    #[arg(long, value_name = "RATE", value_parser = bits_per_second)]
    rate: Vec<NonZeroU64>,
    /// What may wait before it, in time or bytes: 100ms, 64kb; what finds it full is dropped [default: 100ms]
    #[arg(long, value_name = "LIMIT", requires = "rate")]
    queue: Vec<Limit>,
    /// From which length of that queue on packets are marked CE, if they allow it (ECT): 5ms, 15kb
    #[arg(long, value_name = "LIMIT", requires = "rate", conflicts_with = "udp")]
    ecn: Vec<Limit>,
    /// Largest IP packet that passes; a larger one is dropped and nobody is told
    #[arg(long, value_name = "BYTES")]
    mtu: Vec<usize>,
    /// The same number gives the n-th packet the same fate
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Print what happened so far, each time that so much time has passed
    #[arg(long, value_name = "TIME", value_parser = time)]
    every: Option<Duration>,
    /// End by itself after this time
    #[arg(long = "for", value_name = "TIME", value_parser = time)]
    limit: Option<Duration>,
    /// As JSON, one document a line
    #[arg(long)]
    json: bool,
}

impl Impair {
    /// Runs until a signal comes, or the time is over.
    ///
    /// # Errors
    /// An option is given more than twice, or what is to be impaired is not there.
    pub fn run(&self) -> Said {
        // Blocked before any thread begins, so that none of them is ended by one.
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGTERM);
        signals.thread_block()?;
        let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?;

        let specs = [self.spec(0)?, self.spec(1)?];
        let impairment = match (self.between.as_slice(), self.udp) {
            ([first, second], _) => Impairment::between(&Netns::current()?, first, second, specs, self.seed)?,
            (_, Some((listen, target))) => Impairment::of_datagrams(listen, target, specs, self.seed)?,
            _ => return Err("what is to be impaired: --between IF1 IF2, or --udp LISTEN=TARGET".into()),
        };
        if let Some(trouble) = impairment.trouble() {
            complain(&format!(
                "note: on a busy machine packets may be late, for there is no realtime priority: {trouble}"
            ));
        }
        if !self.json {
            let what =
                impairment.listens_at().map_or_else(|| self.between.join(" and "), |at| format!("{at} and its target"));
            print(&format!("{what} are joined\n"))?;
        }
        self.watch(&impairment, &signals)?;
        let (age, trouble) = (impairment.age(), impairment.trouble().map(str::to_owned));
        Ok(self.told(age, trouble.as_deref(), &impairment.stop()?))
    }

    /// Waits for the end, and says every now and then how it is.
    fn watch(&self, impairment: &Impairment, signals: &SignalFd) -> io::Result<()> {
        let began = Instant::now();
        let mut told: u32 = 0;
        loop {
            let next = self.every.and_then(|every| every.checked_mul(told.saturating_add(1)));
            let wake = match (next, self.limit) {
                (Some(next), Some(limit)) => Some(next.min(limit)),
                (next, limit) => next.or(limit),
            };
            let timeout = wake.and_then(|wake| Timespec::try_from(wake.saturating_sub(began.elapsed())).ok());
            let mut watched = [PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
            match poll(&mut watched, timeout.as_ref()) {
                Ok(0) | Err(rustix::io::Errno::INTR) => (),
                Ok(_) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
            if self.limit.is_some_and(|limit| began.elapsed() >= limit) {
                return Ok(());
            }
            if next.is_some_and(|next| began.elapsed() >= next) {
                told = told.saturating_add(1);
                let text = self.told(impairment.age(), impairment.trouble(), &impairment.statistics());
                print(&text)?;
            }
        }
    }

    /// One direction, 0 there and 1 back.
    fn spec(&self, direction: usize) -> Result<Spec, String> {
        let bits_per_second = pick("--rate", &self.rate, direction)?;
        let queue = pick("--queue", &self.queue, direction)?.unwrap_or(Limit::Time(Duration::from_millis(100)));
        let ecn = pick("--ecn", &self.ecn, direction)?;
        Ok(Spec {
            loss: pick("--loss", &self.loss, direction)?.unwrap_or_default(),
            delay: pick("--delay", &self.delay, direction)?.unwrap_or_default(),
            jitter: pick("--jitter", &self.jitter, direction)?.unwrap_or_default(),
            reorder: pick("--reorder", &self.reorder, direction)?.unwrap_or_default(),
            duplicate: pick("--duplicate", &self.duplicate, direction)?.unwrap_or_default(),
            corrupt: pick("--corrupt", &self.corrupt, direction)?.unwrap_or_default(),
            bottleneck: bits_per_second.map(|bits_per_second| Bottleneck { bits_per_second, queue, ecn }),
            mtu_bytes: pick("--mtu", &self.mtu, direction)?,
        })
    }

    fn told(&self, age: Duration, trouble: Option<&str>, [there, back]: &[Statistics; 2]) -> String {
        if self.json {
            return document(age, trouble, [there, back]).to_string() + "\n";
        }
        format!("{:.1} s\n  there: {}\n  back:  {}\n", age.as_secs_f64(), line(there), line(back))
    }
}

/// Prints at once; the link stays, also when nobody reads any more.
fn print(text: &str) -> io::Result<()> {
    let mut output = io::stdout();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// What was given for a direction.
fn pick<T: Clone>(option: &str, given: &[T], direction: usize) -> Result<Option<T>, String> {
    if given.len() > 2 {
        return Err(format!(
            "{option} was given {} times; once for both directions, or once for each, is possible",
            given.len()
        ));
    }
    Ok(given.get(direction).or_else(|| given.first()).cloned())
}

fn document(age: Duration, trouble: Option<&str>, [there, back]: [&Statistics; 2]) -> Value {
    let direction = |statistics: &Statistics| {
        let mut told = json!(statistics);
        if let Value::Object(map) = &mut told {
            map.insert("lossShare".into(), json!(statistics.loss_share()));
            map.insert("lossRunMean".into(), json!(statistics.loss_run_mean()));
        }
        told
    };
    json!({
        "seconds": age.as_secs_f64(), "realtime": trouble.is_none(), "there": direction(there), "back": direction(back),
    })
}

/// What matters of a direction, and what happened at all.
fn line(told: &Statistics) -> String {
    let mut text = format!(
        "{} of {} packets given on, {} lost ({:.2} %",
        told.delivered.packets,
        told.offered.packets,
        told.dropped.loss,
        told.loss_share() * 100.0
    );
    text.push_str(&if told.dropped.loss > 0 { format!(", runs of {:.1})", told.loss_run_mean()) } else { ")".into() });
    for (count, what) in [
        (told.dropped.queue, "found the queue full"),
        (told.dropped.mtu, "too large"),
        (told.ce_marked, "marked CE"),
        (told.duplicated, "duplicated"),
        (told.corrupted, "corrupted"),
        (told.reordered, "held back"),
        (told.oversize, "no packets of a wire (ethtool -K IF tso off gso off)"),
        (told.unsent, "not sent"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    if told.queue_wait_max_us > 0 {
        text.push_str(&format!(
            "; in the queue {:.1} ms, at most {:.1} ms",
            told.queue_wait_mean_us as f64 / 1e3,
            told.queue_wait_max_us as f64 / 1e3
        ));
    }
    text.push_str(&format!("; late by {} us at most", told.late_max_us));
    text
}

fn pair(text: &str) -> Result<(SocketAddr, SocketAddr), String> {
    let parsed = text.split_once('=').and_then(|(listen, target)| Some((listen.parse().ok()?, target.parse().ok()?)));
    parsed.ok_or_else(|| "write LISTEN=TARGET, each an address and a port: 127.0.0.1:7000=127.0.0.1:7001".into())
}

#[cfg(test)]
mod tests;
