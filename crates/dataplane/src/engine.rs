use crate::{
    Core, Error, Identity, Offload, Parcel, PeerConfig, PeerId, Result, TunnelConfig, TunnelStats,
    batch::Parked,
    offload::{merge_receives, tell_marks},
    parcel::Carry,
    shortcut::Exchange,
    worker::{Arrival, Command, Worker},
};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::eventfd::{EfdFlags, EventFd},
};
use std::{
    collections::HashMap,
    fmt,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

/// Called on a packet thread, which it must not hold up.
pub type OnBreak = Arc<dyn Fn() + Send + Sync>;

/// Called on a packet thread, which it must not hold up, with the MTU in bytes that the interface of a tunnel should have from now on.
pub type OnResize = Arc<dyn Fn(TunnelId, u16) + Send + Sync>;

/// A tunnel within its engine. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TunnelId(u64);

impl fmt::Display for TunnelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tunnel {}", self.0)
    }
}

impl TunnelId {
    /// A number for one of its two descriptors.
    pub(crate) const fn key(self, is_udp: bool) -> u64 {
        self.0 << 1 | is_udp as u64
    }

    pub(crate) const fn from_key(key: u64) -> (Self, bool) {
        (Self(key >> 1), key & 1 == 1)
    }
}

/// The threads that move packets. Clones are handles of the same engine; each call blocks until the
/// worker has done it, which takes at most one turn of its loop. The last handle's end is the engine's.
#[derive(Debug, Clone)]
pub struct Engine(Arc<Shared>);

#[derive(Debug)]
struct Shared(Mutex<State>);

#[derive(Debug)]
struct State {
    workers: Vec<Handle>,
    /// The worker of each tunnel.
    tunnels: HashMap<TunnelId, usize>,
    next_id: u64,
}

/// Our end of a worker.
#[derive(Debug)]
struct Handle {
    commands: Sender<Command>,
    wake: Arc<EventFd>,
    thread: JoinHandle<()>,
    tunnels: usize,
}

impl Engine {
    /// Starts `workers` threads (at least one) that share all tunnels.
    ///
    /// # Errors
    /// Threads or descriptors are not to be had.
    pub fn start(workers: usize) -> Result<Self> {
        Self::start_confined(workers, || Ok(()), Arc::new(|| {}), Arc::new(|_, _| {}))
    }

    /// The same, with `confine` called once on each packet thread, before it sees the first packet and after it has
    /// opened what it needs: the place to give up rights. `broken` is called there whenever a tunnel has lost a descriptor,
    /// `resize` whenever the path takes more or less than before.
    ///
    /// # Errors
    /// Threads or descriptors are not to be had, or `confine` fails.
    pub fn start_confined(
        workers: usize,
        confine: fn() -> std::io::Result<()>,
        broken: OnBreak,
        resize: OnResize,
    ) -> Result<Self> {
        let exchange = Arc::default();
        let start =
            |number| Handle::start(number, confine, (Arc::clone(&broken), Arc::clone(&resize)), Arc::clone(&exchange));
        let workers = (0..workers.max(1)).map(start).collect::<Result<_>>()?;
        let state = State { workers, tunnels: HashMap::new(), next_id: 0 };
        Ok(Self(Arc::new(Shared(Mutex::new(state)))))
    }

    /// Takes over a TUN device (opened with `IFF_TUN | IFF_NO_PI | IFF_VNET_HDR` and a virtio-net header of
    /// [`VNET_HEADER_BYTES`](crate::wire::VNET_HEADER_BYTES)) and a bound UDP socket, and starts the
    /// handshakes. Both become non-blocking; both are closed if this fails.
    ///
    /// # Errors
    /// Peers that clash or cannot be reached, descriptors that cannot be watched, an engine that was shut down.
    pub fn add(&self, config: TunnelConfig, tun: OwnedFd, udp: OwnedFd) -> Result<TunnelId> {
        set_non_blocking(&tun, "make the TUN device non-blocking")?;
        set_non_blocking(&udp, "make the UDP socket non-blocking")?;
        let core = Core::new(config, Instant::now(), seed()?)?;
        // Here, for the packet threads may not.
        let offload = Offload::of(&tun, &udp);
        self.0.add(Arrival { core, tun, udp, offload, parked: Parked::default() })
    }

    /// Takes a tunnel out of the engine, whole: this engine reads and sends nothing in it any more when this returns, and another one, also of
    /// another process, goes on with it by [`adopt`](Self::adopt). Whoever has the parcel must let one of them do so at most.
    ///
    /// # Errors
    /// There is no such tunnel, or it is broken and stays as it is.
    pub fn release(&self, tunnel: TunnelId) -> Result<Parcel> {
        let parcel = self.0.ask(tunnel, |reply| Command::Release { id: tunnel, reply })?;
        self.0.forget(tunnel);
        Ok(parcel)
    }

    /// Goes on with a tunnel that another engine has released: with its sessions, its numbers, its counters, and the packets that wait. `config`
    /// is what that engine was told last, but for the epoch, which goes on.
    ///
    /// # Errors
    /// The state was written by another release, or belongs to another tunnel: the parcel comes back, and its descriptors are as good as new
    /// for [`add`](Self::add). Or as for [`add`](Self::add); then both are closed.
    pub fn adopt(&self, config: TunnelConfig, parcel: Parcel) -> Result<TunnelId, (Error, Option<Parcel>)> {
        let now = Instant::now();
        let core = seed().and_then(|seed| Core::new(config, now, seed));
        let mut core = match core {
            Ok(core) => core,
            Err(error) => return Err((error, Some(parcel))),
        };
        let restored = parcel.read(|from| {
            core.restore(from, now)?;
            let (segmented_sends, (merged_tcp, merged_udp)) = Carry::decode(from)?;
            Some((segmented_sends, merged_tcp, merged_udp, Carry::decode(from)?))
        });
        let Some((segmented_sends, merged_tcp, merged_udp, parked)) = restored else {
            return Err((Error::ForeignParcel, Some(parcel)));
        };
        let (tun, udp) = parcel.into_descriptors();
        let mut offload = Offload::of(&tun, &udp);
        offload.restrain(segmented_sends, merged_tcp, merged_udp);
        self.0.add(Arrival { core, tun, udp, offload, parked }).map_err(|error| (error, None))
    }

    /// Ends a tunnel. Its descriptors are closed when this returns.
    ///
    /// # Errors
    /// There is no such tunnel.
    pub fn remove(&self, tunnel: TunnelId) -> Result<()> {
        let removed = self.0.ask(tunnel, |reply| Command::Remove { id: tunnel, reply });
        self.0.forget(tunnel);
        removed
    }

    /// State and counters of a tunnel.
    ///
    /// # Errors
    /// There is no such tunnel.
    pub fn stats(&self, tunnel: TunnelId) -> Result<TunnelStats> {
        self.0.ask(tunnel, |reply| Command::Stats { id: tunnel, reply })
    }

    /// The tunnels that lost a descriptor and move no packets any more, until they are removed and added again. One
    /// question to each worker, however many tunnels there are.
    #[must_use]
    pub fn broken(&self) -> Vec<TunnelId> {
        let workers = self.0.state().workers.len();
        // A worker that is gone has no tunnels.
        let answers = (0..workers).map(|worker| self.0.ask_worker(worker, |reply| Command::Broken { reply }));
        answers.flat_map(Result::unwrap_or_default).collect()
    }

    /// Gives this end of a sealed tunnel other keys; sessions go on until the next handshake, which begins at once.
    ///
    /// # Errors
    /// No such tunnel; it is plain; a peer has one of the keys.
    pub fn set_identity(&self, tunnel: TunnelId, identity: Identity) -> Result<()> {
        self.0.ask(tunnel, |reply| Command::SetIdentity { id: tunnel, identity, reply })
    }

    /// Adds a peer to a running tunnel.
    ///
    /// # Errors
    /// No such tunnel; the peer clashes with another or cannot be reached.
    pub fn add_peer(&self, tunnel: TunnelId, peer: PeerConfig) -> Result<()> {
        self.0.ask(tunnel, |reply| Command::AddPeer { id: tunnel, peer, reply })
    }

    /// Replaces the settings of the peer with the same number. A new endpoint begins a new session.
    ///
    /// # Errors
    /// No such tunnel or peer; the peer would clash with another or cannot be reached.
    pub fn change_peer(&self, tunnel: TunnelId, peer: PeerConfig) -> Result<()> {
        self.0.ask(tunnel, |reply| Command::ChangePeer { id: tunnel, peer, reply })
    }

    /// Removes a peer from a running tunnel.
    ///
    /// # Errors
    /// No such tunnel or peer.
    pub fn remove_peer(&self, tunnel: TunnelId, peer: PeerId) -> Result<()> {
        self.0.ask(tunnel, |reply| Command::RemovePeer { id: tunnel, peer, reply })
    }

    /// Puts another bound UDP socket in place of the present one, which is closed when this returns.
    /// Sessions stay.
    ///
    /// # Errors
    /// No such tunnel, or one without its TUN; a socket that cannot be watched.
    pub fn replace_udp(&self, tunnel: TunnelId, udp: OwnedFd) -> Result<()> {
        set_non_blocking(&udp, "make the UDP socket non-blocking")?;
        tell_marks(&udp);
        let merging = merge_receives(&udp);
        self.0.ask(tunnel, |reply| Command::ReplaceUdp { id: tunnel, udp, merging, reply })
    }

    /// Ends every tunnel and every thread. Other handles answer [`Error::Stopped`] from then on.
    pub fn shutdown(self) {
        self.0.stop();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change under the lock is complete by itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a new tunnel, and the worker that has the fewest.
    fn assign(&self) -> Result<(TunnelId, usize)> {
        let mut state = self.state();
        let id = TunnelId(state.next_id);
        let fewest = state.workers.iter_mut().enumerate().min_by_key(|(_, worker)| worker.tunnels);
        let (number, worker) = fewest.ok_or(Error::Stopped)?;
        worker.tunnels = worker.tunnels.saturating_add(1);
        state.next_id = state.next_id.saturating_add(1);
        state.tunnels.insert(id, number);
        Ok((id, number))
    }

    fn add(&self, arrival: Arrival) -> Result<TunnelId> {
        let (id, worker) = self.assign()?;
        let added = self.ask_worker(worker, |reply| Command::Add { id, arrival: Box::new(arrival), reply });
        if added.is_err() {
            self.forget(id);
        }
        added.map(|()| id)
    }

    fn forget(&self, tunnel: TunnelId) {
        let mut state = self.state();
        let worker = state.tunnels.remove(&tunnel);
        if let Some(worker) = worker.and_then(|number| state.workers.get_mut(number)) {
            worker.tunnels = worker.tunnels.saturating_sub(1);
        }
    }

    fn ask<T>(&self, tunnel: TunnelId, command: impl FnOnce(Sender<Result<T>>) -> Command) -> Result<T> {
        let worker = {
            let state = self.state();
            if state.workers.is_empty() {
                return Err(Error::Stopped);
            }
            *state.tunnels.get(&tunnel).ok_or(Error::UnknownTunnel(tunnel))?
        };
        self.ask_worker(worker, command)
    }

    /// Waits without the lock, so that one worker's turn does not hold up the others' callers.
    fn ask_worker<T>(&self, worker: usize, command: impl FnOnce(Sender<Result<T>>) -> Command) -> Result<T> {
        let (reply, answer) = mpsc::channel();
        {
            let state = self.state();
            let worker = state.workers.get(worker).ok_or(Error::Stopped)?;
            worker.commands.send(command(reply)).map_err(|_| Error::Stopped)?;
            worker.wake();
        }
        answer.recv().map_err(|_| Error::Stopped)?
    }

    fn stop(&self) {
        let workers = {
            let mut state = self.state();
            state.tunnels.clear();
            std::mem::take(&mut state.workers)
        };
        for Handle { commands, wake, thread, .. } in workers {
            drop(commands);
            let _ = wake.write(1);
            if thread.join().is_err() {
                tracing::error!("a packet thread had panicked");
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.stop();
    }
}

fn confined(confine: fn() -> std::io::Result<()>) -> Result<()> {
    confine().map_err(|error| Error::Confine(error.to_string()))
}

impl Handle {
    fn start(
        number: usize,
        confine: fn() -> std::io::Result<()>,
        tell: (OnBreak, OnResize),
        exchange: Arc<Exchange>,
    ) -> Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake =
            EventFd::from_flags(flags).map_err(|errno| Error::Os { action: "create an event descriptor", errno })?;
        let wake = Arc::new(wake);
        let (commands, queue) = mpsc::channel();
        let (ready, started) = mpsc::channel();
        let thread = thread::Builder::new()
            .name(format!("adit-packets-{number}"))
            .spawn({
                let wake = Arc::clone(&wake);
                // The batch headers hold pointers, so the worker is made where it lives.
                move || match Worker::new(wake, queue, tell, exchange)
                    .and_then(|worker| confined(confine).map(|()| worker))
                {
                    Ok(worker) => {
                        let _ = ready.send(Ok(()));
                        worker.run();
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error));
                    }
                }
            })
            .map_err(|error| Error::Os {
                action: "start a packet thread",
                errno: Errno::from_raw(error.raw_os_error().unwrap_or_default()),
            })?;
        started.recv().map_err(|_| Error::Stopped)??;
        Ok(Self { commands, wake, thread, tunnels: 0 })
    }

    fn wake(&self) {
        // Fails only when the counter is full of wake-ups already.
        let _ = self.wake.write(1);
    }
}

fn seed() -> Result<[u8; 32]> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| Error::Os {
        action: "get random numbers",
        errno: Errno::from_raw(error.raw_os_error().unwrap_or_default()),
    })?;
    Ok(seed)
}

fn set_non_blocking(fd: &OwnedFd, action: &'static str) -> Result<()> {
    let os = |errno| Error::Os { action, errno };
    let flags = OFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GETFL).map_err(os)?);
    fcntl(fd.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map_err(os)?;
    Ok(())
}
