//! Policies of the configuration that count something for each client: by what, and how many.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use selvedge_contract::config::{BandwidthPolicy, ConcurrencyPolicy, OneOrMany};
use selvedge_gateway::occupancy::Occupancy;
use tokio::time::Instant;

use crate::policy::bandwidth::{Bandwidth, Pace};
use crate::policy::by::{By, Part};
use crate::policy::concurrency::{Concurrency, SLOTS};
use crate::protocol::http1::parse::is_token;

use super::{At, Pass};

/// Policies of concurrency with what they were made from.
pub(super) type Crowds = BTreeMap<String, (ConcurrencyPolicy, Arc<Concurrency>)>;

impl Pass<'_> {
    /// What tells clients apart.
    pub(super) fn by(&mut self, at: &At, key: Option<&OneOrMany>) -> By {
        let at = at.then("key");
        By(match key {
            None => vec![Part::Address],
            Some(OneOrMany::One(text)) => self.part(&at, text).into_iter().collect(),
            Some(OneOrMany::Many(list)) => {
                let parts = list.iter().enumerate();
                parts
                    .filter_map(|(index, text)| self.part(&at.nth(index), text))
                    .collect()
            }
        })
    }

    /// The claim that names a plan; none for that of the key.
    pub(super) fn plan(&mut self, at: &At, spec: Option<&str>) -> Option<String> {
        match spec {
            None | Some("apiKey") => None,
            Some(text) => {
                let claim = text.strip_prefix("jwt.").filter(|c| !c.is_empty());
                if claim.is_none() {
                    let remedy = "expected `apiKey` or `jwt.<claim>`";
                    self.error(&at.then("plan"), format!("`{text}` names no plan"), remedy);
                }
                claim.map(str::to_owned)
            }
        }
    }

    fn part(&mut self, at: &At, text: &str) -> Option<Part> {
        match text {
            "address" => return Some(Part::Address),
            "route" => return Some(Part::Route),
            "host" => return Some(Part::Host),
            "apiKey" => return Some(Part::ApiKey),
            _ => {}
        }
        if let Some(claim) = text.strip_prefix("jwt.").filter(|c| !c.is_empty()) {
            return Some(Part::Claim(claim.to_owned()));
        }
        match text.strip_prefix("header.") {
            Some(name) if is_token(name.as_bytes()) => Some(Part::Header(name.to_owned())),
            _ => {
                let remedy = "expected `address`, `route`, `host`, `header.<name>`, `jwt.<claim>` or `apiKey`";
                self.error(at, format!("`{text}` is nothing to count by"), remedy);
                None
            }
        }
    }

    /// A `concurrency` policy. One that has not changed since the last snapshot goes on counting.
    pub(super) fn concurrency(
        &mut self,
        at: &At,
        name: &str,
        spec: &ConcurrencyPolicy,
        before: &Crowds,
    ) -> Arc<Concurrency> {
        let by = self.by(at, spec.key.as_ref());
        let plan = self.plan(at, spec.plan.as_deref());
        let plans = spec
            .plans
            .iter()
            .map(|(name, most)| (at.then("plans").then(name), *most));
        for (at, most) in plans.chain([(at.then("max"), spec.max)]) {
            if most == 0 {
                self.error(&at, "nothing would ever pass", "expected 1 or more");
            }
        }
        let policy = match before.get(name) {
            Some((same, policy)) if same == spec => policy.clone(),
            _ => Arc::new(Concurrency {
                name: Arc::from(name),
                by,
                most: spec.max,
                plans: spec.plans.clone(),
                plan,
                refused: AtomicU64::new(0),
                uncounted: AtomicU64::new(0),
                counted: Occupancy::new(SLOTS),
            }),
        };
        self.crowds
            .insert(name.to_owned(), (spec.clone(), policy.clone()));
        policy
    }

    /// A `bandwidth` policy.
    pub(super) fn bandwidth(&mut self, at: &At, spec: &BandwidthPolicy) -> Bandwidth {
        if spec.request.is_none() && spec.response.is_none() {
            let remedy = "add `request` or `response`, such as `1MiB/s`";
            self.error(at, "a policy that slows nothing down", remedy);
        }
        Bandwidth {
            by: self.by(at, spec.key.as_ref()),
            request: spec.request.map(|rate| Arc::new(Pace::new(rate.0))),
            response: spec.response.map(|rate| Arc::new(Pace::new(rate.0))),
            epoch: Instant::now(),
        }
    }
}
