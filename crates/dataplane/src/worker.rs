//! One thread, many tunnels: waits for descriptors, timers and commands, and gives each tunnel its turn.

use crate::{
    Core, Error, Identity, Offload, OnBreak, OnResize, PeerConfig, PeerId, Result, TunnelId, TunnelStats,
    attached::{Attached, Buffers},
    batch::Parked,
    parcel::Parcel,
    poll::Polling,
    shortcut::Exchange,
};
use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        eventfd::EventFd,
    },
};
use std::{
    collections::{BTreeSet, HashMap},
    os::fd::{AsFd, OwnedFd},
    process,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, TryRecvError},
    },
    thread,
    time::{Duration, Instant},
};

const EVENTS: usize = 64;
/// Marks the event of the command queue; no tunnel has this number.
const COMMANDS: u64 = u64::MAX;

/// What the worker is asked to do. Each is answered.
pub(crate) enum Command {
    Add { id: TunnelId, arrival: Box<Arrival>, reply: Sender<Result<()>> },
    Release { id: TunnelId, reply: Sender<Result<Parcel>> },
    Remove { id: TunnelId, reply: Sender<Result<()>> },
    Stats { id: TunnelId, reply: Sender<Result<TunnelStats>> },
    Broken { reply: Sender<Result<Vec<TunnelId>>> },
    SetIdentity { id: TunnelId, identity: Identity, reply: Sender<Result<()>> },
    AddPeer { id: TunnelId, peer: PeerConfig, reply: Sender<Result<()>> },
    ChangePeer { id: TunnelId, peer: PeerConfig, reply: Sender<Result<()>> },
    RemovePeer { id: TunnelId, peer: PeerId, reply: Sender<Result<()>> },
    ReplaceUdp { id: TunnelId, udp: OwnedFd, merging: nix::Result<()>, reply: Sender<Result<()>> },
}

/// A tunnel that is to be carried from now on.
pub(crate) struct Arrival {
    pub(crate) core: Core,
    pub(crate) tun: OwnedFd,
    pub(crate) udp: OwnedFd,
    pub(crate) offload: Offload,
    pub(crate) parked: Parked,
}

pub(crate) struct Worker {
    epoll: Epoll,
    wake: Arc<EventFd>,
    commands: Receiver<Command>,
    tunnels: HashMap<TunnelId, Attached>,
    timers: BTreeSet<(Instant, TunnelId)>,
    buffers: Buffers,
    broken: OnBreak,
    resize: OnResize,
    exchange: Arc<Exchange>,
    polling: Polling,
    /// What arrived before this instant has been read: when the wait began that ended last.
    read_until: Instant,
    /// How often in a row there was more to serve than one wait tells of.
    full_rounds: usize,
}

impl Worker {
    /// # Errors
    /// No descriptor for epoll is to be had.
    pub(crate) fn new(
        wake: Arc<EventFd>,
        commands: Receiver<Command>,
        (broken, resize): (OnBreak, OnResize),
        exchange: Arc<Exchange>,
    ) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(|errno| Error::Os { action: "create an epoll descriptor", errno })?;
        epoll
            .add(wake.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, COMMANDS))
            .map_err(|errno| Error::Os { action: "watch the command queue", errno })?;
        Ok(Self {
            epoll,
            wake,
            commands,
            tunnels: HashMap::new(),
            timers: BTreeSet::new(),
            buffers: Buffers::new(),
            broken,
            resize,
            exchange,
            polling: Polling::default(),
            read_until: Instant::now(),
            full_rounds: 0,
        })
    }

    /// Runs until the other end of the command queue is gone. Aborts the process when it cannot wait for packets.
    pub(crate) fn run(mut self) {
        let mut events = [EpollEvent::empty(); EVENTS];
        let mut work_bytes = 0;
        loop {
            let count = match self.wait(&mut events, work_bytes) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(errno) => {
                    // Ending alone would leave this thread's tunnels to nobody, and nobody would know.
                    tracing::error!(%errno, "epoll refuses to wait, so that no packet would pass any more; this process ends");
                    process::abort();
                }
            };
            let mut commanded = false;
            work_bytes = 0;
            for event in events.iter().take(count) {
                if event.data() == COMMANDS {
                    commanded = true;
                } else {
                    work_bytes = work_bytes.saturating_add(self.serve(event.data(), event.events()));
                }
            }
            self.run_timers_if_read(count);
            if commanded && !self.obey() {
                return;
            }
        }
    }

    /// Waits for events, for a moment without sleeping.
    fn wait(&mut self, events: &mut [EpollEvent], work_bytes: usize) -> nix::Result<usize> {
        let begin = Instant::now();
        let moment = self.polling.after(work_bytes);
        while begin.elapsed() < moment {
            self.read_until = Instant::now();
            match self.epoll.wait(events, EpollTimeout::ZERO)? {
                0 => thread::yield_now(),
                count => {
                    self.polling.learn(begin.elapsed());
                    return Ok(count);
                }
            }
        }
        self.read_until = Instant::now();
        let count = self.epoll.wait(events, self.timeout());
        self.polling.learn(begin.elapsed());
        count
    }

    fn timeout(&self) -> EpollTimeout {
        let Some((at, _)) = self.timers.first() else { return EpollTimeout::NONE };
        // Rounded up: waking early would mean waking twice.
        let left = at.saturating_duration_since(Instant::now()).saturating_add(Duration::from_micros(999));
        EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX)
    }

    /// Gives a tunnel its turn. Returns how much it took.
    fn serve(&mut self, key: u64, events: EpollFlags) -> usize {
        let (id, is_udp) = TunnelId::from_key(key);
        let Some(tunnel) = self.tunnels.get_mut(&id) else { return 0 };
        let was_whole = tunnel.is_whole();
        let work_bytes = if is_udp {
            tunnel.serve_udp(events, &self.epoll, &mut self.buffers)
        } else {
            tunnel.serve_tun(events, &self.epoll, &mut self.buffers)
        };
        tunnel.rearm(&mut self.timers);
        tell_size(tunnel, &self.resize);
        if was_whole && !tunnel.is_whole() {
            (self.broken)();
        }
        work_bytes
    }

    /// Runs what was due before the descriptors were looked at. A timer may conclude something from silence, so everything that had
    /// come when it was due has to be read first: also where this thread was held up in between.
    fn run_timers_if_read(&mut self, count: usize) {
        // Epoll's ready list is a queue: after so many rounds everything was served once.
        let rounds = self.tunnels.len().saturating_mul(2).checked_div(EVENTS).unwrap_or_default();
        if count == EVENTS && self.full_rounds < rounds {
            self.full_rounds = self.full_rounds.saturating_add(1);
            return;
        }
        self.full_rounds = 0;
        self.run_timers(self.read_until, Instant::now());
    }

    /// Runs what was due by `due`.
    fn run_timers(&mut self, due: Instant, now: Instant) {
        while let Some(&(at, id)) = self.timers.first() {
            if at > due {
                break;
            }
            self.timers.pop_first();
            let Some(tunnel) = self.tunnels.get_mut(&id) else { continue };
            tunnel.timer = None;
            let was_whole = tunnel.is_whole();
            tunnel.with_core(&self.epoll, &mut self.buffers, |core, out| core.tick(now, out));
            tunnel.rearm(&mut self.timers);
            tell_size(tunnel, &self.resize);
            if was_whole && !tunnel.is_whole() {
                (self.broken)();
            }
        }
    }

    /// Carries out what was asked for. False: nobody can ask any more.
    fn obey(&mut self) -> bool {
        // Before the queue is read, so that no wake-up is lost.
        let _ = self.wake.read();
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.execute(command),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// An answer that nobody waits for any more is no trouble.
    fn execute(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Add { id, arrival, reply } => {
                let Arrival { core, tun, udp, offload, parked } = *arrival;
                let _ = reply.send(self.add(Attached::new(id, core, tun, udp, offload, parked, &self.exchange)));
            }
            Command::Release { id, reply } => {
                let _ = reply.send(self.release(id));
            }
            Command::Remove { id, reply } => {
                let _ = reply.send(self.remove(id));
            }
            Command::Stats { id, reply } => {
                let _ = reply.send(self.tunnel(id).map(|tunnel| tunnel.stats(now)));
            }
            Command::Broken { reply } => {
                let broken = self.tunnels.iter().filter(|(_, tunnel)| !tunnel.is_whole()).map(|(id, _)| *id);
                let _ = reply.send(Ok(broken.collect()));
            }
            Command::SetIdentity { id, identity, reply } => {
                let _ = reply.send(self.change(id, |core| core.set_identity(identity, now)));
            }
            Command::AddPeer { id, peer, reply } => {
                let _ = reply.send(self.change(id, |core| core.add_peer(peer, now)));
            }
            Command::ChangePeer { id, peer, reply } => {
                let _ = reply.send(self.change(id, |core| core.change_peer(peer, now)));
            }
            Command::RemovePeer { id, peer, reply } => {
                let _ = reply.send(self.change(id, |core| core.remove_peer(peer)));
            }
            Command::ReplaceUdp { id, udp, merging, reply } => {
                let epoll = &self.epoll;
                let result = self.tunnels.get_mut(&id).ok_or(Error::UnknownTunnel(id));
                let _ = reply.send(result.and_then(|tunnel| tunnel.replace_udp(epoll, udp, merging)));
            }
        }
    }

    fn tunnel(&mut self, id: TunnelId) -> Result<&mut Attached> {
        self.tunnels.get_mut(&id).ok_or(Error::UnknownTunnel(id))
    }

    fn add(&mut self, mut tunnel: Attached) -> Result<()> {
        if let Err(error) = tunnel.watch(&self.epoll) {
            tunnel.close(&self.epoll);
            return Err(error);
        }
        tunnel.begin(&self.epoll);
        tunnel.rearm(&mut self.timers);
        tell_size(&mut tunnel, &self.resize);
        self.tunnels.insert(tunnel.id, tunnel);
        Ok(())
    }

    fn remove(&mut self, id: TunnelId) -> Result<()> {
        let mut tunnel = self.tunnels.remove(&id).ok_or(Error::UnknownTunnel(id))?;
        tunnel.close(&self.epoll);
        tunnel.rearm(&mut self.timers);
        Ok(())
    }

    /// It has stopped when this returns.
    fn release(&mut self, id: TunnelId) -> Result<Parcel> {
        let tunnel = self.tunnels.get_mut(&id).ok_or(Error::UnknownTunnel(id))?;
        let parcel = tunnel.release(&self.epoll)?;
        tunnel.rearm(&mut self.timers);
        self.tunnels.remove(&id);
        Ok(parcel)
    }

    fn change(&mut self, id: TunnelId, change: impl FnOnce(&mut Core) -> Result<()>) -> Result<()> {
        let tunnel = self.tunnels.get_mut(&id).ok_or(Error::UnknownTunnel(id))?;
        let result = change(&mut tunnel.core);
        tunnel.rearm(&mut self.timers);
        tell_size(tunnel, &self.resize);
        result
    }
}

fn tell_size(tunnel: &mut Attached, resize: &OnResize) {
    if let Some(bytes) = tunnel.core.mtu_news() {
        resize(tunnel.id, bytes);
    }
}
