//! Who may do what: conditions on a caller and a request. In doubt, what allows does not hold and
//! what denies does.

use std::net::IpAddr;

use regex::bytes::Regex;
use serde_json::{Map, Value, json};

use crate::address::Ranges;
use crate::apikey::Consumer;
use crate::expression::Expression;
use crate::geo::Country;
use crate::jwt::{find, holds};

/// What a condition is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sense {
    /// Lets in: all that is there must fit.
    Allow,
    /// Keeps out: anything that could be taken to fit does.
    Deny,
}

/// Called with the name and value of each field.
pub type Visit<'v> = &'v mut dyn FnMut(&[u8], &[u8]);

/// What is known of a caller and its request.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// Method.
    pub method: &'a str,
    /// Host, lower case, without a port.
    pub host: &'a str,
    /// Path in its normal form, without parameters (`;v=1`).
    pub path: &'a str,
    /// Query as it was sent.
    pub query: &'a str,
    /// Header fields: calls back with each name and value.
    pub fields: &'a dyn Fn(Visit<'_>),
    /// SPIFFE ID of the peer.
    pub peer: Option<&'a str>,
    /// Port that it has called.
    pub port: u16,
    /// Claims of the caller's token.
    pub claims: Option<&'a Map<String, Value>>,
    /// Whose key it brought.
    pub consumer: Option<&'a Consumer>,
    /// The client's address.
    pub address: &'a dyn Fn() -> IpAddr,
    /// The country of that address.
    pub country: &'a dyn Fn() -> Option<Country>,
}

impl std::fmt::Debug for Facts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Facts({} {}{})", self.method, self.host, self.path)
    }
}

/// Peers by SPIFFE ID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// This one.
    Exact(String),
    /// Every one below this prefix, which ends in `/`.
    Below(String),
}

impl Principal {
    fn is(&self, peer: &str) -> bool {
        match self {
            Self::Exact(id) => id == peer,
            Self::Below(prefix) => peer.starts_with(prefix.as_str()),
        }
    }
}

/// What a header must be.
#[derive(Debug, Clone)]
pub enum Test {
    /// This value.
    Exact(Box<[u8]>),
    /// A value that this matches.
    Matches(Regex),
    /// There, whatever it says.
    Present,
    /// Not there.
    Absent,
}

/// A condition: every part that is set must fit, and of its entries any.
#[derive(Debug, Default)]
pub struct Condition {
    /// Peers.
    pub principals: Vec<Principal>,
    /// Where peers belong: namespaces, trust domains.
    pub places: Vec<Principal>,
    /// Ports that are called.
    pub ports: Vec<u16>,
    /// Methods.
    pub methods: Vec<String>,
    /// Path prefixes by whole segments, without a final slash.
    pub paths: Vec<String>,
    /// Headers, all of them; names in lower case with `-`.
    pub headers: Vec<(String, Test)>,
    /// Words of the token's `scope` or `scp`, all of them.
    pub scopes: Vec<String>,
    /// Roles: words of `roles`, `role`, `groups` or `realm_access.roles`.
    pub roles: Vec<String>,
    /// Claims with the values that fit, all of them.
    pub claims: Vec<(String, Vec<String>)>,
    /// Names of API keys.
    pub consumers: Vec<String>,
    /// Plans of API keys.
    pub plans: Vec<String>,
    /// Client addresses.
    pub addresses: Option<Ranges<()>>,
    /// Countries of client addresses.
    pub countries: Vec<Country>,
    /// And this.
    pub when: Option<Expression>,
}

/// Claims in which issuers put roles.
pub const ROLES: [&str; 4] = ["roles", "role", "groups", "realm_access.roles"];

impl Condition {
    /// Whether it holds.
    #[must_use]
    pub fn holds(&self, facts: &Facts<'_>, sense: Sense) -> bool {
        let any = |list: &[String], found: Option<&str>| {
            list.is_empty() || found.is_some_and(|found| list.iter().any(|l| l == found))
        };
        let claim = |path: &str| facts.claims.and_then(|claims| find(claims, path));
        let scope = claim("scope").or_else(|| claim("scp"));
        self.peer(facts.peer, facts.port)
            && any(&self.methods, Some(facts.method))
            && self.path(facts.path)
            && self
                .headers
                .iter()
                .all(|(n, test)| header(facts, n, test, sense))
            && self
                .scopes
                .iter()
                .all(|word| scope.is_some_and(|s| holds(s, word)))
            && (self.roles.is_empty()
                || ROLES
                    .iter()
                    .filter_map(|path| claim(path))
                    .any(|value| self.roles.iter().any(|role| holds(value, role))))
            && self.claims.iter().all(|(path, values)| {
                claim(path).is_some_and(|value| values.iter().any(|v| holds(value, v)))
            })
            && any(&self.consumers, facts.consumer.map(|c| c.name.as_str()))
            && any(&self.plans, facts.consumer.and_then(|c| c.plan.as_deref()))
            && self
                .addresses
                .as_ref()
                .is_none_or(|ranges| ranges.find((facts.address)()).is_some())
            && (self.countries.is_empty()
                || (facts.country)().is_some_and(|country| self.countries.contains(&country)))
            && self.when.as_ref().is_none_or(|when| {
                let said = when.holds(&values(when, facts));
                said.unwrap_or(sense == Sense::Deny)
            })
    }

    /// Whether it holds of bytes that are no request, of which nothing is known but whose they are and
    /// for which port.
    #[must_use]
    pub fn holds_of_bytes(&self, peer: &str, port: u16, sense: Sense) -> bool {
        self.peer(Some(peer), port) && (sense == Sense::Deny || !self.asks_more())
    }

    /// Whether it says whose callers it is about, so that it may be about those of other trust domains.
    #[must_use]
    pub fn names_callers(&self) -> bool {
        !(self.principals.is_empty() && self.places.is_empty())
    }

    /// Whether it asks more than who the peer is, and which port it calls.
    fn asks_more(&self) -> bool {
        let Self {
            principals: _,
            places: _,
            ports: _,
            methods,
            paths,
            headers,
            scopes,
            roles,
            claims,
            consumers,
            plans,
            addresses,
            countries,
            when,
        } = self;
        let words = [methods, paths, scopes, roles, consumers, plans];
        words.into_iter().any(|list| !list.is_empty())
            || !(headers.is_empty() && claims.is_empty() && countries.is_empty())
            || addresses.is_some()
            || when.is_some()
    }

    fn peer(&self, peer: Option<&str>, port: u16) -> bool {
        let among = |list: &[Principal]| {
            list.is_empty() || peer.is_some_and(|peer| list.iter().any(|one| one.is(peer)))
        };
        among(&self.principals)
            && among(&self.places)
            && (self.ports.is_empty() || self.ports.contains(&port))
    }

    fn path(&self, path: &str) -> bool {
        self.paths.is_empty()
            || self.paths.iter().any(|prefix| {
                let rest = path.strip_prefix(prefix.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
    }
}

/// Whether a field has this name, in any case and with `_` for `-`.
fn is_named(name: &[u8], wanted: &str) -> bool {
    let read = |byte: &u8| match byte.to_ascii_lowercase() {
        b'_' => b'-',
        other => other,
    };
    name.len() == wanted.len() && name.iter().map(read).eq(wanted.bytes())
}

/// A header may come several times, and its value may be a list: to let in, every one of its lines
/// must fit; to keep out, one line, one item of it, or all of them joined is enough.
fn header(facts: &Facts<'_>, name: &str, test: &Test, sense: Sense) -> bool {
    let mut lines: Vec<Vec<u8>> = Vec::new();
    (facts.fields)(&mut |found, value| {
        if is_named(found, name) {
            lines.push(value.trim_ascii().to_vec());
        }
    });
    let fits = |value: &[u8]| match test {
        Test::Exact(wanted) => value == &**wanted,
        Test::Matches(regex) => regex.is_match(value),
        Test::Present => true,
        Test::Absent => false,
    };
    if matches!(test, Test::Absent) {
        return lines.is_empty();
    }
    match sense {
        Sense::Allow => !lines.is_empty() && lines.iter().all(|line| fits(line)),
        Sense::Deny => {
            let items = lines.iter().flat_map(|line| line.split(|b| *b == b','));
            lines.iter().any(|line| fits(line))
                || items.map(<[u8]>::trim_ascii).any(fits)
                || lines.len() > 1
                    && (fits(&lines.join(&b","[..])) || fits(&lines.join(&b", "[..])))
        }
    }
}

/// What an expression asks for, and no more.
fn values(when: &Expression, facts: &Facts<'_>) -> Map<String, Value> {
    let mut values = Map::new();
    if when.uses("request") {
        let mut headers: Map<String, Value> = Map::new();
        (facts.fields)(&mut |name, value| {
            // Applications behind CGI read both as one.
            let name = String::from_utf8_lossy(name).to_ascii_lowercase();
            let name = name.replace('_', "-");
            let value = String::from_utf8_lossy(value);
            match headers.get_mut(&name) {
                Some(Value::String(before)) => {
                    before.push(',');
                    before.push_str(&value);
                }
                _ => {
                    headers.insert(name, value.into());
                }
            }
        });
        let request = json!({
            "method": facts.method,
            "host": facts.host,
            "path": facts.path,
            "query": facts.query,
            "headers": headers,
        });
        values.insert("request".to_owned(), request);
    }
    if when.uses("source") {
        let address = (facts.address)().to_string();
        let principal = facts.peer.unwrap_or_default();
        let country = (facts.country)();
        let country = country.as_ref().map_or("", Country::as_str);
        let source = json!({ "address": address, "principal": principal, "country": country });
        values.insert("source".to_owned(), source);
    }
    if let Some(claims) = facts.claims.filter(|_| when.uses("claims")) {
        values.insert("claims".to_owned(), claims.clone().into());
    }
    if let Some(consumer) = facts.consumer.filter(|_| when.uses("consumer")) {
        let plan = consumer.plan.as_deref().unwrap_or_default();
        let consumer = json!({ "name": consumer.name, "plan": plan });
        values.insert("consumer".to_owned(), consumer);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(condition: &Condition, fields: &[(&str, &[u8])], claims: &Value) -> [bool; 2] {
        let give = |each: &mut dyn FnMut(&[u8], &[u8])| {
            for (name, value) in fields {
                each(name.as_bytes(), value);
            }
        };
        let facts = Facts {
            method: "GET",
            host: "shop",
            path: "/orders/1",
            query: "a=b",
            fields: &give,
            peer: Some("spiffe://d/ns/b/sa/x"),
            port: 8080,
            claims: claims.as_object(),
            consumer: None,
            address: &|| IpAddr::from([10, 0, 0, 1]),
            country: &|| None,
        };
        [Sense::Allow, Sense::Deny].map(|sense| condition.holds(&facts, sense))
    }

    #[test]
    fn of_bytes_only_their_peer_is_known() {
        let web = || vec![Principal::Exact("web".to_owned())];
        let who = Condition {
            principals: web(),
            ..Condition::default()
        };
        let more = Condition {
            principals: web(),
            methods: vec!["GET".to_owned()],
            ..Condition::default()
        };
        for (condition, peer, let_in, kept_out) in [
            (&who, "web", true, true),
            (&who, "other", false, false),
            // What cannot be told lets nobody in, and keeps out whom it may be about.
            (&more, "web", false, true),
            (&more, "other", false, false),
            (&Condition::default(), "other", true, true),
        ] {
            let told = [Sense::Allow, Sense::Deny].map(|s| condition.holds_of_bytes(peer, 6379, s));
            assert_eq!(told, [let_in, kept_out], "{condition:?} {peer}");
        }
    }

    #[test]
    fn peers_are_told_by_where_they_belong_and_what_they_call() {
        let below = |prefix: &str| vec![Principal::Below(prefix.to_owned())];
        let holds = |set: &dyn Fn(&mut Condition)| {
            let mut condition = Condition::default();
            set(&mut condition);
            check(&condition, &[], &Value::Null)[0]
        };
        assert!(holds(&|c| c.places = below("spiffe://d/ns/b/")));
        assert!(holds(&|c| c.places = below("spiffe://d/")));
        for other in ["spiffe://d/ns/bb/", "spiffe://d/ns/a/", "spiffe://e/"] {
            assert!(!holds(&|c| c.places = below(other)), "{other}");
        }
        assert!(holds(&|c| c.ports = vec![80, 8080]));
        assert!(!holds(&|c| c.ports = vec![80]));
        // All that is said must hold.
        assert!(!holds(&|c| {
            c.places = below("spiffe://d/");
            c.ports = vec![80];
        }));
        let bytes = Condition {
            places: below("spiffe://d/ns/b/"),
            ports: vec![6379],
            ..Condition::default()
        };
        for (peer, port, want) in [
            ("spiffe://d/ns/b/sa/x", 6379, true),
            ("spiffe://d/ns/b/sa/x", 5432, false),
            ("spiffe://d/ns/c/sa/x", 6379, false),
        ] {
            for sense in [Sense::Allow, Sense::Deny] {
                assert_eq!(
                    bytes.holds_of_bytes(peer, port, sense),
                    want,
                    "{peer} {port}"
                );
            }
        }
    }

    #[test]
    fn headers_let_in_with_all_lines_and_keep_out_with_any() {
        let exact = |value: &str| Test::Exact(value.as_bytes().into());
        let regex = |text: &str| Test::Matches(Regex::new(text).unwrap());
        type Fields<'a> = &'a [(&'a str, &'a [u8])];
        let cases: [(Test, Fields<'_>, [bool; 2]); 13] = [
            (exact("admin"), &[("X-Role", b"admin")], [true, true]),
            (
                exact("admin"),
                &[("x-role", b"user"), ("X-ROLE", b"admin")],
                [false, true],
            ),
            (exact("admin"), &[("X-Role", b"user, admin")], [false, true]),
            (exact("admin"), &[("X_Role", b" admin ")], [true, true]),
            (exact("admin"), &[("X-Role", b"Admin")], [false, false]),
            (exact("admin"), &[], [false, false]),
            (exact(""), &[("X-Role", b"")], [true, true]),
            (exact(""), &[], [false, false]),
            (Test::Present, &[("X-Role", b"")], [true, true]),
            (Test::Absent, &[("X-Role", b"")], [false, false]),
            (Test::Absent, &[("X-Other", b"")], [true, true]),
            (
                regex(r"(?-u)^a\xff+$"),
                &[("X-Role", b"a\xff\xff")],
                [true, true],
            ),
            (
                regex("^user,admin$"),
                &[("X-Role", b"user"), ("X-Role", b"admin")],
                [false, true],
            ),
        ];
        for (test, fields, want) in cases {
            let condition = Condition {
                headers: vec![("x-role".to_owned(), test.clone())],
                ..Condition::default()
            };
            assert_eq!(
                check(&condition, fields, &Value::Null),
                want,
                "{test:?} {fields:?}"
            );
        }
    }

    #[test]
    fn tokens_say_scopes_roles_and_claims() {
        let claims =
            json!({ "scope": "a b", "realm_access": { "roles": ["admin"] }, "tier": "gold" });
        let with = |set: &dyn Fn(&mut Condition)| {
            let mut condition = Condition::default();
            set(&mut condition);
            check(&condition, &[], &claims)[0]
        };
        assert!(with(&|c| c.scopes = vec!["a".into(), "b".into()]));
        assert!(!with(&|c| c.scopes = vec!["a".into(), "c".into()]));
        assert!(with(&|c| c.roles = vec!["admin".into(), "x".into()]));
        assert!(!with(&|c| c.roles = vec!["root".into()]));
        assert!(with(
            &|c| c.claims = vec![("tier".into(), vec!["gold".into()])]
        ));
        assert!(!with(&|c| c.consumers = vec!["x".into()]));
        assert!(with(&|c| c.paths = vec!["/orders".into()]));
        assert!(!with(&|c| c.paths = vec!["/order".into()]));
        let prefix = "10.0.0.0/8".parse().unwrap();
        let mut ranges = Ranges::default();
        ranges.insert(prefix, ());
        assert!(with(&|c| {
            let mut ranges = Ranges::default();
            ranges.insert(prefix, ());
            c.addresses = Some(ranges);
        }));
        assert!(!with(
            &|c| c.principals = vec![Principal::Exact("spiffe://d/x".into())]
        ));
        assert!(with(
            &|c| c.principals = vec![Principal::Below("spiffe://d/ns/b/".into())]
        ));
    }

    #[test]
    fn an_expression_that_cannot_be_said_denies() {
        for (source, want) in [
            ("claims.tier == 'gold'", [true, true]),
            ("claims.none == 'gold'", [false, true]),
            (
                "request.path == '/orders/1' && source.address == '10.0.0.1'",
                [true, true],
            ),
            ("request.headers['x-a'] == '1,2'", [true, true]),
        ] {
            let condition = Condition {
                when: Some(Expression::new(source).unwrap()),
                ..Condition::default()
            };
            let fields: [(&str, &[u8]); 2] = [("X-A", b"1"), ("x-a", b"2")];
            assert_eq!(
                check(&condition, &fields, &json!({ "tier": "gold" })),
                want,
                "{source}"
            );
        }
    }
}
