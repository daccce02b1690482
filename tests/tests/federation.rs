//! Other trust domains: whose roots vouch for whom, who is let in, where bundles come from.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use selvedge_tests::tls_peer::Outcome;
use selvedge_tests::trusting::{ORDERS, Trusting, WEB, call};
use selvedge_tests::{PATIENCE, Selvedge, TestCa, TlsPeer, Upstream};

const PARTNER: &str = "spiffe://partner.example/ns/shop/sa/web";
const STRANGER: &str = "spiffe://partner.example/ns/shop/sa/stranger";
const FROM_FILE: &str =
    ", federation: [{ trustDomain: partner.example, bundle: $DIR/partner.json }]";

/// A bundle as SPIFFE has it.
fn bundle(cas: &[&TestCa], sequence: u64) -> String {
    let key = |ca: &&TestCa| {
        let der = CertificateDer::from_pem_slice(ca.bundle().as_bytes()).unwrap();
        let x5c = STANDARD.encode(&der);
        format!(r#"{{"kty":"EC","use":"x509-svid","x5c":["{x5c}"]}}"#)
    };
    let keys: Vec<String> = cas.iter().map(key).collect();
    let keys = keys.join(",");
    format!(r#"{{"keys":[{keys}],"spiffe_sequence":{sequence},"spiffe_refresh_hint":1}}"#)
}

struct Domains {
    own: TestCa,
    partner: TestCa,
    app: Upstream,
}

impl Domains {
    fn new() -> Self {
        Self {
            own: TestCa::named("own"),
            partner: TestCa::named("partner"),
            app: Upstream::answering("ok"),
        }
    }

    fn start(&self, identity: &str, inbound: &str, files: &[(&str, &str)]) -> Trusting {
        let rest = (identity, inbound, "");
        Trusting::start(&self.own, &self.own.bundle(), rest, files, &self.app)
    }

    /// Its roots from a file.
    fn by_file(&self, inbound: &str) -> Trusting {
        let bundle = bundle(&[&self.partner], 1);
        self.start(FROM_FILE, inbound, &[("partner.json", &bundle)])
    }
}

fn ask(mesh: &Trusting, ca: &TestCa, id: &str) -> Outcome {
    TlsPeer::ask(mesh.inbound(), Some(&ca.svid(id)))
}

fn unknown_issuer() -> Outcome {
    Outcome::Alert("UnknownCA".into())
}

fn wait_for(what: &str, want: &Outcome, ask: impl Fn() -> Outcome) {
    let deadline = Instant::now() + PATIENCE;
    while ask() != *want {
        assert!(Instant::now() < deadline, "{what}: {:?}", ask());
        std::thread::yield_now();
    }
}

#[test]
fn roots_vouch_for_their_own_domain_only() {
    let domains = Domains::new();
    let allow =
        ", allow: [{ principals: [\"spiffe://partner.example/*\", \"spiffe://shop.local/*\"] }]";
    let mesh = domains.by_file(allow);
    let (own, partner) = (&domains.own, &domains.partner);
    for (ca, id, want) in [
        (own, WEB, Outcome::Answered(200)),
        (partner, PARTNER, Outcome::Answered(200)),
        // Each by the other's roots.
        (partner, WEB, unknown_issuer()),
        (own, PARTNER, unknown_issuer()),
        // A domain that is not trusted, by anybody's.
        (
            own,
            "spiffe://other.example/a",
            Outcome::Alert("CertificateUnknown".into()),
        ),
        (
            partner,
            "spiffe://other.example/a",
            Outcome::Alert("CertificateUnknown".into()),
        ),
        (
            partner,
            "spiffe://shop.local.partner.example/a",
            Outcome::Alert("CertificateUnknown".into()),
        ),
    ] {
        assert_eq!(ask(&mesh, ca, id), want, "{id}");
    }
    let failures = "selvedge_handshake_failures_total";
    mesh.orders
        .wait_for_metric(failures, &["trust_domain"], 3.0);
    mesh.orders
        .wait_for_metric(failures, &["unknown_issuer"], 2.0);
}

#[test]
fn who_is_of_another_domain_is_let_in_by_name_only() {
    let domains = Domains::new();
    let refused = Outcome::Answered(403);
    let passes = Outcome::Answered(200);
    for (inbound, partner, stranger) in [
        // Everybody of the own domain.
        ("", &refused, &refused),
        (", allow: [{ methods: [GET] }]", &refused, &refused),
        (
            ", allow: [{ principals: [\"spiffe://shop.local/*\"] }, { methods: [GET] }]",
            &refused,
            &refused,
        ),
        (
            ", allow: [{ principals: [\"spiffe://partner.example/ns/shop/sa/web\"], methods: [GET] }, { methods: [GET] }]",
            &passes,
            &refused,
        ),
        (
            ", allow: [{ principals: [\"spiffe://partner.example/*\"] }]",
            &passes,
            &passes,
        ),
    ] {
        let mesh = domains.by_file(inbound);
        let of = |id| ask(&mesh, &domains.partner, id);
        assert_eq!(of(PARTNER), *partner, "{inbound}");
        assert_eq!(of(STRANGER), *stranger, "{inbound}");
    }
    // Nor do bytes cross that are no requests.
    let mesh = domains.by_file("");
    let leaf = domains.partner.svid(PARTNER);
    let mut bytes = TlsPeer::connect(mesh.inbound(), Some(&leaf), "selvedge-tcp").unwrap();
    let before = domains.app.seen().len();
    let _ = bytes.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(bytes.rest(PATIENCE).is_empty());
    assert_eq!(domains.app.seen().len(), before);
}

#[test]
fn an_endpoint_of_another_domain_is_called_by_its_name() {
    let domains = Domains::new();
    let mesh = domains.by_file(", allow: [{ principals: [\"spiffe://partner.example/*\"] }]");
    let leaf = domains.partner.svid(PARTNER);
    let dir = tempfile::tempdir().unwrap();
    let _ = leaf.write(dir.path(), "web");
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("bundle.pem"), domains.partner.bundle()).unwrap();
    std::fs::write(path("shop.pem"), domains.own.bundle()).unwrap();
    let config = |expected: &str| {
        format!(
            "identity: {{ trustDomain: partner.example, bundle: $DIR/bundle.pem, certificate: $DIR/web.pem, key: $DIR/web.key, federation: [{{ trustDomain: shop.local, bundle: $DIR/shop.pem }}] }}
outbound: {{ bind: \"127.0.0.1:0\" }}
services: {{ orders: {{ endpoints: [\"{}\"], mesh: {expected} }} }}",
            mesh.inbound()
        )
    };
    let named = format!("{{ identity: \"{ORDERS}\" }}");
    let web = Selvedge::start_in(dir, "sidecar", &config(&named), 1);
    assert_eq!(call(&web), 200);
    // Without a name it is anyone of the own domain.
    let file = web.dir().join("config.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(&named, "{}")).unwrap();
    web.wait_for_metric("selvedge_config_reloads_total", &[], 1.0);
    assert_eq!(call(&web), 503);
}

#[test]
fn connections_end_when_their_domain_is_not_trusted_any_more() {
    let domains = Domains::new();
    let mesh = domains.by_file(", allow: [{ principals: [\"spiffe://partner.example/*\"] }, { principals: [\"spiffe://shop.local/*\"] }]");
    let connect = |leaf| TlsPeer::connect(mesh.inbound(), Some(&leaf), "http/1.1").unwrap();
    let mut partner = connect(domains.partner.svid(PARTNER));
    let mut own = connect(domains.own.svid(WEB));
    assert_eq!(partner.get(), Outcome::Answered(200));
    assert_eq!(own.get(), Outcome::Answered(200));
    // All its roots are taken back.
    mesh.put("partner.json", &bundle(&[], 2));
    assert!(partner.rest(PATIENCE).is_empty());
    assert_eq!(own.get(), Outcome::Answered(200));
    mesh.put("partner.json", &bundle(&[&domains.partner], 3));
    wait_for("again", &Outcome::Answered(200), || {
        ask(&mesh, &domains.partner, PARTNER)
    });
    let mut partner = connect(domains.partner.svid(PARTNER));
    assert_eq!(partner.get(), Outcome::Answered(200));
    // And it is taken out of the configuration.
    let text = std::fs::read_to_string(mesh.path("config.yaml")).unwrap();
    let at = text.find(", federation").unwrap();
    let end = at + text[at..].find(']').unwrap() + 1;
    mesh.put("config.yaml", &text.replace(&text[at..end], ""));
    assert!(partner.rest(PATIENCE).is_empty());
    assert_eq!(own.get(), Outcome::Answered(200));
}

/// A bundle endpoint: a gateway before something that answers what the test says.
struct Endpoint {
    gateway: Selvedge,
    answer: Arc<Mutex<String>>,
    _upstream: Upstream,
}

impl Endpoint {
    fn start(leaf: &selvedge_tests::certs::Leaf, answer: String) -> Self {
        let answer = Arc::new(Mutex::new(answer));
        let said = answer.clone();
        let upstream = Upstream::scripted(move |connection| {
            while connection.request().is_some() {
                connection.send(said.lock().unwrap().clone());
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = leaf.write(dir.path(), "server");
        let config = format!(
            "listeners: [{{ name: web, bind: 127.0.0.1, port: 0, protocol: HTTPS, tls: {{ certificates: [{{ certificate: {}, key: {} }}] }} }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
            certificate.display(),
            key.display(),
            upstream.address()
        );
        Self {
            gateway: Selvedge::start_in(dir, "gateway", &config, 1),
            answer,
            _upstream: upstream,
        }
    }

    fn port(&self) -> u16 {
        self.gateway.address("web").port()
    }

    fn say(&self, answer: String) {
        *self.answer.lock().unwrap() = answer;
    }
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

const LETS_IN: &str = ", allow: [{ principals: [\"spiffe://partner.example/*\"] }]";

#[test]
fn bundles_come_from_an_endpoint_and_the_last_good_one_stays() {
    let domains = Domains::new();
    let servers = TestCa::named("servers");
    let endpoint = Endpoint::start(
        &servers.server(&["localhost"]),
        "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".into(),
    );
    let identity = format!(
        ", federation: [{{ trustDomain: partner.example, endpoint: \"https://localhost:{}/bundle\", ca: $DIR/servers.pem }}]",
        endpoint.port()
    );
    let files = [("servers.pem", servers.bundle())];
    let files: Vec<(&str, &str)> = files.iter().map(|(n, t)| (*n, t.as_str())).collect();
    let mesh = domains.start(&identity, LETS_IN, &files);
    let failures = "selvedge_federation_failures_total";
    let unknown = Outcome::Alert("CertificateUnknown".into());
    let of_partner = || ask(&mesh, &domains.partner, PARTNER);
    mesh.orders.wait_for_log("it answered 500");
    assert_eq!(of_partner(), unknown);
    endpoint.say(ok(&bundle(&[&domains.partner], 1)));
    wait_for("after a failure", &Outcome::Answered(200), of_partner);
    mesh.orders
        .wait_for_log("bundle of another trust domain trust_domain=partner.example roots=1");
    let (_, shown) = mesh.orders.get("admin", "/certificates");
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["trust"]["roots"], 1);
    assert_eq!(shown["trust"]["federation"]["partner.example"], 1);
    // What is no bundle, too large, or elsewhere, changes nothing.
    for bad in [
        ok("{\"keys\":[{\"use\":\"x509-svid\"}]}"),
        ok(&format!("{}{}", " ".repeat(300 << 10), bundle(&[], 9))),
        format!(
            "HTTP/1.1 302 Found\r\nLocation: https://localhost:{}/x\r\nContent-Length: 0\r\n\r\n",
            endpoint.port()
        ),
    ] {
        let before = mesh.orders.metric(failures, &[]);
        endpoint.say(bad);
        mesh.orders.wait_for_metric(failures, &[], before + 1.0);
        assert_eq!(of_partner(), Outcome::Answered(200));
    }
    // Another root, as the hint is followed.
    let next = TestCa::named("next");
    endpoint.say(ok(&bundle(&[&next], 2)));
    wait_for("the next root", &Outcome::Answered(200), || {
        ask(&mesh, &next, PARTNER)
    });
    assert_eq!(of_partner(), unknown_issuer());
    // A replica that is behind takes nothing away, unless nothing else is heard.
    endpoint.say(ok(&bundle(&[], 1)));
    mesh.orders
        .wait_for_log("an older bundle of another trust domain is not taken");
    assert_eq!(ask(&mesh, &next, PARTNER), Outcome::Answered(200));
    wait_for("it is said again and again", &unknown_issuer(), || {
        ask(&mesh, &next, PARTNER)
    });
}

#[test]
fn connections_live_on_when_their_domain_is_trusted_again_in_time() {
    // A file that lost a root for a moment cut connections off when it had long been back.
    let domains = Domains::new();
    let mesh = domains.by_file(LETS_IN);
    let leaf = domains.partner.svid(PARTNER);
    let mut live = TlsPeer::connect(mesh.inbound(), Some(&leaf), "http/1.1").unwrap();
    // In the middle of a request, which a polite end waits for.
    live.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab")
        .unwrap();
    mesh.put("partner.json", &bundle(&[], 1));
    mesh.orders.wait_for_log("untrusted=1 ending=1");
    mesh.put("partner.json", &bundle(&[&domains.partner], 1));
    mesh.orders.wait_for_log("verified=1 untrusted=0");
    assert_eq!(live.request("cd"), Outcome::Answered(200));
    assert_eq!(live.get(), Outcome::Answered(200));
}

#[test]
fn an_endpoint_is_known_by_its_spiffe_id() {
    let domains = Domains::new();
    let next = TestCa::named("next");
    let server = "spiffe://partner.example/bundle";
    for (shown, id, trusted) in [
        (&domains.partner, server, true),
        // Somebody else, and somebody whom nobody vouches for.
        (&domains.partner, STRANGER, false),
        (&next, server, false),
    ] {
        let endpoint = Endpoint::start(&shown.svid(id), ok(&bundle(&[&next], 1)));
        let identity = format!(
            ", federation: [{{ trustDomain: partner.example, bundle: $DIR/first.pem, endpoint: \"https://127.0.0.1:{}/\", profile: https_spiffe, endpointId: \"{server}\" }}]",
            endpoint.port()
        );
        let first = domains.partner.bundle();
        let mesh = domains.start(&identity, LETS_IN, &[("first.pem", &first)]);
        if trusted {
            wait_for("from the endpoint", &Outcome::Answered(200), || {
                ask(&mesh, &next, PARTNER)
            });
        } else {
            let failures = "selvedge_federation_failures_total";
            mesh.orders.wait_for_metric(failures, &[], 1.0);
            let of = ask(&mesh, &domains.partner, PARTNER);
            assert_eq!(of, Outcome::Answered(200));
            assert_eq!(ask(&mesh, &next, PARTNER), unknown_issuer());
        }
    }
}
