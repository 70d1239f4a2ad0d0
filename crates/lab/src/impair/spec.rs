//! What is wrong with a link, one direction.

use std::{fs, num::NonZeroU64, path::Path, sync::Arc, time::Duration};

use crate::{Error, Result};

/// One direction of a link. The default is a perfect one: nothing is lost, nothing takes time.
#[derive(Debug, Clone, Default)]
pub struct Spec {
    /// Which packets never arrive.
    pub loss: Loss,
    /// How long every packet takes.
    pub delay: Duration,
    /// By how much that varies.
    pub jitter: Jitter,
    /// Which packets are overtaken by later ones.
    pub reorder: Reorder,
    /// Share of the packets that arrive twice.
    pub duplicate: Share,
    /// Share of the packets in which one bit behind the IP header is flipped.
    pub corrupt: Share,
    /// The narrowest place of the path.
    pub bottleneck: Option<Bottleneck>,
    /// Size of the largest IP packet that passes. A larger one is dropped, and nobody is told.
    pub mtu_bytes: Option<usize>,
}

/// A rate, and the queue before it. A packet that finds the queue full is dropped.
#[derive(Debug, Clone, Copy)]
pub struct Bottleneck {
    /// Bits per second; an Ethernet frame counts with its header, without preamble and checksum.
    pub bits_per_second: NonZeroU64,
    /// How much may wait.
    pub queue: Limit,
    /// From how much on packets that allow it are marked: ECT becomes CE, RFC 3168.
    pub ecn: Option<Limit>,
}

/// Length of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// As the time that its last packet waits.
    Time(Duration),
    /// In bytes.
    Bytes(u64),
}

/// Which packets never arrive.
#[derive(Debug, Clone, Default)]
pub enum Loss {
    /// All arrive.
    #[default]
    None,
    /// Each is lost with this probability, whatever happened to the others.
    Random(Share),
    /// Two states, good and bad; the chain begins in the good one and takes a step at each packet (Gilbert 1960, Elliott 1963).
    ///
    /// With `h` = 0 and `k` = 1 the share of lost packets is `p / (p + r)`, their mean run is `1 / r`.
    GilbertElliott {
        /// From good to bad.
        p: Share,
        /// From bad to good.
        r: Share,
        /// Share that arrives in the bad state.
        h: Share,
        /// Share that arrives in the good state.
        k: Share,
    },
    /// The last `drop` of each `every` packets.
    Pattern {
        /// Length of the pattern.
        every: NonZeroU64,
        /// How many of them are lost.
        drop: u64,
    },
    /// One entry a packet, true = lost; begins again at its end.
    Trace(Arc<[bool]>),
}

impl Loss {
    /// The last `drop` of each `every` packets; `None` where these are more than all.
    #[must_use]
    pub fn pattern(every: u64, drop: u64) -> Option<Self> {
        let every = NonZeroU64::new(every).filter(|every| drop <= every.get())?;
        Some(Self::Pattern { every, drop })
    }

    /// The fate of packets from a file: `0` arrives, `1` is lost; white space is skipped.
    ///
    /// # Errors
    /// The file cannot be read, or has no entry, or something else in it.
    pub fn trace(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(Error::io(format!("read the losses from {}", path.display())))?;
        let entries: Option<Arc<[bool]>> = text
            .chars()
            .filter(|c| !c.is_whitespace())
            .map(|c| match c {
                '0' => Some(false),
                '1' => Some(true),
                _ => None,
            })
            .collect();
        let trace = entries.filter(|entries| !entries.is_empty()).map(Self::Trace);
        trace.ok_or_else(|| {
            Error::Impairment(format!(
                "{} is no trace of losses: 0 and 1 are possible, at least one of them",
                path.display()
            ))
        })
    }
}

/// By how much a delay varies. Packets keep their order: one that would overtake arrives together with the one before.
#[derive(Debug, Clone, Copy, Default)]
pub struct Jitter {
    /// Half of the width, the standard deviation or the mean, as the distribution has it.
    pub width: Duration,
    /// Of which kind it is.
    pub distribution: Distribution,
}

/// Distribution of the jitter. No packet arrives before it was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Distribution {
    /// Evenly between `delay - width` and `delay + width`.
    #[default]
    Uniform,
    /// Around `delay`, with the standard deviation `width`.
    Normal,
    /// From `delay` on, `width` later in the mean.
    Exponential,
}

/// Which packets are overtaken.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reorder {
    /// Share of the packets that are held back.
    pub share: Share,
    /// For how long.
    pub extra: Duration,
}

/// A share of all packets, from 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd)]
pub struct Share(f64);

impl Share {
    /// No packet.
    pub const NONE: Self = Self(0.0);
    /// Every packet.
    pub const ALL: Self = Self(1.0);

    /// A number from 0 to 1; `None` for any other.
    #[must_use]
    pub fn new(share: f64) -> Option<Self> {
        (0.0..=1.0).contains(&share).then_some(Self(share))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}
