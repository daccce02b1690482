//! Part of stage 6, policy: user and password of a request (RFC 7617). Hashes of passwords are slow
//! on purpose, so they are made beside the path, a few at a time, and what came of it is remembered.

use std::sync::Arc;

use selvedge_contract::defaults::policy as defaults;
use selvedge_gateway::apikey::Consumer;
use selvedge_gateway::basic::{Claimed, Users};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::error::ErrorKind;
use crate::message::{Known, RequestHead};

use super::flights::Flights;
use super::guard::{Found, Notes, Seen, Stop};

/// A compiled policy.
#[derive(Debug)]
pub struct Basic {
    /// Name of the policy.
    pub name: Arc<str>,
    /// What clients are asked with.
    pub challenge: String,
    /// The header with the user's name.
    pub name_header: String,
    /// Passes the password on.
    pub forward: bool,
    /// The users.
    pub users: Arc<Users>,
    /// Secret of the hashes that tell claims apart.
    pub secret: [u8; 32],
    /// What came of claims; none where a verification found no place in time.
    pub verified: Arc<Flights<Option<bool>>>,
}

/// Verifications that go on at a time, in the whole process: each takes a processor, and argon2id
/// its memory.
static PLACES: Semaphore = Semaphore::const_new(defaults::PASSWORDS_AT_ONCE);

impl Basic {
    /// Lets a request pass that brings a user's password, and notes what the application is told.
    ///
    /// # Errors
    /// [`Stop::Refused`] with 401, or 503 where verifications find no place in time; [`Stop::Wait`]
    /// while one goes on.
    pub fn check(self: &Arc<Self>, seen: &mut Seen<'_>, notes: &mut Notes) -> Result<(), Stop> {
        let Some(claimed) = token(seen.head).and_then(Claimed::read) else {
            return Err(self.refuse(notes));
        };
        let key = claimed.fingerprint(&self.secret);
        let verified = match seen.found.take() {
            Some(Found::Basic(verified)) => verified,
            _ => match self.verified.known(&key) {
                Some(verified) => verified,
                None => {
                    let this = self.clone();
                    return Err(Stop::wait(async move {
                        let users = this.users.clone();
                        let work = move || verify(users, claimed);
                        let verified = this.verified.join(key, work).await;
                        Found::Basic(verified.flatten())
                    }));
                }
            },
        };
        match verified {
            None => return Err(ErrorKind::Overloaded.into()),
            Some(false) => {
                tracing::debug!(policy = %self.name, user = claimed.user, "refused");
                return Err(self.refuse(notes));
            }
            Some(true) => {}
        }
        if !self.forward {
            notes.remove(b"Authorization");
        }
        notes.remove(self.name_header.as_bytes());
        notes.append(self.name_header.as_bytes(), claimed.user.as_bytes());
        seen.consumer = Some(Consumer::named(claimed.user, None));
        Ok(())
    }

    fn refuse(&self, notes: &mut Notes) -> Stop {
        let challenge = self.challenge.as_bytes();
        notes.fields.append(b"WWW-Authenticate", challenge);
        ErrorKind::Unauthenticated.into()
    }
}

/// Verifies beside the path, and says for how long that counts.
async fn verify(users: Arc<Users>, claimed: Claimed) -> (Option<bool>, std::time::Duration) {
    let Ok(Ok(place)) = timeout(defaults::PASSWORD_WAIT, PLACES.acquire()).await else {
        return (None, std::time::Duration::ZERO);
    };
    let work = tokio::task::spawn_blocking(move || {
        let verified = users.verify(&claimed);
        // Until it is done, whoever asked for it may be gone.
        drop(place);
        verified
    });
    match work.await.ok() {
        Some(true) => (Some(true), defaults::PASSWORD_KEPT),
        other => (other, defaults::PASSWORD_REFUSED),
    }
}

/// What stands after `Basic`, where that is there once.
fn token(head: &RequestHead) -> Option<&[u8]> {
    let mut fields = head.fields.all(Known::Authorization);
    let value = fields.next().filter(|_| fields.next().is_none())?;
    let (scheme, token) = value.split_at_checked(6)?;
    scheme.eq_ignore_ascii_case(b"basic ").then_some(token)
}
