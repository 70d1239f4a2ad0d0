use siphasher::sip128::SipHasher24;

/// Numbers that nobody outside can guess: SipHash-2-4 of a counter under a secret key.
pub(crate) struct Random {
    hasher: SipHasher24,
    counter: u64,
    nonces: u32,
}

impl Random {
    pub(crate) fn new(key: &[u8; 16]) -> Self {
        Self { hasher: SipHasher24::new_with_key(key), counter: 0, nonces: 0 }
    }

    /// How many [`next_nonce`](Self::next_nonce) has given.
    pub(crate) const fn nonces(&self) -> u32 {
        self.nonces
    }

    /// Another has given so many: the next one is higher than all of those.
    pub(crate) const fn continue_nonces(&mut self, nonces: u32) {
        self.nonces = nonces;
    }

    pub(crate) fn next_u32(&mut self) -> u32 {
        self.counter = self.counter.wrapping_add(1);
        let [a, b, c, d, ..] = self.hasher.hash(&self.counter.to_be_bytes()).as_bytes();
        u32::from_be_bytes([a, b, c, d])
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(4) {
            let number = self.next_u32().to_be_bytes();
            chunk.iter_mut().zip(number).for_each(|(place, byte)| *place = byte);
        }
    }

    /// A number for a handshake: higher than all before it, and its low half random.
    pub(crate) fn next_nonce(&mut self) -> u64 {
        self.nonces = self.nonces.wrapping_add(1);
        u64::from(self.nonces) << 32 | u64::from(self.next_u32())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn same_key_gives_the_same_numbers_and_they_differ_among_themselves() {
        let mut one = Random::new(&[1; 16]);
        let mut two = Random::new(&[1; 16]);
        let numbers: HashSet<u32> = (0..1000)
            .map(|_| {
                let number = one.next_u32();
                assert_eq!(number, two.next_u32());
                number
            })
            .collect();
        assert_eq!(numbers.len(), 1000);
        assert_ne!(Random::new(&[2; 16]).next_u32(), Random::new(&[1; 16]).next_u32());
    }
}
