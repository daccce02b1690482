//! A login as one of several ways: browsers are sent to log in, programs bring a key, and neither is in
//! the other's way.

use std::process::Command;

use selvedge_tests::oidc::Scripted;
use selvedge_tests::process::binary;
use selvedge_tests::visitor::{PAGE, Visitor, parameter};
use selvedge_tests::{Selvedge, Upstream};
use serde_json::json;

#[test]
fn a_login_is_the_last_way_whatever_its_place() {
    let (issuer, app) = (Scripted::new(), Upstream::answering("ok"));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("keys"),
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    )
    .unwrap();
    std::fs::write(dir.path().join("secret"), "s3cret-of-the-client").unwrap();
    let made = Command::new(binary())
        .args(["apikey", "new", "--name", "robot", "--file"])
        .arg(dir.path().join("robots.json"))
        .output()
        .unwrap();
    let key = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    let config = format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0, policies: [who] }}]
policies:
  login:
    oidc:
      issuer: \"{}\"
      clientId: shop
      clientSecretFile: $DIR/secret
      sessionKeyFile: $DIR/keys
      claimsToHeaders: [{{ claim: email, header: X-Email }}]
  robots: {{ apiKey: {{ file: $DIR/robots.json }} }}
  who: {{ anyOf: [login, robots] }}
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}
",
        issuer.issuer(),
        app.address()
    );
    let proxy = Selvedge::start_in(dir, "gateway", &config, 1);
    let url = |path: &str| format!("http://{}{path}", proxy.address("web"));
    let mut visitor = Visitor::new();
    let robot = format!("X-API-Key: {key}\r\nX-Email: root@shop.example\r\n");
    assert_eq!(
        visitor.ask("GET", &url("/robot"), &robot, "").reply.status,
        200
    );
    // A program without a key is told so; a browser is sent to log in.
    let refused = visitor.ask("GET", &url("/"), "Accept: application/json\r\n", "");
    assert_eq!(refused.reply.status, 401);
    let page = visitor.ask("GET", &url("/page"), PAGE, "");
    assert_eq!(page.reply.status, 302);
    let there = page.reply.header("location").unwrap().to_owned();
    assert!(there.starts_with(&issuer.issuer()), "{there}");
    let nonce = parameter(&there, "nonce").unwrap();
    let mut claims = issuer.claims(&nonce);
    claims["email"] = json!("ann@shop.example");
    issuer.gives(&claims);
    let state = parameter(&there, "state").unwrap();
    let back = url(&format!("/oauth2/callback?code=c0de&state={state}"));
    let page = visitor.ask("GET", &back, PAGE, "");
    assert_eq!(page.reply.header("location"), Some("/page"), "{page:?}");
    let forged = format!("{PAGE}X-Consumer: root\r\nX-Email: root@shop.example\r\n");
    assert_eq!(
        visitor.ask("GET", &url("/page"), &forged, "").reply.status,
        200
    );
    let got = app.all();
    assert!(
        got.contains("X-Email: ann@shop.example\r\n") && !got.contains("root"),
        "{got}"
    );
    assert!(got.contains("X-Consumer: robot\r\n"), "{got}");
}
