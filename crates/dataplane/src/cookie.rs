use crate::parcel::carry;
use siphasher::sip128::SipHasher24;
use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// How long a cookie's secret is the current one; it is accepted for as long again.
pub const COOKIE_SECRET_LIFETIME: Duration = Duration::from_secs(120);

/// 16 bytes that prove to their maker that whoever says them receives at its address. Zero: none.
pub type Cookie = [u8; 16];

/// Makes cookies and knows its own, without remembering any.
pub(crate) struct CookieMaker {
    key: [u8; 16],
    start: Instant,
}

carry!(CookieMaker { key, start });

impl CookieMaker {
    pub(crate) const fn new(key: [u8; 16], start: Instant) -> Self {
        Self { key, start }
    }

    /// The cookie of an address, and of whatever else it is to depend on.
    pub(crate) fn make(&self, from: SocketAddr, more: &[u8], now: Instant) -> Cookie {
        self.of_generation(self.generation(now), from, more)
    }

    /// Whether `shows` that it knows a cookie that was made for the same, not too long ago.
    pub(crate) fn is_shown(
        &self,
        from: SocketAddr,
        more: &[u8],
        now: Instant,
        shows: impl Fn(&Cookie) -> bool,
    ) -> bool {
        let current = self.generation(now);
        let generations = [Some(current), current.checked_sub(1)].into_iter().flatten();
        generations.map(|generation| self.of_generation(generation, from, more)).any(|cookie| shows(&cookie))
    }

    fn generation(&self, now: Instant) -> u64 {
        let age = now.saturating_duration_since(self.start).as_secs();
        age.checked_div(COOKIE_SECRET_LIFETIME.as_secs()).unwrap_or_default()
    }

    /// The secret of a generation is a hash of its number under the key that never leaves this place.
    fn of_generation(&self, generation: u64, from: SocketAddr, more: &[u8]) -> Cookie {
        let secret = SipHasher24::new_with_key(&self.key).hash(&generation.to_be_bytes());
        let address = match from.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let input = [&address.octets(), from.port().to_be_bytes().as_slice(), more].concat();
        SipHasher24::new_with_key(&secret.as_bytes()).hash(&input).as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookie_is_bound_to_address_port_and_time_and_whatever_else_is_said() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let maker = CookieMaker::new([7; 16], start);
        let from: SocketAddr = "192.0.2.1:6090".parse().unwrap();
        let cookie = maker.make(from, b"index and nonce", at(100));
        let is_mine = |maker: &CookieMaker, from: &str, more: &[u8], secs| {
            maker.is_shown(from.parse().unwrap(), more, at(secs), |known| *known == cookie)
        };
        let (here, more) = ("192.0.2.1:6090", b"index and nonce");
        assert!(is_mine(&maker, here, more, 100) && is_mine(&maker, here, more, 239));
        assert!(!is_mine(&maker, here, more, 240));
        assert!(!is_mine(&maker, "192.0.2.2:6090", more, 100) && !is_mine(&maker, "192.0.2.1:6091", more, 100));
        assert!(!is_mine(&maker, here, b"another", 100));
        assert!(!is_mine(&CookieMaker::new([8; 16], start), here, more, 100));
    }
}
