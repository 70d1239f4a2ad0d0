//! Which packets are lost: one answer a packet, in their order.

use fastrand::Rng;

use crate::impair::{Loss, Share};

#[derive(Debug)]
pub(crate) struct LossProcess {
    loss: Loss,
    random: Rng,
    is_bad: bool,
    position: u64,
}

impl LossProcess {
    pub(crate) fn new(loss: Loss, random: Rng) -> Self {
        Self { loss, random, is_bad: false, position: 0 }
    }

    /// Whether the next packet is lost.
    pub(crate) fn takes_next(&mut self) -> bool {
        let position = self.position;
        self.position = position.wrapping_add(1);
        match &self.loss {
            Loss::None => false,
            Loss::Random(share) => happens(&mut self.random, *share),
            Loss::GilbertElliott { p, r, h, k } => {
                let change = if self.is_bad { *r } else { *p };
                self.is_bad ^= happens(&mut self.random, change);
                !happens(&mut self.random, if self.is_bad { *h } else { *k })
            }
            Loss::Pattern { every, drop } => {
                let place = position.checked_rem(every.get()).unwrap_or_default();
                place >= every.get().saturating_sub(*drop)
            }
            Loss::Trace(entries) => {
                let length = u64::try_from(entries.len()).unwrap_or(u64::MAX);
                let place = position.checked_rem(length).and_then(|place| usize::try_from(place).ok());
                place.and_then(|place| entries.get(place)).copied().unwrap_or_default()
            }
        }
    }
}

/// Whether something of this probability happens now.
pub(crate) fn happens(random: &mut Rng, share: Share) -> bool {
    // f64() is below 1, so that everything always happens and nothing never.
    random.f64() < share.get()
}
