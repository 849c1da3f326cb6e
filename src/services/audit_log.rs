//! Audit entries about users, outside of any session.

use std::sync::Arc;

use super::deferred_writes::DeferredWrites;
use super::store::{SessionStore, StoreError};
use crate::client_info::ClientInfo;
use crate::clock::Clock;
use crate::identity::Subject;
use crate::models::audit::{AuditEntry, AuditEvent};
use crate::models::user::UserId;

/// Writes audit entries about users. Entries about sessions are written by the store, in the
/// transaction that creates or terminates the session.
#[derive(Clone)]
pub struct AuditLog {
    store: Arc<dyn SessionStore>,
    clock: Arc<dyn Clock>,
    deferred: DeferredWrites,
}

impl AuditLog {
    pub(super) fn new(store: Arc<dyn SessionStore>, clock: Arc<dyn Clock>, deferred: DeferredWrites) -> Self {
        Self { store, clock, deferred }
    }

    /// Records an event of a user, caused by `client`.
    ///
    /// # Errors
    ///
    /// If the store fails. The entry is then not written.
    pub async fn record(
        &self,
        event: AuditEvent,
        user: UserId,
        client: &ClientInfo,
    ) -> Result<(), StoreError> {
        let entry = AuditEntry::new(self.clock.now(), event, client.clone());
        self.store.record(&[AuditEntry { user: Some(user.into()), ..entry }]).await
    }

    /// Records a failed sign-in with a deferred write. `user` is the user of the given address, if
    /// there is one.
    pub fn record_failed_login(&self, user: Option<UserId>, client: &ClientInfo) {
        let entry = AuditEntry::new(self.clock.now(), AuditEvent::LoginFailed, client.clone());
        self.deferred.push_audit(AuditEntry { user: user.map(Subject::from), ..entry });
    }
}

impl std::fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuditLog").finish_non_exhaustive()
    }
}
