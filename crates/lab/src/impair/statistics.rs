//! What a link has done.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

/// What happened to the packets of one direction since it began.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Statistics {
    /// What came. Bytes are those of Ethernet frames (header, no preamble, no checksum).
    pub offered: Count,
    /// What was given on, duplicates included.
    pub delivered: Count,
    /// What was dropped, by cause, in packets.
    pub dropped: Dropped,
    /// Packets with a flipped bit.
    pub corrupted: u64,
    /// Packets that were given on twice.
    pub duplicated: u64,
    /// Packets that were held back so that later ones overtake.
    pub reordered: u64,
    /// Packets that were marked CE.
    pub ce_marked: u64,
    /// Packets of the link's own protocols (ARP, neighbour discovery, multicast that no router passes on, all that is not IP): given on at once, counted nowhere else.
    pub exempt: u64,
    /// Frames larger than any packet on a wire, dropped: the sender leaves segmentation to a network card that is not there.
    pub oversize: u64,
    /// Packets that the kernel did not take, or for which there was nobody yet.
    pub unsent: u64,
    /// How many runs of lost packets there were of each length.
    pub loss_runs: BTreeMap<u64, u64>,
    /// Longest time in the queue, in microseconds.
    pub queue_wait_max_us: u64,
    /// Mean time in the queue of those that found room, in microseconds.
    pub queue_wait_mean_us: u64,
    /// How much later than it was due a packet was given on, at most, in microseconds.
    pub late_max_us: u64,
    #[serde(skip)]
    pub(crate) queued: u64,
    #[serde(skip)]
    pub(crate) queue_wait: Duration,
    #[serde(skip)]
    pub(crate) current_run: u64,
}

/// Packets and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Dropped packets by cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// Lost on the line.
    pub loss: u64,
    /// The queue was full.
    pub queue: u64,
    /// Larger than the MTU.
    pub mtu: u64,
}

impl Count {
    pub(crate) fn add(&mut self, bytes: usize) {
        self.packets = self.packets.saturating_add(1);
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }
}

impl Statistics {
    /// Share of the packets on the line that were lost; those that never came onto it (queue, MTU) do not count.
    #[must_use]
    pub fn loss_share(&self) -> f64 {
        let kept_off = self.dropped.queue.saturating_add(self.dropped.mtu);
        let on_the_line = self.offered.packets.saturating_sub(kept_off);
        if on_the_line == 0 { 0.0 } else { self.dropped.loss as f64 / on_the_line as f64 }
    }

    /// Mean length of a run of lost packets.
    #[must_use]
    pub fn loss_run_mean(&self) -> f64 {
        let runs: u64 = self.loss_runs.values().sum();
        if runs == 0 { 0.0 } else { self.dropped.loss as f64 / runs as f64 }
    }

    /// The same with a run of losses that has not ended.
    pub(crate) fn so_far(&self) -> Self {
        let mut told = self.clone();
        told.end_run();
        told.queue_wait_mean_us = microseconds(self.queue_wait).checked_div(self.queued).unwrap_or_default();
        told
    }

    pub(crate) fn lost(&mut self) {
        self.dropped.loss = self.dropped.loss.saturating_add(1);
        self.current_run = self.current_run.saturating_add(1);
    }

    /// A packet got through, or nobody will know: the run of losses is over.
    pub(crate) fn end_run(&mut self) {
        if self.current_run > 0 {
            let count = self.loss_runs.entry(self.current_run).or_default();
            *count = count.saturating_add(1);
            self.current_run = 0;
        }
    }

    pub(crate) fn waited(&mut self, time: Duration) {
        self.queued = self.queued.saturating_add(1);
        self.queue_wait = self.queue_wait.saturating_add(time);
        self.queue_wait_max_us = self.queue_wait_max_us.max(microseconds(time));
    }

    pub(crate) fn late(&mut self, time: Duration) {
        self.late_max_us = self.late_max_us.max(microseconds(time));
    }
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
