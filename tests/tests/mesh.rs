//! Mutual TLS between sidecars, from the outside: identities, refusals, what a wire-tapper sees.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use selvedge_ca::{Authority, TokenStore};
use selvedge_contract::identity::SpiffeId;
use selvedge_tests::process::binary;
use selvedge_tests::{Raw, Selvedge, TestCa, Upstream, sidecar};
use tempfile::TempDir;

const WEB: &str = "spiffe://shop.local/ns/shop/sa/web";
const ORDERS: &str = "spiffe://shop.local/ns/shop/sa/orders";

fn identity(ca: &TestCa, dir: &TempDir, id: &str, name: &str) -> String {
    let (certificate, key) = ca.svid(id).write(dir.path(), name);
    let bundle = dir.path().join("bundle.pem");
    std::fs::write(&bundle, ca.bundle()).unwrap();
    format!(
        "identity: {{ trustDomain: shop.local, bundle: {}, certificate: {}, key: {} }}",
        bundle.display(),
        certificate.display(),
        key.display()
    )
}

struct Pair {
    _dir: TempDir,
    _orders: Selvedge,
    web: Selvedge,
    inbound: SocketAddr,
    app: Upstream,
}

/// Two sidecars; `expected` is who web believes to be calling, `via` goes between them.
fn pair(expected: &str, via: impl FnOnce(SocketAddr) -> SocketAddr) -> Pair {
    let dir = tempfile::tempdir().unwrap();
    let ca = TestCa::new();
    let app = Upstream::answering("secret answer");
    let orders = sidecar(&format!(
        "{}\ninbound: [{{ bind: 127.0.0.1, port: 0, app: \"{}\", mtls: strict }}]",
        identity(&ca, &dir, ORDERS, "orders"),
        app.address()
    ));
    let inbound = orders.address("inbound-0");
    let web = sidecar(&format!(
        "{}\noutbound: {{ bind: \"127.0.0.1:0\" }}\nservices: {{ orders: {{ endpoints: [\"{}\"], mesh: {{ identity: \"{expected}\" }} }} }}",
        identity(&ca, &dir, WEB, "web"),
        via(inbound)
    ));
    Pair {
        _dir: dir,
        _orders: orders,
        web,
        inbound,
        app,
    }
}

fn call(web: &Selvedge, path: &str) -> selvedge_tests::Reply {
    let mut client = Raw::connect(web.address("outbound"));
    client.send(format!("GET {path} HTTP/1.1\r\nHost: orders\r\nX-Forwarded-Client-Cert: URI=spiffe://shop.local/ns/x/sa/forged\r\n\r\n"));
    client.reply()
}

#[test]
fn identities_are_proven_and_never_taken_from_the_client() {
    let pair = pair(ORDERS, |inbound| inbound);
    let reply = call(&pair.web, "/a");
    assert_eq!(
        (reply.status, reply.text().as_str()),
        (200, "secret answer")
    );
    let seen = pair.app.all();
    assert!(
        seen.contains(&format!("X-Forwarded-Client-Cert: By={ORDERS};URI={WEB}")),
        "{seen}"
    );
    assert!(!seen.contains("forged"), "{seen}");
}

#[test]
fn the_wrong_identity_is_refused_and_nothing_falls_back() {
    let pair = pair("spiffe://shop.local/ns/shop/sa/payments", |inbound| inbound);
    let reply = call(&pair.web, "/a");
    assert_eq!(reply.status, 503);
    let status = reply.header("proxy-status").unwrap_or_default();
    assert!(status.contains("tls_certificate_error"), "{status}");
    assert!(
        pair.app.seen().is_empty(),
        "nothing may reach the application"
    );
}

/// Passes bytes on and keeps them.
fn tap(target: SocketAddr, kept: Arc<Mutex<Vec<u8>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let server = TcpStream::connect(target).unwrap();
            for (mut from, mut to) in [
                (client.try_clone().unwrap(), server.try_clone().unwrap()),
                (server, client),
            ] {
                let kept = kept.clone();
                std::thread::spawn(move || {
                    let mut part = [0; 16 << 10];
                    while let Ok(n) = from.read(&mut part) {
                        kept.lock().unwrap().extend_from_slice(&part[..n]);
                        if n == 0 || to.write_all(&part[..n]).is_err() {
                            return;
                        }
                    }
                });
            }
        }
    });
    address
}

fn holds(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|w| w == what)
}

#[test]
fn a_wire_tapper_sees_no_plaintext_and_a_hybrid_key_exchange() {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let tapped = kept.clone();
    let pair = pair(ORDERS, move |inbound| tap(inbound, tapped));
    let reply = call(&pair.web, "/hidden-path");
    assert_eq!(reply.status, 200);
    let bytes = kept.lock().unwrap().clone();
    for plain in [
        &b"hidden-path"[..],
        b"secret answer",
        b"spiffe://",
        b"HTTP/1.1",
    ] {
        assert!(
            !holds(&bytes, plain),
            "{:?}",
            String::from_utf8_lossy(plain)
        );
    }
    // ServerHello: type 2; its key_share (51) names the group: 0x11ec is X25519MLKEM768, whose
    // server share is 1088 + 32 bytes.
    let hello = bytes
        .windows(6)
        .position(|w| w[0] == 0x16 && w[5] == 2)
        .expect("a ServerHello");
    assert!(holds(
        &bytes[hello..],
        &[0x00, 0x33, 0x04, 0x64, 0x11, 0xec, 0x04, 0x60]
    ));
}

#[test]
fn a_strict_port_refuses_plaintext_and_strangers() {
    let pair = pair(ORDERS, |inbound| inbound);
    let mut plain = Raw::connect(pair.inbound);
    plain.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(!holds(&plain.rest(), b"HTTP/1.1 200"));
    // A certificate of another CA, and none at all.
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = TestCa::new().svid(WEB).write(dir.path(), "foreign");
    for arguments in [
        vec![],
        vec![
            "-cert".into(),
            certificate.display().to_string(),
            "-key".into(),
            key.display().to_string(),
        ],
    ] {
        let said = s_client(pair.inbound, &arguments);
        assert!(!said.contains("HTTP/1.1 200"), "{said}");
        assert!(said.contains("alert"), "{said}");
    }
    assert!(pair.app.seen().is_empty());
}

/// What `openssl s_client` says, with one request sent.
fn s_client(address: SocketAddr, arguments: &[String]) -> String {
    let mut child = Command::new("openssl")
        .args([
            "s_client",
            "-connect",
            &address.to_string(),
            "-alpn",
            "http/1.1",
            "-ign_eof",
            "-showcerts",
        ])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let _ = stdin.write_all(b"GET /openssl HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// A CA process with its directory and its bundle.
fn authority() -> (Selvedge, TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("ca");
    let mut command = Command::new(binary());
    command
        .args([
            "ca",
            "--trust-domain",
            "shop.local",
            "--bind",
            "127.0.0.1:0",
            "--dir",
        ])
        .arg(&keys);
    let ca = Selvedge::spawn(
        command,
        tempfile::tempdir().unwrap(),
        &["certificate authority"],
    );
    let bundle = say(&["ca", "bundle", "--dir", &keys.display().to_string()]);
    (ca, dir, bundle)
}

fn say(arguments: &[&str]) -> String {
    let output = Command::new(binary()).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A sidecar that joins with a fresh token for `ORDERS`; gives the token too.
fn joined(ca: &Selvedge, keys: &str, bundle: &str, app: &Upstream) -> (Selvedge, String) {
    let token = say(&["ca", "token", "--id", ORDERS, "--dir", keys]);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("bundle.pem"), bundle).unwrap();
    std::fs::write(dir.path().join("token"), &token).unwrap();
    let config = format!(
        "identity: {{ trustDomain: shop.local, ca: \"https://{}\", bundle: $DIR/bundle.pem, token: $DIR/token }}
inbound: [{{ bind: 127.0.0.1, port: 0, app: \"{}\" }}]",
        ca.address("certificate authority"),
        app.address()
    );
    let mut orders = Selvedge::start_in(dir, "sidecar", &config, 1);
    orders.wait_for("certificate obtained");
    (orders, token)
}

#[test]
fn a_sidecar_joins_with_a_token_and_shows_a_proper_svid() {
    let (ca, dir, bundle) = authority();
    let keys = dir.path().join("ca");
    let app = Upstream::answering("hello");
    let (orders, token) = joined(&ca, &keys.display().to_string(), &bundle, &app);
    assert_eq!(orders.get("health", "/ready").0, 200);
    // The token is spent.
    let tokens = TokenStore::open(&keys).unwrap();
    assert!(tokens.redeem(token.trim(), SystemTime::now()).is_err());

    // A client of the same mesh, by openssl.
    let domain = "shop.local".parse().unwrap();
    let authority = Authority::create_or_load(&keys, &domain, SystemTime::now()).unwrap();
    let new = selvedge_tests::certs::request();
    let id: SpiffeId = WEB.parse().unwrap();
    let issued = authority
        .issue(&new.0, &id, None, SystemTime::now())
        .unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(path("chain.pem"), issued.chain_pem[..2].concat()).unwrap();
    std::fs::write(path("key.pem"), &new.1).unwrap();
    std::fs::write(path("ca.pem"), &bundle).unwrap();
    let arguments = [
        "-cert",
        &path("chain.pem"),
        "-cert_chain",
        &path("chain.pem"),
        "-key",
        &path("key.pem"),
        "-CAfile",
        &path("ca.pem"),
    ]
    .map(str::to_owned);
    let said = s_client(orders.address("inbound-0"), &arguments);
    assert!(said.contains("TLSv1.3"), "{said}");
    assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
    assert!(said.contains("HTTP/1.1 200"), "{said}");
    one_uri_and_a_day(&said);
}

/// The first certificate in a text, such as what `openssl s_client` shows of a server.
fn leaf(text: &str) -> x509_parser::pem::Pem {
    let leaf = text.split("-----BEGIN CERTIFICATE-----").nth(1).unwrap();
    let leaf = leaf.split("-----END").next().unwrap();
    let leaf = format!("-----BEGIN CERTIFICATE-----{leaf}-----END CERTIFICATE-----\n");
    x509_parser::pem::parse_x509_pem(leaf.as_bytes()).unwrap().1
}

/// The leaf that `openssl s_client` shows has one URI SAN, no other name, and a day at most.
fn one_uri_and_a_day(said: &str) {
    let pem = leaf(said);
    let parsed = pem.parse_x509().unwrap();
    let names = parsed.subject_alternative_name().unwrap().unwrap();
    let names = format!("{:?}", names.value.general_names);
    assert_eq!(names, format!("[URI({ORDERS:?})]"));
    let validity = parsed.validity();
    let life = validity.not_after.timestamp() - validity.not_before.timestamp();
    assert!(life <= 24 * 3600 + 60, "{life}");
}

#[test]
fn certificates_swap_under_load_without_a_failed_request() {
    let dir = tempfile::tempdir().unwrap();
    let ca = TestCa::new();
    let app = Upstream::answering("ok");
    let inbound = |dir: &TempDir| identity(&ca, dir, ORDERS, "orders");
    let mut orders = sidecar(&format!(
        "{}\ninbound: [{{ bind: 127.0.0.1, port: 0, app: \"{}\", mtls: strict }}]\nlimits: {{ requestsPerConnection: 50 }}",
        inbound(&dir),
        app.address()
    ));
    let web_dir = tempfile::tempdir().unwrap();
    let web = sidecar(&format!(
        "{}\noutbound: {{ bind: \"127.0.0.1:0\" }}\nservices: {{ orders: {{ endpoints: [\"{}\"], mesh: {{ identity: \"{ORDERS}\" }} }} }}",
        identity(&ca, &web_dir, WEB, "web"),
        orders.address("inbound-0")
    ));
    let serial = |text: &str| leaf(text).parse_x509().unwrap().raw_serial_as_string();
    let file = |dir: &TempDir, name: &str| dir.path().join(name).display().to_string();
    let own = || serial(&std::fs::read_to_string(dir.path().join("orders.pem")).unwrap());
    let inbound_address = orders.address("inbound-0");
    // What a connection that begins now is shown.
    let shown = || {
        let (certificate, key) = (file(&web_dir, "web.pem"), file(&web_dir, "web.key"));
        let arguments = ["-cert".to_owned(), certificate, "-key".to_owned(), key];
        let said = s_client(inbound_address, &arguments);
        assert!(said.contains("HTTP/1.1 200"), "{said}");
        serial(&said)
    };
    assert_eq!(shown(), own());
    // New mesh connections all the time (50 requests each), new certificates between them.
    for _ in 0..5 {
        orders.skip_log();
        let old = own();
        let _ = inbound(&dir);
        assert_ne!(own(), old);
        let mut client = Raw::connect(web.address("outbound"));
        for _ in 0..200 {
            client.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n");
            assert_eq!(client.reply().status, 200);
        }
        orders.wait_for_next("configuration reloaded");
        // A reload that was seen may be that of the swap before this one.
        while shown() != own() {
            orders.wait_for_next("configuration reloaded");
        }
    }
}
