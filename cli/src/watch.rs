//! `adit status --watch`: the tunnels again and again, through restarts of the agent.

pub mod changes;
pub mod rates;

use std::{
    collections::VecDeque,
    error::Error,
    io::{self, IsTerminal as _, Write},
    path::Path,
    process, thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use adit_tunnel::protocol::TunnelStatus;
use changes::States;
use nix::sys::signal::{SigSet, Signal};
use rates::Rates;
use serde_json::{Value, json};

use crate::{
    status::{self, Seen},
    table, units,
};

/// How many changes stay in sight.
const CHANGES: usize = 10;

/// Prints until it is interrupted, or nobody reads any more.
///
/// # Errors
/// The agent may not be asked, or what is found cannot be printed.
pub fn watch(run_dir: &Path, json: bool, interval: Duration) -> Result<(), Box<dyn Error>> {
    end_on_signals()?;
    let mut watch = Watch::default();
    let mut output = io::stdout();
    let is_terminal = output.is_terminal() && !json;
    let mut next = Instant::now();
    loop {
        let seen = status::look(run_dir);
        if let (None, Some(error)) = (&watch.last, refusal(&seen)) {
            return Err(error.into());
        }
        watch.add(seen, SystemTime::now(), Instant::now());
        let text = match (json, is_terminal) {
            (true, _) => watch.document().to_string() + "\n",
            (_, true) => redraw(&watch.screen()),
            (_, false) => watch.block(),
        };
        match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
            // A reader that has seen enough is no failure.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
        // After a look that took longer, the next one is made at once, and none is made up for.
        next = next.checked_add(interval).unwrap_or(next).max(Instant::now());
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// Why going on would be in vain: whoever may not ask now, may not ask later.
fn refusal(seen: &Seen) -> Option<String> {
    match &seen.agent {
        Err(error @ adit_tunnel::Error::AgentUnreachable { source, .. })
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            Some(error.to_string())
        }
        Err(error @ adit_tunnel::Error::AgentRefused { .. }) => Some(error.to_string()),
        _ => None,
    }
}

/// Has SIGINT and SIGTERM end the process at once, and as something that went well.
fn end_on_signals() -> io::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    thread::Builder::new().spawn(move || {
        let _ = signals.wait();
        process::exit(0);
    })?;
    Ok(())
}

/// What is known after the looks so far.
#[derive(Default)]
struct Watch {
    last: Option<Look>,
    rates: Rates,
    states: States,
    /// Those of the last look.
    fresh: Vec<String>,
    /// The last ones, the newest at the end.
    changes: VecDeque<String>,
    /// Since when the agent has not answered.
    silent: Option<(SystemTime, Instant)>,
}

struct Look {
    time: SystemTime,
    moment: Instant,
    tunnels: Vec<TunnelStatus>,
    trouble: Option<String>,
}

impl Watch {
    fn add(&mut self, seen: Seen, time: SystemTime, moment: Instant) {
        let Seen { tunnels, agent, .. } = seen;
        let mut fresh = Vec::new();
        match (&agent, self.silent) {
            (Err(_), None) => {
                self.silent = Some((time, moment));
                fresh.push("the agent does not answer".to_owned());
            }
            (Ok(()), Some((since, _))) => {
                self.silent = None;
                fresh.push(format!("the agent answers again, as it has not since {}", clock(since)));
            }
            _ => {}
        }
        self.rates.add(&tunnels, moment);
        if agent.is_ok() {
            // What the agent's tunnels are like while it is away is not known: they are compared when it is back.
            fresh.extend(self.states.add(&tunnels));
        }
        self.fresh = fresh.into_iter().map(|change| format!("{} {change}", clock(time))).collect();
        self.changes.extend(self.fresh.iter().cloned());
        while self.changes.len() > CHANGES {
            self.changes.pop_front();
        }
        self.last = Some(Look { time, moment, tunnels, trouble: agent.err().map(|error| error.to_string()) });
    }

    /// The table, and whether the agent is away.
    fn view(&self) -> String {
        let Some(Look { time, moment, tunnels, trouble }) = &self.last else { return String::new() };
        let mut text = format!("{}\n", clock(*time));
        if let (Some(trouble), Some((since, then))) = (trouble, self.silent) {
            let silence = moment.saturating_duration_since(then).as_millis();
            let silence = units::duration(u64::try_from(silence).unwrap_or(u64::MAX));
            text.push_str(&format!(
                "the agent does not answer; waiting since {} ({silence}): {trouble}\n",
                clock(since)
            ));
        }
        if trouble.is_none() || !tunnels.is_empty() {
            text.push_str(&table::with_rates(tunnels, &self.rates));
        }
        text
    }

    /// For a terminal: what changed stays in sight.
    fn screen(&self) -> String {
        let mut text = self.view();
        if !self.changes.is_empty() {
            text.push_str("\nchanges:\n");
        }
        for change in self.changes.iter().rev() {
            text.push_str(change);
            text.push('\n');
        }
        text
    }

    /// For a pipe: each change once.
    fn block(&self) -> String {
        let mut text = self.view();
        for change in &self.fresh {
            text.push_str(change);
            text.push('\n');
        }
        text.push('\n');
        text
    }

    /// The same for programs.
    fn document(&self) -> Value {
        let Some(Look { time, tunnels, trouble, .. }) = &self.last else { return Value::Null };
        let mut document = status::document(tunnels);
        let seen = document.get_mut("tunnels").and_then(Value::as_array_mut).into_iter().flatten().zip(tunnels);
        for (value, tunnel) in seen {
            let peers = value.get_mut("peers").and_then(Value::as_array_mut).into_iter().flatten();
            for (index, peer) in peers.enumerate() {
                if let (Value::Object(peer), Some(rate)) = (peer, self.rates.of(tunnel, index)) {
                    peer.insert("perSecond".into(), json!(rate));
                }
            }
        }
        let since_1970 = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if let Value::Object(map) = &mut document {
            map.insert("unixSeconds".into(), json!(since_1970.as_secs_f64()));
            map.insert("agentAnswers".into(), trouble.is_none().into());
            map.insert("trouble".into(), json!(trouble));
            map.insert("changes".into(), json!(self.fresh));
        }
        document
    }
}

/// The time of day, in UTC.
fn clock(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().wrapping_rem(86_400);
    let (hour, rest) = (seconds.wrapping_div(3600), seconds.wrapping_rem(3600));
    format!("{hour:02}:{:02}:{:02}Z", rest.wrapping_div(60), rest.wrapping_rem(60))
}

/// What shows `text` alone on a terminal, as far as there is room.
fn redraw(text: &str) -> String {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok().filter(|size| size.ws_row > 1 && size.ws_col > 0);
    let (rows, columns) = size.map_or((usize::MAX, usize::MAX), |size| (size.ws_row.into(), size.ws_col.into()));
    fit(text, rows, columns)
}

/// From the upper left corner on, each line's rest and what is below cleared. The last row stays empty: a line's end there would scroll.
fn fit(text: &str, rows: usize, columns: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let room = rows.saturating_sub(1);
    let shown = if lines.len() > room { room.saturating_sub(1) } else { lines.len() };
    let mut screen = String::from("\x1b[H");
    for line in lines.iter().take(shown) {
        screen.extend(line.chars().filter(|c| !c.is_control()).take(columns));
        screen.push_str("\x1b[K\n");
    }
    let hidden = lines.len().saturating_sub(shown);
    if hidden > 0 {
        screen.extend(format!("and {hidden} lines more").chars().take(columns));
        screen.push_str("\x1b[K\n");
    }
    screen + "\x1b[J"
}

#[cfg(test)]
mod tests;
