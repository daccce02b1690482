//! Policies of the configuration that become guards.

use std::sync::Arc;

use selvedge_contract::config::{AddressPolicy, ApiKeyPolicy, Cors as CorsSpec, RateLimit};
use selvedge_gateway::address::{Range, Ranges};
use selvedge_gateway::apikey::{Keys, Store};
use selvedge_gateway::cors::Origins;

use crate::message::Known;
use crate::policy::api_key::{ApiKey, Place};
use crate::policy::cors::Cors;
use crate::policy::guard::Addresses;
use crate::policy::limit::Limit;
use crate::protocol::http1::parse::is_token;

use super::{At, Pass};

impl Pass<'_> {
    /// An `address` policy.
    pub(super) fn addresses(&mut self, at: &At, name: &str, spec: &AddressPolicy) -> Addresses {
        let mut ranges = Ranges::default();
        for (key, list, passes) in [("deny", &spec.deny, false), ("allow", &spec.allow, true)] {
            for (index, text) in list.iter().enumerate() {
                let at = at.then(key).nth(index);
                let range: Option<Range> = self.parse(&at, text);
                let before = range.and_then(|range| ranges.insert(range, passes));
                if before.is_some_and(|before| before != passes) {
                    let message = format!("`{text}` is both allowed and denied");
                    self.error(&at, message, "remove it from one of the lists");
                }
            }
        }
        if ranges.is_empty() {
            let remedy = "add ranges to `allow` or `deny`";
            self.error(at, "a policy by address without addresses", remedy);
        }
        Addresses {
            name: Arc::from(name),
            ranges,
            others: spec.allow.is_empty(),
        }
    }

    /// A `rateLimit` policy.
    pub(super) fn limit(&mut self, at: &At, name: &str, spec: &RateLimit) -> Limit {
        let by = self.by(at, spec.key.as_ref());
        let burst = spec.burst.unwrap_or(spec.rate.count);
        let cost = spec.cost.unwrap_or(1);
        if burst == 0 {
            self.error(
                &at.then("burst"),
                "nothing would ever pass",
                "expected 1 or more",
            );
        }
        if cost > burst {
            let remedy = "expected no more than `burst`";
            self.error(&at.then("cost"), "nothing would ever pass", remedy);
        }
        let (count, period) = (spec.rate.count, spec.rate.period);
        let mut limit = Limit::new(Arc::from(name), by, count, period, burst);
        for (plan, spec) in &spec.plans {
            let burst = spec.burst.unwrap_or(spec.rate.count);
            if burst < cost.max(1) {
                let at = at.then("plans").then(plan).then("burst");
                self.error(
                    &at,
                    "nothing would ever pass",
                    "expected no less than `cost`",
                );
            }
            let rate = Limit::rate(name, spec.rate.count, spec.rate.period, burst);
            limit.plans.insert(plan.clone(), rate);
        }
        limit.plan = self.plan(at, spec.plan.as_deref());
        limit.shared = self.shared(at, spec);
        limit.cost = cost;
        limit.shadow = spec.shadow;
        limit
    }

    /// An `apiKey` policy.
    pub(super) fn api_key(&mut self, at: &At, name: &str, spec: &ApiKeyPolicy) -> Option<ApiKey> {
        let mut places = Vec::new();
        places.extend(spec.header.clone().map(Place::Header));
        places.extend(spec.query.clone().map(Place::Query));
        places.extend(spec.cookie.clone().map(Place::Cookie));
        if places.is_empty() {
            places.push(Place::Header("X-API-Key".to_owned()));
        }
        let name_header = spec
            .name_header
            .clone()
            .unwrap_or_else(|| "X-Consumer".to_owned());
        for header in spec.header.iter().chain([&name_header]) {
            if !is_token(header.as_bytes()) || Known::classify(header.as_bytes()).is_hop_by_hop() {
                let message = format!("`{header}` is not a header for this");
                self.error(at, message, "expected a name such as `X-API-Key`");
            }
        }
        let read = std::fs::read(&spec.file).map_err(|e| e.to_string());
        let store =
            read.and_then(|text| serde_json::from_slice::<Store>(&text).map_err(|e| e.to_string()));
        let keys = store.and_then(|store| Keys::of(&store).map_err(|e| e.to_string()));
        match keys {
            Ok(keys) => Some(ApiKey {
                name: Arc::from(name),
                places,
                name_header,
                forward: spec.forward.unwrap_or(false),
                keys,
            }),
            Err(error) => {
                let message = format!("`{}`: {error}", spec.file);
                let remedy = "make it by `selvedge apikey new --file FILE --name NAME`";
                self.error(&at.then("file"), message, remedy);
                None
            }
        }
    }

    /// A `cors` policy.
    pub(super) fn cors(&mut self, at: &At, spec: &CorsSpec) -> Cors {
        let mut origins = Origins::default();
        for (index, text) in spec.allow_origins.iter().enumerate() {
            if let Err(error) = origins.add(text) {
                let at = at.then("allowOrigins").nth(index);
                self.error(
                    &at,
                    format!("`{text}` is no origin"),
                    format!("expected {error}"),
                );
            }
        }
        if spec.allow_origins.is_empty() {
            let remedy = "add `allowOrigins`";
            self.error(at, "no origin may call", remedy);
        }
        if origins.any() && spec.allow_credentials {
            let message = "with credentials for every origin, every page acts as the user";
            let remedy = "name the origins, or leave out the credentials";
            self.error(&at.then("allowCredentials"), message, remedy);
        }
        let headers = [
            ("allowHeaders", &spec.allow_headers),
            ("exposeHeaders", &spec.expose_headers),
        ];
        for (key, list) in headers {
            for (index, name) in list.iter().enumerate() {
                if !is_token(name.as_bytes()) {
                    let at = at.then(key).nth(index);
                    let message = format!("`{name}` is not a header name");
                    self.error(&at, message, "expected letters, digits and `-`, or `*`");
                }
            }
        }
        for (index, text) in spec.allow_methods.iter().enumerate() {
            self.method(&at.then("allowMethods").nth(index), text);
        }
        let methods = if spec.allow_methods.is_empty() {
            "GET, HEAD, POST".to_owned()
        } else {
            spec.allow_methods.join(", ")
        };
        let max_age = spec.max_age.map_or(600, |d| d.0.as_secs());
        Cors {
            origins,
            methods,
            headers: spec.allow_headers.join(", "),
            expose: spec.expose_headers.join(", "),
            max_age: max_age.to_string(),
            credentials: spec.allow_credentials,
        }
    }
}
