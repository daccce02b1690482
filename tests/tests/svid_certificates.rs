//! TL-03: certificates that are no SVID, or not a good one, end in an alert before anything of HTTP is
//! seen, on either side; those that are good pass.

use std::process::Command;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose as Eku,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose as Usage, NameConstraints, SanType,
};
use selvedge_tests::certs::{Leaf, signed};
use selvedge_tests::tls_peer::Outcome;
use selvedge_tests::trusting::{ORDERS, Trusting, WEB, caller};
use selvedge_tests::{PATIENCE, Raw, TestCa, TlsPeer, TlsServer, Upstream};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// An issuer in between, with something changed.
fn middle(
    ca: &TestCa,
    change: impl Fn(&mut CertificateParams),
) -> (Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "middle");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![Usage::KeyCertSign, Usage::CrlSign];
    change(&mut params);
    let pem = ca.sign(params.clone(), &key);
    (Issuer::new(params, key), pem)
}

/// A leaf by an issuer in between, which is shown or not.
fn below(ca: &TestCa, id: &str, shown: bool, change: impl Fn(&mut CertificateParams)) -> Leaf {
    let (issuer, pem) = middle(ca, change);
    let mut leaf = signed(&issuer, id, |_| {});
    if shown {
        leaf.certificate.push_str(&pem);
    }
    leaf
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// Extensions of this object identifier that nobody knows.
fn unknown(critical: bool) -> CustomExtension {
    let mut extension =
        CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    extension.set_criticality(critical);
    extension
}

/// A leaf whose last byte is another.
fn broken(leaf: Leaf) -> Leaf {
    let (_, pem) = x509_parser::pem::parse_x509_pem(leaf.certificate.as_bytes()).unwrap();
    let mut der = pem.contents;
    *der.last_mut().unwrap() ^= 1;
    Leaf {
        certificate: pem_of(&der),
        key: leaf.key,
    }
}

fn pem_of(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}

/// A leaf made by openssl with this key and digest.
fn by_openssl(ca: &TestCa, id: &str, key: &[&str], digest: &str) -> Leaf {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(path("ca.pem"), ca.bundle()).unwrap();
    std::fs::write(path("ca.key"), ca.key()).unwrap();
    std::fs::write(
        path("ext"),
        format!("subjectAltName=URI:{id}\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n"),
    )
    .unwrap();
    let (key_file, request) = (path("leaf.key"), path("leaf.csr"));
    let run = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
    };
    run(&[&["genpkey", "-out", &key_file][..], key].concat());
    run(&[
        "req", "-new", "-key", &key_file, "-subj", "/CN=leaf", "-out", &request,
    ]);
    run(&[
        "x509",
        "-req",
        "-in",
        &request,
        "-CA",
        &path("ca.pem"),
        "-CAkey",
        &path("ca.key"),
        "-CAcreateserial",
        "-days",
        "1",
        digest,
        "-extfile",
        &path("ext"),
        "-out",
        &path("leaf.pem"),
    ]);
    Leaf {
        certificate: std::fs::read_to_string(path("leaf.pem")).unwrap(),
        key: std::fs::read_to_string(&key_file).unwrap(),
    }
}

const RSA: [&str; 4] = ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
const P256: [&str; 4] = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
const P384: [&str; 4] = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"];

/// Good ones.
fn good(ca: &TestCa, id: &str) -> Vec<(&'static str, Leaf)> {
    let with = |change: &dyn Fn(&mut CertificateParams)| ca.leaf_with(vec![uri(id)], |p| change(p));
    vec![
        ("as it is", ca.svid(id)),
        ("no EKU", with(&|p| p.extended_key_usages.clear())),
        (
            "EKU of more kinds",
            with(&|p| p.extended_key_usages.push(Eku::CodeSigning)),
        ),
        (
            "key agreement too",
            with(&|p| p.key_usages.push(Usage::KeyAgreement)),
        ),
        (
            "a DNS name beside the URI",
            ca.leaf_with(
                vec![uri(id), SanType::DnsName("a.b".try_into().unwrap())],
                |_| {},
            ),
        ),
        (
            "an unknown extension",
            with(&|p| p.custom_extensions.push(unknown(false))),
        ),
        ("an intermediate", below(ca, id, true, |_| {})),
        (
            "path length 0 before a leaf",
            below(ca, id, true, |p| {
                p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))
            }),
        ),
        ("RSA 2048", by_openssl(ca, id, &RSA, "-sha256")),
        ("P-384", by_openssl(ca, id, &P384, "-sha384")),
        (
            "Ed25519",
            by_openssl(ca, id, &["-algorithm", "ED25519"], "-sha256"),
        ),
    ]
}

/// Bad ones, with the reason that is counted.
#[rustfmt::skip]
fn bad(ca: &TestCa, id: &str) -> Vec<(&'static str, Leaf, &'static str)> {
    let with = |change: &dyn Fn(&mut CertificateParams)| ca.leaf_with(vec![uri(id)], |p| change(p));
    let names = |names: Vec<SanType>| ca.leaf_with(names, |_| {});
    let now = SystemTime::now();
    let dns = || SanType::DnsName("web.shop".try_into().unwrap());
    let own = KeyPair::generate().unwrap();
    let mut alone = CertificateParams::default();
    alone.subject_alt_names = vec![uri(id)];
    alone.key_usages = vec![Usage::DigitalSignature];
    let alone = Leaf { certificate: alone.self_signed(&own).unwrap().pem(), key: own.serialize_pem() };
    let other = TestCa::named("another");
    let same_name = TestCa::new();
    let ca_key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![Usage::DigitalSignature];
    root.subject_alt_names = vec![uri(id)];
    let ca_as_leaf = Leaf { certificate: ca.sign(root, &ca_key), key: ca_key.serialize_pem() };
    let mut wrong_key = ca.svid(id);
    wrong_key.key = ca.svid(id).key;
    let constrained = |subtree: GeneralSubtree, permits: bool| below(ca, id, true, move |p| {
        let (mut permitted_subtrees, mut excluded_subtrees) = (Vec::new(), Vec::new());
        if permits { permitted_subtrees.push(subtree.clone()) } else { excluded_subtrees.push(subtree.clone()) }
        p.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees });
    });
    let deep = || {
        let (issuer, first) = middle(ca, |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "second");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![Usage::KeyCertSign];
        let second = params.signed_by(&key, &issuer).unwrap().pem();
        let leaf = signed(&Issuer::new(params, key), id, |_| {});
        Leaf { certificate: format!("{}{second}{first}", leaf.certificate), key: leaf.key }
    };
    vec![
        ("expired", with(&|p| p.not_after = (now - DAY).into()), "not_in_time"),
        ("expired a second ago", with(&|p| p.not_after = (now - Duration::from_secs(1)).into()), "not_in_time"),
        ("not yet valid", with(&|p| p.not_before = (now + DAY).into()), "not_in_time"),
        ("another CA", other.svid(id), "unknown_issuer"),
        ("another CA of the same name", same_name.svid(id), "bad_certificate"),
        ("self-signed", alone, "unknown_issuer"),
        ("a CA as leaf", ca_as_leaf, "no_svid"),
        ("keyCertSign", with(&|p| p.key_usages.push(Usage::KeyCertSign)), "no_svid"),
        ("cRLSign", with(&|p| p.key_usages.push(Usage::CrlSign)), "no_svid"),
        ("no key usage", with(&|p| p.key_usages.clear()), "no_svid"),
        ("only key agreement", with(&|p| p.key_usages = vec![Usage::KeyAgreement]), "no_svid"),
        ("only content commitment", with(&|p| p.key_usages = vec![Usage::ContentCommitment]), "no_svid"),
        ("EKU for code only", with(&|p| p.extended_key_usages = vec![Eku::CodeSigning]), "bad_certificate"),
        ("EKU for mail only", with(&|p| p.extended_key_usages = vec![Eku::EmailProtection]), "bad_certificate"),
        ("a bad signature", broken(ca.svid(id)), "bad_certificate"),
        ("a key that is not its own", wrong_key, "bad_certificate"),
        ("an unknown critical extension", with(&|p| p.custom_extensions.push(unknown(true))), "bad_certificate"),
        ("a missing intermediate", below(ca, id, false, |_| {}), "unknown_issuer"),
        ("an expired intermediate", below(ca, id, true, |p| p.not_after = (now - DAY).into()), "not_in_time"),
        ("an intermediate of the future", below(ca, id, true, |p| p.not_before = (now + DAY).into()), "not_in_time"),
        ("an intermediate that is no CA", below(ca, id, true, |p| p.is_ca = IsCa::ExplicitNoCa), "bad_certificate"),
        ("an intermediate without keyCertSign", below(ca, id, true, |p| p.key_usages = vec![Usage::DigitalSignature]), "bad_certificate"),
        ("an intermediate for code", below(ca, id, true, |p| p.extended_key_usages = vec![Eku::CodeSigning]), "bad_certificate"),
        ("an unknown critical extension in between", below(ca, id, true, |p| p.custom_extensions.push(unknown(true))), "bad_certificate"),
        ("a path that is too long", deep(), "bad_certificate"),
        ("a name that is excluded", constrained(GeneralSubtree::DirectoryName(signed_name()), false), "bad_certificate"),
        ("no URI", names(vec![dns()]), "no_svid"),
        ("no name at all", names(vec![]), "no_svid"),
        ("two URIs", names(vec![uri(id), uri("spiffe://shop.local/b")]), "no_svid"),
        ("the same URI twice", names(vec![uri(id), uri(id)]), "no_svid"),
        ("a URI of the web", names(vec![uri("https://shop.local/ns/shop/sa/web")]), "no_svid"),
        ("its ID as a DNS name", names(vec![SanType::DnsName("spiffe.shop.local".try_into().unwrap())]), "no_svid"),
        ("another trust domain", names(vec![uri("spiffe://other.local/ns/shop/sa/web")]), "trust_domain"),
        ("P-256 by another CA's key", by_openssl(&other, id, &P256, "-sha256"), "unknown_issuer"),
        ("signed with SHA-1", by_openssl(ca, id, &P256, "-sha1"), "bad_certificate"),
    ]
}

/// The name that leaves of these tests have.
fn signed_name() -> rcgen::DistinguishedName {
    CertificateParams::default().distinguished_name
}

fn mesh(ca: &TestCa) -> (Trusting, Upstream) {
    let app = Upstream::answering("ok");
    let mesh = Trusting::start(ca, &ca.bundle(), ("", "", ""), &[], &app);
    (mesh, app)
}

#[test]
fn good_clients_pass() {
    let ca = TestCa::new();
    let (mesh, _app) = mesh(&ca);
    for (what, leaf) in good(&ca, WEB) {
        let outcome = TlsPeer::ask(mesh.inbound(), Some(&leaf));
        assert_eq!(outcome, Outcome::Answered(200), "{what}");
    }
    let for_clients = ca.leaf_with(vec![uri(WEB)], |p| {
        p.extended_key_usages = vec![Eku::ClientAuth]
    });
    let outcome = TlsPeer::ask(mesh.inbound(), Some(&for_clients));
    assert_eq!(outcome, Outcome::Answered(200));
}

#[test]
fn bad_clients_get_an_alert_and_reach_nothing() {
    let ca = TestCa::new();
    let (mesh, app) = mesh(&ca);
    let mut cases: Vec<_> = bad(&ca, WEB)
        .into_iter()
        .map(|(what, leaf, reason)| (what, Some(leaf), reason))
        .collect();
    cases.push(("none", None, "no_certificate"));
    let for_servers = ca.leaf_with(vec![uri(WEB)], |p| {
        p.extended_key_usages = vec![Eku::ServerAuth]
    });
    cases.push(("EKU for servers only", Some(for_servers), "bad_certificate"));
    let mut wrong = Vec::new();
    for (what, leaf, reason) in cases {
        let failures = "selvedge_handshake_failures_total";
        let before = mesh.orders.metric(failures, &[reason]);
        let outcome = TlsPeer::ask(mesh.inbound(), leaf.as_ref());
        if !matches!(outcome, Outcome::Alert(_)) {
            wrong.push(format!("{what}: {outcome:?}"));
        }
        // It is counted a moment after the client has its alert.
        let until = std::time::Instant::now() + PATIENCE / 4;
        let counted = || mesh.orders.metric(failures, &[reason]) > before;
        let mut there = counted();
        while !there && std::time::Instant::now() < until {
            there = counted();
        }
        if !there {
            let (_, all) = mesh.orders.get("health", "/metrics");
            let all: Vec<_> = all.lines().filter(|l| l.starts_with(failures)).collect();
            wrong.push(format!("{what}: not counted as {reason}: {all:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(app.seen().is_empty());
}

/// A key that is too short cannot be had from our own library: openssl shows it.
#[test]
fn short_keys_are_refused() {
    let ca = TestCa::new();
    let (mesh, app) = mesh(&ca);
    for bits in ["rsa_keygen_bits:1024", "rsa_keygen_bits:1536"] {
        let leaf = by_openssl(
            &ca,
            WEB,
            &["-algorithm", "RSA", "-pkeyopt", bits],
            "-sha256",
        );
        let (certificate, key) = leaf.write(mesh.orders.dir(), "short");
        let output = Command::new("openssl")
            .args(["s_client", "-connect", &mesh.inbound().to_string()])
            .args([
                "-cipher",
                "DEFAULT@SECLEVEL=0",
                "-alpn",
                "http/1.1",
                "-ign_eof",
            ])
            .arg("-cert")
            .arg(certificate)
            .arg("-key")
            .arg(key)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(said.contains("alert"), "{said}");
    }
    assert!(app.seen().is_empty());
}

/// The same certificates, shown by an endpoint that is called.
#[test]
fn endpoints_are_held_to_the_same() {
    let ca = TestCa::new();
    let server = TlsServer::start(&ca.svid(ORDERS));
    let ask = |leaf: &Leaf| {
        server.show(leaf);
        // Anew each time: nobody remembers the last one's failures, or its connections.
        let web = caller(&ca.svid(WEB), &ca.bundle(), ORDERS, server.address);
        let mut client = Raw::connect(web.address("outbound"));
        client.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n");
        let reply = client.reply();
        let status = reply.header("proxy-status").unwrap_or_default().to_owned();
        (reply.status, status)
    };
    let mut wrong = Vec::new();
    let for_servers = ca.leaf_with(vec![uri(ORDERS)], |p| {
        p.extended_key_usages = vec![Eku::ServerAuth]
    });
    let mut passing = good(&ca, ORDERS);
    passing.push(("EKU for servers only", for_servers));
    for (what, leaf) in &passing {
        let (status, why) = ask(leaf);
        if status != 200 {
            wrong.push(format!("{what}: {status} {why}"));
        }
    }
    assert_eq!(server.requests(), passing.len(), "{wrong:?}");
    let mut failing: Vec<_> = bad(&ca, ORDERS)
        .into_iter()
        .map(|(what, leaf, _)| (what, leaf))
        .collect();
    let for_clients = ca.leaf_with(vec![uri(ORDERS)], |p| {
        p.extended_key_usages = vec![Eku::ClientAuth]
    });
    failing.push(("EKU for clients only", for_clients));
    // TL-07: names that are not the one expected.
    let names = |names| ca.leaf_with(names, |_| {});
    failing.push(("somebody else", ca.svid(WEB)));
    failing.push((
        "somebody below",
        ca.svid("spiffe://shop.local/ns/shop/sa/orders/x"),
    ));
    failing.push(("somebody above", ca.svid("spiffe://shop.local/ns/shop/sa")));
    failing.push((
        "in other letters",
        ca.svid("spiffe://shop.local/ns/shop/sa/Orders"),
    ));
    failing.push((
        "a DNS name only",
        names(vec![SanType::DnsName("orders.shop".try_into().unwrap())]),
    ));
    failing.push((
        "its address only",
        names(vec![SanType::IpAddress(server.address.ip())]),
    ));
    for (what, leaf) in &failing {
        let (status, why) = ask(leaf);
        if status != 503 || !why.contains("error=tls_") {
            wrong.push(format!("{what}: {status} {why}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(server.requests(), passing.len());
}
