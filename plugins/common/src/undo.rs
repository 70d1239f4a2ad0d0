//! The undo stack: every step of an ADD that changed something pushes how it is taken back.

use std::panic::{self, AssertUnwindSafe};

use adit_cni::{Code, Error};

/// Steps that have been made, newest last, each with the action that takes it back.
///
/// Dropping an armed stack runs it, so an early return or a panic leaves nothing behind either.
#[derive(Default)]
pub struct Undo<'a> {
    entries: Vec<Entry<'a>>,
}

struct Entry<'a> {
    description: String,
    action: Box<dyn FnOnce() -> Result<(), Error> + 'a>,
}

impl<'a> Undo<'a> {
    /// An empty stack.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Remembers how to take back the step just made (or about to be made, where half of it may happen).
    ///
    /// The action must succeed when there is nothing to take back.
    pub fn push(&mut self, description: impl Into<String>, action: impl FnOnce() -> Result<(), Error> + 'a) {
        self.entries.push(Entry { description: description.into(), action: Box::new(action) });
    }

    /// Takes back everything, newest first, and goes on after a failure. Returns the failures, each naming its step.
    pub fn run(&mut self) -> Vec<Error> {
        let mut failures = Vec::new();
        while let Some(entry) = self.entries.pop() {
            // A panic here would end the process without an answer: it may run because of another one.
            let outcome = panic::catch_unwind(AssertUnwindSafe(entry.action))
                .unwrap_or_else(|_| Err(Error::new(Code::INTERNAL, "it panicked; stderr says where")));
            if let Err(error) = outcome {
                failures.push(error.in_context(format!("undo failed: {}", entry.description)));
            }
        }
        failures
    }

    /// The work is complete: nothing will be taken back.
    pub fn disarm(&mut self) {
        self.entries.clear();
    }

    /// Takes back everything because of `cause`, and tells in its details what could not be taken back.
    pub fn fail(mut self, cause: Error) -> Error {
        let mut details = vec![cause.details.clone()];
        details.extend(self.run().iter().map(ToString::to_string));
        details.retain(|text| !text.is_empty());
        cause.with_details(details.join("; "))
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        for failure in self.run() {
            tracing::warn!("{failure}");
        }
    }
}

/// Runs `work`; when it fails, takes back what it pushed.
///
/// # Errors
/// What `work` returned, with undo's own failures appended to its details.
pub fn transaction<'a, T>(work: impl FnOnce(&mut Undo<'a>) -> Result<T, Error>) -> Result<T, Error> {
    let mut undo = Undo::new();
    match work(&mut undo) {
        Ok(value) => {
            undo.disarm();
            Ok(value)
        }
        Err(cause) => Err(undo.fail(cause)),
    }
}

/// One error out of all that happened: the first, with the others in its details. DEL and GC do not stop at a failure.
///
/// # Errors
/// When there is any.
pub fn collected(errors: Vec<Error>) -> Result<(), Error> {
    let mut errors = errors.into_iter();
    let Some(first) = errors.next() else { return Ok(()) };
    let mut details = vec![first.details.clone()];
    details.extend(errors.map(|error| error.to_string()));
    details.retain(|text| !text.is_empty());
    Err(first.with_details(details.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    fn failure(text: &str) -> Error {
        Error::new(Code::INTERNAL, text)
    }

    #[test]
    fn failure_takes_back_newest_first_and_does_not_stop_at_an_error() {
        let log = RefCell::new(Vec::new());
        let log = &log;
        let error = transaction(|undo| {
            for step in ["first", "second", "third"] {
                undo.push(step, move || {
                    log.borrow_mut().push(step);
                    if step == "second" {
                        return Err(failure("busy"));
                    }
                    Ok(())
                });
            }
            Err::<(), _>(failure("the cause"))
        })
        .unwrap_err();
        assert_eq!(*log.borrow(), ["third", "second", "first"]);
        assert_eq!(error.msg, "the cause");
        assert!(error.details.contains("undo failed: second: busy"), "{error}");
    }

    #[test]
    fn success_takes_nothing_back() {
        let log = RefCell::new(0);
        transaction(|undo| {
            undo.push("step", || {
                *log.borrow_mut() += 1;
                Ok(())
            });
            Ok(())
        })
        .unwrap();
        assert_eq!(*log.borrow(), 0);
    }

    #[test]
    fn a_dropped_stack_takes_back() {
        let log = RefCell::new(0);
        {
            let mut undo = Undo::new();
            undo.push("step", || {
                *log.borrow_mut() += 1;
                Ok(())
            });
        }
        assert_eq!(*log.borrow(), 1);
    }
}
