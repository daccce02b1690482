//! The steps of a rotation, as they change what signs and what is trusted: first on the disk, then here.

use std::path::Path;
use std::sync::{Arc, RwLockWriteGuard};
use std::time::SystemTime;

use crate::authority::{Authority, AuthorityError, State};
use crate::disk;
use crate::generation::{self, Generation};
use crate::rotation::{Ends, FIRST, Readiness, Rotation, RotationError};

impl Authority {
    /// Makes the next root with its intermediate and has it trusted, but signs nothing with it yet.
    /// `ends` is when the last certificates end that were issued so far.
    ///
    /// # Errors
    /// When a rotation is under way, the root is kept elsewhere, or the disk fails.
    pub fn prepare(
        &self,
        ends: impl FnOnce() -> Ends,
        now: SystemTime,
    ) -> Result<(), RotationError> {
        let (_turn, dir) = self.change()?;
        let _lock = disk::lock(dir).map_err(AuthorityError::from)?;
        let state = self.state.load_full();
        let name = unused(dir, &state.rotation);
        let rotation = state.rotation.prepare(name.clone(), ends(), now)?;
        let at = Rotation::place(dir, &name);
        disk::private_dir(&at).map_err(AuthorityError::from)?;
        // Left from a step that was interrupted before it was written.
        generation::remove(&at)?;
        let next = Generation::create_or_load(&at, self.trust_domain(), now)?;
        rotation.save(dir)?;
        self.put(rotation, state.signing.clone(), Some(Arc::new(next)))?;
        Ok(())
    }

    /// Signs with the new root's intermediate, once everybody has the bundle of this SHA-256 (`ready`
    /// says who has). `old_ends` (seconds since 1970) is when the last certificate ends that was issued
    /// so far.
    ///
    /// # Errors
    /// [`RotationError::Unacknowledged`] unless `force`; when nothing is prepared; when the disk fails.
    pub fn activate(
        &self,
        ready: impl FnOnce(&[u8; 32]) -> Readiness,
        old_ends: impl FnOnce() -> u64,
        now: SystemTime,
        force: bool,
    ) -> Result<(), RotationError> {
        let (_turn, dir) = self.change()?;
        let state = self.state.load_full();
        let readiness = ready(&state.bundle.sha256);
        let rotation = state.rotation.activate(readiness, old_ends(), now, force)?;
        self.swap(dir, rotation, &state)?;
        Ok(())
    }

    /// Trusts the old root no more, and deletes its keys.
    ///
    /// # Errors
    /// [`RotationError::Unexpired`] unless `force`; when nothing is activated; when the disk fails.
    pub fn retire(&self, now: SystemTime, force: bool) -> Result<(), RotationError> {
        let (_turn, dir) = self.change()?;
        let state = self.state.load_full();
        let (rotation, gone) = state.rotation.retire(now, force)?;
        rotation.save(dir)?;
        self.put(rotation, state.signing.clone(), None)?;
        // What fails here is done at the next start, unless the rotation was aborted.
        if gone == FIRST {
            generation::remove(dir)?;
        } else {
            drop_generation(&Rotation::place(dir, &gone))?;
        }
        Ok(())
    }

    /// Goes back: drops the root that is prepared, or signs with the old one again. `new_ends` (seconds
    /// since 1970) is when the last certificate ends that was issued so far.
    ///
    /// # Errors
    /// When there is nothing to abort, or the disk fails.
    pub fn abort(
        &self,
        new_ends: impl FnOnce() -> u64,
        now: SystemTime,
    ) -> Result<(), RotationError> {
        let (_turn, dir) = self.change()?;
        let state = self.state.load_full();
        let (rotation, dropped) = state.rotation.abort(new_ends(), now)?;
        let Some(dropped) = dropped else {
            return Ok(self.swap(dir, rotation, &state)?);
        };
        rotation.save(dir)?;
        self.put(rotation.clone(), state.signing.clone(), None)?;
        drop_generation(&Rotation::place(dir, &dropped))?;
        Ok(())
    }

    /// What signs and what is trusted besides change places.
    fn swap(&self, dir: &Path, rotation: Rotation, state: &State) -> Result<(), AuthorityError> {
        let Some(other) = state.other.clone() else {
            return Err(AuthorityError::Missing {
                path: Rotation::place(dir, rotation.signing()),
            });
        };
        rotation.save(dir)?;
        self.put(rotation, other, Some(state.signing.clone()))
    }

    /// The turn to change what signs, and where it is written.
    fn change(&self) -> Result<(RwLockWriteGuard<'_, ()>, &Path), RotationError> {
        let dir = self.dir.as_deref().ok_or(RotationError::Elsewhere)?;
        Ok((self.write(), dir))
    }
}

/// Whether there is a generation besides the first.
pub(crate) fn any(dir: &Path) -> Result<bool, AuthorityError> {
    let names = disk::names(dir)?;
    let numbered = names.iter().filter(|name| name.parse::<u32>().is_ok());
    Ok(numbered
        .into_iter()
        .any(|name| dir.join(name).join("root.pem").exists()))
}

/// A name for a generation that is none yet, known or not.
fn unused(dir: &Path, rotation: &Rotation) -> String {
    let first: u32 = rotation.unused().parse().unwrap_or(1);
    let mut numbers = first..;
    let free = numbers.find(|number| !dir.join(number.to_string()).join("root.pem").exists());
    free.unwrap_or(first).to_string()
}

/// Removes generations that were retired: those before the one that signs. What comes after it and is not
/// known is kept: it may be what signs, and the file that says so lost or old.
pub(crate) fn sweep(dir: &Path, rotation: &Rotation) -> Result<(), AuthorityError> {
    let used = |name: &str| rotation.signing() == name || rotation.other() == Some(name);
    let signing: u32 = rotation.signing().parse().unwrap_or(0);
    if !used(FIRST) {
        generation::remove(dir)?;
    }
    for name in disk::names(dir)? {
        let Ok(number) = name.parse::<u32>() else {
            continue;
        };
        if used(&name) {
            continue;
        }
        let place = dir.join(&name);
        if number < signing || !place.join("root.pem").exists() {
            drop_generation(&place)?;
        } else {
            let path = place.display();
            tracing::warn!(target: "selvedge::ca", %path, "a root that rotation.json does not know");
        }
    }
    Ok(())
}

fn drop_generation(place: &Path) -> Result<(), AuthorityError> {
    generation::remove(place)?;
    disk::remove_dir(place)?;
    Ok(())
}
