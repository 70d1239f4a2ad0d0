//! Numbers as people read them: three digits and a unit.

/// Bytes with a binary unit, three digits.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut rest = bytes;
    let mut tenths = 0;
    let mut unit = 0_usize;
    while rest >= 1024 && unit < UNITS.len().saturating_sub(1) {
        tenths = rest.wrapping_rem(1024).saturating_mul(10).wrapping_div(1024);
        rest = rest.wrapping_div(1024);
        unit = unit.saturating_add(1);
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if unit == 0 || rest >= 100 { format!("{rest} {name}") } else { format!("{rest}.{tenths} {name}") }
}

/// Milliseconds in the largest unit that fits.
pub fn duration(milliseconds: u64) -> String {
    let seconds = milliseconds.wrapping_div(1000);
    match seconds {
        0 => format!("{milliseconds} ms"),
        1..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds.wrapping_div(60)),
        _ => format!("{} h", seconds.wrapping_div(3600)),
    }
}

/// How long ago something was, if it ever was.
pub fn ago(age_ms: Option<u64>) -> String {
    age_ms.map_or_else(|| "never".into(), |age| format!("{} ago", duration(age)))
}

/// Microseconds, as milliseconds from one of them on.
pub fn round_trip(microseconds: u64) -> String {
    let (whole, rest) = (microseconds.wrapping_div(1000), microseconds.wrapping_rem(1000));
    match whole {
        0 => format!("{microseconds} us"),
        1..=9 => format!("{whole}.{:02} ms", rest.wrapping_div(10)),
        10..=99 => format!("{whole}.{} ms", rest.wrapping_div(100)),
        _ => format!("{whole} ms"),
    }
}

/// Parts per million as a percentage, exactly.
pub fn percent(ppm: u32) -> String {
    let digits = format!("{}.{:04}", ppm.wrapping_div(10_000), ppm.wrapping_rem(10_000));
    format!("{} %", digits.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_short() {
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(10 << 30), "10.0 GiB");
        assert_eq!(duration(999), "999 ms");
        assert_eq!(duration(7_200_000), "2 h");
    }

    #[test]
    fn round_trips_and_shares_keep_what_matters() {
        let times: Vec<String> = [0, 850, 1_259, 12_349, 312_000].into_iter().map(round_trip).collect();
        assert_eq!(times, ["0 us", "850 us", "1.25 ms", "12.3 ms", "312 ms"]);
        let shares: Vec<String> = [0, 100, 12_500, 1_000_000].into_iter().map(percent).collect();
        assert_eq!(shares, ["0 %", "0.01 %", "1.25 %", "100 %"]);
    }
}
