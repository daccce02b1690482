//! Where copies of a rule's requests go.

use std::collections::BTreeSet;
use std::sync::Arc;

use selvedge_contract::defaults::mirror::{AT_ONCE as COMPARED_AT_ONCE, HELD_BYTES};
use selvedge_gateway::body::Path;

use crate::balance::caps::Caps;
use crate::telemetry::comparisons::Comparisons;

use super::Rule;

/// Copies on their way to a service at a time: a service that is slow to take them must not hold the memory of those that
/// are not its callers.
const AT_ONCE: u32 = 64;

/// One service that gets copies.
#[derive(Debug)]
pub struct Mirror {
    /// To that service, without policies and retries.
    pub rule: Arc<Rule>,
    /// Of so many requests in a hundred.
    pub percent: f64,
    /// What it answers is compared with what the client gets.
    pub compare: Option<Arc<Compare>>,
}

/// How answers are compared.
#[derive(Debug)]
pub struct Compare {
    /// Headers that may differ, in lower case.
    pub ignored_headers: BTreeSet<Vec<u8>>,
    /// Members of JSON bodies that may differ.
    pub ignored_members: Vec<Path>,
    /// Bytes of a body that is compared; `None`: bodies are not.
    pub body: Option<usize>,
    /// What came of it.
    pub comparisons: Arc<Comparisons>,
}

impl Compare {
    /// Comparisons at a time: each holds two bodies.
    #[must_use]
    pub fn at_once(&self) -> usize {
        let held = 2 * self.body.unwrap_or(0).max(1);
        (HELD_BYTES / held).clamp(1, COMPARED_AT_ONCE)
    }
}

/// One copy that is under way.
#[derive(Debug)]
pub struct UnderWay(Arc<Mirror>);

impl Mirror {
    /// Whether this request is to be copied.
    #[must_use]
    pub fn wants(&self) -> bool {
        fastrand::f64() * 100.0 < self.percent
    }

    /// Of the service, where copies from all rules that mirror to it are counted.
    fn caps(&self) -> Option<&Caps> {
        let backend = self.rule.backends.first()?;
        Some(&backend.service.caps)
    }

    /// The right to send one more copy; `None`: too many are under way.
    #[must_use]
    pub fn admit(self: &Arc<Self>) -> Option<UnderWay> {
        let room = self.caps()?.begin_copy(AT_ONCE);
        room.then(|| UnderWay(self.clone()))
    }
}

impl UnderWay {
    /// Where it goes.
    #[must_use]
    pub fn mirror(&self) -> &Mirror {
        &self.0
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(caps) = self.0.caps() {
            caps.end_copy();
        }
    }
}
