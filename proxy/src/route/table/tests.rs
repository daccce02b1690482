//! Precedence of the route table, case by case.

use bytes::Bytes;
use http::Method;

use super::*;
use crate::message::target::EncodedSlash;
use crate::message::{Fields, Host, RequestHead, Target, Version};
use crate::route::matcher::Value;
use crate::route::{Edits, RetryPolicy};
use crate::telemetry::metrics::Metrics;

fn rule(name: &str) -> Arc<Rule> {
    Arc::new(Rule {
        name: name.into(),
        tag: name.into(),
        guards: Vec::new(),
        treatment: crate::policy::treatment::Treatment::default(),
        headers: false,
        request_edits: Edits::default(),
        response_edits: Edits::default(),
        redirect: None,
        rewrite_host: None,
        rewrite_path: None,
        aggregate: None,
        backends: Vec::new(),
        mirrors: Vec::new(),
        request_timeout: std::time::Duration::ZERO,
        try_timeout: std::time::Duration::ZERO,
        retry: RetryPolicy {
            attempts: 0,
            codes: Vec::new(),
            grpc: 0,
            backoff: std::time::Duration::ZERO,
            backoff_max: std::time::Duration::ZERO,
            hedge: std::time::Duration::ZERO,
        },
        class: None,
        metrics: Metrics::new(1).route(name, ""),
    })
}

fn head(method: Method, host: &'static str, target: &'static str) -> RequestHead {
    let target = Bytes::from_static(target.as_bytes());
    RequestHead {
        method,
        target: Target::parse(target, EncodedSlash::Refuse).unwrap(),
        host: Host::parse(Bytes::from_static(host.as_bytes())).unwrap(),
        version: Version::Http11,
        fields: Fields::new(),
        upgrade: None,
    }
}

fn prefix(path: &str) -> Path {
    Path::Prefix(path.trim_end_matches('/').to_owned())
}

fn found(table: &Table, head: &RequestHead) -> Option<String> {
    table.find(head).map(|rule| rule.name.to_string())
}

#[test]
fn paths_by_precedence() {
    let mut table = Table::default();
    let regex = Path::Regex(Box::new(Regex::new("^(?:/a/[0-9]+)$").unwrap()));
    for (name, path) in [
        ("root", prefix("/")),
        ("a", prefix("/a")),
        ("a/b", prefix("/a/b/")),
        ("exact", Path::Exact("/a/b/c".into())),
        ("regex", regex),
    ] {
        table.add(None, &path, Matcher::default(), &rule(name));
    }
    for (path, want) in [
        ("/", "root"),
        ("/ab", "root"),
        ("/a", "a"),
        ("/a/", "a"),
        ("/a/x", "a"),
        ("/a/b", "a/b"),
        ("/a/b/x/y", "a/b"),
        ("/a/b/c", "exact"),
        ("/a/17", "regex"),
        ("/a;v=1/b;x/c", "exact"),
    ] {
        let got = found(&table, &head(Method::GET, "h", path));
        assert_eq!(got.as_deref(), Some(want), "{path}");
    }
}

#[test]
fn hosts_by_precedence() {
    let mut table = Table::default();
    for (name, host) in [
        ("any", None),
        ("wide", Some("*.example")),
        ("narrow", Some("*.b.example")),
        ("exact", Some("a.b.example")),
    ] {
        let host: Option<Pattern> = host.map(|h| h.parse().unwrap());
        table.add(host.as_ref(), &prefix("/"), Matcher::default(), &rule(name));
    }
    for (host, want) in [
        ("a.b.example", "exact"),
        ("A.B.Example:8080", "exact"),
        ("x.b.example", "narrow"),
        ("x.y.b.example", "narrow"),
        ("x.example", "wide"),
        ("example", "any"),
        ("other", "any"),
    ] {
        let got = found(&table, &head(Method::GET, host, "/"));
        assert_eq!(got.as_deref(), Some(want), "{host}");
    }
}

#[test]
fn the_more_specific_match_wins_and_a_failed_one_falls_through() {
    let mut table = Table::default();
    let method = Matcher {
        method: Some(Method::POST),
        ..Matcher::default()
    };
    let header = Matcher {
        headers: vec![("x-canary".into(), Value::Exact("1".into()))],
        ..Matcher::default()
    };
    let query = Matcher {
        query: vec![("v".into(), Value::Exact("2".into()))],
        ..Matcher::default()
    };
    table.add(None, &prefix("/a"), query, &rule("query"));
    table.add(None, &prefix("/a"), header, &rule("header"));
    table.add(None, &prefix("/a"), method, &rule("method"));
    table.add(None, &prefix("/"), Matcher::default(), &rule("root"));
    table.add(None, &prefix("/"), Matcher::default(), &rule("later"));

    let plain = head(Method::GET, "h", "/a");
    assert_eq!(found(&table, &plain).as_deref(), Some("root"));
    let mut canary = head(Method::GET, "h", "/a?v=2");
    assert_eq!(found(&table, &canary).as_deref(), Some("query"));
    canary.fields.append(b"X-Canary", b"1");
    assert_eq!(found(&table, &canary).as_deref(), Some("header"));
    canary.method = Method::POST;
    assert_eq!(found(&table, &canary).as_deref(), Some("method"));
    // A second copy of a header cannot hide behind the first, nor the first behind it.
    let mut twice = head(Method::GET, "h", "/a");
    twice.fields.append(b"x-canary", b"1");
    twice.fields.append(b"x-canary", b"2");
    assert_eq!(found(&table, &twice).as_deref(), Some("root"));
}
