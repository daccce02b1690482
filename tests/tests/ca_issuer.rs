//! A CA that signs with an intermediate from a Secret of its cluster, in both forms that are about; and how
//! what it was given is exchanged while it runs.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{Issuer, KeyPair};
use selvedge_tests::authority::{CaProcess, run};
use selvedge_tests::ca_client::{Client, Shown};
use selvedge_tests::certs::{Leaf, signed};
use selvedge_tests::control_plane::{OWN, until};
use selvedge_tests::kube::{KubeApi, Token};
use selvedge_tests::process::Selvedge;
use selvedge_tests::tls_peer::Outcome;
use selvedge_tests::{TestCa, TlsPeer, Upstream};
use serde_json::{Value, json};

const ORDERS: &str = "spiffe://shop.local/ns/shop/sa/orders";
const NAME: &str = "mesh-issuer";
/// As cert-manager writes it, and as Istio's.
const TLS: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];
const CACERTS: [&str; 3] = ["ca-cert.pem", "ca-key.pem", "root-cert.pem"];

/// Certificate, key, roots.
type Parts = [String; 3];

fn parts(root: &TestCa, roots: &[&TestCa]) -> Parts {
    let (certificate, key) = root.intermediate("shop.local");
    [
        certificate,
        key,
        roots.iter().map(|root| root.bundle()).collect(),
    ]
}

/// The Secret with these parts; that of Istio has the chain once more, down to the root.
fn secret(form: [&str; 3], parts: &Parts) -> Value {
    let mut data = json!({});
    for (name, text) in form.iter().zip(parts) {
        data[*name] = json!(STANDARD.encode(text));
    }
    if form == CACERTS {
        let chain = [parts[0].as_str(), &parts[2]].concat();
        data["cert-chain.pem"] = json!(STANDARD.encode(chain));
    }
    let kind = if form == TLS {
        "kubernetes.io/tls"
    } else {
        "Opaque"
    };
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": kind, "data": data,
        "metadata": { "name": NAME, "namespace": OWN },
    })
}

/// What a CA is started with that may read Secrets, and nothing else.
fn arguments(api: &KubeApi) -> Vec<String> {
    let token = Token::of_account(OWN, "selvedge-ca");
    for verb in ["get", "list", "watch"] {
        api.allow(&token.user, verb, "secrets");
    }
    api.add_token("of the ca", token);
    let file = api.dir().join("ca.api");
    fs::write(&file, "of the ca").unwrap();
    let text = |path: &Path| path.display().to_string();
    let secret = format!("{OWN}/{NAME}");
    let flags = [
        ("--issuer-secret", secret),
        ("--kube-api", api.url()),
        ("--kube-token", text(&file)),
        ("--kube-ca", text(&api.ca())),
    ];
    let flags = flags
        .into_iter()
        .map(|(flag, value)| [flag.to_owned(), value]);
    flags.flatten().collect()
}

fn started(api: &KubeApi) -> CaProcess {
    let arguments = arguments(api);
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    CaProcess::start(&arguments)
}

/// Waits until the CA signs with this intermediate, each time that it says that something has changed.
fn signs(ca: &mut CaProcess, client: &Client, certificate: &str) {
    loop {
        ca.process_mut().wait_for_next("another intermediate signs");
        if client.request().unwrap()[1].trim() == certificate.trim() {
            return;
        }
    }
}

/// How many roots whoever asks is given.
fn roots(client: &Client) -> usize {
    let chain = client.request().unwrap();
    chain[2].matches("BEGIN CERTIFICATE").count()
}

fn joined(ca: &CaProcess, root: &TestCa) -> (Client, Shown) {
    let client = Client::new(ca.address(), &root.bundle());
    let shown = client.join(&ca.token(ORDERS));
    (client.showing(&shown), shown)
}

#[test]
fn a_secret_of_either_form_signs_and_is_followed() {
    for form in [TLS, CACERTS] {
        let api = KubeApi::start();
        let root = TestCa::named("offline");
        let first = parts(&root, &[&root]);
        api.put(secret(form, &first));
        let mut ca = started(&api);
        let (client, shown) = joined(&ca, &root);
        assert_eq!(shown.chain.len(), 3, "leaf, intermediate, roots");
        assert_eq!(shown.chain[1].trim(), first[0].trim());
        let second = parts(&root, &[&root]);
        api.put(secret(form, &second));
        signs(&mut ca, &client, &second[0]);

        // What is of no use changes nothing, nor does a Secret that is gone.
        let mut bad = second.clone();
        bad[1] = "-----BEGIN nothing".into();
        api.put(secret(form, &bad));
        let said = ca.process_mut().wait_for_next("intermediate not replaced");
        let place = format!("{OWN}/{NAME}/{}: not a PEM private key", form[1]);
        assert!(said.contains(&place), "{said}");
        assert!(api.delete("secrets", OWN, NAME));
        ca.process()
            .wait_for_log("the Secret is gone; its content signs on");
        assert_eq!(client.request().unwrap()[1].trim(), second[0].trim());
        // It is found again when it is back.
        let third = parts(&root, &[&root]);
        api.put(secret(form, &third));
        signs(&mut ca, &client, &third[0]);
    }
}

#[test]
fn both_roots_in_one_change_are_trusted_before_the_new_one_signs() {
    let api = KubeApi::start();
    let (old, new) = (TestCa::named("old"), TestCa::named("new"));
    let first = parts(&old, &[&old]);
    api.put(secret(TLS, &first));
    let mut ca = started(&api);
    let (client, _) = joined(&ca, &old);
    let second = parts(&new, &[&new, &old]);
    api.put(secret(TLS, &second));
    ca.process_mut().wait_for_next("other roots are trusted");
    let chain = client.request().unwrap();
    assert_eq!(chain[1].trim(), first[0].trim());
    assert_eq!(roots(&client), 2);
    // The CA's own certificate is under the new one soon.
    let client = Client::new(ca.address(), &[old.bundle(), new.bundle()].concat());
    let shown = client.join(&ca.token(ORDERS));
    signs(&mut ca, &client.showing(&shown), &second[0]);
}

#[test]
fn a_secret_that_is_missing_or_damaged_is_named() {
    let api = KubeApi::start();
    let root = TestCa::named("offline");
    let arguments = arguments(&api);
    let refused = || {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("ca").display().to_string();
        let fixed = [
            "ca",
            "--trust-domain",
            "shop.local",
            "--bind",
            "127.0.0.1:0",
            "--dir",
            &dir,
        ];
        let more = arguments.iter().map(String::as_str);
        let (well, said) = run(&fixed.into_iter().chain(more).collect::<Vec<_>>());
        assert!(!well, "{said}");
        assert!(!said.contains("BEGIN"), "{said}");
        said
    };
    let said = refused();
    let wanted = format!("Secret {OWN}/{NAME}: ");
    assert!(
        said.contains(&wanted) && said.contains("not found"),
        "{said}"
    );
    let good = parts(&root, &[&root]);
    let other = parts(&root, &[&root]);
    for (spoil, part, wanted) in [
        ("remove", "tls.crt", "tls.crt: missing"),
        ("remove", "tls.key", "tls.key: missing"),
        ("remove", "ca.crt", "ca.crt: missing"),
        ("damage", "tls.crt", "tls.crt: not a PEM certificate"),
        ("damage", "tls.key", "tls.key: not a PEM private key"),
        ("damage", "ca.crt", "ca.crt: not a PEM certificate"),
        ("bytes", "tls.key", "tls.key"),
        (
            "other",
            "tls.key",
            "tls.key: does not belong to its certificate",
        ),
    ] {
        let mut object = secret(TLS, &good);
        let data = object["data"].as_object_mut().unwrap();
        match spoil {
            "remove" => drop(data.remove(part)),
            "damage" => drop(data.insert(part.into(), json!(STANDARD.encode("-----BEGIN x")))),
            "bytes" => drop(data.insert(part.into(), json!(STANDARD.encode([0xff, 0xfe])))),
            _ => drop(data.insert(part.into(), json!(STANDARD.encode(&other[1])))),
        }
        api.put(object);
        let said = refused();
        let wanted = format!("{OWN}/{NAME}/{wanted}");
        assert!(said.contains(&wanted), "{spoil} {part}: {said}");
    }
}

/// Files as cert-manager mounts them.
fn put(dir: &Path, parts: &Parts) {
    for (name, text) in TLS.iter().zip(parts) {
        let (path, next) = (dir.join(name), dir.join("next"));
        fs::write(&next, text).unwrap();
        fs::set_permissions(&next, Permissions::from_mode(0o600)).unwrap();
        fs::rename(next, path).unwrap();
    }
}

#[test]
fn a_root_that_nobody_trusts_yet_does_not_take_over() {
    let dir = tempfile::tempdir().unwrap();
    let write = |parts: &Parts| put(dir.path(), parts);
    let (old, new) = (TestCa::named("old"), TestCa::named("new"));
    let first = parts(&old, &[&old]);
    write(&first);
    let mut ca = CaProcess::start(&["--issuer", &dir.path().display().to_string()]);
    let (client, _) = joined(&ca, &old);
    let second = parts(&new, &[&new]);
    write(&second);
    ca.process()
        .wait_for_log("the roots that are given have not the one in force");
    let chain = client.request().unwrap();
    assert_eq!(chain[1].trim(), first[0].trim());
    assert_eq!(chain[2].trim(), old.bundle().trim());

    // The root first, then what it has signed.
    let [certificate, key, _] = first;
    let both = [old.bundle(), new.bundle()].concat();
    write(&[certificate.clone(), key, both.clone()]);
    ca.process_mut().wait_for_next("other roots are trusted");
    assert_eq!(roots(&client), 2);
    assert_eq!(client.request().unwrap()[1].trim(), certificate.trim());
    let [certificate, key, _] = second;
    let client = Client::new(ca.address(), &both);
    let shown = client.join(&ca.token(ORDERS));
    write(&[certificate.clone(), key, both]);
    signs(&mut ca, &client.showing(&shown), &certificate);
}

/// A sidecar before `app` whose file has this root.
fn joined_sidecar(ca: &CaProcess, root: &TestCa, app: SocketAddr) -> Selvedge {
    let own = tempfile::tempdir().unwrap();
    fs::write(own.path().join("bundle.pem"), root.bundle()).unwrap();
    fs::write(own.path().join("token"), ca.token(ORDERS)).unwrap();
    let config = format!(
        "identity: {{ trustDomain: shop.local, ca: \"https://{}\", bundle: $DIR/bundle.pem, token: $DIR/token }}
inbound: [{{ bind: 127.0.0.1, port: 0, app: \"{app}\", mtls: strict }}]\n",
        ca.address(),
    );
    let mut sidecar = Selvedge::start_in(own, "sidecar", &config, 1);
    sidecar.wait_for("certificate obtained");
    sidecar
}

#[test]
fn another_root_signs_once_every_proxy_trusts_it() {
    // Both in one change: it signed after two seconds, whoever knew of it.
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (TestCa::named("old"), TestCa::named("new"));
    put(dir.path(), &parts(&old, &[&old]));
    let mut ca = CaProcess::start(&["--issuer", &dir.path().display().to_string()]);
    let app = Upstream::answering("ok");
    let mut sidecar = joined_sidecar(&ca, &old, app.address());
    until("acknowledgement", || {
        (ca.status()["waiting"] == 0).then_some(())
    });
    sidecar.signal("STOP");
    put(dir.path(), &parts(&new, &[&new, &old]));
    ca.process_mut().wait_for_next("other roots are trusted");
    ca.process_mut()
        .wait_for_next("another intermediate waits for proxies to trust its root proxies=1");
    sidecar.signal("CONT");
    ca.process_mut().wait_for_next("another intermediate signs");
    sidecar.wait_for_next("certificate obtained");
}

#[test]
fn a_stolen_intermediate_of_a_root_elsewhere_goes_with_its_root() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (TestCa::named("old"), TestCa::named("new"));
    let first = parts(&old, &[&old]);
    put(dir.path(), &first);
    let ca = CaProcess::start(&["--issuer", &dir.path().display().to_string()]);
    let app = Upstream::answering("ok");
    let mut sidecar = joined_sidecar(&ca, &old, app.address());
    let [certificate, key, _] = &first;
    let issuer = Issuer::from_ca_cert_pem(certificate, KeyPair::from_pem(key).unwrap()).unwrap();
    let leaf = signed(&issuer, "spiffe://shop.local/ns/shop/sa/web", |_| {});
    let thief = Leaf {
        certificate: leaf.certificate + certificate,
        key: leaf.key,
    };
    let inbound = sidecar.address("inbound-0");
    let mut live = TlsPeer::connect(inbound, Some(&thief), "http/1.1").unwrap();
    assert_eq!(live.get(), Outcome::Answered(200));

    // Both roots; then what the new one has signed; then the new one alone.
    let [second, key_of_it, _] = parts(&new, &[&new]);
    let both = [old.bundle(), new.bundle()].concat();
    put(
        dir.path(),
        &[certificate.clone(), key.clone(), both.clone()],
    );
    sidecar.wait_for_next("other roots are trusted now");
    put(dir.path(), &[second.clone(), key_of_it.clone(), both]);
    sidecar.wait_for_next("certificate obtained");
    put(dir.path(), &[second, key_of_it, new.bundle()]);
    let _ = live.rest(Duration::from_secs(30));
    let refused = TlsPeer::ask(inbound, Some(&thief));
    assert_eq!(refused, Outcome::Alert("UnknownCA".into()));
    assert_eq!(sidecar.get("health", "/ready").0, 200);
    let client = Client::new(ca.address(), &new.bundle());
    let shown = client.join(&ca.token(ORDERS));
    let honest = Leaf {
        certificate: shown.chain[..2].concat(),
        key: shown.key,
    };
    let mut honest = TlsPeer::connect(inbound, Some(&honest), "http/1.1").unwrap();
    assert_eq!(honest.get(), Outcome::Answered(200));
}
