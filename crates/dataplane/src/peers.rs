use crate::{Error, PeerConfig, PeerId, PublicKey, Result, allowed::AllowedIps, peer::Peer};
use ipnetwork::IpNetwork;
use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
};

/// Where a peer is kept. Valid until the peer is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(usize);

/// The peers of a tunnel, found by number, endpoint, session index or inner address.
pub(crate) struct Peers {
    local: SocketAddr,
    is_sealed: bool,
    slots: Vec<Option<Peer>>,
    by_id: BTreeMap<PeerId, Slot>,
    /// Plain peers, which are known by nothing else.
    by_endpoint: HashMap<(IpAddr, u16), Slot>,
    /// Sealed peers.
    by_key: HashMap<PublicKey, Slot>,
    /// A plain peer has one, a sealed one one of each session.
    by_index: HashMap<u32, Slot>,
    allowed: AllowedIps<Slot>,
    /// What was looked up last: packets come in flows.
    last: Last,
}

/// Valid until anything changes.
#[derive(Debug, Clone, Copy, Default)]
struct Last {
    index: Option<(u32, Slot)>,
    /// An address that was sent to, and one that was received from.
    inner: [Option<(IpAddr, Slot)>; 2],
}

impl Peers {
    pub(crate) fn new(local: SocketAddr, is_sealed: bool) -> Self {
        Self {
            local,
            is_sealed,
            slots: Vec::new(),
            by_id: BTreeMap::new(),
            by_endpoint: HashMap::new(),
            by_key: HashMap::new(),
            by_index: HashMap::new(),
            allowed: AllowedIps::new(),
            last: Last::default(),
        }
    }

    /// Adds a peer, or changes nothing.
    pub(crate) fn add(&mut self, config: PeerConfig, random: impl FnMut() -> u32) -> Result<Slot> {
        if self.by_id.contains_key(&config.id) {
            return Err(Error::DuplicatePeer(config.id));
        }
        self.validate(&config)?;
        self.last = Last::default();
        let index = if self.is_sealed { 0 } else { self.free_index(random) };
        let free = self.slots.iter().position(Option::is_none);
        let slot = Slot(free.unwrap_or(self.slots.len()));
        self.by_id.insert(config.id, slot);
        self.enter(&config, index, slot);
        for prefix in &config.allowed_ips {
            self.allowed.insert(*prefix, slot);
        }
        let peer = Some(Peer::new(config, index));
        match self.slots.get_mut(slot.0) {
            Some(place) => *place = peer,
            None => self.slots.push(peer),
        }
        Ok(slot)
    }

    /// Replaces a peer's settings, or changes nothing. Returns whether its endpoint or keys are new. A plain peer's session is the
    /// caller's business then; it gets a new index.
    pub(crate) fn change(&mut self, config: PeerConfig, random: impl FnMut() -> u32) -> Result<(Slot, bool)> {
        let slot = self.slot_of(config.id)?;
        self.validate(&config)?;
        self.last = Last::default();
        let fresh_index = self.free_index(random);
        let Some(peer) = self.slots.get_mut(slot.0).and_then(Option::as_mut) else {
            return Err(Error::UnknownPeer(config.id));
        };
        let old = std::mem::replace(&mut peer.config, config.clone());
        let shared = |config: &PeerConfig| config.keys.as_ref().map(|keys| (keys.public, keys.preshared.clone()));
        let moved = old.endpoint != config.endpoint || shared(&old) != shared(&config);
        let old_index = peer.index;
        if old.endpoint != config.endpoint {
            peer.endpoint = config.endpoint.or(peer.endpoint);
        }
        if moved && !self.is_sealed {
            peer.index = fresh_index;
        }
        let given_up = match (&mut peer.sealed, &config.keys) {
            (Some(state), Some(keys)) => state.set_keys(keys.clone()),
            _ => Vec::new(),
        };
        let index = peer.index;
        given_up.into_iter().for_each(|index| self.release_index(index));
        self.leave(&old, old_index);
        self.enter(&config, index, slot);
        for prefix in &old.allowed_ips {
            self.allowed.remove(*prefix);
        }
        for prefix in &config.allowed_ips {
            self.allowed.insert(*prefix, slot);
        }
        Ok((slot, moved))
    }

    /// Makes a peer known by what datagrams tell of their sender.
    fn enter(&mut self, config: &PeerConfig, index: u32, slot: Slot) {
        match (&config.keys, config.endpoint) {
            (Some(keys), _) => {
                self.by_key.extend([Some(keys.public), keys.also].into_iter().flatten().map(|key| (key, slot)));
            }
            (None, Some(endpoint)) => {
                self.by_endpoint.insert(key(endpoint), slot);
                self.by_index.insert(index, slot);
            }
            (None, None) => {}
        }
    }

    fn leave(&mut self, config: &PeerConfig, index: u32) {
        if let Some(keys) = &config.keys {
            self.by_key.remove(&keys.public);
            keys.also.map(|also| self.by_key.remove(&also));
        } else if let Some(endpoint) = config.endpoint {
            self.by_endpoint.remove(&key(endpoint));
            self.by_index.remove(&index);
        }
    }

    pub(crate) fn remove(&mut self, id: PeerId) -> Result<Peer> {
        let slot = self.slot_of(id)?;
        let Some(peer) = self.slots.get_mut(slot.0).and_then(Option::take) else {
            return Err(Error::UnknownPeer(id));
        };
        self.last = Last::default();
        self.by_id.remove(&id);
        self.leave(&peer.config, peer.index);
        for index in peer.sealed.iter().flat_map(|state| state.indices()) {
            self.by_index.remove(&index);
        }
        for prefix in &peer.config.allowed_ips {
            self.allowed.remove(*prefix);
        }
        Ok(peer)
    }

    pub(crate) fn with_index(&mut self, index: u32) -> Option<(Slot, &mut Peer)> {
        let slot = match self.last.index {
            Some((last, slot)) if last == index => slot,
            _ => *self.by_index.get(&index)?,
        };
        self.last.index = Some((index, slot));
        Some((slot, self.get_mut(slot)?))
    }

    /// A session of the peer's is to be found by this index.
    pub(crate) fn claim_index(&mut self, index: u32, slot: Slot) {
        self.by_index.insert(index, slot);
    }

    pub(crate) fn release_index(&mut self, index: u32) {
        self.by_index.remove(&index);
        self.last = Last::default();
    }

    /// Every peer is found by the indices that it has now, and by no other.
    pub(crate) fn reindex(&mut self) {
        self.last = Last::default();
        self.by_index.clear();
        for (slot, peer) in (0..).map(Slot).zip(&self.slots) {
            let Some(peer) = peer else { continue };
            match &peer.sealed {
                Some(state) => self.by_index.extend(state.indices().map(|index| (index, slot))),
                None => drop(self.by_index.insert(peer.index, slot)),
            }
        }
    }

    pub(crate) fn with_id(&mut self, id: PeerId) -> Option<&mut Peer> {
        let slot = self.slot_of(id).ok()?;
        self.get_mut(slot)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn with_key(&mut self, public: &PublicKey) -> Option<(Slot, &mut Peer)> {
        let slot = *self.by_key.get(public)?;
        Some((slot, self.get_mut(slot)?))
    }

    /// The peer that has a public key.
    pub(crate) fn holder_of_key(&self, public: &PublicKey) -> Option<PeerId> {
        let slot = self.by_key.get(public)?;
        Some(self.slots.get(slot.0)?.as_ref()?.config.id)
    }

    pub(crate) fn with_endpoint(&mut self, from: SocketAddr) -> Option<(Slot, &mut Peer)> {
        let slot = *self.by_endpoint.get(&key(from))?;
        Some((slot, self.get_mut(slot)?))
    }

    /// The peer to which packets for an inner address go.
    pub(crate) fn towards(&mut self, destination: IpAddr) -> Option<Slot> {
        self.with_inner_address(destination, 0)
    }

    /// The peer that packets from an inner address may come from.
    pub(crate) fn behind(&mut self, source: IpAddr) -> Option<Slot> {
        self.with_inner_address(source, 1)
    }

    fn with_inner_address(&mut self, address: IpAddr, direction: usize) -> Option<Slot> {
        let last = self.last.inner.get_mut(direction)?;
        match *last {
            Some((same, slot)) if same == address => Some(slot),
            _ => {
                let slot = self.allowed.lookup(address)?;
                *last = Some((address, slot));
                Some(slot)
            }
        }
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut Peer> {
        self.slots.get_mut(slot.0)?.as_mut()
    }

    /// In the order of their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.by_id.values().filter_map(|slot| self.slots.get(slot.0)?.as_ref())
    }

    /// Where peers may be kept.
    pub(crate) fn slots(&self) -> impl Iterator<Item = Slot> + use<> {
        (0..self.slots.len()).map(Slot)
    }

    /// With where they are kept.
    pub(crate) fn in_slots(&self) -> impl Iterator<Item = (Slot, &Peer)> {
        (0..).map(Slot).zip(&self.slots).filter_map(|(slot, peer)| Some((slot, peer.as_ref()?)))
    }

    pub(crate) const fn allowed(&self) -> &AllowedIps<Slot> {
        &self.allowed
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Peer> {
        self.slots.iter_mut().flatten()
    }

    fn slot_of(&self, id: PeerId) -> Result<Slot> {
        self.by_id.get(&id).copied().ok_or(Error::UnknownPeer(id))
    }

    fn validate(&self, config: &PeerConfig) -> Result<()> {
        let id = config.id;
        match (&config.keys, self.is_sealed) {
            (None, true) => return Err(Error::NoKey(id)),
            (Some(_), false) => return Err(Error::NotSealed),
            _ => {}
        }
        match config.endpoint {
            Some(endpoint) => self.validate_endpoint(id, endpoint)?,
            None if !self.is_sealed => return Err(Error::NoEndpoint(id)),
            None => {}
        }
        let keys = config.keys.iter().flat_map(|keys| [Some(keys.public), keys.also]).flatten();
        if let Some(holder) = keys.filter_map(|key| self.other(id, self.by_key.get(&key).copied())).next() {
            return Err(Error::KeyTaken { peer: id, holder });
        }
        for prefix in &config.allowed_ips {
            if let Some(holder) = self.other(id, self.allowed.holder(*prefix)) {
                let prefix = masked(*prefix);
                return Err(Error::PrefixTaken { prefix, holder });
            }
        }
        Ok(())
    }

    fn validate_endpoint(&self, id: PeerId, endpoint: SocketAddr) -> Result<()> {
        let invalid = |reason| Error::InvalidEndpoint { peer: id, endpoint, local: self.local, reason };
        if endpoint.is_ipv4() != self.local.is_ipv4() {
            return Err(invalid("it is of the other IP version"));
        }
        if endpoint.port() == 0 {
            return Err(invalid("it needs a port"));
        }
        if endpoint.ip().is_unspecified() || endpoint.ip().is_multicast() {
            return Err(invalid("it is not the address of one host"));
        }
        if let Some(holder) = self.other(id, self.by_endpoint.get(&key(endpoint)).copied()) {
            return Err(Error::EndpointTaken { endpoint, holder });
        }
        Ok(())
    }

    /// The peer in the slot, if it is not this one.
    fn other(&self, id: PeerId, slot: Option<Slot>) -> Option<PeerId> {
        let holder = self.slots.get(slot?.0)?.as_ref()?.config.id;
        (holder != id).then_some(holder)
    }

    pub(crate) fn free_index(&self, mut random: impl FnMut() -> u32) -> u32 {
        loop {
            let index = random();
            if index != 0 && !self.by_index.contains_key(&index) {
                return index;
            }
        }
    }
}

/// Flow label and scope of an IPv6 address do not tell peers apart.
fn key(endpoint: SocketAddr) -> (IpAddr, u16) {
    (endpoint.ip(), endpoint.port())
}

fn masked(prefix: IpNetwork) -> IpNetwork {
    IpNetwork::new(prefix.network(), prefix.prefix()).unwrap_or(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(id: u32, endpoint: &str, allowed: &[&str]) -> PeerConfig {
        PeerConfig {
            id: PeerId(id),
            endpoint: Some(endpoint.parse().unwrap()),
            heard_from: None,
            allowed_ips: allowed.iter().map(|prefix| prefix.parse().unwrap()).collect(),
            keepalive: None,
            keys: None,
        }
    }

    fn one_peer() -> Peers {
        let mut peers = Peers::new("192.0.2.1:6090".parse().unwrap(), false);
        peers.add(config(1, "192.0.2.2:6090", &["10.2.0.0/16"]), || 1).unwrap();
        peers
    }

    #[test]
    fn clashing_peers_are_refused_by_name() {
        let mut peers = one_peer();
        let mut add = |id, endpoint, allowed: &[&str]| peers.add(config(id, endpoint, allowed), || 2).err();
        assert_eq!(add(1, "192.0.2.3:6090", &[]), Some(Error::DuplicatePeer(PeerId(1))));
        assert_eq!(
            add(2, "192.0.2.2:6090", &[]).unwrap().to_string(),
            "endpoint 192.0.2.2:6090 belongs to peer 1 already: plain peers need different endpoints"
        );
        assert_eq!(
            add(2, "192.0.2.3:6090", &["10.2.3.4/16"]).unwrap().to_string(),
            "allowed addresses 10.2.0.0/16 belong to peer 1 already: give each prefix to one peer"
        );
        for endpoint in ["[2001:db8::1]:6090", "192.0.2.3:0", "0.0.0.0:6090", "224.0.0.1:6090"] {
            assert!(matches!(add(2, endpoint, &[]), Some(Error::InvalidEndpoint { .. })));
        }
        assert_eq!(add(2, "192.0.2.2:6091", &["10.2.0.0/17"]), None);
    }

    #[test]
    fn refused_change_changes_nothing() {
        let mut peers = one_peer();
        peers.add(config(2, "192.0.2.3:6090", &["10.3.0.0/16"]), || 2).unwrap();
        let change = config(1, "192.0.2.4:6090", &["10.4.0.0/16", "10.3.0.0/16"]);
        assert!(peers.change(change, || 3).is_err());
        assert!(peers.with_endpoint("192.0.2.2:6090".parse().unwrap()).is_some());
        assert_eq!(peers.towards("10.2.0.1".parse().unwrap()), Some(Slot(0)));
        assert_eq!(peers.towards("10.4.0.1".parse().unwrap()), None);
    }

    #[test]
    fn removed_peer_leaves_nothing_behind() {
        let mut peers = one_peer();
        assert!(peers.towards("10.2.0.1".parse().unwrap()).is_some() && peers.with_index(1).is_some());
        peers.remove(PeerId(1)).unwrap();
        assert!(peers.by_id.is_empty() && peers.by_endpoint.is_empty() && peers.by_index.is_empty());
        assert_eq!(peers.towards("10.2.0.1".parse().unwrap()), None);
        assert_eq!(peers.behind("10.2.0.1".parse().unwrap()), None);
        assert!(peers.with_index(1).is_none());
        assert_eq!(peers.remove(PeerId(1)).err(), Some(Error::UnknownPeer(PeerId(1))));
        let slot = peers.add(config(7, "192.0.2.2:6090", &[]), || 1).unwrap();
        assert_eq!(slot, Slot(0));
    }

    #[test]
    fn index_is_never_zero_and_never_used_twice() {
        let mut peers = one_peer();
        let mut numbers = [0, 1, 1, 5].into_iter();
        let slot = peers.add(config(2, "192.0.2.3:6090", &[]), || numbers.next().unwrap()).unwrap();
        assert_eq!(peers.get_mut(slot).unwrap().index, 5);
    }
}
