//! The links: what is lost on them, how wide and how long they are.

use std::time::Duration;

use adit_lab::impair::{Bottleneck, Limit, Spec, bits_per_second};

use crate::Outcome;

const QUEUE: Duration = Duration::from_millis(100);

/// A row of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    Clean,
    One,
    Two,
    Five,
    Bursts,
    /// 150 Mb/s over 198 ms with 2 %: Ohio to Mumbai.
    Fat,
}

impl Row {
    pub const ALL: [Self; 6] = [Self::Clean, Self::One, Self::Two, Self::Five, Self::Bursts, Self::Fat];

    /// How `--rows` and the JSON call it.
    pub fn key(self) -> &'static str {
        match self {
            Self::Clean => "0",
            Self::One => "1",
            Self::Two => "2",
            Self::Five => "5",
            Self::Bursts => "bursts",
            Self::Fat => "fat",
        }
    }

    pub fn label(self) -> &'static str {
        match self {
            Self::Clean => "none",
            Self::One => "1 %",
            Self::Two => "2 %",
            Self::Five => "5 %",
            Self::Bursts => "2 % in bursts of 5",
            Self::Fat => "2 %, 150 Mb/s, RTT 198 ms",
        }
    }

    /// As `adit lab impair --loss` has it.
    pub fn loss(self) -> &'static str {
        match self {
            Self::Clean => "none",
            Self::One => "1%",
            Self::Two | Self::Fat => "2%",
            Self::Five => "5%",
            Self::Bursts => "ge:0.00408,0.2",
        }
    }

    /// Both directions of the link for TCP.
    pub fn tcp_link(self) -> Outcome<Spec> {
        match self {
            Self::Fat => link("150mbit", Duration::from_millis(99), self.loss()),
            _ => link("30mbit", Duration::from_millis(100), self.loss()),
        }
    }

    /// Seconds of a TCP flow where nothing else is said.
    pub fn tcp_seconds(self) -> u32 {
        if self == Self::Fat { 22 } else { 16 }
    }

    /// Both directions of the link for datagrams; there is none where it would be another row's.
    pub fn datagram_link(self) -> Outcome<Option<Spec>> {
        if self == Self::Fat {
            return Ok(None);
        }
        link("30mbit", Duration::from_millis(25), self.loss()).map(Some)
    }
}

/// One direction of a link with a queue of 100 ms.
pub fn link(rate: &str, delay: Duration, loss: &str) -> Outcome<Spec> {
    let bottleneck = Bottleneck { bits_per_second: bits_per_second(rate)?, queue: Limit::Time(QUEUE), ecn: None };
    Ok(Spec { loss: loss.parse()?, delay, bottleneck: Some(bottleneck), ..Spec::default() })
}
