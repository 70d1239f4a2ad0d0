//! A router of the chain.

use std::ops::Deref;

use crate::Namespace;

/// A router between the clusters. It is a [`Namespace`] with interfaces `prev`, `next`, and one for each node that is
/// connected to it, named as the node.
#[derive(Debug)]
pub struct Router {
    namespace: Namespace,
    name: String,
}

impl Router {
    pub(crate) fn new(namespace: Namespace, name: &str) -> Self {
        Self { namespace, name: name.to_owned() }
    }

    /// `r1`, `r2`, …
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Deref for Router {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}
