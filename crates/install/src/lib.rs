//! Puts programs into directories that others use at the same time, and takes them away again.
//!
//! Whoever starts a program by its name finds the old one or the new one, never half of one and never none; and a program
//! that runs is never written to. What stood there before is kept and comes back. All of that holds, too, when the
//! installation is killed at any instant: the next one, or its removal, finishes it.
//!
//! Everything that this needs lies in `.adit/` in the same directory, since only a rename within one file system is atomic:
//!
//! ```text
//! <directory>/.adit/manifest.json    what was put there, by digest
//! <directory>/.adit/kept/<name>      what stood there before, of somebody else
//! <directory>/.adit/new/<name>       written, but not in its place yet
//! <directory>/.adit/before/<name>    what a step replaces, until all of them are done
//! ```
//!
//! A [`Plan`] is made by looking only ([`Plan::install`], [`Plan::uninstall`]); [`Plan::apply`] walks it, and walks back when a step
//! fails.
#![forbid(unsafe_code)]

mod digest;
mod error;
mod folder;
mod manifest;
mod plan;
pub mod service;
mod step;
pub mod used;

pub use digest::Digest;
pub use error::{Error, Result};
pub use folder::{Folder, Lock};
pub use manifest::{Entry, Manifest};
pub use plan::{Content, Plan, Wanted};
pub use step::{Action, Step};
