//! The node agent: it owns the user-space tunnels of a node and survives its own death.
//!
//! A plugin hands it a TUN device, an outer socket and a record ([`server`]). From then on the [`registry`] keeps the
//! tunnel in the data plane. After a restart it opens the same devices again from the records ([`reopen`]). When something
//! changes ([`watch`]) it looks whether the pods still exist, and lets go of those that nobody removed.
#![forbid(unsafe_code)]

mod check;
mod claims;
mod config;
pub mod confine;
mod error;
mod handover;
mod kernel;
mod metrics;
pub mod privilege;
mod readers;
pub mod registry;
mod reopen;
pub mod server;
mod snapshots;
mod status;
mod watch;

use std::{
    os::fd::AsFd as _,
    panic::{self, PanicHookInfo},
    path::PathBuf,
    process,
    sync::Arc,
    time::Duration,
};

use adit_dataplane::Engine;
use adit_tunnel::{KeyStore, keys::config_dir, run_dir};
pub use error::{Error, Result};
use handover::{
    give::{Heirs, give},
    renew,
};
use registry::{Registry, mtu::Sizes};
use server::{Server, Slots};
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
    sync::Notify,
};
use watch::Watch;

/// How often the agent looks around without any reason.
const CALM_PERIOD: Duration = Duration::from_secs(60);

/// How long the agent's end waits for requests and looks that are under way.
const FAREWELL: Duration = Duration::from_secs(1);

/// The agent of a node: carries the user-space tunnels of its pods.
#[derive(Debug, clap::Parser)]
#[command(name = "aditd", version)]
pub struct Options {
    /// Directory of the socket and the records [default: $ADIT_RUN_DIR, else /run/adit]
    #[arg(long)]
    pub run_dir: Option<PathBuf>,
    /// Directory of the keys [default: $ADIT_CONFIG_DIR, else /etc/adit]
    #[arg(long)]
    pub config_dir: Option<PathBuf>,
    /// Threads that move packets
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub workers: u8,
    /// While another agent works in the run directory, wait until it is told to end, and take its tunnels over then
    #[arg(long)]
    pub standby: bool,
    /// Take the tunnels over from the agent that works in the run directory, at once; it ends then
    #[arg(long, conflicts_with = "standby")]
    pub take_over: bool,
    /// Tell the members of this group (its name or number) how the tunnels are, by a socket of their own in the run directory
    #[arg(long, value_name = "GROUP")]
    pub status_group: Option<readers::Group>,
    /// Serve metrics for Prometheus: unix:/PATH, or a loopback address and port such as 127.0.0.1:9464
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<metrics::Address>,
    /// Let --metrics be an address that other nodes can reach. Whoever reaches it reads names, addresses and public keys
    #[arg(long, requires = "metrics")]
    pub metrics_anywhere: bool,
}

/// Carries tunnels until SIGTERM or SIGINT. Devices, addresses and records stay for the next agent.
///
/// # Errors
/// The run directory is taken or unusable, or the data plane cannot start.
pub fn run(options: &Options) -> Result<()> {
    let directory = options.run_dir.clone().unwrap_or_else(run_dir);
    let keys = KeyStore::new(&options.config_dir.clone().unwrap_or_else(config_dir));
    metrics::check(options)?;
    privilege::keep_secrets()?;
    privilege::raise_descriptor_limit()?;
    options.status_group.map_or(Ok(()), readers::join)?;
    privilege::reduce()?;
    let breaks = Arc::new(Notify::new());
    let on_break = Arc::clone(&breaks);
    let on_break = Arc::new(move || on_break.notify_one());
    let (sizes, on_resize) = Sizes::channel();
    let engine = Engine::start_confined(usize::from(options.workers), confine::packet_thread, on_break, on_resize)?;
    server::make_directory(&directory)?;
    let registry = Registry::new(&directory, keys, engine, breaks)?;
    registry.follow(sizes).map_err(|source| Error::start("start a thread", source))?;
    // As late as it can be: whoever could not work at all makes nobody give way, and who waited has only tunnels left to open.
    let mut server = if options.standby || options.take_over {
        Server::inherit(&directory, options.take_over, &registry)?
    } else {
        Server::claim(&directory)?
    };
    registry.look_around();

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::start("start the control plane", source))?;
    let served = runtime.block_on(serve(&mut server, &registry, options));
    registry.stop();
    match served {
        Ok(End::Succeeded) => server.leave(),
        // Not before the devices are free: the next agent opens them as soon as the run directory is.
        _ => drop(server),
    }
    // Whoever is still at work ends as if the agent had been killed: the next one finds all that it needs in the records.
    runtime.shutdown_timeout(FAREWELL);
    served.map(drop)
}

/// How an agent's work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It was told to stop.
    Told,
    /// Another one has everything now.
    Succeeded,
}

/// Makes the whole process abort when any thread panics, with the panic's words in the log.
///
/// A packet thread that ended alone would leave its tunnels without anybody to carry them, and nobody would know. The next
/// agent takes all of them up again at once.
pub fn abort_on_panic() {
    panic::set_hook(Box::new(|panic: &PanicHookInfo<'_>| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("without a name").to_owned();
        tracing::error!("thread {name}: {panic}; this process ends, the next agent takes its tunnels up again");
        process::abort();
    }));
}

async fn serve(server: &mut Server, registry: &Registry, options: &Options) -> Result<End> {
    let stop = |kind| signal(kind).map_err(|source| Error::start("listen for signals", source));
    let (mut terminate, mut interrupt) = (stop(SignalKind::terminate())?, stop(SignalKind::interrupt())?);
    let mut hangup = stop(SignalKind::hangup())?;
    let mut started = None;
    let (listener, heirs, slots) = (server.listen()?, Heirs::default(), Slots::default());
    tokio::spawn(heirs.clone().welcome(server.listen_to_heirs()?));
    tracing::info!("carrying {} tunnels, listening on {}", registry.carried(), server.socket().display());
    // Without a service manager there is nobody to notify.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);

    tokio::spawn(keep_looking(registry.clone()));
    readers::start(server, registry, options);
    loop {
        let is_told = tokio::select! {
            _ = terminate.recv() => true,
            _ = interrupt.recv() => true,
            () = server::answer(&listener, registry, &slots) => true,
            () = heirs.asked() => false,
            _ = hangup.recv() => {
                match renew::start_next() {
                    Ok(pid) => started = Some(pid),
                    Err(error) => tracing::warn!("cannot start the next agent: {error}; this one carries on"),
                }
                continue;
            }
        };
        if hand_over(server, &listener, registry, &heirs, &slots, started).await {
            tracing::info!("ending; another agent carries on");
            return Ok(End::Succeeded);
        }
        if is_told {
            tracing::info!("stopping; devices and records stay for the next agent");
            return Ok(End::Told);
        }
    }
}

/// Gives everything to an agent that stands by. False: there is none, or none took it to the end; all is as before then.
async fn hand_over(
    server: &Server,
    listener: &UnixListener,
    registry: &Registry,
    heirs: &Heirs,
    slots: &Slots,
    started: Option<u32>,
) -> bool {
    while let Some(heir) = heirs.next() {
        // Who has asked gets an answer from this agent; who asks from now on, from the next.
        let Some(_drained) = slots.drain().await else {
            tracing::warn!("not handing over: a request takes too long");
            return false;
        };
        // On this thread: there is nothing else to do.
        let paused = registry.pause();
        match give(&heir, registry, &paused, [server.lock(), listener.as_fd()]) {
            Ok(_) => {
                paused.for_good();
                renew::announce(&heir, started);
                return true;
            }
            Err(error) => tracing::warn!("the agent that stood by did not take over: {error}"),
        }
    }
    false
}

/// Looks around when something has changed, and every [`registry::PERIOD`] while not everything is as it should be. A slow look
/// (many namespaces, a scan of `/proc`) keeps nobody waiting.
async fn keep_looking(registry: Registry) {
    let mut watch = Watch::new().inspect_err(|error| tracing::warn!("cannot watch directories: {error}")).ok();
    loop {
        let looking = registry.clone();
        // Fails only when the runtime ends.
        let Ok(outlook) = tokio::task::spawn_blocking(move || looking.look_around()).await else { return };
        let covered = watch.as_mut().map(|watch| watch.covers(outlook.directories.iter().map(PathBuf::as_path)));
        // What changes from now on is kept until it is waited for. However much there is, one look at a time.
        tokio::time::sleep(registry::PERIOD).await;
        if let (Some(watch), Some(true), true) = (&watch, covered, outlook.is_calm) {
            tokio::select! {
                () = watch.changed() => {}
                () = registry.broken() => {}
                () = tokio::time::sleep(CALM_PERIOD) => {}
            }
        }
    }
}
