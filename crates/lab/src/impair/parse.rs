//! Quantities as people write them: `100ms`, `30mbit`, `2%`, `64kb`.

use std::{num::NonZeroU64, str::FromStr, time::Duration};

use crate::{
    Error, Result,
    impair::{Distribution, Jitter, Limit, Loss, Reorder, Share},
};

const TIMES: [(&str, f64); 4] = [("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3), ("s", 1.0)];
const RATES: [(&str, f64); 4] = [("kbit", 1e3), ("mbit", 1e6), ("gbit", 1e9), ("bit", 1.0)];
const SIZES: [(&str, f64); 3] = [("kb", 1e3), ("mb", 1e6), ("b", 1.0)];
/// Beyond it a delay is a mistake.
const LONGEST_SECONDS: f64 = 3600.0;
const HIGHEST_RATE: f64 = 1e12;
const LARGEST_BYTES: f64 = 1e12;

/// A time: `250us`, `100ms`, `1.5s`.
///
/// # Errors
/// It is none, or longer than an hour.
pub fn time(text: &str) -> Result<Duration> {
    let seconds = quantity(text, &TIMES, LONGEST_SECONDS)
        .ok_or_else(|| wrong("time", text, "write a number with ns, us, ms or s, such as 100ms; an hour at most"))?;
    Ok(Duration::from_secs_f64(seconds))
}

/// A rate in bits per second: `64kbit`, `30mbit`, `1gbit`.
///
/// # Errors
/// It is none, or below one bit per second.
pub fn bits_per_second(text: &str) -> Result<NonZeroU64> {
    let rate = quantity(text, &RATES, HIGHEST_RATE).and_then(|rate| NonZeroU64::new(rate as u64));
    rate.ok_or_else(|| wrong("rate", text, "write a number with bit, kbit, mbit or gbit, such as 30mbit"))
}

impl FromStr for Share {
    type Err = Error;

    /// `2%` or `0.02`.
    fn from_str(text: &str) -> Result<Self> {
        let number = match text.strip_suffix('%') {
            Some(percent) => percent.trim().parse().map(|percent: f64| percent / 100.0),
            None => text.parse(),
        };
        number
            .ok()
            .and_then(Self::new)
            .ok_or_else(|| wrong("share", text, "write a percentage or a number from 0 to 1, such as 2% or 0.02"))
    }
}

impl FromStr for Limit {
    type Err = Error;

    /// `100ms` or `64kb`.
    fn from_str(text: &str) -> Result<Self> {
        if let Some(bytes) = quantity(text, &SIZES, LARGEST_BYTES) {
            return Ok(Self::Bytes(bytes as u64));
        }
        time(text).map(Self::Time).map_err(|_| {
            wrong(
                "queue",
                text,
                "write a time or a size, such as 100ms or 64kb (b, kb, mb are 1, 1,000 and 1,000,000 bytes)",
            )
        })
    }
}

impl FromStr for Jitter {
    type Err = Error;

    /// `5ms`, `5ms:uniform`, `5ms:normal` or `5ms:exponential`.
    fn from_str(text: &str) -> Result<Self> {
        let (width, name) = text.split_once(':').unwrap_or((text, "uniform"));
        let distribution = match name {
            "uniform" => Distribution::Uniform,
            "normal" => Distribution::Normal,
            "exponential" => Distribution::Exponential,
            _ => return Err(wrong("jitter", text, "after the colon uniform, normal or exponential is possible")),
        };
        Ok(Self { width: time(width)?, distribution })
    }
}

impl FromStr for Reorder {
    type Err = Error;

    /// `1%:5ms`: the share of packets that are held back, and for how long.
    fn from_str(text: &str) -> Result<Self> {
        let (share, extra) = text
            .split_once(':')
            .ok_or_else(|| wrong("reordering", text, "write the share and the extra delay, such as 1%:5ms"))?;
        Ok(Self { share: share.parse()?, extra: time(extra)? })
    }
}

impl FromStr for Loss {
    type Err = Error;

    /// `none`, `2%`, `ge:P,R[,H[,K]]`, `every:N:K` or `trace:FILE`.
    fn from_str(text: &str) -> Result<Self> {
        let Some((kind, rest)) = text.split_once(':') else {
            return if text == "none" { Ok(Self::None) } else { Ok(Self::Random(text.parse()?)) };
        };
        match kind {
            "ge" => gilbert_elliott(text, rest),
            "every" => pattern(text, rest),
            "trace" => Self::trace(rest.as_ref()),
            _ => Err(wrong("loss", text, "none, 2%, ge:P,R[,H[,K]], every:N:K and trace:FILE are possible")),
        }
    }
}

fn gilbert_elliott(text: &str, rest: &str) -> Result<Loss> {
    let shares: Vec<Share> = rest.split(',').map(str::parse).collect::<Result<_>>()?;
    match *shares.as_slice() {
        [p, r] => Ok(Loss::GilbertElliott { p, r, h: Share::NONE, k: Share::ALL }),
        [p, r, h] => Ok(Loss::GilbertElliott { p, r, h, k: Share::ALL }),
        [p, r, h, k] => Ok(Loss::GilbertElliott { p, r, h, k }),
        _ => Err(wrong("loss", text, "write ge:P,R[,H[,K]], such as ge:0.00408,0.2 for 2 % in bursts of 5")),
    }
}

fn pattern(text: &str, rest: &str) -> Result<Loss> {
    let numbers = rest.split_once(':').and_then(|(every, drop)| Some((every.parse().ok()?, drop.parse().ok()?)));
    let pattern = numbers.and_then(|(every, drop)| Loss::pattern(every, drop));
    pattern.ok_or_else(|| wrong("loss", text, "write every:N:K, K of every N packets, such as every:200:4"))
}

fn quantity(text: &str, units: &[(&str, f64)], highest: f64) -> Option<f64> {
    let (number, factor) = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    let value = number.trim().parse::<f64>().ok()? * factor;
    (0.0..=highest).contains(&value).then_some(value)
}

fn wrong(what: &str, text: &str, remedy: &str) -> Error {
    Error::Impairment(format!("`{text}` is no {what}: {remedy}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_units() {
        assert_eq!(time("1.5s").unwrap(), Duration::from_millis(1500));
        assert_eq!(time("250us").unwrap(), Duration::from_micros(250));
        assert_eq!(bits_per_second("30mbit").unwrap().get(), 30_000_000);
        assert_eq!("64kb".parse::<Limit>().unwrap(), Limit::Bytes(64_000));
        assert_eq!("100ms".parse::<Limit>().unwrap(), Limit::Time(Duration::from_millis(100)));
        assert_eq!("2%".parse::<Share>().unwrap(), "0.02".parse().unwrap());
        for text in ["100", "-1ms", "ms", "nanms", "infs", "2h", "3601s"] {
            assert!(time(text).is_err(), "{text}");
        }
        for text in ["101%", "-0.1", "nan", "x"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
        for text in ["0mbit", "30", "30mb"] {
            assert!(bits_per_second(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_kind_of_loss_can_be_written() {
        assert!(matches!("none".parse().unwrap(), Loss::None));
        assert!(matches!("0.5%".parse().unwrap(), Loss::Random(_)));
        assert!(matches!("ge:0.4%,0.2,0.1,1".parse().unwrap(), Loss::GilbertElliott { .. }));
        assert!(
            matches!("every:200:4".parse().unwrap(), Loss::Pattern { every, drop } if (every.get(), drop) == (200, 4))
        );
        for text in ["every:4:5", "every:0:0", "ge:0.1", "ge:1,2", "often", "rain:3", "trace:/nowhere/at/all"] {
            assert!(text.parse::<Loss>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_error_says_what_could_be_written() {
        let error = "rain:3".parse::<Loss>().unwrap_err().to_string();
        assert_eq!(
            error,
            "impair a link: `rain:3` is no loss: none, 2%, ge:P,R[,H[,K]], every:N:K and trace:FILE are possible"
        );
    }
}
