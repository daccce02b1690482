//! Certificates of clients at the edge, shown by curl: what a listener takes, what a policy asks for,
//! what the application is told.

use std::path::Path;
use std::process::Command;

use rcgen::{DnType, SanType};
use selvedge_tests::certs::{Leaf, TestCa};
use selvedge_tests::{Selvedge, Upstream};

struct Place {
    proxy: Selvedge,
    app: Upstream,
}

impl Place {
    /// A listener that takes certificates of `clients`.
    fn new(clients: &TestCa, mode: &str, policy: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = TestCa::new();
        std::fs::write(dir.path().join("ca.pem"), server.bundle()).unwrap();
        std::fs::write(dir.path().join("clients.pem"), clients.bundle()).unwrap();
        let (certificate, key) = server.server(&["shop.example"]).write(dir.path(), "shop");
        let app = Upstream::replying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        let config = format!(
            "listeners:
  - name: web
    bind: 127.0.0.1
    port: 0
    protocol: HTTPS
    tls:
      certificates: [{{ certificate: {}, key: {} }}]
      clientCertificates: {{ ca: {}, mode: {mode} }}
policies:
  partner: {{ clientCertificate: {policy} }}
routes:
  - rules:
      - {{ matches: [{{ path: /partner }}], policies: [partner], backendRefs: [{{ service: app }}] }}
      - {{ backendRefs: [{{ service: app }}] }}
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
            certificate.display(),
            key.display(),
            dir.path().join("clients.pem").display(),
            app.address()
        );
        let proxy = Selvedge::start_in(dir, "gateway", &config, 1);
        Self { proxy, app }
    }

    /// The status, 0 where there was none.
    fn ask(&self, leaf: Option<&Leaf>, path: &str, more: &[&str]) -> u16 {
        let port = self.proxy.address("web").port();
        let dir: &Path = self.proxy.dir();
        let mut command = Command::new("curl");
        command
            .args(["--silent", "--show-error", "--max-time", "20"])
            .args(["--output", "/dev/null", "--write-out", "%{http_code}"])
            .args(["--resolve", &format!("shop.example:{port}:127.0.0.1")])
            .arg("--cacert")
            .arg(dir.join("ca.pem"))
            .args(more);
        if let Some(leaf) = leaf {
            let (certificate, key) = leaf.write(dir, "client");
            command.arg("--cert").arg(certificate).arg("--key").arg(key);
        }
        let url = format!("https://shop.example:{port}{path}");
        let output = command.arg(url).output().unwrap();
        // Of a test that fails: why there was no answer.
        print!("{path}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).parse().unwrap()
    }
}

fn partner(ca: &TestCa, name: &str) -> Leaf {
    let san = SanType::DnsName(name.try_into().unwrap());
    ca.leaf_with(vec![san], |params| {
        params
            .distinguished_name
            .push(DnType::CommonName, "A; \"B\"");
    })
}

#[test]
fn no_handshake_without_one_where_it_is_required() {
    let clients = TestCa::new();
    let place = Place::new(&clients, "required", "{}");
    let good = partner(&clients, "a.partner.example");
    for version in ["1.2", "1.3"] {
        let tls = ["--tls-max", version];
        assert_eq!(place.ask(Some(&good), "/", &tls), 200);
        assert_eq!(place.ask(None, "/", &tls), 0);
        let stranger = partner(&TestCa::new(), "a.partner.example");
        assert_eq!(place.ask(Some(&stranger), "/", &tls), 0);
    }
    assert_eq!(place.app.all().matches("GET / ").count(), 2);
}

#[test]
fn where_it_is_optional_a_policy_asks_for_it() {
    let clients = TestCa::new();
    let place = Place::new(
        &clients,
        "optional",
        "{ names: [\"dns:*.partner.example\"], nameHeader: X-Partner }",
    );
    let forged = [
        "--header",
        "X-Partner: root",
        "--header",
        "X-Forwarded-Client-Cert: Hash=1;URI=spiffe://root/x",
    ];
    let good = partner(&clients, "a.partner.example");
    assert_eq!(place.ask(None, "/", &forged), 200);
    assert!(
        !place.app.all().contains("spiffe://root"),
        "{}",
        place.app.all()
    );
    assert_eq!(place.ask(None, "/partner", &forged), 401);
    assert_eq!(place.ask(Some(&good), "/partner", &forged), 200);
    assert_eq!(place.ask(Some(&good), "/partner", &["--http1.1"]), 200);
    let other = partner(&clients, "a.example");
    assert_eq!(place.ask(Some(&other), "/partner", &forged), 403);
    // A certificate that says it is of the mesh is none of the mesh.
    let mesh = clients.svid("spiffe://shop.local/orders");
    assert_eq!(place.ask(Some(&mesh), "/partner", &[]), 403);

    let got = place.app.all();
    let last = &got[got.find("GET /partner").unwrap()..];
    assert!(
        last.contains("X-Partner: dns:a.partner.example\r\n"),
        "{last}"
    );
    assert!(!last.contains("root"), "{last}");
    let stamp = last
        .lines()
        .find(|l| l.to_lowercase().starts_with("x-forwarded-client-cert"));
    let stamp = stamp.unwrap();
    assert!(stamp.contains(r#"Subject="CN=A; \"B\""#), "{stamp}");
    assert!(stamp.ends_with(";DNS=a.partner.example"), "{stamp}");
}

#[test]
fn what_was_revoked_is_not_taken() {
    use rcgen::{
        CertificateParams, CertificateRevocationListParams, KeyIdMethod, RevokedCertParams,
        SerialNumber,
    };
    let clients = TestCa::new();
    let numbered = |serial: u64| {
        let san = SanType::DnsName("a.example".try_into().unwrap());
        clients.leaf_with(vec![san], |params: &mut CertificateParams| {
            params.serial_number = Some(SerialNumber::from(serial));
        })
    };
    let (good, revoked) = (numbered(7), numbered(8));
    let now = std::time::SystemTime::now().into();
    let list = CertificateRevocationListParams {
        this_update: now,
        next_update: now + std::time::Duration::from_secs(3600),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from(8),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = clients.revocations(list);
    let place = Place::new(&clients, "required", "{}");
    assert_eq!(place.ask(Some(&revoked), "/", &[]), 200);
    // The list comes by a reload.
    let dir = place.proxy.dir();
    std::fs::write(dir.join("crl.pem"), list).unwrap();
    let config = std::fs::read_to_string(dir.join("config.yaml")).unwrap();
    let crl = format!("mode: required, crl: {}", dir.join("crl.pem").display());
    let config = config.replace("mode: required", &crl);
    std::fs::write(dir.join("config.yaml"), config).unwrap();
    place
        .proxy
        .wait_for_metric("selvedge_config_reloads_total", &[], 1.0);
    assert_eq!(place.ask(Some(&revoked), "/", &[]), 0);
    assert_eq!(place.ask(Some(&good), "/", &[]), 200);
}
