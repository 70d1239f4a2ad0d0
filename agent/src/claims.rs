//! Who works on which attachment: one at a time on each, all at once on different ones.

use std::{
    collections::BTreeSet,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use adit_tunnel::AttachmentId;

/// The attachments that somebody works on.
#[derive(Default)]
pub struct Claims {
    busy: Mutex<BTreeSet<AttachmentId>>,
    freed: Condvar,
}

/// The right to change one attachment, until it is dropped.
#[must_use = "the attachment is free again as soon as this is dropped"]
pub struct Claim<'a> {
    claims: &'a Claims,
    attachment: AttachmentId,
}

impl Claims {
    /// Waits until nobody else works on `attachment`. Who has a claim never asks for a second one.
    pub fn claim(&self, attachment: &AttachmentId) -> Claim<'_> {
        let waited = self.freed.wait_while(self.lock(), |busy| busy.contains(attachment));
        waited.unwrap_or_else(PoisonError::into_inner).insert(attachment.clone());
        Claim { claims: self, attachment: attachment.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<AttachmentId>> {
        // Changed by single inserts and removals, so it is whole whoever panicked.
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.claims.lock().remove(&self.attachment);
        self.claims.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread, time::Duration};

    use super::*;

    fn attachment(container_id: &str) -> AttachmentId {
        AttachmentId { container_id: container_id.into(), cni_if_name: "net1".into(), if_name: "tun".parse().unwrap() }
    }

    #[test]
    fn a_claim_keeps_others_from_its_attachment_and_from_no_other() {
        let claims = Claims::default();
        let (sender, done) = mpsc::channel();
        thread::scope(|scope| {
            let first = claims.claim(&attachment("c1"));
            scope.spawn(|| {
                drop(claims.claim(&attachment("c2")));
                sender.send("c2").unwrap();
                drop(claims.claim(&attachment("c1")));
                sender.send("c1").unwrap();
            });
            assert_eq!(done.recv_timeout(Duration::from_secs(10)), Ok("c2"));
            assert!(done.recv_timeout(Duration::from_millis(50)).is_err(), "c1 is claimed");
            drop(first);
            assert_eq!(done.recv_timeout(Duration::from_secs(10)), Ok("c1"));
        });
        assert!(claims.lock().is_empty());
    }
}
