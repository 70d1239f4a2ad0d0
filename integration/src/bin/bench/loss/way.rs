//! The ways from pod to pod that are compared: a tunnel or none, and what TCP does about losses.

use serde_json::{Value, json};

use crate::tunnel::kinds::Kind;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    Cubic,
    Bbr,
    Plain,
    PlainOff,
    Noise,
    NoiseOff,
    NoiseBbr,
    NoiseFixed,
}

impl Way {
    pub const ALL: [Self; 8] = [
        Self::Cubic,
        Self::Bbr,
        Self::Plain,
        Self::PlainOff,
        Self::Noise,
        Self::NoiseOff,
        Self::NoiseBbr,
        Self::NoiseFixed,
    ];

    /// How `--only` and the JSON call it.
    pub fn key(self) -> &'static str {
        match self {
            Self::Cubic => "none",
            Self::Bbr => "none-bbr",
            Self::Plain => "adit-plain",
            Self::PlainOff => "adit-plain-off",
            Self::Noise => "adit-noise",
            Self::NoiseOff => "adit-noise-off",
            Self::NoiseBbr => "adit-noise-bbr",
            Self::NoiseFixed => "adit-noise-fixed",
        }
    }

    /// How the tables call it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Cubic => "no tunnel, cubic",
            Self::Bbr => "no tunnel, BBR",
            Self::Plain => "Adit plain",
            Self::PlainOff => "Adit plain, recovery off",
            Self::Noise => "Adit noise",
            Self::NoiseOff => "Adit noise, recovery off",
            Self::NoiseBbr => "Adit noise, BBR",
            Self::NoiseFixed => "Adit noise, always 20 %",
        }
    }

    pub fn kind(self) -> Kind {
        match self {
            Self::Cubic | Self::Bbr => Kind::Bare,
            Self::Plain | Self::PlainOff => Kind::Adit,
            Self::Noise | Self::NoiseOff | Self::NoiseBbr | Self::NoiseFixed => Kind::AditNoise,
        }
    }

    /// Interface of the tunnel.
    pub fn device(self) -> Option<&'static str> {
        match self.kind() {
            Kind::Bare => None,
            Kind::Adit => Some("tun"),
            _ => Some("tuns"),
        }
    }

    /// Keys of the `tun` plugin beside those that the kind has.
    pub fn further(self) -> Value {
        match self {
            Self::PlainOff | Self::NoiseOff => json!({ "fec": { "mode": "off" } }),
            // As a code that knows nothing of its path would be set for 5 %.
            Self::NoiseFixed => json!({ "fec": { "mode": "fixed", "redundancy": 0.2, "window": 128 } }),
            Self::Cubic | Self::Bbr | Self::Plain | Self::Noise | Self::NoiseBbr => json!({}),
        }
    }

    /// Congestion control of its TCP.
    pub fn congestion(self) -> &'static str {
        if matches!(self, Self::Bbr | Self::NoiseBbr) { "bbr" } else { "cubic" }
    }

    /// Whether datagrams know a difference to another way.
    pub fn carries_datagrams(self) -> bool {
        self.congestion() == "cubic"
    }
}
