//! `adit lab`: bad networks to try tunnels on.

mod impair;

use clap::Subcommand;

use crate::Said;

#[derive(Debug, Subcommand)]
pub enum Command {
    Impair(Box<impair::Impair>),
}

impl Command {
    /// # Errors
    /// The options contradict each other, or what is to be impaired is not there.
    pub fn run(&self) -> Said {
        match self {
            Self::Impair(impair) => impair.run(),
        }
    }
}
