//! How many datagrams a second cross a tunnel until one in a hundred is lost. A program of its own, so that its CPU time can
//! be told from that of the bench: one thread sends, one receives, 32 datagrams a system call.

use std::{
    io::{IoSlice, IoSliceMut},
    net::{IpAddr, UdpSocket},
    os::fd::AsRawFd as _,
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use adit_net::Netns;
use nix::{
    errno::Errno,
    sys::{
        prctl,
        socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt, sockopt},
    },
};
use serde_json::json;

use crate::Outcome;

const BATCH: usize = 32;
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
/// More than this share lost is too much.
const TOLERATED_LOSS: f64 = 0.01;
/// Nothing came for so long: nothing more comes.
const SILENCE: Duration = Duration::from_millis(25);
/// How long a queue may take to run empty.
const DRAIN: Duration = Duration::from_millis(500);
const PORT: u16 = 7000;
/// A sender that was kept waiting longer does not catch up: the burst would measure queues, not the tunnel.
const CATCH_UP: Duration = Duration::from_millis(2);

/// One search.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Namespace of the sender
    #[arg(long)]
    from: PathBuf,
    /// Namespace of the receiver
    #[arg(long)]
    to: PathBuf,
    /// The receiver's address
    #[arg(long)]
    address: IpAddr,
    /// Bytes of payload in a datagram
    #[arg(long)]
    payload: usize,
    /// How often the search may halve the gap
    #[arg(long, default_value_t = 6)]
    steps: u32,
    /// Milliseconds of a step
    #[arg(long, default_value_t = 250)]
    step_ms: u64,
    /// Whether a step that lost too much is tried once more
    #[arg(long)]
    again: bool,
}

/// What one step sent and lost.
#[derive(Debug, Clone, Copy)]
struct Step {
    sent_per_second: f64,
    received_per_second: f64,
    loss: f64,
}

impl Step {
    fn is_fine(&self) -> bool {
        self.loss <= TOLERATED_LOSS
    }
}

/// Searches, and prints what it found as JSON.
pub fn run(options: &Options) -> Outcome<bool> {
    let receiver = Netns::open(&options.to)?.run_on_thread(|| UdpSocket::bind((options.address, PORT)))??;
    let sender = Netns::open(&options.from)?.run_on_thread(|| UdpSocket::bind((any(options.address), 0)))??;
    sender.connect((options.address, PORT))?;
    setsockopt(&receiver, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES)?;
    receiver.set_read_timeout(Some(Duration::from_millis(20)))?;
    // Or the pauses between batches would be rounded up by 50 microseconds.
    prctl::set_timerslack(1)?;

    let counter = Counter::default();
    let stop = AtomicBool::new(false);
    let (saturated, best) = thread::scope(|scope| {
        let counting = scope.spawn(|| count(&receiver, &counter, &stop));
        let found = Search { options, sender: &sender, counter: &counter, number: 0 }.run();
        stop.store(true, Ordering::Relaxed);
        let counted = counting.join().unwrap_or(Err(Errno::UnknownErrno));
        found.and_then(|found| counted.map(|()| found).map_err(Into::into))
    })?;
    let text = json!({
        "packetsPerSecond": best.map_or(0.0, |step| step.received_per_second),
        "saturatedPacketsPerSecond": saturated.received_per_second,
        "offeredPacketsPerSecond": saturated.sent_per_second,
        "senderBound": saturated.is_fine(),
    });
    println!("{text}");
    Ok(true)
}

fn any(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() }
}

struct Search<'a> {
    options: &'a Options,
    sender: &'a UdpSocket,
    counter: &'a Counter,
    /// Of the step: late datagrams of the one before do not count.
    number: u32,
}

impl Search<'_> {
    /// The step without a limit, and the fastest one that lost little enough.
    fn run(mut self) -> Outcome<(Step, Option<Step>)> {
        let mut saturated = self.step(None)?;
        if saturated.is_fine() && self.options.again {
            let second = self.step(None)?;
            if second.is_fine() && second.received_per_second > saturated.received_per_second {
                saturated = second;
            }
        }
        if saturated.is_fine() {
            return Ok((saturated, Some(saturated)));
        }
        let (mut low, mut high) = (0.0, saturated.sent_per_second);
        let mut rate = saturated.received_per_second.max(1000.0) * 0.95;
        let mut best: Option<Step> = None;
        for _ in 0..self.options.steps {
            let mut step = self.step(Some(rate))?;
            if !step.is_fine() && self.options.again {
                step = self.step(Some(rate))?;
            }
            if step.is_fine() {
                low = rate;
                best = best.filter(|best| best.received_per_second >= step.received_per_second).or(Some(step));
            } else {
                high = rate;
            }
            rate = if low > 0.0 { (low + high) / 2.0 } else { high * 0.6 };
        }
        Ok((saturated, best))
    }

    fn step(&mut self, rate: Option<f64>) -> Outcome<Step> {
        self.number += 1;
        self.counter.received.store(0, Ordering::Relaxed);
        self.counter.number.store(self.number, Ordering::Relaxed);
        let duration = Duration::from_millis(self.options.step_ms);
        let mut payload = vec![0; self.options.payload.max(4)];
        payload[..4].copy_from_slice(&self.number.to_le_bytes());
        let slices = [[IoSlice::new(&payload)]; BATCH];
        let addresses = [None::<SockaddrIn>; BATCH];
        let mut headers = MultiHeaders::preallocate(BATCH, None);
        let mut sent = 0_u64;
        let begun = Instant::now();
        let mut waited = Duration::ZERO;
        loop {
            let elapsed = begun.elapsed();
            if elapsed >= duration {
                break;
            }
            if let Some(rate) = rate {
                let due = waited + Duration::from_secs_f64(sent as f64 / rate);
                match due.checked_sub(elapsed) {
                    Some(early) => thread::sleep(early),
                    None => waited += (elapsed - due).saturating_sub(CATCH_UP),
                }
            }
            match sendmmsg(self.sender.as_raw_fd(), &mut headers, &slices, addresses, [], MsgFlags::empty()) {
                Ok(results) => sent += results.count() as u64,
                // A full queue is a loss of the tunnel's that the sender is told of; it goes on.
                Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => (),
                Err(error) => return Err(format!("send to {}: {error}", self.options.address).into()),
            }
        }
        let seconds = begun.elapsed().as_secs_f64();
        let received = self.drained();
        Ok(Step {
            sent_per_second: sent as f64 / seconds,
            received_per_second: received as f64 / seconds,
            loss: 1.0 - received as f64 / sent.max(1) as f64,
        })
    }

    /// What arrived of this step, when nothing more comes.
    fn drained(&self) -> u64 {
        let begun = Instant::now();
        let mut last = self.counter.received.load(Ordering::Relaxed);
        while begun.elapsed() < DRAIN {
            thread::sleep(SILENCE);
            let now = self.counter.received.load(Ordering::Relaxed);
            if now == last {
                break;
            }
            last = now;
        }
        last
    }
}

#[derive(Debug, Default)]
struct Counter {
    number: AtomicU32,
    received: AtomicU64,
}

fn count(socket: &UdpSocket, counter: &Counter, stop: &AtomicBool) -> Result<(), Errno> {
    let mut headers = MultiHeaders::<()>::preallocate(BATCH, None);
    // Only the number in front is looked at; the kernel cuts off the rest.
    let mut buffers = [[0_u8; 4]; BATCH];
    while !stop.load(Ordering::Relaxed) {
        let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let arrived = match receive(socket, &mut headers, &mut slices) {
            Ok(arrived) => arrived,
            Err(Errno::EAGAIN | Errno::EINTR) => continue,
            Err(error) => return Err(error),
        };
        let number = counter.number.load(Ordering::Relaxed).to_le_bytes();
        let own = buffers[..arrived].iter().filter(|buffer| **buffer == number).count();
        counter.received.fetch_add(own as u64, Ordering::Relaxed);
    }
    Ok(())
}

fn receive<'a>(
    socket: &UdpSocket,
    headers: &'a mut MultiHeaders<()>,
    slices: &'a mut [[IoSliceMut<'a>; 1]],
) -> Result<usize, Errno> {
    Ok(recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), MsgFlags::MSG_WAITFORONE, None)?.count())
}
