//! Tunnels pass from one agent's registry to the next one's, as they are ([`crate::handover`]).

use std::{
    collections::BTreeMap,
    sync::{MutexGuard, PoisonError, atomic::Ordering},
};

use adit_dataplane::{Error as EngineError, Parcel, TunnelConfig};
use adit_tunnel::{AttachmentId, Record, State};

use super::{Held, Holding, Registry, mtu};
use crate::{
    Result,
    config::{starting_at, tunnel_config},
    reopen::within,
};

/// As long as this lives, nothing is looked after: no tunnel is opened, retired, or written down.
pub struct Paused<'a> {
    registry: &'a Registry,
    _looks: MutexGuard<'a, ()>,
    /// Set when there is nothing to come back to.
    is_over: bool,
}

impl Paused<'_> {
    /// Everything is given away: nothing is opened here any more.
    pub fn for_good(mut self) {
        self.is_over = true;
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.registry.shared.stopped.store(false, Ordering::Release);
            // Some may have gone, and come back only by a look.
            self.registry.shared.engine_breaks.notify_one();
        }
    }
}

/// A tunnel that has stopped here.
pub struct Given {
    held: Held,
    parcel: Parcel,
}

impl Given {
    /// What the next carrier needs.
    pub const fn parcel(&self) -> &Parcel {
        &self.parcel
    }
}

/// What is known of a tunnel before it comes.
pub struct Prepared {
    record: Record,
    config: TunnelConfig,
}

impl Registry {
    /// Waits for the look that is under way, and lets none begin.
    pub fn pause(&self) -> Paused<'_> {
        // A long look ends early then.
        self.shared.stopped.store(true, Ordering::Release);
        let looks = self.shared.looks.lock().unwrap_or_else(PoisonError::into_inner);
        Paused { registry: self, _looks: looks, is_over: false }
    }

    /// The tunnels that the data plane has.
    pub fn carried_tunnels(&self) -> Vec<AttachmentId> {
        let tunnels = self.lock();
        let carried = tunnels.values().filter(|held| matches!(held.holding, Holding::Carried(_)));
        carried.map(|held| held.record.attachment.clone()).collect()
    }

    /// Stops in a tunnel and takes it out; `None` when it is not carried or is broken.
    pub fn give(&self, attachment: &AttachmentId, _paused: &Paused<'_>) -> Option<Given> {
        let _claim = self.shared.claims.claim(attachment);
        let held = self.held(attachment)?;
        let Holding::Carried(id) = held.holding else { return None };
        // It leaves the map first, as ever.
        self.lock().remove(attachment);
        match self.shared.engine.release(id) {
            Ok(parcel) => Some(Given { held, parcel }),
            Err(EngineError::Broken { .. }) => {
                self.lock().insert(attachment.clone(), held);
                None
            }
            Err(error) => {
                tracing::warn!("cannot hand {attachment} over: {error}");
                None
            }
        }
    }

    /// Goes on with a tunnel that nobody has taken.
    pub fn take_back(&self, Given { held, parcel }: Given) {
        let attachment = held.record.attachment.clone();
        let prepared = self.prepare_one(&attachment).inspect_err(|error| tracing::warn!("{attachment}: {error}")).ok();
        self.take(&attachment, prepared.flatten().as_ref(), parcel);
    }

    /// Reads the records and keys of tunnels that are to come.
    pub fn prepare(&self, attachments: &[AttachmentId]) -> BTreeMap<AttachmentId, Prepared> {
        let mut prepared = BTreeMap::new();
        for attachment in attachments {
            match self.prepare_one(attachment) {
                Ok(Some(one)) => drop(prepared.insert(attachment.clone(), one)),
                // Nobody wants it any more.
                Ok(None) => {}
                Err(error) => tracing::warn!("cannot prepare for {attachment}: {error}"),
            }
        }
        prepared
    }

    fn prepare_one(&self, attachment: &AttachmentId) -> Result<Option<Prepared>> {
        let Some(mut record) = self.shared.store.read(attachment)?.filter(|record| record.state == State::Attached)
        else {
            return Ok(None);
        };
        let keys = self.load_keys(&mut record)?;
        let config = tunnel_config(&record, keys);
        Ok(Some(Prepared { record, config }))
    }

    /// Goes on with a tunnel of the agent before, with its sessions where they are understood. What is not prepared is let go: the next look
    /// opens it if its record asks for it, or says why it cannot.
    pub fn take(&self, attachment: &AttachmentId, prepared: Option<&Prepared>, parcel: Parcel) {
        let Some(Prepared { record, config }) = prepared else { return };
        let _claim = self.shared.claims.claim(attachment);
        match self.shared.engine.adopt(config.clone(), parcel) {
            Ok(id) => self.put(record.clone(), Holding::Carried(id)),
            Err((error, Some(parcel))) => {
                tracing::warn!("{attachment}: {error}");
                if let Err(error) = self.begin_anew(record.clone(), config.clone(), parcel) {
                    tracing::warn!("cannot carry {attachment}: {error}");
                }
            }
            Err((error, None)) => tracing::warn!("cannot carry {attachment}: {error}"),
        }
    }

    /// The descriptors go on, the sessions do not.
    fn begin_anew(&self, mut record: Record, config: TunnelConfig, parcel: Parcel) -> Result<()> {
        record.epoch_floor = self.next_epoch(record.epoch_floor);
        self.shared.store.write(&record)?;
        let (tun, udp) = parcel.into_descriptors();
        let config = starting_at(config, within(&record.netns, || Ok(mtu::present(&record))).ok().flatten());
        let id = self.shared.engine.add(TunnelConfig { epoch: record.epoch_floor, ..config }, tun, udp)?;
        self.put(record, Holding::Carried(id));
        Ok(())
    }

    /// Lets every tunnel go that was taken: the agent before has not given everything, and opens them again.
    pub fn let_all_go(&self) {
        for attachment in self.carried_tunnels() {
            let _claim = self.shared.claims.claim(&attachment);
            self.release(&attachment);
        }
    }
}
