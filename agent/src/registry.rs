//! The tunnels of this node: which there are, which are carried, and which are to go.
//!
//! The records on disk are the truth about which tunnels exist; the registry is the truth about who carries them. A
//! tunnel is let go when its record vanishes (a plugin removed it) or when its pod does (nobody will).

use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use adit_dataplane::{Engine, PeerConfig, PeerId, PeerStats, TunnelConfig, TunnelId, TunnelStats};
use adit_tunnel::{
    AttachmentId, Record, State, Store,
    protocol::{PeerStatus, TunnelStatus},
};

use crate::{Error, Result, reopen};

/// How often the agent looks whether pods and records still exist, and tries again what it could not open.
pub const PERIOD: Duration = Duration::from_secs(2);

/// How old a half-written record must be before nobody can be at work on it any more.
const LEFTOVER_AGE: Duration = Duration::from_secs(60);

/// A handle of the node's tunnels; clones share them.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    engine: Engine,
    tunnels: Mutex<BTreeMap<AttachmentId, Held>>,
}

/// One tunnel that the agent answers for.
struct Held {
    record: Record,
    holding: Holding,
}

enum Holding {
    /// The data plane has its descriptors.
    Carried(TunnelId),
    /// It could not be opened, for this reason; tried again every [`PERIOD`].
    Waiting(String),
}

impl Registry {
    /// The tunnels recorded below `run_dir`; none is opened before [`Self::look_around`].
    ///
    /// # Errors
    /// The records' directory cannot be made.
    pub fn new(run_dir: &Path, engine: Engine) -> Result<Self> {
        let store = Store::new(run_dir);
        store.prepare()?;
        Ok(Self { shared: Arc::new(Shared { store, engine, tunnels: Mutex::default() }) })
    }

    /// Takes a tunnel over from the plugin that made it, and marks its record as attached.
    ///
    /// # Errors
    /// No record on disk asks for it: the plugin was killed, and its tunnel removed, before the request was read. Or the data
    /// plane refuses, or the record cannot be written. The plugin's descriptors are closed then.
    pub fn attach(&self, mut record: Record, tun: OwnedFd, udp: OwnedFd) -> Result<()> {
        let mut tunnels = self.lock();
        if self.shared.store.read(&record.attachment)?.as_ref() != Some(&record) {
            return Err(Error::Outdated(record.attachment.to_string()));
        }
        if let Some(old) = tunnels.remove(&record.attachment) {
            self.release(&old);
        }
        record.state = State::Attached;
        record.epoch_floor = next_epoch(record.epoch_floor);
        let id = self.shared.engine.add(tunnel_config(&record), tun, udp)?;
        if let Err(error) = self.shared.store.write(&record) {
            let _ = self.shared.engine.remove(id);
            return Err(error.into());
        }
        tracing::info!("carrying {} of pod {}", record.attachment, record.pod);
        tunnels.insert(record.attachment.clone(), Held { record, holding: Holding::Carried(id) });
        Ok(())
    }

    /// Lets go of a tunnel: its descriptors are closed on return. Unknown is fine.
    pub fn detach(&self, attachment: &AttachmentId) {
        if let Some(held) = self.lock().remove(attachment) {
            self.release(&held);
            tracing::info!("let go of {attachment}: removed");
        }
    }

    /// The state of one tunnel.
    #[must_use]
    pub fn inspect(&self, attachment: &AttachmentId) -> Option<TunnelStatus> {
        self.lock().get(attachment).map(|held| self.describe(held))
    }

    /// The state of every tunnel, in the order of their attachments.
    #[must_use]
    pub fn status(&self) -> Vec<TunnelStatus> {
        self.lock().values().map(|held| self.describe(held)).collect()
    }

    /// How many tunnels are carried.
    #[must_use]
    pub fn carried(&self) -> usize {
        self.lock().values().filter(|held| matches!(held.holding, Holding::Carried(_))).count()
    }

    /// Compares the records with the node: opens what is not carried, lets go of what is gone.
    pub fn look_around(&self) {
        let listed = self.shared.store.sweep(LEFTOVER_AGE).and_then(|()| self.shared.store.list());
        let records = match listed {
            Ok(records) => records,
            Err(error) => {
                tracing::warn!("{error}");
                return;
            }
        };
        let unreadable = records.iter().filter(|record| record.is_err()).count();
        let records: Vec<Record> =
            records.into_iter().filter_map(|record| record.map_err(|error| tracing::warn!("{error}")).ok()).collect();

        // A record that cannot be read is no proof that its tunnel was removed.
        if unreadable == 0 {
            self.forget_unrecorded();
        }
        for record in records {
            if reopen::is_dead(&record.netns) {
                self.retire(&record.attachment);
            } else if record.state == State::Attached {
                self.open(&record.attachment);
            }
        }
    }

    /// Ends the data plane; devices and records stay.
    pub fn stop(&self) {
        self.lock().clear();
        self.shared.engine.clone().shutdown();
    }

    /// Lets go of the tunnels whose record somebody removed without telling.
    fn forget_unrecorded(&self) {
        let mut tunnels = self.lock();
        let gone: Vec<AttachmentId> =
            tunnels.keys().filter(|id| !self.shared.store.path(id).exists()).cloned().collect();
        for attachment in gone {
            if let Some(held) = tunnels.remove(&attachment) {
                self.release(&held);
                tracing::info!("let go of {attachment}: its record is gone");
            }
        }
    }

    /// Lets go of a tunnel whose pod is gone and which nobody removed: an open descriptor would keep the dead pod's
    /// addresses answering.
    fn retire(&self, attachment: &AttachmentId) {
        let mut tunnels = self.lock();
        // Read under the lock: the same attachment may have been added anew since the directory was listed.
        let Ok(Some(record)) = self.shared.store.read(attachment) else { return };
        if !reopen::is_dead(&record.netns) {
            return;
        }
        if let Some(held) = tunnels.remove(attachment) {
            self.release(&held);
        }
        match self.shared.store.remove(attachment) {
            Ok(()) => tracing::info!("let go of {attachment}: the namespace {} is gone", record.netns.path.display()),
            Err(error) => tracing::warn!("{error}"),
        }
    }

    /// Opens a recorded tunnel that is not carried.
    fn open(&self, attachment: &AttachmentId) {
        let mut tunnels = self.lock();
        if tunnels.get(attachment).is_some_and(|held| matches!(held.holding, Holding::Carried(_))) {
            return;
        }
        // Read under the lock: a plugin may have removed or replaced it since the directory was listed.
        let Ok(Some(mut record)) = self.shared.store.read(attachment) else { return };
        record.epoch_floor = next_epoch(record.epoch_floor);
        let holding = match self.carry(&record) {
            Ok(id) => {
                tracing::info!("carrying {attachment} of pod {} again", record.pod);
                Holding::Carried(id)
            }
            Err(error) => {
                let reason = error.to_string();
                let known = tunnels
                    .get(attachment)
                    .is_some_and(|held| matches!(&held.holding, Holding::Waiting(old) if *old == reason));
                if !known {
                    tracing::warn!("cannot carry {attachment}: {reason}");
                }
                Holding::Waiting(reason)
            }
        };
        tunnels.insert(attachment.clone(), Held { record, holding });
    }

    fn carry(&self, record: &Record) -> Result<TunnelId> {
        let descriptors = reopen::reopen(record)?;
        // The floor goes to disk first: an incarnation that was not recorded could be repeated.
        self.shared.store.write(record)?;
        Ok(self.shared.engine.add(tunnel_config(record), descriptors.tun, descriptors.udp)?)
    }

    fn release(&self, held: &Held) {
        if let Holding::Carried(id) = held.holding
            && let Err(error) = self.shared.engine.remove(id)
        {
            tracing::warn!("cannot end {}: {error}", held.record.attachment);
        }
    }

    fn describe(&self, held: &Held) -> TunnelStatus {
        let (stats, reason) = match &held.holding {
            Holding::Waiting(reason) => (TunnelStats::default(), reason.clone()),
            Holding::Carried(id) => match self.shared.engine.stats(*id) {
                Ok(stats) => {
                    let broken = !(stats.tun_attached && stats.udp_attached);
                    let reason = if broken {
                        stats.last_error.clone().unwrap_or_else(|| "a descriptor was lost".into())
                    } else {
                        String::new()
                    };
                    (stats, reason)
                }
                Err(error) => (TunnelStats::default(), error.to_string()),
            },
        };
        status_of(&held.record, &stats, reason)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AttachmentId, Held>> {
        // The map is changed only by whole inserts and removals, so a panic elsewhere left it whole.
        self.shared.tunnels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An epoch above `floor` and, where the clock allows, above every earlier one of this node.
fn next_epoch(floor: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX).max(floor.saturating_add(1))
}

fn tunnel_config(record: &Record) -> TunnelConfig {
    let peers = (0..).map(PeerId).zip(&record.spec.peers).map(|(id, peer)| PeerConfig {
        id,
        endpoint: peer.endpoint,
        allowed_ips: peer.allowed_ips.clone(),
        keepalive: peer.keepalive_ms.map(Duration::from_millis),
    });
    TunnelConfig {
        local: record.spec.local,
        mtu_bytes: record.spec.mtu_bytes,
        epoch: record.epoch_floor,
        peers: peers.collect(),
    }
}

fn status_of(record: &Record, stats: &TunnelStats, reason: String) -> TunnelStatus {
    let spec = &record.spec;
    let peers = (0..).map(PeerId).zip(&spec.peers).map(|(id, peer)| {
        let stats = stats.peers.iter().find(|stats| stats.id == id);
        let count = |field: fn(&PeerStats) -> u64| stats.map(field).unwrap_or_default();
        let age = |field: fn(&PeerStats) -> Option<Duration>| {
            stats.and_then(field).map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
        };
        PeerStatus {
            endpoint: stats.map_or(peer.endpoint, |stats| stats.endpoint),
            allowed_ips: peer.allowed_ips.clone(),
            established: stats.is_some_and(|stats| stats.established),
            handshakes: count(|stats| stats.handshakes),
            rx_bytes: count(|stats| stats.rx_bytes),
            rx_packets: count(|stats| stats.rx_packets),
            tx_bytes: count(|stats| stats.tx_bytes),
            tx_packets: count(|stats| stats.tx_packets),
            last_seen_ms: age(|stats| stats.last_rx_age),
            last_sent_ms: age(|stats| stats.last_tx_age),
        }
    });
    TunnelStatus {
        attachment: record.attachment.clone(),
        pod: record.pod.clone(),
        network: record.network.clone(),
        encap: spec.encap,
        encryption: spec.encryption,
        engine: "agent".into(),
        mtu_bytes: spec.mtu_bytes,
        local: spec.local,
        device: spec.device.to_string(),
        addresses: record.addresses.clone(),
        carried: reason.is_empty(),
        reason,
        peers: peers.collect(),
        drops: stats.drops.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
    }
}
