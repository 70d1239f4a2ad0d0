//! Who may read without being root: a group of users by a socket, Prometheus by HTTP. Both are off unless asked for, and neither is
//! ever a reason to carry no tunnels.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _},
    path::Path,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use adit_tunnel::protocol::STATUS_SOCKET_NAME;
use nix::{
    sys::stat::{Mode, umask},
    unistd::{Gid, chown, getegid, getgroups, setgroups},
};
use tokio::net::UnixListener;

use crate::{Error, Options, Result, metrics, registry::Registry, server, server::Server, snapshots::Snapshots};

/// How long to wait until a socket that could not be made is tried again: an agent that ends may still have its address.
const RETRY: Duration = Duration::from_secs(5);

/// A group of users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group(Gid);

impl FromStr for Group {
    type Err = String;

    /// By number, or by its name in `/etc/group`: this program asks no other directory.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if let Ok(number) = text.parse() {
            return Ok(Self(Gid::from_raw(number)));
        }
        let groups = fs::read_to_string("/etc/group").map_err(|error| format!("cannot read /etc/group: {error}"))?;
        named(&groups, text).ok_or_else(|| {
            format!("/etc/group has no group {text}; make it (groupadd --system {text}), or write its number")
        })
    }
}

/// `groups` is as group(5) has it.
fn named(groups: &str, name: &str) -> Option<Group> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let number = (fields.next() == Some(name)).then(|| fields.nth(1)).flatten()?;
        number.parse().ok().map(|number| Group(Gid::from_raw(number)))
    })
}

/// Makes this process a member of `group`: its owner may give a file to a group of its own without any capability, and none is left
/// later. Comes before capabilities are given up.
///
/// # Errors
/// It is none, and may not become one.
pub fn join(Group(group): Group) -> Result<()> {
    let failed = |errno: nix::Error| {
        let remedy = "give it to the agent: SupplementaryGroups= in the unit, supplementalGroups in the pod";
        Error::start("join the status group", io::Error::other(format!("{errno}; {remedy}")))
    };
    let mut groups = getgroups().map_err(failed)?;
    if getegid() == group || groups.contains(&group) {
        return Ok(());
    }
    groups.push(group);
    setgroups(&groups).map_err(failed)
}

/// Starts to answer those whom `options` lets read. Needs tokio's runtime.
pub fn start(server: &Server, registry: &Registry, options: &Options) {
    let snapshots = Arc::new(Snapshots::new(registry.clone()));
    if let (Some(group), Some(directory)) = (options.status_group, server.socket().parent()) {
        let (path, snapshots) = (directory.join(STATUS_SOCKET_NAME), Arc::clone(&snapshots));
        tokio::spawn(async move {
            let listener = persist(|| listen(&path, Some(group))).await;
            tracing::info!("telling group {} how tunnels are, on {}", group.0, path.display());
            server::answer_readers(&listener, &snapshots).await;
        });
    }
    if let Some(address) = options.metrics.clone() {
        tokio::spawn(metrics::serve(address, options.status_group, snapshots));
    }
}

/// Tries until it succeeds; complains once.
pub async fn persist<T>(make: impl Fn() -> io::Result<T>) -> T {
    let mut complained = false;
    loop {
        match make() {
            Ok(made) => return made,
            Err(error) if complained => tracing::debug!("{error}"),
            Err(error) => tracing::warn!("{error}; tried again every {} s", RETRY.as_secs()),
        }
        complained = true;
        tokio::time::sleep(RETRY).await;
    }
}

/// Listens at `path`, whose directory is made if it is missing; for root, and for `group`.
pub fn listen(path: &Path, group: Option<Group>) -> io::Result<UnixListener> {
    let failed =
        |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {}: {error}", path.display()));
    make_socket(path, group).map_err(failed)
}

fn make_socket(path: &Path, group: Option<Group>) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(io::Error::other("it is there, and is no socket")),
        Ok(_) => fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    let listener = listener?;
    if let Some(Group(group)) = group {
        chown(path, None, Some(group))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    }
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_known_by_its_number_or_by_its_name_on_this_node() {
        assert_eq!("0".parse(), Ok(Group(Gid::from_raw(0))));
        let groups = "root:x:0:\nadit-status:x:990:ann,ben\n# none\nbroken:x\n";
        assert_eq!(named(groups, "adit-status"), Some(Group(Gid::from_raw(990))));
        assert_eq!((named(groups, "adit"), named(groups, "broken")), (None, None));
        let refusal = "adit-no-such-group".parse::<Group>().unwrap_err();
        assert!(refusal.contains("groupadd"), "{refusal}");
    }

    #[test]
    fn a_socket_takes_the_place_of_a_socket_and_of_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _guard = runtime.enter();
        let path = directory.path().join("status/status.sock");
        drop(listen(&path, None).unwrap());
        let _listener = listen(&path, Some(Group(getegid()))).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let file = directory.path().join("file");
        fs::write(&file, "kept").unwrap();
        let refusal = listen(&file, None).unwrap_err().to_string();
        assert!(refusal.contains("is no socket"), "{refusal}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
    }
}
