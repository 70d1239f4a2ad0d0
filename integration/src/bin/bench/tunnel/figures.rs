//! What was measured, and what it must be.

use std::{collections::BTreeMap, fmt};

use crate::{
    statistics::{Ratio, ratio, summary},
    tunnel::{bed::Condition, kinds::Kind},
};

/// A column of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quantity {
    Tcp1,
    Tcp1Back,
    Tcp4,
    Tcp4Back,
    Cpu1,
    Cpu4,
    Packets64,
    Packets1400,
    Quiet,
    QuietP99,
    Loaded,
    LoadedP99,
    MemoryA,
    MemoryB,
}

impl Quantity {
    pub const ALL: [Self; 14] = [
        Self::Tcp1,
        Self::Tcp1Back,
        Self::Tcp4,
        Self::Tcp4Back,
        Self::Cpu1,
        Self::Cpu4,
        Self::Packets64,
        Self::Packets1400,
        Self::Quiet,
        Self::QuietP99,
        Self::Loaded,
        Self::LoadedP99,
        Self::MemoryA,
        Self::MemoryB,
    ];

    /// How the JSON calls it, with its unit.
    pub fn key(self) -> &'static str {
        match self {
            Self::Tcp1 => "tcp1GbitPerSecond",
            Self::Tcp1Back => "tcp1BackGbitPerSecond",
            Self::Tcp4 => "tcp4GbitPerSecond",
            Self::Tcp4Back => "tcp4BackGbitPerSecond",
            Self::Cpu1 => "tcp1CpuSecondsPerGb",
            Self::Cpu4 => "tcp4CpuSecondsPerGb",
            Self::Packets64 => "packets64PerSecond",
            Self::Packets1400 => "packets1400PerSecond",
            Self::Quiet => "rttQuietMedianUs",
            Self::QuietP99 => "rttQuietP99Us",
            Self::Loaded => "rttLoadedMedianUs",
            Self::LoadedP99 => "rttLoadedP99Us",
            Self::MemoryA => "residentAKib",
            Self::MemoryB => "residentBKib",
        }
    }

    /// How the tables call it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Tcp1 => "TCP 1, Gbit/s",
            Self::Tcp1Back => "back",
            Self::Tcp4 => "TCP 4, Gbit/s",
            Self::Tcp4Back => "back",
            Self::Cpu1 => "CPU-s/GB, 1",
            Self::Cpu4 => "CPU-s/GB, 4",
            Self::Packets64 => "64 B, kpps",
            Self::Packets1400 => "1,400 B, kpps",
            Self::Quiet => "RTT quiet, µs",
            Self::QuietP99 => "p99",
            Self::Loaded => "RTT loaded, µs",
            Self::LoadedP99 => "p99",
            Self::MemoryA => "RSS A, MB",
            Self::MemoryB => "RSS B, MB",
        }
    }

    /// A figure as the tables show it.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Tcp1 | Self::Tcp1Back | Self::Tcp4 | Self::Tcp4Back | Self::Cpu1 | Self::Cpu4 => {
                format!("{value:.2}")
            }
            Self::Packets64 | Self::Packets1400 => format!("{:.0}", value / 1e3),
            Self::Quiet | Self::QuietP99 | Self::Loaded | Self::LoadedP99 => format!("{value:.0}"),
            Self::MemoryA | Self::MemoryB => format!("{:.1}", value * 1024.0 / 1e6),
        }
    }
}

/// Where a figure belongs.
type Place = (Condition, Kind, Quantity);

/// All samples, by round: a round in which something failed has a gap, so that rounds stay pairs.
#[derive(Debug, Default)]
pub struct Figures {
    samples: BTreeMap<Place, BTreeMap<usize, f64>>,
    others: BTreeMap<(Condition, Kind), Vec<f64>>,
    failures: BTreeMap<(Condition, Kind), Vec<String>>,
}

impl Figures {
    pub fn add(&mut self, place: Place, round: usize, value: f64) {
        self.samples.entry(place).or_default().insert(round, value);
    }

    /// CPU time that others took meanwhile, as a share of all.
    pub fn add_other(&mut self, condition: Condition, kind: Kind, share: f64) {
        self.others.entry((condition, kind)).or_default().push(share);
    }

    pub fn fail(&mut self, condition: Condition, kind: Kind, why: String) {
        self.failures.entry((condition, kind)).or_default().push(why);
    }

    pub fn failures(&self) -> impl Iterator<Item = (Condition, Kind, &[String])> {
        self.failures.iter().map(|((condition, kind), whys)| (*condition, *kind, whys.as_slice()))
    }

    /// Samples in the order of the rounds.
    pub fn samples(&self, condition: Condition, kind: Kind, quantity: Quantity) -> Vec<f64> {
        self.of(condition, kind, quantity).map(|rounds| rounds.values().copied().collect()).unwrap_or_default()
    }

    pub fn median(&self, condition: Condition, kind: Kind, quantity: Quantity) -> Option<f64> {
        self.of(condition, kind, quantity)?;
        Some(summary(&self.samples(condition, kind, quantity)).median)
    }

    /// Median and greatest share of CPU time that others took.
    pub fn other(&self, condition: Condition, kind: Kind) -> Option<(f64, f64)> {
        let shares = self.others.get(&(condition, kind))?;
        let greatest = shares.iter().copied().reduce(f64::max)?;
        (!greatest.is_nan()).then_some((summary(shares).median, greatest))
    }

    /// `ours` to `theirs`, over the rounds in which both were measured.
    pub fn ratio(&self, condition: Condition, ours: Kind, theirs: Kind, quantity: Quantity) -> Option<Ratio> {
        let (ours, theirs) = (self.of(condition, ours, quantity)?, self.of(condition, theirs, quantity)?);
        let pairs: Vec<(f64, f64)> =
            ours.iter().filter_map(|(round, value)| Some((*value, *theirs.get(round)?))).collect();
        ratio_of(&pairs)
    }

    /// What `ours` adds to bare veth, to what `theirs` adds.
    pub fn added(&self, condition: Condition, ours: Kind, theirs: Kind, quantity: Quantity) -> Option<Ratio> {
        let [bare, ours, theirs] = [Kind::Bare, ours, theirs].map(|kind| self.of(condition, kind, quantity));
        let (bare, theirs) = (bare?, theirs?);
        let pairs: Vec<(f64, f64)> = ours?
            .iter()
            .filter_map(|(round, value)| {
                let bare = bare.get(round)?;
                Some((value - bare, theirs.get(round)? - bare))
            })
            .collect();
        ratio_of(&pairs)
    }

    pub fn has(&self, condition: Condition, kind: Kind) -> bool {
        Quantity::ALL.iter().any(|quantity| self.of(condition, kind, *quantity).is_some())
    }

    /// Whether anything was measured of it.
    pub fn knows(&self, quantity: Quantity) -> bool {
        self.samples.keys().any(|(_, _, known)| *known == quantity)
    }

    fn of(&self, condition: Condition, kind: Kind, quantity: Quantity) -> Option<&BTreeMap<usize, f64>> {
        self.samples.get(&(condition, kind, quantity))
    }
}

fn ratio_of(pairs: &[(f64, f64)]) -> Option<Ratio> {
    let (ours, theirs): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    (!ours.is_empty()).then(|| ratio(&ours, &theirs))
}

/// Which way a limit points.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(limit) => write!(f, "≥ {limit}"),
            Self::AtMost(limit) => write!(f, "≤ {limit}"),
        }
    }
}

/// How a figure stands to its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Met,
    /// Missed by less than what single runs of the same thing differ by.
    Near,
    Missed,
    NotMeasured,
}

/// Runs of the same thing differ by about so much.
const TOLERANCE: f64 = 0.1;

impl Verdict {
    pub fn text(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Near => "within 10 %",
            Self::Missed => "**missed**",
            Self::NotMeasured => "not measured",
        }
    }
}

/// A figure with its limit.
#[derive(Debug, Clone)]
pub struct Target {
    pub name: String,
    pub limit: Limit,
    pub value: Option<f64>,
    /// Where the value lies in 95 of 100 resamplings.
    pub interval: Option<(f64, f64)>,
}

impl Target {
    pub fn verdict(&self) -> Verdict {
        let Some(value) = self.value.filter(|value| value.is_finite()) else { return Verdict::NotMeasured };
        let fits = |slack: f64| match self.limit {
            Limit::AtLeast(limit) => value >= limit * (1.0 - slack),
            Limit::AtMost(limit) => value <= limit * (1.0 + slack),
        };
        match (fits(0.0), fits(TOLERANCE)) {
            (true, _) => Verdict::Met,
            (false, true) => Verdict::Near,
            (false, false) => Verdict::Missed,
        }
    }
}

/// What the tunnels must reach.
pub fn targets(figures: &Figures) -> Vec<Target> {
    use Condition::{Defaults, Wire};
    use Limit::{AtLeast, AtMost};
    use Quantity::{Cpu1, Packets64, Quiet, Tcp1};
    let compared = [
        (Tcp1, Kind::AditVxlan, Kind::Vxlan, Defaults, AtLeast(0.88)),
        (Tcp1, Kind::AditVxlan, Kind::Vxlan, Wire, AtLeast(1.0)),
        (Tcp1, Kind::Adit, Kind::Vxlan, Defaults, AtLeast(0.5)),
        (Tcp1, Kind::Adit, Kind::Vxlan, Wire, AtLeast(0.9)),
        (Tcp1, Kind::Adit, Kind::WireguardGo, Defaults, AtLeast(3.5)),
        (Tcp1, Kind::Adit, Kind::WireguardGo, Wire, AtLeast(3.0)),
        (Cpu1, Kind::Adit, Kind::Vxlan, Defaults, AtMost(2.6)),
        (Packets64, Kind::Adit, Kind::Vxlan, Defaults, AtLeast(1.2)),
        (Packets64, Kind::Adit, Kind::WireguardGo, Defaults, AtLeast(5.0)),
        (Tcp1, Kind::AditWireguard, Kind::WireguardGo, Defaults, AtLeast(1.5)),
        (Tcp1, Kind::AditNoise, Kind::WireguardGo, Defaults, AtLeast(2.0)),
        (Cpu1, Kind::AditWireguard, Kind::WireguardGo, Defaults, AtMost(0.5)),
        (Cpu1, Kind::AditNoise, Kind::WireguardGo, Defaults, AtMost(0.5)),
        (Tcp1, Kind::AditNoise, Kind::Gotatun, Defaults, AtLeast(4.0)),
        (Tcp1, Kind::AditNoise, Kind::Boringtun, Defaults, AtLeast(4.0)),
        (Tcp1, Kind::AditNoise, Kind::OpenVpnGcm, Defaults, AtLeast(4.0)),
        (Tcp1, Kind::AditWireguard, Kind::Gotatun, Defaults, AtLeast(4.0)),
        (Tcp1, Kind::AditWireguard, Kind::Boringtun, Defaults, AtLeast(4.0)),
        (Tcp1, Kind::AditWireguard, Kind::OpenVpnGcm, Defaults, AtLeast(4.0)),
    ];
    let name = |quantity: Quantity, ours: Kind, theirs: Kind, condition: Condition| {
        format!("{condition}: {} of {} to {}", quantity.title(), ours.label(), theirs.label())
    };
    let target = |name: String, limit: Limit, ratio: Option<Ratio>| Target {
        name,
        limit,
        value: ratio.map(|ratio| ratio.value),
        interval: ratio.map(|ratio| (ratio.low, ratio.high)),
    };
    let mut targets: Vec<Target> = compared
        .into_iter()
        .map(|(quantity, ours, theirs, condition, limit)| {
            target(name(quantity, ours, theirs, condition), limit, figures.ratio(condition, ours, theirs, quantity))
        })
        .collect();
    let added = figures.added(Defaults, Kind::Adit, Kind::WireguardGo, Quiet);
    let text = format!("{Defaults}: RTT that {} adds to bare veth, to what wireguard-go adds", Kind::Adit.label());
    targets.push(target(text, AtMost(0.55), added));
    targets
}
