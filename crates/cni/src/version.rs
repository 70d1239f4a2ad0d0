//! The versions of the CNI protocol.

use std::fmt;
use std::str::FromStr;

use crate::error::{Code, Error};

/// A version of the CNI specification that this crate speaks. Ordered from oldest to newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each variant is its number")]
pub enum Version {
    V0_1_0,
    V0_2_0,
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    /// The newest version, and the shape of [`CniResult`](crate::CniResult) in memory.
    pub const LATEST: Self = Self::V1_1_0;

    /// Every version, from oldest to newest.
    pub const SUPPORTED: [Self; 7] =
        [Self::V0_1_0, Self::V0_2_0, Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// The version as it is written in `cniVersion`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// True for 0.1.0 and 0.2.0, whose results cannot be written without an address: an attachment
    /// without addresses must be refused before it makes anything
    /// (see [`Call::ensure_expressible`](crate::Call::ensure_expressible)).
    pub const fn requires_address(self) -> bool {
        matches!(self, Self::V0_1_0 | Self::V0_2_0)
    }

    /// True for 0.1.0 and 0.2.0, whose results hold one address a family and no interfaces.
    pub const fn single_address_per_family(self) -> bool {
        self.requires_address()
    }

    /// `["0.1.0" "0.2.0" …]`, as the reference prints the supported versions in an error's details.
    pub(crate) fn quoted_list() -> String {
        let quoted: Vec<String> = Self::SUPPORTED.iter().map(|v| format!("\"{v}\"")).collect();
        format!("[{}]", quoted.join(" "))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Exact match, as in the reference; the empty string is 0.1.0 (configurations of that time had no
/// version).
impl FromStr for Version {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.is_empty() {
            return Ok(Self::V0_1_0);
        }
        Self::SUPPORTED.into_iter().find(|version| version.as_str() == text).ok_or_else(|| {
            Error::new(Code::INCOMPATIBLE_VERSION, "incompatible CNI versions")
                .with_details(format!("config is {text:?}, plugin supports {}", Self::quoted_list()))
        })
    }
}

/// `(major, minor, micro)` of any dotted version, also of one that does not exist (yet); empty is
/// 0.1.0. The texts are the Go library's (`pkg/version/plugin.go`, `ParseVersion`).
pub(crate) fn parse_numbers(text: &str) -> Result<(u64, u64, u64), Error> {
    if text.is_empty() {
        return Ok((0, 1, 0));
    }
    let parts: Vec<&str> = text.split('.').collect();
    if parts.len() >= 4 {
        return Err(Error::new(Code::DECODE, format!("invalid version {text:?}: too many parts")));
    }
    let number = |index: usize, what: &str| match parts.get(index) {
        None => Ok(0),
        Some(part) => part
            .parse::<u64>()
            .map_err(|why| Error::new(Code::DECODE, format!("failed to convert {what} version part {part:?}: {why}"))),
    };
    Ok((number(0, "major")?, number(1, "minor")?, number(2, "micro")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_match_exactly() {
        assert_eq!("".parse::<Version>().unwrap(), Version::V0_1_0);
        for version in Version::SUPPORTED {
            assert_eq!(version.to_string().parse::<Version>().unwrap(), version);
        }
        for wrong in ["1.0", "1.1.0 ", "v1.0.0", "01.0.0"] {
            assert!(wrong.parse::<Version>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_unknown_version_is_named_beside_the_supported_ones() {
        let error = "9.9.9".parse::<Version>().unwrap_err();
        assert_eq!(error.code, Code::INCOMPATIBLE_VERSION);
        assert_eq!(error.msg, "incompatible CNI versions");
        assert_eq!(
            error.details,
            r#"config is "9.9.9", plugin supports ["0.1.0" "0.2.0" "0.3.0" "0.3.1" "0.4.0" "1.0.0" "1.1.0"]"#
        );
    }

    #[test]
    fn newer_versions_compare_greater() {
        assert!(Version::V0_3_1 > Version::V0_3_0);
        assert!(Version::V1_1_0 > Version::V0_4_0);
        assert!(parse_numbers("1.10.0").unwrap() > parse_numbers("1.2").unwrap());
        assert!(parse_numbers("1.x").is_err());
        assert!(parse_numbers("1.2.3.4").is_err());
    }
}
