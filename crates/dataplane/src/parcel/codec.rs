//! Values as bytes and back. Both ends run on one node, so that instants are points of its monotonic clock.

use nix::time::{ClockId, clock_gettime};
use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};
use zeroize::Zeroizing;

/// How close two readings of the clock are to be, and how often that is tried.
const CLOSE: Duration = Duration::from_micros(5);
const READINGS: usize = 20;
const FIRST_ROOM_BYTES: usize = 16 * 1024;

/// A value that goes from one process to the next.
pub(crate) trait Carry: Sized {
    /// Appends it.
    fn encode(&self, to: &mut Writer);
    /// Takes it off the front; `None` when that is no such value.
    fn decode(from: &mut Reader<'_>) -> Option<Self>;
}

/// `carry!(Name { every, field })` where all fields are to be carried: one that is forgotten does not compile.
macro_rules! carry {
    ($name:ident { $($field:ident),+ $(,)? }) => {
        impl $crate::parcel::Carry for $name {
            fn encode(&self, to: &mut $crate::parcel::Writer) {
                let Self { $($field),+ } = self;
                $($crate::parcel::Carry::encode($field, to);)+
            }

            fn decode(from: &mut $crate::parcel::Reader<'_>) -> Option<Self> {
                Some(Self { $($field: $crate::parcel::Carry::decode(from)?),+ })
            }
        }
    };
}
pub(crate) use carry;

/// The present, as both processes know it.
#[derive(Debug, Clone, Copy)]
struct Clock {
    instant: Instant,
    monotonic: Duration,
}

impl Clock {
    fn now() -> Self {
        let read = || {
            let before = Instant::now();
            // The clock exists on every Linux.
            let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
            (before.elapsed(), Self { instant: before, monotonic })
        };
        let mut best = read();
        // Whoever is interrupted between the two readings tries again.
        for _ in 0..READINGS {
            if best.0 <= CLOSE {
                break;
            }
            let again = read();
            if again.0 < best.0 {
                best = again;
            }
        }
        best.1
    }

    fn of(&self, at: Instant) -> Duration {
        match at.checked_duration_since(self.instant) {
            Some(ahead) => self.monotonic.saturating_add(ahead),
            None => self.monotonic.saturating_sub(self.instant.saturating_duration_since(at)),
        }
    }

    fn at(&self, monotonic: Duration) -> Option<Instant> {
        match monotonic.checked_sub(self.monotonic) {
            Some(ahead) => self.instant.checked_add(ahead),
            None => self.instant.checked_sub(self.monotonic.saturating_sub(monotonic)),
        }
    }
}

/// Collects bytes, of which none stays behind in memory.
pub(crate) struct Writer {
    bytes: Zeroizing<Vec<u8>>,
    clock: Clock,
}

impl Writer {
    pub(crate) fn new() -> Self {
        Self { bytes: Zeroizing::new(Vec::with_capacity(FIRST_ROOM_BYTES)), clock: Clock::now() }
    }

    pub(crate) fn finish(self) -> Zeroizing<Vec<u8>> {
        self.bytes
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        let wanted = self.bytes.len().saturating_add(bytes.len());
        if wanted > self.bytes.capacity() {
            // A vector that grows by itself leaves its old place unwiped.
            let mut larger = Zeroizing::new(Vec::with_capacity(wanted.saturating_mul(2)));
            larger.extend_from_slice(&self.bytes);
            self.bytes = larger;
        }
        self.bytes.extend_from_slice(bytes);
    }
}

/// Takes bytes from the front.
pub(crate) struct Reader<'a> {
    left: &'a [u8],
    clock: Clock,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes, clock: Clock::now() }
    }

    pub(crate) const fn is_at_end(&self) -> bool {
        self.left.is_empty()
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, left) = self.left.split_at_checked(count)?;
        self.left = left;
        Some(bytes)
    }
}

macro_rules! numbers {
    ($($number:ty),+) => {
        $(impl Carry for $number {
            fn encode(&self, to: &mut Writer) {
                to.bytes(&self.to_le_bytes());
            }

            fn decode(from: &mut Reader<'_>) -> Option<Self> {
                Some(Self::from_le_bytes(*from.bytes(size_of::<Self>())?.first_chunk()?))
            }
        })+
    };
}
numbers!(u8, u16, u32, u64, u128, f64);

impl Carry for bool {
    fn encode(&self, to: &mut Writer) {
        u8::from(*self).encode(to);
    }

    fn decode(from: &mut Reader<'_>) -> Option<Self> {
        match u8::decode(from)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl<T: Carry> Carry for Option<T> {
    fn encode(&self, to: &mut Writer) {
        self.is_some().encode(to);
        self.iter().for_each(|value| value.encode(to));
    }

    fn decode(from: &mut Reader<'_>) -> Option<Self> {
        Some(if bool::decode(from)? { Some(T::decode(from)?) } else { None })
    }
}

impl<T: Carry> Carry for Box<T> {
    fn encode(&self, to: &mut Writer) {
        (**self).encode(to);
    }

    fn decode(from: &mut Reader<'_>) -> Option<Self> {
        T::decode(from).map(Self::new)
    }
}

impl<A: Carry, B: Carry> Carry for (A, B) {
    fn encode(&self, to: &mut Writer) {
        self.0.encode(to);
        self.1.encode(to);
    }

    fn decode(from: &mut Reader<'_>) -> Option<Self> {
        Some((A::decode(from)?, B::decode(from)?))
    }
}

impl<T: Carry + Copy + Default, const N: usize> Carry for [T; N] {
    fn encode(&self, to: &mut Writer) {
        self.iter().for_each(|value| value.encode(to));
    }

    fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let mut values = [T::default(); N];
        for value in &mut values {
            *value = T::decode(from)?;
        }
        Some(values)
    }
}

impl<const N: usize> Carry for Zeroizing<[u8; N]> {
    fn encode(&self, to: &mut Writer) {
        to.bytes(self.as_slice());
    }

    fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let mut value = Self::new([0; N]);
        value.copy_from_slice(from.bytes(N)?);
        Some(value)
    }
}

impl Carry for Box<[u8]> {
    fn encode(&self, to: &mut Writer) {
        self.len().encode(to);
        to.bytes(self);
    }

    fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let length = usize::decode(from)?;
        from.bytes(length).map(Into::into)
    }
}

impl Carry for Vec<u8> {
    fn encode(&self, to: &mut Writer) {
        self.len().encode(to);
        to.bytes(self);
    }

    fn decode(from: &mut Reader<'_>) -> Option<Self> {
        <Box<[u8]>>::decode(from).map(Into::into)
    }
}

impl Carry for usize {
    fn encode(&self, to: &mut Writer) {
        (*self as u64).encode(to);
    }

    fn decode(from: &mut Reader<'_>) -> Option<Self> {
        u64::decode(from)?.try_into().ok()
    }
}

/// Room is made as values come, not as many as are announced.
impl<T: Carry> Carry for VecDeque<T> {
    fn encode(&self, to: &mut Writer) {
        self.len().encode(to);
        self.iter().for_each(|value| value.encode(to));
    }

    fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let count = usize::decode(from)?;
        (0..count).map(|_| T::decode(from)).collect()
    }
}

impl Carry for Duration {
    fn encode(&self, to: &mut Writer) {
        self.as_secs().encode(to);
        self.subsec_nanos().encode(to);
    }

    fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let (secs, nanos) = (u64::decode(from)?, u32::decode(from)?);
        (nanos < 1_000_000_000).then(|| Self::new(secs, nanos))
    }
}

impl Carry for Instant {
    fn encode(&self, to: &mut Writer) {
        let monotonic = to.clock.of(*self);
        monotonic.encode(to);
    }

    fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let monotonic = Duration::decode(from)?;
        from.clock.at(monotonic)
    }
}

impl Carry for SocketAddr {
    fn encode(&self, to: &mut Writer) {
        self.is_ipv4().encode(to);
        match self.ip() {
            IpAddr::V4(ip) => ip.to_bits().encode(to),
            IpAddr::V6(ip) => ip.to_bits().encode(to),
        }
        self.port().encode(to);
    }

    fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let ip = if bool::decode(from)? {
            IpAddr::V4(u32::decode(from)?.into())
        } else {
            IpAddr::V6(u128::decode(from)?.into())
        };
        Some(Self::new(ip, u16::decode(from)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut writer = Writer::new();
        write(&mut writer);
        writer.finish().to_vec()
    }

    #[test]
    fn values_come_out_as_they_went_in() {
        let endpoint: SocketAddr = "[2001:db8::1]:6090".parse().unwrap();
        let packets: VecDeque<Box<[u8]>> = [vec![1; 30_000].into(), vec![].into()].into();
        let bytes = written(|to| {
            (7_u64, true).encode(to);
            Some(endpoint).encode(to);
            packets.encode(to);
            [1_u64, 2, 3].encode(to);
            Duration::from_millis(1500).encode(to);
        });
        let mut from = Reader::new(&bytes);
        assert_eq!(<(u64, bool)>::decode(&mut from), Some((7, true)));
        assert_eq!(Carry::decode(&mut from), Some(Some(endpoint)));
        assert_eq!(Carry::decode(&mut from), Some(packets));
        assert_eq!(Carry::decode(&mut from), Some([1_u64, 2, 3]));
        assert_eq!(Carry::decode(&mut from), Some(Duration::from_millis(1500)));
        assert!(from.is_at_end());
    }

    #[test]
    fn instants_are_the_same_points_of_the_nodes_clock() {
        let now = Instant::now();
        for at in [now, now - Duration::from_secs(1), now + Duration::from_secs(1)] {
            let bytes = written(|to| at.encode(to));
            let read = Instant::decode(&mut Reader::new(&bytes)).unwrap();
            let apart = read.saturating_duration_since(at) + at.saturating_duration_since(read);
            assert!(apart < Duration::from_millis(100), "{apart:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut from = Reader::new(&bytes);
            let _ = <(Instant, Option<SocketAddr>)>::decode(&mut from);
            let _ = VecDeque::<Box<[u8]>>::decode(&mut from);
        }
    }
}
