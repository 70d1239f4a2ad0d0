use crate::{Error, PeerConfig, PeerId, Result, allowed::AllowedIps, peer::Peer};
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
    slots: Vec<Option<Peer>>,
    by_id: BTreeMap<PeerId, Slot>,
    by_endpoint: HashMap<(IpAddr, u16), Slot>,
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
    pub(crate) fn new(local: SocketAddr) -> Self {
        Self {
            local,
            slots: Vec::new(),
            by_id: BTreeMap::new(),
            by_endpoint: HashMap::new(),
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
        let endpoint = self.validate(&config)?;
        self.last = Last::default();
        let index = self.free_index(random);
        let free = self.slots.iter().position(Option::is_none);
        let slot = Slot(free.unwrap_or(self.slots.len()));
        self.by_id.insert(config.id, slot);
        self.by_endpoint.insert(key(endpoint), slot);
        self.by_index.insert(index, slot);
        for prefix in &config.allowed_ips {
            self.allowed.insert(*prefix, slot);
        }
        let peer = Some(Peer::new(config, endpoint, index));
        match self.slots.get_mut(slot.0) {
            Some(place) => *place = peer,
            None => self.slots.push(peer),
        }
        Ok(slot)
    }

    /// Replaces a peer's settings, or changes nothing. Its session is the caller's business; a new
    /// endpoint gets a new index.
    pub(crate) fn change(&mut self, config: PeerConfig, random: impl FnMut() -> u32) -> Result<(Slot, bool)> {
        let slot = self.slot_of(config.id)?;
        let endpoint = self.validate(&config)?;
        self.last = Last::default();
        let fresh_index = self.free_index(random);
        let Some(peer) = self.slots.get_mut(slot.0).and_then(Option::as_mut) else {
            return Err(Error::UnknownPeer(config.id));
        };
        for prefix in &peer.config.allowed_ips {
            self.allowed.remove(*prefix);
        }
        for prefix in &config.allowed_ips {
            self.allowed.insert(*prefix, slot);
        }
        let moved = peer.endpoint != endpoint;
        if moved {
            self.by_endpoint.remove(&key(peer.endpoint));
            self.by_endpoint.insert(key(endpoint), slot);
            self.by_index.remove(&peer.index);
            self.by_index.insert(fresh_index, slot);
            peer.index = fresh_index;
            peer.endpoint = endpoint;
        }
        peer.config = config;
        Ok((slot, moved))
    }

    pub(crate) fn remove(&mut self, id: PeerId) -> Result<Peer> {
        let slot = self.slot_of(id)?;
        let Some(peer) = self.slots.get_mut(slot.0).and_then(Option::take) else {
            return Err(Error::UnknownPeer(id));
        };
        self.last = Last::default();
        self.by_id.remove(&id);
        self.by_endpoint.remove(&key(peer.endpoint));
        self.by_index.remove(&peer.index);
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

    fn validate(&self, config: &PeerConfig) -> Result<SocketAddr> {
        let id = config.id;
        let endpoint = config.endpoint.ok_or(Error::NoEndpoint(id))?;
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
        for prefix in &config.allowed_ips {
            if let Some(holder) = self.other(id, self.allowed.holder(*prefix)) {
                let prefix = masked(*prefix);
                return Err(Error::PrefixTaken { prefix, holder });
            }
        }
        Ok(endpoint)
    }

    /// The peer in the slot, if it is not this one.
    fn other(&self, id: PeerId, slot: Option<Slot>) -> Option<PeerId> {
        let holder = self.slots.get(slot?.0)?.as_ref()?.config.id;
        (holder != id).then_some(holder)
    }

    fn free_index(&self, mut random: impl FnMut() -> u32) -> u32 {
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
            allowed_ips: allowed.iter().map(|prefix| prefix.parse().unwrap()).collect(),
            keepalive: None,
            keys: None,
        }
    }

    fn one_peer() -> Peers {
        let mut peers = Peers::new("192.0.2.1:6090".parse().unwrap());
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
