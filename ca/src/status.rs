//! What the CA says of itself: its certificates and their age, the rotation, and who it waits for.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::generation::Generation;
use crate::holders::Waiting;
use crate::rotation::Rotation;
use crate::service::CaService;
use crate::signer::{AuthorityCertificate, hex};
use crate::validity::{Validity, unix_seconds};

/// Percent of a life at which its certificate is worth a look, wants attention, and is about to end.
pub const ALARMS: [u8; 3] = [50, 75, 90];
/// Most proxies that are named one by one.
const NAMED: usize = 100;

/// See the module. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Whom it signs for.
    pub trust_domain: String,
    /// SHA-256 of the bundle that is trusted, in hexadecimal.
    pub bundle: String,
    /// What signs and what is trusted.
    pub certificates: Vec<CertificateStatus>,
    /// Where a rotation stands.
    pub rotation: RotationStatus,
    /// Proxies with a certificate that has not ended, and that said which process they are.
    pub proxies: usize,
    /// How many of them have not acknowledged the bundle.
    pub waiting: usize,
    /// The first hundred of those.
    pub waiting_for: Vec<Waiting>,
}

/// One certificate of the CA's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    /// `root`, `intermediate`; with `next-` or `old-` those of a root that is coming or going.
    pub name: String,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
    /// First second of its validity.
    pub not_before: u64,
    /// Last second of its validity.
    pub not_after: u64,
    /// How much of its life is over, in percent.
    pub used: u8,
    /// The highest of [`ALARMS`] that it has reached.
    pub alarm: Option<u8>,
}

/// Where a rotation stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RotationStatus {
    /// `steady`, `prepared` or `activated`.
    pub phase: String,
    /// When it came to this.
    pub since: Option<u64>,
    /// The step that comes next.
    pub next: Option<String>,
    /// Whether that step would be taken now.
    pub ready: bool,
    /// When it will be in any case.
    pub ready_at: Option<u64>,
}

impl CaService {
    /// What there is to say at `now`.
    #[must_use]
    pub fn status(&self, now: SystemTime) -> Status {
        let authority = &self.authority;
        let (signing, other) = authority.generations();
        let rotation = authority.rotation();
        let mut certificates = of(&signing, "", now);
        if let Some(other) = other {
            let prefix = match rotation {
                Rotation::Prepared { .. } => "next-",
                _ => "old-",
            };
            certificates.extend(of(&other, prefix, now));
        }
        let bundle = authority.bundle();
        let holders = &self.records.holders;
        let readiness = holders.readiness(&bundle.sha256, now);
        let seconds = unix_seconds(now).unwrap_or(0);
        let (next, acknowledged) = match rotation {
            Rotation::Steady { .. } => (None, false),
            Rotation::Prepared { .. } => {
                let unnamed = seconds <= rotation.unnamed_known_by();
                (Some("activate"), readiness.waiting == 0 && !unnamed)
            }
            Rotation::Activated { .. } => (Some("retire"), false),
        };
        let times = rotation.times();
        Status {
            trust_domain: authority.trust_domain().to_string(),
            bundle: hex(&bundle.sha256),
            certificates,
            rotation: RotationStatus {
                phase: rotation.phase().to_owned(),
                since: times.map(|(since, _)| since),
                next: next.map(str::to_owned),
                ready: acknowledged || times.is_some_and(|(_, at)| seconds > at),
                ready_at: times.map(|(_, at)| at + 1),
            },
            proxies: readiness.known,
            waiting: readiness.waiting,
            waiting_for: holders.waiting(&bundle.sha256, NAMED, now),
        }
    }
}

/// Root and intermediate of a generation.
fn of(generation: &Generation, prefix: &str, now: SystemTime) -> Vec<CertificateStatus> {
    let one = |what: &str, certificate: &AuthorityCertificate| {
        let Validity {
            not_before,
            not_after,
        } = certificate.validity;
        let used = used(certificate.validity, now);
        CertificateStatus {
            name: format!("{prefix}{what}"),
            sha256: certificate.sha256.clone(),
            not_before,
            not_after,
            used,
            alarm: ALARMS.into_iter().rfind(|level| used >= *level),
        }
    };
    let root = generation.root().map(|root| one("root", root));
    let signer = generation.signer();
    let intermediate = Some(&signer.certificate)
        .filter(|certificate| !certificate.self_issued)
        .map(|certificate| one("intermediate", certificate));
    root.into_iter().chain(intermediate).collect()
}

/// How much of a life is over, in percent.
fn used(validity: Validity, now: SystemTime) -> u8 {
    let now = unix_seconds(now).unwrap_or(0);
    let life = validity.not_after.saturating_sub(validity.not_before);
    let over = now.saturating_sub(validity.not_before).min(life);
    let percent = over.saturating_mul(100).checked_div(life).unwrap_or(100);
    u8::try_from(percent).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn a_life_is_used_up_from_its_first_second_to_its_last() {
        let validity = Validity {
            not_before: 1000,
            not_after: 2000,
        };
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        for (seconds, percent) in [
            (0, 0),
            (1000, 0),
            (1499, 49),
            (1500, 50),
            (2000, 100),
            (9000, 100),
        ] {
            assert_eq!(used(validity, at(seconds)), percent, "{seconds}");
        }
        let none = Validity {
            not_before: 5,
            not_after: 5,
        };
        assert_eq!(used(none, at(5)), 100);
    }
}
