//! How a root is replaced: a second generation is prepared and distributed, then signs, then the first
//! is retired. Each step is one file that is replaced whole, so a crash leaves the step before or after.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::authority::AuthorityError;
use crate::disk;
use crate::signer::Flaw;
use crate::validity::unix_seconds;

/// Where the step is written.
const FILE: &str = "rotation.json";
/// The generation that came first; its files are in the CA's directory itself.
pub(crate) const FIRST: &str = ".";

/// Where a rotation stands. Generations are directories; `.` is the one that came first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "camelCase", deny_unknown_fields)]
pub(crate) enum Rotation {
    /// One root, and nothing under way.
    Steady { signing: String },
    /// A second root is trusted too, and signs nothing yet.
    #[serde(rename_all = "camelCase")]
    Prepared {
        signing: String,
        next: String,
        /// Seconds since 1970.
        since: u64,
        /// By then every certificate has ended whose owner was not given the second root with it.
        all_known_by: u64,
        /// The same of certificates whose owners cannot say what they have.
        #[serde(default)]
        unnamed_known_by: u64,
    },
    /// The second root signs; what the first one signed is still trusted.
    #[serde(rename_all = "camelCase")]
    Activated {
        signing: String,
        old: String,
        since: u64,
        /// By then the last certificate under the old root has ended.
        old_ends: u64,
    },
}

/// Why a step is not taken. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// There is nothing to take this step from.
    #[error("the rotation is {phase}: {why}")]
    Phase {
        /// Where it stands.
        phase: &'static str,
        /// What would have to come first.
        why: &'static str,
    },
    /// Not all proxies have the new bundle yet.
    #[error(
        "{waiting} of {known} proxies have not acknowledged the new bundle; all certificates from before it end {}",
        until(*.ends)
    )]
    Unacknowledged {
        /// How many have not.
        waiting: usize,
        /// How many there are.
        known: usize,
        /// When the step is safe in any case.
        ends: SystemTime,
    },
    /// Owners of certificates who cannot say which bundle they have may not have the new one.
    #[error(
        "callers that cannot say which bundle they have hold certificates from before it until {}",
        until(*.ends)
    )]
    Unnamed {
        /// When the last of those ends.
        ends: SystemTime,
    },
    /// Certificates under the old root are still valid.
    #[error("certificates under the old root are valid until {}", until(*.ends))]
    Unexpired {
        /// When the last one ends.
        ends: SystemTime,
    },
    /// The root is not this CA's to replace.
    #[error("the root's key is elsewhere: replace the files that were given")]
    Elsewhere,
    /// The disk, or what is on it.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

/// A time for people, in UTC.
fn until(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = rcgen::date_time_ymd(1970, 1, 1) + seconds;
    let (hour, minute, second) = at.to_hms();
    format!("{} {hour:02}:{minute:02}:{second:02} UTC", at.date())
}

/// When the last certificate ends that was issued so far, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Of all.
    pub all: u64,
    /// Of those whose owners did not say which process they are, or were too many to remember.
    pub unnamed: u64,
}

/// What is known of the proxies when a step is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Readiness {
    /// Proxies with a certificate that has not ended.
    pub known: usize,
    /// Those that have not acknowledged the bundle in force.
    pub waiting: usize,
}

impl Rotation {
    /// The one that is written in `dir`; steady where none ever was.
    pub(crate) fn load(dir: &Path) -> Result<Self, AuthorityError> {
        let path = dir.join(FILE);
        let Some(text) = disk::read_public(&path)? else {
            return Ok(Self::Steady {
                signing: FIRST.to_owned(),
            });
        };
        let damaged = || AuthorityError::File {
            path: path.clone(),
            flaw: Flaw::Rotation,
        };
        let rotation: Self = serde_json::from_str(&text).map_err(|_| damaged())?;
        let named = |name: &str| name == FIRST || name.parse::<u32>().is_ok_and(|n| n > 0);
        if rotation.generations().all(named) {
            return Ok(rotation);
        }
        Err(damaged())
    }

    /// Whether one was ever written in `dir`.
    pub(crate) fn is_written(dir: &Path) -> bool {
        dir.join(FILE).exists()
    }

    pub(crate) fn save(&self, dir: &Path) -> Result<(), AuthorityError> {
        let path = dir.join(FILE);
        let text = serde_json::to_string_pretty(self).map_err(|_| AuthorityError::File {
            path: path.clone(),
            flaw: Flaw::Rotation,
        })?;
        disk::write_whole(&path, &(text + "\n"), 0o600)?;
        Ok(())
    }

    /// One word for people.
    pub(crate) const fn phase(&self) -> &'static str {
        match self {
            Self::Steady { .. } => "steady",
            Self::Prepared { .. } => "prepared",
            Self::Activated { .. } => "activated",
        }
    }

    /// Whether the new root signs, and the old one is only trusted.
    pub(crate) const fn is_activated(&self) -> bool {
        matches!(self, Self::Activated { .. })
    }

    /// The generation that signs.
    pub(crate) fn signing(&self) -> &str {
        match self {
            Self::Steady { signing }
            | Self::Prepared { signing, .. }
            | Self::Activated { signing, .. } => signing,
        }
    }

    /// The one that is trusted besides.
    pub(crate) fn other(&self) -> Option<&str> {
        match self {
            Self::Steady { .. } => None,
            Self::Prepared { next, .. } => Some(next),
            Self::Activated { old, .. } => Some(old),
        }
    }

    /// When it came to this, and when the next step is safe in any case.
    pub(crate) const fn times(&self) -> Option<(u64, u64)> {
        match self {
            Self::Steady { .. } => None,
            Self::Prepared {
                since,
                all_known_by,
                ..
            } => Some((*since, *all_known_by)),
            Self::Activated {
                since, old_ends, ..
            } => Some((*since, *old_ends)),
        }
    }

    /// The directory of a generation.
    pub(crate) fn place(dir: &Path, name: &str) -> PathBuf {
        if name == FIRST {
            return dir.to_owned();
        }
        dir.join(name)
    }

    fn generations(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.signing()).chain(self.other())
    }

    /// A name for a generation that is neither of these.
    pub(crate) fn unused(&self) -> String {
        let used = self.generations().filter_map(|name| name.parse().ok());
        (used.max().unwrap_or(0_u32) + 1).to_string()
    }

    /// Beginning with `next`, whose root everybody who is given a certificate from now on knows.
    pub(crate) fn prepare(
        &self,
        next: String,
        ends: Ends,
        now: SystemTime,
    ) -> Result<Self, RotationError> {
        let Self::Steady { signing } = self else {
            let why = "finish or abort it first";
            return Err(self.refuse(why));
        };
        Ok(Self::Prepared {
            signing: signing.clone(),
            next,
            since: unix_seconds(now).unwrap_or(0),
            all_known_by: ends.all,
            unnamed_known_by: ends.unnamed,
        })
    }

    /// When certificates end whose owners cannot say whether they know the second root.
    pub(crate) const fn unnamed_known_by(&self) -> u64 {
        match self {
            Self::Prepared {
                unnamed_known_by, ..
            } => *unnamed_known_by,
            _ => 0,
        }
    }

    /// The new root signs: once all have its certificate, or whoever might not have it has none of ours.
    pub(crate) fn activate(
        &self,
        readiness: Readiness,
        old_ends: u64,
        now: SystemTime,
        force: bool,
    ) -> Result<Self, RotationError> {
        let Self::Prepared {
            signing,
            next,
            all_known_by,
            unnamed_known_by,
            ..
        } = self
        else {
            return Err(self.refuse("only what is prepared can be activated"));
        };
        let seconds = unix_seconds(now).unwrap_or(0);
        if !force && seconds <= *unnamed_known_by {
            let ends = UNIX_EPOCH + Duration::from_secs(*unnamed_known_by);
            return Err(RotationError::Unnamed { ends });
        }
        if !force && readiness.waiting > 0 && seconds <= *all_known_by {
            return Err(RotationError::Unacknowledged {
                waiting: readiness.waiting,
                known: readiness.known,
                ends: UNIX_EPOCH + Duration::from_secs(*all_known_by),
            });
        }
        Ok(Self::Activated {
            signing: next.clone(),
            old: signing.clone(),
            since: seconds,
            old_ends,
        })
    }

    /// The old root goes, once nothing is left that it signed. Gives its generation too.
    pub(crate) fn retire(
        &self,
        now: SystemTime,
        force: bool,
    ) -> Result<(Self, String), RotationError> {
        let Self::Activated {
            signing,
            old,
            old_ends,
            ..
        } = self
        else {
            return Err(self.refuse("the new root has to be activated first"));
        };
        if !force && unix_seconds(now).unwrap_or(0) <= *old_ends {
            let ends = UNIX_EPOCH + Duration::from_secs(*old_ends);
            return Err(RotationError::Unexpired { ends });
        }
        let steady = Self::Steady {
            signing: signing.clone(),
        };
        Ok((steady, old.clone()))
    }

    /// Back: what is prepared is dropped, and its generation given; what is activated signs no more, and
    /// is then the one to be retired. `new_ends`: when the last certificate under it ends.
    pub(crate) fn abort(
        &self,
        new_ends: u64,
        now: SystemTime,
    ) -> Result<(Self, Option<String>), RotationError> {
        match self {
            Self::Steady { .. } => Err(self.refuse("there is nothing to abort")),
            Self::Prepared { signing, next, .. } => {
                let steady = Self::Steady {
                    signing: signing.clone(),
                };
                Ok((steady, Some(next.clone())))
            }
            Self::Activated { signing, old, .. } => {
                let back = Self::Activated {
                    signing: old.clone(),
                    old: signing.clone(),
                    since: unix_seconds(now).unwrap_or(0),
                    old_ends: new_ends,
                };
                Ok((back, None))
            }
        }
    }

    const fn refuse(&self, why: &'static str) -> RotationError {
        RotationError::Phase {
            phase: self.phase(),
            why,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Readiness = Readiness {
        known: 3,
        waiting: 0,
    };
    const SOME: Readiness = Readiness {
        known: 3,
        waiting: 1,
    };

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn steady() -> Rotation {
        let signing = ".".to_owned();
        Rotation::Steady { signing }
    }

    fn prepared() -> Rotation {
        let steady = steady();
        let ends = Ends {
            all: 500,
            unnamed: 0,
        };
        steady.prepare(steady.unused(), ends, at(100)).unwrap()
    }

    #[test]
    fn the_steps_come_one_after_the_other() {
        let activated = prepared().activate(ALL, 900, at(200), false).unwrap();
        assert_eq!((activated.signing(), activated.other()), ("1", Some(".")));
        let ends = Ends { all: 0, unnamed: 0 };
        assert!(activated.prepare("2".into(), ends, at(300)).is_err());
        assert!(activated.activate(ALL, 0, at(300), true).is_err());
        let early = activated.retire(at(900), false);
        assert!(matches!(early, Err(RotationError::Unexpired { .. })));
        let (done, gone) = activated.retire(at(901), false).unwrap();
        assert_eq!((done.signing(), &*gone), ("1", "."));
        assert_eq!(done.unused(), "2");
        assert!(done.retire(at(902), true).is_err());
        assert!(done.abort(0, at(902)).is_err());
        assert!(prepared().retire(at(900), true).is_err());
    }

    #[test]
    fn who_has_not_the_bundle_is_waited_for_until_it_does_not_matter() {
        let waits = prepared().activate(SOME, 900, at(500), false);
        let told = waits.unwrap_err().to_string();
        let want = "1 of 3 proxies have not acknowledged the new bundle; \
                    all certificates from before it end 1970-01-01 00:08:20 UTC";
        assert_eq!(told, want);
        assert!(prepared().activate(SOME, 900, at(501), false).is_ok());
        assert!(prepared().activate(SOME, 900, at(101), true).is_ok());
    }

    #[test]
    fn who_cannot_say_what_it_has_is_waited_out() {
        let ends = Ends {
            all: 500,
            unnamed: 400,
        };
        let prepared = steady().prepare("1".into(), ends, at(100)).unwrap();
        let waits = prepared.activate(ALL, 900, at(400), false);
        assert!(matches!(waits, Err(RotationError::Unnamed { .. })));
        assert!(prepared.activate(ALL, 900, at(401), false).is_ok());
        assert!(prepared.activate(ALL, 900, at(101), true).is_ok());
    }

    #[test]
    fn a_rotation_goes_back_as_safely_as_forward() {
        let (back, dropped) = prepared().abort(0, at(200)).unwrap();
        assert_eq!((back, dropped.as_deref()), (steady(), Some("1")));
        let activated = prepared().activate(ALL, 900, at(200), false).unwrap();
        let (back, dropped) = activated.abort(700, at(300)).unwrap();
        assert_eq!(
            (back.signing(), back.other(), dropped),
            (".", Some("1"), None)
        );
        assert!(back.retire(at(700), false).is_err());
        let (done, gone) = back.retire(at(701), false).unwrap();
        assert_eq!((done, &*gone), (steady(), "1"));
    }

    #[test]
    fn what_is_written_is_read_again_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Rotation::load(dir.path()).unwrap(), steady());
        for rotation in [
            steady(),
            prepared(),
            prepared().activate(ALL, 9, at(1), true).unwrap(),
        ] {
            rotation.save(dir.path()).unwrap();
            assert_eq!(Rotation::load(dir.path()).unwrap(), rotation);
        }
        for text in [
            "",
            "{}",
            r#"{"phase":"steady","signing":"../../etc"}"#,
            r#"{"phase":"steady","signing":"0"}"#,
            r#"{"phase":"steady","signing":".","more":1}"#,
        ] {
            std::fs::write(dir.path().join(FILE), text).unwrap();
            assert!(Rotation::load(dir.path()).is_err(), "{text}");
        }
    }
}
