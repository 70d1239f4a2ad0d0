//! Which packets of a session have been there already (RFC 6479).

use crate::parcel::carry;

const WORD_BITS: u64 = 64;
const WORDS: usize = 129;
/// How far behind the newest packet one may be and still be let in.
pub(crate) const WINDOW: u64 = (WORDS as u64 - 1) * WORD_BITS;

/// The counters of the packets that were let in.
#[derive(Debug)]
pub(crate) struct Window {
    /// The highest counter so far, plus one.
    next: u64,
    /// A ring of words, one bit a counter; what is more than [`WINDOW`] behind is forgotten word by word.
    words: [u64; WORDS],
}

carry!(Window { next, words });

impl Window {
    pub(crate) const fn new() -> Self {
        Self { next: 0, words: [0; WORDS] }
    }

    /// The highest counter so far, plus one.
    pub(crate) const fn next(&self) -> u64 {
        self.next
    }

    /// Whether a packet with this counter has not been there, as far as is remembered.
    pub(crate) fn is_new(&self, counter: u64) -> bool {
        if counter >= self.next {
            return true;
        }
        let is_remembered = self.next.wrapping_sub(counter) <= WINDOW;
        is_remembered && self.words.get(place(counter)).is_some_and(|word| word & bit(counter) == 0)
    }

    /// Whether a packet with this counter, which is not new, is known to have been there.
    pub(crate) const fn remembers(&self, counter: u64) -> bool {
        self.next.wrapping_sub(counter) <= WINDOW
    }

    /// Remembers a packet that [`is_new`](Self::is_new).
    pub(crate) fn mark(&mut self, counter: u64) {
        if counter >= self.next {
            // The words between the newest packet's and this one's are of counters long gone.
            let newest = self.next.checked_sub(1).map_or(0, |newest| newest / WORD_BITS);
            let stale = (counter / WORD_BITS).saturating_sub(newest).min(WORDS as u64);
            for step in 1..=stale {
                if let Some(word) = self.words.get_mut(ring(newest.wrapping_add(step))) {
                    *word = 0;
                }
            }
            self.next = counter.saturating_add(1);
        }
        if let Some(word) = self.words.get_mut(place(counter)) {
            *word |= bit(counter);
        }
    }
}

fn place(counter: u64) -> usize {
    ring(counter / WORD_BITS)
}

const fn ring(word: u64) -> usize {
    match word.checked_rem(WORDS as u64) {
        Some(place) => place as usize,
        None => 0,
    }
}

const fn bit(counter: u64) -> u64 {
    1 << (counter % WORD_BITS)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects, reason = "a test that panics has failed, as it should")]
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_packet_is_let_in_once_in_any_order() {
        let mut window = Window::new();
        for counter in [0, 1, 5, 3, 2, 4, 8191, 6] {
            assert!(window.is_new(counter), "{counter}");
            window.mark(counter);
            assert!(!window.is_new(counter), "{counter}");
        }
    }

    #[test]
    fn what_lies_behind_the_window_is_not_let_in() {
        let mut window = Window::new();
        window.mark(WINDOW);
        assert!(window.is_new(1) && !window.is_new(0));
        window.mark(WINDOW * 10);
        assert!(window.is_new(WINDOW * 9 + 1) && !window.is_new(WINDOW * 9));
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_set(counters in proptest::collection::vec(prop_oneof![0..300_u64, 8_000..9_000_u64, 0..40_000_u64], 0..400)) {
            let (mut window, mut seen) = (Window::new(), BTreeSet::new());
            for counter in counters {
                let next = seen.last().map_or(0, |last| last + 1);
                let expected = !seen.contains(&counter) && counter + WINDOW >= next;
                prop_assert_eq!(window.is_new(counter), expected, "{}", counter);
                if expected {
                    window.mark(counter);
                    seen.insert(counter);
                }
            }
        }
    }
}
