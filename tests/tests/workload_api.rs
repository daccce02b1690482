//! The socket for applications, as clients see it that others have written: py-spiffe, grpcio, OpenSSL, GnuTLS.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateRevocationListParams, KeyIdMethod, SerialNumber};
use selvedge_tests::authority::CaProcess;
use selvedge_tests::control_plane::until;
use selvedge_tests::process::Selvedge;
use selvedge_tests::python::judge;
use selvedge_tests::{Raw, TestCa, Upstream};
use serde_json::{Value, json};

const WEB: &str = "spiffe://shop.local/ns/shop/sa/web";
const INBOUND: &str = "inbound: [{ bind: 127.0.0.1, port: 0, app: \"127.0.0.1:9\" }]\n";
/// Certificates of two seconds, which are renewed in less.
const SHORT: [&str; 4] = ["--min-leaf-life", "1s", "--leaf-life", "2s"];

/// A sidecar with a socket, of which this is said besides.
fn sidecar(ca: &CaProcess, more: &str) -> (Selvedge, String) {
    let api = format!(", workloadApi: {{ socket: $DIR/api.sock{more} }}");
    let sidecar = ca.sidecar(WEB, &api, INBOUND);
    let socket = sidecar.dir().join("api.sock").display().to_string();
    (sidecar, socket)
}

fn python(arguments: &[&str]) -> Value {
    serde_json::from_str(&judge("workload.py", arguments)).unwrap()
}

/// The chain in `dir`, by OpenSSL and by GnuTLS.
fn verified_by_others(dir: &Path) {
    let file = |name: &str| dir.join(name).display().to_string();
    let openssl = Command::new("openssl")
        .args(["verify", "-x509_strict", "-purpose", "sslserver"])
        .args(["-CAfile", &file("roots.pem")])
        .args(["-untrusted", &file("rest.pem"), &file("leaf.pem")])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&openssl.stdout).into_owned();
    let wrong = String::from_utf8_lossy(&openssl.stderr).into_owned();
    assert!(openssl.status.success(), "{said}{wrong}");
    let chain = ["leaf.pem", "rest.pem"].map(|name| fs::read(dir.join(name)).unwrap());
    fs::write(dir.join("chain.pem"), chain.concat()).unwrap();
    let certtool = Command::new("certtool")
        .args(["--verify", "--load-ca-certificate", &file("roots.pem")])
        .args(["--infile", &file("chain.pem")])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&certtool.stdout).into_owned();
    assert!(certtool.status.success(), "{said}");
    assert!(
        said.contains("Verified. The certificate is trusted."),
        "{said}"
    );
}

#[test]
fn py_spiffe_gets_a_certificate_tokens_and_bundles() {
    let ca = CaProcess::start(&[]);
    let (mut sidecar, socket) = sidecar(&ca, "");
    // Only once somebody asks.
    assert!(
        !sidecar
            .log()
            .iter()
            .any(|line| line.contains("for the application"))
    );
    let dir = tempfile::tempdir().unwrap();
    let told = python(&["fetch", &socket, &dir.path().display().to_string()]);
    sidecar.wait_for("certificate for the application obtained");
    assert_eq!((&told["id"], &told["subject"]), (&json!(WEB), &json!(WEB)));
    assert_eq!((&told["roots"], &told["keys"]), (&json!(1), &json!(1)));
    verified_by_others(dir.path());

    // All of it was written down, and of the token not the token.
    let log = fs::read_to_string(ca.keys().join("issued/00000001.jsonl")).unwrap();
    let lines: Vec<Value> = log
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let serial = |line: &&Value| line["serial"] == told["serial"];
    assert_eq!(lines.iter().filter(serial).count(), 1, "{log}");
    let tokens: Vec<_> = lines.iter().filter(|line| line["kind"] == "jwt").collect();
    assert_eq!(tokens.len(), 2, "{log}");
    assert_eq!(tokens[0]["audience"], json!(["billing"]));
    assert_eq!(tokens[0]["id"], WEB);
    let token = told["token"].as_str().unwrap();
    let (_, signature) = token.rsplit_once('.').unwrap();
    assert!(!log.contains(signature));
    for secret in [token, signature, "PRIVATE KEY"] {
        for line in sidecar.log().iter().chain(&ca.process().log()) {
            assert!(!line.contains(secret), "{line}");
        }
    }
}

#[test]
fn another_root_and_another_certificate_come_by_themselves() {
    let ca = CaProcess::start(&SHORT);
    let (_sidecar, socket) = sidecar(&ca, "");
    let dir = tempfile::tempdir().unwrap();
    let ready = dir.path().join("ready");
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| python(&["watch", &socket, &ready.display().to_string()]));
        until("the first answers", || {
            assert!(!watching.is_finished(), "{:?}", watching.is_finished());
            ready.exists().then_some(())
        });
        ca.step("prepare");
        let told = watching.join().unwrap();
        assert!(told["certificates"].as_u64().unwrap() > 1, "{told}");
    });
    // Both generations' keys are published, and the roots with them.
    let (well, said) = ca.rotate(&["--wait"]);
    assert!(well, "{said}");
    let told = python(&["fetch", &socket, &dir.path().display().to_string()]);
    assert_eq!((&told["roots"], &told["keys"]), (&json!(1), &json!(1)));
}

#[test]
fn whoever_does_wrong_is_told_so() {
    let ca = CaProcess::start(&[]);
    let (_sidecar, socket) = sidecar(&ca, "");
    let want = json!({
        "well": "OK",
        "no header": "INVALID_ARGUMENT",
        "no header for tokens": "INVALID_ARGUMENT",
        "false": "INVALID_ARGUMENT",
        "twice": "INVALID_ARGUMENT",
        "WIT": "UNIMPLEMENTED",
        "WIT bundles": "UNIMPLEMENTED",
        "no such service": "UNIMPLEMENTED",
        "no audience": "INVALID_ARGUMENT",
        "many audiences": "INVALID_ARGUMENT",
        "long audience": "INVALID_ARGUMENT",
        "empty audience": "INVALID_ARGUMENT",
        "another's": "PERMISSION_DENIED",
        "damaged": "INTERNAL",
        "too large": "OUT_OF_RANGE",
        "no token": "INVALID_ARGUMENT",
        "no token at all": "INVALID_ARGUMENT",
    });
    assert_eq!(python(&["codes", &socket]), want);
}

#[test]
fn users_who_may_not_ask_are_refused_by_what_the_kernel_says() {
    let ca = CaProcess::start(&[]);
    let (sidecar, socket) = sidecar(&ca, ", uids: [4711]");
    fs::set_permissions(sidecar.dir(), Permissions::from_mode(0o755)).unwrap();
    let mode = fs::metadata(&socket).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o666);
    let denied = json!({ "workload": "PERMISSION_DENIED", "secrets": "PERMISSION_DENIED" });
    let well = json!({ "workload": "OK", "secrets": "OK" });
    assert_eq!(python(&["as", "4711", &socket]), well);
    assert_eq!(python(&["as", "4712", &socket]), denied);
    // Nor the sidecar's own user, who is root here.
    assert_eq!(python(&["as", "0", &socket]), denied);
    // A reload changes who may ask, not the socket.
    let made = |path: &str| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let before = made(&socket);
    let file = sidecar.dir().join("config.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("uids: [4711]", "gids: [4712]")).unwrap();
    sidecar.wait_for_log("configuration reloaded");
    assert_eq!(python(&["as", "4711", &socket]), denied);
    assert_eq!(python(&["as", "4712", &socket]), well);
    assert_eq!(made(&socket), before);
}

#[test]
fn grpcio_calls_create_certificate_with_stubs_of_the_public_proto() {
    let ca = CaProcess::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("roots.pem"), ca.bundle()).unwrap();
    fs::write(dir.path().join("token"), ca.token(WEB)).unwrap();
    let told = python(&[
        "create",
        &ca.address().to_string(),
        &dir.path().display().to_string(),
    ]);
    assert_eq!(told["id"], json!([WEB]));
    verified_by_others(dir.path());
}

#[test]
fn an_envoy_gets_its_secrets_on_the_same_socket() {
    let ca = CaProcess::start(&SHORT);
    let (_sidecar, socket) = sidecar(&ca, "");
    let told = python(&["secrets", &socket]);
    assert_eq!(told["other type"], "INVALID_ARGUMENT", "{told}");
}

#[test]
fn other_trust_domains_and_what_was_revoked_are_passed_on() {
    let ca = CaProcess::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display().to_string();
    python(&["partner", &path]);
    let now = SystemTime::now();
    let list = CertificateRevocationListParams {
        this_update: now.into(),
        next_update: (now + Duration::from_secs(3600)).into(),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    fs::write(dir.path().join("crl.pem"), TestCa::new().revocations(list)).unwrap();
    let more = format!(
        ", workloadApi: {{ socket: $DIR/api.sock }}, crl: {path}/crl.pem, federation: [{{ trustDomain: partner.example, bundle: {path}/partner.json }}]"
    );
    let sidecar = ca.sidecar(WEB, &more, INBOUND);
    let socket = sidecar.dir().join("api.sock").display().to_string();
    let want = json!({
        "roots": 1,
        "keys": ["partner"],
        "id": "spiffe://partner.example/a",
        "tier": [7.0],
        "lists": 1,
        // Its own domain's keys count, of which none has that name.
        "forged": "the token's key is not known",
        "other audience": "the token is for another audience",
        "damaged": "the token's signature is wrong",
    });
    assert_eq!(python(&["foreign", &socket, &path]), want);
}

#[test]
fn a_gateway_knows_the_application_by_its_token() {
    let issuer = "https://ca.shop.example";
    let mut ca = CaProcess::start(&["--jwt-issuer", issuer, "--health", "127.0.0.1:0"]);
    let health = ca.process_mut().wait_for("health of the CA");
    let at = health.split("address=").nth(1).unwrap().trim();
    let get = |path: &str| -> (u16, Value) {
        let mut client = Raw::connect(at.parse().unwrap());
        client.send(format!("GET {path} HTTP/1.1\r\nHost: ca\r\n\r\n"));
        let reply = client.reply();
        (reply.status, serde_json::from_slice(&reply.body).unwrap())
    };
    let (status, jwks) = get("/jwks");
    assert_eq!((status, &jwks["keys"][0]["use"]), (200, &json!("sig")));
    let (status, bundle) = get("/bundle");
    let uses = bundle["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| &key["use"]);
    assert_eq!(uses.collect::<Vec<_>>(), ["x509-svid", "jwt-svid"]);
    assert_eq!((status, &bundle["spiffe_refresh_hint"]), (200, &json!(300)));
    ca.step("prepare");
    let (_, next) = get("/bundle");
    assert_eq!(next["keys"].as_array().unwrap().len(), 4);
    assert!(next["spiffe_sequence"].as_u64() > bundle["spiffe_sequence"].as_u64());

    let (_sidecar, socket) = sidecar(&ca, "");
    let dir = tempfile::tempdir().unwrap();
    let told = python(&["fetch", &socket, &dir.path().display().to_string()]);
    let token = told["token"].as_str().unwrap();
    fs::write(dir.path().join("jwks.json"), jwks.to_string()).unwrap();
    let app = Upstream::answering("ok");
    let config = format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]\n\
         routes: [{{ rules: [{{ backendRefs: [{{ service: app }}], policies: [billing] }}] }}]\n\
         services: {{ app: {{ endpoints: [\"{}\"] }} }}\n\
         policies: {{ billing: {{ jwt: {{ issuer: \"{issuer}\", audiences: [billing], jwks: $DIR/jwks.json }} }} }}\n",
        app.address()
    );
    let gateway = Selvedge::start_in(dir, "gateway", &config, 1);
    let ask = |token: &str| {
        let mut client = Raw::connect(gateway.address("web"));
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n"
        ));
        client.reply().status
    };
    assert_eq!((ask(token), ask("a.b.c")), (200, 401));
}
