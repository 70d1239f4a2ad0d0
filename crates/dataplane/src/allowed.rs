use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use prefix_trie::PrefixMap;
use std::net::IpAddr;

/// Which holder an inner address belongs to: the one with the longest prefix that contains it.
#[derive(Debug, Clone)]
pub(crate) struct AllowedIps<T> {
    v4: PrefixMap<Ipv4Network, T>,
    v6: PrefixMap<Ipv6Network, T>,
}

impl<T: Copy> AllowedIps<T> {
    pub(crate) fn new() -> Self {
        Self { v4: PrefixMap::new(), v6: PrefixMap::new() }
    }

    pub(crate) fn lookup(&self, address: IpAddr) -> Option<T> {
        match address {
            IpAddr::V4(ip) => self.v4.get_lpm(&ip.into()).map(|(_, holder)| *holder),
            IpAddr::V6(ip) => self.v6.get_lpm(&ip.into()).map(|(_, holder)| *holder),
        }
    }

    /// The holder of exactly this prefix.
    pub(crate) fn holder(&self, prefix: IpNetwork) -> Option<T> {
        match prefix {
            IpNetwork::V4(prefix) => self.v4.get(&prefix).copied(),
            IpNetwork::V6(prefix) => self.v6.get(&prefix).copied(),
        }
    }

    pub(crate) fn insert(&mut self, prefix: IpNetwork, holder: T) {
        match prefix {
            IpNetwork::V4(prefix) => self.v4.insert(prefix, holder),
            IpNetwork::V6(prefix) => self.v6.insert(prefix, holder),
        };
    }

    pub(crate) fn remove(&mut self, prefix: IpNetwork) {
        match prefix {
            IpNetwork::V4(prefix) => self.v4.remove(&prefix),
            IpNetwork::V6(prefix) => self.v6.remove(&prefix),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(prefixes: &[(&str, u8)]) -> AllowedIps<u8> {
        let mut table = AllowedIps::new();
        for (prefix, holder) in prefixes {
            table.insert(prefix.parse().unwrap(), *holder);
        }
        table
    }

    #[test]
    fn longest_prefix_wins() {
        let table = table(&[("0.0.0.0/0", 0), ("10.0.0.0/8", 1), ("10.1.0.0/16", 2), ("10.1.2.3/32", 3)]);
        let lookup = |address: &str| table.lookup(address.parse().unwrap());
        assert_eq!(lookup("192.0.2.1"), Some(0));
        assert_eq!(lookup("10.2.0.1"), Some(1));
        assert_eq!(lookup("10.1.0.1"), Some(2));
        assert_eq!(lookup("10.1.2.3"), Some(3));
        assert_eq!(lookup("fd00::1"), None);
    }

    #[test]
    fn families_do_not_mix() {
        let table = table(&[("::/0", 6), ("fd00:1::/32", 7)]);
        assert_eq!(table.lookup("fd00:1::9".parse().unwrap()), Some(7));
        assert_eq!(table.lookup("fd00:2::9".parse().unwrap()), Some(6));
        assert_eq!(table.lookup("10.0.0.1".parse().unwrap()), None);
    }

    #[test]
    fn host_bits_do_not_matter() {
        let mut table = table(&[("10.1.2.3/8", 1)]);
        assert_eq!(table.lookup("10.9.9.9".parse().unwrap()), Some(1));
        assert_eq!(table.holder("10.0.0.0/8".parse().unwrap()), Some(1));
        table.remove("10.255.0.0/8".parse().unwrap());
        assert_eq!(table.lookup("10.9.9.9".parse().unwrap()), None);
    }
}
