//! Keys change while tunnels are carried: this end's, and those of peers.

use std::sync::PoisonError;

use adit_tunnel::{
    AttachmentId, PublicKey,
    keys::{KeyNames, Rotation},
};

use super::{Held, Holding, Registry};
use crate::{
    Error, Result,
    config::{identity, is_sealed, tunnel_config},
    kernel,
};

impl Registry {
    /// Takes a step of changing the private key of a tunnel, and of every other tunnel with the same key. Returns the public key that
    /// peers are to know.
    ///
    /// # Errors
    /// There is no such tunnel, it is not sealed, or a key cannot be read or written. What failed can be tried again.
    pub fn rotate_key(&self, attachment: &AttachmentId, step: Rotation) -> Result<PublicKey> {
        let names = KeyNames::of(&self.sealed(attachment)?.record);
        // One at a time: tunnels may share a key.
        let _turn = self.shared.rotations.lock().unwrap_or_else(PoisonError::into_inner);
        let public = self.shared.keys.rotate(&names, step)?;
        let same_key = |other: &KeyNames| {
            other.owner.namespace == names.owner.namespace
                && other.private_key_file == names.private_key_file
                && (names.private_key_file.is_some() || other.owner == names.owner)
        };
        let held: Vec<Held> = self.lock().values().filter(|held| is_sealed(&held.record)).cloned().collect();
        let same = held.into_iter().filter(|held| same_key(&KeyNames::of(&held.record)));
        let renewed: Vec<Result<()>> = same.map(|held| self.renew_identity(&held.record.attachment)).collect();
        // All of them come first. Whoever is not carried, or was removed meanwhile, reads its keys when it is opened.
        let failed = |error: &Error| !matches!(error, Error::NotCarried { .. } | Error::UnknownTunnel(_));
        if let Some(error) = renewed.into_iter().filter_map(Result::err).find(failed) {
            return Err(error);
        }
        tracing::info!("{attachment}: private key, step {step:?}; public key {public}");
        Ok(public)
    }

    fn renew_identity(&self, attachment: &AttachmentId) -> Result<()> {
        let _claim = self.shared.claims.claim(attachment);
        let Held { mut record, holding } = self.carried_sealed(attachment)?;
        let Some(keys) = self.load_keys(&mut record)? else { return Ok(()) };
        match holding {
            Holding::Carried(id) => self.shared.engine.set_identity(id, identity(&keys))?,
            _ => kernel::configure(&record, &keys)?,
        }
        self.shared.store.write(&record)?;
        self.put(record, holding);
        Ok(())
    }

    /// A peer's key gives way to another.
    ///
    /// # Errors
    /// There is no such tunnel or peer, it is not sealed, or the new key is in use already.
    pub fn change_peer_key(
        &self,
        attachment: &AttachmentId,
        old: PublicKey,
        new: PublicKey,
        keep_old: bool,
    ) -> Result<()> {
        let _claim = self.shared.claims.claim(attachment);
        let Held { mut record, holding } = self.carried_sealed(attachment)?;
        if holding == Holding::Configured {
            if keep_old {
                return Err(Error::OneKey(attachment.to_string()));
            }
            // A peer with another key is another one to the kernel, which forgets where the old one was.
            record.learned = kernel::learned(&record)?;
        }
        let others = record.spec.peers.iter().filter(|peer| peer.public_key != Some(old));
        let whose = if record.spec.public_key == Some(new) {
            Some("this end's own")
        } else {
            others.map(|peer| peer.public_key).any(|key| key == Some(new)).then_some("another peer's")
        };
        if let Some(whose) = whose {
            return Err(Error::KeyInUse { key: new, whose });
        }
        let place = record.spec.peers.iter().position(|peer| peer.public_key == Some(old));
        let Some((place, peer)) = place.and_then(|place| Some((place, record.spec.peers.get_mut(place)?))) else {
            return Err(Error::UnknownPeer { attachment: attachment.to_string(), key: old });
        };
        if keep_old {
            record.also.insert(old, new);
        } else {
            peer.public_key = Some(new);
            record.also.remove(&old);
            if let Some(endpoint) = record.learned.remove(&old) {
                record.learned.insert(new, endpoint);
            }
        }
        match (&holding, self.load_keys(&mut record)?) {
            (Holding::Carried(id), keys) => {
                if let Some(peer) = tunnel_config(&record, keys).peers.into_iter().nth(place) {
                    self.shared.engine.change_peer(*id, peer)?;
                }
            }
            (_, Some(keys)) => kernel::configure(&record, &keys)?,
            (_, None) => {}
        }
        self.shared.store.write(&record)?;
        let fate = if keep_old { "is accepted beside" } else { "takes the place of" };
        tracing::info!("{attachment}: the peer's public key {new} {fate} {old}");
        self.put(record, holding);
        Ok(())
    }

    fn sealed(&self, attachment: &AttachmentId) -> Result<Held> {
        let held = self.held(attachment).ok_or_else(|| Error::UnknownTunnel(attachment.to_string()))?;
        if is_sealed(&held.record) { Ok(held) } else { Err(Error::NotSealed(attachment.to_string())) }
    }

    fn carried_sealed(&self, attachment: &AttachmentId) -> Result<Held> {
        let held = self.sealed(attachment)?;
        match held.holding {
            Holding::Waiting(reason) => Err(Error::NotCarried { attachment: attachment.to_string(), reason }),
            _ => Ok(held),
        }
    }
}
