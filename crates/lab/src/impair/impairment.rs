//! A running impairment.

use std::{
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use adit_net::Netns;
use rustix::event::{EventfdFlags, eventfd};

use crate::{
    Error, Result, become_punctual,
    impair::{
        Link, Spec, Statistics,
        datagram::DatagramPort,
        ethernet::EthernetPort,
        relay::{Links, Port, carry, lock},
    },
};

/// A running impairment; dropping it ends it.
#[derive(Debug)]
pub struct Impairment {
    links: Links,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<io::Result<()>>>,
    began: Instant,
    trouble: Option<String>,
    listens_at: Option<SocketAddr>,
}

impl Impairment {
    /// Joins two interfaces of the network namespace at `netns`: each frame that comes in at one leaves at the other, through the
    /// first link from `first` to `second`, through the second one back.
    ///
    /// The senders must leave no segmentation to their interfaces (`ethtool -K IF tso off gso off`).
    ///
    /// # Errors
    /// The namespace or an interface is not there, or the privileges (CAP_NET_RAW, CAP_NET_ADMIN, and CAP_SYS_ADMIN to enter).
    pub fn between(netns: &Netns, first: &str, second: &str, specs: [Spec; 2], seed: u64) -> Result<Self> {
        let ports = netns.run_on_thread(|| -> Result<[Box<dyn Port>; 2]> {
            Ok([Box::new(EthernetPort::open(first)?), Box::new(EthernetPort::open(second)?)])
        })??;
        Self::start(ports, specs, seed, None)
    }

    /// Carries datagrams that come to `listen` on to `target`, through the first link, and the answers to whoever wrote last, through
    /// the second one. Needs no privilege.
    ///
    /// # Errors
    /// The address is taken, or there is no way to the target.
    pub fn of_datagrams(listen: SocketAddr, target: SocketAddr, specs: [Spec; 2], seed: u64) -> Result<Self> {
        let listening = DatagramPort::listen(listen)?;
        let listens_at = listening.local()?;
        Self::start([Box::new(listening), Box::new(DatagramPort::connect(target)?)], specs, seed, Some(listens_at))
    }

    /// What has happened until now: there, and back.
    #[must_use]
    pub fn statistics(&self) -> [Statistics; 2] {
        lock(&self.links).each_ref().map(Link::statistics)
    }

    /// For how long it has been running.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Gives both directions other specifications from now on. What is on its way arrives as it would have.
    pub fn change(&self, specs: [Spec; 2], seed: u64) {
        let [there, back] = specs;
        let [first, second] = &mut *lock(&self.links);
        first.change(there, seed);
        second.change(back, seed_back(seed));
    }

    /// Why packets may leave later than they are due: there is no realtime priority for it. `None` when there is.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Where datagrams are taken, if it is one of datagrams.
    #[must_use]
    pub fn listens_at(&self) -> Option<SocketAddr> {
        self.listens_at
    }

    /// Ends it and returns what has happened.
    ///
    /// # Errors
    /// It had ended before, for the kernel refused to let it wait.
    pub fn stop(mut self) -> Result<[Statistics; 2]> {
        self.end()?;
        Ok(self.statistics())
    }

    fn start(ports: [Box<dyn Port>; 2], specs: [Spec; 2], seed: u64, listens_at: Option<SocketAddr>) -> Result<Self> {
        let [there, back] = specs;
        let links = Arc::new(Mutex::new([Link::new(there, seed), Link::new(back, seed_back(seed))]));
        let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(|errno| Error::io("make an eventfd")(errno.into()))?;
        let stop = Arc::new(stop);
        let (tell, told) = mpsc::channel();
        let began = Instant::now();
        let thread = {
            let (links, stop) = (links.clone(), stop.clone());
            let run = move || {
                // Nobody may be waiting any more.
                let _ = tell.send(become_punctual());
                carry(ports, &links, &stop, began)
            };
            thread::Builder::new().name("impair".into()).spawn(run).map_err(Error::io("start a thread"))?
        };
        let trouble = told.recv().ok().and_then(std::result::Result::err);
        Ok(Self { links, stop, thread: Some(thread), began, trouble, listens_at })
    }

    fn end(&mut self) -> Result<()> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        rustix::io::write(&self.stop, &1_u64.to_ne_bytes())
            .map_err(|errno| Error::io("write to an eventfd")(errno.into()))?;
        let ended = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        ended.map_err(Error::io("wait for packets"))
    }
}

impl Drop for Impairment {
    fn drop(&mut self) {
        // Whoever wants to know calls `stop`.
        let _ = self.end();
    }
}

/// The two directions are not each other's image.
fn seed_back(seed: u64) -> u64 {
    seed ^ 0x9e37_79b9_7f4a_7c15
}
