//! The node agent: it owns the user-space tunnels of a node and survives its own death.
//!
//! A plugin hands it a TUN device, an outer socket and a record ([`server`]). From then on the [`registry`] keeps the
//! tunnel in the data plane. After a restart it opens the same devices again from the records ([`reopen`]). Every
//! [`registry::PERIOD`] it looks whether the pods still exist, and lets go of those that nobody removed.
#![forbid(unsafe_code)]

pub mod confine;
mod error;
pub mod privilege;
pub mod registry;
mod reopen;
pub mod server;

use std::path::PathBuf;

use adit_dataplane::Engine;
use adit_tunnel::run_dir;
pub use error::{Error, Result};
use registry::Registry;
use server::Server;
use tokio::signal::unix::{SignalKind, signal};

/// The agent of a node: carries the user-space tunnels of its pods.
#[derive(Debug, clap::Parser)]
#[command(name = "aditd", version)]
pub struct Options {
    /// Directory of the socket and the records [default: $ADIT_RUN_DIR, else /run/adit]
    #[arg(long)]
    pub run_dir: Option<PathBuf>,
    /// Threads that move packets
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub workers: u8,
}

/// Carries tunnels until SIGTERM or SIGINT. Devices, addresses and records stay for the next agent.
///
/// # Errors
/// The run directory is taken or unusable, or the data plane cannot start.
pub fn run(options: &Options) -> Result<()> {
    let directory = options.run_dir.clone().unwrap_or_else(run_dir);
    privilege::raise_descriptor_limit()?;
    let server = Server::claim(&directory)?;
    privilege::reduce()?;
    let engine = Engine::start_confined(usize::from(options.workers), confine::packet_thread)?;
    let registry = Registry::new(&directory, engine)?;
    registry.look_around();

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::start("start the control plane", source))?;
    runtime.block_on(serve(server, registry))
}

async fn serve(server: Server, registry: Registry) -> Result<()> {
    let stop = |kind| signal(kind).map_err(|source| Error::start("listen for signals", source));
    let (mut terminate, mut interrupt) = (stop(SignalKind::terminate())?, stop(SignalKind::interrupt())?);
    let mut period = tokio::time::interval(registry::PERIOD);
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let listener = server.listen()?;
    tracing::info!("carrying {} tunnels, listening on {}", registry.carried(), server.socket().display());
    // Without a service manager there is nobody to notify.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);

    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = period.tick() => {
                let registry = registry.clone();
                // A slow look (many namespaces, a scan of /proc) must not keep plugins waiting.
                let _ = tokio::task::spawn_blocking(move || registry.look_around()).await;
            }
            accepted = listener.accept() => server::answer(accepted, &registry),
        }
    }
    tracing::info!("stopping; devices and records stay for the next agent");
    registry.stop();
    Ok(())
}
