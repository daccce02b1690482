//! Rules of the configuration that answer from several services.

use std::collections::BTreeSet;

use http::{Method, StatusCode};
use selvedge_contract::config::{Aggregate as AggregateSpec, Call as CallSpec};
use selvedge_contract::defaults::policy as defaults;
use selvedge_gateway::template::{Place, Template};
use serde_json::Value;

use crate::route::Aggregate;
use crate::route::aggregate::Call;

use super::policies::Policies;
use super::services::Services;
use super::{At, Compiler, Pass};

/// What templates know beside the other calls.
const GIVEN: [&str; 3] = ["request", "claims", "consumer"];

impl Compiler {
    /// An `aggregate`.
    pub(super) fn aggregate(
        &mut self,
        pass: &mut Pass<'_>,
        at: &At,
        rule: &str,
        spec: &AggregateSpec,
        services: &Services,
    ) -> Option<Aggregate> {
        if spec.calls.is_empty() || spec.calls.len() > defaults::CALLS {
            let remedy = format!("expected 1 to {}", defaults::CALLS);
            let message = format!("{} calls", spec.calls.len());
            pass.error(&at.then("calls"), message, remedy);
        }
        let mut calls = Vec::new();
        for (name, call) in &spec.calls {
            let at = at.then("calls").then(name);
            calls.extend(self.call(pass, &at, rule, name, call, spec, services));
        }
        let template = spec.template.as_ref().and_then(|source| {
            let at = at.then("template");
            let template = pass.template(&at, source, Place::Json)?;
            pass.needs(&at, &template, spec);
            Some(template)
        });
        if calls.len() == spec.calls.len() {
            pass.check_order(at, &calls);
        }
        let failure = spec.on_failure.as_ref();
        let status = failure.map_or(502, |f| f.status);
        if !(400..600).contains(&status) {
            let remedy = "expected 400 to 599";
            let message = format!("{status} says that nothing failed");
            pass.error(&at.then("onFailure").then("status"), message, remedy);
        }
        let bodies = calls.iter().filter_map(|call| call.body.as_ref());
        let targets = calls.iter().map(|call| &call.target);
        let mut templates = targets.chain(bodies).chain(&template);
        Some(Aggregate {
            uses_headers: templates.any(Template::uses_headers),
            calls,
            timeout: spec.timeout.map_or(defaults::AGGREGATE, |d| d.0),
            template,
            partial: spec.partial.clone().unwrap_or_else(|| "partial".to_owned()),
            failure_status: StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY),
            failure_body: failure.and_then(|f| f.body.clone()),
        })
    }

    #[expect(clippy::too_many_arguments, reason = "where it stands, and what it is")]
    fn call(
        &mut self,
        pass: &mut Pass<'_>,
        at: &At,
        rule: &str,
        name: &str,
        spec: &CallSpec,
        all: &AggregateSpec,
        services: &Services,
    ) -> Option<Call> {
        if GIVEN.contains(&name) {
            let message = format!("`{name}` has a meaning of its own in templates");
            pass.error(at, message, "give the call another name");
        }
        let target = pass.template(&at.then("path"), &spec.path, Place::Target);
        if !spec.path.starts_with('/') {
            let message = format!("`{}` is not a path", spec.path);
            pass.error(&at.then("path"), message, "begin it with `/`");
        }
        let body = spec.body.as_ref();
        let body = body.and_then(|b| pass.template(&at.then("body"), b, Place::Json));
        let mut needs = BTreeSet::new();
        for (key, template) in [("path", target.as_ref()), ("body", body.as_ref())] {
            if let Some(template) = template {
                needs.extend(pass.needs(&at.then(key), template, all));
            }
        }
        let method = match &spec.method {
            Some(text) => pass.method(&at.then("method"), text)?,
            None => Method::GET,
        };
        pass.check_asked(at, &spec.service);
        let Some((_, service)) = services.get(&spec.service) else {
            // One that exists but has errors was reported where it stands.
            if !pass.config.services.contains_key(&spec.service) {
                let known = pass.config.services.keys().map(String::as_str);
                pass.dangling(&at.then("service"), "service", &spec.service, known);
            }
            return None;
        };
        let timeout = spec.timeout.map_or(defaults::CALL, |d| d.0);
        let retry = pass.retry(&at.then("retry"), spec.retry.as_ref());
        let name_of_rule = format!("{rule}/{name}");
        let rule = self.simple_rule(
            (&name_of_rule, &name_of_rule),
            service,
            Policies::default(),
            timeout,
            retry,
        );
        Some(Call {
            name: name.to_owned(),
            rule,
            method,
            target: target?,
            body,
            needs: needs.into_iter().collect(),
            timeout,
            required: spec.required.unwrap_or(spec.fallback.is_none()),
            fallback: spec.fallback.clone().unwrap_or(Value::Null),
            pick: spec.pick.clone(),
            merge: spec.merge,
        })
    }
}

impl Pass<'_> {
    /// A template.
    pub(super) fn template(&mut self, at: &At, source: &str, place: Place) -> Option<Template> {
        match Template::new(source, place) {
            Ok(template) => Some(template),
            Err(error) => {
                let remedy = "expected a template such as `/orders/{{ user.id }}`";
                self.error(at, error.to_string(), remedy);
                None
            }
        }
    }

    /// The calls that a template uses, by their place among all.
    fn needs(&mut self, at: &At, template: &Template, all: &AggregateSpec) -> BTreeSet<usize> {
        let mut needs = BTreeSet::new();
        for name in template.names() {
            if let Some(index) = all.calls.keys().position(|call| *call == name) {
                needs.insert(index);
            } else if !GIVEN.contains(&name.as_str()) {
                let known = all.calls.keys().map(String::as_str).chain(GIVEN);
                self.dangling(at, "call", &name, known);
            }
        }
        needs
    }

    /// Each call must have its turn.
    fn check_order(&mut self, at: &At, calls: &[Call]) {
        let mut done: BTreeSet<usize> = BTreeSet::new();
        loop {
            let ready = |(index, call): (usize, &Call)| {
                let may = !done.contains(&index) && call.needs.iter().all(|n| done.contains(n));
                may.then_some(index)
            };
            let next: Vec<usize> = calls.iter().enumerate().filter_map(ready).collect();
            if next.is_empty() {
                break;
            }
            done.extend(next);
        }
        let stuck = calls.iter().enumerate().filter(|(i, _)| !done.contains(i));
        let stuck: Vec<&str> = stuck.map(|(_, call)| call.name.as_str()).collect();
        if !stuck.is_empty() {
            let message = format!("`{}` wait for each other", stuck.join("`, `"));
            let remedy = "a call may use what earlier calls have answered";
            self.error(&at.then("calls"), message, remedy);
        }
    }
}
