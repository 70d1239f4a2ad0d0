//! Echo requests by the system's `ping`, and what it says about the answers.

use std::time::Duration;

use crate::{Error, Namespace, Pod, Ran, Result};

/// What came back.
#[derive(Debug, Clone)]
pub struct Ping {
    /// Requests sent.
    pub sent: u32,
    /// Answers received.
    pub received: u32,
    /// Answers received more than once.
    pub duplicates: u32,
    /// ttl (hop limit) of the answers, as the first one had it.
    pub ttl: Option<u8>,
    /// Round-trip time of each answer.
    pub round_trips: Vec<Duration>,
    /// Everything `ping` said, and how it was called.
    pub ran: Ran,
}

impl Ping {
    /// Every request must have been answered.
    ///
    /// # Errors
    /// One was not: the error has all that `ping` said.
    pub fn all_received(self) -> Result<Self> {
        if self.sent > 0 && self.received == self.sent { Ok(self) } else { Err(self.unexpected()) }
    }

    /// No request must have been answered.
    ///
    /// # Errors
    /// One was.
    pub fn none_received(self) -> Result<Self> {
        if self.received == 0 { Ok(self) } else { Err(self.unexpected()) }
    }

    /// The answers must have this ttl.
    ///
    /// # Errors
    /// They have another, or there are none.
    pub fn with_ttl(self, ttl: u8) -> Result<Self> {
        if self.ttl == Some(ttl) { Ok(self) } else { Err(self.unexpected()) }
    }

    /// Echo requests from any namespace, as root, 0.2 s apart; each may take a second.
    ///
    /// # Errors
    /// `ping` cannot be run, or could not even send (the error has its words).
    pub fn from_namespace(from: &Namespace, to: &str, options: &[&str]) -> Result<Self> {
        let mut line = vec!["ping", "-n", "-i", "0.2", "-W", "1"];
        line.extend(options);
        line.push(to);
        Self::parse(from.root(line)?)
    }

    fn unexpected(&self) -> Error {
        let Ran { command, stdout, stderr, .. } = &self.ran;
        Error::Unexpected(format!(
            "`{command}`: {} of {} answered, ttl {:?}\n{stdout}{stderr}",
            self.received, self.sent, self.ttl
        ))
    }

    fn parse(ran: Ran) -> Result<Self> {
        let mut ping =
            Self { sent: 0, received: 0, duplicates: 0, ttl: None, round_trips: Vec::new(), ran: ran.clone() };
        for line in ran.stdout.lines() {
            if line.contains(" bytes from ") {
                let value = |key: &str| line.split_ascii_whitespace().find_map(|word| word.strip_prefix(key));
                ping.ttl = ping.ttl.or_else(|| value("ttl=")?.parse().ok());
                let milliseconds: Option<f64> = value("time=").and_then(|text| text.parse().ok());
                ping.round_trips.extend(milliseconds.map(|ms| Duration::from_secs_f64(ms / 1000.0)));
            } else if line.contains(" packets transmitted") {
                for part in line.split(", ") {
                    let number = part.trim_start_matches('+').split(' ').next().and_then(|n| n.parse().ok());
                    match number {
                        Some(number) if part.ends_with("transmitted") => ping.sent = number,
                        Some(number) if part.ends_with("received") => ping.received = number,
                        Some(number) if part.ends_with("duplicates") => ping.duplicates = number,
                        _ => (),
                    }
                }
            }
        }
        // Status 1 is "no answer"; 2 is anything else, and then there may be no summary.
        if ping.sent == 0 && ran.stdout.is_empty() {
            return Err(ran.ok().err().unwrap_or_else(|| Error::Unexpected("ping said nothing".to_owned())));
        }
        Ok(ping)
    }
}

impl Pod {
    /// Three echo requests, 0.2 s apart; each may take a second.
    ///
    /// # Errors
    /// `ping` cannot be run, or could not even send (the error has its words).
    pub fn ping(&self, to: impl ToString) -> Result<Ping> {
        self.ping_with(to, &["-c", "3"])
    }

    /// As many echo requests as said.
    ///
    /// # Errors
    /// As [`Pod::ping`].
    pub fn ping_times(&self, to: impl ToString, count: u32) -> Result<Ping> {
        self.ping_with(to, &["-c", &count.to_string()])
    }

    /// Echo requests with further options of `ping`: `["-c", "1", "-s", "1428", "-M", "do"]`.
    ///
    /// # Errors
    /// As [`Pod::ping`].
    pub fn ping_with(&self, to: impl ToString, options: &[&str]) -> Result<Ping> {
        let to = to.to_string();
        let mut line = vec!["ping", "-n", "-i", "0.2", "-W", "1"];
        line.extend(options);
        line.push(&to);
        Ping::parse(self.run(line)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;

    fn ran(stdout: &str) -> Ran {
        let status = std::process::ExitStatus::from_raw(0);
        Ran { command: "ping".into(), status, stdout: stdout.into(), stderr: String::new() }
    }

    #[test]
    fn answers_and_their_ttl_are_read() {
        let ping = Ping::parse(ran("PING 10.20.1.200 (10.20.1.200) 56(84) bytes of data.\n\
             64 bytes from 10.20.1.200: icmp_seq=1 ttl=59 time=0.250 ms\n\
             64 bytes from 10.20.1.200: icmp_seq=2 ttl=59 time=0.100 ms (DUP!)\n\n\
             --- 10.20.1.200 ping statistics ---\n\
             3 packets transmitted, 2 received, +1 duplicates, 33.3333% packet loss, time 203ms\n"))
        .unwrap();
        assert_eq!((ping.sent, ping.received, ping.duplicates, ping.ttl), (3, 2, 1, Some(59)));
        assert_eq!(ping.round_trips[0], Duration::from_micros(250));
        assert!(ping.clone().with_ttl(58).is_err());
        assert!(ping.all_received().is_err());
    }

    #[test]
    fn errors_on_the_way_are_no_answers() {
        let ping =
            Ping::parse(ran("From 10.10.1.1 icmp_seq=1 Destination Net Unreachable\n\n--- x ping statistics ---\n\
             1 packets transmitted, 0 received, +1 errors, 100% packet loss, time 0ms\n"))
            .unwrap();
        assert_eq!((ping.sent, ping.received, ping.ttl), (1, 0, None));
        ping.none_received().unwrap();
    }
}
