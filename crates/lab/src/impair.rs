//! A bad link: loss, delay, a bottleneck with its queue, and the rest of what happens to packets on long paths.
//!
//! [`Link`] is one direction as a model without I/O: packets and the time go in, packets that are due come out. [`Impairment`]
//! runs two of them between two interfaces ([`Impairment::between`]) or two UDP sockets ([`Impairment::of_datagrams`]); it
//! needs no queueing discipline of the kernel. `adit lab impair` is the same for people.
//!
//! A packet goes through the link in this order: MTU; queue and rate, with ECN marks; loss; duplication; corruption; delay,
//! jitter and reordering. So a packet that is lost has used the bottleneck like any other.

mod datagram;
mod ethernet;
mod impairment;
mod link;
mod loss;
mod packet;
mod parse;
mod queue;
mod relay;
mod spec;
mod statistics;

pub use impairment::Impairment;
pub use link::Link;
pub use packet::Packet;
pub use parse::{bits_per_second, time};
pub use spec::{Bottleneck, Distribution, Jitter, Limit, Loss, Reorder, Share, Spec};
pub use statistics::{Count, Dropped, Statistics};

#[cfg(test)]
mod tests;
