//! Part of stage 6, policy: several ways to prove who calls, of which one is enough.

use std::sync::Arc;

use crate::error::{Error, ErrorKind};
use crate::message::Fields;

use super::guard::{Guard, Notes, Seen, Stop};
use super::oidc::Oidc;

/// A compiled policy.
#[derive(Debug)]
pub struct AnyOf {
    /// Name of the policy.
    pub name: Arc<str>,
    /// The ways, in order: signatures after others, since they hold the body, and a login last, since
    /// it sends those away who bring nothing.
    pub ways: Vec<Guard>,
}

/// Ways that a request has tried in vain.
#[derive(Debug, Default)]
pub struct Tried {
    ways: usize,
    /// What the client is told that it could bring.
    challenges: Fields,
    /// What tells most of why it may not.
    worst: Option<Error>,
}

impl Tried {
    fn add(&mut self, error: Error, challenges: &Fields) {
        self.ways += 1;
        for field in challenges.iter() {
            self.challenges.append(field.name, field.value);
        }
        let weight = |error: &Error| match error.kind {
            ErrorKind::Unauthenticated => 0,
            ErrorKind::Denied => 1,
            // Nothing can be said of this way: it may have been the right one.
            _ => 2,
        };
        let known = self.worst.as_ref().map(weight);
        if known.is_none_or(|known| known < weight(&error)) {
            self.worst = Some(error);
        }
    }
}

impl AnyOf {
    /// The login among the ways.
    #[must_use]
    pub fn oidc(&self) -> Option<&Arc<Oidc>> {
        self.ways.iter().find_map(|way| match way {
            Guard::Oidc(oidc) => Some(oidc),
            _ => None,
        })
    }

    /// Bytes of a body that some way would look at.
    fn largest(&self) -> usize {
        let signatures = self.ways.iter().filter_map(|way| match way {
            Guard::Signature(policy) => Some(policy.largest),
            _ => None,
        });
        signatures.max().unwrap_or_default()
    }

    /// Has all that other ways look at, or would tell, removed from the request: nobody has verified it.
    fn disown(&self, taken: &Guard, notes: &mut Notes) {
        for name in self.ways.iter().flat_map(Guard::told) {
            notes.remove(name.as_bytes());
        }
        // What is not to be forwarded the way itself removes.
        let kept = taken.brings();
        let others = self.ways.iter().filter(|way| !std::ptr::eq(*way, taken));
        for brought in others.flat_map(Guard::brings) {
            if !kept.iter().any(|kept| kept.is(brought)) {
                brought.remove(notes);
            }
        }
    }

    /// Lets a request pass that one of the ways lets pass. What the others would tell the application
    /// is removed, whoever wrote it.
    ///
    /// # Errors
    /// What the ways say: that the client must wait, or is answered; where none lets it pass, the
    /// gravest of their refusals, with the challenges of all.
    pub fn check(&self, seen: &mut Seen<'_>, notes: &mut Notes) -> Result<(), Stop> {
        let path = seen.head.target.path();
        if let Some(oidc) = self.oidc()
            && (path == oidc.callback || path == oidc.logout)
        {
            return oidc.check(seen, notes);
        }
        while let Some(way) = self.ways.get(seen.tried.ways) {
            let mut own = Notes::default();
            match way.check(seen, &mut own) {
                Ok(()) => {
                    self.disown(way, notes);
                    notes.merge(own);
                    seen.tried = Tried::default();
                    return Ok(());
                }
                Err(Stop::Refused(error)) => {
                    seen.found = None;
                    notes.conceal |= own.conceal;
                    seen.tried.add(error, &own.fields);
                }
                // One way's limit is no reason against another's.
                Err(Stop::Body(most)) => return Err(Stop::Body(self.largest().max(most))),
                Err(stop) => {
                    if matches!(stop, Stop::Answered(_)) {
                        notes.merge(own);
                    }
                    return Err(stop);
                }
            }
        }
        let tried = std::mem::take(&mut seen.tried);
        for field in tried.challenges.iter() {
            notes.fields.append(field.name, field.value);
        }
        tracing::debug!(policy = %self.name, "refused by all ways");
        let worst = tried.worst.unwrap_or(ErrorKind::Unauthenticated.into());
        Err(Stop::Refused(worst))
    }
}
