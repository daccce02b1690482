//! ACME among enemies: clients that guess challenges, directories that send what they should not.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rustls::pki_types::ServerName;
use selvedge_tests::acme::{Pebble, Setup, free_port, s_client};
use selvedge_tests::acme_front::{Asked, Front};
use selvedge_tests::{PATIENCE, Raw, Selvedge, Upstream, gateway};

fn config(setup: Setup, upstream: &Upstream, directory: &str, ca: &Path, more: &str) -> String {
    format!(
        "acme:
  public: {{ directory: \"{directory}\", directoryCa: {}, store: $DIR/store, names: [a.example], {more} }}
listeners:
  - {{ name: web, bind: 127.0.0.1, port: {} }}
  - {{ name: tls, bind: 127.0.0.1, port: {}, protocol: HTTPS, tls: {{ acme: public }} }}
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}
",
        ca.display(),
        setup.http,
        setup.tls,
        upstream.address()
    )
}

fn ports() -> Setup {
    Setup {
        http: free_port(),
        tls: free_port(),
        ..Setup::default()
    }
}

fn orders(proxy: &Selvedge, outcome: &str) -> f64 {
    let label = format!("outcome=\"{outcome}\"");
    proxy.metric("selvedge_acme_orders_total", &[&label])
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::yield_now();
    }
}

/// The folder of the store, once it is there.
fn folder(proxy: &Selvedge) -> std::path::PathBuf {
    let mut entries = std::fs::read_dir(proxy.dir().join("store")).unwrap();
    entries.next().unwrap().unwrap().path()
}

/// A directory that never answers: what is in the store stays as the test made it.
fn silent() -> Front {
    Front::start(
        None,
        Box::new(|_| {
            // Held until the client gives up, which is after the test.
            std::thread::park();
            None
        }),
        Box::new(|_, json| json),
    )
}

#[test]
fn only_open_tokens_are_answered() {
    let (upstream, front) = (Upstream::answering("routed"), silent());
    let setup = ports();
    let text = config(
        setup,
        &upstream,
        &front.directory(),
        &front.ca(),
        "challenge: http-01",
    );
    let proxy = gateway(&text);
    let challenges = folder(&proxy).join("challenges");
    std::fs::write(challenges.join("token-1_A"), "token-1_A.thumb").unwrap();
    // A file that is none of ours, and one outside.
    std::fs::write(challenges.join("other"), "something else").unwrap();
    std::fs::write(folder(&proxy).join("secret"), "secret.thumb").unwrap();
    // A connection each: some are no requests at all.
    let get = |path: &str| {
        Raw::connect(proxy.address("web"))
            .get(&format!("/.well-known/acme-challenge/{path}"))
            .text()
    };
    assert_eq!(get("token-1_A"), "token-1_A.thumb");
    let long = "a".repeat(129);
    for path in [
        "unknown",
        "",
        "other",
        ".",
        "token-1_A/",
        "token-1_A%00",
        "token-1_a",
        "%74oken",
        &long,
        "..%2fsecret",
        "..%2Fsecret",
        "..%252fsecret",
        "..%5csecret",
        "x/..%2f..%2fsecret",
        "%2e%2e%2fsecret",
        "..;/secret",
        "token-1_A.tls-alpn-01",
        "/etc/passwd",
    ] {
        let got = get(path);
        assert!(
            !got.contains("thumb") && !got.contains("root:"),
            "{path}: {got}"
        );
    }
    // What is not asked for as the directory asks is a matter of routes.
    let mut client = Raw::connect(proxy.address("web"));
    client.send("POST /.well-known/acme-challenge/token-1_A HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.reply().text(), "routed");
    let mut client = Raw::connect(proxy.address("web"));
    client.send("HEAD /.well-known/acme-challenge/token-1_A HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.try_reply_to("HEAD").unwrap();
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, Some("15"))
    );
    // The upstream has seen no guess that is a token's own.
    assert!(
        !upstream
            .all()
            .contains("GET /.well-known/acme-challenge/token-1_A HTTP")
    );
}

/// A handshake with these protocols; gives the leaf that was shown and the protocol agreed on.
fn shake(
    address: SocketAddr,
    name: &str,
    alpn: &[&[u8]],
) -> Result<(Vec<u8>, Option<Vec<u8>>), String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let session = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = rustls::StreamOwned::new(session, stream);
    stream.flush().map_err(|e| e.to_string())?;
    while stream.conn.is_handshaking() {
        stream
            .conn
            .complete_io(&mut stream.sock)
            .map_err(|e| e.to_string())?;
    }
    let leaf = stream.conn.peer_certificates().unwrap()[0].to_vec();
    let agreed = stream.conn.alpn_protocol().map(<[u8]>::to_vec);
    if agreed.as_deref() == Some(b"acme-tls/1") {
        // It ends there, whatever is said.
        let mut rest = Vec::new();
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty());
    }
    Ok((leaf, agreed))
}

/// Trusts everybody: what is shown is what the test looks at.
#[derive(Debug)]
struct Anyone;

impl rustls::client::danger::ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// OID 1.3.6.1.5.5.7.1.31 as DER has it.
const IDENTIFIER: &[u8] = &[0x06, 0x08, 0x2b, 6, 1, 5, 5, 7, 1, 31];

fn is_proof(leaf: &[u8]) -> bool {
    leaf.windows(IDENTIFIER.len()).any(|w| w == IDENTIFIER)
}

#[test]
fn proof_is_shown_to_who_asks_for_it_and_nothing_else() {
    let (upstream, front) = (Upstream::answering("routed"), silent());
    let text = config(
        ports(),
        &upstream,
        &front.directory(),
        &front.ca(),
        "challenge: tls-alpn-01",
    );
    let proxy = gateway(&text);
    let address = proxy.address("tls");
    let challenge = folder(&proxy).join("challenges/a.example.tls-alpn-01");
    let acme: &[u8] = b"acme-tls/1";
    // Not open: never negotiated.
    assert!(shake(address, "a.example", &[acme]).is_err());
    std::fs::write(&challenge, "token.thumb").unwrap();
    for name in ["a.example", "A.Example"] {
        let (leaf, agreed) = shake(address, name, &[acme]).unwrap();
        assert!(is_proof(&leaf));
        assert_eq!(agreed.as_deref(), Some(acme));
    }
    // Another name, none at all, a name that leads out of the folder.
    for name in ["b.example", "x.a.example", "127.0.0.1"] {
        assert!(shake(address, name, &[acme]).is_err(), "{name}");
    }
    // Together with others it is an ordinary client.
    for offered in [&[acme, b"h2"][..], &[b"h2", acme], &[acme, b"http/1.1"]] {
        let (leaf, agreed) = shake(address, "a.example", offered).unwrap();
        assert!(!is_proof(&leaf) && agreed.as_deref() != Some(acme));
    }
    assert!(shake(address, "a.example", &[acme, acme]).is_err());
    let (leaf, agreed) = shake(address, "a.example", &[]).unwrap();
    assert!(!is_proof(&leaf) && agreed.is_none());
    std::fs::remove_file(challenge).unwrap();
    assert!(shake(address, "a.example", &[acme]).is_err());
    assert!(upstream.seen().is_empty());
}

/// What a directory sends that has gone mad, one after the other.
fn nonsense() -> Vec<Vec<u8>> {
    let json = |body: &str| {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    };
    let big = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 5 << 20).into_bytes();
    vec![
        json("<html>no directory</html>"),
        [big, vec![b' '; 5 << 20]].concat(),
        b"\x15\x03\x01 not HTTP\r\n\r\n".to_vec(),
        json(r#"{"newNonce":"not an address ","newAccount":"https://a/","newOrder":"https://a/"}"#),
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n".to_vec(),
    ]
}

#[test]
fn a_directory_gone_mad_is_counted_and_the_old_certificate_stays() {
    let mut setup = ports();
    setup.life = 9;
    let pebble = Pebble::start(setup);
    let mad = Arc::new(AtomicUsize::new(0));
    let (gone, answers) = (mad.clone(), nonsense());
    let judge = Box::new(move |_: &Asked| {
        // 0 is sane; then one answer each.
        let turn = gone.load(Ordering::SeqCst);
        if turn == 0 {
            return None;
        }
        gone.store(turn + 1, Ordering::SeqCst);
        Some(answers[(turn - 1) % answers.len()].clone())
    });
    let front = Front::start(Some(&pebble), judge, Box::new(|_, json| json));
    let upstream = Upstream::answering("ok");
    let proxy = gateway(&config(
        setup,
        &upstream,
        &front.directory(),
        &front.ca(),
        "",
    ));
    wait_until("the first", || orders(&proxy, "issued") >= 1.0);
    mad.store(1, Ordering::SeqCst);
    let failed = || orders(&proxy, "failed");
    wait_until("two failures", || failed() >= 2.0);
    // Also past its end: there is nothing better.
    let seen = s_client(proxy.address("tls"), "a.example", &pebble.root(), &[]);
    assert!(seen.contains("issuer=CN = Pebble"), "{seen}");
    let (_, shown) = proxy.get("admin", "/certificates");
    assert!(shown.contains("\"lastError\": \""), "{shown}");
    assert!(proxy.peak() < 200 << 20);
    // It comes to its senses.
    mad.store(0, Ordering::SeqCst);
    wait_until("a renewal", || orders(&proxy, "issued") >= 2.0);
}

#[test]
fn each_kind_of_nonsense_is_a_failure_and_no_more() {
    for answer in nonsense() {
        let front = Front::start(
            None,
            Box::new(move |_| Some(answer.clone())),
            Box::new(|_, json| json),
        );
        let upstream = Upstream::answering("ok");
        let mut proxy = gateway(&config(
            ports(),
            &upstream,
            &front.directory(),
            &front.ca(),
            "",
        ));
        wait_until("a failure", || orders(&proxy, "failed") >= 1.0);
        assert_eq!(Raw::connect(proxy.address("web")).get("/").status, 200);
        proxy.wait_for("no certificate; the one in use stays");
    }
}

#[test]
fn a_directory_that_hangs_holds_up_nobody_and_is_given_up() {
    let (upstream, front) = (Upstream::answering("ok"), silent());
    let mut proxy = gateway(&config(
        ports(),
        &upstream,
        &front.directory(),
        &front.ca(),
        "",
    ));
    assert_eq!(Raw::connect(proxy.address("web")).get("/").status, 200);
    assert_eq!(proxy.get("health", "/ready").0, 200);
    let deadline = Instant::now() + PATIENCE * 2;
    while orders(&proxy, "failed") < 1.0 {
        assert!(Instant::now() < deadline, "not given up");
        std::thread::yield_now();
    }
    proxy.wait_for("no answer within 20 s");
}

#[test]
fn what_a_directory_says_is_bounded_and_cannot_break_a_line() {
    let setup = ports();
    let pebble = Pebble::start(setup);
    let asked: Arc<Mutex<usize>> = Arc::default();
    let count = asked.clone();
    let judge = Box::new(move |request: &Asked| {
        if !request.payload["identifiers"].is_array() {
            return None;
        }
        *count.lock().unwrap() += 1;
        let detail = format!("slow down\\n2026 INFO forged {}", "x".repeat(9000));
        let kind = "urn:ietf:params:acme:error:rateLimited";
        let body = format!("{{\"type\":\"{kind}\",\"detail\":\"{detail}\",\"status\":429}}");
        // More seconds than time has.
        let head = "HTTP/1.1 429 Slow\r\nRetry-After: 18446744073709551615\r\nReplay-Nonce: abc\r\nContent-Type: application/problem+json";
        Some(format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes())
    });
    let front = Front::start(Some(&pebble), judge, Box::new(|_, json| json));
    let upstream = Upstream::answering("ok");
    let mut proxy = gateway(&config(
        setup,
        &upstream,
        &front.directory(),
        &front.ca(),
        "",
    ));
    wait_until("a failure", || orders(&proxy, "failed") >= 1.0);
    let line = proxy.wait_for("slow down");
    let log = proxy.log();
    assert!(line.len() < 1500, "{line}");
    assert!(
        line.contains("forged") && line.contains("retry_in=86400s"),
        "{line}"
    );
    assert!(!log.iter().any(|l| l.starts_with("2026 INFO forged")));
    assert_eq!(*asked.lock().unwrap(), 1);
}

#[test]
fn a_token_that_leads_out_of_the_store_is_refused() {
    let setup = ports();
    let pebble = Pebble::start(setup);
    let edit = Box::new(|_: &Asked, mut json: serde_json::Value| {
        for challenge in json["challenges"].as_array_mut().into_iter().flatten() {
            challenge["token"] = "../../../config.yaml".into();
        }
        json
    });
    let front = Front::start(Some(&pebble), Box::new(|_| None), edit);
    let upstream = Upstream::answering("ok");
    let more = "challenge: http-01";
    let mut proxy = gateway(&config(
        setup,
        &upstream,
        &front.directory(),
        &front.ca(),
        more,
    ));
    let before = std::fs::read(proxy.dir().join("config.yaml")).unwrap();
    wait_until("a failure", || orders(&proxy, "failed") >= 1.0);
    assert_eq!(
        std::fs::read(proxy.dir().join("config.yaml")).unwrap(),
        before
    );
    proxy.wait_for("token is none");
}

#[test]
fn what_is_no_problem_document_is_told_by_its_status() {
    let setup = ports();
    let pebble = Pebble::start(setup);
    let judge = Box::new(|request: &Asked| {
        let body = "<html>no directory behind</html>";
        let head = "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length:";
        let signed = request.line.starts_with("POST ");
        signed.then(|| format!("{head} {}\r\n\r\n{body}", body.len()).into_bytes())
    });
    let front = Front::start(Some(&pebble), judge, Box::new(|_, json| json));
    let upstream = Upstream::answering("ok");
    let mut proxy = gateway(&config(
        setup,
        &upstream,
        &front.directory(),
        &front.ca(),
        "",
    ));
    let line = proxy.wait_for("no certificate; the one in use stays");
    assert!(line.contains("502"), "{line}");
}
