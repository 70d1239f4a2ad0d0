//! What a process may do, from proc(5) `status`.

use std::fs;

use crate::{Error, Result};

/// The privileges of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// CapInh.
    pub inheritable: u64,
    /// CapPrm.
    pub permitted: u64,
    /// CapEff.
    pub effective: u64,
    /// CapBnd.
    pub bounding: u64,
    /// CapAmb.
    pub ambient: u64,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Whether executing a program can never add a privilege.
    pub no_new_privs: bool,
}

impl Capabilities {
    /// No capability in any set, not root, and no way to get one.
    #[must_use]
    pub fn are_none(&self) -> bool {
        let sets = self.inheritable | self.permitted | self.effective | self.bounding | self.ambient;
        sets == 0 && self.uid != 0 && self.gid != 0 && self.no_new_privs
    }
}

pub(crate) fn of(pid: i32) -> Result<Capabilities> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).map_err(Error::io(format!("read {path}")))?;
    parse(&text).ok_or_else(|| Error::Unexpected(format!("{path} has another form than proc(5) says: {text}")))
}

fn parse(status: &str) -> Option<Capabilities> {
    let line = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let set = |key: &str| u64::from_str_radix(line(key)?.trim(), 16).ok();
    // Real, effective, saved, file system.
    let effective = |key: &str| line(key)?.split_whitespace().nth(1)?.parse().ok();
    Some(Capabilities {
        inheritable: set("CapInh")?,
        permitted: set("CapPrm")?,
        effective: set("CapEff")?,
        bounding: set("CapBnd")?,
        ambient: set("CapAmb")?,
        uid: effective("Uid")?,
        gid: effective("Gid")?,
        no_new_privs: line("NoNewPrivs")?.trim() == "1",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tsleep\nUid:\t65534\t65534\t65534\t65534\nGid:\t65534\t65534\t65534\t65534\n\
        NoNewPrivs:\t1\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
        CapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\n";

    #[test]
    fn one_bit_in_the_bounding_set_is_not_none() {
        assert!(parse(STATUS).unwrap().are_none());
        let bounded = STATUS.replace("CapBnd:\t0000000000000000", "CapBnd:\t0000000000001000");
        assert!(!parse(&bounded).unwrap().are_none());
        assert_eq!(parse(&bounded).unwrap().bounding, 1 << 12);
    }
}
