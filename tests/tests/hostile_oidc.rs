//! Login against an issuer that lies, hangs and babbles, and against users who forge what they keep.

use selvedge_tests::acme_place::wait_until;
use selvedge_tests::oidc::{Scripted, Signer, answer, unix_now};
use selvedge_tests::raw::Reply;
use selvedge_tests::visitor::{PAGE, Page, Visitor, parameter};
use selvedge_tests::{Selvedge, Upstream};
use serde_json::{Value, json};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const NEW: &str = "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eA=";
const SESSION: &str = "selvedge_session";

struct Place {
    issuer: Scripted,
    app: Upstream,
    proxy: Selvedge,
}

impl Place {
    fn new(more: &str) -> Self {
        Self::around(Scripted::new(), more, "")
    }

    fn around(issuer: Scripted, more: &str, listener: &str) -> Self {
        let app = Upstream::answering("ok");
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("keys"), KEY).unwrap();
        std::fs::write(dir.path().join("secret"), "s3cret-of-the-client\n").unwrap();
        let oidc = format!(
            "issuer: \"{}\", clientId: shop, clientSecretFile: $DIR/secret,
      sessionKeyFile: $DIR/keys, timeout: 1s",
            issuer.issuer()
        );
        let config = format!(
            "listeners: [{{ name: web, bind: 127.0.0.1, port: 0, {listener} }}]
telemetry: {{ accessLog: {{ path: $DIR/access.log }} }}
policies:
  login: {{ oidc: {{ {oidc}, {more} }} }}
  other: {{ oidc: {{ {oidc}, callback: /other/callback, logout: /other/logout }} }}
  each: {{ rateLimit: {{ key: jwt.sub, rate: 3/hour }} }}
  never: {{ deny: [{{ roles: [banned] }}, {{ when: \"has(claims.tier) && claims.tier == 'none'\" }}] }}
routes:
  - rules:
      - {{ matches: [{{ path: /other }}], policies: [other], backendRefs: [{{ service: app }}] }}
      - {{ matches: [{{ path: /club }}], policies: [login, never], backendRefs: [{{ service: app }}] }}
      - {{ matches: [{{ path: /limited }}], policies: [login, each], backendRefs: [{{ service: app }}] }}
      - {{ policies: [login], backendRefs: [{{ service: app }}] }}
services: {{ app: {{ endpoints: [\"{}\"] }} }}
",
            app.address()
        );
        let proxy = Selvedge::start_in(dir, "gateway", &config, 1);
        Self { issuer, app, proxy }
    }

    fn authority(&self) -> String {
        self.proxy.address("web").to_string()
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.authority())
    }

    /// Goes to a page and is sent to the issuer; gives state and nonce.
    fn leave_for_issuer(&self, visitor: &mut Visitor, path: &str) -> (String, String) {
        let page = visitor.get(&self.url(path));
        let there = page.reply.header("location").expect("a redirect");
        assert_eq!(page.reply.status, 302);
        assert!(there.starts_with(&self.issuer.issuer()), "{there}");
        (
            parameter(there, "state").unwrap(),
            parameter(there, "nonce").unwrap(),
        )
    }

    fn come_back(&self, visitor: &mut Visitor, state: &str) -> Page {
        visitor.get(&self.url(&format!("/oauth2/callback?code=c0de&state={state}")))
    }

    /// A whole login with these claims.
    fn log_in(&self, visitor: &mut Visitor, path: &str, edit: impl Fn(&mut Value)) -> Page {
        let (state, nonce) = self.leave_for_issuer(visitor, path);
        let mut claims = self.issuer.claims(&nonce);
        edit(&mut claims);
        self.issuer.gives(&claims);
        self.come_back(visitor, &state)
    }

    fn has_session(&self, visitor: &Visitor) -> bool {
        visitor.cookie(&self.authority(), SESSION).is_some()
    }

    fn visitor(&self) -> Visitor {
        let mut visitor = Visitor::new();
        let page = self.log_in(&mut visitor, "/", |_| {});
        assert_eq!(page.reply.status, 302, "{page:?}");
        visitor
    }
}

/// A page for a person that says what went wrong, and leads nowhere by itself.
fn assert_refused(id: &str, reply: &Reply, status: u16) {
    assert_eq!(reply.status, status, "{id}: {reply:?}");
    assert_eq!(reply.header("location"), None, "{id}");
    let page = reply.text();
    assert!(
        page.contains("<h1>") && page.contains("<p>") && !page.contains("<p></p>"),
        "{id}: {page}"
    );
}

#[test]
fn only_who_the_issuer_vouches_for_gets_a_session() {
    let place = Place::new("");
    let key = &place.issuer.key;
    let other = Signer::new("one");
    let stranger = Signer::new("two");
    let claim = |name: &'static str, value: Value| {
        move |mut claims: Value| {
            claims[name] = value.clone();
            key.sign(&claims)
        }
    };
    let without = |name: &'static str| {
        move |mut claims: Value| {
            claims.as_object_mut().unwrap().remove(name);
            key.sign(&claims)
        }
    };
    type Make<'a> = Box<dyn Fn(Value) -> String + 'a>;
    let unsigned = |claims: Value| {
        let signed = key.sign(&claims);
        let payload = signed.split('.').nth(1).unwrap().to_owned();
        format!("eyJhbGciOiJub25lIn0.{payload}.")
    };
    let cases: Vec<(&str, Make<'_>)> = vec![
        ("by another key of that name", Box::new(|c| other.sign(&c))),
        (
            "by a key that is not there",
            Box::new(|c| stranger.sign(&c)),
        ),
        ("alg none", Box::new(unsigned)),
        (
            "no signature",
            Box::new(|c| key.sign(&c).rsplit_once('.').unwrap().0.to_owned() + "."),
        ),
        ("expired", Box::new(claim("exp", json!(unix_now() - 120)))),
        (
            "of the future",
            Box::new(claim("iat", json!(unix_now() + 3600))),
        ),
        (
            "another login's",
            Box::new(claim("nonce", json!("A".repeat(43)))),
        ),
        ("without a nonce", Box::new(without("nonce"))),
        (
            "a nonce that is a list",
            Box::new(claim("nonce", json!(["x"]))),
        ),
        ("another client's", Box::new(claim("aud", json!("shop2")))),
        (
            "for several, and nobody named",
            Box::new(claim("aud", json!(["shop", "x"]))),
        ),
        ("given to another", Box::new(claim("azp", json!("shop2")))),
        (
            "another issuer's",
            Box::new(claim("iss", json!("https://evil.example"))),
        ),
        ("without iat", Box::new(without("iat"))),
        ("without exp", Box::new(without("exp"))),
        ("of nobody", Box::new(without("sub"))),
        ("not a token", Box::new(|_| "a.b".to_owned())),
        ("nothing", Box::new(|_| String::new())),
    ];
    for (id, make) in &cases {
        let mut visitor = Visitor::new();
        let (state, nonce) = place.leave_for_issuer(&mut visitor, "/page");
        let token = make(place.issuer.claims(&nonce));
        place
            .issuer
            .does(move |_| answer(200, &json!({ "id_token": token })));
        let page = place.come_back(&mut visitor, &state);
        assert_refused(id, &page.reply, 502);
        assert!(visitor.cookies(&place.authority()).is_empty(), "{id}");
    }
    place
        .issuer
        .does(|_| answer(200, &json!({ "access_token": "at" })));
    let mut visitor = Visitor::new();
    let (state, _) = place.leave_for_issuer(&mut visitor, "/page");
    assert_refused(
        "no ID token",
        &place.come_back(&mut visitor, &state).reply,
        502,
    );
    assert_eq!(place.app.all(), "");
    // The same with nothing wrong; several audiences with the right party will do.
    let page = place.log_in(&mut visitor, "/page", |c| {
        c["aud"] = json!(["x", "shop"]);
        c["azp"] = json!("shop");
    });
    assert_eq!(page.reply.header("location"), Some("/page"));
    assert_eq!(visitor.get(&place.url("/page")).reply.status, 200);
    let asked = place.issuer.server.all();
    // base64 of `shop:s3cret-of-the-client`.
    assert!(
        asked.contains("authorization: Basic c2hvcDpzM2NyZXQtb2YtdGhlLWNsaWVudA=="),
        "{asked}"
    );
    assert!(
        asked.contains(
            "grant_type=authorization_code&code=c0de&redirect_uri=http%3A%2F%2F127.0.0.1"
        )
    );
    assert!(asked.contains("&code_verifier="));
}

#[test]
fn an_answer_counts_for_its_browser_and_once() {
    let place = Place::new("");
    let mut visitor = Visitor::new();
    let (state, nonce) = place.leave_for_issuer(&mut visitor, "/page");
    place.issuer.gives(&place.issuer.claims(&nonce));
    let name = visitor.cookies(&place.authority())[0].clone();
    let kept = visitor
        .cookie(&place.authority(), &name)
        .unwrap()
        .to_owned();
    let callback = |query: &str| place.url(&format!("/oauth2/callback{query}"));
    // Nobody else can come back with it, nor with another state.
    let mut other = Visitor::new();
    let changed = format!("{}AAAA", &state[..state.len() - 4]);
    for (id, url) in [
        ("nothing", callback("")),
        ("no state", callback("?code=c")),
        ("no code", callback(&format!("?state={state}"))),
        (
            "another state",
            callback(&format!("?code=c&state={changed}")),
        ),
        (
            "two states",
            callback(&format!("?code=c&state={state}&state={state}")),
        ),
        (
            "a short state",
            callback(&format!("?code=c&state={}", &state[..12])),
        ),
        ("junk", callback("?code=c&state=%00%0d%0aSet-Cookie:%20a=b")),
        (
            "another issuer",
            callback(&format!("?code=c&state={changed}&iss=https://evil")),
        ),
    ] {
        let page = visitor.get(&url);
        assert_refused(id, &page.reply, 400);
        assert!(
            page.reply.headers.iter().all(|(n, _)| n != "Set-Cookie"),
            "{id}: {page:?}"
        );
        assert_refused(id, &other.get(&url).reply, 400);
    }
    assert_refused(
        "another browser",
        &place.come_back(&mut other, &state).reply,
        400,
    );
    assert!(
        !place.issuer.server.all().contains("POST"),
        "nobody was asked"
    );
    // Once: the cookie goes with the answer, and who has kept it has a code that is used.
    let page = place.come_back(&mut visitor, &state);
    assert_eq!(page.reply.header("location"), Some("/page"));
    assert_refused("again", &place.come_back(&mut visitor, &state).reply, 400);
    place
        .issuer
        .does(|_| answer(400, &json!({ "error": "invalid_grant" })));
    let mut replayed = Visitor::new();
    replayed.set(&place.authority(), &name, &kept);
    assert_refused(
        "replayed",
        &place.come_back(&mut replayed, &state).reply,
        400,
    );
    assert!(!place.has_session(&replayed));
    // One that names itself must be the right one (RFC 9207).
    let (state, _) = place.leave_for_issuer(&mut other, "/page");
    let page = other.get(&callback(&format!(
        "?code=c&state={state}&iss=https%3A%2F%2Fevil"
    )));
    assert_refused("mixed up", &page.reply, 400);
    let reply = visitor
        .ask("POST", &callback("?code=c&state=s"), PAGE, "")
        .reply;
    assert_eq!(reply.status, 405);
}

#[test]
fn nobody_is_sent_away_from_the_host() {
    let place = Place::new("");
    let long = format!("/{}", "a".repeat(3000));
    for (target, back) in [
        ("/a/b?c=d&e=//evil", "/a/b?c=d&e=//evil"),
        ("//evil.example/x", "/evil.example/x"),
        ("///evil.example", "/evil.example"),
        ("/.//evil.example", "/evil.example"),
        ("/x/..//evil.example", "/evil.example"),
        ("/?https://evil", "/?https://evil"),
        ("/a%0d%0aSet-Cookie:x=y", "/a%0D%0ASet-Cookie:x=y"),
        ("/oauth2/callback/x", "/oauth2/callback/x"),
        (&long, "/"),
    ] {
        let page = place.log_in(&mut Visitor::new(), target, |_| {});
        assert_eq!(page.reply.header("location"), Some(back), "{target}");
    }
    for bad in ["/\\evil.example", "/%5cevil.example", "/%2fevil.example"] {
        assert_eq!(
            Visitor::new().get(&place.url(bad)).reply.status,
            400,
            "{bad}"
        );
    }
}

#[test]
fn a_session_is_a_cookie_that_nobody_changes() {
    let mut place = Place::new("");
    let authority = place.authority();
    let visitor = place.visitor();
    let right = visitor.cookie(&authority, SESSION).unwrap().to_owned();
    let status = |place: &Place, pairs: &[(&str, &str)]| {
        let mut forger = Visitor::new();
        for (name, value) in pairs {
            forger.set(&authority, name, value);
        }
        forger.get(&place.url("/page")).reply.status
    };
    assert_eq!(status(&place, &[(SESSION, &right)]), 200);
    let mut forged: Vec<String> = Vec::new();
    for at in (0..right.len()).step_by(7) {
        let mut bytes = right.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        forged.push(String::from_utf8(bytes).unwrap());
        forged.push(right[..at].to_owned());
        forged.push(right[at + 1..].to_owned());
    }
    forged.extend([
        format!("{right}A"),
        right.replace("1.", "2."),
        "4.".repeat(5000),
        "1.".into(),
    ]);
    for value in &forged {
        assert_eq!(status(&place, &[(SESSION, value)]), 302, "{value}");
    }
    assert_eq!(status(&place, &[("__Host-selvedge_session", &right)]), 302);
    assert_eq!(status(&place, &[("selvedge_session_1", &right)]), 302);
    // A login is no session, and the other way round.
    let mut other = Visitor::new();
    let (state, _) = place.leave_for_issuer(&mut other, "/page");
    let name = other.cookies(&authority)[0].clone();
    let login = other.cookie(&authority, &name).unwrap().to_owned();
    assert_eq!(status(&place, &[(SESSION, &format!("1.{login}"))]), 302);
    other.set(&authority, &name, right.strip_prefix("1.").unwrap());
    assert_refused("swapped", &place.come_back(&mut other, &state).reply, 400);
    // Another policy with the same name of the cookie and the same key does not take it.
    let mut known = visitor.clone();
    assert_eq!(known.get(&place.url("/other/page")).reply.status, 302);
    // Two of a name: it is open which one is meant.
    let twice = format!("{PAGE}Cookie: {SESSION}={right}; {SESSION}={right}\r\n");
    assert_eq!(
        Visitor::new()
            .ask("GET", &place.url("/"), &twice, "")
            .reply
            .status,
        302
    );
    // Keys: a new one is put first, then the old one goes.
    let file = place.proxy.dir().join("keys");
    place.proxy.skip_log();
    std::fs::write(&file, format!("{NEW}\n{KEY}\n")).unwrap();
    place.proxy.wait_for_next("configuration reloaded");
    assert_eq!(status(&place, &[(SESSION, &right)]), 200);
    let newer = place.visitor();
    let by_new = newer.cookie(&authority, SESSION).unwrap().to_owned();
    place.proxy.skip_log();
    std::fs::write(&file, NEW).unwrap();
    place.proxy.wait_for_next("configuration reloaded");
    assert_eq!(status(&place, &[(SESSION, &right)]), 302);
    assert_eq!(status(&place, &[(SESSION, &by_new)]), 200);
    let log = place.proxy.log().join("\n");
    let file = place.proxy.dir().join("access.log");
    let access = || std::fs::read_to_string(&file).unwrap();
    wait_until("the callback is logged", || {
        access().contains("/oauth2/callback")
    });
    for secret in ["s3cret", KEY, NEW, &right, "c0de", "id_token"] {
        assert!(!log.contains(secret), "{secret} in the log");
        assert!(!access().contains(secret), "{secret} in the access log");
    }
}

#[test]
fn logins_of_a_browser_are_bounded() {
    let place = Place::new("");
    let mut visitor = Visitor::new();
    let mut states = Vec::new();
    for n in 0..50 {
        states.push(place.leave_for_issuer(&mut visitor, &format!("/{n}")).0);
        assert!(visitor.cookies(&place.authority()).len() <= 16);
    }
    // The latest are there, and each leads to its own page.
    assert_eq!(visitor.cookies(&place.authority()).len(), 16);
    let long = "a".repeat(2000);
    for n in 0..8 {
        place.leave_for_issuer(&mut visitor, &format!("/{n}{long}"));
        let held = visitor.cookie_field(&place.url("/")).len();
        assert!(held < 9 << 10, "{held}");
    }
    // Fifty that this gateway has never made: they are cleared, and break nothing.
    let mut visitor = Visitor::new();
    for n in 0..50 {
        let name = format!("{SESSION}_login_{n:012}");
        visitor.set(&place.authority(), &name, "junk");
    }
    // Not a name that this gateway gives.
    visitor.set(&place.authority(), &format!("{SESSION}_login_$"), "junk");
    let page = place.log_in(&mut visitor, "/page", |_| {});
    assert_eq!(page.reply.header("location"), Some("/page"));
    assert!(visitor.cookies(&place.authority()).len() <= 16 + 2);
}

#[test]
fn an_issuer_that_fails_ends_a_login_and_begins_no_other() {
    let place = Place::new("");
    let big = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}",
        5 << 20,
        " ".repeat(5 << 20)
    );
    let text = |text: &'static str| text.to_owned();
    for (id, said, status) in [
        ("hangs", String::new(), 503),
        ("garbage", text("\x16\x03\x01 hello\r\n\r\n"), 502),
        (
            "HTML",
            text("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"),
            502,
        ),
        ("5 MiB", big, 502),
        (
            "a redirect",
            text("HTTP/1.1 307 T\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"),
            502,
        ),
        (
            "500",
            answer(500, &json!({ "error": "invalid_grant" })),
            502,
        ),
        (
            "wrong secret",
            answer(401, &json!({ "error": "invalid_client" })),
            502,
        ),
        ("a list", answer(200, &json!([1])), 502),
        (
            "breaks off",
            text("HTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\n{"),
            503,
        ),
    ] {
        let mut visitor = Visitor::new();
        let (state, _) = place.leave_for_issuer(&mut visitor, "/page");
        place.issuer.does(move |_| said.clone());
        let begun = std::time::Instant::now();
        let page = place.come_back(&mut visitor, &state);
        assert_refused(id, &page.reply, status);
        assert!(begun.elapsed().as_secs() < 8, "{id}");
        assert!(visitor.cookies(&place.authority()).is_empty(), "{id}");
    }
    for (error, status) in [
        ("access_denied", 403),
        ("login_required", 403),
        ("%3Cscript%3E%0d%0aX:y", 403),
        ("server_error", 502),
        ("invalid_scope", 502),
        ("temporarily_unavailable", 503),
    ] {
        let mut visitor = Visitor::new();
        let (state, _) = place.leave_for_issuer(&mut visitor, "/page");
        let query =
            format!("/oauth2/callback?error={error}&state={state}&error_description=%3Cb%3E");
        let page = visitor.get(&place.url(&query));
        assert_refused(error, &page.reply, status);
        let text = page.reply.text();
        assert!(!text.contains("script") && !text.contains("<b>"), "{text}");
    }
    assert_eq!(place.app.all(), "");
    let failures = |cause: &str| {
        let label = format!("cause=\"{cause}\"");
        place
            .proxy
            .metric("selvedge_request_failures_total", &[&label])
    };
    wait_until("failures are counted", || {
        failures("LoginRefused") > 2.5 && failures("IssuerLost") > 2.5
    });
}

#[test]
fn an_issuer_that_is_another_is_not_used() {
    for says in [
        json!({ "issuer": "https://id.example" }),
        json!({ "token_endpoint": "http://id.example/token" }),
        json!({ "authorization_endpoint": "javascript:alert(1)//" }),
        json!({ "jwks_uri": null }),
    ] {
        let issuer = Scripted::new();
        issuer.says(says.clone());
        let place = Place::around(issuer, "", "");
        let page = Visitor::new().get(&place.url("/page"));
        assert_refused(&says.to_string(), &page.reply, 503);
        // As soon as it is the right one, users can log in.
        place.issuer.says(json!({}));
        wait_until("the metadata comes", || {
            Visitor::new().get(&place.url("/page")).reply.status == 302
        });
    }
}

#[test]
fn programs_are_told_and_not_sent_round() {
    let place = Place::new("");
    for (id, method, fields) in [
        ("curl", "GET", "Accept: */*\r\n"),
        (
            "fetch",
            "GET",
            "Accept: text/html\r\nSec-Fetch-Mode: cors\r\n",
        ),
        (
            "an image",
            "GET",
            "Accept: text/html\r\nSec-Fetch-Mode: no-cors\r\n",
        ),
        (
            "XHR",
            "GET",
            "Accept: text/html\r\nX-Requested-With: XMLHttpRequest\r\n",
        ),
        ("a form", "POST", PAGE),
        (
            "a WebSocket",
            "GET",
            "Accept: text/html\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        ),
    ] {
        let reply = Visitor::new()
            .ask(method, &place.url("/page"), fields, "")
            .reply;
        assert_eq!(
            (reply.status, reply.header("www-authenticate")),
            (401, Some("Cookie")),
            "{id}"
        );
        assert_eq!(reply.header("set-cookie"), None, "{id}");
    }
    let head = Visitor::new()
        .ask("HEAD", &place.url("/page"), PAGE, "")
        .reply;
    assert_eq!(
        (head.status, head.header("cache-control")),
        (302, Some("no-store"))
    );
}

#[test]
fn a_session_keeps_the_claims_that_others_deny_by() {
    let place = Place::new("");
    for (edit, want) in [
        (&(|_: &mut Value| {}) as &dyn Fn(&mut Value), 200),
        (&|c: &mut Value| c["groups"] = json!(["x", "banned"]), 403),
        (
            &|c: &mut Value| c["realm_access"] = json!({ "roles": ["banned"] }),
            403,
        ),
        (&|c: &mut Value| c["tier"] = json!("none"), 403),
        (&|c: &mut Value| c["tier"] = json!("some"), 200),
    ] {
        let mut visitor = Visitor::new();
        assert_eq!(place.log_in(&mut visitor, "/page", edit).reply.status, 302);
        assert_eq!(visitor.get(&place.url("/club")).reply.status, want);
    }
}

#[test]
fn claims_cannot_say_more_than_a_header_does() {
    let more = "claimsToHeaders: [{ claim: name, header: X-User-Name }], required: [email], claims: { role: [a, b] }";
    let place = Place::new(more);
    let mut visitor = Visitor::new();
    let right = |claims: &mut Value| {
        claims["name"] = json!("An\r\nX-Admin: 1\u{0}é");
        claims["email"] = json!("a@b");
        claims["role"] = json!(["x", "b"]);
    };
    let page = place.log_in(&mut visitor, "/page", right);
    assert_eq!(page.reply.status, 302);
    assert_eq!(visitor.get(&place.url("/page")).reply.status, 200);
    let got = place.app.all();
    assert!(
        got.contains("X-User-Name: An%0D%0AX-Admin: 1%00%C3%A9\r\n"),
        "{got}"
    );
    assert!(!got.contains("\r\nX-Admin"));
    // What is asked for is asked for at the login, and never leads to another one.
    for edit in [
        &(|c: &mut Value| c["email"] = Value::Null) as &dyn Fn(&mut Value),
        &|c: &mut Value| c["role"] = json!("c"),
    ] {
        let mut visitor = Visitor::new();
        let page = place.log_in(&mut visitor, "/page", |c| {
            right(c);
            edit(c);
        });
        assert_refused("not enough", &page.reply, 403);
        assert!(!place.has_session(&visitor));
    }
    // Limits count by who it is.
    let codes: Vec<u16> = (0..4)
        .map(|_| visitor.get(&place.url("/limited")).reply.status)
        .collect();
    assert_eq!(codes, [200, 200, 200, 429]);
}

#[test]
fn a_long_session_is_several_cookies_and_a_longer_one_none() {
    let headers: Vec<String> = (0..4)
        .map(|n| format!("{{ claim: c{n}, header: X-C{n} }}"))
        .collect();
    let issuer = Scripted::new();
    issuer.says(json!({ "userinfo_endpoint": "$ISSUER/userinfo" }));
    let place = Place::around(
        issuer,
        &format!("claimsToHeaders: [{}]", headers.join(", ")),
        "",
    );
    let log_in = |visitor: &mut Visitor, claims: usize, sub: &str| {
        let (state, nonce) = place.leave_for_issuer(visitor, "/page?again");
        let token = place.issuer.key.sign(&place.issuer.claims(&nonce));
        let mut more = json!({ "sub": sub, "iss": "https://evil", "name": "Eve" });
        for n in 0..claims {
            more[format!("c{n}")] = json!(
                char::from(b'a' + u8::try_from(n).unwrap())
                    .to_string()
                    .repeat(3900)
            );
        }
        place
            .issuer
            .does(move |request| match request.starts_with("GET /userinfo") {
                true if request.contains("authorization: Bearer at\r\n") => answer(200, &more),
                true => answer(401, &json!({})),
                false => answer(200, &json!({ "id_token": token, "access_token": "at" })),
            });
        place.come_back(visitor, &state)
    };
    let mut visitor = Visitor::new();
    assert_eq!(log_in(&mut visitor, 2, "ann").reply.status, 302);
    let names = visitor.cookies(&place.authority());
    assert_eq!(names, [SESSION, "selvedge_session_1", "selvedge_session_2"]);
    assert_eq!(visitor.get(&place.url("/page")).reply.status, 200);
    let got = place.app.all();
    assert!(got.contains(&format!("X-C1: {}\r\n", "b".repeat(3900))));
    // Parts that are missing, or stand in each other's place.
    let part = |n: &str| visitor.cookie(&place.authority(), n).unwrap().to_owned();
    let (one, two) = (part(&names[1]), part(&names[2]));
    let mut mixed = visitor.clone();
    mixed.set(&place.authority(), &names[1], &two);
    mixed.set(&place.authority(), &names[2], &one);
    assert_eq!(mixed.get(&place.url("/page")).reply.status, 302);
    // Too long for four, and somebody else's claims: nothing is set.
    let mut other = Visitor::new();
    assert_refused("too long", &log_in(&mut other, 4, "ann").reply, 502);
    assert_refused("another user's", &log_in(&mut other, 1, "eve").reply, 502);
    assert!(!place.has_session(&other));
    // A shorter session leaves no part of a longer one behind.
    let mut again = mixed;
    assert_eq!(log_in(&mut again, 0, "ann").reply.status, 302);
    let mut left = again.cookies(&place.authority());
    left.retain(|name| !name.contains("_login_"));
    assert_eq!(left, [SESSION]);
}

#[test]
fn behind_a_proxy_with_tls_cookies_are_bound_to_the_host() {
    let place = Place::around(Scripted::new(), "", "trustedHops: 1");
    let fields = "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.example\r\n";
    let ask = |visitor: &mut Visitor, path: &str| {
        visitor.ask("GET", &place.url(path), &format!("{PAGE}{fields}"), "")
    };
    let mut visitor = Visitor::new();
    let page = ask(&mut visitor, "/page");
    let there = page.reply.header("location").unwrap();
    assert_eq!(
        parameter(there, "redirect_uri").as_deref(),
        Some("https://shop.example/oauth2/callback")
    );
    let (state, nonce) = (
        parameter(there, "state").unwrap(),
        parameter(there, "nonce").unwrap(),
    );
    place.issuer.gives(&place.issuer.claims(&nonce));
    let page = ask(
        &mut visitor,
        &format!("/oauth2/callback?code=c&state={state}"),
    );
    let set: Vec<&str> = page
        .reply
        .headers
        .iter()
        .filter(|(n, v)| n == "Set-Cookie" && !v.contains("Max-Age=0"))
        .map(|(_, v)| v.as_str())
        .collect();
    assert_eq!(set.len(), 1);
    assert!(set[0].starts_with("__Host-selvedge_session=1."), "{set:?}");
    assert!(
        set[0].ends_with("; Path=/; Max-Age=28800; HttpOnly; SameSite=Lax; Secure"),
        "{set:?}"
    );
    assert_eq!(ask(&mut visitor, "/page").reply.status, 200);
    // Without TLS it is nobody's.
    assert_eq!(visitor.get(&place.url("/page")).reply.status, 302);
}

#[test]
fn an_issuer_that_fails_to_renew_is_told_from_one_that_refuses() {
    let place = Place::new("");
    // Tokens that have expired by the next second.
    let log_in = |visitor: &mut Visitor| {
        let (state, nonce) = place.leave_for_issuer(visitor, "/page");
        let token = place.issuer.key.sign(&place.issuer.claims(&nonce));
        let refresh = format!("refresh-{state}");
        place.issuer.does(move |_| {
            answer(
                200,
                &json!({ "id_token": token, "refresh_token": refresh, "expires_in": 1 }),
            )
        });
        place.come_back(visitor, &state)
    };
    let mut visitor = Visitor::new();
    assert_eq!(log_in(&mut visitor).reply.status, 302);
    // Down: whoever is logged in stays so, and is told to wait once the tokens have expired.
    place.issuer.does(|_| answer(500, &json!({})));
    wait_until("tokens have expired", || {
        visitor.get(&place.url("/page")).reply.status == 502
    });
    assert!(place.has_session(&visitor));
    // Another user's tokens are a refusal, as is a plain one: log in again.
    for (id, said) in [
        ("refused", answer(400, &json!({ "error": "invalid_grant" }))),
        ("another user's", {
            let mut claims = place.issuer.claims("");
            claims["sub"] = json!("eve");
            answer(
                200,
                &json!({ "id_token": place.issuer.key.sign(&claims), "expires_in": 60 }),
            )
        }),
    ] {
        let mut visitor = Visitor::new();
        assert_eq!(log_in(&mut visitor).reply.status, 302);
        place.issuer.does(move |_| said.clone());
        wait_until(id, || visitor.get(&place.url("/page")).reply.status == 302);
        assert!(!place.has_session(&visitor), "{id}");
        let reply = visitor
            .ask(
                "GET",
                &place.url("/page"),
                "Accept: application/json\r\n",
                "",
            )
            .reply;
        assert_eq!(reply.status, 401, "{id}");
    }
}
