//! Active health checks of services, every default filled in.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};
use selvedge_contract::config::{
    DegradedAnswer, HealthCheck, HealthWay, Service as Spec, StatusRange,
};
use selvedge_contract::defaults::health as defaults;

use crate::health::grpc::NAME;
use crate::health::plan::{Ask, Degraded, Get, Plan, Statuses};

use super::{At, Pass};

/// Shortest time between checks: what asks more often is a load test.
const SHORTEST: Duration = Duration::from_millis(50);

impl Pass<'_> {
    /// How a service's endpoints are checked, if they are.
    pub(super) fn health(&mut self, at: &At, service: &Spec) -> Option<Plan> {
        let spec = service.health.as_ref()?;
        let at = at.then("health");
        self.foreign_keys(&at, spec);
        let host = spec.host.clone().or_else(|| {
            let tls = service.tls.as_ref().and_then(|tls| tls.server_name.clone());
            let dns = service.dns.as_ref().filter(|name| !name.starts_with('_'));
            tls.or_else(|| dns.map(|name| name.trim_end_matches('.').to_owned()))
        });
        if let Some(host) = &spec.host
            && host.parse::<http::uri::Authority>().is_err()
        {
            let told = format!("`{host}` is not a host");
            self.error(
                &at.then("host"),
                told,
                "expected a name, with or without a port",
            );
        }
        let ask = match spec.way {
            HealthWay::Tcp => Ask::Tcp,
            HealthWay::Grpc => self.grpc_health(&at, spec, host),
            HealthWay::Http => Ask::Http(Box::new(self.get(&at, spec, host))),
        };
        let time = |given: Option<selvedge_contract::units::Duration>, default| {
            given.map_or(default, |d| d.0)
        };
        let interval = time(spec.interval, defaults::INTERVAL);
        if interval < SHORTEST {
            let told = format!("{interval:?} is too often");
            self.error(&at.then("interval"), told, "expected 50ms or more");
        }
        let timeout = time(spec.timeout, defaults::TIMEOUT);
        if timeout.is_zero() {
            let remedy = "expected a time within which endpoints answer";
            self.error(
                &at.then("timeout"),
                "nothing is answered in no time",
                remedy,
            );
        }
        if timeout > defaults::LONGEST_TIMEOUT {
            let told =
                format!("{timeout:?} is too long: nobody would notice that an endpoint is gone");
            self.error(&at.then("timeout"), told, "expected 1m at most");
        }
        Some(Plan {
            ask,
            port: self.health_port(&at, spec),
            interval,
            timeout,
            unhealthy_after: self
                .row(&at, "unhealthyAfter", spec.unhealthy_after)
                .unwrap_or(defaults::UNHEALTHY_AFTER),
            healthy_after: self
                .row(&at, "healthyAfter", spec.healthy_after)
                .unwrap_or(defaults::HEALTHY_AFTER),
        })
    }

    /// Keys of another way than the one that is set.
    fn foreign_keys(&mut self, at: &At, spec: &HealthCheck) {
        let (http, grpc) = (spec.way == HealthWay::Http, spec.way == HealthWay::Grpc);
        for (key, set, fits, whose) in [
            ("path", spec.path.is_some(), http, "http"),
            ("headers", !spec.headers.is_empty(), http, "http"),
            ("status", !spec.status.is_empty(), http, "http"),
            ("body", spec.body.is_some(), http, "http"),
            ("degraded", spec.degraded.is_some(), http, "http"),
            ("service", spec.service.is_some(), grpc, "grpc"),
            ("host", spec.host.is_some(), http || grpc, "http"),
        ] {
            if set && !fits {
                let remedy = format!("set `way: {whose}`, or leave it out");
                self.error(
                    &at.then(key),
                    format!("`{key}` is for `way: {whose}`"),
                    remedy,
                );
            }
        }
    }

    fn health_port(&mut self, at: &At, spec: &HealthCheck) -> Option<u16> {
        if spec.port == Some(0) {
            self.error(&at.then("port"), "0 is no port", "expected 1 to 65535");
        }
        spec.port
    }

    fn row(&mut self, at: &At, key: &str, given: Option<u32>) -> Option<u32> {
        if given == Some(0) {
            self.error(&at.then(key), "0 in a row is none", "expected 1 or more");
        }
        given
    }

    fn grpc_health(&mut self, at: &At, spec: &HealthCheck, host: Option<String>) -> Ask {
        let service = spec.service.clone().unwrap_or_default();
        if service.len() >= NAME {
            let remedy = format!("expected fewer than {NAME} bytes");
            self.error(&at.then("service"), "the name is too long", remedy);
        }
        Ask::Grpc(service, host)
    }

    fn get(&mut self, at: &At, spec: &HealthCheck, host: Option<String>) -> Get {
        let path = spec.path.as_deref().unwrap_or("/");
        let uri = path.parse::<Uri>().ok();
        let uri = uri.filter(|_| path.starts_with('/'));
        if uri.is_none() {
            let remedy = "expected a path such as `/healthz`";
            self.error(&at.then("path"), format!("`{path}` is not a path"), remedy);
        }
        let mut fields = Vec::new();
        for (index, field) in spec.headers.iter().enumerate() {
            let name = field.name.parse::<HeaderName>();
            match (name, HeaderValue::from_str(&field.value)) {
                (Ok(name), Ok(value)) => fields.push((name, value)),
                _ => {
                    let told = format!("`{}` is not a field with its value", field.name);
                    let remedy = "expected a token, and a value without control characters";
                    self.error(&at.then("headers").nth(index), told, remedy);
                }
            }
        }
        let mut good = self.statuses(&at.then("status"), &spec.status);
        if good.0.is_empty() {
            good.0.push(200..=299);
        }
        let degraded = spec.degraded.as_ref();
        Get {
            path: uri.unwrap_or_else(|| Uri::from_static("/")),
            host,
            fields,
            good,
            body: spec.body.clone(),
            degraded: degraded.map(|spec| self.degraded(&at.then("degraded"), spec)),
        }
    }

    fn degraded(&mut self, at: &At, spec: &DegradedAnswer) -> Degraded {
        if spec.header.is_none() && spec.status.is_empty() {
            let remedy = "set `header`, `status`, or both";
            self.error(at, "no answer would ever be a degraded one", remedy);
        }
        let field = spec.header.as_ref().and_then(|name| {
            let parsed = name.parse::<HeaderName>().ok();
            if parsed.is_none() {
                let told = format!("`{name}` is not the name of a field");
                self.error(
                    &at.then("header"),
                    told,
                    "expected a token such as `X-Degraded`",
                );
            }
            parsed
        });
        let share = spec.share.unwrap_or(defaults::DEGRADED_SHARE);
        if !(1..=99).contains(&share) {
            let remedy = "expected a part of the share in percent, 1 to 99";
            self.error(
                &at.then("share"),
                format!("{share} is out of range"),
                remedy,
            );
        }
        Degraded {
            field,
            statuses: self.statuses(&at.then("status"), &spec.status),
            withheld: 100_u32.saturating_sub(share),
        }
    }

    fn statuses(&mut self, at: &At, spec: &[StatusRange]) -> Statuses {
        let mut statuses = Statuses::default();
        for (index, range) in spec.iter().enumerate() {
            match status_range(range) {
                Some(range) => statuses.0.push(range),
                None => {
                    let told = match range {
                        StatusRange::One(status) => format!("{status} is no status"),
                        StatusRange::Range(text) => format!("`{text}` is no range of statuses"),
                    };
                    let remedy = "expected `200`, or a range such as \"200-299\", of 100 to 599";
                    self.error(&at.nth(index), told, remedy);
                }
            }
        }
        statuses
    }
}

fn status_range(range: &StatusRange) -> Option<RangeInclusive<u16>> {
    let (first, last) = match range {
        StatusRange::One(status) => (*status, *status),
        StatusRange::Range(text) => {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            (first.trim().parse().ok()?, last.trim().parse().ok()?)
        }
    };
    let possible = 100..=599;
    let fits = possible.contains(&first) && possible.contains(&last) && first <= last;
    fits.then_some(first..=last)
}
