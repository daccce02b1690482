//! Token introspection (RFC 7662) with an endpoint that says whatever a test wants, and with a real
//! provider.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use selvedge_tests::acme_place::wait_until;
use selvedge_tests::oidc::{Provider, Scripted, answer, unix_now};
use selvedge_tests::raw::Reply;
use selvedge_tests::visitor::{PAGE, Visitor, parameter};
use selvedge_tests::{Raw, Selvedge, Upstream};
use serde_json::{Value, json};

struct Place {
    app: Upstream,
    proxy: Selvedge,
}

impl Place {
    fn new(endpoint: &str, client: &str, more: &str) -> Self {
        let app = Upstream::answering("ok");
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "s3cret\n").unwrap();
        let config = format!(
            "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
policies:
  asked: {{ introspection: {{ endpoint: \"{endpoint}\", clientId: {client}, clientSecretFile: $DIR/secret, {more} }} }}
routes: [{{ policies: [asked], rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}
",
            app.address()
        );
        let proxy = Selvedge::start_in(dir, "gateway", &config, 2);
        Self { app, proxy }
    }

    fn ask(&self, token: &str) -> Reply {
        self.ask_with(&format!("Authorization: Bearer {token}\r\n"))
    }

    fn ask_with(&self, fields: &str) -> Reply {
        ask(self.proxy.address("web"), fields)
    }
}

fn ask(gateway: SocketAddr, fields: &str) -> Reply {
    let mut client = Raw::connect(gateway);
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    client.reply()
}

/// An endpoint whose answer depends on the token, and how often it was asked.
fn endpoint(said: impl Fn(&str) -> Value + Send + Sync + 'static) -> (Scripted, Arc<AtomicUsize>) {
    let server = Scripted::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    server.does(move |request| {
        count.fetch_add(1, Ordering::SeqCst);
        let (_, form) = request.rsplit_once("\r\n\r\n").unwrap();
        let token = parameter(&format!("?{form}"), "token").unwrap();
        answer(200, &said(&token))
    });
    (server, asked)
}

fn url(server: &Scripted) -> String {
    format!("{}/introspect", server.issuer())
}

#[test]
fn only_active_tokens_pass() {
    let now = unix_now();
    let (server, asked) = endpoint(move |token| match token {
        "right" => {
            json!({ "active": true, "sub": "an\r\nX-Admin: 1", "scope": "read write", "aud": "api", "exp": now + 600 })
        }
        "narrow" => json!({ "active": true, "sub": "ann", "scope": "write", "aud": "api" }),
        "other" => json!({ "active": true, "sub": "ann", "scope": "read", "aud": "x" }),
        "over" => {
            json!({ "active": true, "sub": "ann", "scope": "read", "aud": "api", "exp": now - 100 })
        }
        _ => json!({ "active": false, "sub": "root" }),
    });
    let more = "scopes: [read], audiences: [api], forward: false, claimsToHeaders: [{ claim: sub, header: X-User }]";
    let place = Place::new(&url(&server), "gate", more);
    let forged = "Authorization: Bearer right\r\nX-User: root\r\nx_user: root\r\n";
    assert_eq!(place.ask_with(forged).status, 200);
    let got = place.app.all();
    assert!(got.contains("X-User: an%0D%0AX-Admin: 1\r\n"), "{got}");
    assert!(!got.contains("root") && !got.contains("right"), "{got}");
    for (token, status, code) in [
        ("narrow", 403, "insufficient_scope"),
        ("other", 401, "invalid_token"),
        ("over", 401, "invalid_token"),
        ("unknown", 401, "invalid_token"),
        ("a&token=right", 401, "invalid_token"),
    ] {
        let reply = place.ask(token);
        assert_eq!(reply.status, status, "{token}");
        assert!(
            reply.header("www-authenticate").unwrap().contains(code),
            "{token}: {reply:?}"
        );
    }
    let before = asked.load(Ordering::SeqCst);
    for (id, fields) in [
        ("nothing", String::new()),
        ("Basic", "Authorization: Basic right\r\n".to_owned()),
        (
            "two",
            "Authorization: Bearer right\r\nAuthorization: Bearer right\r\n".to_owned(),
        ),
        (
            "too long",
            format!("Authorization: Bearer {}\r\n", "a".repeat(8200)),
        ),
        ("empty", "Authorization: Bearer  \r\n".to_owned()),
        (
            "with spaces",
            "Authorization: Bearer right x\r\n".to_owned(),
        ),
    ] {
        assert_eq!(place.ask_with(&fields).status, 401, "{id}");
    }
    assert_eq!(
        asked.load(Ordering::SeqCst),
        before,
        "nobody was asked about those"
    );
    let question = server.server.all();
    // base64 of `gate:s3cret`.
    assert!(
        question.contains("authorization: Basic Z2F0ZTpzM2NyZXQ=\r\n"),
        "{question}"
    );
    assert!(
        question.contains("token=right&token_type_hint=access_token"),
        "{question}"
    );
    assert_eq!(place.app.all().matches("GET /").count(), 1);
    assert!(!place.proxy.log().join("\n").contains("s3cret"));
}

#[test]
fn one_question_answers_many_requests() {
    let gate = Arc::new(Barrier::new(2));
    let held = gate.clone();
    let (server, asked) = endpoint(move |token| {
        if token == "slow" {
            held.wait();
        }
        json!({ "active": token != "bad" })
    });
    let place = Place::new(&url(&server), "gate", "timeout: 10s");
    let gateway = place.proxy.address("web");
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..20)
            .map(|_| scope.spawn(move || ask(gateway, "Authorization: Bearer slow\r\n").status))
            .collect();
        wait_until("all of them wait", || {
            place.proxy.metric("selvedge_requests_in_flight", &[]) > 19.5
        });
        gate.wait();
        assert!(asking.into_iter().all(|a| a.join().unwrap() == 200));
    });
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    for _ in 0..10 {
        assert_eq!(place.ask("slow").status, 200);
        assert_eq!(place.ask("bad").status, 401);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[test]
fn what_is_remembered_ends() {
    // No longer than the token, though 60 s would be the rule.
    let until = unix_now() + 3;
    let (server, asked) = endpoint(move |_| json!({ "active": unix_now() < until, "exp": until }));
    let place = Place::new(&url(&server), "gate", "skew: 0s");
    assert_eq!(place.ask("t").status, 200);
    wait_until("it has expired", || place.ask("t").status == 401);
    assert!(unix_now() >= until);
    assert!(asked.load(Ordering::SeqCst) >= 1);
    // Without a memory each request asks.
    let (server, asked) = endpoint(|_| json!({ "active": true }));
    let place = Place::new(&url(&server), "gate", "cache: 0s");
    for _ in 0..3 {
        assert_eq!(place.ask("t").status, 200);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[test]
fn an_endpoint_that_fails_lets_nobody_in() {
    let server = Scripted::new();
    let place = Place::new(&url(&server), "gate", "timeout: 1s, cache: 0s");
    let big = "x".repeat(1 << 20);
    for (id, said, status) in [
        ("hangs", String::new(), 503),
        ("500", answer(500, &json!({ "active": true })), 503),
        (
            "wrong secret",
            answer(401, &json!({ "error": "invalid_client" })),
            502,
        ),
        ("garbage", "SSH-2.0-x\r\n\r\n".to_owned(), 502),
        ("no word of it", answer(200, &json!({ "sub": "ann" })), 502),
        (
            "a redirect",
            "HTTP/1.1 302 F\r\nLocation: /\r\nContent-Length: 0\r\n\r\n".to_owned(),
            502,
        ),
        (
            "1 MiB",
            answer(200, &json!({ "active": true, "x": big })),
            502,
        ),
    ] {
        server.does(move |_| said.clone());
        assert_eq!(
            place.ask(id.replace(' ', "-").as_str()).status,
            status,
            "{id}"
        );
    }
    server.does(|_| answer(200, &json!({ "active": true })));
    assert_eq!(place.ask("500").status, 200);
    assert_eq!(place.app.all().matches("GET /").count(), 1);
    drop(server);
    let place = Place::new("http://127.0.0.1:1/", "gate", "");
    assert_eq!(place.ask("t").status, 503);
}

/// Gets an access token by hand, as an application would.
fn access_token(provider: &Provider, origin: &str) -> String {
    let mut visitor = Visitor::new();
    let auth = format!(
        "{}/auth?response_type=code&client_id=public&scope=openid&redirect_uri={origin}/oauth2/callback&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256",
        provider.issuer
    );
    let form = visitor.open(&auth);
    let page = visitor.log_in(&form, "ann");
    let code = parameter(&page.url, "code").expect("a code");
    let body = format!(
        "grant_type=authorization_code&client_id=public&code={code}&redirect_uri={origin}/oauth2/callback&code_verifier=dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    );
    let fields = format!("{PAGE}Content-Type: application/x-www-form-urlencoded\r\n");
    let reply = visitor
        .ask(
            "POST",
            &format!("{}/token", provider.issuer),
            &fields,
            &body,
        )
        .reply;
    let tokens: Value = serde_json::from_slice(&reply.body).unwrap();
    tokens["access_token"].as_str().expect("a token").to_owned()
}

#[test]
fn a_real_provider_is_asked() {
    // Where the provider sends the user back to; what is there does not matter.
    let back = Upstream::answering("back");
    let origin = format!("http://{}", back.address());
    let provider = Provider::start(&origin, 600);
    let token = access_token(&provider, &origin);
    let endpoint = format!("{}/token/introspection", provider.issuer);
    let place = Place::new(
        &endpoint,
        "basic",
        "scopes: [openid], claimsToHeaders: [{ claim: sub, header: X-User }]",
    );
    assert_eq!(place.ask(&token).status, 200);
    assert!(place.app.all().contains("X-User: ann\r\n"));
    assert_eq!(place.ask("unknown").status, 401);
}
