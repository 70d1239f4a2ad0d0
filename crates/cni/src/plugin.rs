//! What a plugin implements, and what it is given.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::args::CniArgs;
use crate::delegate::Delegate;
use crate::env::{Attachment, NetworkName};
use crate::error::{Code, Error};
use crate::result::CniResult;
use crate::version::Version;

/// A CNI plugin: the decisions of each verb. [`main`](crate::main) does the rest.
///
/// A method that returns an error must have left the node as it was (ADD) or have done as much as it
/// could (DEL, GC).
pub trait Plugin {
    /// The plugin's own configuration: its object in the list. Keys match in any case and unknown ones
    /// are ignored (see [`config`](crate::config)).
    type Config: DeserializeOwned;

    /// The plugin's `type`, for the text that it prints without a verb.
    const NAME: &'static str;

    /// The plugin's own version, for the same text.
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    /// Makes the attachment. A chained plugin returns `prev_result` with its own additions.
    ///
    /// # Errors
    /// The error is printed; the node must be as before.
    fn add(&self, call: &Call<Self::Config>) -> Result<CniResult, Error>;

    /// Tells whether what ADD made is still there.
    ///
    /// # Errors
    /// What differs, and where.
    fn check(&self, call: &Call<Self::Config>) -> Result<(), Error>;

    /// Removes what ADD made; what is gone already is no error.
    ///
    /// # Errors
    /// What could not be removed. The runtime stops the chain and tries again later.
    fn del(&self, call: &DelCall<Self::Config>) -> Result<(), Error>;

    /// DEL whose configuration cannot be decoded. The default reports `why`; a plugin that finds its
    /// objects by attachment can remove them all the same.
    ///
    /// # Errors
    /// As [`del`](Self::del).
    fn del_unreadable(&self, attachment: &Attachment, netns: Option<&Path>, why: Error) -> Result<(), Error> {
        let _ = (attachment, netns);
        Err(why)
    }

    /// Removes what belongs to attachments of this network that are not listed.
    ///
    /// # Errors
    /// What could not be removed.
    fn gc(&self, call: &GcCall<Self::Config>) -> Result<(), Error> {
        let _ = call;
        Ok(())
    }

    /// Tells whether ADD could be served now.
    ///
    /// # Errors
    /// [`Code::NOT_AVAILABLE`] or [`Code::LIMITED_CONNECTIVITY`].
    fn status(&self, call: &StatusCall<Self::Config>) -> Result<(), Error> {
        let _ = call;
        Ok(())
    }
}

/// ADD or CHECK.
#[derive(Debug, Clone)]
pub struct Call<C> {
    /// Container and interface.
    pub attachment: Attachment,
    /// `CNI_NETNS`: for ADD never the plugin's own namespace, unless `CNI_NETNS_OVERRIDE` is set.
    pub netns: PathBuf,
    /// `CNI_ARGS`.
    pub args: CniArgs,
    /// The network's name.
    pub network: NetworkName,
    /// The version in which the result is printed.
    pub version: Version,
    /// The plugin's configuration.
    pub config: C,
    /// The result of the plugin before (ADD) or of the whole list (CHECK).
    pub prev_result: Option<CniResult>,
    /// Everything that came on stdin.
    pub raw: Map<String, Value>,
    /// Runs other plugins with this call's environment and configuration.
    pub delegate: Delegate,
}

impl<C> Call<C> {
    /// `prevResult`, for a plugin that cannot do without.
    ///
    /// # Errors
    /// [`Code::INVALID_CONFIG`] when there is none.
    pub fn required_prev_result(&self) -> Result<&CniResult, Error> {
        self.prev_result.as_ref().ok_or_else(|| Error::new(Code::INVALID_CONFIG, "Required prevResult missing"))
    }

    /// Fails when the call's version cannot express `planned`. Call it before anything is made: after
    /// that it is too late to find that 0.1.0 and 0.2.0 have no attachments without addresses.
    ///
    /// # Errors
    /// [`Code::INCOMPATIBLE_VERSION`].
    pub fn ensure_expressible(&self, planned: &CniResult) -> Result<(), Error> {
        planned.render(self.version).map(drop)
    }
}

/// DEL. It gets through with less than ADD: what cannot be read of it is absent.
#[derive(Debug, Clone)]
pub struct DelCall<C> {
    /// Container and interface.
    pub attachment: Attachment,
    /// `CNI_NETNS`; `None` when unset or empty. The path need not exist any more.
    pub netns: Option<PathBuf>,
    /// `CNI_ARGS`, without what is not a pair.
    pub args: CniArgs,
    /// The network's name.
    pub network: NetworkName,
    /// The configuration's version.
    pub version: Version,
    /// The plugin's configuration.
    pub config: C,
    /// The result of the whole list. Runtimes may lose it; one that cannot be decoded is `None`.
    pub prev_result: Option<CniResult>,
    /// Everything that came on stdin.
    pub raw: Map<String, Value>,
    /// Runs other plugins with this call's environment and configuration.
    pub delegate: Delegate,
}

/// GC (since 1.1.0).
#[derive(Debug, Clone)]
pub struct GcCall<C> {
    /// The attachments of this network that live. `None` when the runtime sent no list: then nothing
    /// is known to be stale. An empty list makes everything stale.
    pub valid: Option<Vec<Attachment>>,
    /// The network's name.
    pub network: NetworkName,
    /// The configuration's version.
    pub version: Version,
    /// The plugin's configuration.
    pub config: C,
    /// Everything that came on stdin.
    pub raw: Map<String, Value>,
    /// Runs other plugins with this call's environment and configuration.
    pub delegate: Delegate,
}

/// STATUS (since 1.1.0).
#[derive(Debug, Clone)]
pub struct StatusCall<C> {
    /// The network's name.
    pub network: NetworkName,
    /// The configuration's version.
    pub version: Version,
    /// The plugin's configuration.
    pub config: C,
    /// Everything that came on stdin.
    pub raw: Map<String, Value>,
    /// Runs other plugins with this call's environment and configuration.
    pub delegate: Delegate,
}
