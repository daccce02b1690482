//! JSON Web Tokens from outside, rows JW-01 to JW-10 of the battery as far as they need a server:
//! keys that come, change and go, what the application is told, what a client may not tell it.
//! What a token must be is tested beside the code, in `gateway-mode`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use selvedge_tests::process::gateway;
use selvedge_tests::raw::Reply;
use selvedge_tests::{Raw, Selvedge, Upstream};
use serde_json::{Value, json};

/// A key of an issuer.
struct Signer {
    kid: &'static str,
    pair: EcdsaKeyPair,
}

impl Signer {
    fn new(kid: &'static str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { kid, pair }
    }

    fn jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let (x, y) = (B64.encode(&point[1..33]), B64.encode(&point[33..65]));
        json!({ "kty": "EC", "crv": "P-256", "use": "sig", "kid": self.kid, "x": x, "y": y })
    }

    fn token(&self, edit: impl Fn(&mut Value)) -> String {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let mut claims = json!({ "iss": "https://id.example", "aud": "shop", "exp": now + 300,
            "sub": "ann", "scope": "read" });
        edit(&mut claims);
        let head = json!({ "alg": "ES256", "kid": self.kid, "jku": "http://127.0.0.1:1/evil" });
        let message = format!(
            "{}.{}",
            B64.encode(head.to_string()),
            B64.encode(claims.to_string())
        );
        let signature = self
            .pair
            .sign(&SystemRandom::new(), message.as_bytes())
            .unwrap();
        format!("{message}.{}", B64.encode(signature))
    }
}

/// An issuer's key server, whose answer can be changed, with the number of times it was asked.
struct Issuer {
    server: Upstream,
    answer: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    fn with(keys: &[&Signer]) -> Self {
        let answer = Arc::new(Mutex::new(set(keys)));
        let asked = Arc::new(AtomicUsize::new(0));
        let (told, count) = (answer.clone(), asked.clone());
        let server = Upstream::scripted(move |connection| {
            while connection.request().is_some() {
                count.fetch_add(1, Ordering::SeqCst);
                let body = told.lock().unwrap().clone();
                connection.send(body);
            }
        });
        Self {
            server,
            answer,
            asked,
        }
    }

    fn answer(&self, text: String) {
        *self.answer.lock().unwrap() = text;
    }

    fn url(&self) -> String {
        format!("http://{}/jwks.json", self.server.address())
    }
}

fn set(keys: &[&Signer]) -> String {
    let keys: Vec<Value> = keys.iter().map(|k| k.jwk()).collect();
    let body = json!({ "keys": keys }).to_string();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn app() -> Upstream {
    Upstream::replying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
}

fn proxy(app: &Upstream, jwks: &str, more: &str) -> Selvedge {
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
policies:
  users: {{ jwt: {{ issuer: \"https://id.example\", jwks: \"{jwks}\", audiences: [shop], {more} }} }}
  each: {{ rateLimit: {{ key: jwt.sub, rate: 2/hour }} }}
routes:
  - rules:
      - {{ matches: [{{ path: /limited }}], policies: [users, each], backendRefs: [{{ service: app }}] }}
      - {{ policies: [users], backendRefs: [{{ service: app }}] }}
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        app.address()
    ))
}

fn ask(proxy: &Selvedge, path: &str, fields: &str) -> Reply {
    let mut client = Raw::connect(proxy.address("web"));
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    client.reply()
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

#[test]
fn jw_only_who_has_a_token_gets_in() {
    let key = Signer::new("one");
    let (app, issuer) = (app(), Issuer::with(&[&key]));
    let proxy = proxy(&app, &issuer.url(), "scopes: [read]");
    let right = key.token(|_| {});
    for _ in 0..3 {
        assert_eq!(ask(&proxy, "/", &bearer(&right)).status, 200);
    }
    assert_eq!(
        ask(&proxy, "/", &format!("authorization: bEaReR {right}\r\n")).status,
        200
    );
    let bare = ask(&proxy, "/", "");
    assert_eq!(
        (bare.status, bare.header("www-authenticate")),
        (401, Some("Bearer"))
    );
    let other = Signer::new("one");
    let (first, last) = right.split_at(right.len() - 4);
    for (id, fields) in [
        ("signed by another", bearer(&other.token(|_| {}))),
        (
            "expired",
            bearer(&key.token(|c| c["exp"] = json!(1_000_000))),
        ),
        (
            "for another",
            bearer(&key.token(|c| c["aud"] = json!("shop2"))),
        ),
        ("cut", bearer(first)),
        ("turned round", bearer(&format!("{last}{first}"))),
        ("Basic", format!("Authorization: Basic {right}\r\n")),
        ("no scheme", format!("Authorization: {right}\r\n")),
        ("two fields", bearer(&right) + &bearer(&right)),
        ("in the query", String::new()),
        ("8 KiB", bearer(&"a".repeat(8200))),
    ] {
        let reply = ask(&proxy, &format!("/?access_token={right}"), &fields);
        assert_eq!(reply.status, 401, "{id}");
        assert!(
            reply
                .header("www-authenticate")
                .unwrap()
                .starts_with("Bearer"),
            "{id}"
        );
    }
    let narrow = ask(
        &proxy,
        "/",
        &bearer(&key.token(|c| c["scope"] = json!("write"))),
    );
    assert_eq!(narrow.status, 403);
    assert!(
        narrow
            .header("www-authenticate")
            .unwrap()
            .contains("insufficient_scope")
    );
    assert_eq!(app.all().matches("GET /").count(), 4, "{}", app.all());
    assert_eq!(issuer.asked.load(Ordering::SeqCst), 1);
}

#[test]
fn jw_10_claims_become_headers_and_copies_of_the_client_go() {
    let key = Signer::new("one");
    let (app, issuer) = (app(), Issuer::with(&[&key]));
    let more = "forward: false, claimsToHeaders: [{ claim: sub, header: X-User }, { claim: roles, header: X-Roles }]";
    let proxy = proxy(&app, &issuer.url(), more);
    let token = key.token(|c| c["sub"] = json!("an\r\nX-Admin: 1"));
    let forged =
        "X-User: root\r\nx-user: root\r\nX_User: root\r\nX_ROLES: admin\r\nX-Roles: admin\r\n";
    let reply = ask(&proxy, "/", &(bearer(&token) + forged));
    assert_eq!(reply.status, 200);
    let got = app.all();
    assert!(got.contains("X-User: an%0D%0AX-Admin: 1\r\n"), "{got}");
    for gone in ["root", "admin\r\n", "Authorization", "\r\nX-Admin", "oles"] {
        assert!(!got.contains(gone), "{gone}: {got}");
    }
    let long = key.token(|c| c["sub"] = json!("a".repeat(5000)));
    assert_eq!(ask(&proxy, "/", &bearer(&long)).status, 401);
}

#[test]
fn jw_08_keys_change_without_a_false_refusal() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let (app, issuer) = (app(), Issuer::with(&[&old]));
    let proxy = proxy(&app, &issuer.url(), "");
    assert_eq!(ask(&proxy, "/", &bearer(&old.token(|_| {}))).status, 200);
    // The first token of a new key waits until the keys are there; the old key's are still good.
    issuer.answer(set(&[&old, &new]));
    let begun = std::time::Instant::now();
    while ask(&proxy, "/", &bearer(&new.token(|_| {}))).status != 200 {
        // Within ten seconds of the last fetch there is no other; each try waits its two.
        assert!(begun.elapsed().as_secs() < 15);
        assert_eq!(ask(&proxy, "/", &bearer(&old.token(|_| {}))).status, 200);
    }
    assert_eq!(ask(&proxy, "/", &bearer(&old.token(|_| {}))).status, 200);
    // Unknown keys without number do not make the gateway ask without number.
    let asked = issuer.asked.load(Ordering::SeqCst);
    assert_eq!(asked, 2);
    let address = proxy.address("web");
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let token = Signer::new("../../etc/passwd").token(|_| {});
                let mut client = Raw::connect(address);
                let fields = bearer(&token);
                client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
                assert_eq!(client.reply().status, 401);
            });
        }
    });
    assert!(issuer.asked.load(Ordering::SeqCst) <= asked + 1);
    // An issuer that fails takes nobody's keys away.
    for broken in [
        "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 302 Found\r\nLocation: http://evil/\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{\"keys\":[]}".to_owned(),
    ] {
        issuer.answer(broken);
        assert_eq!(ask(&proxy, "/", &bearer(&new.token(|_| {}))).status, 200);
    }
}

#[test]
fn jw_08_without_any_keys_nobody_gets_in() {
    let key = Signer::new("one");
    let (app, issuer) = (app(), Issuer::with(&[&key]));
    issuer.answer(format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(300_000)));
    let proxy = proxy(&app, &issuer.url(), "");
    let reply = ask(&proxy, "/", &bearer(&key.token(|_| {})));
    assert_eq!(reply.status, 503);
    assert_eq!(ask(&proxy, "/", "").status, 401);
    // As soon as the keys are there, so is everybody else.
    issuer.answer(set(&[&key]));
    let begun = std::time::Instant::now();
    while ask(&proxy, "/", &bearer(&key.token(|_| {}))).status != 200 {
        assert!(begun.elapsed().as_secs() < 15);
    }
    assert_eq!(app.all().matches("GET /").count(), 1);
}

#[test]
fn of_two_tokens_in_a_header_of_ones_own_neither_counts() {
    let (key, app) = (Signer::new("k"), app());
    let issuer = Issuer::with(&[&key]);
    let proxy = proxy(&app, &issuer.url(), "header: X-Token");
    let good = key.token(|_| {});
    let one = format!("X-Token: {good}\r\n");
    assert_eq!(ask(&proxy, "/", &one).status, 200);
    assert_eq!(
        ask(&proxy, "/", &format!("{one}X-Token: forged\r\n")).status,
        401
    );
}

#[test]
fn a_limit_counts_by_who_the_token_is_for() {
    let key = Signer::new("one");
    let (app, issuer) = (app(), Issuer::with(&[&key]));
    let proxy = proxy(&app, &issuer.url(), "");
    let ask = |who: &str| {
        let token = key.token(|c| c["sub"] = json!(who));
        ask(&proxy, "/limited", &bearer(&token)).status
    };
    assert_eq!(
        [ask("ann"), ask("ann"), ask("ann"), ask("bob")],
        [200, 200, 429, 200]
    );
}

#[test]
fn keys_from_a_file_change_with_it() {
    let (old, new) = (Signer::new("k"), Signer::new("k"));
    let app = app();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("jwks.json");
    let write = |key: &Signer| {
        std::fs::write(&file, json!({ "keys": [key.jwk()] }).to_string()).unwrap();
    };
    write(&old);
    let proxy = proxy(&app, file.to_str().unwrap(), "");
    assert_eq!(ask(&proxy, "/", &bearer(&old.token(|_| {}))).status, 200);
    write(&new);
    proxy.wait_for_metric("selvedge_config_reloads_total", &[], 1.0);
    assert_eq!(ask(&proxy, "/", &bearer(&new.token(|_| {}))).status, 200);
    assert_eq!(ask(&proxy, "/", &bearer(&old.token(|_| {}))).status, 401);
}
