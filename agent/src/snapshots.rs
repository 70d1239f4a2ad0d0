//! What those who only read are shown: made anew for all of them at once, however many there are and however often they ask.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use adit_tunnel::protocol::TunnelStatus;

use crate::registry::Registry;

/// How long a snapshot is shown. To make one asks the packet threads, tunnel by tunnel.
const FRESH: Duration = Duration::from_millis(200);

/// The node's tunnels, as they were at most [`FRESH`] ago.
pub struct Snapshots {
    registry: Registry,
    last: Mutex<Option<(Instant, Arc<[TunnelStatus]>)>>,
}

impl Snapshots {
    /// Of the tunnels of `registry`.
    pub fn new(registry: Registry) -> Self {
        Self { registry, last: Mutex::default() }
    }

    /// The tunnels, in the order of their attachments. Who asks while a snapshot is made waits for that one.
    pub fn get(&self) -> Arc<[TunnelStatus]> {
        // Nothing but a whole snapshot is ever put there.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, tunnels)) = last.as_ref().filter(|(made, _)| made.elapsed() < FRESH) {
            return Arc::clone(tunnels);
        }
        let tunnels: Arc<[TunnelStatus]> = self.registry.status().into();
        // Its age counts from its end: making it may take longer than it lasts.
        *last = Some((Instant::now(), Arc::clone(&tunnels)));
        tunnels
    }
}
