//! The tunnels of this node: which there are, which are carried, and which are to go.
//!
//! The records on disk are the truth about which tunnels exist; the registry is the truth about who carries them. A
//! tunnel is let go when its record vanishes (a plugin removed it) or when its pod does (nobody will).
//!
//! Every change of an attachment is made under its [claim](Claims), from the look at its record to the entry in the map.
//! So changes of one attachment follow one another, and those of others do not wait for them. What DEL relies on follows:
//! once [`Registry::detach`] has returned, the tunnel's descriptors are closed, and whoever changes the attachment
//! afterwards reads its record anew, finds that it is gone or another ADD's, and carries nothing on behalf of the old one.
//! The map's lock is held to look and to put, never while the kernel, the disk or the data plane is asked. An entry leaves
//! the map before its tunnel leaves the data plane.

mod look;
pub mod mtu;
mod pass;
mod rotate;

pub use look::Outlook;
pub use pass::{Given, Paused, Prepared};

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use adit_dataplane::{Engine, Error as EngineError, TunnelId, TunnelStats};
use adit_tunnel::{
    AttachmentId, Engine as Runs, KeyStore, PublicKey, Record, State, Store,
    keys::{KeyNames, Keys},
    protocol::TunnelStatus,
};

use tokio::sync::Notify;

pub use crate::reopen::Descriptors;

use crate::{
    Error, Result,
    claims::Claims,
    config::{is_sealed, starting_at, tunnel_config},
    kernel, reopen,
    status::{broken, status},
};

/// How often the agent looks whether pods and records still exist, and tries again what it could not open, while it has reason to; and
/// how long it takes, at most, until it sees a change.
pub const PERIOD: Duration = Duration::from_secs(2);

/// A handle of the node's tunnels; clones share them.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    keys: KeyStore,
    engine: Engine,
    engine_breaks: Arc<Notify>,
    claims: Claims,
    tunnels: Mutex<BTreeMap<AttachmentId, Held>>,
    /// Held while a private key is changed.
    rotations: Mutex<()>,
    /// Held while somebody looks around.
    looks: Mutex<()>,
    /// What the last look complained about: said once, not every [`PERIOD`].
    complaints: Mutex<BTreeSet<String>>,
    /// Nothing is opened any more: for good after [`Registry::stop`], for a while when [paused](Registry::pause).
    stopped: AtomicBool,
}

/// One tunnel that the agent answers for.
#[derive(Clone)]
struct Held {
    record: Record,
    holding: Holding,
}

#[derive(Clone, PartialEq, Eq)]
enum Holding {
    /// The data plane has its descriptors.
    Carried(TunnelId),
    /// The kernel's device knows its keys and peers.
    Configured,
    /// It could not be opened, for this reason; tried again every [`PERIOD`].
    Waiting(String),
}

impl Holding {
    const fn is_settled(&self) -> bool {
        matches!(self, Self::Carried(_) | Self::Configured)
    }
}

impl Registry {
    /// The tunnels recorded below `run_dir`, with the keys of `keys`; none is opened before [`Self::look_around`]. `engine_breaks` is
    /// notified by the engine when a tunnel breaks.
    ///
    /// # Errors
    /// The records' directory cannot be made.
    pub fn new(run_dir: &Path, keys: KeyStore, engine: Engine, engine_breaks: Arc<Notify>) -> Result<Self> {
        let store = Store::new(run_dir);
        store.prepare()?;
        let shared = Shared {
            store,
            keys,
            engine,
            engine_breaks,
            claims: Claims::default(),
            tunnels: Mutex::default(),
            rotations: Mutex::default(),
            looks: Mutex::default(),
            complaints: Mutex::default(),
            stopped: AtomicBool::new(false),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Takes a tunnel over from the plugin that made it, and marks its record as attached.
    ///
    /// # Errors
    /// The agent cannot find the pod's namespace, so that it could neither open the tunnel again nor see the pod's end. No
    /// record on disk asks for it: the plugin was killed, and its tunnel removed, before the request was read. Or the data
    /// plane refuses, or a key cannot be loaded, or the record cannot be written. The plugin's descriptors are closed then.
    pub fn attach(&self, mut record: Record, descriptors: Option<Descriptors>) -> Result<()> {
        if !reopen::is_visible(&record.netns)? {
            return Err(Error::NamespaceHidden(record.netns.path));
        }
        let _claim = self.shared.claims.claim(&record.attachment);
        if self.shared.store.read(&record.attachment)?.as_ref() != Some(&record) {
            return Err(Error::Outdated(record.attachment.to_string()));
        }
        let keys = self.load_keys(&mut record)?;
        self.release(&record.attachment);
        record.state = State::Attached;
        record.epoch_floor = self.next_epoch(record.epoch_floor);
        let holding = self.hold(&record, keys, descriptors)?;
        if let Err(error) = self.shared.store.write(&record) {
            if let Holding::Carried(id) = holding {
                let _ = self.shared.engine.remove(id);
            }
            return Err(error.into());
        }
        tracing::info!("carrying {} of pod {}", record.attachment, record.pod);
        self.put(record, holding);
        Ok(())
    }

    /// Gives the tunnel to the data plane, with its descriptors, or tells the kernel's device what it has to know.
    fn hold(&self, record: &Record, keys: Option<Keys>, descriptors: Option<Descriptors>) -> Result<Holding> {
        match (record.spec.engine, keys, descriptors) {
            (Runs::Agent, keys, Some(Descriptors { tun, udp, mtu_bytes })) => {
                let config = starting_at(tunnel_config(record, keys), mtu_bytes);
                Ok(Holding::Carried(self.shared.engine.add(config, tun, udp)?))
            }
            (Runs::Kernel, Some(keys), None) => kernel::configure(record, &keys).map(|()| Holding::Configured),
            (engine, _, descriptors) => {
                let count = if descriptors.is_some() { 2 } else { 0 };
                let encap = record.spec.encap;
                Err(Error::BadHandOver(format!(
                    "{count} descriptors came with a tunnel of {encap} that the {engine} carries; plugin and agent must be of one version"
                )))
            }
        }
    }

    /// An epoch above `floor` and above that of the node.
    fn next_epoch(&self, floor: u64) -> u64 {
        next_epoch(floor.max(self.shared.store.epoch_floor()))
    }

    /// The public key of the tunnel that `names` describes, once all of its keys could be loaded.
    ///
    /// # Errors
    /// A key cannot be loaded.
    pub fn public_key(&self, names: &KeyNames) -> Result<PublicKey> {
        Ok(self.shared.keys.load(names)?.public)
    }

    /// The keys of a sealed tunnel, and their public one in the record.
    fn load_keys(&self, record: &mut Record) -> Result<Option<Keys>> {
        if !is_sealed(record) {
            return Ok(None);
        }
        let keys = self.shared.keys.load(&KeyNames::of(record))?;
        record.spec.public_key = Some(keys.public);
        Ok(Some(keys))
    }

    /// Lets go of a tunnel: its descriptors are closed on return. Unknown is fine.
    pub fn detach(&self, attachment: &AttachmentId) {
        let _claim = self.shared.claims.claim(attachment);
        if self.release(attachment) {
            tracing::info!("let go of {attachment}: removed");
        }
    }

    /// The state of one tunnel.
    #[must_use]
    pub fn inspect(&self, attachment: &AttachmentId) -> Option<TunnelStatus> {
        loop {
            let Held { record, holding } = self.held(attachment)?;
            return Some(match holding {
                Holding::Waiting(reason) => status(&record, &TunnelStats::default(), Some(reason)),
                Holding::Configured => {
                    // Nobody is at work on it: device and record belong together.
                    let claim = self.shared.claims.claim(attachment);
                    let Some(Held { record, holding: Holding::Configured }) = self.held(attachment) else {
                        drop(claim);
                        continue;
                    };
                    kernel::status(&record)
                }
                Holding::Carried(id) => match self.shared.engine.stats(id) {
                    Ok(stats) => status(&record, &stats, broken(&stats)),
                    // It left the map first: what the map says now is newer.
                    Err(EngineError::UnknownTunnel(_)) => continue,
                    Err(error) => status(&record, &TunnelStats::default(), Some(error.to_string())),
                },
            });
        }
    }

    /// The state of every tunnel, in the order of their attachments.
    #[must_use]
    pub fn status(&self) -> Vec<TunnelStatus> {
        let attachments: Vec<AttachmentId> = self.lock().keys().cloned().collect();
        attachments.iter().filter_map(|attachment| self.inspect(attachment)).collect()
    }

    /// Where the records are.
    #[must_use]
    pub fn records(&self) -> &Path {
        self.shared.store.directory()
    }

    /// How many tunnels are carried.
    #[must_use]
    pub fn carried(&self) -> usize {
        self.lock().values().filter(|held| held.holding.is_settled()).count()
    }

    /// Returns once a tunnel has broken since the last time. One caller only.
    pub async fn broken(&self) {
        self.shared.engine_breaks.notified().await;
    }

    /// Ends the data plane; devices and records stay.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Release);
        self.learn();
        self.lock().clear();
        self.shared.engine.clone().shutdown();
    }

    /// Takes an attachment out of the map, and its tunnel out of the data plane. False when there was none.
    fn release(&self, attachment: &AttachmentId) -> bool {
        let held = self.lock().remove(attachment);
        if let Some(Held { holding: Holding::Carried(id), .. }) = held {
            self.end(attachment, id);
        }
        held.is_some()
    }

    fn end(&self, attachment: &AttachmentId, id: TunnelId) {
        if let Err(error) = self.shared.engine.remove(id) {
            tracing::warn!("cannot end {attachment}: {error}");
        }
    }

    fn held(&self, attachment: &AttachmentId) -> Option<Held> {
        self.lock().get(attachment).cloned()
    }

    fn put(&self, record: Record, holding: Holding) {
        self.lock().insert(record.attachment.clone(), Held { record, holding });
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

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;

    #[test]
    fn work_on_one_attachment_holds_up_nothing_but_itself() {
        let directory = tempfile::tempdir().unwrap();
        let registry =
            Registry::new(directory.path(), KeyStore::new(directory.path()), Engine::start(1).unwrap(), Arc::default())
                .unwrap();
        let attachment = |container_id: &str| AttachmentId {
            container_id: container_id.into(),
            cni_if_name: "net1".into(),
            if_name: "tun".parse().unwrap(),
        };
        let (sender, done) = mpsc::channel();
        thread::scope(|scope| {
            let slow = registry.shared.claims.claim(&attachment("c1"));
            scope.spawn(|| {
                registry.look_around();
                registry.detach(&attachment("c2"));
                sender.send(registry.status().len()).unwrap();
                registry.detach(&attachment("c1"));
                sender.send(1).unwrap();
            });
            assert_eq!(done.recv_timeout(Duration::from_secs(10)), Ok(0));
            assert!(done.recv_timeout(Duration::from_millis(50)).is_err(), "detach waits for who is at work");
            drop(slow);
            assert_eq!(done.recv_timeout(Duration::from_secs(10)), Ok(1));
        });
    }
}
