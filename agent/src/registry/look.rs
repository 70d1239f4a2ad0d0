//! A look around: the records compared with the node. What is not carried is opened, what is gone is let go.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::{
        PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use adit_dataplane::TunnelId;
use adit_tunnel::{AttachmentId, Engine as Runs, Record, State, Underlay, record::NetnsRef};

use super::{Held, Holding, Registry};
use crate::{
    Result,
    config::{is_sealed, learned},
    reopen::{self, Inhabited},
};

/// How old a half-written record must be before nobody can be at work on it any more.
const LEFTOVER_AGE: Duration = Duration::from_secs(60);

/// How many tunnels are opened at a time at most. They wait more than they work: for the packet threads, which begin sessions meanwhile.
const MOST_THREADS: usize = 16;

/// What a look found out about the next one.
#[derive(Debug)]
pub struct Outlook {
    /// Every tunnel is as it should be: until something changes in [`directories`](Self::directories), or a tunnel breaks, all of
    /// this remains true.
    pub is_calm: bool,
    /// Where records and namespaces come and go.
    pub directories: BTreeSet<PathBuf>,
}

impl Registry {
    /// Compares the records with the node: opens what is not carried, lets go of what is gone.
    pub fn look_around(&self) -> Outlook {
        let _looks = self.shared.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut complaints: BTreeSet<String> =
            self.shared.store.sweep(LEFTOVER_AGE).iter().map(ToString::to_string).collect();
        let mut complain = |error: &dyn ToString| {
            complaints.insert(error.to_string());
        };
        let listed = self.shared.store.list().unwrap_or_else(|error| vec![Err(error)]);
        let records: Vec<Record> = listed.into_iter().filter_map(|read| read.map_err(|e| complain(&e)).ok()).collect();

        let broken: BTreeSet<TunnelId> = self.shared.engine.broken().into_iter().collect();
        let inhabited = Inhabited::default();
        let held: Vec<Held> = self.lock().values().cloned().collect();
        for Held { record: Record { attachment, netns, .. }, holding } in held {
            if !self.shared.store.has(&attachment) {
                self.forget(&attachment);
            } else if is_whole(&holding, &broken) && left(&inhabited, &holding, &netns) {
                // Judged by what the agent remembers: its file may be damaged.
                self.retire(&attachment, &netns);
            }
        }
        let namespaces: Vec<NetnsRef> = records.iter().map(|record| record.netns.clone()).collect();
        let mut closed = Vec::new();
        for record in records {
            if self.shared.stopped.load(Ordering::Acquire) {
                break;
            }
            if self.held(&record.attachment).is_some_and(|held| is_whole(&held.holding, &broken)) {
                continue;
            }
            let is_wanted = record.state == State::Attached && record.spec.needs_agent();
            // Whether another namespace has taken its number shows when it is opened.
            if inhabited.has_left(&record.netns) || (!is_wanted && inhabited.is_gone(&record.netns)) {
                self.retire(&record.attachment, &record.netns);
            } else if is_wanted {
                closed.push(record);
            }
        }
        if let Err(error) = self.open_all(&closed, &broken) {
            complain(&error);
        }
        for Record { attachment, netns, .. } in &closed {
            let is_open = self.held(attachment).is_none_or(|held| held.holding.is_settled());
            if !is_open && inhabited.is_gone(netns) {
                self.retire(attachment, netns);
            }
        }
        if let Some(error) = inhabited.trouble() {
            complain(&error);
        }
        self.learn();
        let outlook = self.outlook(&namespaces, complaints.is_empty());
        self.report(complaints);
        outlook
    }

    /// Opens recorded tunnels, many at a time: after a crash all of the node's wait for this.
    ///
    /// # Errors
    /// The epochs that they begin with could not be written down. They are opened all the same.
    fn open_all(&self, closed: &[Record], broken: &BTreeSet<TunnelId>) -> Result<()> {
        // The first look of a node writes, too: what is there later is there from the beginning.
        if closed.is_empty() && self.shared.store.epoch_floor() > 0 {
            return Ok(());
        }
        let floor = closed.iter().map(|record| record.epoch_floor).max().unwrap_or_default();
        let epoch = self.next_epoch(floor);
        // To disk first, in one write for all: an incarnation that was not recorded could be repeated.
        let recorded = self.shared.store.raise_epoch_floor(epoch);
        let groups = by_namespace(closed);
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.open_group(group, broken, epoch);
            }
        };
        thread::scope(|scope| {
            for _ in 1..MOST_THREADS.min(groups.len()) {
                // Those that cannot be had are done without.
                let _ = thread::Builder::new().name("adit-open".into()).spawn_scoped(scope, work);
            }
            work();
        });
        Ok(recorded?)
    }

    /// Opens tunnels of one namespace, which is entered once for all of them.
    fn open_group(&self, group: &[&Record], broken: &BTreeSet<TunnelId>, epoch: u64) {
        let Some(first) = group.first() else { return };
        let mut left = group.to_vec();
        if group.len() > 1 {
            let inside = reopen::within(&first.netns, || {
                left.retain(|record| !self.open(&record.attachment, broken, epoch, Some(&first.netns)));
                Ok(())
            });
            if let Err(error) = inside {
                tracing::debug!("cannot open the tunnels of {} together: {error}", first.netns.path.display());
            }
        }
        for record in left {
            self.open(&record.attachment, broken, epoch, None);
        }
    }

    fn outlook(&self, namespaces: &[NetnsRef], nothing_to_complain: bool) -> Outlook {
        let all_carried = self.lock().values().all(|held| held.holding.is_settled());
        // A pod's last process ends without a change in any directory.
        let was_cut_short = self.shared.stopped.load(Ordering::Acquire);
        let is_calm = nothing_to_complain && !was_cut_short && all_carried && namespaces.iter().all(reopen::is_mounted);
        let mut directories: BTreeSet<PathBuf> =
            namespaces.iter().filter_map(|netns| Some(netns.path.parent()?.to_owned())).collect();
        directories.insert(self.shared.store.directory().to_owned());
        Outlook { is_calm, directories }
    }

    /// Writes down where peers are that have moved, so that the next agent finds them; at most once a look, however often they move.
    pub(super) fn learn(&self) {
        let held: Vec<Held> = self.lock().values().filter(|held| is_sealed(&held.record)).cloned().collect();
        for Held { record, holding } in held {
            let Holding::Carried(id) = holding else { continue };
            let Ok(stats) = self.shared.engine.stats(id) else { continue };
            let learned = learned(&record, &stats);
            if learned == record.learned {
                continue;
            }
            let _claim = self.shared.claims.claim(&record.attachment);
            // A plugin may have removed or replaced it since.
            let Ok(Some(recorded)) = self.shared.store.read(&record.attachment) else { continue };
            let is_carried = self.held(&record.attachment).is_some_and(|held| held.holding == holding);
            if !is_carried || recorded.created_ns != record.created_ns {
                continue;
            }
            let record = Record { learned, ..recorded };
            match self.shared.store.write(&record) {
                Ok(()) => self.put(record, holding),
                Err(error) => tracing::warn!("{error}"),
            }
        }
    }

    /// Lets go of a tunnel whose record somebody removed without telling.
    fn forget(&self, attachment: &AttachmentId) {
        let _claim = self.shared.claims.claim(attachment);
        if !self.shared.store.has(attachment) && self.release(attachment) {
            tracing::info!("let go of {attachment}: its record is gone");
        }
    }

    /// Lets go of a tunnel whose pod lived in `dead`, and which nobody removed: an open descriptor would keep the dead pod's
    /// addresses answering. The attachment may have been added anew since, in another namespace: that one stays.
    fn retire(&self, attachment: &AttachmentId, dead: &NetnsRef) {
        let _claim = self.shared.claims.claim(attachment);
        if self.held(attachment).is_some_and(|held| held.record.netns == *dead) {
            self.release(attachment);
        }
        if let Ok(Some(Record { netns, .. })) = self.shared.store.read(attachment)
            && netns != *dead
        {
            return;
        }
        match self.shared.store.remove(attachment) {
            Ok(()) => tracing::info!("let go of {attachment}: the namespace {} is gone", dead.path.display()),
            Err(error) => tracing::warn!("{error}"),
        }
    }

    /// Opens a recorded tunnel that is not carried, or whose descriptors are `broken`. The calling thread is in the namespace `here`, if there is
    /// one: false when the tunnel cannot be opened from there.
    fn open(
        &self,
        attachment: &AttachmentId,
        broken: &BTreeSet<TunnelId>,
        epoch: u64,
        here: Option<&NetnsRef>,
    ) -> bool {
        let _claim = self.shared.claims.claim(attachment);
        let known = self.held(attachment).map(|held| held.holding);
        if self.shared.stopped.load(Ordering::Acquire)
            || known.as_ref().is_some_and(|holding| is_whole(holding, broken))
        {
            return true;
        }
        // Since the directory was listed a plugin may have removed or replaced it.
        let Ok(Some(mut record)) = self.shared.store.read(attachment) else { return true };
        if record.state != State::Attached {
            return true;
        }
        if here.is_some_and(|here| !can_share(&record) || record.netns != *here) {
            return false;
        }
        if let Some(Holding::Carried(id)) = known {
            tracing::warn!("{attachment} is broken and opened again");
            self.put(record.clone(), Holding::Waiting("it is broken and opened again".into()));
            self.end(attachment, id);
        }
        record.epoch_floor = epoch.max(record.epoch_floor.saturating_add(1));
        match self.carry(&mut record, here.is_some()) {
            Ok(holding) => {
                tracing::info!("carrying {attachment} of pod {} again", record.pod);
                self.put(record, holding);
            }
            Err(error) => {
                let waiting = Holding::Waiting(error.to_string());
                if known.as_ref() != Some(&waiting) {
                    tracing::warn!("cannot carry {attachment}: {error}");
                }
                self.put(record, waiting);
            }
        }
        true
    }

    fn carry(&self, record: &mut Record, is_inside: bool) -> Result<Holding> {
        let known = record.spec.public_key;
        let keys = self.load_keys(record)?;
        let descriptors = (record.spec.engine == Runs::Agent).then(|| reopen::reopen(record, is_inside)).transpose()?;
        if record.spec.public_key != known {
            self.shared.store.write(record)?;
        }
        self.hold(record, keys, descriptors)
    }

    /// Logs what the look before did not complain about.
    fn report(&self, complaints: BTreeSet<String>) {
        let mut known = self.shared.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        for complaint in complaints.difference(&known) {
            tracing::warn!("{complaint}");
        }
        *known = complaints;
    }
}

/// Tunnels of one namespace together, where they can be opened so; in the order of their first ones.
fn by_namespace(records: &[Record]) -> Vec<Vec<&Record>> {
    let mut groups: Vec<Vec<&Record>> = Vec::new();
    let mut places = HashMap::new();
    for record in records {
        let place = can_share(record).then(|| *places.entry(&record.netns.path).or_insert(groups.len()));
        match place.and_then(|place| groups.get_mut(place)) {
            Some(group) => group.push(record),
            None => groups.push(vec![record]),
        }
    }
    groups
}

/// Whether all that a tunnel needs is opened in its pod's namespace, and nothing outside.
fn can_share(record: &Record) -> bool {
    record.spec.engine == Runs::Agent && record.spec.underlay == Underlay::Pod
}

/// Whether the pod is gone. Only descriptors keep its namespace, so that no other has its inode number.
fn left(inhabited: &Inhabited, holding: &Holding, netns: &NetnsRef) -> bool {
    match holding {
        Holding::Carried(_) => inhabited.has_left(netns),
        Holding::Configured | Holding::Waiting(_) => inhabited.is_gone(netns),
    }
}

/// Whether the data plane has both descriptors, or needs none.
fn is_whole(holding: &Holding, broken: &BTreeSet<TunnelId>) -> bool {
    match holding {
        Holding::Carried(id) => !broken.contains(id),
        Holding::Configured => true,
        Holding::Waiting(_) => false,
    }
}
