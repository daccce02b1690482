//! Filters that copy requests to other services.

use std::sync::Arc;
use std::time::Duration;

use selvedge_contract::config::{Filter, Rule as RuleSpec};

use crate::route::RetryPolicy;
use crate::route::mirror::Mirror;

use super::policies::Policies;
use super::routes::default_retry;
use super::services::Services;
use super::{At, Compiler, Pass};

/// Most services that get copies of one rule's requests.
const MOST: usize = 8;

impl Compiler {
    /// The mirrors of a rule.
    pub(super) fn mirrors(
        &mut self,
        pass: &mut Pass<'_>,
        at: &At,
        name: &str,
        spec: &RuleSpec,
        services: &Services,
    ) -> Vec<Arc<Mirror>> {
        let mut mirrors = Vec::new();
        for (index, filter) in spec.filters.iter().enumerate() {
            let Filter::RequestMirror { request_mirror: to } = filter else {
                continue;
            };
            let at = at.then("filters").nth(index).then("requestMirror");
            if !(0.0..=100.0).contains(&to.percent) {
                let told = format!("{} in a hundred", to.percent);
                pass.error(&at.then("percent"), told, "expected 0 to 100");
            }
            if mirrors.len() == MOST {
                let remedy = format!("expected {MOST} at most");
                pass.error(&at, "too many mirrors", remedy);
            }
            let wanted = &to.backend_ref.service;
            let Some((_, service)) = services.get(wanted) else {
                // One that exists but has errors was reported where it stands.
                if !pass.config.services.contains_key(wanted) {
                    let known = pass.config.services.keys().map(String::as_str);
                    let at = at.then("backendRef").then("service");
                    pass.dangling(&at, "service", wanted, known);
                }
                continue;
            };
            let name = format!("{name}/mirror-{index}");
            let once = RetryPolicy {
                attempts: 0,
                ..default_retry()
            };
            let (plain, off) = (Policies::default(), Duration::ZERO);
            let rule = self.simple_rule((&name, &name), service, plain, off, once);
            let percent = to.percent;
            mirrors.push(Arc::new(Mirror { rule, percent }));
        }
        mirrors
    }
}
