//! More handshakes than can be worked out, and the cookies that sort them.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use adit_integration::{
    sealed::{Format, Prepared, SealedPair, Side, answers_within, tunnel},
    trial,
    tunnels::{FIRST_POD, Family, outer},
};
use adit_lab::{Datagram, Pod, Tap, TappedPacket, eventually};
use libtest_mimic::{Failed, Trial};

use crate::Outcome;

const SOON: Duration = Duration::from_secs(5);

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for format in Format::ALL {
        let named = |what: &str| format!("{what}_by_{format:?}").to_lowercase();
        trials.extend([
            trial(named("a_flood_of_handshakes_keeps_nobody_out"), move || flood(format)),
            trial(named("a_cookie_is_tried_once_and_not_for_ever"), move || worthless_cookies(format)),
        ]);
    }
    trials
}

/// Somebody repeats a handshake from ever new addresses, much faster than handshakes are worked out. It ends with the value.
struct Flood<'a> {
    prepared: &'a Prepared,
    format: Format,
    mumbai: Pod,
    ohio: Pod,
    /// What Mumbai and the others say to each other to begin.
    tap: Tap,
    here: IpAddr,
    there: IpAddr,
}

impl<'a> Flood<'a> {
    fn prepare(prepared: &'a Prepared, format: Format) -> Result<Self, Failed> {
        let mumbai = prepared.attach(Side::Mumbai)?;
        let is_handshake =
            move |packet: &TappedPacket| packet.has_port(format.port()) && format.is_handshake(&packet.payload);
        let tap = prepared.lab.router(2)?.tap("prev", is_handshake)?;
        let ohio = prepared.attach(Side::Ohio)?;
        ohio.ping("10.4.0.2")?.all_received()?;
        let [here, there] = [prepared.lab.ohio(), prepared.lab.mumbai()].map(|node| outer(node, Family::V4, FIRST_POD));
        Ok(Self { prepared, format, mumbai, ohio, tap, here, there })
    }

    /// Runs `meanwhile` once Mumbai has begun to refuse.
    fn run(&self, meanwhile: impl FnOnce() -> Outcome) -> Outcome {
        let first = self.initiations().into_iter().next().ok_or("no handshake was seen")?;
        let (lab, over) = (&self.prepared.lab, AtomicBool::new(false));
        let (router, to) = (lab.router(3)?, SocketAddr::new(self.there, self.format.port()));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in (0_u16..=u16::MAX).cycle() {
                    let host = 1 + (number % 190) as u8;
                    let from = SocketAddr::new(outer(lab.ohio(), Family::V4, host), 1024 + number % 60_000);
                    let sent = router.inject(&Datagram::new(from, to, first.clone()));
                    if over.load(Ordering::Relaxed) || sent.is_err() {
                        break;
                    }
                }
            });
            // Also when something panics, or nobody would end the other thread.
            let _over = Over(&over);
            let refusing = eventually("handshakes to be above the rate", SOON, || {
                Ok(tunnel(lab.mumbai())?["drops"]["rate_limited"].as_u64().filter(|count| *count > 100))
            });
            refusing?;
            meanwhile()
        })
    }

    /// The handshakes that Ohio began.
    fn initiations(&self) -> Vec<Vec<u8>> {
        let from_here = self.tap.packets().into_iter().filter(|packet| packet.src == self.here);
        from_here.map(|packet| packet.payload).filter(|payload| payload.len() > 140).collect()
    }

    /// How many cookies Ohio was sent.
    fn cookies(&self) -> usize {
        let is_cookie = |payload: &[u8]| match self.format {
            Format::Noise => payload.first().is_some_and(|first| first >> 4 == 4) && payload.get(16) == Some(&6),
            Format::Wireguard => payload.first() == Some(&3),
        };
        self.tap.packets().iter().filter(|packet| packet.dst == self.here && is_cookie(&packet.payload)).count()
    }

    fn restart_ohio(&self) -> Outcome {
        self.prepared.lab.ohio().kill_agent()?;
        Ok(self.prepared.lab.ohio().start_agent()?)
    }
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The peer proves its own address, and comes in.
fn flood(format: Format) -> Outcome {
    let prepared = SealedPair::new(format).prepare()?;
    let flood = Flood::prepare(&prepared, format)?;
    flood.run(|| {
        // Those that were taken were repetitions, and the session is what it was.
        flood.ohio.ping("10.4.0.2")?.all_received()?;
        for _ in 0..5 {
            flood.restart_ohio()?;
            answers_within(SOON * 2, &flood.ohio, "10.4.0.2")?;
            if flood.cookies() > 0 {
                break;
            }
        }
        assert!(flood.cookies() > 0, "there was no need of a proof");
        flood.mumbai.ping("10.4.0.1")?.all_received()?;
        Ok(())
    })?;
    // No answer was larger than what provoked it.
    let answers =
        flood.tap.packets().into_iter().filter(|packet| packet.src == flood.there && packet.dst != flood.here);
    let longest = answers.map(|packet| packet.payload.len()).max();
    assert!(longest.is_some_and(|longest| longest < flood.initiations()[0].len()), "{longest:?}");
    Ok(())
}

/// A network that gives each datagram another port makes every cookie worthless. Whoever gets one tries it at once, and then waits
/// until it is time again: otherwise two ends would keep each other busy.
fn worthless_cookies(format: Format) -> Outcome {
    let prepared = SealedPair::new(format).prepare()?;
    let flood = Flood::prepare(&prepared, format)?;
    let (here, port) = (flood.here, format.port());
    let ports: Vec<String> = (0..8).map(|n| format!("{n} : {}", 20_000 + n)).collect();
    let rules = format!(
        "table inet moving {{ chain forward {{ type filter hook forward priority 0; \
         ip saddr {here} udp dport {port} udp sport set numgen inc mod 8 map {{ {} }}; \
         ip daddr {here} udp sport {port} udp dport set {port}; }}; }}",
        ports.join(", ")
    );
    prepared.lab.router(2)?.root(["nft", &rules])?.ok()?;
    flood.run(|| {
        let (before, cookies) = (flood.initiations().len(), flood.cookies());
        flood.restart_ohio()?;
        let begun = Instant::now();
        // Somebody who wants to send makes it begin once a second, or faster at first: after 250 and 500 ms.
        flood.ohio.ping_with("10.4.0.2", &["-c", "15", "-W", "0.5"])?;
        let (count, elapsed) = (flood.initiations().len() - before, begun.elapsed());
        assert!(flood.cookies() > cookies + 1, "{} cookies", flood.cookies() - cookies);
        let most = 2 * (4 + elapsed.as_secs());
        assert!(u64::try_from(count)? <= most, "{count} handshakes begun in {elapsed:?}, at most {most} are in turn");
        Ok(())
    })
}
