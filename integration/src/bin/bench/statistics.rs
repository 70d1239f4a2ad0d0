//! Medians, and how sure one may be of a ratio.

/// Samples of one thing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Summary {
    pub min: f64,
    pub median: f64,
    pub p95: f64,
}

/// A ratio of medians with the interval in which it lies in 95 of 100 resamplings.
#[derive(Debug, Clone, Copy)]
pub struct Ratio {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

const RESAMPLINGS: usize = 1000;

pub fn summary(samples: &[f64]) -> Summary {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| sorted.get((sorted.len().saturating_sub(1) as f64 * share).round() as usize).copied();
    Summary { min: at(0.0).unwrap_or(0.0), median: at(0.5).unwrap_or(0.0), p95: at(0.95).unwrap_or(0.0) }
}

/// `ours` to `theirs`. Both were measured in the same rounds, so the rounds are resampled (bootstrap, percentiles).
pub fn ratio(ours: &[f64], theirs: &[f64]) -> Ratio {
    let rounds = ours.len().min(theirs.len());
    let of = |picks: &[usize]| {
        let median = |samples: &[f64]| summary(&picks.iter().map(|pick| samples[*pick]).collect::<Vec<_>>()).median;
        median(ours) / median(theirs)
    };
    let all: Vec<usize> = (0..rounds).collect();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let resampled: Vec<f64> =
        (0..RESAMPLINGS).map(|_| of(&all.iter().map(|_| random.below(rounds)).collect::<Vec<_>>())).collect();
    let mut sorted = resampled;
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| sorted[(RESAMPLINGS as f64 * share) as usize];
    Ratio { value: of(&all), low: at(0.025), high: at(0.975) }
}

/// xorshift64*: the same picks in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit.max(1)
    }
}
