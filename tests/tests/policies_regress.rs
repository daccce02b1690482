//! What a review of the gateway's policies has found, so that it stays found.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use selvedge_tests::process::{binary, gateway, sidecar};
use selvedge_tests::{Raw, Selvedge, Upstream};
use tempfile::TempDir;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A directory with a key for `robot`, and a user `ann`.
fn callers() -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let made = Command::new(binary())
        .args(["apikey", "new", "--name", "robot", "--file"])
        .arg(dir.path().join("keys.json"))
        .output()
        .unwrap();
    let key = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    let script = format!(
        "echo sesame | {} password --name ann --file {}",
        binary().display(),
        dir.path().join("users").display()
    );
    let mut shell = Command::new("sh");
    let set = shell.args(["-c", &script]).stdout(Stdio::null()).status();
    assert!(set.unwrap().success());
    (dir, key)
}

fn with(app: &Upstream, dir: &Path, listener: &str, policies: &str, names: &str) -> Selvedge {
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0, {listener} }}]
policies:
{}
routes:
  - rules: [{{ policies: [{names}], backendRefs: [{{ service: app }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        policies.replace("$IN", &dir.display().to_string()),
        app.address()
    ))
}

fn get(proxy: &Selvedge, target: &str, fields: &str) -> u16 {
    let mut client = Raw::connect(proxy.address("web"));
    client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    client.reply().status
}

#[test]
fn what_other_ways_would_look_at_is_not_passed_on() {
    let (dir, key) = callers();
    let app = Upstream::replying(OK);
    let proxy = with(
        &app,
        dir.path(),
        "",
        "  keys: { apiKey: { file: $IN/keys.json, header: X-API-Key, query: key } }
  staff: { basic: { file: $IN/users } }
  who: { anyOf: [keys, staff] }",
        "who",
    );
    let basic = |text: &str| format!("Authorization: Basic {}\r\n", STANDARD.encode(text));
    let forged = basic("admin:forged");
    assert_eq!(
        get(&proxy, "/a", &format!("X-API-Key: {key}\r\n{forged}")),
        200
    );
    let right = basic("ann:sesame");
    assert_eq!(
        get(
            &proxy,
            "/b?x=1&key=other",
            &format!("{right}X_API_Key: y\r\n")
        ),
        200
    );
    let got = app.all();
    assert!(
        !got.contains("Authorization") && !got.to_lowercase().contains("api"),
        "{got}"
    );
    assert!(got.contains("GET /b?x=1 HTTP"), "{got}");
}

#[test]
fn a_place_is_taken_before_a_body_is_held() {
    let (dir, _) = callers();
    std::fs::write(dir.path().join("secret"), "0123456789abcdefghij").unwrap();
    let app = Upstream::replying(OK);
    let proxy = with(
        &app,
        dir.path(),
        "",
        "  one: { concurrency: { max: 1 } }
  signed: { signature: { form: gitHub, secretFiles: [$IN/secret] } }",
        "signed, one",
    );
    let head = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nX-Hub-Signature-256: sha256={}\r\nContent-Length: 1000\r\n\r\n",
        "0".repeat(64)
    );
    let mut first = Raw::connect(proxy.address("web"));
    first.send(format!("{head}{}", "x".repeat(10)));
    proxy.wait_for_metric("selvedge_requests_in_flight", &[], 1.0);
    let mut second = Raw::connect(proxy.address("web"));
    second.send(&head);
    assert_eq!(second.reply().status, 429);
}

#[test]
fn a_body_that_is_held_has_the_time_of_its_request() {
    let (dir, _) = callers();
    std::fs::write(dir.path().join("secret"), "0123456789abcdefghij").unwrap();
    let app = Upstream::replying(OK);
    let proxy = gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
limits: {{ request: 1s }}
policies: {{ signed: {{ signature: {{ form: gitHub, secretFiles: [{}/secret] }} }} }}
routes: [{{ rules: [{{ policies: [signed], backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        dir.path().display(),
        app.address()
    ));
    let mut client = Raw::connect(proxy.address("web"));
    let begun = Instant::now();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\nX-Hub-Signature-256: sha256={}\r\nContent-Length: 100000\r\n\r\n{}",
        "0".repeat(64),
        "x".repeat(10)
    ));
    assert_eq!(client.reply().status, 408);
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
}

#[test]
fn an_upload_that_is_made_to_wait_is_in_time() {
    let app = Upstream::replying(OK);
    let dir = tempfile::tempdir().unwrap();
    let proxy = gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
limits: {{ request: 1s }}
policies: {{ slow: {{ bandwidth: {{ request: 20000/s }} }} }}
routes: [{{ rules: [{{ policies: [slow], backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        app.address()
    ));
    drop(dir);
    let mut client = Raw::connect(proxy.address("web"));
    let begun = Instant::now();
    let body = "x".repeat(60_000);
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n{body}"
    ));
    assert_eq!(client.reply().status, 200);
    assert!(begun.elapsed().as_secs() >= 2, "{:?}", begun.elapsed());
    assert!(app.all().contains(&body));
}

#[test]
fn signatures_are_for_the_host_that_routes() {
    let dir = tempfile::tempdir().unwrap();
    let secret = "0123456789abcdefghij";
    std::fs::write(dir.path().join("secret"), secret).unwrap();
    let app = Upstream::replying(OK);
    let proxy = with(
        &app,
        dir.path(),
        "trustedHops: 1",
        "  signed: { signature: { form: message, keys: { a: { secretFile: $IN/secret } }, headers: [X-Amount] } }",
        "signed",
    );
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let input = format!(
        "(\"@method\" \"@authority\" \"@path\" \"x-amount\");created={};keyid=\"a\"",
        since.unwrap().as_secs()
    );
    let base = format!(
        "\"@method\": GET\n\"@authority\": a.example\n\"@path\": /\n\"x-amount\": 7\n\"@signature-params\": {input}"
    );
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.as_bytes());
    let tag = STANDARD.encode(aws_lc_rs::hmac::sign(&key, base.as_bytes()));
    let fields = format!(
        "X-Amount: 7\r\nX_Amount: 999\r\nSignature-Input: s={input}\r\nSignature: s=:{tag}:\r\n"
    );
    let ask = |host: &str, more: &str| {
        let mut client = Raw::connect(proxy.address("web"));
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: {host}\r\n{fields}{more}\r\n"
        ));
        client.reply().status
    };
    assert_eq!(ask("b.example", "X-Forwarded-Host: a.example\r\n"), 401);
    assert_eq!(ask("a.example", "X-Forwarded-Host: b.example\r\n"), 200);
    // What only looks like a signed header is not signed.
    let got = app.all();
    assert!(
        got.contains("X-Amount: 7\r\n") && !got.contains("999"),
        "{got}"
    );
}

#[test]
fn an_encoded_slash_is_no_way_around_a_path() {
    let app = Upstream::replying(OK);
    let proxy = sidecar(&format!(
        "outbound: {{ bind: \"127.0.0.1:0\" }}
policies:
  never: {{ deny: [{{ paths: [/secret] }}] }}
services: {{ app: {{ endpoints: [\"{}\"], policies: [never] }} }}",
        app.address()
    ));
    for (target, want) in [
        ("/secret%2f", 403),
        ("/open%2F..%2Fsecret", 403),
        ("/secret%5Cx", 403),
        ("/open%2Fsecret", 200),
    ] {
        let mut client = Raw::connect(proxy.address("outbound"));
        client.send(format!("GET {target} HTTP/1.1\r\nHost: app\r\n\r\n"));
        assert_eq!(client.reply().status, want, "{target}");
    }
}

#[test]
fn a_sidecar_s_cache_is_for_the_service_as_it_is() {
    let (old, new) = (Upstream::answering("old"), Upstream::answering("new"));
    let config = |endpoint: &Upstream| {
        format!(
            "outbound: {{ bind: \"127.0.0.1:0\" }}
admin: {{ bind: \"127.0.0.1:0\", health: \"127.0.0.1:0\" }}
policies: {{ kept: {{ cache: {{ ttl: 60s }} }} }}
services: {{ app: {{ endpoints: [\"{}\"], policies: [kept] }} }}",
            endpoint.address()
        )
    };
    let proxy = sidecar(&config(&old));
    let ask = || {
        let mut client = Raw::connect(proxy.address("outbound"));
        client.send("GET / HTTP/1.1\r\nHost: app\r\n\r\n");
        client.reply().text()
    };
    assert_eq!([ask(), ask()], ["old", "old"]);
    assert_eq!(old.all().matches("GET ").count(), 1);
    std::fs::write(proxy.dir().join("config.yaml"), config(&new)).unwrap();
    proxy.wait_for_metric("selvedge_config_reloads_total", &[], 1.0);
    assert_eq!(ask(), "new");
}

#[test]
fn a_verdict_that_is_for_one_request_is_kept_for_no_other() {
    let app = Upstream::replying(OK);
    for own in [
        "Set-Cookie: session=1",
        "Cache-Control: no-store",
        "Cache-Control: private",
    ] {
        let authz = Upstream::scripted(move |connection| {
            while connection.request().is_some() {
                connection.send(format!(
                    "HTTP/1.1 200 OK\r\n{own}\r\nX-User: ann\r\nContent-Length: 0\r\n\r\n"
                ));
            }
        });
        let proxy = gateway(&format!(
            "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
policies: {{ ask: {{ extAuthz: {{ service: authz, upstreamHeaders: [X-User], cache: 1m }} }} }}
routes: [{{ rules: [{{ policies: [ask], backendRefs: [{{ service: app }}] }}] }}]
services:
  app: {{ endpoints: [\"{}\"] }}
  authz: {{ endpoints: [\"{}\"] }}",
            app.address(),
            authz.address()
        ));
        assert_eq!([get(&proxy, "/", ""), get(&proxy, "/", "")], [200, 200]);
        assert_eq!(authz.all().matches("GET / ").count(), 2, "{own}");
    }
}

#[test]
fn lists_of_revoked_certificates_that_would_keep_everybody_out_are_named() {
    use rcgen::{CertificateRevocationListParams, KeyIdMethod, SerialNumber};
    use selvedge_tests::TestCa;
    let dir = tempfile::tempdir().unwrap();
    let (server, clients, others) = (TestCa::new(), TestCa::named("others"), TestCa::new());
    let _ = server.server(&["a.example"]).write(dir.path(), "server");
    let now: std::time::SystemTime = std::time::SystemTime::now();
    let day = std::time::Duration::from_secs(86_400);
    let list = clients.revocations(CertificateRevocationListParams {
        this_update: (now - 2 * day).into(),
        next_update: (now - day).into(),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    });
    std::fs::write(dir.path().join("crl.pem"), list).unwrap();
    std::fs::write(
        dir.path().join("ca.pem"),
        clients.bundle() + &others.bundle(),
    )
    .unwrap();
    let text = "listeners:
  - name: web
    port: 8443
    protocol: HTTPS
    tls:
      certificates: [{ certificate: $DIR/server.pem, key: $DIR/server.key }]
      clientCertificates: { ca: $DIR/ca.pem, crl: $DIR/crl.pem }
routes: [{ rules: [{ backendRefs: [{ service: app }] }] }]
services: { app: { endpoints: [\"127.0.0.1:1\"] } }
";
    let file = dir.path().join("c.yaml");
    let text = text.replace("$DIR", &dir.path().display().to_string());
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(binary());
    let output = command.arg("check").arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("the list of `CN=others` has ended"), "{said}");
    assert!(said.contains("1 of the CAs have no list"), "{said}");
}
