//! Waiting for something to become true, with an end.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{Error, Result};

const PAUSE: Duration = Duration::from_millis(10);

/// Looks until `attempt` gives a value, at most for `limit`. An error of an attempt is one more "not yet".
///
/// # Errors
/// [`Error::Timeout`] with what the last attempt said.
pub fn eventually<T>(what: &str, limit: Duration, mut attempt: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        let last = match attempt() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => "not yet".to_owned(),
            Err(error) => error.to_string(),
        };
        if start.elapsed() >= limit {
            return Err(Error::Timeout { what: what.to_owned(), waited: limit, last });
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_answer_is_in_the_error() {
        let error = eventually("rain", Duration::from_millis(20), || {
            Err::<Option<()>, _>(Error::Unexpected("still dry".to_owned()))
        });
        assert_eq!(error.unwrap_err().to_string(), "waited 20ms for rain: still dry");
    }
}
