//! Login as it is in the open: TLS on both sides, HTTP/2, cookies that are bound to their host, an
//! issuer of a private CA. The browser is curl, which keeps the rules of `__Host-` too.

use std::path::Path;
use std::process::Command;

use selvedge_tests::oidc::Scripted;
use selvedge_tests::visitor::parameter;
use selvedge_tests::{Selvedge, TestCa, Upstream, gateway};
use serde_json::json;

/// A gateway with TLS for `name`; what is in `$DIR` is the CA, certificate and key, and a key for
/// sessions.
fn with_tls(ca: &TestCa, name: &str, policies: &str, upstream: &Upstream) -> Selvedge {
    let dir = tempfile::tempdir().unwrap();
    let leaf = ca.server(&[name]);
    let (certificate, key) = leaf.write(dir.path(), "tls");
    std::fs::write(dir.path().join("ca.pem"), ca.bundle()).unwrap();
    let session = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    std::fs::write(dir.path().join("keys"), session).unwrap();
    let config = format!(
        "listeners:
  - {{ name: web, bind: 127.0.0.1, port: 0, protocol: HTTPS, tls: {{ certificates: [{{ certificate: {}, key: {} }}] }} }}
{policies}
services: {{ app: {{ endpoints: [\"{}\"] }} }}
",
        certificate.display(),
        key.display(),
        upstream.address()
    );
    Selvedge::start_in(dir, "gateway", &config, 1)
}

/// Opens a page of `shop.example` by HTTP/2; gives status and `Location`.
fn open(proxy: &Selvedge, jar: &Path, path: &str) -> (String, String) {
    let port = proxy.address("web").port();
    let output = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--http2",
            "--max-time",
            "20",
            "--output",
            "/dev/null",
        ])
        .args(["--resolve", &format!("shop.example:{port}:127.0.0.1")])
        .arg("--cacert")
        .arg(proxy.dir().join("ca.pem"))
        .arg("--cookie")
        .arg(jar)
        .arg("--cookie-jar")
        .arg(jar)
        .args(["--header", "Accept: text/html"])
        .args([
            "--write-out",
            "%{http_version} %{http_code} %{redirect_url}",
        ])
        .arg(format!("https://shop.example:{port}{path}"))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut parts = said.splitn(3, ' ');
    assert_eq!(parts.next(), Some("2"), "{said} {error}");
    let mut next = || parts.next().unwrap_or_default().to_owned();
    (next(), next())
}

#[test]
fn a_user_logs_in_over_tls_at_an_issuer_of_a_private_ca() {
    let ca = TestCa::new();
    let issuer = Scripted::new();
    let front = with_tls(
        &ca,
        "localhost",
        "routes: [{ rules: [{ backendRefs: [{ service: app }] }] }]",
        &issuer.server,
    );
    let address = format!("https://localhost:{}", front.address("web").port());
    issuer.says(json!({
        "issuer": address,
        "authorization_endpoint": format!("{address}/auth"),
        "token_endpoint": format!("{address}/token"),
        "jwks_uri": format!("{address}/jwks"),
    }));
    let login = |ca: &str| {
        format!(
            "policies: {{ login: {{ oidc: {{ issuer: \"{address}\", {ca} clientId: shop, sessionKeyFile: $DIR/keys }} }} }}
routes: [{{ policies: [login], rules: [{{ backendRefs: [{{ service: app }}] }}] }}]"
        )
    };
    let app = Upstream::answering("ok");
    let proxy = with_tls(&ca, "shop.example", &login("issuerCa: $DIR/ca.pem,"), &app);
    let port = proxy.address("web").port();
    let jar = proxy.dir().join("jar");
    let (status, there) = open(&proxy, &jar, "/page?x");
    assert_eq!(status, "302");
    assert!(there.starts_with(&format!("{address}/auth?")), "{there}");
    let back = parameter(&there, "redirect_uri").unwrap();
    assert_eq!(back, format!("https://shop.example:{port}/oauth2/callback"));
    let mut claims = issuer.claims(&parameter(&there, "nonce").unwrap());
    claims["iss"] = json!(address);
    issuer.gives(&claims);
    let state = parameter(&there, "state").unwrap();
    let (status, there) = open(
        &proxy,
        &jar,
        &format!("/oauth2/callback?code=c&state={state}"),
    );
    assert_eq!(
        (status.as_str(), there),
        ("302", format!("https://shop.example:{port}/page?x"))
    );
    let kept = std::fs::read_to_string(&jar).unwrap();
    assert!(kept.contains("\t__Host-selvedge_session\t"), "{kept}");
    assert_eq!(open(&proxy, &jar, "/page?x").0, "200");
    assert!(!app.all().contains("selvedge_session"), "{}", app.all());
    // Whom no CA vouches for is nobody's issuer.
    let other = with_tls(
        &TestCa::new(),
        "shop.example",
        &login("issuerCa: $DIR/ca.pem,"),
        &app,
    );
    assert_eq!(open(&other, &other.dir().join("jar"), "/").0, "503");
}

#[test]
fn issuers_without_tls_are_for_loopback() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("keys"),
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    )
    .unwrap();
    // One on loopback works, as every other test shows; what it names must be on loopback too.
    let issuer = Scripted::new();
    issuer.says(json!({ "token_endpoint": "http://192.0.2.1/token" }));
    let proxy = gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
policies: {{ login: {{ oidc: {{ issuer: \"{}\", clientId: shop, sessionKeyFile: {} }} }} }}
routes: [{{ policies: [login], rules: [{{}}] }}]
",
        issuer.issuer(),
        dir.path().join("keys").display()
    ));
    proxy.wait_for_log("its `token_endpoint` is not https");
}
