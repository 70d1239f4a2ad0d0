//! Paths that lose datagrams.

/// Numbers that look random: splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// True for this share of the calls.
    pub(super) fn happens(&mut self, share: f64) -> bool {
        ((self.next() >> 11) as f64) < share * (1_u64 << 53) as f64
    }
}

/// Gilbert's path: in its bad state everything is lost. Independent losses are those of runs of 1 / (1 - loss).
#[derive(Debug, Clone, Copy)]
pub(super) struct Path {
    into_bad: f64,
    out_of_bad: f64,
    is_bad: bool,
}

impl Path {
    /// `burst`: how many times as long runs are as those of independent losses.
    pub(super) fn new(loss: f64, burst: f64) -> Self {
        let out_of_bad = (1.0 - loss) / burst;
        Self { into_bad: loss * out_of_bad / (1.0 - loss), out_of_bad, is_bad: false }
    }

    /// The path whose states change with these probabilities.
    pub(super) const fn gilbert(into_bad: f64, out_of_bad: f64) -> Self {
        Self { into_bad, out_of_bad, is_bad: false }
    }

    pub(super) fn loses(&mut self, random: &mut Random) -> bool {
        let change = if self.is_bad { self.out_of_bad } else { self.into_bad };
        self.is_bad ^= random.happens(change);
        self.is_bad
    }
}

#[test]
fn paths_lose_as_they_say() {
    for (loss, burst, run) in [(0.02, 1.0, 1.0 / 0.98), (0.05, 4.0, 4.0 / 0.95)] {
        let (mut path, mut random) = (Path::new(loss, burst), Random(1));
        let (mut lost, mut runs, mut before) = (0_u32, 0_u32, false);
        for _ in 0..1_000_000 {
            let is_lost = path.loses(&mut random);
            lost += u32::from(is_lost);
            runs += u32::from(is_lost && !before);
            before = is_lost;
        }
        assert!((f64::from(lost) / 1e6 / loss - 1.0).abs() < 0.05, "{lost}");
        assert!((f64::from(lost) / f64::from(runs) / run - 1.0).abs() < 0.05, "{runs}");
    }
}
