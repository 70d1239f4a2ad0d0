use crate::peer::later;
use std::time::{Duration, Instant};

/// How often something may still be done: a bucket of `burst` that gains one each `interval`.
#[derive(Debug)]
pub(crate) struct Budget {
    burst: u32,
    interval: Duration,
    left: u32,
    refilled_at: Instant,
}

impl Budget {
    pub(crate) const fn new(burst: u32, interval: Duration, now: Instant) -> Self {
        Self { burst, interval, left: burst, refilled_at: now }
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let idle = now.saturating_duration_since(self.refilled_at).as_millis();
        let gained = idle.checked_div(self.interval.as_millis()).unwrap_or_default();
        if gained > 0 {
            let gained = u32::try_from(gained).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(gained).min(self.burst);
            self.refilled_at = later(self.refilled_at, self.interval.saturating_mul(gained));
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_granted_and_then_one_each_interval() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut budget = Budget::new(3, Duration::from_millis(100), start);
        assert_eq!((0..5).filter(|_| budget.take(at(0))).count(), 3);
        assert!(budget.take(at(100)) && !budget.take(at(150)));
        assert_eq!((0..9).filter(|_| budget.take(at(100_000))).count(), 3);
    }
}
