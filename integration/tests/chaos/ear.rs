//! Traffic that says who it is from: each pod tells its peer who it is, all the time, and writes down what it hears.
//!
//! All pods have the same inner addresses, so that a packet that went astray would be taken by whoever got it.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use adit_lab::Pod;

use crate::Outcome;

const PORT: u16 = 7000;
const PACE: Duration = Duration::from_millis(20);

/// A pod's socket; gone when dropped, which must be before the pod goes: a socket keeps its namespace.
pub struct Ear {
    heard: Arc<AtomicU64>,
    strays: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Ear {
    /// Speaks as `own` to `peer`, which says `other`.
    pub fn open(pod: &Pod, own: String, other: String, peer: &str) -> Outcome<Self> {
        let socket = pod.run_inside(|| UdpSocket::bind(("0.0.0.0", PORT)))??;
        socket.set_read_timeout(Some(PACE))?;
        let to = SocketAddr::new(peer.parse()?, PORT);
        let (heard, strays, stop) = (Arc::default(), Arc::default(), Arc::default());
        let thread = {
            let (heard, strays, stop) = (Arc::clone(&heard), Arc::clone(&strays), Arc::clone(&stop));
            thread::spawn(move || talk(&socket, to, &own, &other, &heard, &strays, &stop))
        };
        Ok(Self { heard, strays, stop, thread: Some(thread) })
    }

    /// How many messages of its peer have arrived.
    pub fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// What has arrived and was not for this pod.
    pub fn strays(&self) -> Vec<String> {
        self.strays.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic has been printed.
            let _ = thread.join();
        }
    }
}

fn talk(
    socket: &UdpSocket,
    to: SocketAddr,
    own: &str,
    other: &str,
    heard: &AtomicU64,
    strays: &Mutex<Vec<String>>,
    stop: &AtomicBool,
) {
    let mut buffer = [0; 256];
    let mut last = None;
    while !stop.load(Ordering::Relaxed) {
        if last.is_none_or(|last: Instant| last.elapsed() >= PACE) {
            // Without a carrier it cannot be sent: that is looked at elsewhere.
            let _ = socket.send_to(own.as_bytes(), to);
            last = Some(Instant::now());
        }
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let said = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
        if said == other {
            heard.fetch_add(1, Ordering::Relaxed);
        } else {
            let stray = format!("{own} heard {said:?} from {from}");
            strays.lock().unwrap_or_else(PoisonError::into_inner).push(stray);
        }
    }
}
