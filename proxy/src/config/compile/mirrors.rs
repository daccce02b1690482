//! Filters that copy requests to other services.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use selvedge_contract::config::{Filter, MirrorComparison, Rule as RuleSpec};
use selvedge_contract::defaults::mirror::{ALWAYS_IGNORED, BODY, IGNORED, LARGEST_BODY};
use selvedge_gateway::body::Path;

use crate::protocol::http1::parse::is_token;
use crate::route::RetryPolicy;
use crate::route::mirror::{Compare, Mirror};
use crate::telemetry::comparisons::Comparisons;

use super::policies::Policies;
use super::routes::default_retry;
use super::services::Services;
use super::{At, Compiler, Pass};

/// Most services that get copies of one rule's requests.
const MOST: usize = 8;

/// What came of comparisons, by rule of the mirror.
pub(super) type Compared = BTreeMap<Arc<str>, Arc<Comparisons>>;

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
            let compare = to.compare.as_ref().map(|spec| {
                let comparisons = self.comparisons(pass, &rule.name, wanted);
                Arc::new(pass.comparison(&at.then("compare"), spec, comparisons))
            });
            mirrors.push(Arc::new(Mirror {
                rule,
                percent: to.percent,
                compare,
            }));
        }
        mirrors
    }

    /// What came of comparisons with a mirror; what came of them before, if it was the same one.
    fn comparisons(&self, pass: &mut Pass<'_>, rule: &Arc<str>, service: &str) -> Arc<Comparisons> {
        let before = pass.compared.get(rule).or_else(|| self.compared.get(rule));
        let kept = before.filter(|c| *c.service == *service).cloned();
        let kept = kept.unwrap_or_else(|| Arc::new(Comparisons::new(rule.clone(), service.into())));
        pass.compared.insert(rule.clone(), kept.clone());
        kept
    }
}

impl Pass<'_> {
    fn comparison(
        &mut self,
        at: &At,
        spec: &MirrorComparison,
        comparisons: Arc<Comparisons>,
    ) -> Compare {
        let mut ignored_headers: BTreeSet<Vec<u8>> = ALWAYS_IGNORED.map(Into::into).into();
        for (nth, name) in spec.ignore_headers.iter().enumerate() {
            if !is_token(name.as_bytes()) {
                let at = at.then("ignoreHeaders").nth(nth);
                let remedy = "expected letters, digits and `-`";
                self.error(&at, format!("`{name}` is not a header name"), remedy);
            }
            ignored_headers.insert(name.to_ascii_lowercase().into_bytes());
        }
        let mut ignored_members = Vec::new();
        for (nth, text) in spec.ignore_members.iter().enumerate() {
            let at = at.then("ignoreMembers").nth(nth);
            let path: Option<Path> = self.parse(&at, text);
            if path.as_ref().is_some_and(|path| !path.ends_in_member()) {
                let remedy = "end it with the name of a member, such as `items.*.id`";
                self.error(&at, format!("`{text}` names no member"), remedy);
            }
            ignored_members.extend(path);
        }
        for (key, count) in [
            ("ignoreHeaders", spec.ignore_headers.len()),
            ("ignoreMembers", spec.ignore_members.len()),
        ] {
            if count > IGNORED {
                let remedy = format!("expected {IGNORED} at most");
                self.error(&at.then(key), format!("{count} of them"), remedy);
            }
        }
        let compared = spec.body.unwrap_or(true);
        if !compared && (spec.max_body.is_some() || !spec.ignore_members.is_empty()) {
            let remedy = "remove `body: false`, or what is said of bodies";
            self.error(at, "bodies are not compared", remedy);
        }
        let largest = spec.max_body.map_or(BODY as u64, |size| size.0);
        let body = usize::try_from(largest).ok();
        let body = body.filter(|size| (1..=LARGEST_BODY).contains(size));
        if body.is_none() {
            let message = format!("{largest} bytes cannot be held");
            self.error(&at.then("maxBody"), message, "expected 1 to 1MiB");
        }
        Compare {
            ignored_headers,
            ignored_members,
            body: body.filter(|_| compared),
            comparisons,
        }
    }
}
