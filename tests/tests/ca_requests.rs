//! What callers of the CA ask for: requests by openssl that want more than they get or are no good (rows
//! CA-01 and CA-08), lives, budgets, health, and the bundle that is followed.

use std::path::Path;
use std::process::Command;

use rcgen::{
    CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
    date_time_ymd,
};
use selvedge_contract::sign::{Bundle, Held, IstioCertificateRequest, TrustClient};
use selvedge_tests::authority::CaProcess;
use selvedge_tests::ca_client::{Client, Shown, runtime};
use selvedge_tests::certs;
use selvedge_tests::netns::run as shell;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use x509_parser::pem::parse_x509_pem;

const ORDERS: &str = "spiffe://shop.local/ns/shop/sa/orders";

/// A request by openssl, with a key made as told and these arguments.
fn request(dir: &Path, key: &[&str], more: &[&str]) -> String {
    let place = |name: &str| dir.join(name).display().to_string();
    shell(
        Command::new("openssl")
            .args(["genpkey", "-out", &place("key")])
            .args(key),
    );
    let fixed = ["req", "-new", "-key", &place("key"), "-subj", "/CN=evil"];
    shell(Command::new("openssl").args(fixed).args(more))
}

const P256: [&str; 4] = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];

fn ask(client: &Client, csr: &str, seconds: i64) -> Result<Vec<String>, Status> {
    let request = IstioCertificateRequest {
        csr: csr.to_owned(),
        validity_duration: seconds,
        ..Default::default()
    };
    client.call(request, &[])
}

/// The leaf is the caller's, plain, and of this life in seconds.
fn plain(pem: &str, life: i64) {
    assert_eq!(certs::uri(pem), ORDERS);
    let (_, pem) = parse_x509_pem(pem.as_bytes()).unwrap();
    let leaf = pem.parse_x509().unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names.len(), 1);
    assert_eq!(leaf.subject().iter().count(), 0, "no subject is copied");
    assert!(!leaf.is_ca());
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign());
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.client_auth && extended.server_auth && !extended.code_signing);
    assert_eq!(leaf.extensions().len(), 6, "{:?}", leaf.extensions());
    let validity = leaf.validity();
    let lived = validity.not_after.timestamp() - validity.not_before.timestamp();
    assert_eq!(lived, life + 60);
}

fn joined(ca: &CaProcess) -> (Client, Shown) {
    let client = Client::new(ca.address(), &ca.bundle());
    let shown = client.join(&ca.token(ORDERS));
    (client.showing(&shown), shown)
}

#[test]
fn requests_that_want_more_get_what_is_theirs() {
    let ca = CaProcess::start(&[]);
    let (client, _) = joined(&ca);
    let dir = tempfile::tempdir().unwrap();
    for extension in [
        "subjectAltName=URI:spiffe://shop.local/ns/shop/sa/admin",
        "subjectAltName=URI:spiffe://other.local/a,DNS:*.shop.local,IP:10.0.0.1,email:a@b.c",
        "basicConstraints=critical,CA:TRUE",
        "keyUsage=critical,keyCertSign,cRLSign",
        "extendedKeyUsage=codeSigning,OCSPSigning",
        "nameConstraints=critical,permitted;DNS:evil",
        "1.2.3.4=critical,ASN1:UTF8String:unknown",
    ] {
        let csr = request(dir.path(), &P256, &["-addext", extension]);
        let chain = ask(&client, &csr, 0).unwrap_or_else(|error| panic!("{extension}: {error}"));
        plain(&chain[0], 24 * 3600);
    }
    for key in [
        ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
        ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    ] {
        let csr = request(dir.path(), &key, &[]);
        let chain = ask(&client, &csr, 0).unwrap();
        plain(&chain[0], 24 * 3600);
    }
}

#[test]
fn requests_that_are_no_good_are_refused_with_their_reason() {
    let ca = CaProcess::start(&[]);
    let (client, _) = joined(&ca);
    let dir = tempfile::tempdir().unwrap();
    let good = request(dir.path(), &P256, &[]);
    let weak = |key: &[&str]| request(dir.path(), key, &[]);
    let mut bent = good.clone().into_bytes();
    // A letter in the middle of the key: the signature is not that of the request any more.
    let at = bent.len() / 2;
    bent[at] = if bent[at] == b'A' { b'B' } else { b'A' };
    let bent = String::from_utf8(bent).unwrap();
    let sha1 = request(
        dir.path(),
        &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        &["-sha1"],
    );
    let cases = [
        (
            "weak key",
            weak(&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"]),
        ),
        (
            "odd curve",
            weak(&[
                "-algorithm",
                "EC",
                "-pkeyopt",
                "ec_paramgen_curve:secp256k1",
            ]),
        ),
        (
            "short curve",
            weak(&["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-192"]),
        ),
        ("SHA-1", sha1),
        ("not its key's signature", bent),
        ("long", format!("{good}{}", "x".repeat(17 * 1024))),
        ("a certificate", ca.bundle()),
        ("nothing", String::new()),
        ("not PEM", "hello".to_owned()),
        ("half", good[..good.len() / 2].to_owned()),
    ];
    for (what, csr) in cases {
        let refused = ask(&client, &csr, 0).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{what}: {refused}");
    }
    // Longer than any message may be.
    let refused = ask(&client, &"x".repeat(1024 * 1024), 0).unwrap_err();
    assert_ne!(refused.code(), Code::Ok);
    plain(&ask(&client, &good, 0).unwrap()[0], 24 * 3600);
}

#[test]
fn lives_are_given_within_bounds_and_impersonation_never() {
    let more = ["--leaf-life", "1h", "--max-leaf-life", "48h"];
    let ca = CaProcess::start(&more);
    let (client, _) = joined(&ca);
    let (csr, _) = certs::request();
    for (asked, given) in [(0, 3600), (-5, 3600), (60, 60), (48 * 3600, 48 * 3600)] {
        plain(&ask(&client, &csr, asked).unwrap()[0], given);
    }
    for asked in [1, 59, 48 * 3600 + 1, i64::MAX] {
        let refused = ask(&client, &csr, asked).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{asked}");
        assert!(
            refused.message().contains("between 60 and 172800 s"),
            "{refused}"
        );
    }
    // What ztunnel would ask for a pod beside it.
    let hint = tonic_struct("ImpersonatedIdentity", "spiffe://shop.local/ns/shop/sa/web");
    let request = IstioCertificateRequest {
        csr,
        metadata: Some(hint),
        ..Default::default()
    };
    let refused = client.call(request, &[]).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
}

fn tonic_struct(key: &str, value: &str) -> prost_types::Struct {
    let kind = Some(prost_types::value::Kind::StringValue(value.to_owned()));
    let value = prost_types::Value { kind };
    prost_types::Struct {
        fields: [(key.to_owned(), value)].into(),
    }
}

/// Follows the trust bundle, and says that it has this one; gives what it hears.
async fn follow(client: &Client, held: Vec<Held>, most: usize) -> Result<Vec<Bundle>, Status> {
    let sender = client.connect().await?.into_sender();
    let service = tower::service_fn(move |request| {
        let mut sender = sender.clone();
        async move { sender.send_request(request).await }
    });
    let mut trust = TrustClient::with_origin(service, "https://localhost".parse().unwrap());
    let (sender, says) = tokio::sync::mpsc::channel(8);
    let mut bundles = trust.follow(ReceiverStream::new(says)).await?.into_inner();
    for held in held {
        sender.send(held).await.unwrap();
    }
    let mut heard = Vec::new();
    while heard.len() < most {
        match bundles.next().await {
            Some(bundle) => heard.push(bundle?),
            None => break,
        }
    }
    Ok(heard)
}

#[test]
fn the_bundle_is_followed_by_whoever_is_known_and_says_what_it_has() {
    let ca = CaProcess::start(&[]);
    let (client, _) = joined(&ca);
    let runtime = runtime();
    let heard = runtime.block_on(follow(&client, Vec::new(), 1)).unwrap();
    assert_eq!(heard[0].pem, ca.bundle());
    let stranger = Client::new(ca.address(), &ca.bundle());
    let refused = runtime
        .block_on(follow(&stranger, Vec::new(), 1))
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let held = |instance: &str, bytes: usize| Held {
        instance: instance.to_owned(),
        sha256: vec![7; bytes],
    };
    // Nobody speaks for processes that were never given a certificate.
    let phantom = vec![held("phantom", 32)];
    let _ = runtime.block_on(follow(&client, phantom, 1)).unwrap();
    assert_eq!(ca.status()["proxies"], 0);
    for odd in [
        vec![held("a", 31)],
        vec![held("", 32)],
        vec![held("a b", 32)],
        vec![held(&"a".repeat(65), 32)],
        vec![held("a", 32), held("b", 32)],
    ] {
        let heard = runtime.block_on(follow(&client, odd.clone(), 3));
        assert_eq!(heard.unwrap_err().code(), Code::InvalidArgument, "{odd:?}");
    }
    // Two on one connection would be one too many.
    assert_eq!(ca.status()["rotation"]["phase"], "steady");
}

/// A list by the CA's intermediate with this certificate (PEM) in it.
fn revoking(ca: &CaProcess, leaf: &str) -> String {
    let read = |name: &str| std::fs::read_to_string(ca.keys().join(name)).unwrap();
    let key = KeyPair::from_pem(&read("intermediate.key")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read("intermediate.pem"), key).unwrap();
    let (_, pem) = parse_x509_pem(leaf.as_bytes()).unwrap();
    let serial = pem.parse_x509().unwrap().raw_serial().to_vec();
    let revoked = RevokedCertParams {
        serial_number: SerialNumber::from_slice(&serial),
        revocation_time: date_time_ymd(2026, 1, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 1, 1),
        next_update: date_time_ymd(2026, 1, 2),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![revoked],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(&issuer).unwrap().pem().unwrap()
}

#[test]
fn whoever_is_revoked_is_given_nothing_more() {
    // Or its holder would exchange it for one that is in no list.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("crl.pem");
    let first = CaProcess::start(&[]);
    std::fs::write(&file, revoking(&first, &first.bundle())).unwrap();
    let ca = CaProcess::start(&["--crl", &file.display().to_string()]);
    let (stays, _) = joined(&ca);
    let (goes, shown) = joined(&ca);
    let _ = goes.request().unwrap();
    let next = dir.path().join("next.pem");
    std::fs::write(&next, revoking(&ca, &shown.chain[0])).unwrap();
    std::fs::rename(next, &file).unwrap();
    selvedge_tests::control_plane::until("revocation", || {
        let log = ca.process().log();
        let taken = log
            .iter()
            .filter(|l| l.contains("certificates are revoked"));
        (taken.count() == 2).then_some(())
    });
    let refused = goes.request().unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let refused = runtime()
        .block_on(follow(&goes, Vec::new(), 1))
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let _ = stays.request().unwrap();
    // What cannot be read changes nothing.
    std::fs::write(&file, "nothing").unwrap();
    ca.process().wait_for_log("the lists before stay in force");
    assert_eq!(goes.request().unwrap_err().code(), Code::Unauthenticated);
}

#[test]
fn one_identity_has_its_budget() {
    let ca = CaProcess::start(&[]);
    let (client, _) = joined(&ca);
    let runtime = runtime();
    let refused = runtime.block_on(async {
        // A request that is refused costs no signature, but is a call.
        let bad = IstioCertificateRequest::default();
        for _ in 0..40 {
            let mut line = client.connect().await.unwrap();
            for _ in 0..100 {
                let status = line.create(bad.clone(), &[]).await.unwrap_err();
                if status.code() == Code::ResourceExhausted {
                    return status;
                }
            }
        }
        panic!("never too many");
    });
    assert_eq!(refused.message(), "too many calls");
}

#[test]
fn health_is_told_by_grpc_and_by_http() {
    let ca = CaProcess::start(&["--health", "127.0.0.1:0"]);
    let (client, _) = joined(&ca);
    runtime().block_on(async {
        let sender = client.connect().await.unwrap().into_sender();
        let service = tower::service_fn(move |request| {
            let mut sender = sender.clone();
            async move { sender.send_request(request).await }
        });
        let origin = "https://localhost".parse().unwrap();
        let mut health =
            tonic_health::pb::health_client::HealthClient::with_origin(service, origin);
        let all = tonic_health::pb::HealthCheckRequest::default();
        let answer = health.check(all).await.unwrap().into_inner();
        assert_eq!(answer.status, 1, "SERVING");
    });
    let process = ca.process();
    assert_eq!(process.get("health", "/ready"), (200, "ready\n".to_owned()));
    let metric = |name: &str, labels: &[&str]| process.metric(name, labels);
    let requests = "selvedge_ca_requests_total";
    assert!((metric(requests, &["outcome=\"issued\""]) - 1.0).abs() < 0.1);
    let root = "certificate=\"root\"";
    let used = metric("selvedge_ca_certificate_life_used_percent", &[root]);
    assert!(used.abs() < 0.1, "{used}");
    let alarm = "selvedge_ca_certificate_alarm";
    for percent in ["percent=\"50\"", "percent=\"75\"", "percent=\"90\""] {
        assert!(metric(alarm, &[root, percent]).abs() < 0.1, "{percent}");
    }
    assert!((metric("selvedge_ca_rotation", &["phase=\"steady\""]) - 1.0).abs() < 0.1);
}
