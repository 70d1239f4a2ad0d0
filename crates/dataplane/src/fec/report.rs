//! Reports: what the receiver of DATA tells its sender of what came.
//!
//! The payload of REPORT, big endian. It is numbered by the session's counter like DATA, and sealed like it; the datagram's sequence is 0.
//!
//! ```text
//!        0                   1                   2                   3
//!        0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//!       +---------------------------------------------------------------+
//!     0 |                       highest sequence                        |
//!       +---------------------------------------------------------------+
//!     4 |                           received                            |
//!       +---------------------------------------------------------------+
//!     8 |                        lost at random                         |
//!       +---------------------------------------------------------------+
//!    12 |                      lost to congestion                       |
//!       +---------------------------------------------------------------+
//!    16 |                           recovered                           |
//!       +---------------------------------------------------------------+
//!    20 |                         unrecoverable                         |
//!       +---------------------------------------------------------------+
//!    24 |                    congestion experienced                     |
//!       +---------------------------------------------------------------+
//!    28 |                     received in a queue                       |
//!       +-------------------------------+-------------------------------+
//!    32 |           runs of 1           |           runs of 2           |
//!       +-------------------------------+-------------------------------+
//!    36 |         runs of 3 to 4        |         runs of 5 to 8        |
//!       +-------------------------------+-------------------------------+
//!    40 |        runs of 9 to 16        |      runs of 17 and more      |
//!       +-------------------------------+-------------------------------+
//!    44 |                    lowest missing sequence                    |
//!       +-------------------------------+-------------------------------+
//!    48 |            deficit            |       reordering extent       |
//!       +-------------------------------+-------------------------------+
//!    52 |      delay above minimum      |        echoed timestamp       |
//!       +-------------------------------+-------------------------------+
//!    56 |            echo's age         |            reserved           |
//!       +-------------------------------+-------------------------------+
//! ```
//!
//! | field | meaning |
//! |---|---|
//! | highest sequence | of the DATA that came |
//! | received | DATA with a payload |
//! | lost at random, to congestion | DATA that did not come, by what the delay and the ECN marks said then |
//! | recovered, unrecoverable | of the lost ones, those that repairs brought back and those that no repair can any more |
//! | congestion experienced | datagrams that came with the outer ECN mark CE |
//! | received in a queue | of the DATA that came, those that would have been lost to congestion: they say nothing of what is lost at random |
//! | runs | how many times so many DATA in a row were lost at random |
//! | lowest missing sequence, deficit | how many repairs more are needed for what is missing now, and where that begins; a deficit of 0: none |
//! | reordering extent | by how many places DATA came late at most, lately |
//! | delay above minimum | of the newest DATA, above the least of the last half a minute; units of 64 µs |
//! | echoed timestamp | of the DATA that came last |
//! | echo's age | since that DATA came; units of 64 µs; 65535: as long or longer |
//!
//! Counts are since the sender's epoch began, modulo the field: a report that is lost costs nothing.

use crate::{DropReason, parcel::carry, session::TIMESTAMP_SHIFT};
use std::time::Duration;

/// Length of a report's payload.
pub(crate) const BODY_BYTES: usize = 60;
/// How many lengths of runs are told apart: 1, 2, 3 to 4, 5 to 8, 9 to 16, 17 and more.
pub(crate) const RUN_CLASSES: usize = 6;

/// What a report carries; see the module's documentation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) highest: u32,
    pub(crate) received: u32,
    pub(crate) lost_random: u32,
    pub(crate) lost_congestion: u32,
    pub(crate) recovered: u32,
    pub(crate) unrecoverable: u32,
    pub(crate) congestion_experienced: u32,
    pub(crate) received_in_queue: u32,
    pub(crate) runs: [u16; RUN_CLASSES],
    pub(crate) lowest_missing: u32,
    pub(crate) deficit: u16,
    pub(crate) reordering: u16,
    pub(crate) delay_above_minimum: u16,
    pub(crate) echo: u16,
    pub(crate) echo_age: u16,
}

carry!(Report {
    highest,
    received,
    lost_random,
    lost_congestion,
    recovered,
    unrecoverable,
    congestion_experienced,
    received_in_queue,
    runs,
    lowest_missing,
    deficit,
    reordering,
    delay_above_minimum,
    echo,
    echo_age,
});

impl Report {
    /// A report as it is on the wire.
    pub(crate) fn encode(&self) -> [u8; BODY_BYTES] {
        let [r1, r2, r4, r8, r16, more] = self.runs.map(u16::to_be_bytes);
        let fields = [
            &self.highest.to_be_bytes()[..],
            &self.received.to_be_bytes(),
            &self.lost_random.to_be_bytes(),
            &self.lost_congestion.to_be_bytes(),
            &self.recovered.to_be_bytes(),
            &self.unrecoverable.to_be_bytes(),
            &self.congestion_experienced.to_be_bytes(),
            &self.received_in_queue.to_be_bytes(),
            &r1,
            &r2,
            &r4,
            &r8,
            &r16,
            &more,
            &self.lowest_missing.to_be_bytes(),
            &self.deficit.to_be_bytes(),
            &self.reordering.to_be_bytes(),
            &self.delay_above_minimum.to_be_bytes(),
            &self.echo.to_be_bytes(),
            &self.echo_age.to_be_bytes(),
        ];
        let mut body = [0; BODY_BYTES];
        for (place, byte) in body.iter_mut().zip(fields.into_iter().flatten()) {
            *place = *byte;
        }
        body
    }

    /// Reads a report; what follows it, in a longer one, is ignored.
    ///
    /// # Errors
    /// [`DropReason::Runt`].
    pub(crate) fn decode(payload: &[u8]) -> Result<Self, DropReason> {
        let mut fields = Fields(payload.first_chunk::<BODY_BYTES>().ok_or(DropReason::Runt)?);
        Ok(Self {
            highest: fields.u32()?,
            received: fields.u32()?,
            lost_random: fields.u32()?,
            lost_congestion: fields.u32()?,
            recovered: fields.u32()?,
            unrecoverable: fields.u32()?,
            congestion_experienced: fields.u32()?,
            received_in_queue: fields.u32()?,
            runs: [fields.u16()?, fields.u16()?, fields.u16()?, fields.u16()?, fields.u16()?, fields.u16()?],
            lowest_missing: fields.u32()?,
            deficit: fields.u16()?,
            reordering: fields.u16()?,
            delay_above_minimum: fields.u16()?,
            echo: fields.u16()?,
            echo_age: fields.u16()?,
        })
    }

    /// The round trip of the DATA that it echoes, where the clock that stamps DATA says `clock` now. `None`: that was too long ago.
    pub(crate) fn round_trip(&self, clock: u16) -> Option<Duration> {
        if self.echo_age == u16::MAX {
            return None;
        }
        let units = clock.wrapping_sub(self.echo).checked_sub(self.echo_age)?;
        Some(Duration::from_micros(u64::from(units) << TIMESTAMP_SHIFT))
    }
}

/// The class of a run of lost DATA.
pub(crate) const fn run_class(run: u32) -> usize {
    match run {
        0..=1 => 0,
        2 => 1,
        3..=4 => 2,
        5..=8 => 3,
        9..=16 => 4,
        _ => 5,
    }
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DropReason> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(DropReason::Runt)?;
        self.0 = rest;
        Ok(*field)
    }

    fn u32(&mut self) -> Result<u32, DropReason> {
        self.take().map(u32::from_be_bytes)
    }

    fn u16(&mut self) -> Result<u16, DropReason> {
        self.take().map(u16::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn report_is_as_documented() {
        let report = Report {
            highest: 0x0102_0304,
            received: 5,
            lost_random: 6,
            lost_congestion: 7,
            recovered: 8,
            unrecoverable: 9,
            congestion_experienced: 10,
            received_in_queue: 11,
            runs: [12, 13, 14, 15, 16, 17],
            lowest_missing: 18,
            deficit: 19,
            reordering: 20,
            delay_above_minimum: 21,
            echo: 22,
            echo_age: 23,
        };
        let mut wire = vec![1, 2, 3, 4];
        (5..=11_u32).for_each(|field| wire.extend(field.to_be_bytes()));
        (12..=17_u16).for_each(|field| wire.extend(field.to_be_bytes()));
        wire.extend(18_u32.to_be_bytes());
        (19..=23_u16).for_each(|field| wire.extend(field.to_be_bytes()));
        wire.extend([0, 0]);
        assert_eq!(report.encode()[..], wire);
        assert_eq!(Report::decode(&wire), Ok(report));
        wire.extend([9; 20]);
        assert_eq!(Report::decode(&wire), Ok(report));
        assert_eq!(Report::decode(&wire[..BODY_BYTES - 1]), Err(DropReason::Runt));
    }

    #[test]
    fn round_trip_is_what_has_passed_since_the_echoed_stamp_less_the_echos_age() {
        let report = |echo, echo_age| Report { echo, echo_age, ..Report::default() };
        assert_eq!(report(65_000, 100).round_trip(464), Some(Duration::from_micros(900 * 64)));
        assert_eq!(report(65_000, 1001).round_trip(464), None);
        assert_eq!(report(65_000, u16::MAX).round_trip(464), None);
    }

    #[test]
    fn classes_of_runs_end_at_powers_of_two() {
        let classes: Vec<_> = [1, 2, 3, 4, 5, 8, 9, 16, 17, 70_000].into_iter().map(run_class).collect();
        assert_eq!(classes, [0, 1, 2, 2, 3, 3, 4, 4, 5, 5]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(report) = Report::decode(&bytes) {
                prop_assert_eq!(Report::decode(&report.encode()), Ok(report));
            }
        }
    }
}
