//! Capturing what passes an interface, to show what is on the wire.

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::{
    socket::{
        AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
        sockopt::{RcvBufForce, ReceiveTimeout},
    },
    time::TimeVal,
};

use crate::{Error, Namespace, Result, TappedPacket, eventually};

/// How long the capturing thread waits before it looks whether it shall stop.
const LOOK_MICROSECONDS: i64 = 20_000;
/// PACKET_OUTGOING, include/uapi/linux/if_packet.h.
const OUTGOING: u8 = 4;
const BUFFER_BYTES: usize = 16 << 20;
const LARGEST_FRAME_BYTES: usize = 1 << 17;

type Filter = Box<dyn Fn(&TappedPacket) -> bool + Send>;

/// A running capture. It ends when the value is dropped.
#[derive(Debug)]
pub struct Tap {
    packets: Arc<Mutex<Vec<TappedPacket>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tap {
    pub(crate) fn start(namespace: &Namespace, interface: &str, filter: Filter) -> Result<Self> {
        let (socket, index) = namespace.run_inside(|| open(interface))??;
        let packets = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (packets, stop) = (packets.clone(), stop.clone());
            thread::spawn(move || capture(&socket, index, &filter, &packets, &stop))
        };
        Ok(Self { packets, stop, thread: Some(thread) })
    }

    /// What was captured until now.
    #[must_use]
    pub fn packets(&self) -> Vec<TappedPacket> {
        lock(&self.packets).clone()
    }

    /// Waits until that many packets were captured, and returns all of them.
    ///
    /// # Errors
    /// [`Error::Timeout`] with how many there were.
    pub fn wait_for(&self, count: usize, limit: Duration) -> Result<Vec<TappedPacket>> {
        eventually(&format!("{count} captured packets"), limit, || {
            let packets = self.packets();
            if packets.len() >= count {
                Ok(Some(packets))
            } else {
                Err(Error::Unexpected(format!("{}", packets.len())))
            }
        })
    }

    /// Ends the capture and returns everything.
    #[must_use]
    pub fn stop(mut self) -> Vec<TappedPacket> {
        self.end();
        self.packets()
    }

    fn end(&mut self) {
        if let Some(thread) = self.thread.take() {
            // What was on its way through the socket when the test asked is still wanted.
            thread::sleep(Duration::from_micros(LOOK_MICROSECONDS.unsigned_abs()));
            self.stop.store(true, Ordering::Relaxed);
            // A filter that panicked has printed why.
            let _ = thread.join();
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.end();
    }
}

fn open(interface: &str) -> Result<(OwnedFd, usize)> {
    let failed = |what: &str| Error::errno(format!("{what} for interface {interface}"));
    let index = nix::net::if_::if_nametoindex(interface).map_err(failed("look up the number"))?;
    // Bound to no interface: the address of an AF_PACKET bind has no safe constructor. Others are filtered out below.
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
        .map_err(failed("open a packet socket"))?;
    setsockopt(&socket, RcvBufForce, &BUFFER_BYTES).map_err(failed("enlarge the buffer"))?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::new(0, LOOK_MICROSECONDS)).map_err(failed("set a timeout"))?;
    Ok((socket, usize::try_from(index).unwrap_or_default()))
}

fn capture(socket: &OwnedFd, interface: usize, filter: &Filter, packets: &Mutex<Vec<TappedPacket>>, stop: &AtomicBool) {
    let mut frame = vec![0; LARGEST_FRAME_BYTES];
    while !stop.load(Ordering::Relaxed) {
        // An error is a timeout, or a signal.
        let Ok((length, Some(address))) = recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut frame) else { continue };
        if address.ifindex() != interface {
            continue;
        }
        let outgoing = address.pkttype() == OUTGOING;
        if let Some(packet) = frame.get(..length).and_then(|frame| TappedPacket::from_ethernet(frame, outgoing))
            && filter(&packet)
        {
            lock(packets).push(packet);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
