//! TL-14: lists of revoked certificates, read while connections live.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint,
    CrlIssuingDistributionPoint, DistinguishedName, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use selvedge_tests::certs::Leaf;
use selvedge_tests::process::binary;
use selvedge_tests::tls_peer::Outcome;
use selvedge_tests::trusting::{ORDERS, Trusting, WEB, call, caller};
use selvedge_tests::{PATIENCE, TestCa, TlsPeer, Upstream};

const HOUR: Duration = Duration::from_secs(3600);
const RELOADED: &str = "selvedge_config_reloads_total";

fn revoked() -> Outcome {
    Outcome::Alert("CertificateRevoked".into())
}

/// What a CA takes back by these serial numbers, in a list that ends then, of this part.
fn list(ca: &TestCa, serials: &[u64], end: SystemTime, part: Option<&str>) -> String {
    ca.revocations(unsigned(serials, end, part))
}

fn unsigned(
    serials: &[u64],
    end: SystemTime,
    part: Option<&str>,
) -> CertificateRevocationListParams {
    let entry = |serial: &u64| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: (SystemTime::now() - HOUR).into(),
        reason_code: None,
        invalidity_date: None,
    };
    CertificateRevocationListParams {
        this_update: (end - 2 * HOUR).into(),
        next_update: end.into(),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: part.map(|uri| CrlIssuingDistributionPoint {
            distribution_point: CrlDistributionPoint {
                uris: vec![uri.to_owned()],
            },
            scope: None,
        }),
        revoked_certs: serials.iter().map(entry).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    }
}

fn fresh(ca: &TestCa, serials: &[u64]) -> String {
    list(ca, serials, SystemTime::now() + HOUR, None)
}

fn numbered(ca: &TestCa, id: &str, serial: u64) -> Leaf {
    ca.leaf_with(vec![SanType::URI(id.try_into().unwrap())], |params| {
        params.serial_number = Some(SerialNumber::from(serial));
    })
}

fn start(ca: &TestCa, crl: &str) -> (Trusting, Upstream) {
    let app = Upstream::answering("ok");
    let files = [("list.pem", crl)];
    let identity = ", crl: $DIR/list.pem";
    let mesh = Trusting::start(ca, &ca.bundle(), (identity, "", ""), &files, &app);
    (mesh, app)
}

#[test]
fn what_is_revoked_is_refused_and_its_connections_end() {
    let ca = TestCa::new();
    let (mesh, _app) = start(&ca, &fresh(&ca, &[]));
    let (web, other) = (numbered(&ca, WEB, 7), numbered(&ca, WEB, 8));
    let connect = |leaf| TlsPeer::connect(mesh.inbound(), Some(leaf), "http/1.1").unwrap();
    let (mut live, mut kept) = (connect(&web), connect(&other));
    for peer in [&mut live, &mut kept] {
        assert_eq!(peer.get(), Outcome::Answered(200));
    }
    mesh.put("list.pem", &fresh(&ca, &[7]));
    assert!(live.rest(PATIENCE).is_empty());
    assert_eq!(TlsPeer::ask(mesh.inbound(), Some(&web)), revoked());
    assert_eq!(kept.get(), Outcome::Answered(200));
    let labels = ["revoked"];
    mesh.orders
        .wait_for_metric("selvedge_handshake_failures_total", &labels, 1.0);
    mesh.orders
        .wait_for_metric("selvedge_connections_ended_total", &["untrusted"], 1.0);
    // What is taken out of a list is let in again.
    mesh.put("list.pem", &fresh(&ca, &[]));
    mesh.orders.wait_for_metric(RELOADED, &[], 2.0);
    let again = TlsPeer::ask(mesh.inbound(), Some(&web));
    assert_eq!(again, Outcome::Answered(200));
}

#[test]
fn a_list_that_has_ended_still_refuses_what_it_holds_and_says_so() {
    let ca = TestCa::new();
    let ended = list(&ca, &[7], SystemTime::now() - HOUR, None);
    let (mesh, _app) = start(&ca, &ended);
    let ask = |serial| TlsPeer::ask(mesh.inbound(), Some(&numbered(&ca, WEB, serial)));
    assert_eq!(ask(7), revoked());
    assert_eq!(ask(8), Outcome::Answered(200));
    mesh.orders
        .wait_for_log("a list of revoked certificates has ended");
    let end = mesh
        .orders
        .metric("selvedge_revocation_list_expiry_seconds", &[]);
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    assert!(end > 0.0 && end < now.as_secs_f64(), "{end}");
}

/// A CA may split its list: each part counts.
#[test]
fn every_list_of_an_issuer_is_looked_at() {
    let ca = TestCa::new();
    let end = SystemTime::now() + HOUR;
    let parts = [
        list(&ca, &[7], end, Some("http://ca.example/1.crl")),
        list(&ca, &[8], end, Some("http://ca.example/2.crl")),
        fresh(&ca, &[9]),
    ];
    let (mesh, _app) = start(&ca, &parts.concat());
    let ask = |serial| TlsPeer::ask(mesh.inbound(), Some(&numbered(&ca, WEB, serial)));
    for serial in [7, 8, 9] {
        assert_eq!(ask(serial), revoked(), "{serial}");
    }
    assert_eq!(ask(10), Outcome::Answered(200));
}

/// An issuer without a list is not refused, and a list of somebody else changes nothing.
#[test]
fn what_no_list_is_about_is_let_in() {
    let ca = TestCa::new();
    let (mesh, _app) = start(&ca, &fresh(&TestCa::named("another"), &[7]));
    let ask = TlsPeer::ask(mesh.inbound(), Some(&numbered(&ca, WEB, 7)));
    assert_eq!(ask, Outcome::Answered(200));
}

#[test]
fn an_intermediate_is_revoked_with_all_it_has_signed() {
    let ca = TestCa::new();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.serial_number = Some(SerialNumber::from(70_u64));
    let middle = ca.sign(params.clone(), &key);
    let leaf = selvedge_tests::certs::signed(&Issuer::new(params, key), WEB, |_| {});
    let leaf = Leaf {
        certificate: format!("{}{middle}", leaf.certificate),
        key: leaf.key,
    };
    let (mesh, _app) = start(&ca, &fresh(&ca, &[]));
    let mut live = TlsPeer::connect(mesh.inbound(), Some(&leaf), "http/1.1").unwrap();
    assert_eq!(live.get(), Outcome::Answered(200));
    mesh.put("list.pem", &fresh(&ca, &[70]));
    assert!(live.rest(PATIENCE).is_empty());
    assert_eq!(TlsPeer::ask(mesh.inbound(), Some(&leaf)), revoked());
}

/// An intermediate of this serial number, always by the same name, its chain for a leaf of `WEB` with number
/// 9, and a list by it.
fn namesake(ca: &TestCa, serial: u64, revoked: &[u64]) -> (Leaf, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "mesh issuing");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(SerialNumber::from(serial));
    let middle = ca.sign(params.clone(), &key);
    let issuer = Issuer::new(params, key);
    let leaf = selvedge_tests::certs::signed(&issuer, WEB, |params| {
        params.serial_number = Some(SerialNumber::from(9_u64));
    });
    let list = unsigned(revoked, SystemTime::now() + HOUR, None);
    let list = list.signed_by(&issuer).unwrap().pem().unwrap();
    let certificate = format!("{}{middle}", leaf.certificate);
    let key = leaf.key;
    (Leaf { certificate, key }, list)
}

#[test]
fn an_issuer_that_was_renewed_under_its_name_has_lists_of_its_own() {
    // A list by the key before refused everybody of the key after, and both together everybody.
    let ca = TestCa::new();
    let (old, by_old) = namesake(&ca, 70, &[]);
    let (new, by_new) = namesake(&ca, 71, &[]);
    let (mesh, _app) = start(&ca, &by_old);
    let both = [by_old, by_new].concat();
    let asked = |leaf: &Leaf| TlsPeer::ask(mesh.inbound(), Some(leaf));
    assert_eq!(asked(&old), Outcome::Answered(200));
    assert_eq!(asked(&new), Outcome::Answered(200));
    mesh.put("list.pem", &both);
    mesh.orders.wait_for_log("generation=2");
    assert_eq!(asked(&old), Outcome::Answered(200));
    assert_eq!(asked(&new), Outcome::Answered(200));
    // A list of the one says nothing of a number of the other.
    let (gone, list) = namesake(&ca, 72, &[9]);
    mesh.put("list.pem", &[both, list].concat());
    mesh.orders.wait_for_log("generation=3");
    assert_eq!(asked(&gone), revoked());
    assert_eq!(asked(&old), Outcome::Answered(200));
    assert_eq!(asked(&new), Outcome::Answered(200));
    // Whoever shows another issuer of that name besides has shown his own too.
    let (_, by_name) = new
        .certificate
        .split_once("-----END CERTIFICATE-----")
        .unwrap();
    let certificate = format!("{}{by_name}", gone.certificate);
    let key = gone.key.clone();
    let both_shown = Leaf { certificate, key };
    assert_ne!(asked(&both_shown), Outcome::Answered(200));
}

#[test]
fn an_endpoint_that_is_revoked_is_not_called() {
    let ca = TestCa::new();
    let app = Upstream::answering("ok");
    let mesh = Trusting::start(&ca, &ca.bundle(), ("", "", ""), &[], &app);
    let web = caller(&ca.svid(WEB), &ca.bundle(), ORDERS, mesh.inbound());
    assert_eq!(call(&web), 200);
    let text = std::fs::read_to_string(mesh.path("orders.pem")).unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes()).unwrap();
    let serial = pem.parse_x509().unwrap().raw_serial().to_vec();
    let entry = RevokedCertParams {
        serial_number: SerialNumber::from_slice(&serial),
        revocation_time: (SystemTime::now() - HOUR).into(),
        reason_code: None,
        invalidity_date: None,
    };
    let crl = ca.revocations(CertificateRevocationListParams {
        this_update: (SystemTime::now() - HOUR).into(),
        next_update: (SystemTime::now() + HOUR).into(),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![entry],
        key_identifier_method: KeyIdMethod::Sha256,
    });
    let list = web.dir().join("list.pem");
    std::fs::write(&list, crl).unwrap();
    let config = web.dir().join("config.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    let crl = format!("{{ crl: {}, trustDomain:", list.display());
    std::fs::write(&config, text.replace("{ trustDomain:", &crl)).unwrap();
    web.wait_for_metric("selvedge_connections_ended_total", &["untrusted"], 1.0);
    assert_eq!(call(&web), 503);
}

#[test]
fn a_damaged_file_changes_nothing_and_is_told_with_its_place() {
    let ca = TestCa::new();
    let (mut mesh, _app) = start(&ca, &fresh(&ca, &[7]));
    for (text, why) in [
        ("nothing", "no list of revoked certificates"),
        (
            "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
            "list 1: ",
        ),
    ] {
        mesh.orders.skip_log();
        mesh.put("list.pem", text);
        mesh.orders.wait_for_next("identity.crl");
        mesh.orders.wait_for_log(why);
        let ask = TlsPeer::ask(mesh.inbound(), Some(&numbered(&ca, WEB, 7)));
        assert_eq!(ask, revoked());
        let said = check(&mesh.path("config.yaml"));
        assert!(
            said.contains("config.yaml:1:") && said.contains(why),
            "{said}"
        );
    }
    mesh.orders
        .wait_for_metric("selvedge_config_reload_failures_total", &[], 2.0);
}

fn check(config: &Path) -> String {
    let output = Command::new(binary()).arg("check").arg(config).output();
    let output = output.unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A list in the name of an issuer that did not sign it is nobody's word: nobody of that issuer is let
/// in by it.
#[test]
fn a_list_that_its_issuer_has_not_signed_lets_nobody_in() {
    let (ca, forger) = (TestCa::new(), TestCa::new());
    let (mesh, app) = start(&ca, &fresh(&forger, &[]));
    let outcome = TlsPeer::ask(mesh.inbound(), Some(&numbered(&ca, WEB, 7)));
    assert!(matches!(outcome, Outcome::Alert(_)), "{outcome:?}");
    assert!(app.seen().is_empty());
}
