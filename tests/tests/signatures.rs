//! Signed requests from outside: webhooks as openssl signs them, message signatures, bodies whole,
//! chunked and too long.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use selvedge_tests::process::gateway;
use selvedge_tests::{Raw, Reply, Selvedge, Upstream};
use tempfile::TempDir;

const SECRET: &str = "0123456789abcdefghijklmn";

struct Place {
    proxy: Selvedge,
    app: Upstream,
    _dir: TempDir,
}

impl Place {
    fn new(policy: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        std::fs::write(&file, format!("{SECRET}\n")).unwrap();
        let app = Upstream::replying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        let proxy = gateway(&format!(
            "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
policies:
  signed: {{ signature: {} }}
routes:
  - rules: [{{ policies: [signed], backendRefs: [{{ service: app }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
            policy.replace("$FILE", &file.display().to_string()),
            app.address()
        ));
        Self {
            proxy,
            app,
            _dir: dir,
        }
    }

    fn post(&self, fields: &str, body: &str) -> Reply {
        let mut client = Raw::connect(self.proxy.address("web"));
        let length = body.len();
        client.send(format!(
            "POST /hook?a=1 HTTP/1.1\r\nHost: shop.example\r\nContent-Length: {length}\r\n{fields}\r\n{body}"
        ));
        client.reply()
    }
}

/// HMAC-SHA256 as somebody else computes it.
fn hmac(text: &str) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(["dgst", "-sha256", "-binary", "-hmac", SECRET])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(text.as_bytes()).unwrap();
    drop(input);
    child.wait_with_output().unwrap().stdout
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap().as_secs()
}

#[test]
fn github_signs_its_bodies() {
    let place = Place::new("{ form: gitHub, secretFiles: [$FILE], maxBody: 1KiB }");
    let body = "{\"action\":\"opened\"}";
    let good = format!("X-Hub-Signature-256: sha256={}\r\n", hex(&hmac(body)));
    assert_eq!(place.post(&good, body).status, 200);
    // Chunked, and with a client that waits to be asked.
    let mut client = Raw::connect(place.proxy.address("web"));
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n{good}\r\n"
    ));
    assert_eq!(client.reply().status, 100);
    let (first, last) = body.split_at(5);
    client.send(format!(
        "5\r\n{first}\r\n{:x}\r\n{last}\r\n0\r\n\r\n",
        last.len()
    ));
    assert_eq!(client.reply().status, 200);
    let got = place.app.all();
    assert!(!got.contains("Expect"), "{got}");
    assert_eq!(got.matches(body).count(), 2, "{got:?}");

    let reply = place.post(&good, "{\"action\":\"closed\"}");
    assert_eq!(
        (reply.status, reply.header("www-authenticate")),
        (401, Some("Signature"))
    );
    assert_eq!(place.post("", body).status, 401);
    assert_eq!(place.post(&format!("{good}{good}"), body).status, 401);
    let long = "x".repeat(1025);
    let signed = format!("X-Hub-Signature-256: sha256={}\r\n", hex(&hmac(&long)));
    assert_eq!(place.post(&signed, &long).status, 413);
    assert_eq!(got, place.app.all());
}

#[test]
fn stripe_and_standard_webhooks_sign_a_time_too() {
    let place = Place::new("{ form: stripe, secretFiles: [$FILE], maxAge: 1m }");
    let body = "{\"paid\":true}";
    let signed = |time: u64| {
        let tag = hex(&hmac(&format!("{time}.{body}")));
        format!("Stripe-Signature: t={time},v1={tag}\r\n")
    };
    assert_eq!(place.post(&signed(now()), body).status, 200);
    assert_eq!(place.post(&signed(now() - 120), body).status, 401);
    assert_eq!(place.post(&signed(now() + 600), body).status, 401);

    let place = Place::new("{ form: standardWebhooks, secretFiles: [$FILE] }");
    let encoded = STANDARD.encode(SECRET);
    // The secret of this form is base64 in its file.
    std::fs::write(place._dir.path().join("secret"), format!("whsec_{encoded}")).unwrap();
    place
        .proxy
        .wait_for_metric("selvedge_config_reloads_total", &[], 1.0);
    let time = now();
    let tag = STANDARD.encode(hmac(&format!("msg_1.{time}.{body}")));
    let fields = |id: &str| {
        format!("webhook-id: {id}\r\nwebhook-timestamp: {time}\r\nwebhook-signature: v1,{tag}\r\n")
    };
    assert_eq!(place.post(&fields("msg_1"), body).status, 200);
    assert_eq!(place.post(&fields("msg_2"), body).status, 401);
}

#[test]
fn message_signatures_name_their_signer() {
    let place = Place::new(
        "{ form: message, keys: { partner-a: { secretFile: $FILE } }, headers: [X-Order] }",
    );
    let body = "hello";
    let digest = Command::new("sh")
        .args([
            "-c",
            "printf hello | openssl dgst -sha256 -binary | openssl base64",
        ])
        .output()
        .unwrap();
    let digest = String::from_utf8(digest.stdout).unwrap();
    let digest = format!("sha-256=:{}:", digest.trim());
    let signed = |covered: &str, base: &str| {
        let input = format!("({covered});created={};keyid=\"partner-a\"", now());
        let tag = STANDARD.encode(hmac(&format!("{base}\"@signature-params\": {input}")));
        format!(
            "X-Order: 7\r\nContent-Digest: {digest}\r\nX-Consumer: root\r\n\
             Signature-Input: s={input}\r\nSignature: s=:{tag}:\r\n"
        )
    };
    let covered = "\"@method\" \"@authority\" \"@path\" \"@query\" \"x-order\" \"content-digest\"";
    let base = format!(
        "\"@method\": POST\n\"@authority\": shop.example\n\"@path\": /hook\n\"@query\": ?a=1\n\
         \"x-order\": 7\n\"content-digest\": {digest}\n"
    );
    let good = signed(covered, &base);
    assert_eq!(place.post(&good, body).status, 200);
    assert_eq!(place.post(&good, "hullo").status, 401);
    assert_eq!(
        place
            .post(&good.replace("X-Order: 7", "X-Order: 8"), body)
            .status,
        401
    );
    let without = covered.replace("\"x-order\" ", "");
    let base = base.replace("\"x-order\": 7\n", "");
    assert_eq!(place.post(&signed(&without, &base), body).status, 401);
    let got = place.app.all();
    assert!(
        got.contains("X-Consumer: partner-a\r\n") && !got.contains("root"),
        "{got}"
    );
}

#[test]
fn a_body_that_cannot_be_held_is_sent_by_no_other_way() {
    let place = Place::new("{ form: gitHub, secretFiles: [$FILE], maxBody: 1KiB }");
    let dir = place._dir.path();
    let made = Command::new(selvedge_tests::process::binary())
        .args(["apikey", "new", "--name", "robot", "--file"])
        .arg(dir.join("keys.json"))
        .output()
        .unwrap();
    let key = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    let config = place.proxy.dir().join("config.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace("policies: [signed]", "policies: [who]").replace(
        "policies:\n  signed",
        &format!(
            "policies:\n  who: {{ anyOf: [signed, keys] }}\n  keys: {{ apiKey: {{ file: {} }} }}\n  signed",
            dir.join("keys.json").display()
        ),
    );
    std::fs::write(&config, text).unwrap();
    place
        .proxy
        .wait_for_metric("selvedge_config_reloads_total", &[], 1.0);
    let long = "x".repeat(2000);
    let tag = format!("X-Hub-Signature-256: sha256={}\r\n", "0".repeat(64));
    // A key that is right is enough, and the body comes whole.
    assert_eq!(
        place
            .post(&format!("{tag}X-API-Key: {key}\r\n"), &long)
            .status,
        200
    );
    assert!(place.app.all().contains(&long));
    assert_eq!(
        place.post(&format!("{tag}X-API-Key: x\r\n"), &long).status,
        413
    );
    assert_eq!(place.post("X-API-Key: x\r\n", &long).status, 401);
    assert_eq!(place.app.all().matches("POST ").count(), 1);
}

#[test]
fn the_limit_of_one_signature_is_no_reason_against_another() {
    let place = Place::new("{ form: gitHub, secretFiles: [$FILE], maxBody: 8KiB }");
    let config = place.proxy.dir().join("config.yaml");
    std::fs::write(place._dir.path().join("other"), "another secret of theirs").unwrap();
    let text = std::fs::read_to_string(&config).unwrap();
    let small = format!(
        "policies:\n  who: {{ anyOf: [small, signed] }}\n  small: {{ signature: {{ form: gitHub, secretFiles: [{}], maxBody: 1KiB }} }}\n  signed",
        place._dir.path().join("other").display()
    );
    let text = text.replace("policies: [signed]", "policies: [who]");
    std::fs::write(&config, text.replace("policies:\n  signed", &small)).unwrap();
    let reloads = "selvedge_config_reloads_total";
    place.proxy.wait_for_metric(reloads, &[], 1.0);
    let body = "x".repeat(5000);
    let good = format!("X-Hub-Signature-256: sha256={}\r\n", hex(&hmac(&body)));
    assert_eq!(place.post(&good, &body).status, 200);
    assert!(place.app.all().contains(&body));
    let long = "x".repeat(9000);
    assert_eq!(place.post(&good, &long).status, 413);
}
