//! What interfaces have counted.

use std::fs;

use crate::{Error, Result};

const PATH: &str = "/proc/thread-self/net/dev";

/// What an interface has let through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
}

/// The counters of the interface called `name` in the calling thread's namespace (proc(5), `/proc/net/dev`); `None` when there is none.
///
/// # Errors
/// The kernel does not show them.
pub fn read(name: &str) -> Result<Option<Counters>> {
    let text = fs::read_to_string(PATH).map_err(|error| Error::io("read", PATH, error))?;
    Ok(parse(&text, name))
}

/// Behind the name stand eight columns of what it received, then eight of what it sent.
fn parse(text: &str, name: &str) -> Option<Counters> {
    let columns = text.lines().find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'))?;
    let numbers: Vec<u64> = columns.split_ascii_whitespace().map_while(|number| number.parse().ok()).collect();
    let [rx_bytes, rx_packets, _, _, _, _, _, _, tx_bytes, tx_packets, ..] = numbers[..] else { return None };
    Some(Counters { rx_bytes, rx_packets, tx_bytes, tx_packets })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_of_an_interface_are_read_by_its_whole_name() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n\
            \x20 tun1: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n\
            \x20  tun:  84       1    0    0    0     0          0         0      168       2    0    0    0     0       0          0\n";
        let expected = Counters { rx_bytes: 84, rx_packets: 1, tx_bytes: 168, tx_packets: 2 };
        assert_eq!(parse(text, "tun"), Some(expected));
        assert_eq!(parse(text, "net1"), None);
        assert_eq!(parse("tun: 1 2 3\n", "tun"), None);
    }

    #[test]
    fn this_machines_loopback_is_found() {
        assert!(read("lo").unwrap().is_some());
        assert_eq!(read("none").unwrap(), None);
    }
}
