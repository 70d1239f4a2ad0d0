//! The delegated IPAM call.

use adit_cni::{CniResult, Code, Delegate, Error};

use crate::Undo;

/// How the annotation asks for an address of the interface that Multus attaches.
pub const IPS_OF_THE_ANNOTATION: &str = r#""ips": ["10.1.1.2/24"]"#;

/// Asks `plugin` for addresses; without one there are none. Its DEL is pushed before the call, because a plugin that fails
/// may have reserved some.
///
/// # Errors
/// The plugin's own error; [`Code::INVALID_CONFIG`] when it gives no address, with `annotation` as the way in which the
/// pod's network annotation would ask for one.
pub fn add<'a>(
    delegate: &'a Delegate,
    plugin: Option<&'a str>,
    undo: &mut Undo<'a>,
    annotation: &str,
) -> Result<CniResult, Error> {
    let Some(plugin) = plugin else { return Ok(CniResult::default()) };
    delegate.find(plugin)?;
    undo.push(format!("IPAM plugin {plugin} DEL"), move || delegate.del(plugin));
    let result = delegate.add(plugin)?;
    if result.ips.is_empty() {
        return Err(missing_addresses(plugin, annotation));
    }
    Ok(result)
}

/// Whether the IPAM plugin could serve an ADD; without one there is nothing to ask.
///
/// # Errors
/// The plugin's own; [`Code::NOT_AVAILABLE`] when it is not installed.
pub fn status(delegate: &Delegate, plugin: Option<&str>) -> Result<(), Error> {
    let Some(plugin) = plugin else { return Ok(()) };
    delegate.find(plugin).map_err(|error| Error { code: Code::NOT_AVAILABLE, ..error })?;
    delegate.status(plugin)
}

/// Does all of `remove`, then lets the IPAM plugin, if there is one, take the addresses back: nobody else gets one that is
/// still in use. Returns what failed.
pub fn del_after(delegate: &Delegate, plugin: Option<&str>, remove: impl FnOnce() -> Vec<Error>) -> Vec<Error> {
    let mut errors = remove();
    errors.extend(plugin.and_then(|plugin| delegate.del(plugin).err()));
    errors
}

fn missing_addresses(plugin: &str, annotation: &str) -> Error {
    Error::new(Code::INVALID_CONFIG, "IPAM plugin returned missing IP config").with_details(format!(
        "{plugin} was given no address: set ipam.addresses, or ask for one in the pod's network annotation \
         ({annotation}, as a list and with its prefix length)"
    ))
}
