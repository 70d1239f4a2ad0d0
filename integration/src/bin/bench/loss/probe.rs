//! Datagrams at an even pace: which of them arrive, and when.

use std::{
    io::ErrorKind,
    net::{IpAddr, UdpSocket},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use adit_lab::become_punctual;
use adit_net::Netns;
use nix::sys::socket::{setsockopt, sockopt};

use crate::Outcome;

const PORT: u16 = 7100;
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
/// After the last datagram: longer than any recovery may take.
const DRAIN: Duration = Duration::from_millis(1500);
const LOOK: Duration = Duration::from_millis(20);

/// What to send.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub per_second: u32,
    pub payload_bytes: usize,
    pub duration: Duration,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Arrivals {
    pub sent: u64,
    pub received: u64,
    pub duplicates: u64,
    /// One-way delays in milliseconds, sorted.
    pub delays_ms: Vec<f64>,
}

impl Arrivals {
    pub fn lost_ppm(&self) -> f64 {
        if self.sent == 0 { 0.0 } else { (self.sent - self.received) as f64 * 1e6 / self.sent as f64 }
    }

    /// The delay that this share of the datagrams did not exceed.
    pub fn delay_ms(&self, share: f64) -> f64 {
        let last = self.delays_ms.len().saturating_sub(1);
        self.delays_ms.get((last as f64 * share).ceil() as usize).copied().unwrap_or(f64::NAN)
    }
}

/// Sends from one namespace to an address in another.
pub fn probe(from: &Path, to: &Path, address: IpAddr, pace: Pace) -> Outcome<Arrivals> {
    let receiver = Netns::open(to)?.run_on_thread(|| UdpSocket::bind((address, PORT)))??;
    let any: IpAddr = if address.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
    let sender = Netns::open(from)?.run_on_thread(|| UdpSocket::bind((any, 0)))??;
    sender.connect((address, PORT))?;
    // What was lost of an earlier sender's last datagrams may come back only now.
    receiver.connect(sender.local_addr()?)?;
    setsockopt(&receiver, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES)?;
    receiver.set_read_timeout(Some(LOOK))?;
    let began = Instant::now();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let receiving = scope.spawn(|| receive(&receiver, began, &is_over));
        // Threads of their own: the priority is theirs alone.
        let sending = scope.spawn(|| send(&sender, pace, began));
        let sent = sending.join().map_err(|_| "the sender panicked")?;
        thread::sleep(DRAIN);
        is_over.store(true, Ordering::Relaxed);
        let arrived = receiving.join().map_err(|_| "the receiver panicked")?;
        let (sent, mut arrived) = (sent?, arrived?);
        arrived.sent = sent;
        arrived.delays_ms.sort_by(f64::total_cmp);
        Ok(arrived)
    })
}

/// Each datagram carries its number and when it was sent.
fn send(socket: &UdpSocket, pace: Pace, began: Instant) -> Result<u64, String> {
    // Where that is refused the report has it from the link.
    let _ = become_punctual();
    let mut payload = vec![0_u8; pace.payload_bytes.max(16)];
    let count = (pace.duration.as_secs_f64() * f64::from(pace.per_second)) as u64;
    let start = began.elapsed();
    for number in 0..count {
        let due = start + Duration::from_secs_f64(number as f64 / f64::from(pace.per_second));
        thread::sleep(due.saturating_sub(began.elapsed()));
        payload[..8].copy_from_slice(&number.to_le_bytes());
        payload[8..16].copy_from_slice(&(began.elapsed().as_nanos() as u64).to_le_bytes());
        match socket.send(&payload) {
            // A full queue of the sender's own is a loss; so is what an earlier datagram came to.
            Err(error) if !matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::WouldBlock) => {
                return Err(format!("send a datagram: {error}"));
            }
            _ => (),
        }
    }
    Ok(count)
}

fn receive(socket: &UdpSocket, began: Instant, is_over: &AtomicBool) -> Result<Arrivals, String> {
    let _ = become_punctual();
    let mut arrivals = Arrivals::default();
    let mut seen: Vec<bool> = Vec::new();
    let mut buffer = [0_u8; 16];
    while !is_over.load(Ordering::Relaxed) {
        match socket.recv(&mut buffer) {
            Ok(16) => (),
            Ok(_) => continue,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => continue,
            Err(error) => return Err(format!("receive a datagram: {error}")),
        }
        let now = began.elapsed().as_nanos() as u64;
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| buffer[at + byte]));
        let (number, sent_at) = (word(0) as usize, word(8));
        if seen.len() <= number {
            seen.resize(number + 1, false);
        }
        if std::mem::replace(&mut seen[number], true) {
            arrivals.duplicates += 1;
        } else {
            arrivals.received += 1;
            arrivals.delays_ms.push(now.saturating_sub(sent_at) as f64 / 1e6);
        }
    }
    Ok(arrivals)
}
